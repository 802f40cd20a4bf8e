/* daemon/verify_parts.h: what verify.c (judges) and verify_report.c (tells) share; nobody else. */
#ifndef KVTIER_DAEMON_VERIFY_PARTS_H
#define KVTIER_DAEMON_VERIFY_PARTS_H

#include "daemon/journal_file.h"
#include "daemon/verify.h"

#define VERIFY_TOLD_MAX 20u   /* damaged slots that are listed one by one, but for JSON */

/* A device, or a tenant's arena. */
struct verify_part {
	struct look look;
	bool is_open;
	const char *name;        /* of the tenant, or "" */
	uint64_t bytes;          /* of its slots */
	uint64_t slots;
	struct verify_counts counts;
};

/* A slot that looked damaged. */
struct suspect {
	uint32_t part;
	uint32_t slot_bytes, extent_generation, first_unit;
	uint64_t offset;
	uint32_t crc;            /* of all its bytes then */
	uint8_t tenant[16];
};

struct verify {
	const struct verify_options *options;
	struct verify_result *result;
	struct verify_part parts[SETTINGS_DEVICES_MAX + SETTINGS_TENANTS_MAX];
	unsigned parts_count;
	struct journal_floors floors;
	uint64_t epoch;          /* the highest that was given out */
	bool has_floors;
	uint8_t *buffer;         /* aligned */
	uint64_t buffer_bytes;
	struct suspect *suspects;
	unsigned suspects_count;
	/* the report's */
	uint64_t bytes_all, told;
	uint64_t began_us, shown_us;
};

void report_begin(struct verify *verify);
/* Of bytes that were read since the last call. */
void report_progress(struct verify *verify, bool is_last);
void report_damaged(struct verify *verify, const struct suspect *suspect);
/* A part that cannot be looked at: what is wrong, and what would mend it. */
void report_failure(struct verify *verify, const char *what, const char *remedy);
void report_note(struct verify *verify, const char *what);
void report_part(struct verify *verify, const struct verify_part *part);
void report_end(struct verify *verify);

#endif
