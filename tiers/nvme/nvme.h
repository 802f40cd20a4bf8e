/*
 * tiers/nvme/nvme.h: preallocated files or raw devices as one tier; one thread a device owns its
 * ring.
 *
 * A device: [superblock x2][extent table x2][slots area]. The superblock and the tables are CRC'd,
 * carry a sequence, and the newer valid copy counts; they are written alternately and synced. Runs
 * on: open, close: any thread before/after all else. tier_ops: the loop thread. nvme_device_step:
 * the device's thread only. Between the two: mailboxes.
 */
#ifndef KVTIER_TIERS_NVME_NVME_H
#define KVTIER_TIERS_NVME_NVME_H

#include "base/clock.h"
#include "base/error.h"
#include "tiers/tier.h"
#include "transfer/slot_header.h"

#include <sys/types.h>

#define NVME_DEVICES_MAX 8
#define NVME_EXTENTS_MAX 16384

struct block_io_ops; /* tiers/nvme/block_io.h: io_uring | psync | fault | simulated */

/* Memory that ops will read from or write to: registered with the ring, in pieces of at most 1 GiB.
 */
struct nvme_memory {
	void *start;
	uint64_t bytes;
};

struct nvme_config {
	const char *path;
	uint64_t bytes;       /* of the file; a raw device: 0 means all of it */
	uint64_t unit_bytes;  /* the slots area is a whole number of units */
	uint32_t queue_depth; /* ops in the device's queue at once, each direction together */
	uint32_t ops_max;     /* ops that may be submitted and not done */
	const char *io;       /* "auto", "io_uring", "psync" */
	const struct block_io_ops *io_ops; /* not NULL: overrules `io` (tests) */
	struct clock *clock;
	uint64_t
		lock_wait_us_max; /* how long open() may wait for an earlier daemon's ring to end */
	bool raw_initialise;      /* write a superblock to a raw device that has none */
};

/* One row of the extent table. units_count 0: free. */
struct nvme_extent {
	uint8_t tenant[16]; /* digest of the tenant's name */
	uint32_t first_unit;
	uint32_t units_count;
	uint32_t slot_bytes; /* up to 4 GiB - 4 KiB */
	uint32_t generation;
};

struct nvme_device;

/*
 * May block (preallocates and pre-writes a new file; waits for the lock on the old one's
 * description). Without a readable superblock a file is renamed aside (PATH.unreadable-N) and made
 * anew; a raw device gives -EUCLEAN and the command that initialises it. On failure leaves nothing
 * behind. 1: io_uring was refused, psync is used, which is slower, and `error` says why.
 */
must_check int nvme_device_open(struct nvme_device **out_device, const struct nvme_config *config,
				struct error *error);
/* Before the thread starts. 1: it works unregistered, which is slower, and `error` says why. */
must_check int nvme_device_register(struct nvme_device *device, const struct nvme_memory *memory,
				    unsigned count, struct error *error);
void nvme_device_close(struct nvme_device *device);

const uint8_t *nvme_device_id(
	const struct nvme_device *device); /* 16 random bytes, from the superblock */
uint32_t nvme_device_units(const struct nvme_device *device);
uint64_t nvme_device_slots_offset(const struct nvme_device *device);
const char *nvme_device_path(const struct nvme_device *device);
/* For people: "io_uring, registered buffers and files, O_DIRECT" or "psync (io_uring refused:
 * EPERM)". */
const char *nvme_device_io_name(const struct nvme_device *device);
/* True: the file was made by this open, so it holds nothing. */
bool nvme_device_is_new(const struct nvme_device *device);

/* "" or, for the log: why the file was made anew, and where the old one is. */
const char *nvme_device_note(const struct nvme_device *device);

/* The table as read at open; `out_extents` has room for NVME_EXTENTS_MAX. Returns how many rows
 * (one a unit at most). */
unsigned nvme_device_extents(const struct nvme_device *device, struct nvme_extent *out_extents);
/* The bytes that a TIER_EXTENTS op takes, and how to fill them (4 KiB aligned memory of the
 * caller). */
uint64_t nvme_extents_image_bytes(const struct nvme_device *device);
void nvme_extents_image(struct nvme_device *device, const struct nvme_extent *extents,
			unsigned count, void *image);

/* One pass of the device's thread: takes ops, submits, reaps. Returns whether it did anything. */
bool nvme_device_step(struct nvme_device *device, uint64_t now_us);
/* Blocks the device's thread until there is something to do (new ops or completions) or
 * `wait_us_max` passed. */
void nvme_device_wait(struct nvme_device *device, uint64_t wait_us_max);
/* True: the device's thread has nothing queued or under way (its own view; drain before stopping
 * it). */
bool nvme_device_is_idle(const struct nvme_device *device);
/* Wakes a waiting thread (stop). Any thread. */
void nvme_device_poke(struct nvme_device *device);

/*
 * For the rebuild without a catalogue: a plain blocking pread of SLOT_HEADER_BYTES at `offset` of
 * the slots area; any alignment of `header`. Runs on: a mill thread.
 */
must_check int nvme_device_read_header(struct nvme_device *device, uint64_t offset, void *header);

/*
 * A device is fenced after NVME_ERRORS_RUN_MAX errors in a row, NVME_ERRORS_WINDOW_MAX within
 * NVME_ERROR_WINDOW_US, or when it has work and ended none of it for NVME_STALL_US_MAX. A fenced
 * device takes no more ops (-EIO) until the next start. What it still has comes back, or never
 * does: close() then must not be called.
 */
#define NVME_ERRORS_RUN_MAX 4u
#define NVME_ERRORS_WINDOW_MAX 16u
#define NVME_ERROR_WINDOW_US (UINT64_C(60) * 1000000)
#define NVME_STALL_US_MAX (UINT64_C(30) * 1000000)

/* Of ops that came back; kept and read by the loop thread. */
struct nvme_figures {
	uint64_t reads, writes, table_writes; /* ops that succeeded */
	uint64_t read_bytes, write_bytes;
	uint64_t read_us, write_us; /* sums of submit to finish, of those */
	uint64_t read_errors, write_errors;
	uint32_t in_flight;
	int last_error;           /* 0, or the newest negative errno */
	const char *fence_reason; /* NULL: not fenced; else for people */
};

bool nvme_device_is_fenced(const struct nvme_device *device);
void nvme_device_figures(const struct nvme_device *device, struct nvme_figures *out_figures);
/* Fences by hand, for `reason` (a string that lives for ever). */
void nvme_device_fence(struct nvme_device *device, const char *reason);

/* The tier over all devices; device N of an op is devices[N]. The devices stay the caller's. */
must_check int nvme_tier_create(struct tier **out_tier, struct nvme_device **devices,
				unsigned count, struct error *error);

#endif
