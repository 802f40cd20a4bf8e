/* proto/inventory.c: see inventory.h. */
#include "proto/inventory.h"

#include "proto/msgpack.h"

#include <assert.h>
#include <errno.h>
#include <msgpuck.h>
#include <string.h>

/* Places whose values come last, so always of the same bytes. */
#define ARRAY_16_BYTES 3u
#define BIN_32_BYTES 5u
#define PIECE_BYTES 32u           /* what INVENTORY_PIECE takes at most */
#define SET_BYTES_MAX 16u         /* what a SET takes without its keys */
#define ENGINE_BYTES 160u         /* what an ENGINE takes at most without its spaces */
#define STATEMENTS_MAX 65535u
#define QUESTION_ITEMS 2u

/* splitmix64's end */
static uint64_t mix(uint64_t value)
{
	value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
	return value ^ (value >> 31);
}

uint64_t inventory_digest(uint64_t key, unsigned tiers)
{
	tiers &= INVENTORY_TIERS_ALL;
	return tiers != 0 ? mix(key + UINT64_C(0x9e3779b97f4a7c15) * tiers) : 0;
}

/* ---- to say ---- */

static void put_unsigned(struct inventory_writer *writer, uint64_t value)
{
	char *at = (char *)writer->bytes + writer->used;

	writer->used = (uint32_t)(mp_encode_uint(at, value) - (char *)writer->bytes);
}

static void put_array(struct inventory_writer *writer, uint32_t count)
{
	char *at = (char *)writer->bytes + writer->used;

	writer->used = (uint32_t)(mp_encode_array(at, count) - (char *)writer->bytes);
}

/* A length that is known later; its place. */
static uint32_t put_place(struct inventory_writer *writer, uint32_t bytes)
{
	uint32_t at = writer->used;

	writer->used += bytes;
	return at;
}

static void set_close(struct inventory_writer *writer)
{
	uint32_t bytes = writer->set_keys * 8;
	uint8_t *at = writer->bytes + writer->set_at;

	if (writer->set_keys == 0)
		return;
	at[0] = 0xc6; /* bin 32 */
	for (unsigned i = 0; i < 4; i++)
		at[1 + i] = (uint8_t)(bytes >> (8 * (3 - i)));
	writer->set_keys = 0;
}

void inventory_begin(struct inventory_writer *writer, const struct inventory_head *head)
{
	writer->used = writer->statements = writer->set_keys = writer->keys = writer->numbers = 0;
	put_array(writer, 5);
	put_unsigned(writer, INVENTORY_VERSION);
	put_unsigned(writer, head->boot);
	put_unsigned(writer, head->epoch);
	put_unsigned(writer, head->time_us);
	put_place(writer, ARRAY_16_BYTES);
}

/* Closes what is open; false: so many bytes, and a PIECE behind them, do not fit. */
static bool begin_statement(struct inventory_writer *writer, uint32_t bytes)
{
	set_close(writer);
	if (writer->used + bytes + PIECE_BYTES > sizeof(writer->bytes) ||
	    writer->statements + 1 >= STATEMENTS_MAX)
		return false;
	writer->statements++;
	return true;
}

bool inventory_say_space(struct inventory_writer *writer, uint32_t number,
			 const uint8_t fingerprint[INVENTORY_SPACE_BYTES])
{
	if (writer->numbers == INVENTORY_NUMBERS_MAX || !begin_statement(writer, 32))
		return false;
	writer->numbers++;
	put_array(writer, 3);
	put_unsigned(writer, INVENTORY_SPACE);
	put_unsigned(writer, number);
	char *at = (char *)writer->bytes + writer->used;
	at = mp_encode_bin(at, (const char *)fingerprint, INVENTORY_SPACE_BYTES);
	writer->used = (uint32_t)(at - (char *)writer->bytes);
	return true;
}

static bool set_open(struct inventory_writer *writer, uint32_t number, unsigned tiers)
{
	if (!begin_statement(writer, SET_BYTES_MAX + 8))
		return false;
	put_array(writer, 4);
	put_unsigned(writer, INVENTORY_SET);
	put_unsigned(writer, number);
	put_unsigned(writer, tiers);
	writer->set_at = put_place(writer, BIN_32_BYTES);
	writer->set_space = number;
	writer->set_tiers = tiers;
	return true;
}

bool inventory_say_set(struct inventory_writer *writer, uint32_t number, unsigned tiers,
		       uint64_t key)
{
	bool is_open = writer->set_keys > 0 && writer->set_space == number &&
		       writer->set_tiers == tiers;

	if (writer->keys == INVENTORY_KEYS_MAX ||
	    writer->used + 8 + PIECE_BYTES > sizeof(writer->bytes))
		return false;
	if (!is_open && !set_open(writer, number, tiers))
		return false;
	for (unsigned i = 0; i < 8; i++)
		writer->bytes[writer->used++] = (uint8_t)(key >> (8 * i));
	writer->set_keys++;
	writer->keys++;
	return true;
}

