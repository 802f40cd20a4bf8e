/* proto/peer.c: checks the frames between two kvtierd, and steps through what follows them. */
#include "proto/peer.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static_assert(sizeof(struct peer_frame_header) == 24, "the header is the same for ever");
static_assert(sizeof(struct peer_query) % 8 == 0 && sizeof(struct peer_fetch) % 8 == 0 &&
		      sizeof(struct peer_item) % 8 == 0,
	      "items lie aligned");
static_assert(sizeof(struct peer_grant) + PEER_ITEMS_MAX / 8 <= PEER_FRAME_BYTES_MAX,
	      "the longest GRANT fits");
static_assert(sizeof(struct peer_fetch) + PEER_FETCH_ITEMS_MAX * sizeof(struct peer_fetch_item) <=
		      PEER_FRAME_BYTES_MAX,
	      "the longest FETCH fits");
static_assert(sizeof(struct peer_link_frame) + PEER_ADDRESS_BYTES_MAX <= PEER_FRAME_BYTES_MAX,
	      "the longest LINK fits");

/* A frame under examination: its fixed part is there. */
struct inspection {
	const void *frame;
	size_t tail_bytes;
	struct error *error;
};

static int refuse(const struct inspection *in, const char *what, uint64_t is, uint64_t limit)
{
	const struct peer_frame_header *header = in->frame;

	return error_set(in->error, -EPROTO, "%s: %s is %llu, at most %llu is right",
			 peer_frame_type_name(header->type), what, (unsigned long long)is,
			 (unsigned long long)limit);
}

static int check_tail(const struct inspection *in, uint64_t wanted)
{
	const struct peer_frame_header *header = in->frame;

	if (in->tail_bytes == wanted)
		return 0;
	return error_set(in->error, -EPROTO,
			 "%s: %zu bytes follow its fixed part, its counts say %llu",
			 peer_frame_type_name(header->type), in->tail_bytes,
			 (unsigned long long)wanted);
}

static int check_name(const struct inspection *in, const char *what, const char *name,
		      size_t bytes)
{
	const struct peer_frame_header *header = in->frame;

	if (memchr(name, 0, bytes) != NULL)
		return 0;
	return error_set(in->error, -EPROTO, "%s: %s does not end in a NUL within %zu bytes",
			 peer_frame_type_name(header->type), what, bytes);
}

static int check_zero(const struct inspection *in, uint64_t reserved)
{
	return reserved == 0 ? 0 : refuse(in, "a reserved field", reserved, 0);
}

static int check_fixed(const struct inspection *in)
{
	return check_tail(in, 0);
}

static int check_hello(const struct inspection *in)
{
	const struct peer_hello *frame = in->frame;
	int result = check_name(in, "name", frame->name, sizeof(frame->name));

	if (result == 0)
		result = check_name(in, "release", frame->release, sizeof(frame->release));
	if (result < 0)
		return result;
	if (frame->version_min > frame->version_max)
		return refuse(in, "version_min", frame->version_min, frame->version_max);
	return check_tail(in, 0);
}

/* Of any length that fits. */
static int check_text(const struct inspection *in)
{
	const struct peer_frame_header *header = in->frame;

	return header->result < 0
		       ? 0
		       : error_set(in->error, -EPROTO, "%s: without a reason: its result is %d",
				   peer_frame_type_name(header->type), header->result);
}

static int check_link(const struct inspection *in)
{
	const struct peer_link_frame *frame = in->frame;
	int result = check_name(in, "transport", frame->transport, sizeof(frame->transport));

	if (result == 0)
		result = check_zero(in, frame->reserved);
	if (result < 0)
		return result;
	if (frame->address_bytes > PEER_ADDRESS_BYTES_MAX)
		return refuse(in, "address_bytes", frame->address_bytes, PEER_ADDRESS_BYTES_MAX);
	return check_tail(in, frame->address_bytes);
}

static size_t padded(size_t bytes)
{
	return (bytes + 7) / 8 * 8;
}

