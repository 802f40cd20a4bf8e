/* tests/gpu/test_transfer_ends.c: how transfers end: deadlines, cancels, full queues, caps,
 * failures. */
#include "tests/gpu/transfer_scene.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void a_deadline_ends_the_wait_and_the_end_comes_after_the_last_copy(void **unused)
{
	(void)unused;
	scene_open(NULL, COPY_BATCH);
	scene_stall(true);
	struct move *moving = move_make(0, COPY_STORE, 16);
	struct move *queued = move_make(1, COPY_STORE, 16);
	moving->transfer.deadline_us = queued->transfer.deadline_us = 2000;
	move_submit(moving);
	scene_step();
	move_submit(queued);
	scene_step();
	scene.now_us = 2000;
	scene_step();
	assert_int_equal(queued->ends, 1);
	assert_int_equal(queued->result, -ETIME);
	assert_int_equal(moving->ends, 0); /* two chunks are under way */
	scene_stall(false);
	move_finish(moving);
	assert_int_equal(moving->result, -ETIME);
	assert_int_equal(scene.rig.device.bytes_started[COPY_STORE],
			 TRANSFER_CHUNKS_MAX * CHUNK_BYTES);
	assert_int_equal(transfer_engine_measures(scene.engine, COPY_STORE)->expired, 2);
	assert_int_equal(transfer_engine_measures(scene.engine, COPY_STORE)->bytes_waiting, 0);
	scene_close();
}

static void a_cancelled_one_ends_when_it_is_quiescent(void **unused)
{
	(void)unused;
	scene_open(NULL, COPY_BATCH);
	scene_stall(true);
	struct move *move = move_make(0, COPY_LOAD, 16);
	move_submit(move);
	scene_step();
	transfer_cancel(scene.engine, &move->transfer);
	transfer_cancel(scene.engine, &move->transfer);
	for (unsigned n = 0; n < 100; n++)
		scene_step();
	assert_int_equal(move->ends, 0);
	scene_stall(false);
	move_finish(move);
	assert_int_equal(move->result, -ECANCELED);
	assert_true(transfer_engine_is_quiet(scene.engine));
	scene_close();
}

static void a_full_queue_and_a_wrong_block_are_refused_with_the_reason(void **unused)
{
	(void)unused;
	scene_open(NULL, COPY_BATCH);
	struct move *wrong = move_make(3, COPY_LOAD, 2);
	wrong->blocks[1].number = BLOCKS;
	assert_int_equal(transfer_submit(scene.engine, &wrong->transfer, &scene.rig.error),
			 -EINVAL);
	for (unsigned n = 0; n < 3; n++)
		move_submit(move_make(n, COPY_LOAD, 2));
	wrong = move_make(3, COPY_LOAD, 2);
	assert_int_equal(transfer_submit(scene.engine, &wrong->transfer, &scene.rig.error),
			 -EAGAIN);
	assert_string_equal(scene.rig.error.text, "3 transfers wait already");
	wrong->transfer.direction = COPY_STORE; /* which has a queue of its own */
	move_submit(wrong);
	for (unsigned n = 0; n < HELD_MAX; n++)
		move_finish(&scene.moves[n]);
	scene_close();
}

static void nothing_is_submitted_while_nobody_would_be_told(void **unused)
{
	(void)unused;
	scene_open(NULL, COPY_BATCH);
	struct move *move = move_make(0, COPY_LOAD, 4);
	move_submit(move);
	for (unsigned n = 0; n < 100; n++)
		transfer_engine_step(scene.engine, ++scene.now_us, false);
	assert_int_equal(scene.rig.device.copies_started, 0);
	move_finish(move);
	scene_close();
}

static void a_capped_direction_keeps_to_its_rate(void **unused)
{
	const struct transfer_config config = { .paths = (1u << COPY_PATHS) - 1,
						.chunk_bytes = CHUNK_BYTES,
						.bytes_second_max = { [COPY_STORE] = 100000000 },
						.transfers_max = { 3, 3 } };

	(void)unused;
	scene_open(&config, COPY_BATCH);
	struct move *capped = move_make(0, COPY_STORE, 16);
	move_submit(capped);
	uint64_t began_us = scene.now_us;
	while (capped->ends == 0) { /* the clock stands while the device works */
		while (transfer_engine_step(scene.engine, scene.now_us, true) ||
		       !transfer_engine_is_quiet(scene.engine))
			;
		scene.now_us += capped->ends == 0 ? 10 : 0;
	}
	uint64_t bytes = 16 * PAYLOAD_BYTES, saved_bytes = 200000, ahead_bytes = CHUNK_BYTES;
	assert_true(scene.now_us - began_us >= (bytes - saved_bytes - ahead_bytes) / 100);
	assert_true(scene.now_us - began_us <= bytes / 100);
	scene_close();
}

