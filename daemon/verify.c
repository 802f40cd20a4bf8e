/* daemon/verify.c: opens what the settings name, and judges every slot. */
#include "daemon/verify_parts.h"

#include "base/checksum.h"
#include "daemon/fingerprint.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>

#define BATCH_BYTES (UINT64_C(8) << 20)
/* Between two looks at a slot: writes under way end within it. */
#define PAUSE_STOPPED_US 100000u
#define PAUSE_RUNNING_US 1000000u
/* A slot that is another one at each look is in flux for good. */
#define LOOKS_MAX 10u
#define PATH_BYTES (2 * SETTINGS_PATH_BYTES)

const char *verify_kind_name(enum verify_kind kind)
{
	static const char *const names[VERIFY_KINDS] = { "good",    "stale",   "empty",	    "sealed",
							 "in_flux", "damaged", "unreadable" };

	assert(kind < VERIFY_KINDS);
	return names[kind];
}

int verify_status(const struct verify_result *result)
{
	if (result->failures > 0 || result->counts.slots[VERIFY_UNREADABLE] > 0)
		return 3;
	return result->counts.slots[VERIFY_DAMAGED] > 0 || result->counts.heads_damaged > 0 ||
			       result->journal_is_damaged
		       ? 1
		       : 0;
}

/* ---- one slot ---- */

/* No magic: never written, or cleared. But a header whose only fault is its magic was one. */
static bool magic_is_damaged(const struct slot_header *header)
{
	struct slot_header whole;

	memcpy(&whole, header, sizeof(whole));
	uint32_t crc = whole.identity.crc;
	if (crc == 0 || whole.identity.segments_count < 1 ||
	    whole.identity.segments_count > SLOT_SEGMENTS_MAX || whole.identity.payload_bytes == 0)
		return false;
	slot_identity_seal(&whole);
	return whole.identity.crc == crc;
}

static enum verify_kind slot_judge(const struct verify *verify, const struct look *look,
				   const struct suspect *place, const struct slot_header *header)
{
	struct slot_expectation expected = {
		.device = look->id,
		.offset = place->offset,
		.slot_bytes = place->slot_bytes,
		.extent_generation = place->extent_generation,
	};
	const struct slot_identity *identity = &header->identity;

	switch (slot_header_check(header, look->tier, &expected)) {
	case SLOT_EMPTY:
		return magic_is_damaged(header) ? VERIFY_DAMAGED : VERIFY_EMPTY;
	case SLOT_STALE:
		return VERIFY_STALE;
	case SLOT_DAMAGED:
		return VERIFY_DAMAGED;
	default:   /* good; what needs a key is not asked here */
		break;
	}
	if (verify->has_floors &&
	    (identity->epoch > verify->epoch ||
	     identity->epoch <
		     journal_floors_find(&verify->floors, place->tenant, identity->space)))
		return VERIFY_STALE;
	if (identity->key_id != 0)
		return VERIFY_SEALED;
	return slot_payload_check(header) == SLOT_GOOD ? VERIFY_GOOD : VERIFY_DAMAGED;
}

static void slot_count(struct verify *verify, const struct suspect *place, enum verify_kind kind)
{
	verify->parts[place->part].counts.slots[kind]++;
	verify->result->counts.slots[kind]++;
	if (kind == VERIFY_DAMAGED)
		report_damaged(verify, place);
}

/* ---- the second look ---- */

static void pause_real(uint64_t us)
{
	struct timespec pause = { .tv_sec = (time_t)(us / 1000000),
				  .tv_nsec = (long)(us % 1000000) * 1000 };

	nanosleep(&pause, NULL);
}

static bool extent_is_there(const struct look *look, const struct suspect *suspect)
{
	for (unsigned i = 0; i < look->extents_count; i++)
		if (look->extents[i].first_unit == suspect->first_unit &&
		    look->extents[i].generation == suspect->extent_generation)
			return true;
	return false;
}