static int check_query(const struct inspection *in)
{
	const struct peer_query *frame = in->frame;
	int result = check_name(in, "tenant", frame->tenant, sizeof(frame->tenant));

	if (result == 0)
		result = check_zero(in, frame->reserved);
	if (result < 0)
		return result;
	if (frame->ticket_bytes > PEER_TICKET_BYTES_MAX)
		return refuse(in, "ticket_bytes", frame->ticket_bytes, PEER_TICKET_BYTES_MAX);
	result = check_tail(in, padded(frame->ticket_bytes) +
					(uint64_t)frame->items_count * sizeof(struct peer_item));
	for (unsigned i = 0; result == 0 && i < frame->items_count; i++)
		result = check_zero(in, peer_query_items(frame)[i].reserved);
	return result;
}

static int check_grant(const struct inspection *in)
{
	const struct peer_grant *frame = in->frame;

	if (frame->header.result < 0)
		return 0;
	if (frame->items_count > PEER_ITEMS_MAX)
		return refuse(in, "items_count", frame->items_count, PEER_ITEMS_MAX);
	return check_tail(in, (frame->items_count + 7u) / 8);
}

static int check_fetch(const struct inspection *in)
{
	const struct peer_fetch *frame = in->frame;
	int result = check_zero(in, frame->reserved);

	if (result < 0)
		return result;
	if (frame->count > PEER_FETCH_ITEMS_MAX)
		return refuse(in, "count", frame->count, PEER_FETCH_ITEMS_MAX);
	result = check_tail(in, frame->count * sizeof(struct peer_fetch_item));
	for (unsigned i = 0; result == 0 && i < frame->count; i++)
		if (peer_fetch_items(frame)[i].tag == 0)
			result = error_set(in->error, -EPROTO, "FETCH: a tag is 0");
	return result;
}

static int check_block(const struct inspection *in)
{
	const struct peer_block *frame = in->frame;
	int result = check_zero(in, frame->reserved);

	if (result < 0)
		return result;
	if (frame->identity_bytes < PEER_IDENTITY_BYTES_MIN ||
	    frame->identity_bytes > PEER_IDENTITY_BYTES_MAX || frame->identity_bytes % 4 != 0)
		return error_set(in->error, -EPROTO,
				 "BLOCK: identity_bytes is %u; %u to %u, a multiple of 4, are right",
				 frame->identity_bytes, PEER_IDENTITY_BYTES_MIN,
				 PEER_IDENTITY_BYTES_MAX);
	return check_tail(in, frame->identity_bytes);
}

/* One row a type: everything that peer_frame_check() and peer_frame_type_name() know. */
static const struct shape {
	const char *name;
	size_t fixed_bytes;
	unsigned flags;
	bool has_result; /* it may be negative; else it is 0 */
	int (*check)(const struct inspection *in);
} shapes[PEER_FRAME_TYPES_END] = {
	[PEER_HELLO] = { "HELLO", sizeof(struct peer_hello), 0, false, check_hello },
	[PEER_PROOF] = { "PROOF", sizeof(struct peer_proof), 0, false, check_fixed },
	[PEER_REFUSED] = { "REFUSED", sizeof(struct peer_refused), 0, true, check_text },
	[PEER_PING] = { "PING", sizeof(struct peer_ping), 0, false, check_fixed },
	[PEER_PONG] = { "PONG", sizeof(struct peer_ping), 0, false, check_fixed },
	[PEER_LINK] = { "LINK", sizeof(struct peer_link_frame), 0, false, check_link },
	[PEER_QUERY] = { "QUERY", sizeof(struct peer_query), PEER_QUERY_LAST | PEER_QUERY_STREAM,
			 false, check_query },
	[PEER_GRANT] = { "GRANT", sizeof(struct peer_grant), PEER_GRANT_FINAL, true, check_grant },
	[PEER_FETCH] = { "FETCH", sizeof(struct peer_fetch), 0, false, check_fetch },
	[PEER_BLOCK] = { "BLOCK", sizeof(struct peer_block), 0, false, check_block },
	[PEER_FAILED] = { "FAILED", sizeof(struct peer_failed), 0, true, check_fixed },
	[PEER_RENEW] = { "RENEW", sizeof(struct peer_frame_header), 0, false, check_fixed },
	[PEER_RELEASE] = { "RELEASE", sizeof(struct peer_frame_header), 0, false, check_fixed },
	[PEER_ENDED] = { "ENDED", sizeof(struct peer_frame_header), 0, true, check_fixed },
};

