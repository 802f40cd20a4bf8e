/* tests/tiers/test_arena.c: what clients cannot do to an arena, and what survives a restart. */
#include "tiers/cpu/arena.h"

#include "base/numa.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define UNIT (UINT64_C(1) << 20)
#define UNITS 6u
#define SLOT 8192u

struct rig {
	char folder[64];
	char path[96];
	uint8_t tenant[16];
	struct arena_config config;
	struct arena arena;
	struct error error;
};

static void rig_init(struct rig *rig)
{
	memset(rig, 0, sizeof(*rig));
	snprintf(rig->folder, sizeof(rig->folder), "/dev/shm/kvtier-arena-XXXXXX");
	assert_non_null(mkdtemp(rig->folder));
	snprintf(rig->path, sizeof(rig->path), "%s/arena", rig->folder);
	memset(rig->tenant, 0x7e, sizeof(rig->tenant));
	rig->config = (struct arena_config){ .bytes = UNITS * UNIT,
					     .unit_bytes = UNIT,
					     .huge_pages = "auto",
					     .tenant_digest = rig->tenant };
}

static void rig_finish(struct rig *rig)
{
	arena_close(&rig->arena);
	unlink(rig->path);
	assert_int_equal(rmdir(rig->folder), 0);
}

static int rig_open(struct rig *rig)
{
	return arena_open(&rig->arena, &rig->config, &rig->error);
}

static uint64_t file_bytes(const struct arena *arena)
{
	return ARENA_HEAD_BYTES + arena->bytes;
}

static void nobody_else_can_change_an_arena(struct rig *rig)
{
	int fd = rig->arena.read_fd;
	off_t bytes = (off_t)file_bytes(&rig->arena);
	uint8_t byte = 1;

	assert_true(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
	assert_true(ftruncate(fd, 0) < 0);
	assert_true(ftruncate(fd, bytes + 4096) < 0);
	assert_true(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) < 0);
	assert_true(pwrite(fd, &byte, 1, 0) < 0);
	uint8_t *mapping = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd,
				(off_t)arena_canary_offset() & ~4095);
	assert_true(mapping != MAP_FAILED);
	assert_memory_equal(mapping + arena_canary_offset() % 4096, arena_canary(&rig->arena),
			    ARENA_CANARY_BYTES);
	assert_true(mprotect(mapping, 4096, PROT_READ | PROT_WRITE) < 0);
	munmap(mapping, 4096);
}

static void the_memory_is_ours_and_page_aligned_and_touched(void **unused)
{
	static const char *const ways[] = { "auto", "never" };

	(void)unused;
	for (unsigned i = 0; i < 2; i++) {
		struct rig rig;
		unsigned char resident[UNITS * UNIT / 4096];
		struct stat status;

		rig_init(&rig);
		rig.config.huge_pages = ways[i];
		assert_int_equal(rig_open(&rig), 0);
		assert_false(rig.arena.is_warm);
		assert_non_null(strstr(rig.arena.pages, "pages"));
		if (i == 1)
			assert_string_equal(rig.arena.pages, "4 KiB pages");
		assert_int_equal((uintptr_t)rig.arena.units % (2 << 20), 0);
		assert_int_equal(mincore(rig.arena.units, UNITS * UNIT, resident), 0);
		for (unsigned page = 0; page < UNITS * UNIT / 4096; page++)
			assert_true(resident[page] & 1);
		memset(rig.arena.units, 0x5a, UNITS * UNIT);
		assert_true((uint8_t *)arena_slot(&rig.arena, SLOT) == rig.arena.units + SLOT);
		assert_int_equal(fstat(rig.arena.read_fd, &status), 0);
		assert_int_equal(status.st_mode & 0777, 0600);
		assert_int_equal(status.st_size, file_bytes(&rig.arena));
		rig_finish(&rig);
	}
}

static void a_client_cannot_change_or_shrink_a_memfd_arena(void **unused)
{
	struct rig rig;
	char path[64];
	int fd;

	(void)unused;
	rig_init(&rig);
	assert_int_equal(rig_open(&rig), 0);
	nobody_else_can_change_an_arena(&rig);
	/* Even one who may open it again for writing (the same user). */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", rig.arena.read_fd);
	fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	assert_true(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
	assert_true(ftruncate(fd, 4096) < 0);
	assert_true(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) < 0);
	assert_true(pwrite(fd, "x", 1, 0) < 0);
	close(fd);
	rig.arena.units[0] = 3; /* we can */
	rig_finish(&rig);
}

static void a_client_cannot_change_or_shrink_a_file_arena(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	rig.config.file = rig.path;
	assert_int_equal(rig_open(&rig), 0);
	nobody_else_can_change_an_arena(&rig);
	rig_finish(&rig);
}

