/* tests/tiers/test_nvme.c: ops of a device over a real file: their bytes, order, faults and fences.
 */
#include "tests/tiers/nvme_rig.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void what_is_written_is_read_back(void **unused)
{
	for (unsigned i = 0; block_io_list[i] != NULL; i++) {
		struct nvme_rig rig;

		(void)unused;
		nvme_rig_init(&rig);
		rig.config.io_ops = NULL;
		rig.config.io = block_io_list[i]->name;
		assert_int_equal(nvme_rig_open(&rig), 0);
		assert_non_null(strstr(nvme_device_io_name(rig.device), block_io_list[i]->name));
		for (unsigned n = 0; n < NVME_RIG_OPS_MAX; n++) {
			nvme_rig_fill(&rig, n, (uint8_t)(n + 1));
			assert_int_equal(tier_submit(rig.tier, nvme_rig_op(&rig, n, TIER_WRITE)),
					 0);
		}
		assert_int_equal(rig.done, 0);
		nvme_rig_run(&rig, NVME_RIG_OPS_MAX);
		memset(rig.memory, 0, NVME_RIG_OPS_MAX * NVME_RIG_SLOT_BYTES);
		for (unsigned n = 0; n < NVME_RIG_OPS_MAX; n++)
			assert_int_equal(tier_submit(rig.tier, nvme_rig_op(&rig, n, TIER_READ)), 0);
		nvme_rig_run(&rig, NVME_RIG_OPS_MAX);
		for (unsigned n = 0; n < NVME_RIG_OPS_MAX; n++)
			assert_true(rig.ops[n].result == 0 &&
				    nvme_rig_holds(&rig, n, (uint8_t)(n + 1)));
		assert_int_equal(rig.tier->bytes_read, NVME_RIG_OPS_MAX * NVME_RIG_SLOT_BYTES);
		assert_int_equal(rig.tier->in_flight, 0);
		nvme_rig_finish(&rig);
	}
}

static void registered_memory_gives_the_same_bytes(void **unused)
{
	struct nvme_rig rig;
	struct nvme_memory memory;

	(void)unused;
	nvme_rig_init(&rig);
	assert_int_equal(nvme_rig_open(&rig), 0);
	/* Registered in part: slot 1 straddles the end of what is. */
	memory = (struct nvme_memory){ .start = rig.memory, .bytes = NVME_RIG_SLOT_BYTES + 8192 };
	assert_int_equal(nvme_device_register(rig.device, &memory, 1, &rig.error), 0);
	for (unsigned n = 0; n < 3; n++) {
		nvme_rig_fill(&rig, n, (uint8_t)(n + 9));
		assert_int_equal(nvme_rig_one(&rig, n, TIER_WRITE), 0);
		nvme_rig_fill(&rig, n, 0);
		assert_int_equal(nvme_rig_one(&rig, n, TIER_READ), 0);
		assert_true(nvme_rig_holds(&rig, n, (uint8_t)(n + 9)));
	}
	nvme_rig_finish(&rig);
}

static void memory_that_cannot_be_registered_is_used_as_it_is(void **unused)
{
	struct nvme_rig rig;
	struct nvme_memory memory;

	(void)unused;
	nvme_rig_init(&rig);
	rig.fault.refuse_registration = true;
	assert_int_equal(nvme_rig_open(&rig), 0);
	memory = (struct nvme_memory){ .start = rig.memory,
				       .bytes = NVME_RIG_OPS_MAX * NVME_RIG_SLOT_BYTES };
	assert_int_equal(nvme_device_register(rig.device, &memory, 1, &rig.error), 1);
	assert_null(strstr(nvme_device_io_name(rig.device), "registered buffers"));
	assert_int_equal(nvme_rig_one(&rig, 0, TIER_WRITE), 0);
	nvme_rig_finish(&rig);
}

