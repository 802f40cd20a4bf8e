/* tests/proto/test_inventory.c: what is said is understood, whatever is not is refused, and nothing
 * outside a message is read. */
#include "base/random.h"
#include "proto/inventory.h"
#include "proto/msgpack.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct inventory_writer writer;
static uint64_t seen;

static const struct inventory_head head = { .boot = UINT64_MAX, .epoch = 3, .time_us = 70000 };
static const uint8_t fingerprint[INVENTORY_SPACE_BYTES] = { 1, 2, 3 };

/* All that a reader would read, of a copy in memory of exactly its size. */
static int read_all(const void *payload, size_t bytes)
{
	uint8_t *tight = malloc(bytes > 0 ? bytes : 1);
	struct inventory_statement statement;
	struct inventory_reader reader;
	struct inventory_head found;
	struct error error = { .code = 0 };
	int result;

	memcpy(tight, payload, bytes);
	result = inventory_read(&reader, tight, bytes, &found, &error);
	if (result < 0)
		assert_true(error.text[0] != '\0');
	while (result >= 0 && (result = inventory_next(&reader, &statement)) == 1) {
		if (statement.kind == INVENTORY_SPACE)
			for (unsigned i = 0; i < INVENTORY_SPACE_BYTES; i++)
				seen += statement.fingerprint[i];
		for (uint32_t i = 0; i < statement.keys_count; i++)
			seen += inventory_key(&statement, i);
		for (uint32_t i = 0; i < statement.spaces_count; i++)
			seen += inventory_space(&statement, i);
		for (uint32_t i = 0; i < statement.engine_bytes; i++)
			seen += (uint8_t)statement.engine[i];
	}
	free(tight);
	return result;
}

static void assert_written_is_good(void)
{
	uint32_t bytes;
	const uint8_t *payload = inventory_end(&writer, &bytes);

	assert_true(bytes <= INVENTORY_PAYLOAD_BYTES_MAX);
	assert_int_equal(read_all(payload, bytes), 0);
}

/* One of each kind. */
static const uint8_t *sample(uint32_t *out_bytes)
{
	inventory_begin(&writer, &head);
	assert_true(inventory_say_space(&writer, 300, fingerprint));
	for (uint64_t key = 1; key <= 5; key++)
		assert_true(inventory_say_set(&writer, 300, INVENTORY_CPU, key << 40));
	assert_true(inventory_say_set(&writer, 300, 0, 6));
	assert_true(inventory_say_digest(&writer, 300, 5, UINT64_MAX - 1));
	assert_true(inventory_say_figure(&writer, INVENTORY_NVME, INVENTORY_BYTES_SECOND, 7));
	assert_true(inventory_say_engine(&writer, "default", "vllm-0", 16,
					 (const uint32_t[]){ 300, 1 << 19 }, 2));
	inventory_say_piece(&writer, 0, 1024, 1 << 20);
	return inventory_end(&writer, out_bytes);
}

