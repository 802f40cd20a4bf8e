/* daemon/inventory_server.c: see inventory_server.h. */
#include "daemon/inventory_server.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SPACES_START 64u

struct server_space {
	uint8_t fingerprint[INVENTORY_SPACE_BYTES];
	bool is_told;
	uint64_t message, piece;    /* the last ones that say what it means */
};

struct asker {
	uint8_t name[INVENTORY_ASKER_BYTES_MAX];
	uint32_t name_bytes;
	uint32_t pieces;            /* that it gets for its question; 0: nobody */
	uint64_t cursor;
};

/* Of payloads that went out, in the order of their numbers. */
struct kept {
	uint64_t at;                /* of all bytes that were ever kept */
	uint32_t bytes;
};

struct inventory_server {
	struct inventory_wire wire;
	struct inventory_head head;
	bool has_epoch;
	uint64_t sequence;          /* of the next message */
	struct inventory_writer events, piece;
	bool is_piece_open;
	/* The engine that is being told. */
	char names[2][INVENTORY_NAME_BYTES_MAX + 1];
	uint32_t links[INVENTORY_ENGINE_SPACES_MAX];
	uint32_t links_count;
	struct server_space *spaces;
	uint32_t spaces_count;
	struct asker askers[INVENTORY_ASKERS_MAX];
	uint32_t turn;              /* who gets the next piece */
	bool is_wanted;             /* a piece is on its way, for askers[turn] */
	struct kept kept[INVENTORY_KEPT_MAX];   /* by number, modulo */
	uint64_t kept_first;
	uint64_t kept_at;           /* bytes that were ever kept */
	uint8_t *kept_bytes;        /* INVENTORY_KEPT_BYTES; a payload may go over its end */
	struct inventory_server_figures figures;
};

int inventory_server_create(struct inventory_server **out_server, uint64_t boot,
			    const struct inventory_wire *wire, struct error *error)
{
	struct inventory_server *server = calloc(1, sizeof(*server));
	uint8_t *kept_bytes = malloc(INVENTORY_KEPT_BYTES);
	struct server_space *spaces = calloc(SPACES_START, sizeof(*spaces));

	if (server == NULL || kept_bytes == NULL || spaces == NULL) {
		free(server);
		free(kept_bytes);
		free(spaces);
		return error_set(error, -ENOMEM, "no memory for the inventory (%u bytes)%s",
				 INVENTORY_KEPT_BYTES, error_advice(-ENOMEM));
	}
	server->wire = *wire;
	server->head.boot = boot;
	server->kept_bytes = kept_bytes;
	server->spaces = spaces;
	server->spaces_count = SPACES_START;
	*out_server = server;
	return 0;
}

void inventory_server_destroy(struct inventory_server *server)
{
	if (server == NULL)
		return;
	free(server->kept_bytes);
	free(server->spaces);
	free(server);
}

/* ---- what went out ---- */

static void kept_put(struct inventory_server *server, const uint8_t *payload, uint32_t bytes)
{
	uint32_t at = (uint32_t)(server->kept_at % INVENTORY_KEPT_BYTES);
	uint32_t first = bytes < INVENTORY_KEPT_BYTES - at ? bytes : INVENTORY_KEPT_BYTES - at;

	memcpy(server->kept_bytes + at, payload, first);
	memcpy(server->kept_bytes, payload + first, bytes - first);
	server->kept[server->sequence % INVENTORY_KEPT_MAX] =
		(struct kept){ server->kept_at, bytes };
	server->kept_at += bytes;
	/* Those whose bytes were written over, and those whose place was. */
	while (server->sequence - server->kept_first >= INVENTORY_KEPT_MAX ||
	       server->kept_at - server->kept[server->kept_first % INVENTORY_KEPT_MAX].at >
		       INVENTORY_KEPT_BYTES)
		server->kept_first++;
}