static void a_file_arena_is_warm_after_a_restart(void **unused)
{
	struct rig rig;
	uint8_t id[DEVICE_ID_BYTES], canary[ARENA_CANARY_BYTES];
	struct nvme_extent extents[2] = {
		{ .tenant = { 1 },
		  .first_unit = 0,
		  .units_count = 2,
		  .slot_bytes = SLOT,
		  .generation = 4 },
		{ .tenant = { 1 },
		  .first_unit = 3,
		  .units_count = 1,
		  .slot_bytes = 2 * SLOT,
		  .generation = 5 },
	};
	struct nvme_extent read_back[UNITS];

	(void)unused;
	rig_init(&rig);
	rig.config.file = rig.path;
	assert_int_equal(rig_open(&rig), 0);
	assert_false(rig.arena.is_warm);
	assert_int_equal(arena_extents_read(&rig.arena, read_back, UNITS), 0);
	arena_extents_write(&rig.arena, extents, 1);
	arena_extents_write(&rig.arena, extents, 2);
	memset(rig.arena.units, 0x42, UNITS * UNIT);
	memcpy(id, rig.arena.id, sizeof(id));
	memcpy(canary, arena_canary(&rig.arena), sizeof(canary));
	arena_close(&rig.arena);
	assert_int_equal(rig_open(&rig), 0);
	assert_true(rig.arena.is_warm);
	assert_string_equal(rig.arena.note, "");
	assert_memory_equal(rig.arena.id, id, sizeof(id));
	assert_memory_not_equal(arena_canary(&rig.arena), canary, sizeof(canary));
	assert_int_equal(rig.arena.units[UNITS * UNIT - 1], 0x42);
	assert_int_equal(arena_extents_read(&rig.arena, read_back, UNITS), 2);
	assert_int_equal(read_back[1].generation, 5);
	assert_int_equal(read_back[1].slot_bytes, 2 * SLOT);
	assert_int_equal(rig.arena.sequence, 2);
	rig_finish(&rig);
}

static void a_table_killed_in_the_middle_leaves_the_one_before(void **unused)
{
	struct rig rig;
	struct nvme_extent extent = { .units_count = 1, .slot_bytes = SLOT };
	struct nvme_extent read_back[UNITS];
	uint8_t *table[2];

	(void)unused;
	rig_init(&rig);
	assert_int_equal(rig_open(&rig), 0);
	table[0] = rig.arena.start + (64 << 10);
	table[1] = table[0] + (1 << 20);
	for (uint32_t generation = 1; generation <= 6; generation++) {
		uint8_t *written = table[(generation + 1) % 2];

		extent.generation = generation;
		arena_extents_write(&rig.arena, &extent, 1);
		assert_int_equal(arena_extents_read(&rig.arena, read_back, UNITS), 1);
		assert_int_equal(read_back[0].generation, generation);
		/* As if the kill had come before the last byte of it. */
		written[64 + 31] ^= 1;
		assert_int_equal(arena_extents_read(&rig.arena, read_back, UNITS), generation > 1);
		if (generation > 1)
			assert_int_equal(read_back[0].generation, generation - 1);
		written[64 + 31] ^= 1;
	}
	rig_finish(&rig);
}

static void what_does_not_fit_is_started_anew_and_old_mappings_live_on(void **unused)
{
	(void)unused;
	for (unsigned change = 0; change < 5; change++) {
		struct rig rig;
		uint8_t *old;
		int old_fd;

		rig_init(&rig);
		rig.config.file = rig.path;
		assert_int_equal(rig_open(&rig), 0);
		rig.arena.units[0] = 0x66;
		old_fd = dup(rig.arena.read_fd);
		old = mmap(NULL, file_bytes(&rig.arena), PROT_READ, MAP_SHARED, old_fd, 0);
		assert_true(old != MAP_FAILED);
		if (change == 3)
			rig.arena.start[9] ^= 1;
		arena_close(&rig.arena);
		if (change == 0)
			rig.config.bytes -= UNIT;
		if (change == 1)
			rig.config.unit_bytes *= 2;
		if (change == 2)
			rig.tenant[0]++;
		if (change == 4)
			assert_int_equal(truncate(rig.path, ARENA_HEAD_BYTES), 0);
		assert_int_equal(rig_open(&rig), 0);
		assert_false(rig.arena.is_warm);
		assert_non_null(strstr(rig.arena.note, "anew"));
		assert_int_equal(rig.arena.units[0], 0);
		if (change != 4)
			assert_int_equal(old[ARENA_HEAD_BYTES], 0x66);
		munmap(old, ARENA_HEAD_BYTES + UNITS * UNIT);
		close(old_fd);
		rig_finish(&rig);
	}
}

static void an_arena_in_use_is_refused_with_words(void **unused)
{
	struct rig rig;
	struct arena second;

	(void)unused;
	rig_init(&rig);
	rig.config.file = rig.path;
	assert_int_equal(rig_open(&rig), 0);
	rig.config.lock_wait_us_max = 4000;
	assert_int_equal(arena_open(&second, &rig.config, &rig.error), -EBUSY);
	assert_non_null(strstr(rig.error.text, "in use"));
	arena_close(&second);
	rig_finish(&rig);
}

