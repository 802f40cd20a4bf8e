/* daemon/requests_parts.h: a request as requests.c notes and operate_requests.c shows it; for these
 * two alone. */
#ifndef KVTIER_DAEMON_REQUESTS_PARTS_H
#define KVTIER_DAEMON_REQUESTS_PARTS_H

#include "daemon/requests.h"

#define REQUEST_BUCKETS 8192u
#define REQUEST_NONE    UINT16_MAX

struct request_transfers {
	uint32_t batches, blocks;
	uint32_t outcomes[REQUEST_OUTCOMES];
	uint64_t took_us_max; /* of a batch */
};

struct request {
	uint64_t number; /* 0: free */
	uint8_t tag[FRAME_TAG_BYTES];
	const struct tenant *tenant;
	char engine[FRAME_NAME_BYTES];
	uint64_t began_wall_us, began_us, changed_us;
	uint16_t next; /* of its bucket */
	uint32_t lookups, lookups_refused;
	struct request_looked looked; /* the last; `missing` points to missing_hash, or is NULL */
	uint8_t missing_hash[BLOCK_HASH_BYTES];
	uint8_t fingerprint[SPACE_ID_BYTES];
	struct request_transfers loads, stores;
	uint32_t admitted[CACHE_ADMISSIONS + 1]; /* the last: busy, or passed by */
};

struct requests {
	uint64_t last;   /* number that was given */
	uint64_t key[2]; /* of the buckets */
	uint16_t buckets[REQUEST_BUCKETS];
	struct request requests[REQUESTS_MAX];
};

/* NULL: another has its place. */
struct request *requests_at(struct requests *requests, uint64_t number);
/* NULL: unknown. */
struct request *requests_find(struct requests *requests, const struct tenant *tenant,
			      const uint8_t tag[FRAME_TAG_BYTES]);

#endif