const char *peer_frame_type_name(unsigned type)
{
	return type < PEER_FRAME_TYPES_END && shapes[type].name != NULL ? shapes[type].name
									: "unknown type";
}

/* Of a header whose magic is right. */
static int check_header(const struct peer_frame_header *header, struct error *error)
{
	const struct inspection in = { .frame = header, .error = error };

	if (header->type >= PEER_FRAME_TYPES_END || shapes[header->type].name == NULL)
		return error_set(error, -EPROTO, "type %u is unknown", header->type);
	const struct shape *shape = &shapes[header->type];
	if (header->bytes < shape->fixed_bytes || header->bytes > PEER_FRAME_BYTES_MAX)
		return error_set(error, -EPROTO, "%s: %u bytes; %zu to %u are right", shape->name,
				 header->bytes, shape->fixed_bytes, PEER_FRAME_BYTES_MAX);
	if ((header->flags & ~shape->flags) != 0)
		return refuse(&in, "flags", header->flags, shape->flags);
	if (header->result > 0 || header->result <= -4096 ||
	    (header->result < 0 && !shape->has_result))
		return error_set(error, -EPROTO, "%s: result is %d", shape->name, header->result);
	return 0;
}

int peer_frame_check(const void *frame, size_t bytes, struct error *error)
{
	const struct peer_frame_header *header = frame;
	int result;

	assert((uintptr_t)frame % 8 == 0);
	/* Whoever speaks another protocol is told so by its first bytes. */
	if (bytes >= sizeof(header->magic) && header->magic != PEER_FRAME_MAGIC)
		return error_set(error, -EPROTO, "magic is %08x, %08x is right", header->magic,
				 PEER_FRAME_MAGIC);
	if (bytes < sizeof(*header))
		return 0;
	result = check_header(header, error);
	if (result < 0)
		return result;
	if (bytes < header->bytes)
		return 0;
	const struct shape *shape = &shapes[header->type];
	const struct inspection in = { .frame = frame,
				       .tail_bytes = header->bytes - shape->fixed_bytes,
				       .error = error };
	result = shape->check(&in);
	return result < 0 ? result : (int)header->bytes;
}

void peer_frame_start(struct peer_frame_header *header, enum peer_frame_type type, uint32_t bytes,
		      uint64_t number)
{
	assert(bytes >= sizeof(*header) && bytes <= PEER_FRAME_BYTES_MAX);
	*header = (struct peer_frame_header){
		.magic = PEER_FRAME_MAGIC,
		.type = type,
		.bytes = bytes,
		.number = number,
	};
}

const char *peer_query_ticket(const struct peer_query *query)
{
	return (const char *)(query + 1);
}

const struct peer_item *peer_query_items(const struct peer_query *query)
{
	return (const struct peer_item *)((const uint8_t *)(query + 1) +
					  padded(query->ticket_bytes));
}

bool peer_grant_has(const struct peer_grant *grant, uint32_t item)
{
	assert(grant->header.result == 0 && item < grant->items_count);
	return (((const uint8_t *)(grant + 1))[item / 8] >> (item % 8) & 1) != 0;
}

const struct peer_fetch_item *peer_fetch_items(const struct peer_fetch *fetch)
{
	return (const struct peer_fetch_item *)(fetch + 1);
}

const char *peer_frame_text(const void *frame, size_t *out_bytes)
{
	const struct peer_frame_header *header = frame;
	size_t fixed_bytes = shapes[header->type].fixed_bytes;

	*out_bytes = header->bytes - fixed_bytes;
	return (const char *)frame + fixed_bytes;
}