static unsigned busy_times;

static int busy_copy_start(struct device *device, enum device_queue queue,
			   const struct device_copy *copy, struct error *error)
{
	if (busy_times > 0) {
		busy_times--;
		return error_set(error, -EAGAIN, "busy");
	}
	return device_cuda_ops.copy_start(device, queue, copy, error);
}

static void a_busy_device_is_asked_again_for_the_same_chunk(void **unused)
{
	struct device_ops busy_ops = device_cuda_ops;

	(void)unused;
	busy_ops.copy_start = busy_copy_start;
	scene_open(NULL, COPY_KERNEL);
	fill_engine(12);
	scene.rig.device.ops = &busy_ops;
	struct move *move = move_make(0, COPY_STORE, 16);
	move_submit(move);
	busy_times = 3;
	scene_step();
	move_finish(move);
	assert_int_equal(move->result, 0);
	assert_copied(move);
	assert_int_equal(busy_times, 0);
	scene_close();
}

static void a_call_that_fails_costs_its_transfer_alone(void **unused)
{
	(void)unused;
	scene_open(NULL, COPY_BATCH);
	fill_engine(9);
	struct move *fails = move_make(0, COPY_STORE, 4);
	struct move *goes = move_make(1, COPY_STORE, 4);
	atomic_store(&rig_control->fail_call, FAKE_cuMemcpyBatchAsync_v2);
	atomic_store(&rig_control->fail_error, GPU_INVALID_VALUE);
	atomic_store(&rig_control->fail_nth, 1);
	move_submit(fails);
	move_submit(goes);
	move_finish(fails);
	assert_int_equal(fails->result, -EINVAL);
	move_finish(goes);
	assert_int_equal(goes->result, 0);
	assert_copied(goes);
	assert_int_equal(transfer_engine_measures(scene.engine, COPY_STORE)->failed, 1);
	scene_close();
}

static void a_lost_device_ends_nothing_and_takes_nothing_more(void **unused)
{
	(void)unused;
	scene_open(NULL, COPY_BATCH);
	atomic_store(&rig_control->fail_call, FAKE_fake_copy);
	atomic_store(&rig_control->fail_error, GPU_LAUNCH_FAILED);
	atomic_store(&rig_control->fail_nth, 3);
	struct move *move = move_make(0, COPY_LOAD, 16);
	move_submit(move);
	for (unsigned n = 0; !transfer_engine_is_lost(scene.engine) && n < STEPS_MAX; n++)
		scene_step();
	assert_true(transfer_engine_is_lost(scene.engine));
	assert_int_equal(move->ends, 0);
	assert_int_equal(transfer_submit(scene.engine, &move_make(1, COPY_LOAD, 1)->transfer,
					 &scene.rig.error),
			 -EIO);
	transfer_engine_destroy(scene.engine);
	layout_finish(&scene.layout);
	device_close(&scene.rig.device);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_deadline_ends_the_wait_and_the_end_comes_after_the_last_copy),
		cmocka_unit_test(a_cancelled_one_ends_when_it_is_quiescent),
		cmocka_unit_test(a_full_queue_and_a_wrong_block_are_refused_with_the_reason),
		cmocka_unit_test(nothing_is_submitted_while_nobody_would_be_told),
		cmocka_unit_test(a_capped_direction_keeps_to_its_rate),
		cmocka_unit_test(a_busy_device_is_asked_again_for_the_same_chunk),
		cmocka_unit_test(a_call_that_fails_costs_its_transfer_alone),
		cmocka_unit_test(a_lost_device_ends_nothing_and_takes_nothing_more),
	};

	return cmocka_run_group_tests(tests, rig_machine_open, rig_machine_close);
}
