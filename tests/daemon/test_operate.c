/* tests/daemon/test_operate.c: what an operator does to blocks, step by step and with failures:
 * purge leaves no byte, whatever is on its way; pins end; a drain writes all down. */
#include "tests/daemon/rig.h"

#include "daemon/drain.h"
#include "daemon/mover.h"
#include "daemon/purge.h"
#include "proto/frames_operate.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <string.h>

#define BLOCKS 12u
#define VERSION 3u
#define STEPS_MAX 400u

static const struct rig_blocks all = { .first = 1, .count = BLOCKS, .version = VERSION };

static char answer[FRAME_TEXT_BYTES_MAX + 1];

/* Asks on the tenant's socket; what it answered is in `answer`. */
static int operate(struct rig_client *client, enum frame_operate_verb verb, uint64_t value,
		   bool is_of_space)
{
	struct frame_operate *frame = rig_frame(client, FRAME_OPERATE, sizeof(*frame));
	const struct frame_text *reply = (const struct frame_text *)client->reply;

	memset(answer, 0, sizeof(answer));
	frame->verb = verb;
	frame->value = value;
	if (is_of_space)
		memcpy(frame->fingerprint, client->fingerprint, SPACE_ID_BYTES);
	uint64_t request = frame->header.request;
	client->reply_request = 0;
	client->refused = 0;
	rig_send(client, FRAME_CONTROL);
	for (unsigned i = 0; client->reply_request != request && client->refused == 0; i++) {
		assert_true(i < RIG_PASSES_MAX);
		/* A purge waits for the disk, which goes by the clock. */
		if (!rig_step(client->rig))
			clock_advance(&client->rig->clock, 100);
	}
	if (client->refused == 0)
		memcpy(answer, reply + 1, reply->header.bytes - sizeof(*reply));
	return client->refused;
}

#define assert_answer(words) assert_non_null(strstr(answer, words))

static bool holds_mark(const uint8_t *bytes, uint64_t count, const uint8_t *mark)
{
	return memmem(bytes, count, mark, 64) != NULL;
}

/* How many blocks' bytes are still in the arena or on the disk. */
static unsigned left_bytes(struct rig *rig, struct rig_client *client)
{
	const struct arena *arena = &rig->daemon->tenants[0].arena;
	const struct rig_file *file =
		rig_disk_file(&rig->disk, nvme_device_path(rig->daemon->devices[0].device));
	static uint8_t payload[RIG_PAYLOAD_BYTES];
	unsigned left = 0;

	for (unsigned i = 0; i < BLOCKS; i++) {
		rig_payload(client, 0, all.first + i, VERSION, payload);
		left += holds_mark(arena->units, arena->bytes, payload) ||
			holds_mark(file->now, file->bytes, payload);
	}
	return left;
}

static void purge_through(struct rig *rig, struct rig_client *client)
{
	assert_int_equal(operate(client, FRAME_OPERATE_PURGE, 0, true), 0);
	for (unsigned i = 0; strstr(answer, "\"done\":true") == NULL; i++) {
		assert_true(i < 1000);
		rig_pass_time(rig, RIG_SECOND / 100);
		assert_int_equal(operate(client, FRAME_OPERATE_PURGE, 1, false), 0);
	}
}

static void a_purge_overwrites_every_block_in_both_tiers(void **unused)
{
	struct rig rig;
	struct rig_client *client;

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, NULL);
	assert_int_equal(rig_store(client, &all), BLOCKS);
	rig_settle(&rig);
	assert_int_equal(left_bytes(&rig, client), BLOCKS);
	purge_through(&rig, client);
	assert_answer("\"blocks\":12,\"slots\":24,");
	assert_answer("\"failed_bytes\":0,");
	assert_answer("\"was_quiet\":true");
	assert_int_equal(left_bytes(&rig, client), 0);
	assert_int_equal(rig_usable(client, 1, BLOCKS), 0);
	rig_assert_idle(&rig);
	/* And the places are good for others. */
	assert_int_equal(rig_store(client, &all), BLOCKS);
	rig_settle(&rig);
	assert_int_equal(rig_load(client, &all), BLOCKS);
	rig_finish(&rig);
}