static void what_is_said_is_understood(void **unused)
{
	struct inventory_statement statement;
	struct inventory_reader reader;
	struct inventory_head found;
	struct error error;
	uint32_t bytes;
	const uint8_t *payload = sample(&bytes);

	(void)unused;
	assert_int_equal(inventory_read(&reader, payload, bytes, &found, &error), 0);
	assert_memory_equal(&found, &head, sizeof(head));
	assert_int_equal(inventory_next(&reader, &statement), 1);
	assert_int_equal(statement.kind, INVENTORY_SPACE);
	assert_int_equal(statement.number, 300);
	assert_memory_equal(statement.fingerprint, fingerprint, sizeof(fingerprint));
	assert_int_equal(inventory_next(&reader, &statement), 1);
	assert_int_equal(statement.kind, INVENTORY_SET);
	assert_int_equal(statement.tiers, INVENTORY_CPU);
	assert_int_equal(statement.keys_count, 5);
	assert_true(inventory_key(&statement, 4) == UINT64_C(5) << 40);
	assert_int_equal(inventory_next(&reader, &statement), 1);
	assert_int_equal(statement.tiers, 0);
	assert_int_equal(statement.keys_count, 1);
	assert_int_equal(inventory_next(&reader, &statement), 1);
	assert_int_equal(statement.kind, INVENTORY_DIGEST);
	assert_int_equal(statement.values[0], 5);
	assert_true(statement.values[1] == UINT64_MAX - 1);
	assert_int_equal(inventory_next(&reader, &statement), 1);
	assert_int_equal(statement.kind, INVENTORY_FIGURE);
	assert_int_equal(statement.figure, INVENTORY_BYTES_SECOND);
	assert_int_equal(inventory_next(&reader, &statement), 1);
	assert_int_equal(statement.kind, INVENTORY_ENGINE);
	assert_memory_equal(statement.tenant, "default", statement.tenant_bytes);
	assert_int_equal(statement.tenant_bytes, 7);
	assert_memory_equal(statement.engine, "vllm-0", statement.engine_bytes);
	assert_int_equal(statement.tokens_per_block, 16);
	assert_int_equal(statement.spaces_count, 2);
	assert_int_equal(inventory_space(&statement, 1), 1 << 19);
	assert_int_equal(inventory_next(&reader, &statement), 1);
	assert_int_equal(statement.kind, INVENTORY_PIECE);
	assert_int_equal(statement.values[2], 1 << 20);
	assert_int_equal(inventory_next(&reader, &statement), 0);
}

/* The bytes that anyone may write from the description alone; no program of ours made them. */
static void the_format_is_as_described(void **unused)
{
	static const uint8_t bytes[] = {
		/* version, boot, epoch, time; statements: */
		0x95, 0x01, 0x05, 0x02, 0x07, 0x93,
		/* SPACE 4 */
		0x93, 0x00, 0x04, 0xc4, 0x10, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9,
		/* a kind of a later version */
		0x92, 0x7f, 0xa3, 'n', 'e', 'w',
		/* SET, and an item more */
		0x95, 0x01, 0x04, 0x06, 0xc4, 0x08, 1, 0, 0, 0, 0, 0, 0, 0x80, 0xc0,
	};
	struct inventory_statement statement;
	struct inventory_reader reader;
	struct inventory_head found;
	struct error error;

	(void)unused;
	assert_int_equal(inventory_read(&reader, bytes, sizeof(bytes), &found, &error), 0);
	assert_int_equal(found.boot, 5);
	assert_int_equal(found.epoch, 2);
	assert_int_equal(inventory_next(&reader, &statement), 1);
	assert_int_equal(statement.kind, INVENTORY_SPACE);
	assert_int_equal(statement.fingerprint[15], 9);
	assert_int_equal(inventory_next(&reader, &statement), 1);
	assert_int_equal(statement.kind, INVENTORY_SET);
	assert_int_equal(statement.tiers, INVENTORY_CPU | INVENTORY_NVME);
	assert_true(inventory_key(&statement, 0) == (UINT64_C(0x80) << 56 | 1));
	assert_int_equal(inventory_next(&reader, &statement), 0);
}