static void a_failed_op_says_so_and_the_next_one_works(void **unused)
{
	static const enum block_fault kinds[] = { BLOCK_FAULT_ERROR, BLOCK_FAULT_SHORT };
	struct nvme_rig rig;
	struct nvme_figures figures;

	(void)unused;
	nvme_rig_init(&rig);
	assert_int_equal(nvme_rig_open(&rig), 0);
	for (unsigned i = 0; i < 2; i++) {
		nvme_rig_fill(&rig, 1, 1);
		assert_int_equal(nvme_rig_one(&rig, 1, TIER_WRITE), 0);
		block_io_fault_arm(&rig.fault, kinds[i], BLOCK_FAULT_QUEUE, 1, 1);
		assert_int_equal(nvme_rig_one(&rig, 1, TIER_READ), -EIO);
		assert_int_equal(nvme_rig_one(&rig, 1, TIER_READ), 0);
		rig.fault.errno_value = -ENOSPC;
		block_io_fault_arm(&rig.fault, BLOCK_FAULT_ERROR, BLOCK_FAULT_QUEUE, 1, 1);
		assert_int_equal(nvme_rig_one(&rig, 1, TIER_WRITE), -ENOSPC);
		assert_int_equal(nvme_rig_one(&rig, 1, TIER_WRITE), 0);
		rig.fault.errno_value = -EIO;
	}
	nvme_device_figures(rig.device, &figures);
	assert_int_equal(figures.read_errors, 2);
	assert_int_equal(figures.write_errors, 2);
	assert_int_equal(figures.last_error, -ENOSPC);
	assert_int_equal(figures.reads, 2);
	assert_int_equal(figures.in_flight, 0);
	assert_false(nvme_device_is_fenced(rig.device));
	nvme_rig_finish(&rig);
}

static void errors_in_a_row_fence_the_device(void **unused)
{
	struct nvme_rig rig;

	(void)unused;
	nvme_rig_init(&rig);
	assert_int_equal(nvme_rig_open(&rig), 0);
	block_io_fault_arm(&rig.fault, BLOCK_FAULT_ERROR, BLOCK_FAULT_QUEUE, 1,
			   NVME_ERRORS_RUN_MAX);
	for (unsigned i = 0; i < NVME_ERRORS_RUN_MAX; i++) {
		assert_false(nvme_device_is_fenced(rig.device));
		assert_int_equal(nvme_rig_one(&rig, i, TIER_READ), -EIO);
	}
	assert_true(nvme_device_is_fenced(rig.device));
	/* The disk is well again; the fence stays. */
	assert_int_equal(tier_submit(rig.tier, nvme_rig_op(&rig, 0, TIER_READ)), -EIO);
	assert_int_equal(tier_submit(rig.tier, nvme_rig_op(&rig, 0, TIER_WRITE)), -EIO);
	nvme_rig_finish(&rig);
}

static void scattered_errors_fence_only_within_the_window(void **unused)
{
	for (unsigned is_slow = 0; is_slow < 2; is_slow++) {
		struct nvme_rig rig;

		(void)unused;
		nvme_rig_init(&rig);
		assert_int_equal(nvme_rig_open(&rig), 0);
		for (unsigned i = 0; i < NVME_ERRORS_WINDOW_MAX; i++) {
			block_io_fault_arm(&rig.fault, BLOCK_FAULT_ERROR, BLOCK_FAULT_QUEUE, 2, 1);
			assert_int_equal(nvme_rig_one(&rig, 0, TIER_READ), 0);
			assert_int_equal(nvme_rig_one(&rig, 0, TIER_READ), -EIO);
			clock_advance(&rig.clock, is_slow ? NVME_ERROR_WINDOW_US / 4 : 1);
		}
		assert_int_equal(nvme_device_is_fenced(rig.device), !is_slow);
		nvme_rig_finish(&rig);
	}
}

