/* tests/daemon/catalog_rig.c: a catalogue link, and what ought to be in its catalogue. */
#include "tests/daemon/catalog_rig.h"

#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define WAIT_MS_MAX 30000
#define HOUR_US (UINT64_C(3600) * 1000000)

static struct catalog_record record_of(uint32_t slot, uint32_t version)
{
	struct catalog_record record;

	memset(&record, 0, sizeof(record));
	memset(record.device, 1 + (int)(slot % 2), sizeof(record.device));
	record.offset = (uint64_t)slot * 4096 * 300;
	memset(record.space, 7, sizeof(record.space));
	for (unsigned n = 0; n < sizeof(record.hash); n++)
		record.hash[n] = (uint8_t)(slot * 31 + version * 17 + n * n);
	memset(record.parent, (int)(version & 0xff), sizeof(record.parent));
	record.epoch = UINT64_C(0x100000000) + version;
	record.route_key = ~(uint64_t)slot * version;
	record.payload_bytes = UINT64_C(5000000000) + slot;
	record.stored_at_us = UINT64_C(1790000000000000) + slot;
	record.extent_generation = slot + 1;
	record.slot_generation = version;
	record.tokens = 16;
	record.first_position = slot % 977;
	record.slot_bytes = UINT32_C(4000000000) + slot;
	record.group = (uint16_t)(slot % 3);
	record.shard = 1;
	record.shards_count = 2;
	record.segments_count = 64;
	return record;
}

void catalog_rig_note_row(void *owner, const struct catalog_record *record)
{
	struct catalog_rig *rig = owner;
	uint32_t slot = record->extent_generation - 1;

	rig->scanned_rows++;
	if (slot >= CATALOG_RIG_SLOTS || rig->scanned[slot] != 0) {
		rig->scanned_wrong++;
		return;
	}
	struct catalog_record expected = record_of(slot, record->slot_generation);
	if (memcmp(&expected, record, sizeof(expected)) != 0)
		rig->scanned_wrong++;
	rig->scanned[slot] = record->slot_generation;
	if (rig->rows_until_kill > 0 && --rig->rows_until_kill == 0 &&
	    catalog_link_pid(rig->link) > 0)
		kill(catalog_link_pid(rig->link), SIGKILL);
}

void catalog_rig_note_end(void *owner, const struct catalog_scan_end *end)
{
	struct catalog_rig *rig = owner;

	rig->scans_done++;
	rig->end = *end;
}

static bool resend(void *owner, uint64_t *cursor, unsigned limit)
{
	struct catalog_rig *rig = owner;

	rig->resends++;
	for (unsigned put = 0; put < limit && *cursor < rig->slots; ++*cursor) {
		if (rig->versions[*cursor] == 0)
			continue;
		struct catalog_record record = record_of((uint32_t)*cursor, rig->versions[*cursor]);
		catalog_link_put(rig->link, &record);
		put++;
	}
	return *cursor == rig->slots;
}

void catalog_rig_open(struct catalog_rig *rig, const struct catalog_ops *ops, uint32_t pending_max)
{
	struct error error = { 0 };
	struct catalog_link_config config = {
		.path = rig->path,
		.ops = ops,
		.clock = &rig->clock,
		.stall_us_max = HOUR_US,
		.pending_max = pending_max,
		.resend = resend,
		.owner = rig,
	};

	memset(rig->scanned, 0, sizeof(rig->scanned));
	rig->scanned_rows = rig->scanned_wrong = 0;
	assert_int_equal(catalog_link_open(&rig->link, &config, &error), 0);
}

void catalog_rig_init(struct catalog_rig *rig, const struct catalog_ops *ops, uint32_t pending_max,
		      uint32_t slots)
{
	const char *temporary = getenv("TMPDIR");

	memset(rig, 0, sizeof(*rig));
	assert_true(slots <= CATALOG_RIG_SLOTS);
	rig->slots = slots;
	clock_virtual_init(&rig->clock, 1000000);
	random_init(&rig->random, 42);
	snprintf(rig->folder, sizeof(rig->folder), "%.40s/catalog-XXXXXX",
		 temporary != NULL ? temporary : "/tmp");
	assert_non_null(mkdtemp(rig->folder));
	snprintf(rig->path, sizeof(rig->path), "%s/catalog", rig->folder);
	catalog_rig_open(rig, ops, pending_max);
}

