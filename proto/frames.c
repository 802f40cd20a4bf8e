/* proto/frames.c: checks frames. What may be read after that: proto/frames_read.c. */
#include "proto/frames.h"

#include "proto/frames_blocks.h"
#include "proto/frames_operate.h"
#include "proto/frames_parts.h"
#include "proto/frames_peers.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
	       "frames are little-endian, as memory has to be");
_Static_assert(sizeof(struct frame_header) == 32, "the header is the same for ever");
_Static_assert(sizeof(struct frame_group) % 8 == 0, "groups stay aligned behind each other");
_Static_assert(sizeof(struct frame_register) % 8 == 0, "groups follow aligned");
_Static_assert(sizeof(struct frame_found) + FRAME_RUNS_MAX * sizeof(struct frame_run) +
			       FRAME_LOOKUP_KEYS_MAX / 8 <=
		       FRAME_BYTES_MAX,
	       "the longest FOUND fits");
_Static_assert(sizeof(struct frame_text) + FRAME_TEXT_BYTES_MAX <= FRAME_BYTES_MAX,
	       "the longest TEXT fits");

int frame_refuse(const struct frame_inspection *in, const char *what, uint64_t is, uint64_t limit)
{
	const struct frame_header *header = in->frame;

	return error_set(in->error, -EPROTO, "%s: %s is %llu, at most %llu is right",
			 frame_type_name(header->type), what, (unsigned long long)is,
			 (unsigned long long)limit);
}

int frame_check_tail(const struct frame_inspection *in, uint64_t wanted)
{
	const struct frame_header *header = in->frame;
	uint64_t tail_bytes = in->bytes - in->fixed_bytes;

	if (tail_bytes == wanted)
		return 0;
	return error_set(in->error, -EPROTO,
			 "%s: %llu bytes follow its fixed part, its counts say %llu",
			 frame_type_name(header->type), (unsigned long long)tail_bytes,
			 (unsigned long long)wanted);
}

int frame_check_count(const struct frame_inspection *in, const char *what, uint64_t count,
		      uint64_t count_max, uint64_t item_bytes)
{
	if (count > count_max)
		return frame_refuse(in, what, count, count_max);
	return frame_check_tail(in, count * item_bytes);
}

static int check_name(const struct frame_inspection *in, const char *what, const char *name)
{
	const struct frame_header *header = in->frame;

	if (memchr(name, 0, FRAME_NAME_BYTES) != NULL)
		return 0;
	return error_set(in->error, -EPROTO, "%s: %s does not end in a NUL within %u bytes",
			 frame_type_name(header->type), what, FRAME_NAME_BYTES);
}

static int check_fixed(const struct frame_inspection *in)
{
	return frame_check_tail(in, 0);
}

static int check_hello(const struct frame_inspection *in)
{
	const struct frame_hello *frame = in->frame;

	if (frame->connection > FRAME_DATA)
		return frame_refuse(in, "connection", frame->connection, FRAME_DATA);
	if (frame->version_min > frame->version_max)
		return frame_refuse(in, "version_min", frame->version_min, frame->version_max);
	return frame_check_tail(in, 0);
}

static int check_hello_reply(const struct frame_inspection *in)
{
	const struct frame_hello_reply *frame = in->frame;
	int result = check_name(in, "tenant", frame->tenant);

	if (result < 0)
		return result;
	if (frame->keys_max > FRAME_LOOKUP_KEYS_MAX)
		return frame_refuse(in, "keys_max", frame->keys_max, FRAME_LOOKUP_KEYS_MAX);
	return frame_check_tail(in, 0);
}