static void impossible_settings_are_refused_with_words(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	rig.config.bytes += 4096;
	assert_int_equal(rig_open(&rig), -EINVAL);
	rig.config.bytes = UNITS * UNIT;
	rig.config.huge_pages = "sometimes";
	assert_int_equal(rig_open(&rig), -EINVAL);
	assert_non_null(strstr(rig.error.text, "sometimes"));
	rig.config.huge_pages = "never";
	rig.config.file = "/nonexistent/arena";
	assert_int_equal(rig_open(&rig), -ENOENT);
	/* More than the tmpfs has: an answer, not SIGBUS later. */
	rig.config.file = rig.path;
	rig.config.unit_bytes = UINT64_C(1) << 32;
	rig.config.bytes = UINT64_C(1) << 44;
	assert_true(rig_open(&rig) < 0);
	assert_true(strlen(rig.error.text) > 0);
	assert_true(access(rig.path, F_OK) < 0);
	rig_finish(&rig);
}

static void what_is_no_arena_of_ours_is_never_removed(void **unused)
{
	struct rig rig;
	char aside[128], on_disk[] = "/tmp/kvtier-arena-XXXXXX";
	struct stat status;
	int fd;

	(void)unused;
	rig_init(&rig);
	rig.config.file = rig.path;
	assert_int_equal(mkfifo(rig.path, 0600), 0);
	assert_true(rig_open(&rig) < 0);
	assert_int_equal(lstat(rig.path, &status), 0);
	assert_true(S_ISFIFO(status.st_mode));
	unlink(rig.path);
	assert_int_equal(symlink("/dev/shm", rig.path), 0);
	assert_int_equal(rig_open(&rig), -ELOOP);
	unlink(rig.path);
	/* A file of zeros on a disk. */
	fd = mkstemp(on_disk);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 8192), 0);
	close(fd);
	rig.config.file = on_disk;
	if (rig_open(&rig) == -EINVAL) {
		assert_non_null(strstr(rig.error.text, "tmpfs"));
		assert_int_equal(stat(on_disk, &status), 0);
		assert_int_equal(status.st_size, 8192);
	}
	arena_close(&rig.arena);
	unlink(on_disk);
	/* Somebody's file in memory is moved aside. */
	rig.config.file = rig.path;
	fd = open(rig.path, O_CREAT | O_WRONLY, 0600);
	assert_int_equal(write(fd, "somebody's data", 15), 15);
	close(fd);
	assert_int_equal(rig_open(&rig), 0);
	snprintf(aside, sizeof(aside), "%s.unreadable", rig.path);
	assert_int_equal(stat(aside, &status), 0);
	assert_int_equal(status.st_size, 15);
	unlink(aside);
	rig_finish(&rig);
}

/* Far memory is no reason not to start. */
static void pages_lie_on_the_nodes_that_are_asked_for(void **unused)
{
	uint64_t there = numa_nodes_with_memory(NUMA_NODE_FOLDER);

	(void)unused;
	if (!numa_is_built_in() || there == 0)
		skip();
	for (unsigned is_file = 0; is_file < 2; is_file++) {
		struct rig rig;

		rig_init(&rig);
		rig.config.file = is_file ? rig.path : NULL;
		assert_int_equal(rig_open(&rig), 0);
		assert_int_equal(rig.arena.nodes.asked, 0);
		assert_int_equal(rig.arena.nodes.looked, 0);
		arena_close(&rig.arena);
		unlink(rig.path);
		rig.config.nodes = there;
		assert_int_equal(rig_open(&rig), 0);
		assert_int_equal(rig.arena.nodes.asked, there);
		if (rig.arena.nodes.result == 0) {
			assert_true(rig.arena.nodes.looked > 0);
			assert_int_equal(rig.arena.nodes.near, rig.arena.nodes.looked);
			assert_int_equal(rig.arena.nodes.found & ~there, 0);
		} else {
			assert_true(rig.arena.nodes.result == -EPERM ||
				    rig.arena.nodes.result == -ENOSYS);
		}
		arena_close(&rig.arena);
		unlink(rig.path);
		rig.config.nodes = UINT64_C(1) << 63;
		assert_int_equal(rig_open(&rig), 0);
		assert_true(rig.arena.nodes.result < 0);
		rig_finish(&rig);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_memory_is_ours_and_page_aligned_and_touched),
		cmocka_unit_test(a_client_cannot_change_or_shrink_a_memfd_arena),
		cmocka_unit_test(a_client_cannot_change_or_shrink_a_file_arena),
		cmocka_unit_test(a_file_arena_is_warm_after_a_restart),
		cmocka_unit_test(a_table_killed_in_the_middle_leaves_the_one_before),
		cmocka_unit_test(what_does_not_fit_is_started_anew_and_old_mappings_live_on),
		cmocka_unit_test(an_arena_in_use_is_refused_with_words),
		cmocka_unit_test(impossible_settings_are_refused_with_words),
		cmocka_unit_test(what_is_no_arena_of_ours_is_never_removed),
		cmocka_unit_test(pages_lie_on_the_nodes_that_are_asked_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