void catalog_rig_close(struct catalog_rig *rig)
{
	catalog_link_close(rig->link);
	rig->link = NULL;
}

void catalog_rig_finish(struct catalog_rig *rig)
{
	char command[160];

	catalog_rig_close(rig);
	catalog_simulated_forget_all();
	snprintf(command, sizeof(command), "rm -rf '%s'", rig->folder);
	assert_int_equal(system(command), 0);
}

bool catalog_rig_step(struct catalog_rig *rig)
{
	return catalog_link_step(rig->link, clock_now_us(&rig->clock));
}

void catalog_rig_turn(struct catalog_rig *rig)
{
	uint64_t now_us = clock_now_us(&rig->clock), next_us;

	if (catalog_rig_step(rig))
		return;
	next_us = catalog_link_next_us(rig->link, now_us);
	struct pollfd waiting = { .fd = catalog_link_fd(rig->link), .events = POLLIN };
	bool is_idle = catalog_link_is_idle(rig->link) &&
		       catalog_link_state(rig->link) == CATALOG_LINK_OK;
	if (waiting.fd < 0 || is_idle || catalog_link_pid(rig->link) == 0 ||
	    next_us <= now_us + CATALOG_BATCH_US) {
		clock_advance(&rig->clock, next_us > now_us ? next_us - now_us : 1000);
		return;
	}
	clock_advance(&rig->clock, 1000);
	if (catalog_link_sleep(rig->link))
		assert_int_equal(poll(&waiting, 1, WAIT_MS_MAX), 1);
	catalog_link_awake(rig->link);
}

void catalog_rig_settle(struct catalog_rig *rig)
{
	catalog_link_flush(rig->link);
	for (unsigned turn = 0; !catalog_link_is_idle(rig->link); turn++) {
		assert_true(turn < CATALOG_RIG_TURNS_MAX);
		catalog_rig_turn(rig);
	}
}

void catalog_rig_run_until_open(struct catalog_rig *rig)
{
	for (unsigned turn = 0; catalog_link_state(rig->link) != CATALOG_LINK_OK; turn++) {
		assert_true(turn < CATALOG_RIG_TURNS_MAX);
		catalog_rig_turn(rig);
	}
}

void catalog_rig_put(struct catalog_rig *rig, uint32_t slot)
{
	rig->versions[slot] = ++rig->versions_given[slot];
	struct catalog_record record = record_of(slot, rig->versions[slot]);

	catalog_link_put(rig->link, &record);
}

void catalog_rig_delete(struct catalog_rig *rig, uint32_t slot)
{
	struct catalog_record record = record_of(slot, 1);

	rig->versions[slot] = 0;
	catalog_link_delete(rig->link, record.device, record.offset);
}

void catalog_rig_change_some(struct catalog_rig *rig, unsigned count)
{
	for (unsigned n = 0; n < count; n++) {
		uint32_t slot = (uint32_t)random_below(&rig->random, rig->slots);
		if (rig->versions[slot] != 0 && random_below(&rig->random, 4) == 0)
			catalog_rig_delete(rig, slot);
		else
			catalog_rig_put(rig, slot);
	}
}

void catalog_rig_expect_scan(struct catalog_rig *rig)
{
	catalog_link_scan(rig->link, catalog_rig_note_row, catalog_rig_note_end);
	unsigned done = rig->scans_done + 1;
	for (unsigned turn = 0; rig->scans_done < done; turn++) {
		assert_true(turn < CATALOG_RIG_TURNS_MAX);
		catalog_rig_turn(rig);
	}
	assert_int_equal(rig->end.result, 0);
	assert_int_equal(rig->end.skipped, 0);
	assert_int_equal(rig->scanned_wrong, 0);
	assert_int_equal(rig->end.rows, rig->scanned_rows);
	assert_memory_equal(rig->scanned, rig->versions, sizeof(rig->scanned));
}