static void what_is_not_whole_is_refused(void **unused)
{
	static const struct {
		const char *what;
		uint8_t bytes[16];
		size_t count;
		int result;
	} cases[] = {
		{ "nothing", { 0 }, 0, -EPROTO },
		{ "no array", { 0x01 }, 1, -EPROTO },
		{ "an empty array", { 0x90 }, 1, -EPROTO },
		{ "another version", { 0x95, 0x02, 1, 1, 1, 0x90 }, 6, -ENOTSUP },
		{ "no statements", { 0x94, 0x01, 1, 1, 1 }, 5, -EPROTO },
		{ "statements that are no array", { 0x95, 0x01, 1, 1, 1, 1 }, 6, -EPROTO },
		{ "more behind it", { 0x95, 0x01, 1, 1, 1, 0x90, 0x00 }, 7, -EPROTO },
		{ "2^32 - 1 items", { 0xdd, 0xff, 0xff, 0xff, 0xff, 1, 1 }, 7, -EPROTO },
		{ "2^31 pairs", { 0xdf, 0x80, 0, 0, 0, 1, 1 }, 7, -EPROTO },
		{ "a byte of a longer head", { 0xdd }, 1, -EPROTO },
		{ "a text that is longer", { 0xdb, 0xff, 0xff, 0xff, 0xff }, 5, -EPROTO },
		{ "what no msgpack has", { 0xc1 }, 1, -EPROTO },
		{ "a statement that is no array", { 0x95, 1, 1, 1, 1, 0x91, 0 }, 7, -EPROTO },
		{ "a SPACE of 1 byte", { 0x95, 1, 1, 1, 1, 0x91, 0x93, 0, 0, 0xc4, 1, 1 }, 12,
		  -EPROTO },
		{ "keys of 7 bytes", { 0x95, 1, 1, 1, 1, 0x91, 0x94, 1, 0, 2, 0xa7, 1, 1, 1, 1, 1 },
		  16, -EPROTO },
		{ "a SET that is short", { 0x95, 1, 1, 1, 1, 0x91, 0x92, 1, 0 }, 9, -EPROTO },
		{ "a negative number", { 0x95, 1, 1, 1, 1, 0x91, 0x93, 0, 0xff, 0xa0 }, 10,
		  -EPROTO },
	};

	(void)unused;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (read_all(cases[i].bytes, cases[i].count) != cases[i].result)
			fail_msg("%s", cases[i].what);
}

static void nothing_outside_is_read(void **unused)
{
	uint8_t copy[INVENTORY_PAYLOAD_BYTES_MAX];
	struct random random;
	uint32_t bytes;
	const uint8_t *payload = sample(&bytes);

	(void)unused;
	for (uint32_t cut = 0; cut < bytes; cut++)
		assert_true(read_all(payload, cut) < 0);
	assert_int_equal(read_all(payload, bytes), 0);
	random_init(&random, 5);
	for (unsigned i = 0; i < 200000; i++) {
		memcpy(copy, payload, bytes);
		for (uint64_t n = 1 + random_next(&random) % 4; n > 0; n--)
			copy[random_next(&random) % bytes] = (uint8_t)random_next(&random);
		(void)read_all(copy, bytes);
	}
}

/* A writer says when it is full, and what it has is a good message all the same. */
static void what_does_not_fit_is_left(void **unused)
{
	uint32_t keys = 0, spaces = 0, alternating = 0;

	(void)unused;
	inventory_begin(&writer, &head);
	while (inventory_say_set(&writer, 1, INVENTORY_CPU, keys))
		keys++;
	assert_int_equal(keys, INVENTORY_KEYS_MAX);
	inventory_say_piece(&writer, UINT64_MAX, UINT64_MAX, UINT64_MAX);
	assert_written_is_good();
	inventory_begin(&writer, &head);
	while (inventory_say_space(&writer, UINT32_MAX - spaces, fingerprint))
		spaces++;
	while (inventory_say_set(&writer, UINT32_MAX, alternating % 2 + 1, alternating))
		alternating++;
	inventory_say_piece(&writer, UINT64_MAX, UINT64_MAX, UINT64_MAX);
	assert_written_is_good();
	assert_int_equal(spaces, INVENTORY_NUMBERS_MAX);
	/* A piece of as many spaces as it has keys. */
	inventory_begin(&writer, &head);
	for (uint32_t i = 0; i < 1024; i++) {
		assert_true(inventory_say_space(&writer, i << 20, fingerprint));
		assert_true(inventory_say_set(&writer, i << 20, INVENTORY_NVME, i));
	}
}

