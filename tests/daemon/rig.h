/*
 * tests/daemon/rig.h: the whole daemon in one thread under a virtual clock, with disks and
 * catalogue in memory, and clients that speak its protocol and believe bytes only as libkvtier
 * does.
 *
 * Keys are numbers; a key's hash follows from it. What is stored under a key follows from tenant,
 * model, group, shard, key and a *version*, so that a load can say which version it got, and any
 * other bytes fail the test. Runs on: one thread.
 */
#ifndef KVTIER_TESTS_DAEMON_RIG_H
#define KVTIER_TESTS_DAEMON_RIG_H

#include "daemon/daemon.h"
#include "daemon/session.h"
#include "index/worth.h"
#include "tests/daemon/rig_disk.h"
#include "tiers/nvme/block_io_fault.h"
#include "tiers/nvme/catalog_simulated.h"

#include <limits.h>

#define RIG_CLIENTS_MAX 10u
#define RIG_BATCHES_MAX 16u    /* of one client at once */
#define RIG_PASSES_MAX 100000u /* before a test says that the daemon never comes to rest */
#define RIG_UNIT_BYTES (UINT64_C(1) << 20)
#define RIG_PAYLOAD_BYTES 20000u /* of a block, unless a test says otherwise */
#define RIG_SLOT_BYTES 24576u    /* of such a block */
#define RIG_SLOTS_A_UNIT (RIG_UNIT_BYTES / RIG_SLOT_BYTES)
#define RIG_TOKENS 16u
#define RIG_SEGMENTS 5u
#define RIG_SECOND UINT64_C(1000000)
#define RIG_DEADLINE_US (10 * RIG_SECOND)
#define RIG_OPEN INT_MAX /* in results: not known yet */
#define RIG_KEY "first:1111111111111111111111111111111111111111111111111111111111111111\n"

struct rig_config {
	unsigned cpu_units,
		nvme_units;         /* of 1 MiB; 0 and 0: 2 and 8; nvme_units is of each device */
	unsigned devices;           /* 0: one */
	unsigned tenants;           /* 0: one */
	unsigned mills;             /* 0: one */
	uint64_t nvme_units_tenant; /* 0: an equal part */
	bool no_nvme;
	bool has_cpu_file; /* arenas survive a restart */
	/* "off" (NULL), "ephemeral", "key_file": see rig_keys() */
	const char *encryption;
	uint64_t encryption_buffer_bytes; /* 0: 1 MiB */
	uint64_t seed;     /* 0: 1 */
	uint32_t load_window_blocks, batches_max, leases_max, connections_max;
	uint32_t spaces_max; /* 0: 64 */
	uint64_t lease_us_max;
	uint64_t write_bytes_day_max;
	uint64_t scrub_bytes_second; /* 0: no scrubber, in this rig */
	uint32_t readback_every;     /* 0: none */
	const struct catalog_ops *catalog_ops; /* NULL: simulated */
	struct rig_gpu *gpu;                   /* NULL: nothing can be pulled; rig_gpu.h */
	struct rig_net *net;                   /* NULL: no other nodes; rig_net.h */
	unsigned net_node;
};

struct rig_client;
struct rig_gpu;
struct rig_net;

struct rig {
	struct rig_config config;
	struct clock clock;
	struct rig_disk disk;
	struct block_io_fault fault;
	struct random random;
	struct settings settings;
	struct daemon *daemon;
	struct rig_client *clients[RIG_CLIENTS_MAX];
	char folder[64], memory_folder[64];
	uint64_t lives, passes;
	bool is_checked;  /* cache_check() after each pass */
	bool is_shuffled; /* parts are stepped in any order, mills one op at a time */
	/* A call that is not answered ends, a while later by the clock; else it fails the test. */
	bool is_forgiving;
	bool is_milled_elsewhere; /* threads of the test step the mills */
};

/* All of rig_init() but the first life. */
void rig_prepare(struct rig *rig, const struct rig_config *config);

void rig_init(struct rig *rig, const struct rig_config *config);
void rig_finish(struct rig *rig);
/* Settles, sees that nothing is left, and finishes. */
void rig_finish_idle(struct rig *rig);
/* What stands in a tenant's key file from the next start on. rig_init() has written one key. */
void rig_keys(struct rig *rig, unsigned tenant, const char *text);
/* A life of the daemon: until it serves; with a catalogue that is not complete it may go on
 * rebuilding. */
void rig_start(struct rig *rig);
/* The same, but it may fail: then no daemon is there. One that starts may be restoring yet. */
must_check int rig_try_start(struct rig *rig, struct error *error);
/* Whether to wait on in this pass, after one step; for loops that wait for an answer. */
bool rig_waits_on(struct rig *rig, unsigned pass);
/* Steps until what it has done is written, then drains and ends. Clients are closed. */
void rig_stop(struct rig *rig);
enum rig_crash { RIG_KILL, RIG_POWER_CUT };
/* Ends the life here and now. The clients are closed. What was written stays; what was under way is
 * torn. */
