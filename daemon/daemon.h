/*
 * daemon/daemon.h: the node: what the rooms of daemon/ share.
 *
 * One way round: server -> session -> {lookup, store, load, admin} -> mover -> tier and mills;
 * results come back as done() from daemon_step(). Rooms know this header and the rooms below them,
 * never those above.
 * Runs on: the loop thread, all of it, but for what mills and devices are handed.
 */
#ifndef KVTIER_DAEMON_DAEMON_H
#define KVTIER_DAEMON_DAEMON_H

#include "base/clock.h"
#include "base/error.h"
#include "base/histogram.h"
#include "base/list.h"
#include "base/random.h"
#include "daemon/catalog_link.h"
#include "daemon/drain.h"
#include "daemon/journal.h"
#include "daemon/mill.h"
#include "daemon/pins.h"
#include "daemon/sandbox.h"
#include "daemon/settings.h"
#include "daemon/tier_speed.h"
#include "index/budget.h"
#include "index/cache.h"
#include "proto/frames.h"
#include "tiers/cpu/arena.h"
#include "tiers/nvme/nvme.h"
#include "transfer/device.h"

#include <stdbool.h>
#include <stdint.h>

#define TENANT_DIGEST_BYTES 16
#define SPACES_BYPASSED_MAX 64

#define CALLS_COUNT FRAME_REQUESTS_END

struct server;
struct mover;
struct purge_room;
struct restore;
struct encryption;
struct keyring;
struct graveyard;
struct scrub;
struct journal_floors;
struct batches;
struct admin_http;
struct probe;
struct requests;
struct gpus;
struct pull_ops;
struct peer_ops;
struct node_inventory;
struct peer_process;
struct peers;
struct block_io_ops;

/* What happened so far; read by STATS and /metrics. */
struct counters {
	uint64_t lookups, lookup_keys, lookup_hits;
	uint64_t lookup_tokens, usable_tokens, worth_tokens;
	uint64_t hit_blocks[TIERS], hit_tokens[TIERS], loaded_bytes[TIERS];
	uint64_t miss_blocks;
	uint64_t stored_blocks, stored_bytes, present_blocks, attached_blocks;
	uint64_t refused[CACHE_ADMISSIONS];
	uint64_t refused_bypass, refused_busy;
	uint64_t store_failures, store_checksum_failures, window_faults;
	uint64_t down_blocks, down_bytes, down_failures, down_unwanted, down_void;
	uint64_t up_blocks, up_bytes, up_failures;
	uint64_t stale_entries, damaged[TIERS], cipher_failures;
	uint64_t expired_blocks, leases_refused, protocol_errors, forgets;
	uint64_t evictions[TIERS];
	uint64_t restored[TIERS], restore_refused;
	uint64_t spaces_given_back;
	uint64_t pulled_blocks[COPY_DIRECTIONS], pulled_bytes[COPY_DIRECTIONS];
	uint64_t fetched_blocks, fetched_bytes, fetch_failures;
};

/* The same of one tenant, for `kvtier top`. */
struct tenant_counters {
	uint64_t lookups, lookup_hits, lookup_tokens, usable_tokens;
	uint64_t hit_blocks, miss_blocks, loaded_bytes;
	uint64_t stored_blocks, stored_bytes;
};

struct tenant {
	char name[64];
	uint8_t digest[TENANT_DIGEST_BYTES];
	uint32_t handle;                       /* in the cache */
	uint32_t cpu_area;
	struct arena arena;
	bool arena_changed;                    /* its extent table is to be written */
	enum frame_bypass_mode bypass;
	struct list slotless;                  /* moves that wait for a cpu slot */
	uint32_t batches_count;                /* under way, over all its connections */
	uint32_t pulls_count;                  /* moves of its pulled stores */
	uint32_t downs_count;                  /* of its blocks, being or to be written down */
	struct tenant_counters counters;
	/* NULL: its blocks lie on nvme in the clear. Written by the loop, read by mills, too; what
	 * was read from it stays for that mill's op (daemon/encryption.h). */
	struct keyring *_Atomic keyring;
	/* on nvme, and dropped: enciphered by no key of ours; in the clear with encryption on */
	uint64_t key_missing_blocks, in_clear_blocks;
};

/* Who used a space last. */
struct space_use {
	char engine[FRAME_NAME_BYTES];         /* "": none since the daemon started */
	uint64_t used_us;
};

struct space_bypass {
	uint8_t fingerprint[SPACE_ID_BYTES];
	uint32_t tenant;                       /* index in tenants */
	enum frame_bypass_mode mode;
};

/* One nvme device, as the loop sees it. */
struct daemon_device {
	struct nvme_device *device;
	uint32_t first_unit;                   /* of the area */
	uint32_t units;
	bool extents_changed, extents_writing, is_fenced;
	struct tier_op extents_op;
	void *extents_image;
	struct daemon *daemon;
};

/* A device of the settings that failed when it was opened. */
struct device_absent {
	const char *path;                      /* of the settings */
	char reason[240];
};

enum daemon_phase { DAEMON_RESTORING, DAEMON_SERVING, DAEMON_DRAINING };