static int check_group(const struct frame_inspection *in, const struct frame_group *group)
{
	if (group->kind >= FRAME_GROUP_KINDS)
		return frame_refuse(in, "a group's kind", group->kind, FRAME_GROUP_KINDS - 1);
	if (group->segments_count < 1 || group->segments_count > FRAME_SEGMENTS_MAX)
		return frame_refuse(in, "a group's segments_count", group->segments_count,
				    FRAME_SEGMENTS_MAX);
	if (group->tokens_per_block < 1 || group->payload_bytes < 1)
		return error_set(in->error, -EPROTO,
				 "REGISTER: a group without tokens_per_block or payload_bytes");
	return 0;
}

/* Fields lie behind the groups, ascending and each once, and fill `fields_bytes` exactly. */
static int check_fields(const struct frame_inspection *in, const uint8_t *fields,
			uint32_t fields_bytes, unsigned count)
{
	uint32_t position = 0;
	uint16_t previous = 0;

	for (unsigned i = 0; i < count; i++) {
		uint16_t id, bytes;

		if (fields_bytes - position < 4)
			return error_set(in->error, -EPROTO, "REGISTER: field %u is cut short", i);
		memcpy(&id, fields + position, 2);
		memcpy(&bytes, fields + position + 2, 2);
		position += 4;
		if (id <= previous || id >= FRAME_FIELD_IDS)
			return error_set(in->error, -EPROTO,
					 "REGISTER: field id %u behind %u; ids ascend, below %u",
					 id, previous, FRAME_FIELD_IDS);
		if (bytes > FRAME_FIELD_BYTES_MAX)
			return frame_refuse(in, "a field's bytes", bytes, FRAME_FIELD_BYTES_MAX);
		if (bytes > fields_bytes - position)
			return error_set(in->error, -EPROTO, "REGISTER: field %u is cut short", id);
		position += bytes;
		previous = id;
	}
	if (position != fields_bytes)
		return error_set(in->error, -EPROTO,
				 "REGISTER: fields take %u bytes, fields_bytes says %u", position,
				 fields_bytes);
	return 0;
}

static int check_register(const struct frame_inspection *in)
{
	const struct frame_register *frame = in->frame;
	int result = check_name(in, "engine", frame->engine);

	if (result < 0)
		return result;
	if (frame->groups_count < 1 || frame->groups_count > FRAME_GROUPS_MAX)
		return frame_refuse(in, "groups_count", frame->groups_count, FRAME_GROUPS_MAX);
	if (frame->fields_count > FRAME_FIELDS_MAX)
		return frame_refuse(in, "fields_count", frame->fields_count, FRAME_FIELDS_MAX);
	result = frame_check_tail(in, frame->groups_count * sizeof(struct frame_group) +
					      (uint64_t)frame->fields_bytes);
	if (result < 0)
		return result;
	if (frame->world < 1 || frame->world > 64 || frame->shard >= frame->world)
		return error_set(in->error, -EPROTO, "REGISTER: shard %u of %u; world is 1 to 64",
				 frame->shard, frame->world);
	if (frame->roles < 1 || frame->roles > (FRAME_ROLE_SCHEDULER | FRAME_ROLE_WORKER))
		return frame_refuse(in, "roles", frame->roles,
				    FRAME_ROLE_SCHEDULER | FRAME_ROLE_WORKER);
	for (unsigned i = 0; i < frame->groups_count; i++) {
		result = check_group(in, frame_register_groups(frame) + i);
		if (result < 0)
			return result;
	}
	return check_fields(in, frame_register_fields(frame), frame->fields_bytes,
			    frame->fields_count);
}