bool inventory_say_digest(struct inventory_writer *writer, uint32_t number, uint64_t entries,
			  uint64_t digest)
{
	if (!begin_statement(writer, 32))
		return false;
	put_array(writer, 4);
	put_unsigned(writer, INVENTORY_DIGEST);
	put_unsigned(writer, number);
	put_unsigned(writer, entries);
	put_unsigned(writer, digest);
	return true;
}

bool inventory_say_figure(struct inventory_writer *writer, unsigned tier,
			  enum inventory_figure figure, uint64_t value)
{
	if (!begin_statement(writer, 32))
		return false;
	put_array(writer, 4);
	put_unsigned(writer, INVENTORY_FIGURE);
	put_unsigned(writer, tier);
	put_unsigned(writer, figure);
	put_unsigned(writer, value);
	return true;
}

static void put_text(struct inventory_writer *writer, const char *text)
{
	char *at = (char *)writer->bytes + writer->used;

	at = mp_encode_str(at, text, (uint32_t)strlen(text));
	writer->used = (uint32_t)(at - (char *)writer->bytes);
}

bool inventory_say_engine(struct inventory_writer *writer, const char *tenant, const char *engine,
			  uint32_t tokens_per_block, const uint32_t *spaces, uint32_t spaces_count)
{
	assert(spaces_count <= INVENTORY_ENGINE_SPACES_MAX &&
	       strlen(tenant) <= INVENTORY_NAME_BYTES_MAX &&
	       strlen(engine) <= INVENTORY_NAME_BYTES_MAX);
	if (!begin_statement(writer, ENGINE_BYTES + 4 * spaces_count))
		return false;
	put_array(writer, 5);
	put_unsigned(writer, INVENTORY_ENGINE);
	put_text(writer, tenant);
	put_text(writer, engine);
	put_unsigned(writer, tokens_per_block);
	char *at = (char *)writer->bytes + writer->used;
	at = mp_encode_binl(at, 4 * spaces_count);
	for (uint32_t i = 0; i < spaces_count; i++)
		for (unsigned byte = 0; byte < 4; byte++)
			*at++ = (char)(uint8_t)(spaces[i] >> (8 * byte));
	writer->used = (uint32_t)(at - (char *)writer->bytes);
	return true;
}

void inventory_say_piece(struct inventory_writer *writer, uint64_t first, uint64_t next,
			 uint64_t end)
{
	set_close(writer);
	assert(writer->used + PIECE_BYTES <= sizeof(writer->bytes));
	writer->statements++;
	put_array(writer, 4);
	put_unsigned(writer, INVENTORY_PIECE);
	put_unsigned(writer, first);
	put_unsigned(writer, next);
	put_unsigned(writer, end);
}

const uint8_t *inventory_end(struct inventory_writer *writer, uint32_t *out_bytes)
{
	set_close(writer);
	/* The array of statements is where the head ends. */
	const char *at = (const char *)writer->bytes;
	(void)mp_decode_array(&at);
	for (unsigned i = 0; i < 4; i++)
		(void)mp_decode_uint(&at);
	uint8_t *place = writer->bytes + (at - (const char *)writer->bytes);
	place[0] = 0xdc; /* array 16 */
	place[1] = (uint8_t)(writer->statements >> 8);
	place[2] = (uint8_t)writer->statements;
	*out_bytes = writer->used;
	return writer->bytes;
}

uint32_t inventory_ask_write(uint8_t *out_question, uint64_t cursor)
{
	char *at = mp_encode_array((char *)out_question, QUESTION_ITEMS);

	at = mp_encode_uint(at, INVENTORY_ASK);
	at = mp_encode_uint(at, cursor);
	return (uint32_t)(at - (char *)out_question);
}

bool inventory_ask_read(const uint8_t *question, size_t bytes, uint64_t *out_cursor)
{
	struct msgpack_reader reader = msgpack_open(question, bytes);
	uint32_t count;
	uint64_t kind;

	return msgpack_array(&reader, &count) && count >= QUESTION_ITEMS &&
	       msgpack_unsigned(&reader, &kind) && kind == INVENTORY_ASK &&
	       msgpack_unsigned(&reader, out_cursor);
}

/* ---- to listen ---- */

int inventory_read(struct inventory_reader *reader, const void *payload, size_t bytes,
		   struct inventory_head *out_head, struct error *error)
{
	struct msgpack_reader all = msgpack_open(payload, bytes), items = all;
	uint32_t count;
	uint64_t version;

