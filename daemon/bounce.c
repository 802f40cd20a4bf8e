/* daemon/bounce.c: a ring of memory for what is written enciphered. */
#include "daemon/bounce.h"

#include "base/map.h"
#include "transfer/slot_header.h"

#include <assert.h>
#include <errno.h>
#include <sys/mman.h>

int bounce_pool_open(struct bounce_pool *pool, uint64_t bytes, struct error *error)
{
	void *memory;

	assert(bytes > 0 && bytes % SLOT_ALIGN_BYTES == 0);
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return error_set(error, -ENOMEM, "no memory for encryption_buffer_bytes (%llu)",
				 (unsigned long long)bytes);
	pool->memory = memory;
	pool->bytes = bytes;
	map_populate(memory, bytes);
	return 0;
}

void bounce_pool_close(struct bounce_pool *pool)
{
	if (pool->memory == NULL)
		return;
	assert(pool->count == 0);
	munmap(pool->memory, pool->bytes);
	pool->memory = NULL;
}

struct bounce *bounce_take(struct bounce_pool *pool, uint64_t bytes)
{
	struct bounce *bounce = &pool->bounces[(pool->first + pool->count) % BOUNCES_MAX];
	uint64_t at, skipped;

	assert(bytes > 0 && bytes <= pool->bytes && bytes % SLOT_ALIGN_BYTES == 0);
	/* From the start, so that what is as large as the pool fits whatever was there before. */
	if (pool->count == 0)
		pool->begin = pool->end = 0;
	at = pool->end % pool->bytes;
	skipped = bytes <= pool->bytes - at ? 0 : pool->bytes - at;
	if (pool->count == BOUNCES_MAX ||
	    pool->end - pool->begin + skipped + bytes > pool->bytes)
		return NULL;
	pool->end += skipped + bytes;
	pool->count++;
	*bounce = (struct bounce){ .memory = pool->memory + (at + skipped) % pool->bytes,
				   .end = pool->end, .is_taken = true };
	return bounce;
}

void bounce_give(struct bounce_pool *pool, struct bounce *bounce)
{
	assert(bounce->is_taken);
	bounce->is_taken = false;
	while (pool->count > 0 && !pool->bounces[pool->first].is_taken) {
		pool->begin = pool->bounces[pool->first].end;
		pool->first = (pool->first + 1) % BOUNCES_MAX;
		pool->count--;
	}
}