static int check_lookup(const struct frame_inspection *in)
{
	const struct frame_lookup *frame = in->frame;
	const uint8_t *tail = (const uint8_t *)in->frame + in->fixed_bytes;
	uint64_t tail_bytes = in->bytes - in->fixed_bytes;
	uint64_t position = 0, keys_count = 0;

	if (frame->sections_count > FRAME_GROUPS_MAX)
		return frame_refuse(in, "sections_count", frame->sections_count, FRAME_GROUPS_MAX);
	if (!isfinite(frame->cost_a) || !isfinite(frame->cost_b) || !isfinite(frame->cost_c))
		return error_set(in->error, -EPROTO,
				 "LOOKUP: a cost coefficient is not a finite number");
	for (uint32_t i = 0; i < frame->sections_count; i++) {
		struct frame_keys keys;

		if (tail_bytes - position < sizeof(keys))
			return error_set(in->error, -EPROTO, "LOOKUP: section %u is cut short", i);
		memcpy(&keys, tail + position, sizeof(keys));
		position += sizeof(keys);
		keys_count += keys.count;
		if (keys.group >= FRAME_GROUPS_MAX)
			return frame_refuse(in, "a section's group", keys.group,
					    FRAME_GROUPS_MAX - 1);
		if (keys_count > FRAME_KEYS_MAX)
			return frame_refuse(in, "its number of keys", keys_count, FRAME_KEYS_MAX);
		if ((uint64_t)keys.count * FRAME_HASH_BYTES > tail_bytes - position)
			return error_set(in->error, -EPROTO,
					 "LOOKUP: the keys of section %u are cut short", i);
		if (keys.first_position > UINT32_MAX - keys.count)
			return frame_refuse(in, "a section's first_position", keys.first_position,
					    UINT32_MAX - keys.count);
		position += (uint64_t)keys.count * FRAME_HASH_BYTES;
	}
	return frame_check_tail(in, position);
}

static int check_found(const struct frame_inspection *in)
{
	const struct frame_found *frame = in->frame;

	if (frame->keys_count > FRAME_LOOKUP_KEYS_MAX)
		return frame_refuse(in, "keys_count", frame->keys_count, FRAME_LOOKUP_KEYS_MAX);
	if (frame->runs_count > FRAME_RUNS_MAX)
		return frame_refuse(in, "runs_count", frame->runs_count, FRAME_RUNS_MAX);
	if (frame->worth_tokens > frame->usable_tokens)
		return frame_refuse(in, "worth_tokens", frame->worth_tokens, frame->usable_tokens);
	return frame_check_tail(in, frame->runs_count * sizeof(struct frame_run) +
					    (frame->keys_count + 7u) / 8);
}

int frame_check_group(const struct frame_inspection *in, unsigned group)
{
	return group < FRAME_GROUPS_MAX ? 0
					: frame_refuse(in, "group", group, FRAME_GROUPS_MAX - 1);
}

/* HINT, EXPLAIN and OPERATE: a group and hashes. */
static int check_hashes(const struct frame_inspection *in, unsigned group, unsigned count)
{
	int result = frame_check_group(in, group);

	return result < 0 ? result
			  : frame_check_count(in, "count", count, FRAME_KEYS_MAX, FRAME_HASH_BYTES);
}

static int check_hint(const struct frame_inspection *in)
{
	const struct frame_hint *frame = in->frame;

	if (frame->kind >= FRAME_HINTS)
		return frame_refuse(in, "kind", frame->kind, FRAME_HINTS - 1);
	return check_hashes(in, frame->group, frame->count);
}

static int check_hint_reply(const struct frame_inspection *in)
{
	const struct frame_hint_reply *frame = in->frame;

	if (frame->outcome > FRAME_HINT_REJECTED)
		return frame_refuse(in, "outcome", frame->outcome, FRAME_HINT_REJECTED);
	return frame_check_tail(in, 0);
}

static int check_explain(const struct frame_inspection *in)
{
	const struct frame_explain *frame = in->frame;

	return check_hashes(in, frame->group, frame->count);
}

static int check_explained(const struct frame_inspection *in)
{
	const struct frame_explained *frame = in->frame;
	const struct frame_explained_item *items = (const struct frame_explained_item *)(frame + 1);
	int result = frame_check_count(in, "count", frame->count, FRAME_KEYS_MAX, sizeof(*items));

	for (uint32_t i = 0; result == 0 && i < frame->count; i++)
		if (items[i].reason >= FRAME_REASONS)
			result = frame_refuse(in, "a reason", items[i].reason, FRAME_REASONS - 1);
	return result;
}