void rig_crash(struct rig *rig, enum rig_crash kind);
/* One pass of every part. Returns whether anything was done. */
bool rig_step(struct rig *rig);
/* Passes until nothing is done any more. */
void rig_settle(struct rig *rig);
/* Settles, lets time pass, settles. */
void rig_pass_time(struct rig *rig, uint64_t by_us);
/* Nothing is held, nothing is under way, and what is counted adds up. */
void rig_assert_idle(struct rig *rig);
/* A slot's bytes: in the tenant's arena, or on its disk. */
uint8_t *rig_slot_bytes(struct rig *rig, enum tier_id tier, uint32_t slot);
struct cache_share_figures rig_figures(struct rig *rig, unsigned tenant, enum tier_id tier);
/* The path by which the simulated catalogue knows this rig's. */
const char *rig_catalog_path(struct rig *rig);

/* ---- clients ---- */

struct rig_engine {
	const char *name;              /* NULL: "engine" */
	const char *model;             /* NULL: "model" */
	unsigned tenant, shard, world; /* world 0: 1 */
	unsigned roles;                /* 0: both */
	unsigned groups_count;         /* 0: one full group of RIG_PAYLOAD_BYTES */
	struct frame_group groups[FRAME_GROUPS_MAX];
};

struct rig_batch {
	bool is_used, is_store, is_replied;
	bool is_kept;  /* load: delivered blocks are not released by themselves */
	bool is_lying; /* load: each good block is released as a bad one */
	bool is_pull;
	bool is_uncommitted; /* pulled store: what was copied is not committed by itself */
	uint64_t id, version;
	unsigned group, count, ended;
	uint64_t keys[FRAME_KEYS_MAX];
	uint8_t admissions[FRAME_KEYS_MAX];
	int results[FRAME_KEYS_MAX];       /* store: as libkvtier: 1 is present; load: 0 proven */
	uint64_t versions[FRAME_KEYS_MAX]; /* load: of proven blocks */
	struct frame_loaded_item items[FRAME_KEYS_MAX];
	bool was_copied[FRAME_KEYS_MAX]; /* pulled store */
};

struct rig_client {
	struct rig *rig;
	struct rig_engine engine;
	int fds[2];                  /* by enum frame_connection; -1: closed */
	struct session *sessions[2]; /* the daemon's; only while the descriptor is open */
	uint64_t boot_id, token, requests, batches_ever;
	uint32_t space, ranks_missing;
	uint8_t fingerprint[SPACE_ID_BYTES];
	uint8_t *arena, *window;
	uint8_t *device; /* memory that it lends; NULL: none */
	uint64_t arena_bytes, units_offset, window_bytes, window_at;
	bool is_deaf;                      /* reads nothing */
	uint64_t served, misses, detected; /* loads: proven; told so; found wrong by the client */
	int refused;                       /* result of a FRAME_ERROR, or 0 */
	struct rig_batch batches[RIG_BATCHES_MAX];
	uint64_t reply_request;
	uint8_t reply[FRAME_BYTES_MAX] __attribute__((aligned(8)));
	uint8_t incoming[FRAME_BYTES_MAX] __attribute__((aligned(8)));
	uint8_t out[FRAME_BYTES_MAX] __attribute__((aligned(8)));
};

/* HELLO, REGISTER, HELLO, ATTACH, CANARY. Both connections open; `engine` NULL: the default. */
struct rig_client *rig_register(struct rig *rig, const struct rig_engine *engine);
/* The parts of it, for clients that go in the middle. */
struct rig_client *rig_client_open(struct rig *rig, const struct rig_engine *engine);
int rig_client_connect(struct rig_client *client, enum frame_connection connection);
int rig_client_say_register(struct rig_client *client);
int rig_client_attach(struct rig_client *client);
/* SPACE: the space of the adapter with this number. */
int rig_client_adapter(struct rig_client *client, unsigned adapter, uint32_t *out_space);
void rig_client_hang_up(struct rig_client *client, enum frame_connection connection);
void rig_client_close(struct rig_client *client);
/* Reads what there is. Returns whether there was anything. */
bool rig_client_read(struct rig_client *client);
/* Sends what lies in client->out; steps until its reply has come; its result, or -ECONNRESET. */
int rig_ask(struct rig_client *client, enum frame_connection connection, enum frame_type type);
void rig_send(struct rig_client *client, enum frame_connection connection);
void *rig_frame(struct rig_client *client, enum frame_type type, size_t bytes);