static const uint8_t *kept_get(struct inventory_server *server, uint64_t sequence,
			       uint8_t out_room[INVENTORY_PAYLOAD_BYTES_MAX])
{
	const struct kept *kept = &server->kept[sequence % INVENTORY_KEPT_MAX];
	uint32_t at = (uint32_t)(kept->at % INVENTORY_KEPT_BYTES);
	uint32_t first = INVENTORY_KEPT_BYTES - at;

	if (kept->bytes <= first)
		return server->kept_bytes + at;
	memcpy(out_room, server->kept_bytes + at, first);
	memcpy(out_room + first, server->kept_bytes, kept->bytes - first);
	return out_room;
}

static void events_begin(struct inventory_server *server)
{
	inventory_begin(&server->events, &server->head);
}

static void events_publish(struct inventory_server *server)
{
	uint32_t bytes;
	const uint8_t *payload = inventory_end(&server->events, &bytes);

	kept_put(server, payload, bytes);
	server->wire.publish(server->wire.room, server->sequence, payload, bytes);
	server->sequence++;
	server->figures.messages++;
	server->figures.keys += server->events.keys;
	events_begin(server);
}

void inventory_server_flush(struct inventory_server *server)
{
	if (server->has_epoch && server->events.statements > 0)
		events_publish(server);
}

/* ---- what is told ---- */

static int space_told(struct inventory_server *server, const struct inventory_message *message,
		      struct error *error)
{
	if (message->number >= server->spaces_count) {
		uint32_t count = server->spaces_count;

		while (count <= message->number)
			count *= 2;
		struct server_space *spaces = realloc(server->spaces, count * sizeof(*spaces));
		if (spaces == NULL)
			return error_set(error, -ENOMEM, "no memory for %u spaces", count);
		memset(spaces + server->spaces_count, 0,
		       (count - server->spaces_count) * sizeof(*spaces));
		server->spaces = spaces;
		server->spaces_count = count;
	}
	struct server_space *space = &server->spaces[message->number];
	memcpy(space->fingerprint, message->fingerprint, sizeof(space->fingerprint));
	space->is_told = true;
	space->message = space->piece = 0;
	return 0;
}

static bool space_is_told(const struct inventory_server *server, uint32_t number)
{
	return number < server->spaces_count && server->spaces[number].is_told;
}

static void engine_clear(struct inventory_server *server)
{
	memset(server->names, 0, sizeof(server->names));
	server->links_count = 0;
}

/* What was said before is not relied on any more; the first message of an epoch says so. */
static void epoch_begin(struct inventory_server *server, uint64_t epoch)
{
	server->has_epoch = true;
	server->head.epoch = epoch;
	server->sequence = server->kept_first = server->kept_at = 0;
	server->is_piece_open = server->is_wanted = false;
	engine_clear(server);
	for (uint32_t i = 0; i < server->spaces_count; i++)
		server->spaces[i] = (struct server_space){ .is_told = false };
	memset(server->askers, 0, sizeof(server->askers));
	events_begin(server);
	events_publish(server);
}

/* In each message anew, so that nobody has to have heard another to understand it. */
static bool event_space_say(struct inventory_server *server, uint32_t number)
{
	struct server_space *space = &server->spaces[number];
	uint64_t message = server->figures.messages + 1;

	if (space->message != message &&
	    !inventory_say_space(&server->events, number, space->fingerprint))
		return false;
	space->message = message;
	return true;
}

/* One statement among the events. */
static bool event_say(struct inventory_server *server, const struct inventory_message *message)
{
	struct inventory_writer *events = &server->events;

	if (message->verb == TELL_FIGURE)
		return inventory_say_figure(events, message->tiers,
					    (enum inventory_figure)message->number, message->key);
	if (!event_space_say(server, message->number))
		return false;
	return message->verb == TELL_CHANGE
		       ? inventory_say_set(events, message->number, message->tiers, message->key)
		       : inventory_say_digest(events, message->number, message->key,
					      message->value);
}

static void event_told(struct inventory_server *server, const struct inventory_message *message)
{
	if (event_say(server, message))
		return;
	events_publish(server);
	bool has_room = event_say(server, message);
	assert(has_room);
}

