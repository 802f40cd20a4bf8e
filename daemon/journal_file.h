/*
 * daemon/journal_file.h: the bytes of the journal. For journal*.c and their tests.
 * A file is a head and records, JOURNAL_RECORD_BYTES each. Each carries the file's random id and
 * its own number (the head has 0), so that a record that is missing, doubled, or of another file is
 * noticed. Pure functions; any thread.
 */
#ifndef KVTIER_DAEMON_JOURNAL_FILE_H
#define KVTIER_DAEMON_JOURNAL_FILE_H

#include "daemon/journal.h"

#include <stdbool.h>
#include <stdint.h>

/* The live floors: for each space and tenant the highest, as long as no wider one covers it. */
struct journal_floors {
	uint64_t all; /* 0: none */
	uint64_t reserved;
	uint32_t count;
	struct journal_record records[JOURNAL_LIVE_MAX]; /* SPACE and TENANT */
};

/* Raises; never lowers. When there is no room, the lower half of the tenant with the most spaces is
 * covered by a floor of that tenant. */
void journal_floors_raise(struct journal_floors *floors, const struct journal_record *record);
/* The highest floor that counts for the tenant's space; 0: none. */
uint64_t journal_floors_find(const struct journal_floors *floors, const uint8_t tenant[16],
			     const uint8_t space[SPACE_ID_BYTES]);
uint64_t journal_floors_highest(const struct journal_floors *floors);

void journal_head_pack(uint8_t bytes[JOURNAL_RECORD_BYTES], const uint8_t id[8]);
void journal_record_pack(uint8_t bytes[JOURNAL_RECORD_BYTES], const uint8_t id[8], uint64_t number,
			 const struct journal_record *record);
/* The head's id. */
must_check bool journal_head_unpack(const uint8_t bytes[JOURNAL_RECORD_BYTES], uint8_t out_id[8]);
/* False: damaged, of another version, of another file, or of another number (id NULL: any id and
 * number). */
must_check bool journal_record_unpack(const uint8_t bytes[JOURNAL_RECORD_BYTES], const uint8_t *id,
				      uint64_t number, struct journal_record *out_record);

#endif
