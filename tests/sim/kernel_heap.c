/* tests/sim/kernel_heap.c: the memory of a process. It is gone at once when the process is, and the
 * next one begins with the same addresses: nothing depends on where memory lies. */
#include "tests/sim/kernel.h"
#include "tests/sim/kernel_rooms.h"
#include "tests/sim/kernel_sanitizer.h"
#include "tests/sim/kernel_wraps.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HEAP_BYTES (UINT64_C(64) << 20)
#define BIG_BYTES (UINT64_C(32) << 10) /* from here on whole pages */
#define PIECE_ALIGN 16u
#define FREED 0xdd
/* So much is not used again in one life: a use after free is not hidden by who has it now. */
#define QUARANTINE_BYTES (UINT64_C(16) << 20)
#define BIG 0u
#define BIG_FREED UINT32_MAX
#define CALLER __builtin_return_address(0)

/* Before each piece. */
struct piece {
	uint64_t bytes;  /* asked for */
	uint32_t before; /* from the place's start to the piece; BIG: number of the process */
	uint32_t order;  /* the place has 1 << order bytes; BIG: it is in a room */
};

_Static_assert(sizeof(struct piece) == PIECE_ALIGN, "a piece is aligned as malloc()'s");
_Static_assert(sizeof(struct piece) == ROOM_END_BYTES, "a room has place for it");

static uint8_t *heaps;

static void heaps_open(void)
{
	if (heaps != NULL)
		return;
	heaps = __real_mmap(NULL, PROCESSES_MAX * HEAP_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert(heaps != MAP_FAILED);
	for (unsigned i = 0; i < PROCESSES_MAX; i++) {
		kernel.processes[i].heap = heaps + i * HEAP_BYTES;
		list_init(&kernel.processes[i].rooms);
	}
}

bool process_owns(const void *memory)
{
	return is_in_rooms(memory) ||
	       (heaps != NULL && (const uint8_t *)memory >= heaps &&
		(const uint8_t *)memory < heaps + PROCESSES_MAX * HEAP_BYTES);
}

static struct piece *piece_of(const void *memory)
{
	return (struct piece *)(uintptr_t)memory - 1;
}

size_t process_bytes_of(const void *memory)
{
	return piece_of(memory)->bytes;
}

static void *big_allocate(struct process *process, size_t bytes, size_t align, const void *user)
{
	struct room *room = room_take(bytes, user);

	assert(align <= ROOM_PAGE_BYTES);
	list_append(&process->rooms, &room->link);
	*piece_of(room_bytes(room)) = (struct piece){
		.bytes = bytes,
		.before = (uint32_t)(process - kernel.processes),
		.order = BIG,
	};
	ASAN_POISON_MEMORY_REGION(room_bytes(room) + bytes,
				  room->pages * ROOM_PAGE_BYTES - bytes);
	return room_bytes(room);
}

static void *small_allocate(struct process *process, size_t bytes, size_t align)
{
	size_t needed = bytes + sizeof(struct piece) + (align > PIECE_ALIGN ? align : 0);
	unsigned order = needed <= 32 ? 5 : 64 - (unsigned)__builtin_clzll(needed - 1);
	uint8_t *place = process->free_pieces[order];

	if (place != NULL && (!IS_SANITIZED || process->small_bytes > QUARANTINE_BYTES)) {
		ASAN_UNPOISON_MEMORY_REGION(place, UINT64_C(1) << order);
		memcpy(&process->free_pieces[order], place, sizeof(void *));
	} else {
		place = process->heap + process->small_bytes;
		process->small_bytes += UINT64_C(1) << order;
		assert(process->small_bytes <= HEAP_BYTES);
		ASAN_UNPOISON_MEMORY_REGION(place, UINT64_C(1) << order);
	}
	uint8_t *memory = place + sizeof(struct piece);
	memory += (align - (uintptr_t)memory % align) % align;
	*piece_of(memory) = (struct piece){ .bytes = bytes,
					    .before = (uint32_t)(memory - place),
					    .order = order };
	memset(memory, 0, bytes);
	ASAN_POISON_MEMORY_REGION(memory + bytes, place + (UINT64_C(1) << order) - memory - bytes);
	return memory;
}

void *process_allocate(struct process *process, size_t bytes, size_t align, const void *user)
{
	heaps_open();
	process->pieces++;
	if (align < PIECE_ALIGN)
		align = PIECE_ALIGN;
	return bytes + align >= BIG_BYTES / 2 ? big_allocate(process, bytes, align, user)
					      : small_allocate(process, bytes, align);
}

/* Its place is not used again before the process has ended. */
static void big_free(struct piece *piece)
{
	assert(piece->order == BIG);
	kernel.processes[piece->before].pieces--;
	piece->order = BIG_FREED;
	memset(piece + 1, FREED,
	       piece->bytes < ROOM_PAGE_BYTES ? piece->bytes : ROOM_PAGE_BYTES);
	ASAN_POISON_MEMORY_REGION(piece + 1, piece->bytes);
}

bool process_free(void *memory)
{
	if (!process_owns(memory))
		return false;
	if (is_in_rooms(memory)) {
		big_free(piece_of(memory));
		return true;
	}
	struct process *process =
		&kernel.processes[((uint8_t *)memory - heaps) / HEAP_BYTES];
	process->pieces--;
	struct piece piece = *piece_of(memory);
	uint8_t *place = (uint8_t *)memory - piece.before;
	ASAN_UNPOISON_MEMORY_REGION(place, UINT64_C(1) << piece.order);
	memset(place, FREED, UINT64_C(1) << piece.order);
	memcpy(place, &process->free_pieces[piece.order], sizeof(void *));
	process->free_pieces[piece.order] = place;
	ASAN_POISON_MEMORY_REGION(place, UINT64_C(1) << piece.order);
	return true;
}

void process_memory_reset(struct process *process)
{
	struct list_node *node;

	process_ciphers_end(process);
	if (process->heap == NULL)
		return;
	while ((node = list_take_first(&process->rooms)) != NULL)
		room_give(list_item(node, struct room, link));
	ASAN_POISON_MEMORY_REGION(process->heap, process->small_bytes);
	process->small_bytes = 0;
	process->pieces = process->pieces_before = 0;
	memset(process->free_pieces, 0, sizeof(process->free_pieces));
}

/* ---- what the linker puts in the place of the C library's ---- */

void *__wrap_malloc(size_t bytes)
{
	return kernel.process != NULL ? process_allocate(kernel.process, bytes, PIECE_ALIGN, CALLER)
				      : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
	/* Every piece is zeroed, so that uninitialised memory cannot make histories differ. */
	if (kernel.process == NULL)
		return __real_calloc(count, bytes);
	return process_allocate(kernel.process, count * bytes, PIECE_ALIGN, CALLER);
}

void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
	return kernel.process != NULL ? process_allocate(kernel.process, bytes, align, CALLER)
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