static bool engine_say(struct inventory_server *server, uint64_t tokens_per_block)
{
	for (uint32_t i = 0; i < server->links_count; i++)
		if (!event_space_say(server, server->links[i]))
			return false;
	return inventory_say_engine(&server->events, server->names[0], server->names[1],
				    (uint32_t)tokens_per_block, server->links,
				    server->links_count);
}

static int engine_told(struct inventory_server *server, const struct inventory_message *message,
		       struct error *error)
{
	char *names = server->names[0];

	if (message->verb == TELL_NAMES) {
		if (message->key % 16 != 0 || message->key >= sizeof(server->names))
			return error_set(error, -EPROTO, "a part of a name at %llu",
					 (unsigned long long)message->key);
		memcpy(names + message->key, message->fingerprint, 16);
		names[sizeof(server->names[0]) - 1] = names[sizeof(server->names) - 1] = '\0';
		return 0;
	}
	if (server->names[0][0] == '\0' || server->names[1][0] == '\0' ||
	    message->key > UINT32_MAX)
		return error_set(error, -EPROTO, "an engine without a name");
	if (!engine_say(server, message->key)) {
		events_publish(server);
		bool has_room = engine_say(server, message->key);
		assert(has_room);
	}
	engine_clear(server);
	return 0;
}

static int link_told(struct inventory_server *server, uint32_t number, struct error *error)
{
	if (server->links_count == INVENTORY_ENGINE_SPACES_MAX)
		return error_set(error, -EPROTO, "an engine of more than %u spaces",
				 INVENTORY_ENGINE_SPACES_MAX);
	server->links[server->links_count++] = number;
	return 0;
}

static int entry_told(struct inventory_server *server, const struct inventory_message *message,
		      struct error *error)
{
	struct server_space *space = &server->spaces[message->number];

	if (!server->is_wanted)
		return error_set(error, -EPROTO, "an entry of a piece that nobody wants");
	if (!server->is_piece_open) {
		inventory_begin(&server->piece, &server->head);
		server->is_piece_open = true;
		server->figures.pieces++;
	}
	bool fits = space->piece == server->figures.pieces ||
		    inventory_say_space(&server->piece, message->number, space->fingerprint);
	space->piece = server->figures.pieces;
	if (!fits || !inventory_say_set(&server->piece, message->number, message->tiers,
					message->key))
		return error_set(error, -EPROTO, "a piece of more than %u entries",
				 INVENTORY_PIECE_LOOKS);
	return 0;
}

static int piece_told(struct inventory_server *server, const struct inventory_message *message,
		      struct error *error)
{
	struct asker *asker = &server->askers[server->turn];
	uint32_t bytes;

	if (!server->is_wanted)
		return error_set(error, -EPROTO, "a piece that nobody wants");
	if (!server->is_piece_open) {
		inventory_begin(&server->piece, &server->head);
		server->figures.pieces++;
	}
	server->is_piece_open = server->is_wanted = false;
	/* What was told before it goes before it: so its number is that of the last one. */
	inventory_server_flush(server);
	inventory_say_piece(&server->piece, asker->cursor, message->key, message->value);
	const uint8_t *payload = inventory_end(&server->piece, &bytes);
	server->wire.answer(server->wire.room, asker->name, asker->name_bytes,
			    server->sequence - 1, payload, bytes);
	asker->cursor = message->key;
	asker->pieces = message->key == message->value ? 0 : asker->pieces - 1;
	return 0;
}

