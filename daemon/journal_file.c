/* daemon/journal_file.c: the bytes of the journal, and what they mean together. */
#include "daemon/journal_file.h"

#include "base/checksum.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/*
 * All little-endian: magic 4, version 2, kind 2, file's id 8, number 8, tenant 16, space 16, floor
 * 8, zero 28, CRC 4.
 */
enum {
	AT_MAGIC = 0,
	AT_VERSION = 4,
	AT_KIND = 6,
	AT_ID = 8,
	AT_NUMBER = 16,
	AT_TENANT = 24,
	AT_SPACE = 40,
	AT_FLOOR = 56,
	AT_ZERO = 64,
	AT_CRC = 92
};

#define MAGIC 0x4a54564bu /* "KVTJ" */
#define VERSION 1u
#define KIND_HEAD 0xffffu
#define ID_BYTES 8u

_Static_assert(AT_CRC + 4 == JOURNAL_RECORD_BYTES, "the checksum ends a record");

static void number_put(uint8_t *at, uint64_t number, unsigned bytes)
{
	for (unsigned n = 0; n < bytes; n++)
		at[n] = (uint8_t)(number >> (8 * n));
}

static uint64_t number_get(const uint8_t *at, unsigned bytes)
{
	uint64_t number = 0;

	for (unsigned n = 0; n < bytes; n++)
		number |= (uint64_t)at[n] << (8 * n);
	return number;
}

static void frame_pack(uint8_t *bytes, unsigned kind, const uint8_t *id, uint64_t number)
{
	memset(bytes, 0, JOURNAL_RECORD_BYTES);
	number_put(bytes + AT_MAGIC, MAGIC, 4);
	number_put(bytes + AT_VERSION, VERSION, 2);
	number_put(bytes + AT_KIND, kind, 2);
	memcpy(bytes + AT_ID, id, ID_BYTES);
	number_put(bytes + AT_NUMBER, number, 8);
}

static void frame_seal(uint8_t *bytes)
{
	number_put(bytes + AT_CRC, crc32c(bytes, AT_CRC), 4);
}

static bool frame_is_good(const uint8_t *bytes)
{
	return number_get(bytes + AT_MAGIC, 4) == MAGIC &&
	       number_get(bytes + AT_VERSION, 2) == VERSION &&
	       number_get(bytes + AT_CRC, 4) == crc32c(bytes, AT_CRC);
}

void journal_head_pack(uint8_t bytes[JOURNAL_RECORD_BYTES], const uint8_t id[8])
{
	frame_pack(bytes, KIND_HEAD, id, 0);
	frame_seal(bytes);
}

void journal_record_pack(uint8_t bytes[JOURNAL_RECORD_BYTES], const uint8_t id[8], uint64_t number,
			 const struct journal_record *record)
{
	assert(number > 0 && record->floor > 0);
	frame_pack(bytes, record->kind, id, number);
	if (record->kind == JOURNAL_SPACE || record->kind == JOURNAL_TENANT)
		memcpy(bytes + AT_TENANT, record->tenant, sizeof(record->tenant));
	if (record->kind == JOURNAL_SPACE)
		memcpy(bytes + AT_SPACE, record->space, sizeof(record->space));
	number_put(bytes + AT_FLOOR, record->floor, 8);
	frame_seal(bytes);
}

bool journal_head_unpack(const uint8_t bytes[JOURNAL_RECORD_BYTES], uint8_t out_id[8])
{
	if (!frame_is_good(bytes) || number_get(bytes + AT_KIND, 2) != KIND_HEAD ||
	    number_get(bytes + AT_NUMBER, 8) != 0)
		return false;
	memcpy(out_id, bytes + AT_ID, ID_BYTES);
	return true;
}

bool journal_record_unpack(const uint8_t bytes[JOURNAL_RECORD_BYTES], const uint8_t *id,
			   uint64_t number, struct journal_record *out_record)
{
	uint64_t kind = number_get(bytes + AT_KIND, 2);

	if (!frame_is_good(bytes) || kind >= JOURNAL_KINDS ||
	    number_get(bytes + AT_FLOOR, 8) == 0 ||
	    number_get(bytes + AT_FLOOR, 8) > JOURNAL_FLOOR_MAX)
		return false;
	if (id != NULL && (memcmp(bytes + AT_ID, id, ID_BYTES) != 0 ||
			   number_get(bytes + AT_NUMBER, 8) != number))
		return false;
	out_record->kind = (enum journal_kind)kind;
	memcpy(out_record->tenant, bytes + AT_TENANT, sizeof(out_record->tenant));
	memcpy(out_record->space, bytes + AT_SPACE, sizeof(out_record->space));
	out_record->floor = number_get(bytes + AT_FLOOR, 8);
	return true;
}

/* ---- floors ---- */

/* A space's floor is its tenant's word alone: what another says of the same space is not about it.
 */
static bool is_same(const struct journal_record *a, const struct journal_record *b)
{
	return a->kind == b->kind && memcmp(a->tenant, b->tenant, sizeof(a->tenant)) == 0 &&
	       (a->kind != JOURNAL_SPACE || memcmp(a->space, b->space, sizeof(a->space)) == 0);
}