static void questions_are_read(void **unused)
{
	static const uint64_t cursors[] = { 0, 127, 128, 65536, UINT32_MAX, UINT64_MAX };
	uint8_t question[INVENTORY_ASK_BYTES_MAX];
	uint64_t cursor;

	(void)unused;
	for (size_t i = 0; i < sizeof(cursors) / sizeof(cursors[0]); i++) {
		uint32_t bytes = inventory_ask_write(question, cursors[i]);

		assert_true(bytes != INVENTORY_SEQUENCE_BYTES && bytes <= sizeof(question));
		assert_true(inventory_ask_read(question, bytes, &cursor));
		assert_true(cursor == cursors[i]);
		for (uint32_t cut = 0; cut < bytes; cut++)
			assert_false(inventory_ask_read(question, cut, &cursor));
	}
	assert_false(inventory_ask_read((const uint8_t *)"\x92\x04\x00", 3, &cursor));
}

/* Every item is passed over whole, and none that is cut short. */
static void items_are_passed_over(void **unused)
{
	static const struct {
		uint8_t bytes[24];
		size_t count;
	} cases[] = {
		{ { 0x00 }, 1 }, { { 0xff }, 1 }, { { 0xc0 }, 1 }, { { 0xc2 }, 1 },
		{ { 0xa2, 1, 2 }, 3 },
		{ { 0xcc, 1 }, 2 }, { { 0xcd, 1, 2 }, 3 }, { { 0xce, 1, 2, 3, 4 }, 5 },
		{ { 0xcf, 1, 2, 3, 4, 5, 6, 7, 8 }, 9 }, { { 0xd0, 1 }, 2 }, { { 0xd1, 1, 2 }, 3 },
		{ { 0xd2, 1, 2, 3, 4 }, 5 }, { { 0xd3, 1, 2, 3, 4, 5, 6, 7, 8 }, 9 },
		{ { 0xca, 1, 2, 3, 4 }, 5 }, { { 0xcb, 1, 2, 3, 4, 5, 6, 7, 8 }, 9 },
		{ { 0xc4, 2, 1, 2 }, 4 }, { { 0xc5, 0, 1, 1 }, 4 }, { { 0xc6, 0, 0, 0, 1, 9 }, 6 },
		{ { 0xd9, 2, 1, 2 }, 4 }, { { 0xda, 0, 1, 1 }, 4 }, { { 0xdb, 0, 0, 0, 1, 9 }, 6 },
		{ { 0x92, 0x91, 1, 0xc0 }, 4 }, { { 0xdc, 0, 2, 1, 1 }, 5 },
		{ { 0xdd, 0, 0, 0, 1, 1 }, 6 }, { { 0x81, 1, 0x90 }, 3 },
		{ { 0xde, 0, 1, 1, 1 }, 5 }, { { 0xdf, 0, 0, 0, 1, 1, 1 }, 7 },
		{ { 0xc7, 1, 5, 9 }, 4 }, { { 0xc8, 0, 1, 5, 9 }, 5 },
		{ { 0xc9, 0, 0, 0, 1, 5, 9 }, 7 }, { { 0xd4, 5, 1 }, 3 }, { { 0xd5, 5, 1, 1 }, 4 },
		{ { 0xd6, 5, 1, 1, 1, 1 }, 6 }, { { 0xd7, 5, 1, 1, 1, 1, 1, 1, 1, 1 }, 10 },
		{ { 0xd8, 5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 }, 18 },
	};

	(void)unused;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		for (size_t count = 0; count <= cases[i].count; count++) {
			uint8_t *tight = malloc(count > 0 ? count : 1);

			memcpy(tight, cases[i].bytes, count);
			struct msgpack_reader reader = msgpack_open(tight, count);
			assert_int_equal(msgpack_skip(&reader), count == cases[i].count);
			assert_true(reader.at == (count == cases[i].count ? reader.end
									  : (const char *)tight));
			free(tight);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_said_is_understood),
		cmocka_unit_test(the_format_is_as_described),
		cmocka_unit_test(what_is_not_whole_is_refused),
		cmocka_unit_test(nothing_outside_is_read),
		cmocka_unit_test(what_does_not_fit_is_left),
		cmocka_unit_test(questions_are_read),
		cmocka_unit_test(items_are_passed_over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