static int check_bypass(const struct frame_inspection *in)
{
	const struct frame_bypass *frame = in->frame;
	int result = check_name(in, "tenant", frame->tenant);

	if (result < 0)
		return result;
	if (frame->mode >= FRAME_BYPASS_MODES)
		return frame_refuse(in, "mode", frame->mode, FRAME_BYPASS_MODES - 1);
	return frame_check_tail(in, 0);
}

static int check_operate(const struct frame_inspection *in)
{
	const struct frame_operate *frame = in->frame;
	int result = frame_operate_check(frame, in->error);

	return result < 0 ? result : check_hashes(in, frame->group, frame->count);
}

static int check_text(const struct frame_inspection *in)
{
	uint64_t text_bytes = in->bytes - in->fixed_bytes;

	return text_bytes <= FRAME_TEXT_BYTES_MAX
		       ? 0
		       : frame_refuse(in, "its text", text_bytes, FRAME_TEXT_BYTES_MAX);
}

/* One row a type: everything that frame_check() and frame_type_name() know. */
static const struct shape {
	const char *name;
	size_t fixed_bytes;
	int (*check)(const struct frame_inspection *in);
} shapes[FRAME_TYPES_END] = {
	[FRAME_HELLO] = { "HELLO", sizeof(struct frame_hello), check_hello },
	[FRAME_REGISTER] = { "REGISTER", sizeof(struct frame_register), check_register },
	[FRAME_ATTACH] = { "ATTACH", sizeof(struct frame_attach), check_fixed },
	[FRAME_CANARY] = { "CANARY", sizeof(struct frame_canary), check_fixed },
	[FRAME_SPACE] = { "SPACE", sizeof(struct frame_space), check_fixed },
	[FRAME_LOOKUP] = { "LOOKUP", sizeof(struct frame_lookup), check_lookup },
	[FRAME_LEASE_RELEASE] = { "LEASE_RELEASE", sizeof(struct frame_lease_release),
				  check_fixed },
	[FRAME_STORE] = { "STORE", sizeof(struct frame_store), frame_check_store },
	[FRAME_COMMIT] = { "COMMIT", sizeof(struct frame_commit), frame_check_commit },
	[FRAME_LOAD] = { "LOAD", sizeof(struct frame_load), frame_check_load },
	[FRAME_RELEASE] = { "RELEASE", sizeof(struct frame_release), frame_check_release },
	[FRAME_CANCEL] = { "CANCEL", sizeof(struct frame_cancel), check_fixed },
	[FRAME_HINT] = { "HINT", sizeof(struct frame_hint), check_hint },
	[FRAME_FORGET] = { "FORGET", sizeof(struct frame_forget), check_fixed },
	[FRAME_STATS] = { "STATS", sizeof(struct frame_header), check_fixed },
	[FRAME_EXPLAIN] = { "EXPLAIN", sizeof(struct frame_explain), check_explain },
	[FRAME_BYPASS] = { "BYPASS", sizeof(struct frame_bypass), check_bypass },
	[FRAME_OPERATE] = { "OPERATE", sizeof(struct frame_operate), check_operate },
	[FRAME_LEND] = { "LEND", sizeof(struct frame_lend), frame_check_lend },
	[FRAME_FETCH] = { "FETCH", sizeof(struct frame_fetch), frame_check_fetch },
	[FRAME_FETCH_WAIT] = { "FETCH_WAIT", sizeof(struct frame_fetch_wait), check_fixed },
	[FRAME_FETCH_END] = { "FETCH_END", sizeof(struct frame_fetch_end), check_fixed },
	[FRAME_TICKET] = { "TICKET", sizeof(struct frame_ticket), check_fixed },
	[FRAME_HELLO_REPLY] = { "HELLO_REPLY", sizeof(struct frame_hello_reply),
				check_hello_reply },
	[FRAME_REGISTERED] = { "REGISTERED", sizeof(struct frame_registered), check_fixed },
	[FRAME_ATTACHED] = { "ATTACHED", sizeof(struct frame_attached), check_fixed },
	[FRAME_DONE] = { "DONE", sizeof(struct frame_header), check_fixed },
	[FRAME_SPACE_REPLY] = { "SPACE_REPLY", sizeof(struct frame_space_reply), check_fixed },
	[FRAME_FOUND] = { "FOUND", sizeof(struct frame_found), check_found },
	[FRAME_STORE_REPLY] = { "STORE_REPLY", sizeof(struct frame_store_reply),
				frame_check_store_reply },
	[FRAME_COMMITTED] = { "COMMITTED", sizeof(struct frame_committed), frame_check_committed },
	[FRAME_LOADED] = { "LOADED", sizeof(struct frame_loaded), frame_check_loaded },
	[FRAME_HINT_REPLY] = { "HINT_REPLY", sizeof(struct frame_hint_reply), check_hint_reply },
	[FRAME_TEXT] = { "TEXT", sizeof(struct frame_text), check_text },
	[FRAME_EXPLAINED] = { "EXPLAINED", sizeof(struct frame_explained), check_explained },
	[FRAME_ERROR] = { "ERROR", sizeof(struct frame_text), check_text },
	[FRAME_LENT] = { "LENT", sizeof(struct frame_lent), check_fixed },
	[FRAME_COPIED] = { "COPIED", sizeof(struct frame_copied), frame_check_copied },
	[FRAME_FETCHING] = { "FETCHING", sizeof(struct frame_fetching), check_fixed },
	[FRAME_TICKETED] = { "TICKETED", sizeof(struct frame_ticketed), frame_check_ticketed },
};