/* Whether it is to be looked at once more. */
static bool suspect_again(struct verify *verify, struct suspect *suspect, bool is_last)
{
	struct look *look = &verify->parts[suspect->part].look;
	enum verify_kind kind = VERIFY_IN_FLUX;

	if (!extent_is_there(look, suspect)) {
		slot_count(verify, suspect, VERIFY_IN_FLUX);
		return false;
	}
	if (look_read(look, suspect->offset, verify->buffer, suspect->slot_bytes) < 0) {
		slot_count(verify, suspect, VERIFY_UNREADABLE);
		return false;
	}
	if (slot_judge(verify, look, suspect, (struct slot_header *)verify->buffer) ==
	    VERIFY_DAMAGED) {
		uint32_t crc = crc32c(verify->buffer, suspect->slot_bytes);

		kind = crc == suspect->crc ? VERIFY_DAMAGED : VERIFY_IN_FLUX;
		suspect->crc = crc;
		if (kind == VERIFY_IN_FLUX && !is_last)
			return true;
	}
	slot_count(verify, suspect, kind);
	return false;
}

static int suspects_settle(struct verify *verify)
{
	const struct verify_options *options = verify->options;
	uint64_t pause_us = verify->result->is_running ? PAUSE_RUNNING_US : PAUSE_STOPPED_US;
	int result = 0;

	for (unsigned looks = 1; verify->suspects_count > 0; looks++) {
		unsigned kept = 0;

		if (options->pause != NULL)
			options->pause(options->owner, pause_us);
		else
			pause_real(pause_us);
		for (unsigned i = 0; result == 0 && i < verify->parts_count; i++)
			if (verify->parts[i].is_open)
				result = look_tables(&verify->parts[i].look);
		if (result < 0)
			return result;
		for (unsigned i = 0; i < verify->suspects_count; i++)
			if (suspect_again(verify, &verify->suspects[i], looks == LOOKS_MAX))
				verify->suspects[kept++] = verify->suspects[i];
		verify->suspects_count = kept;
	}
	return 0;
}

/* ---- all slots ---- */

static int buffer_make(struct verify *verify, uint64_t bytes)
{
	if (bytes <= verify->buffer_bytes)
		return 0;
	free(verify->buffer);
	verify->buffer_bytes = 0;
	verify->buffer = aligned_alloc(SLOT_ALIGN_BYTES, bytes);
	if (verify->buffer == NULL)
		return -ENOMEM;
	verify->buffer_bytes = bytes;
	return 0;
}

static void slot_look(struct verify *verify, const struct suspect *place, const uint8_t *bytes)
{
	const struct look *look = &verify->parts[place->part].look;
	enum verify_kind kind =
		slot_judge(verify, look, place, (const struct slot_header *)bytes);

	if (kind != VERIFY_DAMAGED) {
		slot_count(verify, place, kind);
		return;
	}
	verify->suspects[verify->suspects_count] = *place;
	verify->suspects[verify->suspects_count++].crc = crc32c(bytes, place->slot_bytes);
}

/* Some slots that lie one behind the other. What cannot be read at once is read one by one. */
static void batch_look(struct verify *verify, struct suspect *place, uint64_t count)
{
	struct verify_part *part = &verify->parts[place->part];
	uint64_t bytes = count * place->slot_bytes;
	bool is_read = look_read(&part->look, place->offset, verify->buffer, bytes) == 0;

	for (uint64_t i = 0; i < count; i++, place->offset += place->slot_bytes) {
		uint8_t *slot = verify->buffer + i * place->slot_bytes;

		if (!is_read &&
		    look_read(&part->look, place->offset, slot, place->slot_bytes) < 0)
			slot_count(verify, place, VERIFY_UNREADABLE);
		else
			slot_look(verify, place, slot);
	}
	part->counts.bytes += bytes;
	verify->result->counts.bytes += bytes;
	report_progress(verify, false);
}

