/* daemon/operate_pin.c: PIN: blocks, or all of a space, are kept for a time, or no longer. */
#include "daemon/operate.h"

#include "base/log.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define PIN_LOOKS_MAX 65536u /* entries that one frame looks at */

_Static_assert(PIN_BLOCKS_MAX >= FRAME_KEYS_MAX, "the hashes of a frame are one lease");

/* The entries of one frame; one at a time, on the loop. */
static uint32_t wanted[PIN_BLOCKS_MAX];

void pins_tidy(struct daemon *daemon)
{
	struct pins *pins = &daemon->pins;
	unsigned kept = 0;

	for (unsigned i = 0; i < pins->count; i++)
		if (cache_lease_is_live(daemon->cache, pins->pins[i].lease))
			pins->pins[kept++] = pins->pins[i];
	pins->count = kept;
}

uint64_t pins_of_space(struct daemon *daemon, uint32_t space, uint64_t *out_until_us)
{
	uint64_t blocks = 0;

	pins_tidy(daemon);
	*out_until_us = 0;
	for (unsigned i = 0; i < daemon->pins.count; i++) {
		const struct pin *pin = &daemon->pins.pins[i];

		if (pin->space != space)
			continue;
		blocks += pin->blocks;
		if (pin->until_us > *out_until_us)
			*out_until_us = pin->until_us;
	}
	return blocks;
}

uint64_t pins_end(struct daemon *daemon, uint32_t space)
{
	uint64_t blocks = 0;

	for (unsigned i = 0; i < daemon->pins.count; i++) {
		struct pin *pin = &daemon->pins.pins[i];

		if (pin->space != space || !cache_lease_is_live(daemon->cache, pin->lease))
			continue;
		blocks += pin->blocks;
		cache_lease_release(daemon->cache, pin->lease);
	}
	pins_tidy(daemon);
	return blocks;
}

/* The entries that the frame names, or the next ones of the space. Returns how many. */
static unsigned wanted_find(const struct operation *operation, uint32_t space, uint32_t *cursor)
{
	struct cache *cache = operation->session->daemon->cache;
	const struct frame_operate *frame = operation->frame;
	unsigned count = 0;

	if (frame->count > 0) {
		struct cache_query query = {
			.space = space,
			.group = frame->group,
			.count = frame->count,
			.hashes = (const uint8_t(*)[BLOCK_HASH_BYTES])(frame + 1),
		};

		cache_find(cache, &query, wanted);
		for (unsigned i = 0; i < frame->count; i++)
			if (wanted[i] != ENTRY_NONE)
				wanted[count++] = wanted[i];
		*cursor = 0;
		return count;
	}
	for (unsigned looks = 0; looks < PIN_LOOKS_MAX && count < PIN_BLOCKS_MAX; looks++) {
		uint32_t entry = cache_entry_next(cache, cursor, 1);

		if (entry != ENTRY_NONE && cache_entry(cache, entry)->space == space &&
		    !cache_entry_is_forgotten(cache, entry) &&
		    cache_entry_tier(cache, entry) != TIERS)
			wanted[count++] = entry;
	}
	if (*cursor >= cache_entries_end(cache))
		*cursor = 0;
	return count;
}

/* As many of the wanted as half of their class allows. 0: none. */
static unsigned pin_add(const struct operation *operation, uint32_t space, unsigned count)
{
	struct daemon *daemon = operation->session->daemon;
	struct pin *pin = &daemon->pins.pins[daemon->pins.count];
	uint32_t tenant = cache_space_tenant(daemon->cache, space);
	unsigned granted = 0;
	uint64_t lease;

	assert(daemon->pins.count < PINS_MAX);
	while (count > 0) {
		uint64_t until_us = daemon->now_us + operation->frame->value;

		if (cache_lease_grant(daemon->cache, tenant, wanted, count, until_us, &lease,
				      &granted) < 0) {
			count /= 2;
			continue;
		}
		*pin = (struct pin){ .lease = lease, .until_us = until_us, .space = space,
				     .blocks = granted };
		daemon->pins.count++;
		return granted;
	}
	return 0;
}