const char *frame_type_name(unsigned type)
{
	return type < FRAME_TYPES_END && shapes[type].name != NULL ? shapes[type].name
								   : "unknown type";
}

/* That a frame of this type may have. */
static unsigned flags_of(unsigned type)
{
	switch (type) {
	case FRAME_LOOKUP:
		return FRAME_LAST | FRAME_REMOTE;
	case FRAME_STORE:
	case FRAME_LOAD:
		return FRAME_PULL;
	default:
		return 0;
	}
}

int frame_check(const void *frame, size_t bytes, bool from_daemon, struct error *error)
{
	const struct frame_header *header = frame;
	struct frame_inspection in = { .frame = frame, .bytes = bytes, .error = error };

	assert((uintptr_t)frame % 8 == 0);
	if (bytes < sizeof(*header) || bytes > FRAME_BYTES_MAX)
		return error_set(error, -EPROTO, "a frame of %zu bytes; %zu to %u are right", bytes,
				 sizeof(*header), FRAME_BYTES_MAX);
	if (header->magic != FRAME_MAGIC)
		return error_set(error, -EPROTO, "magic is %08x, %08x is right", header->magic,
				 FRAME_MAGIC);
	if (header->bytes != bytes)
		return error_set(error, -EPROTO, "the header says %u bytes, %zu came",
				 header->bytes, bytes);
	if (header->type >= FRAME_TYPES_END || shapes[header->type].name == NULL ||
	    (header->type >= FRAME_HELLO_REPLY) != from_daemon)
		return error_set(error, -EPROTO, "type %u is not one of %s", header->type,
				 from_daemon ? "the replies and events" : "the requests");
	in.fixed_bytes = shapes[header->type].fixed_bytes;
	if (bytes < in.fixed_bytes)
		return error_set(error, -EPROTO, "%s: %zu bytes; its fixed part has %zu",
				 frame_type_name(header->type), bytes, in.fixed_bytes);
	if ((header->flags & ~flags_of(header->type)) != 0)
		return frame_refuse(&in, "flags", header->flags, flags_of(header->type));
	return shapes[header->type].check(&in);
}
