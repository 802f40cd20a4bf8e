/* daemon/graveyard.c: a direct-mapped table of the last deaths. */
#include "daemon/graveyard.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct grave {
	uint64_t name;          /* of the hash, space mixed in; 0: empty */
	uint64_t died_us : 56;
	uint64_t reason : 8;
};

struct graveyard {
	struct grave graves[GRAVES_MAX];
};

static uint64_t name_of(const uint8_t *space, const uint8_t *hash)
{
	uint64_t name, space_name;

	memcpy(&name, hash, sizeof(name));
	memcpy(&space_name, space, sizeof(space_name));
	name ^= space_name * UINT64_C(0x9e3779b97f4a7c15);
	return name == 0 ? 1 : name;
}

int graveyard_create(struct graveyard **out_graveyard, struct error *error)
{
	struct graveyard *graveyard = calloc(1, sizeof(*graveyard));

	if (graveyard == NULL)
		return error_set(error, -ENOMEM, "no memory for %u graves", GRAVES_MAX);
	*out_graveyard = graveyard;
	return 0;
}

void graveyard_destroy(struct graveyard *graveyard)
{
	free(graveyard);
}

void graveyard_bury(struct graveyard *graveyard, const uint8_t *space, const uint8_t *hash,
		    enum frame_reason reason, uint64_t now_us)
{
	uint64_t name = name_of(space, hash);
	struct grave *grave = &graveyard->graves[name % GRAVES_MAX];

	assert(reason < FRAME_REASONS);
	grave->name = name;
	grave->died_us = now_us & ((UINT64_C(1) << 56) - 1);
	grave->reason = reason;
}

enum frame_reason graveyard_find(const struct graveyard *graveyard, const uint8_t *space,
				 const uint8_t *hash, uint64_t now_us, uint64_t *out_age_us)
{
	uint64_t name = name_of(space, hash);
	const struct grave *grave = &graveyard->graves[name % GRAVES_MAX];

	*out_age_us = 0;
	if (grave->name != name)
		return FRAME_REASON_NEVER_STORED;
	*out_age_us = now_us > grave->died_us ? now_us - grave->died_us : 0;
	return (enum frame_reason)grave->reason;
}
