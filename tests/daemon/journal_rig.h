/*
 * tests/daemon/journal_rig.h: a journal in a folder of its own, what its last open said, and its
 * file as bytes. fsync and fdatasync of a program with this rig are the rig's: they wait for no
 * disk, count, and fail when told to.
 */
#ifndef KVTIER_TESTS_DAEMON_JOURNAL_RIG_H
#define KVTIER_TESTS_DAEMON_JOURNAL_RIG_H

#include "daemon/journal.h"
#include "daemon/journal_file.h"

#include <stdbool.h>

#define JOURNAL_RIG_SPACES 8u

struct journal_rig {
	char folder[64], path[128];
	struct journal *journal;
	struct journal_floors told; /* what the last open said */
	uint64_t epoch;
};

struct journal_image {
	uint8_t bytes[64 * JOURNAL_RECORD_BYTES];
	size_t count;
};

extern unsigned journal_rig_syncs, journal_rig_sync_that_fails; /* 0: none */

struct journal_rig *journal_rig_create(void);
void journal_rig_destroy(struct journal_rig *rig);
int journal_rig_open(struct journal_rig *rig, bool is_first_start);
void journal_rig_close(struct journal_rig *rig);
void journal_rig_reopen(struct journal_rig *rig);
int journal_rig_write(struct journal_rig *rig, enum journal_kind kind, unsigned tenant,
		      unsigned space, uint64_t floor);
/* Two tenants, four spaces each; raised floors among them. */
void journal_rig_fill(struct journal_rig *rig);
/* What the last open said is what journal_rig_fill() wrote. */
void journal_rig_expect_filled(const struct journal_rig *rig);
void journal_rig_expect_all_forgotten(struct journal_rig *rig);

struct journal_record journal_rig_record(enum journal_kind kind, unsigned tenant, unsigned space,
					 uint64_t floor);
/* What a reader of these floors forgets in this space. */
uint64_t journal_rig_floor(const struct journal_floors *floors, unsigned tenant, unsigned space);

void journal_image_read(const struct journal_rig *rig, struct journal_image *image);
void journal_image_write(const char *path, const struct journal_image *image, size_t count);

#endif