	if (!msgpack_skip(&all) || all.at != all.end)
		return error_set(error, -EPROTO, "%zu bytes that are not one item of msgpack",
				 bytes);
	if (!msgpack_array(&items, &count) || count < 1 || !msgpack_unsigned(&items, &version))
		return error_set(error, -EPROTO, "it does not begin with a version");
	if (version != INVENTORY_VERSION)
		return error_set(error, -ENOTSUP, "version %llu of the inventory, this is %u",
				 (unsigned long long)version, INVENTORY_VERSION);
	if (count < 5 || !msgpack_unsigned(&items, &out_head->boot) ||
	    !msgpack_unsigned(&items, &out_head->epoch) ||
	    !msgpack_unsigned(&items, &out_head->time_us) ||
	    !msgpack_array(&items, &reader->left))
		return error_set(error, -EPROTO,
				 "not [version, boot, epoch, time, [statement, ...]]");
	reader->at = items.at;
	reader->end = items.end;
	return 0;
}

static bool number_read(struct msgpack_reader *items, uint32_t *out_number)
{
	uint64_t value;

	if (!msgpack_unsigned(items, &value) || value > UINT32_MAX)
		return false;
	*out_number = (uint32_t)value;
	return true;
}

static bool tiers_read(struct msgpack_reader *items, unsigned *out_tiers)
{
	uint64_t value;

	if (!msgpack_unsigned(items, &value))
		return false;
	*out_tiers = (unsigned)(value & INVENTORY_TIERS_ALL); /* a later version may have more */
	return true;
}

/* 1 to INVENTORY_NAME_BYTES_MAX bytes without NUL. */
static bool name_read(struct msgpack_reader *items, const char **out_name, uint32_t *out_bytes)
{
	return msgpack_bytes(items, out_name, out_bytes) && *out_bytes > 0 &&
	       *out_bytes <= INVENTORY_NAME_BYTES_MAX && memchr(*out_name, 0, *out_bytes) == NULL;
}

static bool engine_read(struct msgpack_reader *items, struct inventory_statement *statement)
{
	const char *start;
	uint32_t bytes;

	if (!name_read(items, &statement->tenant, &statement->tenant_bytes) ||
	    !name_read(items, &statement->engine, &statement->engine_bytes) ||
	    !number_read(items, &statement->tokens_per_block) ||
	    !msgpack_bytes(items, &start, &bytes) || bytes % 4 != 0 ||
	    bytes / 4 > INVENTORY_ENGINE_SPACES_MAX)
		return false;
	statement->spaces = (const uint8_t *)start;
	statement->spaces_count = bytes / 4;
	return true;
}

static bool statement_read(struct msgpack_reader *items, uint32_t count,
			   struct inventory_statement *statement)
{
	static const uint8_t counts[INVENTORY_KINDS] = {
		[INVENTORY_SPACE] = 3, [INVENTORY_SET] = 4, [INVENTORY_DIGEST] = 4,
		[INVENTORY_FIGURE] = 4, [INVENTORY_PIECE] = 4,
		[INVENTORY_ENGINE] = 5,
	};
	const char *start;
	uint32_t bytes;

	if (count < counts[statement->kind])
		return false;
	switch (statement->kind) {
	case INVENTORY_SPACE:
		if (!number_read(items, &statement->number) ||
		    !msgpack_bytes(items, &start, &bytes) || bytes != INVENTORY_SPACE_BYTES)
			return false;
		statement->fingerprint = (const uint8_t *)start;
		return true;
	case INVENTORY_SET:
		if (!number_read(items, &statement->number) ||
		    !tiers_read(items, &statement->tiers) ||
		    !msgpack_bytes(items, &start, &bytes) || bytes % 8 != 0)
			return false;
		statement->keys = (const uint8_t *)start;
		statement->keys_count = bytes / 8;
		return true;
	case INVENTORY_DIGEST:
		return number_read(items, &statement->number) &&
		       msgpack_unsigned(items, &statement->values[0]) &&
		       msgpack_unsigned(items, &statement->values[1]);
	case INVENTORY_FIGURE:
		return tiers_read(items, &statement->tiers) &&
		       number_read(items, &statement->figure) &&
		       msgpack_unsigned(items, &statement->values[0]);
	case INVENTORY_ENGINE:
		return engine_read(items, statement);
	default:
		return msgpack_unsigned(items, &statement->values[0]) &&
		       msgpack_unsigned(items, &statement->values[1]) &&
		       msgpack_unsigned(items, &statement->values[2]);
	}
}

int inventory_next(struct inventory_reader *reader, struct inventory_statement *out_statement)
{
	for (; reader->left > 0; reader->left--) {
		struct msgpack_reader whole = { reader->at, reader->end }, items = whole;
		uint32_t count;
		uint64_t kind;

		if (!msgpack_skip(&whole))
			return -EPROTO;
		reader->at = whole.at;
		if (!msgpack_array(&items, &count) || count < 1 ||
		    !msgpack_unsigned(&items, &kind))
			return -EPROTO;
		if (kind == INVENTORY_ASK || kind >= INVENTORY_KINDS)
			continue;
		*out_statement = (struct inventory_statement){ .kind = (enum inventory_kind)kind };
		items.end = whole.at;
		if (!statement_read(&items, count, out_statement))
			return -EPROTO;
		reader->left--;
		return 1;
	}
	return 0;
}
