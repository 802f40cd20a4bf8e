/* tests/sim/kernel_memory.c: shared memory (memfds, files on tmpfs) and where it is mapped: all
 * processes see it at the same address. */
#include "tests/sim/kernel_files.h"
#include "tests/sim/kernel_rooms.h"
#include "tests/sim/kernel_wraps.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MAPPINGS_MAX 128u
#define PIECE_BYTES_MIN 32768u /* a mapping of a process's own is whole pages, zeroed */

static struct mapping {
	struct process *process;
	struct memory *memory;
} mappings[MAPPINGS_MAX];

struct memory *memory_create(size_t bytes)
{
	struct memory *memory = __real_malloc(sizeof(*memory));

	assert(memory != NULL);
	memory->bytes = room_bytes(room_take(bytes, NULL));
	memory->size = bytes;
	memory->refs = 1;
	return memory;
}

void memory_release(struct memory *memory)
{
	if (memory == NULL || --memory->refs > 0)
		return;
	room_give(room_of(memory->bytes));
	__real_free(memory);
}

static struct mapping *mapping_at(const void *address)
{
	for (unsigned i = 0; i < MAPPINGS_MAX; i++) {
		const struct memory *memory = mappings[i].memory;

		if (memory != NULL && (const uint8_t *)address >= memory->bytes &&
		    (const uint8_t *)address < memory->bytes + memory->size &&
		    (kernel.process == NULL || mappings[i].process == kernel.process))
			return &mappings[i];
	}
	return NULL;
}

struct memory *memory_hold(const void *address)
{
	struct mapping *mapping = mapping_at(address);

	if (mapping == NULL)
		return NULL;
	mapping->memory->refs++;
	return mapping->memory;
}

static void mapping_end(struct mapping *mapping)
{
	memory_release(mapping->memory);
	mapping->memory = NULL;
	mapping->process = NULL;
}

void mappings_start(void)
{
	for (unsigned i = 0; i < MAPPINGS_MAX; i++)
		if (mappings[i].memory != NULL)
			mapping_end(&mappings[i]);
}

void mappings_end_of(struct process *process)
{
	for (unsigned i = 0; i < MAPPINGS_MAX; i++)
		if (mappings[i].memory != NULL && mappings[i].process == process)
			mapping_end(&mappings[i]);
}

unsigned mappings_count_of(const struct process *process)
{
	unsigned count = 0;

	for (unsigned i = 0; i < MAPPINGS_MAX; i++)
		count += mappings[i].memory != NULL && mappings[i].process == process;
	return count;
}

void *__wrap_map_shared_aligned(int fd, uint64_t bytes, int protection)
{
	struct object *object;
	unsigned place = 0;

	if (!fd_is_ours(fd))
		return __real_map_shared_aligned(fd, bytes, protection);
	object = object_of(fd, OBJECT_FILE);
	if (object == NULL || object->file->memory == NULL ||
	    bytes > object->file->memory->size)
		return MAP_FAILED;
	while (place < MAPPINGS_MAX && mappings[place].memory != NULL)
		place++;
	assert(place < MAPPINGS_MAX);
	object->file->memory->refs++;
	mappings[place] = (struct mapping){ .process = kernel.process,
					    .memory = object->file->memory };
	return object->file->memory->bytes;
}

void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
{
	if (kernel.process != NULL && fd_is_ours(fd))
		return __wrap_map_shared_aligned(fd, bytes, protection);
	if (kernel.process == NULL || fd >= 0)
		return __real_mmap(at, bytes, protection, flags, fd, offset);
	return process_allocate(kernel.process,
				bytes < PIECE_BYTES_MIN ? PIECE_BYTES_MIN : bytes, 4096,
				__builtin_return_address(0));
}

int __wrap_munmap(void *memory, size_t bytes)
{
	struct mapping *mapping = mapping_at(memory);

	if (mapping != NULL)
		mapping_end(mapping);
	else if (!process_owns(memory))
		return __real_munmap(memory, bytes);
	else if (process_bytes_of(memory) == (bytes < PIECE_BYTES_MIN ? PIECE_BYTES_MIN : bytes))
		(void)process_free(memory);
	return 0;
}

int __wrap_madvise(void *memory, size_t bytes, int advice)
{
	if (process_owns(memory) || mapping_at(memory) != NULL)
		return 0;
	return __real_madvise(memory, bytes, advice);
}

/* Locked pages could not be given back when their process ends. */
int __wrap_mlock(const void *memory, size_t bytes)
{
	return process_owns(memory) ? 0 : __real_mlock(memory, bytes);
}