static uint64_t extent_slots(const struct look *look, const struct nvme_extent *extent)
{
	return extent->units_count * look->unit_bytes / extent->slot_bytes;
}

static int extent_look(struct verify *verify, unsigned number, const struct nvme_extent *extent)
{
	const struct look *look = &verify->parts[number].look;
	struct suspect place = {
		.part = number,
		.slot_bytes = extent->slot_bytes,
		.extent_generation = extent->generation,
		.first_unit = extent->first_unit,
		.offset = extent->first_unit * look->unit_bytes,
	};
	uint64_t left = extent_slots(look, extent);
	uint64_t batch = BATCH_BYTES / extent->slot_bytes;
	int result = 0;

	if (left > 0)
		result = buffer_make(verify, batch > 0 ? BATCH_BYTES : extent->slot_bytes);
	memcpy(place.tenant, extent->tenant, sizeof(place.tenant));
	if (batch == 0)
		batch = 1;
	while (result == 0 && left > 0) {
		uint64_t count = left < batch ? left : batch;

		if (verify->suspects_count + count > VERIFY_SUSPECTS_MAX)
			result = suspects_settle(verify);
		if (result == 0)
			batch_look(verify, &place, count);
		left -= count;
	}
	return result;
}

static int part_look(struct verify *verify, unsigned number)
{
	struct verify_part *part = &verify->parts[number];
	/* As they were when the sizes were added up; a later look reads the tables anew. */
	unsigned count = part->look.extents_count;
	struct nvme_extent *extents = calloc(count + 1, sizeof(*extents));
	int result = extents == NULL ? -ENOMEM : 0;

	if (result == 0 && count > 0)
		memcpy(extents, part->look.extents, count * sizeof(*extents));
	for (unsigned i = 0; result == 0 && i < count; i++)
		result = extent_look(verify, number, &extents[i]);
	free(extents);
	return result;
}

/* ---- what there is ---- */

static const char *remedy_of(int result, enum tier_id tier)
{
	switch (result) {
	case -ENOENT:
		return tier == TIER_NVME ? "kvtierd makes it when it starts; is this its --config?"
					 : "kvtierd makes it when it starts; after a reboot it is gone";
	case -EACCES:
	case -EPERM:
		return "run this as the user of kvtierd, or as root";
	case -EUCLEAN:
		return "it is no file of kvtier, or its head is damaged; kvtierd would move it aside "
		       "and begin anew";
	default:
		return "";
	}
}

static void part_open(struct verify *verify, enum tier_id tier, const char *path, const char *name)
{
	const struct block_io_ops *io_ops = verify->options->io_ops;
	struct verify_part *part = &verify->parts[verify->parts_count++];
	struct error error = { 0 };
	int result;

	/* An arena is a file whatever a device is. */
	if (io_ops == NULL || tier == TIER_CPU)
		io_ops = &block_io_psync_ops;
	part->name = name;
	result = look_open(&part->look, tier, path, io_ops, &error);
	if (result < 0) {
		report_failure(verify, error.text, remedy_of(result, tier));
		return;
	}
	part->is_open = true;
	for (unsigned i = 0; i < part->look.superblocks_count; i++)
		part->counts.heads_damaged += !part->look.superblock_is_good[i];
	/* One of the tables may be half written, now or by a daemon that was killed; never both. */
	bool has_table = part->look.table_is_good[0] || part->look.table_is_good[1];
	for (unsigned i = 0; i < 2; i++)
		part->counts.heads_damaged += !has_table && !part->look.table_is_blank[i];
	verify->result->counts.heads_damaged += part->counts.heads_damaged;
	for (unsigned i = 0; i < part->look.extents_count; i++) {
		uint64_t slots = extent_slots(&part->look, &part->look.extents[i]);

		part->slots += slots;
		part->bytes += slots * part->look.extents[i].slot_bytes;
	}
	verify->bytes_all += part->bytes;
}

