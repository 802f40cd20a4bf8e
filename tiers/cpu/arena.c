/*
 * tiers/cpu/arena.c: the host memory of one tenant.
 *
 * Head: [superblock, one page][canary, one page] ... [table 0 at 64 KiB][table 1 at 1 MiB + 64
 * KiB].
 */
#include "tiers/cpu/arena_parts.h"

#include "base/checksum.h"
#include "base/map.h"
#include "base/numa.h"
#include "base/random.h"
#include "tiers/nvme/extent_table.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define HUGE_BYTES (UINT64_C(2) << 20)
#define CANARY_OFFSET 4096u
/* Collapsing copies and searches for free memory: past this the rest stays in small pages. */
#define COLLAPSE_US_MAX (UINT64_C(5) * 1000000)
#define COLLAPSE_PIECE (UINT64_C(64) << 20)
#define LOOK_SAMPLES 4096u

/* Newer than the C library's headers; a kernel without them says EINVAL. */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

_Static_assert(ARENA_TABLE_STRIDE + ARENA_TABLE_OFFSET + ARENA_TABLE_BYTES <= ARENA_HEAD_BYTES,
	       "both tables fit into the head");
_Static_assert(sizeof(struct extent_table_header) + NVME_EXTENTS_MAX * sizeof(struct extent_row) <=
		       ARENA_TABLE_BYTES,
	       "a table copy fits into its place");
_Static_assert(ARENA_HEAD_BYTES % HUGE_BYTES == 0, "the units begin at a huge page");

uint32_t arena_superblock_crc(const struct arena_superblock *superblock)
{
	struct arena_superblock copy = *superblock;

	copy.crc = 0;
	return crc32c(&copy, sizeof(copy));
}

static uint8_t *table_at(const struct arena *arena, unsigned copy)
{
	return arena->start + ARENA_TABLE_OFFSET + copy * ARENA_TABLE_STRIDE;
}

static int config_check(const struct arena_config *config, struct error *error)
{
	const char *huge_pages = config->huge_pages;

	if (config->unit_bytes == 0 || config->unit_bytes % SLOT_ALIGN_BYTES != 0 ||
	    config->bytes == 0 || config->bytes % config->unit_bytes != 0)
		return error_set(
			error, -EINVAL,
			"an arena of %llu bytes is not a whole number of units of %llu bytes",
			(unsigned long long)config->bytes, (unsigned long long)config->unit_bytes);
	if (config->bytes / config->unit_bytes > NVME_EXTENTS_MAX)
		return error_set(error, -EINVAL,
				 "an arena has at most %u units: set a larger extent_bytes",
				 NVME_EXTENTS_MAX);
	if (strcmp(huge_pages, "auto") != 0 && strcmp(huge_pages, "always") != 0 &&
	    strcmp(huge_pages, "never") != 0)
		return error_set(error, -EINVAL, "huge_pages: \"%s\"; auto, always or never",
				 huge_pages);
	return 0;
}

int arena_map(struct arena *arena, const struct arena_config *config, struct error *error)
{
	uint64_t bytes = arena_mapping_bytes(arena);
	uint8_t *start = map_shared_aligned(arena->fd, bytes, PROT_READ | PROT_WRITE);

	if (start == MAP_FAILED)
		return error_set(error, -errno, "no room for an arena of %llu MiB: %s%s",
				 (unsigned long long)(bytes >> 20), strerror(errno),
				 error_advice(-errno));
	arena->start = start;
	arena->units = start + ARENA_HEAD_BYTES;
	arena->nodes.asked = config->nodes;
	if (config->nodes != 0)
		arena->nodes.result = numa_prefer(start, bytes, config->nodes);
	return 0;
}

/* Far memory is slower, not wrong: what fails here is said, and no reason not to start. */
static void nodes_look(struct arena *arena)
{
	struct arena_nodes *nodes = &arena->nodes;
	unsigned counts[NUMA_NODES_MAX];
	int looked;

	if (nodes->asked == 0 || nodes->result < 0)
		return;
	looked = numa_look(arena->start, arena_mapping_bytes(arena), LOOK_SAMPLES, counts);
	if (looked < 0) {
		nodes->result = looked;
		return;
	}
	nodes->looked = (unsigned)looked;
	for (unsigned node = 0; node < NUMA_NODES_MAX; node++) {
		if (counts[node] > 0)
			nodes->found |= UINT64_C(1) << node;
		if ((nodes->asked >> node & 1) != 0)
			nodes->near += counts[node];
	}
}

void arena_unmap(struct arena *arena)
{
	munmap(arena->start, arena_mapping_bytes(arena));
	arena->start = NULL;
	arena->units = NULL;
}

static uint64_t monotonic_us(void)
{
	return clock_now_us(clock_real());
}