void rig_hash(uint64_t key, uint8_t hash[BLOCK_HASH_BYTES]);
void rig_payload(const struct rig_client *client, unsigned group, uint64_t key, uint64_t version,
		 uint8_t *target);

struct rig_blocks {
	unsigned group;
	uint64_t parent; /* key; 0: none */
	uint64_t first;  /* keys first, first + 1, ... */
	unsigned count;
	uint64_t version;     /* stores */
	uint64_t lease;       /* loads */
	uint64_t deadline_us; /* 0: RIG_DEADLINE_US */
	uint32_t space;       /* 0: the client's */
	bool is_pull;         /* from and to engine blocks 0, 1, ... */
	bool is_uncommitted;
	uint64_t gate_value;
};

/* STORE is sent; nothing was stepped. */
struct rig_batch *rig_store_begin(struct rig_client *client, const struct rig_blocks *blocks);
/* COMMITs what is wanted; the reply has come. */
void rig_store_commit(struct rig_client *client, struct rig_batch *batch);
/* COMMITs one that was pulled. */
void rig_pull_commit(struct rig_client *client, struct rig_batch *batch, unsigned index);
/* All of it: until each block has its result. Returns how many are there now (stored or present).
 */
unsigned rig_store(struct rig_client *client, const struct rig_blocks *blocks);
struct rig_batch *rig_load_begin(struct rig_client *client, const struct rig_blocks *blocks);
void rig_release(struct rig_client *client, struct rig_batch *batch, unsigned index, bool is_bad);
void rig_cancel(struct rig_client *client, struct rig_batch *batch);
/* Until each block has its result; returns how many were proven. */
unsigned rig_load(struct rig_client *client, const struct rig_blocks *blocks);
/* Steps until every block has its result. */
void rig_batch_await(struct rig *rig, struct rig_batch *batch);
unsigned rig_batch_count(const struct rig_batch *batch, int result);
void rig_batch_give(struct rig_batch *batch);
/* The batch of the last rig_store() or rig_load(); until the next one. */
extern struct rig_batch rig_last;

struct rig_keys {
	unsigned group, first_position;
	uint64_t first;
	unsigned count;
};

struct rig_found {
	int result;
	uint64_t lease, lease_us;
	uint32_t usable_tokens, worth_tokens, keys_count, runs_count;
	struct frame_run runs[FRAME_RUNS_MAX];
	uint8_t bits[FRAME_LOOKUP_KEYS_MAX / 8];
};

/* One frame of a lookup in client->out; the caller says what sets it apart from others. */
struct frame_lookup *rig_lookup_write(struct rig_client *client, const struct rig_keys *keys,
				      unsigned count);
/* Sends the frame that lies in client->out, and takes FOUND apart. */
struct rig_found rig_found_ask(struct rig_client *client);
struct rig_found rig_lookup(struct rig_client *client, const struct rig_keys *keys, unsigned count,
			    uint64_t lease_us);
/* The same by an engine that says what computing costs it. */
struct rig_found rig_lookup_weighed(struct rig_client *client, const struct rig_keys *keys,
				    unsigned count, uint64_t lease_us,
				    const struct worth_cost *cost);
/* A lookup of several frames, which share their request number and tag. */
struct rig_lookup {
	struct rig_client *client;
	uint64_t request; /* 0: the next one */
	uint8_t tag;      /* each byte of it */
	uint64_t lease_us;
};

/* A frame that is not the last: it is sent and served, and nothing answers it. */
void rig_lookup_frame(struct rig_lookup *lookup, const struct rig_keys *keys);
struct rig_found rig_lookup_last(struct rig_lookup *lookup, const struct rig_keys *keys);
/* Of one full group from its first key on: usable blocks. */
unsigned rig_usable(struct rig_client *client, uint64_t first, unsigned count);
void rig_lease_release(struct rig_client *client, uint64_t lease);
/* space UINT32_MAX: the tenant. */
int rig_forget(struct rig_client *client, uint32_t space);
struct frame_hint_reply rig_hint(struct rig_client *client, enum frame_hint_kind kind,
				 const struct rig_blocks *blocks, uint64_t retain_us);
struct frame_explained_item rig_explain(struct rig_client *client, unsigned group, uint64_t key);
int rig_bypass(struct rig_client *client, const char *tenant, bool is_of_space,
	       enum frame_bypass_mode mode);
uint32_t rig_entry(struct rig_client *client, unsigned group, uint64_t key);
/* The slot of the client's shard of a key in a tier, or SLOT_NONE. */
uint32_t rig_slot(struct rig_client *client, enum tier_id tier, unsigned group, uint64_t key);
/* Drops the cpu copy of keys that lie on nvme too, as an eviction would. */
void rig_drop_cpu(struct rig_client *client, unsigned group, uint64_t first, unsigned count);

#endif
