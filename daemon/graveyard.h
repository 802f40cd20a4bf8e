/*
 * daemon/graveyard.h: what became of blocks that are no longer here, for `kvtier explain`. A fixed
 * table, the newest death of a place wins; it may forget, it does not guess. Spaces go by their
 * fingerprints: a number may be another's by the time that somebody asks.
 * Runs on: the loop thread. Limit: GRAVES_MAX.
 */
#ifndef KVTIER_DAEMON_GRAVEYARD_H
#define KVTIER_DAEMON_GRAVEYARD_H

#include "base/error.h"
#include "proto/frames.h"

#include <stdint.h>

#ifdef KVTIER_SMALL /* tests/sim: pools that run empty */
#define GRAVES_MAX 256u
#else
#define GRAVES_MAX 65536u
#endif

struct graveyard;

must_check int graveyard_create(struct graveyard **out_graveyard, struct error *error);
void graveyard_destroy(struct graveyard *graveyard);
void graveyard_bury(struct graveyard *graveyard, const uint8_t *space, const uint8_t *hash,
		    enum frame_reason reason, uint64_t now_us);
/* FRAME_REASON_NEVER_STORED when nothing is known; *out_age_us since the death, else 0. */
enum frame_reason graveyard_find(const struct graveyard *graveyard, const uint8_t *space,
				 const uint8_t *hash, uint64_t now_us, uint64_t *out_age_us);

#endif