/* The purge comes after any number of steps of a store, of its way down, and of a load. */
static void a_purge_at_any_step_of_a_store_leaves_none_of_its_bytes(void **unused)
{
	bool is_over = false;

	(void)unused;
	for (unsigned steps = 0; !is_over; steps++) {
		struct rig rig;
		struct rig_client *client;
		struct rig_batch *batch;

		assert_true(steps < STEPS_MAX);
		rig_init(&rig, &(struct rig_config){ .seed = steps + 1 });
		rig.disk.latency_us = steps % 3 * 100;
		client = rig_register(&rig, NULL);
		batch = rig_store_begin(client, &all);
		while (!batch->is_replied)
			(void)rig_step(&rig);
		rig_store_commit(client, batch);
		for (unsigned i = 0; i < steps; i++) {
			is_over = !rig_step(&rig) && mover_pending_down(rig.daemon) == 0;
			clock_advance(&rig.clock, 20);
		}
		purge_through(&rig, client);
		rig_batch_await(&rig, batch);
		rig_batch_give(batch);
		rig_settle(&rig);
		assert_int_equal(left_bytes(&rig, client), 0);
		assert_int_equal(rig_usable(client, 1, BLOCKS), 0);
		rig_assert_idle(&rig);
		rig_finish(&rig);
	}
}

static void a_purge_waits_for_the_block_that_is_being_read(void **unused)
{
	struct rig rig;
	struct rig_client *client;
	struct rig_batch *batch;

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, NULL);
	assert_int_equal(rig_store(client, &all), BLOCKS);
	rig_settle(&rig);
	batch = rig_load_begin(client, &(struct rig_blocks){ .first = 1, .count = 1 });
	batch->is_kept = true;
	rig_batch_await(&rig, batch);
	assert_int_equal(operate(client, FRAME_OPERATE_PURGE, 0, true), 0);
	rig_settle(&rig);
	assert_int_equal(operate(client, FRAME_OPERATE_PURGE, 1, false), 0);
	assert_answer("\"done\":false");
	assert_answer("\"held_slots\":1,");
	assert_int_equal(left_bytes(&rig, client), 1);
	/* A second one is told to wait. */
	assert_int_equal(operate(client, FRAME_OPERATE_PURGE, 0, true), -EBUSY);
	rig_release(client, batch, 0, false);
	rig_settle(&rig);
	rig_pass_time(&rig, RIG_SECOND);
	assert_int_equal(operate(client, FRAME_OPERATE_PURGE, 1, false), 0);
	assert_answer("\"done\":true");
	assert_int_equal(left_bytes(&rig, client), 0);
	rig_batch_give(batch);
	rig_finish(&rig);
}

static void a_purge_that_waits_costs_other_tenants_nothing(void **unused)
{
	const struct rig_blocks more = { .first = 100, .count = 4, .version = VERSION };
	struct rig rig;
	struct rig_client *client, *other;
	struct frame_operate *frame;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .tenants = 2 });
	client = rig_register(&rig, NULL);
	other = rig_register(&rig, &(struct rig_engine){ .name = "other", .tenant = 1 });
	rig.disk.latency_us = RIG_SECOND; /* its way down takes a while, and the clock stands */
	assert_int_equal(rig_store(client, &all), BLOCKS);
	frame = rig_frame(client, FRAME_OPERATE, sizeof(*frame));
	frame->verb = FRAME_OPERATE_PURGE;
	rig_send(client, FRAME_CONTROL);
	rig_settle(&rig);
	assert_true(purge_is_under_way(rig.daemon));
	assert_int_equal(rig_store(client, &more), 0);
	assert_int_equal(rig_store(other, &more), 4);
	assert_int_equal(rig_load(other, &more), 4);
	for (unsigned i = 0; i < 100 && purge_is_under_way(rig.daemon); i++)
		rig_pass_time(&rig, RIG_SECOND);
	assert_int_equal(left_bytes(&rig, client), 0);
	assert_int_equal(rig_store(client, &more), 4);
	assert_int_equal(rig_load(other, &more), 4);
	rig.disk.latency_us = 0;
	rig_pass_time(&rig, 3 * RIG_SECOND);
	rig_finish(&rig);
}

/* Each write of zeros fails once: the purge ends, says so, and nothing is found all the same. */
static void a_write_that_fails_is_counted_and_the_purge_ends(void **unused)
{
	for (unsigned nth = 1; nth <= BLOCKS; nth++) {
		struct rig rig;
		struct rig_client *client;

		(void)unused;
		rig_init(&rig, NULL);
		client = rig_register(&rig, NULL);
		assert_int_equal(rig_store(client, &all), BLOCKS);
		rig_settle(&rig);
		block_io_fault_arm(&rig.fault, BLOCK_FAULT_ERROR, BLOCK_FAULT_QUEUE, nth, 1);
		purge_through(&rig, client);
		assert_true(block_io_fault_was_hit(&rig.fault));
		assert_answer("\"failed_bytes\":24576,");
		assert_int_equal(left_bytes(&rig, client), 1);
		assert_int_equal(rig_usable(client, 1, BLOCKS), 0);
		rig_assert_idle(&rig);
		rig_finish(&rig);
	}
}