static void parts_open(struct verify *verify)
{
	const struct settings *settings = verify->options->settings;
	char note[SETTINGS_PATH_BYTES];

	if (verify->options->has_tier[TIER_NVME])
		for (unsigned i = 0; i < settings->devices_count; i++)
			part_open(verify, TIER_NVME, settings->devices[i].path, "");
	if (!verify->options->has_tier[TIER_CPU])
		return;
	for (unsigned i = 0; i < settings->tenants_count; i++) {
		const struct tenant_settings *tenant = &settings->tenants[i];

		if (tenant->cpu_file[0] != '\0') {
			part_open(verify, TIER_CPU, tenant->cpu_file, tenant->name);
			continue;
		}
		snprintf(note, sizeof(note), "cpu of tenant %s has no cpu_file: it is in the daemon's "
			 "memory alone; kvtier verify without --config has it checked there", tenant->name);
		report_note(verify, note);
	}
}

/* By the kernel's list, as asking for the lock would mean taking it. */
static bool is_locked(const char *path)
{
	struct stat status;
	char wanted[64], line[256];
	bool is_found = false;
	FILE *locks;

	if (stat(path, &status) < 0)
		return false;
	snprintf(wanted, sizeof(wanted), " %02x:%02x:%llu ", major(status.st_dev),
		 minor(status.st_dev), (unsigned long long)status.st_ino);
	locks = fopen("/proc/locks", "re");
	while (locks != NULL && !is_found && fgets(line, sizeof(line), locks) != NULL)
		is_found = strstr(line, wanted) != NULL;
	if (locks != NULL)
		fclose(locks);
	return is_found;
}

static void journal_look(struct verify *verify)
{
	char path[PATH_BYTES];
	enum journal_finding finding;
	struct error error = { 0 };
	int result;

	snprintf(path, sizeof(path), "%s/lock", verify->options->settings->state_directory);
	verify->result->is_running = is_locked(path);
	snprintf(path, sizeof(path), "%s/journal", verify->options->settings->state_directory);
	result = journal_inspect(path, &verify->floors, &finding, &error);
	if (result < 0) {
		report_failure(verify, error.text,
			       result == -ENOENT ? "without it everything is forgotten at the next "
						   "start; is this the --config of kvtierd?"
						 : remedy_of(result, TIER_NVME));
		return;
	}
	if (finding == JOURNAL_UNREADABLE) {
		verify->result->journal_is_damaged = true;
		report_note(verify, "the journal is damaged: at the next start everything stored "
				    "before it is forgotten");
		return;
	}
	verify->has_floors = true;
	verify->epoch = journal_floors_highest(&verify->floors) + 1;
}

int verify_run(const struct verify_options *options, struct verify_result *out_result)
{
	struct verify *verify = calloc(1, sizeof(*verify));
	int result = 0;

	memset(out_result, 0, sizeof(*out_result));
	if (verify == NULL)
		return -ENOMEM;
	verify->options = options;
	verify->result = out_result;
	verify->suspects = calloc(VERIFY_SUSPECTS_MAX, sizeof(*verify->suspects));
	if (verify->suspects == NULL)
		result = -ENOMEM;
	if (result == 0) {
		report_begin(verify);
		journal_look(verify);
		parts_open(verify);
	}
	for (unsigned i = 0; result == 0 && i < verify->parts_count; i++)
		if (verify->parts[i].is_open)
			result = part_look(verify, i);
	if (result == 0)
		result = suspects_settle(verify);
	if (result == 0) {
		report_progress(verify, true);
		for (unsigned i = 0; i < verify->parts_count; i++)
			if (verify->parts[i].is_open)
				report_part(verify, &verify->parts[i]);
		report_end(verify);
	}
	for (unsigned i = 0; i < verify->parts_count; i++)
		look_close(&verify->parts[i].look);
	free(verify->suspects);
	free(verify->buffer);
	free(verify);
	return result;
}