static void a_device_that_ends_nothing_is_fenced_and_one_that_waits_for_work_is_not(void **unused)
{
	struct nvme_rig rig;

	(void)unused;
	nvme_rig_init(&rig);
	assert_int_equal(nvme_rig_open(&rig), 0);
	clock_advance(&rig.clock, 10 * NVME_STALL_US_MAX);
	block_io_fault_hold(&rig.fault);
	assert_int_equal(tier_submit(rig.tier, nvme_rig_op(&rig, 0, TIER_READ)), 0);
	clock_advance(&rig.clock, NVME_STALL_US_MAX);
	tier_poll(rig.tier, 1);
	assert_false(nvme_device_is_fenced(rig.device));
	clock_advance(&rig.clock, 1);
	tier_poll(rig.tier, 1);
	assert_true(nvme_device_is_fenced(rig.device));
	assert_int_equal(tier_submit(rig.tier, nvme_rig_op(&rig, 1, TIER_READ)), -EIO);
	block_io_fault_flow(&rig.fault);
	nvme_rig_run(&rig, 1);
	assert_int_equal(rig.ops[0].result, 0);
	nvme_rig_finish(&rig);
}

static void done_runs_in_poll_only_and_a_full_device_says_again(void **unused)
{
	struct nvme_rig rig;

	(void)unused;
	nvme_rig_init(&rig);
	rig.config.ops_max = 5;
	assert_int_equal(nvme_rig_open(&rig), 0);
	block_io_fault_hold(&rig.fault);
	for (unsigned n = 0; n < 5; n++)
		assert_int_equal(tier_submit(rig.tier, nvme_rig_op(&rig, n, TIER_READ)), 0);
	assert_int_equal(tier_submit(rig.tier, nvme_rig_op(&rig, 5, TIER_READ)), -EAGAIN);
	assert_int_equal(rig.tier->in_flight, 5);
	block_io_fault_release(&rig.fault, 2);
	for (unsigned i = 0; i < NVME_RIG_STEPS_MAX && rig.fault.released > 0; i++) {
		nvme_device_step(rig.device, clock_now_us(&rig.clock));
		nvme_device_wait(rig.device, NVME_RIG_WAIT_US);
	}
	assert_int_equal(rig.done, 0);
	assert_int_equal(tier_poll(rig.tier, 1), 1);
	assert_int_equal(rig.done, 1);
	assert_false(tier_sleep(rig.tier));
	assert_int_equal(tier_poll(rig.tier, 10), 1);
	assert_true(tier_sleep(rig.tier));
	block_io_fault_flow(&rig.fault);
	nvme_rig_run(&rig, 3);
	nvme_rig_finish(&rig);
}

static void the_loop_is_woken_through_the_descriptor(void **unused)
{
	struct nvme_rig rig;
	struct pollfd watched = { .events = POLLIN };

	(void)unused;
	nvme_rig_init(&rig);
	assert_int_equal(nvme_rig_open(&rig), 0);
	watched.fd = tier_fd(rig.tier, 0);
	assert_int_equal(tier_submit(rig.tier, nvme_rig_op(&rig, 0, TIER_READ)), 0);
	assert_true(tier_sleep(rig.tier));
	assert_int_equal(poll(&watched, 1, 0), 0);
	for (unsigned i = 0; i < NVME_RIG_STEPS_MAX && poll(&watched, 1, 0) == 0; i++) {
		nvme_device_step(rig.device, clock_now_us(&rig.clock));
		nvme_device_wait(rig.device, NVME_RIG_WAIT_US);
	}
	assert_int_equal(poll(&watched, 1, 0), 1);
	assert_int_equal(tier_poll(rig.tier, 1), 1);
	assert_int_equal(poll(&watched, 1, 0), 0);
	nvme_rig_finish(&rig);
}