/* Whether `wide`, a tenant's, says at least as much as `narrow`, a space's. */
static bool covers(const struct journal_record *wide, const struct journal_record *narrow)
{
	return wide->kind == JOURNAL_TENANT && narrow->kind == JOURNAL_SPACE &&
	       wide->floor >= narrow->floor &&
	       memcmp(wide->tenant, narrow->tenant, sizeof(wide->tenant)) == 0;
}

/* Leaves out what the floor of everything, or `wide` (may be NULL), covers. */
static void floors_prune(struct journal_floors *floors, const struct journal_record *wide)
{
	uint32_t kept = 0;

	for (uint32_t n = 0; n < floors->count; n++) {
		struct journal_record *record = &floors->records[n];
		if (record->floor <= floors->all || (wide != NULL && covers(wide, record)))
			continue;
		floors->records[kept++] = *record;
	}
	floors->count = kept;
}

static bool is_covered(const struct journal_floors *floors, const struct journal_record *record)
{
	if (record->floor <= floors->all)
		return true;
	for (uint32_t n = 0; n < floors->count; n++)
		if (covers(&floors->records[n], record))
			return true;
	return false;
}

static int compare_floors(const void *a, const void *b)
{
	const struct journal_record *one = a, *other = b;

	return (one->floor > other->floor) - (one->floor < other->floor);
}

/* By tenant, its spaces first, by floor. */
static int compare_records(const void *a, const void *b)
{
	const struct journal_record *one = a, *other = b;
	int order = memcmp(one->tenant, other->tenant, sizeof(one->tenant));

	if (order == 0)
		order = (one->kind > other->kind) - (one->kind < other->kind);
	return order != 0 ? order : compare_floors(a, b);
}

/* Of the tenant with the most spaces in the sorted records: where they begin, and how many. */
static uint32_t most_spaces(const struct journal_floors *floors, uint32_t *out_count)
{
	const struct journal_record *records = floors->records;
	uint32_t first = 0, found = 0, found_count = 0;

	for (uint32_t n = 0; n < floors->count; n++) {
		if (records[n].kind != JOURNAL_SPACE)
			continue;
		if (memcmp(records[n].tenant, records[first].tenant, sizeof(records->tenant)) != 0)
			first = n;
		if (n - first + 1 > found_count) {
			found = first;
			found_count = n - first + 1;
		}
	}
	*out_count = found_count;
	return found;
}

/* Forgets more than was asked for: all epochs below the middle floor of the tenant that has the
 * most of them, which are also its oldest. No tenant makes another forget. */
static void floors_make_room(struct journal_floors *floors)
{
	uint32_t count;

	assert(floors->count == JOURNAL_LIVE_MAX);
	qsort(floors->records, floors->count, sizeof(floors->records[0]), compare_records);
	uint32_t first = most_spaces(floors, &count);
	if (count > 1) {
		struct journal_record wide = floors->records[first + count / 2];
		wide.kind = JOURNAL_TENANT;
		journal_floors_raise(floors, &wide);
	} else { /* of thousands of tenants: nobody is to be singled out */
		qsort(floors->records, floors->count, sizeof(floors->records[0]), compare_floors);
		floors->all = floors->records[JOURNAL_LIVE_MAX / 2].floor;
		floors_prune(floors, NULL);
	}
	assert(floors->count < JOURNAL_LIVE_MAX);
}

void journal_floors_raise(struct journal_floors *floors, const struct journal_record *record)
{
	if (record->kind == JOURNAL_RESERVED) {
		floors->reserved = record->floor > floors->reserved ? record->floor
								    : floors->reserved;
		return;
	}
	if (record->kind == JOURNAL_ALL) {
		floors->all = record->floor > floors->all ? record->floor : floors->all;
		floors_prune(floors, NULL);
		return;
	}
	if (is_covered(floors, record))
		return;
	for (uint32_t n = 0; n < floors->count; n++) {
		if (!is_same(&floors->records[n], record))
			continue;
		if (floors->records[n].floor < record->floor)
			floors->records[n].floor = record->floor;
		floors_prune(floors, record);
		return;
	}
	floors_prune(floors, record);
	if (floors->count == JOURNAL_LIVE_MAX)
		floors_make_room(floors);
	if (!is_covered(floors, record))
		floors->records[floors->count++] = *record;
}

uint64_t journal_floors_find(const struct journal_floors *floors, const uint8_t tenant[16],
			     const uint8_t space[SPACE_ID_BYTES])
{
	uint64_t floor = floors->all;

	for (uint32_t n = 0; n < floors->count; n++) {
		const struct journal_record *record = &floors->records[n];
		if (record->floor > floor &&
		    memcmp(record->tenant, tenant, sizeof(record->tenant)) == 0 &&
		    (record->kind == JOURNAL_TENANT ||
		     memcmp(record->space, space, sizeof(record->space)) == 0))
			floor = record->floor;
	}
	return floor;
}

uint64_t journal_floors_highest(const struct journal_floors *floors)
{
	uint64_t highest = floors->all > floors->reserved ? floors->all : floors->reserved;

	for (uint32_t n = 0; n < floors->count; n++)
		if (floors->records[n].floor > highest)
			highest = floors->records[n].floor;
	return highest;
}
