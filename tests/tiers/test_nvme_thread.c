/* tests/tiers/test_nvme_thread.c: the device on a thread of its own, as the daemon runs it; for the
 * thread sanitizer. */
#include "tiers/nvme/block_io.h"
#include "tiers/nvme/extent_table.h"
#include "tiers/nvme/nvme.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define UNIT_BYTES (UINT64_C(1) << 20)
#define UNITS 8u
#define SLOT_BYTES_TEST 69632u
#define OPS 32u
#define ROUNDS 20u
#define WAIT_US 10000000u /* far beyond the test: only a wake ends it in time */
#define POLL_MS 60000

static struct nvme_device *device;
static struct tier *tier;
static atomic_bool is_stopping;
static unsigned done_count, failed_count;

static void op_done(struct tier_op *op)
{
	done_count++;
	failed_count += op->result < 0;
}

static void *device_main(void *unused)
{
	(void)unused;
	while (!atomic_load(&is_stopping)) {
		if (!nvme_device_step(device, clock_now_us(clock_real())))
			nvme_device_wait(device, WAIT_US);
	}
	return NULL;
}

static void loop_until(unsigned count)
{
	while (done_count < count) {
		struct pollfd watched = { .fd = tier_fd(tier, 0), .events = POLLIN };

		if (tier_poll(tier, OPS) == 0 && tier_sleep(tier))
			assert_int_equal(poll(&watched, 1, POLL_MS), 1);
	}
}

static void ops_run(struct tier_op *ops, uint8_t *memory, enum tier_verb verb)
{
	unsigned until = done_count + OPS;

	for (unsigned n = 0; n < OPS; n++) {
		ops[n] = (struct tier_op){ .verb = verb,
					   .offset = (uint64_t)n * SLOT_BYTES_TEST,
					   .memory = memory + (size_t)n * SLOT_BYTES_TEST,
					   .memory_bytes = SLOT_BYTES_TEST,
					   .done = op_done };
		assert_int_equal(tier_submit(tier, &ops[n]), 0);
	}
	loop_until(until);
}

static void bytes_go_through_the_thread_and_no_wake_is_lost(void **unused)
{
	const char *base = getenv("TMPDIR");
	char folder[64], path[80];
	struct tier_op ops[OPS];
	struct error error;
	uint8_t *memory;

	(void)unused;
	memory = aligned_alloc(4096, OPS * SLOT_BYTES_TEST);
	assert_non_null(memory);
	snprintf(folder, sizeof(folder), "%s/kvtier-thread-XXXXXX", base != NULL ? base : "/tmp");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/device", folder);
	for (unsigned i = 0; block_io_list[i] != NULL; i++) {
		const struct nvme_config config = { .path = path,
						    .bytes = SLOTS_OFFSET + UNITS * UNIT_BYTES,
						    .unit_bytes = UNIT_BYTES,
						    .queue_depth = 8,
						    .ops_max = OPS,
						    .io = block_io_list[i]->name,
						    .clock = clock_real(),
						    .lock_wait_us_max = 10000000 };
		pthread_t thread;

		assert_true(nvme_device_open(&device, &config, &error) >= 0);
		assert_int_equal(nvme_tier_create(&tier, &device, 1, &error), 0);
		done_count = 0;
		failed_count = 0;
		atomic_store(&is_stopping, false);
		assert_int_equal(pthread_create(&thread, NULL, device_main, NULL), 0);
		for (unsigned round = 0; round < ROUNDS; round++) {
			memset(memory, (int)(round + 1), OPS * SLOT_BYTES_TEST);
			ops_run(ops, memory, TIER_WRITE);
			memset(memory, 0, OPS * SLOT_BYTES_TEST);
			ops_run(ops, memory, TIER_READ);
			assert_int_equal(memory[OPS * SLOT_BYTES_TEST - 1], round + 1);
			assert_memory_equal(memory, memory + 1, OPS * SLOT_BYTES_TEST - 1);
		}
		assert_int_equal(failed_count, 0);
		atomic_store(&is_stopping, true);
		nvme_device_poke(device);
		pthread_join(thread, NULL);
		assert_true(nvme_device_is_idle(device));
		tier_close(tier);
		nvme_device_close(device);
	}
	unlink(path);
	assert_int_equal(rmdir(folder), 0);
	free(memory);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_go_through_the_thread_and_no_wake_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