/* The one space that the frame is about, or it was refused. */
static bool pin_space(const struct operation *operation, uint32_t *out_space)
{
	static const uint8_t any[SPACE_ID_BYTES];
	const struct frame_operate *frame = operation->frame;
	uint64_t request = frame->header.request;
	uint32_t cursor = 0;

	if (memcmp(frame->fingerprint, any, SPACE_ID_BYTES) == 0) {
		operate_refuse(operation->session, request, -EINVAL, "PIN needs a space");
		return false;
	}
	*out_space = operate_next_space(operation, &cursor);
	if (*out_space != UINT32_MAX)
		return true;
	operate_refuse(operation->session, request, -ENOENT, "there is no such space");
	return false;
}

static void unpin(const struct operation *operation, uint32_t space, struct json_text *json)
{
	struct daemon *daemon = operation->session->daemon;
	uint64_t ended = 0;
	uint32_t cursor = 0;

	if (operation->frame->count == 0) {
		ended = pins_end(daemon, space);
	} else {
		unsigned count = wanted_find(operation, space, &cursor);

		for (unsigned i = 0; i < count; i++)
			for (unsigned p = 0; p < daemon->pins.count; p++) {
				struct pin *pin = &daemon->pins.pins[p];
				bool was_in = pin->space == space && pin->blocks > 0 &&
					      cache_lease_release_entry(daemon->cache, pin->lease,
									wanted[i]);

				pin->blocks -= was_in;
				ended += was_in;
			}
	}
	log_line(LOG_INFO, "unpin", "blocks=%llu", (unsigned long long)ended);
	json_text_unsigned(json, "unpinned_blocks", ended);
}

/* Each tenant has an equal part of pins, as of leases. */
static bool pin_is_left(const struct daemon *daemon, uint32_t space)
{
	uint32_t tenant = cache_space_tenant(daemon->cache, space);
	unsigned count = 0;

	for (unsigned i = 0; i < daemon->pins.count; i++) {
		uint32_t other = daemon->pins.pins[i].space;

		count += cache_space_is_known(daemon->cache, other) &&
			 cache_space_tenant(daemon->cache, other) == tenant;
	}
	return count < PINS_MAX / daemon->tenants_count &&
	       lease_is_left(daemon, daemon_tenant((struct daemon *)daemon, tenant));
}

void operate_pin(const struct operation *operation)
{
	struct session *session = operation->session;
	struct daemon *daemon = session->daemon;
	const struct frame_operate *frame = operation->frame;
	uint32_t space, cursor = (uint32_t)frame->cursor;
	struct json_text json;

	if (!pin_space(operation, &space))
		return;
	pins_tidy(daemon);
	if (frame->value > PIN_US_MAX) {
		operate_refuse(session, frame->header.request, -EINVAL,
			       "the longest pin is 7 days");
		return;
	}
	if (frame->value > 0 && !pin_is_left(daemon, space)) {
		operate_refuse(session, frame->header.request, -EAGAIN,
			       "%u pins of up to %u blocks are there already: unpin something",
			       PINS_MAX / daemon->tenants_count, PIN_BLOCKS_MAX);
		return;
	}
	operate_answer_begin(daemon, &json);
	json_text_object_begin(&json, NULL);
	if (frame->value == 0) {
		unpin(operation, space, &json);
	} else {
		unsigned found = wanted_find(operation, space, &cursor);
		unsigned granted = pin_add(operation, space, found);

		json_text_unsigned(&json, "found_blocks", found);
		json_text_unsigned(&json, "pinned_blocks", granted);
		json_text_unsigned(&json, "for_us", frame->value);
		/* Half of a class is held: what comes next would be refused, too. */
		json_text_unsigned(&json, "next", granted < found ? 0 : cursor);
		log_line(LOG_INFO, "pin", "blocks=%u seconds=%llu", granted,
			 (unsigned long long)frame->value / 1000000);
	}
	json_text_object_end(&json);
	operate_answer_end(session, frame->header.request, &json);
}
