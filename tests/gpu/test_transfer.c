/* tests/gpu/test_transfer.c: bytes, chunks, turns and gates of transfers, over the fake driver. */
#include "tests/gpu/transfer_scene.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void every_byte_arrives_both_ways_by_each_path(void **unused)
{
	(void)unused;
	for (unsigned path = 0; path < COPY_PATHS; path++) {
		scene_open(NULL, (enum copy_path)path);
		fill_engine(1 + path);
		struct move *store = move_make(0, COPY_STORE, BLOCKS / HELD_MAX);
		move_submit(store);
		move_finish(store);
		assert_int_equal(store->result, 0);
		assert_copied(store);
		assert_true(transfer_engine_measures(scene.engine, COPY_STORE)->chunks_by[path] >
			    1);
		fill_engine(50);
		struct move *load = move_make(1, COPY_LOAD, BLOCKS / HELD_MAX);
		memcpy(load->blocks, store->blocks, sizeof(load->blocks));
		move_submit(load);
		move_finish(load);
		assert_int_equal(load->result, 0);
		assert_copied(load);
		assert_int_equal(transfer_engine_measures(scene.engine, COPY_LOAD)->bytes,
				 BLOCKS / HELD_MAX * PAYLOAD_BYTES);
		assert_int_equal(transfer_engine_measures(scene.engine, COPY_LOAD)->bytes_waiting,
				 0);
		scene_close();
	}
}

static void no_more_than_two_chunks_a_direction_are_in_the_devices_hands(void **unused)
{
	(void)unused;
	scene_open(NULL, COPY_BATCH);
	scene_stall(true);
	struct move *store = move_make(0, COPY_STORE, 16), *load = move_make(1, COPY_LOAD, 16);
	for (uint32_t n = 0; n < 16; n++) { /* no block is read and written */
		store->blocks[n].number = 2 * n;
		load->blocks[n].number = 2 * n + 1;
	}
	move_submit(store);
	move_submit(load);
	for (unsigned n = 0; n < 100; n++)
		scene_step();
	assert_int_equal(scene.rig.device.copies_started, 2 * TRANSFER_CHUNKS_MAX);
	assert_int_equal(scene.rig.device.bytes_started[COPY_LOAD],
			 TRANSFER_CHUNKS_MAX * CHUNK_BYTES);
	assert_false(transfer_engine_is_quiet(scene.engine));
	scene_stall(false);
	move_finish(&scene.moves[0]);
	move_finish(&scene.moves[1]);
	scene_close();
}

static void urgent_ones_go_first_and_equals_take_turns(void **unused)
{
	(void)unused;
	scene_open(NULL, COPY_BATCH);
	scene_stall(true);
	move_submit(move_make(0, COPY_LOAD, 8));
	move_submit(move_make(1, COPY_LOAD, 8));
	scene_step(); /* a chunk of each */
	move_make(2, COPY_LOAD, 8)->transfer.is_urgent = true;
	move_submit(&scene.moves[2]);
	scene_stall(false);
	move_finish(&scene.moves[0]);
	move_finish(&scene.moves[1]);
	const unsigned expected[] = { 0, 1, 2, 2, 2, 2, 0, 1, 0, 1, 0, 1 };
	assert_int_equal(scene.order_count, sizeof(expected) / sizeof(expected[0]));
	assert_memory_equal(scene.order, expected, sizeof(expected));
	scene_close();
}

static void who_waits_at_a_gate_delays_nobody_and_copies_nothing_before(void **unused)
{
	const uint64_t word_offset = RIG_DEVICE_BYTES - 64;
	struct gate gate;

	(void)unused;
	scene_open(NULL, COPY_BATCH);
	fill_engine(3);
	memset(rig_peek(&scene.rig, word_offset), 0, 8);
	gate_init(&gate, &scene.rig.device, DEVICE_WAIT, scene.rig.memory.address + word_offset);
	struct move *waits = move_make(0, COPY_STORE, 8);
	waits->transfer.gate = &gate;
	waits->transfer.gate_value = 7;
	move_submit(waits);
	struct move *goes = move_make(1, COPY_STORE, 8);
	move_submit(goes);
	for (unsigned n = 0; goes->ends == 0 && n < STEPS_MAX; n++) {
		assert_int_equal(gate_step(&gate, &scene.rig.error), 0);
		scene_step();
	}
	assert_int_equal(goes->ends, 1);
	assert_int_equal(waits->moves, 0);
	assert_int_equal(scene.rig.device.bytes_started[COPY_STORE], 8 * PAYLOAD_BYTES);
	fill_engine(4); /* the step that the engine's word stands behind */
	if (device_word_write(&scene.rig.device, DEVICE_LOAD_BULK, gate.word, 8, &scene.rig.error) <
	    0)
		fail_msg("%s", scene.rig.error.text);
	for (unsigned n = 0; waits->ends == 0 && n < STEPS_MAX; n++) {
		assert_int_equal(gate_step(&gate, &scene.rig.error), 0);
		scene_step();
	}
	assert_int_equal(waits->result, 0);
	assert_copied(waits);
	scene_close();
}

static void a_released_gate_lets_its_queue_go(void **unused)
{
	struct gate gate;

	(void)unused;
	scene_open(NULL, COPY_BATCH);
	memset(rig_peek(&scene.rig, 0), 0, 8);
	gate_init(&gate, &scene.rig.device, DEVICE_WAIT, scene.rig.memory.address);
	assert_false(gate_is_open(&gate, 5));
	assert_int_equal(gate_step(&gate, &scene.rig.error), 0);
	assert_int_equal(gate_step(&gate, &scene.rig.error), 0);
	assert_false(gate_is_open(&gate, 5));
	assert_int_equal(gate_release(&gate, DEVICE_LOAD_BULK, &scene.rig.error), 0);
	assert_true(gate_is_open(&gate, 5));
	int idle = 0;
	for (unsigned n = 0; idle == 0 && n < STEPS_MAX; n++)
		idle = device_is_idle(&scene.rig.device, DEVICE_WAIT, &scene.rig.error);
	assert_int_equal(idle, 1);
	assert_int_equal(gate_step(&gate, &scene.rig.error), 0); /* gives the mark back */
	scene_close();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_byte_arrives_both_ways_by_each_path),
		cmocka_unit_test(no_more_than_two_chunks_a_direction_are_in_the_devices_hands),
		cmocka_unit_test(urgent_ones_go_first_and_equals_take_turns),
		cmocka_unit_test(who_waits_at_a_gate_delays_nobody_and_copies_nothing_before),
		cmocka_unit_test(a_released_gate_lets_its_queue_go),
	};

	return cmocka_run_group_tests(tests, rig_machine_open, rig_machine_close);
}
