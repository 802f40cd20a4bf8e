/*
 * tests/tiers/test_kill.c: a process is killed with its queue full of reads into shared memory.
 * Whoever then opens the device at once gets it only when the kernel has stopped writing.
 */
#include "tiers/nvme/block_io.h"
#include "tiers/nvme/extent_table.h"
#include "tiers/nvme/nvme.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define UNIT_BYTES (UINT64_C(1) << 20)
#define OPS 64u
#define ARENA_BYTES (OPS * UNIT_BYTES)
#define WAIT_US 1000u
#define STEPS_MAX 1000000u
#define LOCK_TRIES_MAX 60000u
#define ROUNDS 4u /* of reads that another kernel write would have to hide behind */

struct rig {
	char folder[64];
	char path[96];
	struct nvme_config config;
	uint8_t *arena; /* shared with the child */
	struct tier_op ops[OPS];
	struct error error;
};

static struct tier *the_tier;
static unsigned done_count;
static bool is_endless;

static void op_done(struct tier_op *op)
{
	done_count++;
	if (is_endless && tier_submit(the_tier, op) < 0)
		_exit(3);
}

static void rig_init(struct rig *rig, const char *io)
{
	const char *base = getenv("TMPDIR");

	memset(rig, 0, sizeof(*rig));
	snprintf(rig->folder, sizeof(rig->folder), "%s/kvtier-kill-XXXXXX",
		 base != NULL ? base : "/tmp");
	assert_non_null(mkdtemp(rig->folder));
	snprintf(rig->path, sizeof(rig->path), "%s/device", rig->folder);
	rig->config = (struct nvme_config){
		.path = rig->path,
		.bytes = SLOTS_OFFSET + ARENA_BYTES,
		.unit_bytes = UNIT_BYTES,
		.queue_depth = OPS,
		.ops_max = OPS,
		.io = io,
		.clock = clock_real(),
		.lock_wait_us_max = 30000000,
	};
	rig->arena = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
			  0);
	assert_true(rig->arena != MAP_FAILED);
	is_endless = false;
	done_count = 0;
}

static void rig_finish(struct rig *rig)
{
	munmap(rig->arena, ARENA_BYTES);
	unlink(rig->path);
	assert_int_equal(rmdir(rig->folder), 0);
}

static void reads_submit(struct rig *rig, uint8_t *memory)
{
	for (unsigned n = 0; n < OPS; n++) {
		rig->ops[n] = (struct tier_op){ .verb = TIER_READ,
						.offset = n * UNIT_BYTES,
						.memory = memory + n * UNIT_BYTES,
						.memory_bytes = UNIT_BYTES,
						.done = op_done };
		if (tier_submit(the_tier, &rig->ops[n]) < 0)
			_exit(4);
	}
}

/* The child: reads into the arena for ever, and says so once the queue is full. */
static void child_run(struct rig *rig, int ready_fd)
{
	const struct nvme_memory memory = { .start = rig->arena, .bytes = ARENA_BYTES };
	struct nvme_device *device;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (nvme_device_open(&device, &rig->config, &rig->error) < 0 ||
	    nvme_device_register(device, &memory, 1, &rig->error) < 0 ||
	    nvme_tier_create(&the_tier, &device, 1, &rig->error) < 0)
		_exit(2);
	is_endless = true;
	reads_submit(rig, rig->arena);
	for (unsigned step = 0; step < STEPS_MAX; step++) {
		if (!nvme_device_step(device, clock_now_us(clock_real())))
			nvme_device_wait(device, WAIT_US);
		tier_poll(the_tier, OPS);
		if (step == 4 && write(ready_fd, "r", 1) != 1)
			_exit(5);
	}
	_exit(6);
}

static pid_t child_start(struct rig *rig)
{
	int ready[2];
	char byte;
	pid_t child;

	assert_int_equal(pipe(ready), 0);
	child = fork();
	assert_true(child >= 0);
	if (child == 0)
		child_run(rig, ready[1]);
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return child;
}