/* Seams that tests replace; zeroed: the real ones. */
struct daemon_seams {
	struct clock *clock;
	uint64_t seed;                         /* 0: from the kernel */
	const struct block_io_ops *io_ops;
	const struct catalog_ops *catalog_ops; /* in-process catalogue, no worker */
	const struct pull_ops *pull_ops;       /* instead of GPUs */
	const struct peer_ops *peer_ops;       /* NULL: no other nodes */
	void *peer_room;                       /* of the ops */
};

struct daemon {
	struct settings settings;
	struct clock *clock;
	struct random random;
	uint64_t boot_id;
	uint64_t started_us;
	uint64_t now_us;                       /* of this pass */
	/* when daemon.c last looked at what seldom has anything */
	uint64_t looked_us, catalog_us;
	bool is_catalog_busy;
	uint64_t catalog_deaths;               /* of its worker, as far as they were logged */
	enum daemon_phase phase;
	/* DRAINING: until when blocks are still written down */
	uint64_t drain_us;
	enum frame_bypass_mode bypass;
	struct space_bypass space_bypasses[SPACES_BYPASSED_MAX];
	unsigned space_bypasses_count;

	struct cache *cache;
	struct tenant tenants[SETTINGS_TENANTS_MAX];
	unsigned tenants_count;

	struct sandbox sandbox;                /* as main found it; zeroed in tests */

	struct daemon_device devices[NVME_DEVICES_MAX];
	unsigned devices_count;
	struct device_absent absent[NVME_DEVICES_MAX];
	unsigned absent_count;
	uint32_t nvme_area;                    /* UINT32_MAX: no nvme */
	struct tier *nvme;                     /* NULL: none */
	uint32_t cpu_slots_max, nvme_slots_max;   /* of the cache */
	struct budget write_budget;
	struct catalog_link *catalog;          /* NULL: none */
	struct gpus *gpus;                     /* NULL: none */
	const struct pull_ops *pull_ops;       /* NULL: nothing can be pulled */
	struct peers *peers;                   /* NULL: no other nodes */
	struct peer_process *peer_process;     /* NULL: none, as by the settings or the seams */
	struct node_inventory *inventory;      /* NULL: nobody is told */

	int lock_fd;                           /* of the state directory; workers inherit it */
	int run_lock_fd;                       /* of the run directory; ends with us */
	struct journal *journal;
	uint64_t epoch;                        /* of what is stored from now on */
	uint64_t epoch_reserved;               /* up to here no other life uses them */
	struct journal_floors *floors;         /* of all spaces, also of those not here */
	struct space_use *space_uses;          /* by the space's number in the cache */
	/* FORGETs on their way to the journal, one at a time */
	struct list forgettings;
	/* sweeping: slots of what was forgotten, or given back, are being freed */
	bool is_forgetting, is_sweeping;

	struct drain drain;
	struct pins pins;
	unsigned shown_count;                  /* listings whose headers are being read */
	struct purge_room *purge;

	struct mills mills;
	struct mover *mover;
	struct batches *batches;
	struct server *server;
	struct admin_http *http;
	struct probe *probe;
	struct requests *requests;
	struct restore *restore;
	struct reload *reload;                 /* NULL: the settings cannot be read again */
	struct encryption *encryption;         /* NULL: off */
	struct graveyard *graveyard;
	struct scrub *scrub;
	enum frame_reason gone_reason;         /* why copies that go right now do, for EXPLAIN */
	/* store items that wait for another store of their shard */
	struct list attached;
	struct counters counters;
	struct tier_speed speeds[TIERS];
	/* [CALLS_COUNT], by frame type: how long the loop worked on a frame */
	struct histogram *call_us;
};

/* Opens everything; may block; nothing runs yet. On failure leaves nothing behind. The settings are
 * copied. */
must_check int daemon_create(struct daemon **out_daemon, const struct settings *settings,
			     const struct daemon_seams *seams, struct error *error);
/* One pass; never blocks. Returns whether it did anything. */
bool daemon_step(struct daemon *daemon);
/* Waits for work, at most `wait_us_max`, or less when a deadline is nearer. */
void daemon_wait(struct daemon *daemon, uint64_t wait_us_max);
/* Refuses new work; daemon_is_drained() says when what was under way has ended. */
void daemon_stop(struct daemon *daemon);
bool daemon_is_drained(const struct daemon *daemon);
/* After the threads of mills and devices have ended. Accepts NULL. */
void daemon_destroy(struct daemon *daemon);

/* The tenant with this handle in the cache, or NULL. */
static inline struct tenant *daemon_tenant(struct daemon *daemon, uint32_t handle)
{
	for (unsigned i = 0; i < daemon->tenants_count; i++)
		if (daemon->tenants[i].handle == handle)
			return &daemon->tenants[i];
	return NULL;
}

static inline unsigned daemon_leases_count(const struct daemon *daemon)
{
	unsigned count = 0;

	for (unsigned i = 0; i < daemon->tenants_count; i++)
		count += cache_leases_count(daemon->cache, daemon->tenants[i].handle);
	return count;
}

/* "off", "on", "observe", as the settings have it. */
enum frame_bypass_mode daemon_bypass_parse(const char *word);
/* Whether calls of this tenant and space are served, observed or passed by. */
enum frame_bypass_mode daemon_bypass_of(const struct daemon *daemon, const struct tenant *tenant,
					uint32_t space);

#endif