/* Whether all of it lies in huge pages now. */
static bool arena_collapse(struct arena *arena)
{
	uint64_t bytes = arena_mapping_bytes(arena) / HUGE_BYTES * HUGE_BYTES;
	uint64_t began_us = monotonic_us();

	for (uint64_t at = 0; at < bytes; at += COLLAPSE_PIECE) {
		uint64_t piece = bytes - at < COLLAPSE_PIECE ? bytes - at : COLLAPSE_PIECE;

		if (madvise(arena->start + at, piece, MADV_COLLAPSE) < 0)
			return false;
		if (monotonic_us() - began_us > COLLAPSE_US_MAX)
			return at + piece == bytes;
	}
	return true;
}

/* Every page is there before the first block is: a store must never wait for, or die of, a page
 * fault. */
static int arena_populate(struct arena *arena, struct error *error)
{
	uint64_t bytes = arena_mapping_bytes(arena);

	if (madvise(arena->start, bytes, MADV_POPULATE_WRITE) == 0)
		return 0;
	if (errno != EINVAL)
		return error_set(error, -errno,
				 "the memory of an arena of %llu MiB is not there: %s%s",
				 (unsigned long long)(bytes >> 20), strerror(errno),
				 error_advice(-errno));
	for (uint64_t at = 0; at < bytes; at += SLOT_ALIGN_BYTES) {
		volatile uint8_t *page = arena->start + at;

		*page = *page; /* a warm arena keeps its bytes */
	}
	return 0;
}

/* Places the pages and says which they are. */
int arena_touch(struct arena *arena, const char *huge_pages, const char *pages, struct error *error)
{
	int result = arena_populate(arena, error);

	if (result < 0)
		return result;
	/* After the pages are there: what was never touched is not collapsed (EINVAL). */
	if (pages == NULL) {
		bool is_wanted = strcmp(huge_pages, "never") != 0;

		pages = is_wanted && arena_collapse(arena) ? "2 MiB pages (collapsed)"
							   : "4 KiB pages";
	}
	/* Nobody wants the cache in a core dump; nor should prompts be in one. */
	madvise(arena->start, arena_mapping_bytes(arena), MADV_DONTDUMP);
	arena->pages = pages;
	return 0;
}

/* A second description that cannot write, whatever is done with the descriptor. */
static int read_fd_open(struct arena *arena, struct error *error)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", arena->fd);
	arena->read_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (arena->read_fd < 0)
		return error_set(error, -errno, "%s cannot be opened read-only: %s", path,
				 strerror(errno));
	return 0;
}

void arena_superblock_write(struct arena *arena, const uint8_t *tenant_digest)
{
	struct arena_superblock superblock = { .magic = ARENA_MAGIC,
					       .version = ARENA_VERSION,
					       .bytes = arena->bytes,
					       .unit_bytes = arena->unit_bytes };

	random_system(arena->id, sizeof(arena->id));
	memcpy(superblock.id, arena->id, sizeof(superblock.id));
	memcpy(superblock.tenant, tenant_digest, sizeof(superblock.tenant));
	superblock.crc = arena_superblock_crc(&superblock);
	/* The memfd or file is new, so the tables behind it are zeros. */
	memcpy(arena->start, &superblock, sizeof(superblock));
}

static void canary_write(struct arena *arena)
{
	random_system(arena->start + CANARY_OFFSET, ARENA_CANARY_BYTES);
}

/* ---- memfd ---- */

static int memfd_size(int fd, uint64_t bytes)
{
	/* A client of the same user could open it again through /proc: the mode is what stops
	 * others. */
	if (fchmod(fd, 0600) < 0 || ftruncate(fd, (off_t)bytes) < 0)
		return -errno;
	return 0;
}

static int memfd_make(struct arena *arena, const struct arena_config *config, unsigned flags,
		      struct error *error)
{
	int result;

	arena->fd = memfd_create("kvtier-arena", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);
	if (arena->fd < 0)
		return error_set(error, -errno, "memfd_create: %s%s", strerror(errno),
				 errno == ENOSYS ? ": kvtierd needs Linux 3.17 or newer, and a "
						   "container that allows this call"
						 : "");
	result = memfd_size(arena->fd, arena_mapping_bytes(arena));
	if (result < 0)
		error_set(error, result, "an arena of %llu MiB: %s",
			  (unsigned long long)(arena_mapping_bytes(arena) >> 20),
			  strerror(-result));
	else
		result = arena_map(arena, config, error);
	if (result < 0) {
		close(arena->fd);
		arena->fd = -1;
	}
	return result;
}

static int memfd_seal(struct arena *arena, bool is_shared, struct error *error)
{
	unsigned seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

	/* Our mapping is there, so it keeps writing; a hole punched by anybody would part mapped
	 * from pinned pages. */
	if (!is_shared && fcntl(arena->fd, F_ADD_SEALS, seals | F_SEAL_FUTURE_WRITE) == 0)
		return 0;
	if ((is_shared || errno == EINVAL) && fcntl(arena->fd, F_ADD_SEALS, seals) == 0)
		return 0;
	return error_set(error, -errno, "the arena's memfd cannot be sealed: %s", strerror(errno));
}

