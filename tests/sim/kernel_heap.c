/* tests/sim/kernel_heap.c: the memory of a process. It is gone at once when the process is, and the
 * next one begins with the same addresses: nothing depends on where memory lies. */
#include "tests/sim/kernel.h"
#include "tests/sim/kernel_wraps.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HEAP_BYTES (UINT64_C(1) << 30)
#define BIG_START (UINT64_C(64) << 20)
#define BIG_BYTES (UINT64_C(32) << 10) /* from here on whole pages */
#define PAGE_BYTES UINT64_C(4096)
#define PIECE_ALIGN 16u
#define FREED 0xdd

/* Before each piece. */
struct piece {
	uint64_t bytes;  /* asked for */
	uint32_t before; /* from the room's start to the piece */
	uint32_t order;  /* the room has 1 << order bytes; 0: big */
};

_Static_assert(sizeof(struct piece) == PIECE_ALIGN, "a piece is aligned as malloc()'s");

static uint8_t *heaps;

static void heaps_open(void)
{
	if (heaps != NULL)
		return;
	heaps = __real_mmap(NULL, PROCESSES_MAX * HEAP_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert(heaps != MAP_FAILED);
	for (unsigned i = 0; i < PROCESSES_MAX; i++)
		kernel.processes[i].heap = heaps + i * HEAP_BYTES;
}

bool process_owns(const void *memory)
{
	return heaps != NULL && (const uint8_t *)memory >= heaps &&
	       (const uint8_t *)memory < heaps + PROCESSES_MAX * HEAP_BYTES;
}

static struct piece *piece_of(const void *memory)
{
	return (struct piece *)(uintptr_t)memory - 1;
}

size_t process_bytes_of(const void *memory)
{
	return piece_of(memory)->bytes;
}

/* Zeroed: nobody has written there since the process began. */
static void *big_allocate(struct process *process, size_t bytes, size_t align)
{
	size_t whole = (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES + PAGE_BYTES;
	uint8_t *room = process->heap + BIG_START + process->big_bytes;
	struct piece *piece = (struct piece *)(room + PAGE_BYTES) - 1;

	assert(align <= PAGE_BYTES && BIG_START + process->big_bytes + whole <= HEAP_BYTES);
	process->big_bytes += whole;
	*piece = (struct piece){ .bytes = bytes, .before = PAGE_BYTES };
	return piece + 1;
}

static void *small_allocate(struct process *process, size_t bytes, size_t align)
{
	size_t needed = bytes + sizeof(struct piece) + (align > PIECE_ALIGN ? align : 0);
	unsigned order = needed <= 32 ? 5 : 64 - (unsigned)__builtin_clzll(needed - 1);
	uint8_t *room = process->free_pieces[order];

	if (room != NULL) {
		memcpy(&process->free_pieces[order], room, sizeof(void *));
	} else {
		room = process->heap + process->small_bytes;
		process->small_bytes += UINT64_C(1) << order;
		assert(process->small_bytes <= BIG_START);
	}
	uint8_t *memory = room + sizeof(struct piece);
	memory += (align - (uintptr_t)memory % align) % align;
	*piece_of(memory) = (struct piece){ .bytes = bytes,
					    .before = (uint32_t)(memory - room),
					    .order = order };
	memset(memory, 0, bytes);
	return memory;
}

void *process_allocate(struct process *process, size_t bytes, size_t align)
{
	heaps_open();
	if (align < PIECE_ALIGN)
		align = PIECE_ALIGN;
	return bytes + align >= BIG_BYTES / 2 ? big_allocate(process, bytes, align)
					      : small_allocate(process, bytes, align);
}

bool process_free(void *memory)
{
	if (!process_owns(memory))
		return false;
	struct process *process =
		&kernel.processes[((uint8_t *)memory - heaps) / HEAP_BYTES];
	struct piece piece = *piece_of(memory);
	if (piece.order == 0) {
		size_t whole = (piece.bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;

		/* Its pages are given back, its addresses are not used again. */
		__real_madvise(memory, whole, MADV_DONTNEED);
		return true;
	}
	uint8_t *room = (uint8_t *)memory - piece.before;
	memset(room, FREED, UINT64_C(1) << piece.order);
	memcpy(room, &process->free_pieces[piece.order], sizeof(void *));
	process->free_pieces[piece.order] = room;
	return true;
}

void process_memory_reset(struct process *process)
{
	process_ciphers_end(process);
	if (process->heap != NULL && process->big_bytes > 0)
		__real_madvise(process->heap + BIG_START, process->big_bytes, MADV_DONTNEED);
	process->small_bytes = process->big_bytes = 0;
	memset(process->free_pieces, 0, sizeof(process->free_pieces));
}

/* ---- what the linker puts in the place of the C library's ---- */

void *__wrap_malloc(size_t bytes)
{
	return kernel.process != NULL ? process_allocate(kernel.process, bytes, PIECE_ALIGN)
				      : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
	/* Every piece is zeroed, so that uninitialised memory cannot make histories differ. */
	return kernel.process != NULL ? process_allocate(kernel.process, count * bytes, PIECE_ALIGN)
				      : __real_calloc(count, bytes);
}

void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
	return kernel.process != NULL ? process_allocate(kernel.process, bytes, align)
				      : __real_aligned_alloc(align, bytes);
}

void *__wrap_realloc(void *memory, size_t bytes)
{
	void *fresh;

	if (!process_owns(memory) && (memory != NULL || kernel.process == NULL))
		return __real_realloc(memory, bytes);
	fresh = __wrap_malloc(bytes);
	if (memory != NULL) {
		size_t old = process_bytes_of(memory);

		memcpy(fresh, memory, old < bytes ? old : bytes);
		(void)process_free(memory);
	}
	return fresh;
}

char *__wrap_strdup(const char *text)
{
	size_t bytes = strlen(text) + 1;

	return memcpy(__wrap_malloc(bytes), text, bytes);
}

void __wrap_free(void *memory)
{
	if (!process_free(memory))
		__real_free(memory);
}