static void reads_go_first_and_writes_still_get_their_turn(void **unused)
{
	struct nvme_rig rig;
	unsigned first_write = 0, first_read = NVME_RIG_OPS_MAX;

	(void)unused;
	nvme_rig_init(&rig);
	rig.config.queue_depth = 1;
	assert_int_equal(nvme_rig_open(&rig), 0);
	for (unsigned n = 0; n < 20; n++)
		assert_int_equal(tier_submit(rig.tier, nvme_rig_op(&rig, n, TIER_WRITE)), 0);
	for (unsigned n = 20; n < 40; n++)
		assert_int_equal(tier_submit(rig.tier, nvme_rig_op(&rig, n, TIER_READ)), 0);
	for (unsigned order = 0; order < 40; order++) {
		unsigned before = rig.done;

		for (unsigned i = 0; i < NVME_RIG_STEPS_MAX && rig.done == before; i++) {
			if (!nvme_device_step(rig.device, clock_now_us(&rig.clock)))
				nvme_device_wait(rig.device, NVME_RIG_WAIT_US);
			tier_poll(rig.tier, 1);
			for (unsigned n = 0; n < 40 && rig.done > before; n++) {
				if (rig.ops[n].finished_us == 0 || rig.ops[n].offset == 1)
					continue;
				if (n < 20 && first_write == 0)
					first_write = order;
				if (n >= 20 && first_read == NVME_RIG_OPS_MAX)
					first_read = order;
				rig.ops[n].offset = 1;
			}
		}
	}
	assert_int_equal(first_read, 0);
	assert_in_range(first_write, 8, 9);
	nvme_rig_finish(&rig);
}

static void a_filesystem_without_o_direct_is_used_buffered(void **unused)
{
	struct nvme_rig rig;

	(void)unused;
	nvme_rig_init_at(&rig, "/dev/shm");
	rig.fault.refuse_direct = true;
	assert_int_equal(nvme_rig_open(&rig), 0);
	assert_non_null(strstr(nvme_device_io_name(rig.device), "buffered"));
	nvme_rig_fill(&rig, 0, 3);
	assert_int_equal(nvme_rig_one(&rig, 0, TIER_WRITE), 0);
	nvme_rig_fill(&rig, 0, 0);
	assert_int_equal(nvme_rig_one(&rig, 0, TIER_READ), 0);
	assert_true(nvme_rig_holds(&rig, 0, 3));
	nvme_rig_close(&rig);
	/* And whatever tmpfs itself says to O_DIRECT. */
	rig.config.io_ops = NULL;
	assert_int_equal(nvme_rig_open(&rig), 0);
	nvme_rig_fill(&rig, 0, 0);
	assert_int_equal(nvme_rig_one(&rig, 0, TIER_READ), 0);
	assert_true(nvme_rig_holds(&rig, 0, 3));
	nvme_rig_finish(&rig);
}

static void a_read_past_the_end_of_a_file_is_an_error_not_a_part(void **unused)
{
	for (unsigned i = 0; block_io_list[i] != NULL; i++) {
		struct nvme_rig rig;

		(void)unused;
		nvme_rig_init(&rig);
		rig.config.io_ops = NULL;
		rig.config.io = block_io_list[i]->name;
		assert_int_equal(nvme_rig_open(&rig), 0);
		assert_int_equal(
			truncate(rig.path, (off_t)(SLOTS_OFFSET + NVME_RIG_SLOT_BYTES + 8192)), 0);
		assert_int_equal(nvme_rig_one(&rig, 0, TIER_READ), 0);
		assert_int_equal(nvme_rig_one(&rig, 1, TIER_READ), -EIO);
		nvme_rig_finish(&rig);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_is_read_back),
		cmocka_unit_test(registered_memory_gives_the_same_bytes),
		cmocka_unit_test(memory_that_cannot_be_registered_is_used_as_it_is),
		cmocka_unit_test(a_failed_op_says_so_and_the_next_one_works),
		cmocka_unit_test(errors_in_a_row_fence_the_device),
		cmocka_unit_test(scattered_errors_fence_only_within_the_window),
		cmocka_unit_test(
			a_device_that_ends_nothing_is_fenced_and_one_that_waits_for_work_is_not),
		cmocka_unit_test(done_runs_in_poll_only_and_a_full_device_says_again),
		cmocka_unit_test(the_loop_is_woken_through_the_descriptor),
		cmocka_unit_test(reads_go_first_and_writes_still_get_their_turn),
		cmocka_unit_test(a_filesystem_without_o_direct_is_used_buffered),
		cmocka_unit_test(a_read_past_the_end_of_a_file_is_an_error_not_a_part),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
