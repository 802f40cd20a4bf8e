/*
 * tiers/nvme/catalog.h: what lies where on nvme, kept across restarts; may be lost at any time.
 *
 * One record a slot, keyed by its address (device, offset): a slot can therefore never have two records, a batch may
 * be applied twice, and putting the new owner of a slot is what deletes the old one.
 * The catalogue's work is done in a worker process; back ends: rocksdb | simulated (in memory, with faults).
 */
#ifndef KVTIER_TIERS_NVME_CATALOG_H
#define KVTIER_TIERS_NVME_CATALOG_H

#include "base/error.h"
#include "transfer/slot_header.h"

#include <stdint.h>

struct catalog_record {
	uint8_t device[DEVICE_ID_BYTES];
	uint64_t offset;
	uint8_t space[SPACE_ID_BYTES];
	uint8_t hash[BLOCK_HASH_BYTES];
	uint8_t parent[BLOCK_HASH_BYTES];
	uint64_t epoch;
	uint64_t route_key;
	uint64_t payload_bytes;
	uint64_t stored_at_us;
	uint32_t extent_generation;
	uint32_t slot_generation;
	uint32_t tokens;
	uint32_t first_position;
	uint32_t slot_bytes;
	uint16_t group;
	uint16_t shard;
	uint16_t shards_count;
	uint16_t segments_count;
};

enum catalog_verb {
	/* to the worker */
	CATALOG_PUT, CATALOG_DELETE, CATALOG_SYNC /* write the batch so far; answered by SYNCED */, CATALOG_SCAN, CATALOG_CLEAR,
	/* from the worker */
	CATALOG_SYNCED, CATALOG_ROW, CATALOG_SCANNED, CATALOG_CLEARED, CATALOG_FAILED
};

/* A message of the rings, both ways. */
struct catalog_message {
	uint32_t verb;
	int32_t result;               /* 0, or a negative errno */
	uint64_t batch;               /* SYNC and SYNCED: numbers of batches; SCAN: restart from 0 */
	struct catalog_record record; /* PUT, ROW: all; DELETE: device and offset */
};

/* A back end. Blocks: it runs in the worker's process (simulated: in the caller's). */
struct catalog_ops {
	const char *name;
	must_check int (*open)(void **out_catalog, const char *path, struct error *error);
	/* Applies records of PUT and DELETE messages atomically, in order. */
	must_check int (*write)(void *catalog, const struct catalog_message *messages, unsigned count,
				struct error *error);
	/* Calls `row` for each record; stops when it returns false. */
	must_check int (*scan)(void *catalog, bool (*row)(void *owner, const struct catalog_record *record),
			       void *owner, struct error *error);
	must_check int (*clear)(void *catalog, struct error *error);
	void (*close)(void *catalog);
};

extern const struct catalog_ops catalog_rocksdb_ops;
extern const struct catalog_ops catalog_simulated_ops;

/*
 * The worker's side: `kvtierd --worker catalog PATH` runs this until its parent is gone. An unreadable database is moved
 * aside (PATH.unreadable-N) and started empty. Returns the exit status.
 */
int catalog_worker_main(const char *path, int arguments_count, char **arguments);

#endif