static int memfd_open(struct arena *arena, const struct arena_config *config, struct error *error)
{
	bool may_be_huge = strcmp(config->huge_pages, "never") != 0 &&
			   arena_mapping_bytes(arena) % HUGE_BYTES == 0;
	const char *pages = NULL;
	int result = -EINVAL;

	if (may_be_huge)
		result = memfd_make(arena, config, MFD_HUGETLB | MFD_HUGE_2MB, NULL);
	if (result == 0)
		pages = "2 MiB pages (hugetlb)";
	else
		result = memfd_make(arena, config, 0, error);
	if (result < 0)
		return result;
	result = arena_touch(arena, config->huge_pages, pages, error);
	if (result < 0)
		goto close_memfd;
	if (strcmp(config->huge_pages, "always") == 0 && strcmp(arena->pages, "4 KiB pages") == 0) {
		result = error_set(
			error, -ENOMEM,
			"huge_pages: always, and there are none for %llu MiB: reserve %llu in vm.nr_hugepages",
			(unsigned long long)(arena_mapping_bytes(arena) >> 20),
			(unsigned long long)(arena_mapping_bytes(arena) / HUGE_BYTES));
		goto close_memfd;
	}
	result = memfd_seal(arena, config->is_shared, error);
	if (result < 0)
		goto close_memfd;
	arena_superblock_write(arena, config->tenant_digest);
	return 0;
close_memfd:
	arena_unmap(arena);
	close(arena->fd);
	arena->fd = -1;
	return result;
}

/* The copy that counts, or -1. */
static int table_choose(const struct arena *arena)
{
	bool is_valid[2];

	for (unsigned i = 0; i < 2; i++)
		is_valid[i] = extent_table_is_valid(table_at(arena, i), ARENA_TABLE_BYTES,
						    arena->id);
	if (is_valid[0] && is_valid[1])
		return extent_table_sequence(table_at(arena, 1)) >
		       extent_table_sequence(table_at(arena, 0));
	return is_valid[0] ? 0 : is_valid[1] ? 1 : -1;
}

int arena_open(struct arena *arena, const struct arena_config *config, struct error *error)
{
	bool has_file = config->file != NULL && config->file[0] != '\0';
	int result, chosen;

	memset(arena, 0, sizeof(*arena));
	arena->fd = -1;
	arena->read_fd = -1;
	result = config_check(config, error);
	if (result < 0)
		return result;
	arena->bytes = config->bytes;
	arena->unit_bytes = config->unit_bytes;
	result = has_file ? arena_file_open(arena, config, error)
			  : memfd_open(arena, config, error);
	if (result < 0)
		return result;
	result = read_fd_open(arena, error);
	if (result < 0) {
		arena_close(arena);
		return result;
	}
	nodes_look(arena);
	canary_write(arena);
	chosen = table_choose(arena);
	arena->sequence = chosen < 0 ? 0 : extent_table_sequence(table_at(arena, (unsigned)chosen));
	return 0;
}

void arena_close(struct arena *arena)
{
	if (arena == NULL)
		return;
	if (arena->start != NULL)
		arena_unmap(arena);
	else
		return;
	if (arena->read_fd >= 0)
		close(arena->read_fd);
	close(arena->fd);
	arena->read_fd = -1;
	arena->fd = -1;
}

unsigned arena_extents_read(const struct arena *arena, struct nvme_extent *out_extents,
			    unsigned extents_max)
{
	uint32_t units_count = (uint32_t)(arena->bytes / arena->unit_bytes);
	int chosen = table_choose(arena);
	int rows;

	if (chosen < 0)
		return 0;
	rows = extent_table_decode(table_at(arena, (unsigned)chosen), units_count, out_extents,
				   extents_max);
	return rows < 0 ? 0 : (unsigned)rows;
}

void arena_extents_write(struct arena *arena, const struct nvme_extent *extents, unsigned count)
{
	/* The copy that does not count is overwritten; a kill in the middle leaves it invalid, and
	 * the other stands. */
	unsigned copy = table_choose(arena) == 0 ? 1 : 0;
	uint64_t bytes = extent_table_bytes(count);

	assert(count <= NVME_EXTENTS_MAX);
	assert(bytes <= ARENA_TABLE_BYTES);
	arena->sequence++;
	extent_table_encode(table_at(arena, copy), bytes, arena->id, arena->sequence, extents,
			    count);
}

const uint8_t *arena_canary(const struct arena *arena)
{
	return arena->start + CANARY_OFFSET;
}

uint64_t arena_canary_offset(void)
{
	return CANARY_OFFSET;
}