static void device_make(struct rig *rig)
{
	struct nvme_device *device;

	assert_true(nvme_device_open(&device, &rig->config, &rig->error) >= 0);
	nvme_device_close(device);
}

/* Waits for the lock alone: an open would also read, and so stand in line behind the reads of the
 * dead. */
static void lock_wait(struct rig *rig, const struct block_io_ops *ops)
{
	const struct timespec step = { .tv_nsec = 500000 };
	struct block_disk disk;
	int result = -EBUSY;

	assert_int_equal(ops->disk_open(ops, &disk, rig->path, 0, &rig->error), 0);
	for (unsigned tries = 0; tries < LOCK_TRIES_MAX && result == -EBUSY; tries++) {
		result = ops->disk_lock(ops, &disk);
		if (result == -EBUSY)
			nanosleep(&step, NULL);
	}
	assert_int_equal(result, 0);
	ops->disk_close(ops, &disk);
}

/* Reads the whole device into memory of its own: time, and traffic behind which late writes would
 * have to stand. */
static void rounds_run(struct rig *rig, struct nvme_device *device)
{
	uint8_t *memory = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_true(memory != MAP_FAILED);
	assert_int_equal(nvme_tier_create(&the_tier, &device, 1, &rig->error), 0);
	for (unsigned round = 0; round < ROUNDS; round++) {
		done_count = 0;
		reads_submit(rig, memory);
		for (unsigned step = 0; step < STEPS_MAX && done_count < OPS; step++) {
			if (!nvme_device_step(device, clock_now_us(clock_real())))
				nvme_device_wait(device, WAIT_US);
			tier_poll(the_tier, OPS);
		}
		assert_int_equal(done_count, OPS);
	}
	tier_close(the_tier);
	munmap(memory, ARENA_BYTES);
}

static unsigned pages_changed(const uint8_t *arena, uint8_t value)
{
	unsigned changed = 0;

	for (uint64_t at = 0; at < ARENA_BYTES; at += 4096)
		changed += arena[at] != value || memcmp(arena + at, arena + at + 1, 4095) != 0;
	return changed;
}

static void a_kill_amid_reads_and_an_instant_restart_change_no_page_later(void **unused)
{
	(void)unused;
	for (unsigned i = 0; block_io_list[i] != NULL; i++) {
		struct nvme_device *device;
		struct rig rig;
		pid_t child;
		int status;

		rig_init(&rig, block_io_list[i]->name);
		device_make(&rig);
		child = child_start(&rig);
		assert_int_equal(kill(child, SIGKILL), 0);
		lock_wait(&rig, block_io_list[i]);
		memset(rig.arena, 0xc3, ARENA_BYTES);
		assert_true(nvme_device_open(&device, &rig.config, &rig.error) >= 0);
		assert_false(nvme_device_is_new(device));
		rounds_run(&rig, device);
		assert_int_equal(pages_changed(rig.arena, 0xc3), 0);
		nvme_device_close(device);
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		assert_int_equal(pages_changed(rig.arena, 0xc3), 0);
		rig_finish(&rig);
	}
}

static void a_device_of_a_living_process_is_refused_within_the_bound(void **unused)
{
	struct nvme_device *device;
	struct rig rig;
	pid_t child;
	int status;

	(void)unused;
	rig_init(&rig, "auto");
	device_make(&rig);
	child = child_start(&rig);
	rig.config.lock_wait_us_max = 10000;
	assert_int_equal(nvme_device_open(&device, &rig.config, &rig.error), -EBUSY);
	kill(child, SIGKILL);
	assert_int_equal(waitpid(child, &status, 0), child);
	rig_finish(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_kill_amid_reads_and_an_instant_restart_change_no_page_later),
		cmocka_unit_test(a_device_of_a_living_process_is_refused_within_the_bound),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
