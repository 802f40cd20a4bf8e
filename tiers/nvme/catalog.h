/*
 * tiers/nvme/catalog.h: what lies where on nvme, kept across restarts; may be lost at any time.
 *
 * One record a slot, keyed by its address (device, offset): a slot can therefore never have two
 * records, a batch may be applied twice, and putting the new owner of a slot is what deletes the
 * old one. The catalogue's work is done in a worker process; back ends: rocksdb | simulated (in
 * memory, with faults).
 */
#ifndef KVTIER_TIERS_NVME_CATALOG_H
#define KVTIER_TIERS_NVME_CATALOG_H

#include "base/error.h"
#include "transfer/slot_header.h"

#include <stdbool.h>
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
	uint32_t key_id; /* as in the header; 0: in the clear */
	uint16_t group;
	uint16_t shard;
	uint16_t shards_count;
	uint16_t segments_count;
};

enum catalog_verb {
	/* to the worker; it is sent nothing before its OPENED was taken */
	CATALOG_PUT,
	CATALOG_DELETE,
	CATALOG_MARK,  /* what was put before this is all there is: kept until CLEAR */
	CATALOG_SYNC,  /* write the batch so far; answered by SYNCED */
	CATALOG_SCAN,  /* answered by ROWs in the order of (device, offset), then SCANNED */
	CATALOG_CLEAR, /* answered by CLEARED */
	/* from the worker */
	CATALOG_OPENED,
	CATALOG_SYNCED,
	CATALOG_ROW,
	CATALOG_SCANNED,
	CATALOG_CLEARED,
	CATALOG_FAILED /* its last word: the life ends (-ENOTSUP: there is no back end, and it stays
			  idle) */
};

/* A message of the rings, both ways. */
struct catalog_message {
	uint32_t verb;
	int32_t result; /* 0, or a negative errno; OPENED: 1: marked as complete */
	uint64_t batch; /* SYNC and SYNCED: numbers of batches; SCANNED: how many rows were sent */
	uint64_t skipped;             /* SCANNED: rows that could not be read */
	struct catalog_record record; /* PUT, ROW: all; DELETE: device and offset; OPENED, CLEARED:
					 space: the id */
};

/* Which database this is: it gets a new random id when it is made and when it is cleared, so that
 * whoever put records into an earlier one notices that they are gone. */
struct catalog_identity {
	uint8_t id[16];
	bool is_complete; /* a MARK was written and nothing was cleared since */
};

struct catalog_scan {
	/* Stops the scan by returning false. */
	bool (*row)(void *owner, const struct catalog_record *record);
	void *owner;
	uint64_t skipped; /* out: rows of an unknown version or with a wrong checksum */
};

/* A back end. Blocks: it runs in the worker's process (simulated: in the caller's). */
struct catalog_ops {
	const char *name;
	/* On failure leaves nothing behind, so close() is not called. */
	must_check int (*open)(void **out_catalog, const char *path, struct error *error);
	void (*identify)(void *catalog, struct catalog_identity *out_identity);
	/* Applies records of PUT, DELETE and MARK messages atomically, in order. */
	must_check int (*write)(void *catalog, const struct catalog_message *messages,
				unsigned count, struct error *error);
	/* Rows come in the order of (device, offset). */
	must_check int (*scan)(void *catalog, struct catalog_scan *scan, struct error *error);
	/* After a failure only close() may follow. */
	must_check int (*clear)(void *catalog, struct error *error);
	/* Accepts NULL. */
	void (*close)(void *catalog);
};

extern const struct catalog_ops catalog_rocksdb_ops;
extern const struct catalog_ops catalog_simulated_ops;

/*
 * The worker's side: `kvtierd --worker catalog PATH ...` runs this until its parent is gone.
 * `arguments` are those of the process. An unreadable database is moved aside (PATH.unreadable-N)
 * and started empty. Returns the exit status. Stands in daemon/catalog_worker.c, above the frame of
 * workers.
 */
int catalog_worker_main(const char *path, int arguments_count, char **arguments);

#endif
