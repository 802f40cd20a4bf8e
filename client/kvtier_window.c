/* client/kvtier_window.c: places in a store window. A ring: places are given back about in the
 * order they are taken. */
#include "client/client.h"

#include <assert.h>
#include <string.h>

void window_init(struct window *window, uint64_t bytes)
{
	memset(window, 0, sizeof(*window));
	window->bytes = bytes / CLIENT_WINDOW_ALIGN * CLIENT_WINDOW_ALIGN;
}

bool window_is_empty(const struct window *window)
{
	return window->first == window->last;
}

bool window_take(struct window *window, uint64_t bytes, uint32_t *out_place, uint64_t *out_offset)
{
	uint64_t needed = (bytes + CLIENT_WINDOW_ALIGN - 1) / CLIENT_WINDOW_ALIGN *
			  CLIENT_WINDOW_ALIGN;
	uint64_t offset, gap;
	struct window_place *place;

	assert(bytes > 0);
	assert(window->head - window->tail <= window->bytes);
	if (needed > window->bytes || window->first - window->last == CLIENT_WINDOW_PLACES)
		return false;
	if (window_is_empty(window))
		window->head = window->tail = 0;
	offset = window->head % window->bytes;
	gap = offset + needed > window->bytes ? window->bytes - offset : 0;
	if (window->head - window->tail + gap + needed > window->bytes)
		return false;
	place = &window->places[window->first % CLIENT_WINDOW_PLACES];
	place->bytes = gap + needed;
	place->is_free = false;
	window->head += place->bytes;
	*out_place = window->first++;
	*out_offset = gap > 0 ? 0 : offset;
	return true;
}

void window_give(struct window *window, uint32_t place)
{
	assert(window->first - place <= window->first - window->last && place != window->first);
	assert(!window->places[place % CLIENT_WINDOW_PLACES].is_free);
	window->places[place % CLIENT_WINDOW_PLACES].is_free = true;
	while (window->last != window->first &&
	       window->places[window->last % CLIENT_WINDOW_PLACES].is_free) {
		window->tail += window->places[window->last % CLIENT_WINDOW_PLACES].bytes;
		window->last++;
	}
}
