/* tests/sim/kernel_rooms.c: whole pages that are used again and again. */
#include "tests/sim/kernel_rooms.h"
#include "tests/sim/kernel_sanitizer.h"
#include "tests/sim/kernel_wraps.h"

#include <assert.h>
#include <string.h>
#include <sys/mman.h>

#define ROOMS_BYTES (UINT64_C(64) << 30)
#define STEPS 4u /* sizes an octave */
#define LISTS 256u
#define PAGES_MAX (UINT64_C(1) << 18)
/* Up to here, writing is as fast as asking which of them are there. */
#define PAGES_SMALL 8u
/* Tables that are touched here and there would be there as a whole after many lives. */
#define PAGES_LARGE 1024u
#define PAGES_KEPT 64u

static uint8_t *rooms;
static uint64_t rooms_bytes;
static struct list free_rooms[LISTS]; /* by a hash of pages and user */

static void rooms_open(void)
{
	if (rooms != NULL)
		return;
	rooms = __real_mmap(NULL, ROOMS_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert(rooms != MAP_FAILED);
	for (unsigned i = 0; i < LISTS; i++)
		list_init(&free_rooms[i]);
}

bool is_in_rooms(const void *memory)
{
	return rooms != NULL && (const uint8_t *)memory >= rooms &&
	       (const uint8_t *)memory < rooms + ROOMS_BYTES;
}

/* Rounded up, so that there are few kinds of rooms. */
static uint64_t pages_for(uint64_t bytes)
{
	uint64_t pages = (bytes + ROOM_PAGE_BYTES - 1) / ROOM_PAGE_BYTES;
	uint64_t step = pages < STEPS ? 1 : (UINT64_C(1) << (63 - __builtin_clzll(pages))) / STEPS;

	return (pages + step - 1) / step * step;
}

static struct list *list_for(uint64_t pages, const void *user)
{
	uint64_t hash = (pages ^ (uintptr_t)user << 20) * UINT64_C(0x9e3779b97f4a7c15);

	return &free_rooms[hash >> 56];
}

uint8_t *room_bytes(struct room *room)
{
	return (uint8_t *)room + ROOM_PAGE_BYTES;
}

struct room *room_of(const void *first_byte)
{
	return (struct room *)((uintptr_t)first_byte - ROOM_PAGE_BYTES);
}

/* What nobody has touched is zero already. */
static void room_clear(struct room *room)
{
	static unsigned char is_there[PAGES_MAX];
	uint8_t *bytes = room_bytes(room);
	uint64_t count = 0;

	if (room->pages <= PAGES_SMALL) {
		memset(bytes, 0, room->pages * ROOM_PAGE_BYTES);
		return;
	}
	if (mincore(bytes, room->pages * ROOM_PAGE_BYTES, is_there) < 0)
		assert(!"mincore() of a room");
	for (const unsigned char *at = is_there, *end = is_there + room->pages;
	     (at = memchr(at, 1, (size_t)(end - at))) != NULL; at++, count++)
		memset(bytes + (uint64_t)(at - is_there) * ROOM_PAGE_BYTES, 0, ROOM_PAGE_BYTES);
	if (room->pages >= PAGES_LARGE && count > PAGES_KEPT)
		__real_madvise(bytes, room->pages * ROOM_PAGE_BYTES, MADV_DONTNEED);
}

static struct room *room_make(uint64_t pages, const void *user)
{
	struct room *room = (struct room *)(rooms + rooms_bytes);

	rooms_bytes += (pages + 1) * ROOM_PAGE_BYTES;
	assert(pages <= PAGES_MAX && rooms_bytes <= ROOMS_BYTES);
	*room = (struct room){ .pages = pages, .user = user };
	ASAN_POISON_MEMORY_REGION(room + 1, ROOM_PAGE_BYTES - sizeof(*room) - ROOM_END_BYTES);
	return room;
}

struct room *room_take(uint64_t bytes, const void *user)
{
	uint64_t pages = pages_for(bytes);
	struct list *list = list_for(pages, user);

	rooms_open();
	for (struct list_node *node = list_first(list); node != NULL;
	     node = list_after(list, node)) {
		struct room *room = list_item(node, struct room, link);

		if (room->pages != pages || room->user != user)
			continue;
		list_remove(list, node);
		ASAN_UNPOISON_MEMORY_REGION(room_bytes(room), room->pages * ROOM_PAGE_BYTES);
		room_clear(room);
		return room;
	}
	return room_make(pages, user);
}

void room_give(struct room *room)
{
	ASAN_POISON_MEMORY_REGION(room_bytes(room), room->pages * ROOM_PAGE_BYTES);
	list_prepend(list_for(room->pages, room->user), &room->link);
}
