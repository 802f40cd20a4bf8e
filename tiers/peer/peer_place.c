/* tiers/peer/peer_place.c: chunks that come: into which place, whether they may, under which
 * seal. */
#include "tiers/peer/peer_parts.h"

#include "base/failpoint.h"

#include <errno.h>
#include <string.h>

/* ---- places by tag ---- */

static uint32_t *bucket_of(struct peer_server *server, const struct connection *connection,
			   uint64_t tag)
{
	uint64_t mixed = (tag ^ (uint64_t)(connection - server->connections) << 48) *
			 UINT64_C(0x9e3779b97f4a7c15);

	return &server->buckets[(mixed >> 40) % PEER_TRANSFERS_MAX];
}

static struct transfer *place_find(struct connection *connection, uint64_t tag)
{
	struct peer_server *server = connection->server;
	uint32_t number = *bucket_of(server, connection, tag);

	while (number != NO_TRANSFER) {
		struct transfer *place = &server->transfers[number];

		if (place->connection == connection && place->tag == tag)
			return place;
		number = place->next_of_tag;
	}
	return NULL;
}

bool place_begin(struct peer_server *server, struct transfer *place)
{
	uint32_t *bucket = bucket_of(server, place->connection, place->tag);

	if (place_find(place->connection, place->tag) != NULL)
		return false;
	place->next_of_tag = *bucket;
	*bucket = (uint32_t)(place - server->transfers);
	return true;
}

void place_forget(struct peer_server *server, struct transfer *place)
{
	uint32_t *at = bucket_of(server, place->connection, place->tag);

	while (*at != (uint32_t)(place - server->transfers)) {
		assert(*at != NO_TRANSFER);
		at = &server->transfers[*at].next_of_tag;
	}
	*at = place->next_of_tag;
}

/* ---- what a chunk says ---- */

/* A sequence that came before, or may have. Notes it. */
static bool is_replayed(struct connection *connection, uint64_t sequence)
{
	uint64_t *word = &connection->came[sequence % REPLAYS_BITS / 64];
	uint64_t bit = UINT64_C(1) << sequence % 64;

	if (sequence == 0 || sequence + REPLAYS_BITS <= connection->newest)
		return true;
	if (sequence <= connection->newest) {
		if (*word & bit)
			return true;
		*word |= bit;
		return false;
	}
	if (sequence - connection->newest >= REPLAYS_BITS)
		memset(connection->came, 0, sizeof(connection->came));
	else
		for (uint64_t n = connection->newest + 1; n < sequence; n++)
			connection->came[n % REPLAYS_BITS / 64] &= ~(UINT64_C(1) << n % 64);
	*word |= bit;
	connection->newest = sequence;
	return false;
}

/* NULL, or the lie. */
static const char *lie_of(const struct transfer *place, const struct chunk_head *head,
			  uint32_t bytes)
{
	uint64_t left = place->bytes - head->offset;

	if (head->total != place->bytes)
		return "sent data of another size than was asked for";
	if (head->offset % CHUNK_BYTES != 0 || head->offset >= place->bytes)
		return "sent data beside its place";
	if (head->bytes != bytes || bytes != (left < CHUNK_BYTES ? left : CHUNK_BYTES))
		return "sent a chunk of a wrong size";
	if (place->seen[head->offset / CHUNK_BYTES / 64] >> head->offset / CHUNK_BYTES % 64 & 1)
		return "sent data twice";
	return NULL;
}

void *place_arriving(struct connection *connection, const struct chunk_head *head, uint32_t bytes)
{
	struct transfer *place;
	const char *lie;

	if (connection->state == CONNECTION_ENDING)
		return NULL;
	if (connection->server->config.is_encrypted && is_replayed(connection, head->sequence)) {
		connection_end(connection, -EPROTO, "sent a chunk again that had come before");
		return NULL;
	}
	place = place_find(connection, head->tag);
	/* It ended while this was on its way. */
	if (place == NULL || place->state != TRANSFER_MOVING)
		return NULL;
	lie = lie_of(place, head, bytes);
	if (lie != NULL) {
		connection_end(connection, -EPROTO, lie);
		return NULL;
	}
	place->seen[head->offset / CHUNK_BYTES / 64] |= UINT64_C(1)
							<< head->offset / CHUNK_BYTES % 64;
	place->under_way++;
	return place->memory + head->offset;
}

/* In place: until then nobody reads it. */
static bool chunk_open(struct connection *connection, const struct chunk_head *head, void *memory)
{
	uint8_t iv[CRYPTO_IV_BYTES] = { 0 };

	memcpy(iv + CRYPTO_IV_BYTES - sizeof(head->sequence), &head->sequence,
	       sizeof(head->sequence));
	cipher_begin(connection->opens, false, iv,
		     (struct crypto_bytes){ head, SEALED_HEAD_BYTES });
	cipher_move(connection->opens, memory, memory, head->bytes);
	return cipher_end_open(connection->opens, head->seal);
}

void place_arrived(struct connection *connection, const struct chunk_head *head, void *memory,
		   int result)
{
	struct peer_server *server = connection->server;
	struct transfer *place;

	if (memory == NULL)
		return;
	place = place_find(connection, head->tag);
	assert(place != NULL && place->under_way > 0 &&
	       memory == place->memory + head->offset);
	if (result == 0 && server->config.is_encrypted && place->state == TRANSFER_MOVING &&
	    !chunk_open(connection, head, memory))
		result = -EBADMSG;
	if (result == 0 && failpoint(peer_arrived))
		result = -EIO;
	place->under_way--;
	if (result == 0) {
		place->moved += head->bytes;
		connection->line.placed_bytes += head->bytes;
	}
	if (place->state == TRANSFER_ENDING) {
		if (place->under_way == 0)
			transfer_end(server, place, place->result);
		return;
	}
	if (place->moved == place->bytes)
		transfer_end(server, place, 0);
	else if (result < 0)
		transfer_stop(server, place, result);
	if (result == -EBADMSG)
		connection_end(connection, result, "sent data that its seal does not fit");
}
