/* base/map.c: reserves more than is needed, and gives back what lies before and behind. */
#include "base/map.h"

#include <assert.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

/* Newer than the oldest headers we build with. */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

void *map_shared_aligned(int fd, uint64_t bytes, int protection)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t whole = (bytes + page - 1) / page * page;
	uint8_t *reserved = mmap(NULL, whole + MAP_HUGE_PAGE_BYTES, PROT_NONE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t before;
	void *memory;

	assert(bytes > 0);
	if (reserved == MAP_FAILED)
		return MAP_FAILED;
	before = (MAP_HUGE_PAGE_BYTES - (uintptr_t)reserved % MAP_HUGE_PAGE_BYTES) %
		 MAP_HUGE_PAGE_BYTES;
	memory = mmap(reserved + before, bytes, protection, MAP_SHARED | MAP_FIXED, fd, 0);
	if (memory == MAP_FAILED) {
		munmap(reserved, whole + MAP_HUGE_PAGE_BYTES);
		return MAP_FAILED;
	}
	if (before > 0)
		munmap(reserved, before);
	munmap(reserved + before + whole, MAP_HUGE_PAGE_BYTES - before);
	return memory;
}

/* Never MADV_COLLAPSE, which puts pages together whatever the system's setting: it waits, with the
 * lock of the whole address space, until a kernel thread has run on every processor. Where all are
 * busy that took 13 seconds, and an engine could neither attach nor map memory meanwhile. */
void map_populate(void *memory, uint64_t bytes)
{
	(void)madvise(memory, bytes, MADV_HUGEPAGE);
	(void)madvise(memory, bytes, MADV_POPULATE_WRITE);
}
