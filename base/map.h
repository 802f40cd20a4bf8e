/* base/map.h: mappings of shared memory that may lie in huge pages. Runs on: any thread. */
#ifndef KVTIER_BASE_MAP_H
#define KVTIER_BASE_MAP_H

#include <stdint.h>

#define MAP_HUGE_PAGE_BYTES (UINT64_C(2) << 20)

/*
 * Maps `bytes` of a file, shared, from its beginning, at a multiple of 2 MiB: only there huge pages
 * of the file can be huge pages of the mapping. MAP_FAILED with errno. Undone by munmap().
 */
void *map_shared_aligned(int fd, uint64_t bytes, int protection);
/* Puts every page of a writable mapping there, in huge pages where the system's setting allows it;
 * best effort, and blocks for as long as that takes (about 1 ms a MiB). */
void map_populate(void *memory, uint64_t bytes);

#endif