static void a_pin_keeps_its_blocks_until_its_time_and_a_purge_ends_it(void **unused)
{
	struct rig rig;
	struct rig_client *client;

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, NULL);
	assert_int_equal(rig_store(client, &all), BLOCKS);
	rig_settle(&rig);
	assert_int_equal(operate(client, FRAME_OPERATE_PIN, 60 * RIG_SECOND, true), 0);
	assert_answer("\"pinned_blocks\":12,");
	rig_client_close(client);
	rig_settle(&rig);
	assert_int_equal(rig_figures(&rig, 0, TIER_CPU).holds, BLOCKS);
	rig_pass_time(&rig, 61 * RIG_SECOND);
	assert_int_equal(rig_figures(&rig, 0, TIER_CPU).holds, 0);
	client = rig_register(&rig, NULL);
	assert_int_equal(operate(client, FRAME_OPERATE_PIN, PIN_US_MAX + 1, true), -EINVAL);
	assert_int_equal(operate(client, FRAME_OPERATE_PIN, 60 * RIG_SECOND, true), 0);
	purge_through(&rig, client);
	assert_int_equal(left_bytes(&rig, client), 0);
	rig_assert_idle(&rig);
	rig_finish(&rig);
}

static void more_pins_than_there_is_room_for_are_refused(void **unused)
{
	struct rig rig;
	struct rig_client *client;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .leases_max = PINS_MAX + 8 });
	client = rig_register(&rig, NULL);
	assert_int_equal(rig_store(client, &(struct rig_blocks){ .first = 1, .count = 1 }), 1);
	rig_settle(&rig);
	for (unsigned i = 0; i < PINS_MAX; i++)
		assert_int_equal(operate(client, FRAME_OPERATE_PIN, 60 * RIG_SECOND, true), 0);
	assert_int_equal(operate(client, FRAME_OPERATE_PIN, 60 * RIG_SECOND, true), -EAGAIN);
	assert_int_equal(operate(client, FRAME_OPERATE_PIN, 0, true), 0);
	assert_answer("\"unpinned_blocks\":256");
	rig_finish_idle(&rig);
}

static void a_drain_writes_down_what_is_in_memory_only(void **unused)
{
	struct rig rig;
	struct rig_client *client;

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, NULL);
	/* The first way down fails. */
	block_io_fault_arm(&rig.fault, BLOCK_FAULT_ERROR, BLOCK_FAULT_QUEUE, 1, 3);
	assert_int_equal(rig_store(client, &all), BLOCKS);
	rig_settle(&rig);
	assert_true(rig_figures(&rig, 0, TIER_NVME).copies_whole < BLOCKS);
	drain_begin(rig.daemon);
	rig_settle(&rig);
	assert_int_equal(rig.daemon->drain.state, DRAIN_DONE);
	assert_int_equal(rig.daemon->drain.above_blocks, 0);
	assert_int_equal(rig_figures(&rig, 0, TIER_NVME).copies_whole, BLOCKS);
	assert_int_equal(rig_store(client, &(struct rig_blocks){ .first = 50, .count = 1 }), 0);
	drain_end(rig.daemon);
	assert_int_equal(rig_store(client, &(struct rig_blocks){ .first = 50, .count = 1 }), 1);
	rig_finish(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_purge_overwrites_every_block_in_both_tiers),
		cmocka_unit_test(a_purge_at_any_step_of_a_store_leaves_none_of_its_bytes),
		cmocka_unit_test(a_purge_waits_for_the_block_that_is_being_read),
		cmocka_unit_test(a_purge_that_waits_costs_other_tenants_nothing),
		cmocka_unit_test(a_write_that_fails_is_counted_and_the_purge_ends),
		cmocka_unit_test(a_pin_keeps_its_blocks_until_its_time_and_a_purge_ends_it),
		cmocka_unit_test(more_pins_than_there_is_room_for_are_refused),
		cmocka_unit_test(a_drain_writes_down_what_is_in_memory_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