int inventory_server_told(struct inventory_server *server,
			  const struct inventory_message *message, uint64_t now_us,
			  struct error *error)
{
	server->head.time_us = now_us;
	if (message->verb == TELL_EPOCH) {
		epoch_begin(server, message->key);
		return 0;
	}
	if (!server->has_epoch || message->verb >= TELL_WANT)
		return error_set(error, -EPROTO, "message %u before an epoch, or of no kind",
				 message->verb);
	if (message->verb == TELL_PIECE)
		return piece_told(server, message, error);
	if (message->verb == TELL_NAMES || message->verb == TELL_ENGINE)
		return engine_told(server, message, error);
	if (message->verb == TELL_FIGURE) {
		event_told(server, message);
		return 0;
	}
	if (message->number >= INVENTORY_SPACES_END ||
	    (message->verb != TELL_SPACE && !space_is_told(server, message->number)))
		return error_set(error, -EPROTO, "space %u, which was not told", message->number);
	if (message->verb == TELL_ENTRY)
		return entry_told(server, message, error);
	if (message->verb == TELL_SPACE)
		return space_told(server, message, error);
	if (message->verb == TELL_LINK)
		return link_told(server, message->number, error);
	event_told(server, message);
	return 0;
}

/* ---- what is asked ---- */

static void replay(struct inventory_server *server, const void *asker, uint32_t asker_bytes,
		   uint64_t first)
{
	uint8_t room[INVENTORY_PAYLOAD_BYTES_MAX];

	server->figures.replays++;
	inventory_server_flush(server);
	for (uint64_t n = first; n >= server->kept_first && n < server->sequence &&
				 n - first < INVENTORY_REPLAY_MAX;
	     n++)
		server->wire.answer(server->wire.room, asker, asker_bytes, n,
				    kept_get(server, n, room),
				    server->kept[n % INVENTORY_KEPT_MAX].bytes);
	server->wire.answer(server->wire.room, asker, asker_bytes, INVENTORY_SEQUENCE_END, "", 0);
}

/* Its place: what it asked before is not wanted any more. NULL: all are taken. */
static struct asker *asker_place(struct inventory_server *server, const void *name, uint32_t bytes)
{
	struct asker *free_one = NULL;

	for (uint32_t i = 0; i < INVENTORY_ASKERS_MAX; i++) {
		struct asker *asker = &server->askers[i];

		bool is_served = server->is_wanted && i == server->turn;

		if (asker->pieces > 0 && asker->name_bytes == bytes &&
		    memcmp(asker->name, name, bytes) == 0)
			return is_served ? NULL : asker;
		if (asker->pieces == 0 && free_one == NULL && !is_served)
			free_one = asker;
	}
	return free_one;
}

void inventory_server_asked(struct inventory_server *server, const void *asker,
			    uint32_t asker_bytes, const void *question, size_t bytes)
{
	uint64_t cursor, first = 0;

	if (!server->has_epoch || asker_bytes > INVENTORY_ASKER_BYTES_MAX) {
		server->figures.refused++;
		return;
	}
	/* No question of ours is as long as a number of vLLM's. */
	if (bytes == INVENTORY_SEQUENCE_BYTES) {
		for (unsigned i = 0; i < INVENTORY_SEQUENCE_BYTES; i++)
			first = first << 8 | ((const uint8_t *)question)[i];
		replay(server, asker, asker_bytes, first);
		return;
	}
	struct asker *place = asker_place(server, asker, asker_bytes);
	if (place == NULL || !inventory_ask_read(question, bytes, &cursor)) {
		server->figures.refused++;
		return;
	}
	memcpy(place->name, asker, asker_bytes);
	place->name_bytes = asker_bytes;
	place->pieces = INVENTORY_PIECES_MAX;
	place->cursor = cursor;
}

void inventory_server_step(struct inventory_server *server)
{
	if (!server->has_epoch || server->is_wanted)
		return;
	for (uint32_t i = 1; i <= INVENTORY_ASKERS_MAX; i++) {
		uint32_t turn = (server->turn + i) % INVENTORY_ASKERS_MAX;
		const struct asker *asker = &server->askers[turn];
		struct inventory_message message = { .verb = TELL_WANT, .key = asker->cursor,
						     .value = server->head.epoch };

		if (asker->pieces == 0)
			continue;
		if (server->wire.want(server->wire.room, &message)) {
			server->turn = turn;
			server->is_wanted = true;
		}
		return;
	}
}

void inventory_server_look(const struct inventory_server *server,
			   struct inventory_server_figures *out_figures)
{
	*out_figures = server->figures;
}
