/*
 * kvtier.h: the client library of the kvtier daemon.
 *
 * A client belongs to one process. Calls on one client may come from several threads. After fork()
 * the child's calls answer -ECHILD; it opens a client of its own. Every call that can wait takes a
 * bound, in microseconds from now; when the daemon is dead, hung, full or slow the answer is a miss
 * or an error within that bound, never a stall. Functions return 0 or a negative errno unless they
 * say otherwise. C99, C++.
 *
 * A daemon that does not answer costs its bound once, not at every call: after a call that asks it
 * (lookup, hint, forget, stats, space_open) ran into its bound, such calls answer -EAGAIN at once
 * for 20 times as long as it took, doubled each time in a row, at most 1 s. Then one call asks
 * again, while the others still get -EAGAIN; an answer in time, or a new connection, ends it. What
 * comes too late is dropped, and a lease in it is given back by the next call that asks.
 * kvtier_connect() asks in any case, and kvtier_lease_release() never waits for an answer.
 *
 * A deadline ends the caller's wait, not the library's use of the caller's memory: blocks of a job
 * may be used for something else only when its completion says `quiesced`.
 */
#ifndef KVTIER_H
#define KVTIER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVTIER_HASH_BYTES   32
#define KVTIER_TAG_BYTES    16
#define KVTIER_GROUPS_MAX   16
#define KVTIER_SPACE_NONE   0xffffffffu
#define KVTIER_TIERS        3

#if defined(__GNUC__)
#define KVTIER_API __attribute__((visibility("default")))
#else
#define KVTIER_API
#endif

struct kvtier_client;

/* Where one part of every block of a group lies: block b at base + b * stride, `bytes` bytes. In
 * host memory, or, where kvtier_options.device is given, on that device: base is then an address
 * of the device, and all blocks of a plane lie in one region. */
struct kvtier_plane {
	void *base;
	uint64_t stride;
	uint64_t bytes;
};

enum kvtier_group_kind { KVTIER_FULL, KVTIER_WINDOW, KVTIER_STATE };

/* A block's payload is its planes one behind the other; segments (layers) are equal parts of it,
 * the last may be shorter. */
struct kvtier_group {
	enum kvtier_group_kind kind;
	uint32_t tokens_per_block;
	uint32_t window_tokens;             /* KVTIER_WINDOW */
	uint32_t segments_count;            /* 1..256; 0 means 1 */
	uint32_t blocks_count;              /* engine blocks 0..blocks_count-1; 0 for a scheduler */
	uint32_t planes_count;
	const struct kvtier_plane *planes;  /* copied */
	uint64_t payload_bytes;             /* 0: the sum of the planes */
};

/* What makes blocks interchangeable; text, NULL is the same as empty. model_content is required. */
struct kvtier_identity {
	const char *model_content;          /* a digest, never a name or a path alone */
	const char *dtype, *quantisation, *layout, *split, *speculation;
	const char *hash_algorithm, *hash_seed, *weights_version;
};

enum { KVTIER_SCHEDULER = 1, KVTIER_WORKER = 2 };

enum kvtier_region_kind {
	KVTIER_REGION_HANDLE = 1,           /* of one allocation, for another process (IPC) */
	KVTIER_REGION_FDS                   /* of several, mapped one behind the other */
};

/* Memory of a device that the engine lends; regions do not overlap. All of it is copied. */
struct kvtier_region {
	uint64_t address, bytes;            /* in the engine's own addresses of the device */
	enum kvtier_region_kind kind;
	uint64_t handle_offset;             /* HANDLE: of `address` in the allocation */
	const void *handle;                 /* HANDLE: 64 bytes; else NULL */
	unsigned fds_count;                 /* FDS: in the order of their addresses */
	const int *fds;                     /* borrowed: kvtier_open() makes its own of them */
	const uint64_t *fd_bytes;           /* of each; together the region's */
};

/*
 * A worker whose blocks lie on a device lends them to the daemon, which copies itself. Jobs,
 * results and completions are the same, but the daemon's process for that device may go on with
 * blocks after a deadline has passed, a job was cancelled or the daemon died: `quiesced` says when
 * that is over. The client is connected once its memory is imported; kvtier_connect() says why it
 * is not: the daemon has no such GPU, is not ready yet, or cannot import the memory.
 */
struct kvtier_device {
	const char *name;                   /* PCI bus id or uuid */
	unsigned regions_count;
	const struct kvtier_region *regions;
	/* a u64 in a region that the engine's stream raises, a multiple of 8; 0: none. For
	 * kvtier_transfer.gate_value */
	uint64_t word_address;
};

struct kvtier_options {
	/* the tenant's; NULL: $KVTIER_SOCKET, else /run/kvtier/t/default/kv.sock */
	const char *socket;
	/* id, the same for all ranks of one engine; at most 63 bytes */
	const char *engine;
	unsigned roles;                     /* KVTIER_SCHEDULER | KVTIER_WORKER */
	unsigned shard, world;              /* this rank's part; world 0 means 1 */
	struct kvtier_identity identity;
	unsigned groups_count;
	const struct kvtier_group *groups;  /* copied */
	uint64_t connect_us_max;            /* how long kvtier_open() itself may take; 0: 1 s */
	/* copied; where the planes lie. NULL: in host memory */
	const struct kvtier_device *device;
};

/*
 * Opens a client; starts its copy thread if it has the worker role. When the daemon is not there
 * (yet) the client is opened all the same, answers misses, and connects and registers by itself
 * later; kvtier_is_connected() tells. Fails only for what waiting will not mend: bad options
 * (-EINVAL), a refused registration (-EPERM), no memory. `text` (may be NULL) gets a sentence on
 * failure. A registration that is refused later, after the daemon came back, makes every call
 * answer that error, a miss, until kvtier_connect() is called.
 */
KVTIER_API int kvtier_open(struct kvtier_client **out_client, const struct kvtier_options *options,
			   char *text, size_t text_bytes);
/* Cancels what is under way, waits until it is quiescent, frees. That takes microseconds; with a
 * device, until the daemon's copies are over, but at most 2 s: a caller to whom that is not enough
 * waits for the completions of its jobs first. NULL is allowed. */
KVTIER_API void kvtier_close(struct kvtier_client *client);
/* 1: registered, all ranks are there; 0: not now. Never waits. */
KVTIER_API int kvtier_is_connected(struct kvtier_client *client);
/* Tries to connect and register within `wait_us_max`; 0 when connected. After a refused
 * registration (-EPERM, -EINVAL) each call tries once more: an operator may have changed the
 * settings. `text` (may be NULL) says why it is not connected, and to which socket. */
KVTIER_API int kvtier_connect(struct kvtier_client *client, uint64_t wait_us_max, char *text,
			      size_t text_bytes);
/* The fingerprint of the registered space; -ENOTCONN while unknown. */
KVTIER_API int kvtier_fingerprint(struct kvtier_client *client, uint8_t out_fingerprint[16]);
/* The space of requests that use a LoRA adapter with this content digest. Survives daemon
 * restarts. */
KVTIER_API int kvtier_space_open(struct kvtier_client *client, const uint8_t adapter_digest[32],
				 uint64_t wait_us_max, uint32_t *out_space);

/* Spaces are numbered by the client: 0 is the registered one, others come from
 * kvtier_space_open(). */

struct kvtier_keys {
	uint32_t group;
	uint32_t first_position;            /* index of keys[0] in the chain of its group */
	uint32_t count;
	const uint8_t (*hashes)[KVTIER_HASH_BYTES];
};

struct kvtier_lookup {
	uint32_t space;
	uint32_t sections_count;            /* one a group */
	const struct kvtier_keys *sections;
	const uint8_t *tag;                 /* NULL or 16 bytes */
	uint64_t lease_us;                  /* 0: no lease */
	/* prefill seconds a + b u + c u (p + u / 2); all 0: not known */
	double cost_a, cost_b, cost_c;
};

struct kvtier_found {
	/* give it back by kvtier_lease_release(); ends with the connection; 0: none */
	uint64_t lease;
	uint32_t usable_tokens;             /* leading tokens whose blocks are all there */
	uint32_t worth_tokens;              /* of them, how many are worth loading */
	uint32_t present_count;             /* keys present, holes included */
	/* of the usable: in cpu, in nvme, on their way from another node */
	uint32_t tier_tokens[KVTIER_TIERS];
	uint32_t restore_us;                /* estimate for worth_tokens */
	uint8_t *present;                   /* caller's, a byte a key in the order given, or NULL */
	uint32_t present_max;               /* room of it */
};

/*
 * -EAGAIN: ranks of this engine are still missing, or the daemon did not answer lately (above). Any
 * failure is a miss: usable_tokens is 0. Otherwise it is a multiple of every group's
 * tokens_per_block, and every group can go on from there: full groups have all blocks before it,
 * window groups those that hold the last window_tokens before it, state groups the one that ends
 * there. A smaller number may not be usable, even if it is such a multiple.
 */
KVTIER_API int kvtier_lookup(struct kvtier_client *client, const struct kvtier_lookup *lookup,
			     uint64_t wait_us_max, struct kvtier_found *out_found);
KVTIER_API int kvtier_lease_release(struct kvtier_client *client, uint64_t lease);

/* Blocks of another node. */
enum kvtier_source_mode {
	KVTIER_PRESENT,                     /* what it has now */
	KVTIER_STREAM                       /* also what it gets before the deadline */
};

/* Of one of both: a peer, or a ticket. */
struct kvtier_source {
	const char *peer;                   /* "host:port", one of the daemon's peers; or NULL */
	const char *ticket;                 /* kvtier_ticket()'s, from the other node; or NULL */
	enum kvtier_source_mode mode;
	/* one more peer, asked for what that one does not give while there is time; or NULL */
	const char *second;
};

struct kvtier_fetch {
	uint64_t number;                    /* of the daemon */
	uint32_t keys_count;
};

/*
 * Has the daemon bring blocks here from another node: those of the lookup's keys (at most 16,384)
 * that it has not itself. Loads of blocks on their way wait for them, to their own deadline; what
 * does not come, or is not what it should be, is a miss. A fetch ends by kvtier_fetch_end(),
 * `keep_us` from now, or with the connection; what has come stays in the cache. -ENOTSUP: the
 * daemon has no peers; -ENOENT: none of that address; -EBUSY: too many fetches; -EBADMSG,
 * -EPROTONOSUPPORT: no ticket of this cluster, or of another version; -EPERM: a ticket for
 * another tenant or space. A ticket that is over by its time, a restart or its use is a fetch
 * that brings nothing.
 */
KVTIER_API int kvtier_fetch(struct kvtier_client *client, const struct kvtier_lookup *lookup,
			    const struct kvtier_source *source, uint64_t keep_us,
			    uint64_t wait_us_max, struct kvtier_fetch *out_fetch);
/* What there will be, as kvtier_lookup() answers: once the other node has said what it gives.
 * -EAGAIN: it has not yet; ask again. -ESTALE: the fetch has ended. Other calls of the client
 * wait meanwhile, so with a bound of 0 this only looks. */
KVTIER_API int kvtier_fetch_wait(struct kvtier_client *client, const struct kvtier_fetch *fetch,
				 uint64_t wait_us_max, struct kvtier_found *out_found);
/* Nothing more of it is wanted. Never waits for an answer. */
KVTIER_API int kvtier_fetch_end(struct kvtier_client *client, const struct kvtier_fetch *fetch);

#define KVTIER_TICKET_BYTES 1024u

/*
 * The daemon's promise of these keys (at most 16,384, stored already or not) to one other node: an
 * opaque text that goes through URLs and JSON, for kvtier_fetch() there. Only the first node that
 * comes with it within `keep_us` is given anything, each block once. It holds nothing here: what is
 * evicted before is a miss. -ENOTSUP: the daemon has no peers; -EADDRNOTAVAIL: it does not know at
 * which address others reach it (its setting peer_address); -EBUSY: too many tickets are open.
 */
KVTIER_API int kvtier_ticket(struct kvtier_client *client, const struct kvtier_lookup *lookup,
			     uint64_t keep_us, uint64_t wait_us_max,
			     char out_ticket[KVTIER_TICKET_BYTES]);

struct kvtier_block {
	uint8_t hash[KVTIER_HASH_BYTES];
	uint64_t route_key;                 /* stores; 0: none */
	uint32_t engine_block;
};

struct kvtier_transfer {
	uint32_t space;
	uint32_t group;
	uint32_t first_position;            /* stores */
	uint32_t count;
	const struct kvtier_block *blocks;  /* copied; consecutive blocks of one chain, in order */
	/* stores: hash of the block before blocks[0]; NULL: the first of its prefix */
	const uint8_t *parent;
	const uint8_t *tag;
	uint64_t lease;                     /* loads; 0: none */
	uint64_t deadline_us;               /* from now */
	void *user;                         /* comes back in the completion */
	/* with a device: the blocks are read or written only once its word has reached this; 0: at
	 * once */
	uint64_t gate_value;
};

enum kvtier_state { KVTIER_DONE = 1, KVTIER_FAILED, KVTIER_CANCELLED, KVTIER_EXPIRED };

struct kvtier_completion {
	uint64_t job;
	void *user;
	int is_store;
	/* DONE: every block has a result; FAILED: the daemon went away */
	enum kvtier_state state;
	/* 1: the job's engine blocks are not touched any more */
	int quiesced;
	uint32_t count;
	/* loads: delivered and proven; stores: now in the cache (also by others) */
	uint32_t good_count;
	/* A result a block: 0; loads: -ENOENT a miss, -EBADMSG a wrong checksum (a miss); stores: 1
	 * was there already, -ENOSPC refused, with a device -EIO and -ENODEV not copied; -ETIME,
	 * -ECANCELED, -ENOTCONN. Owned by the library until the next kvtier_poll() or close. */
	const int *results;
};

/* Both return at once; the copy thread does the work. *out_job is never 0. -EAGAIN: too many jobs.
 * -ENOTCONN. -ENOTSUP: a gate_value, but the daemon's GPU cannot wait for words: wait yourself and
 * give 0. */
KVTIER_API int kvtier_store(struct kvtier_client *client, const struct kvtier_transfer *transfer,
			    uint64_t *out_job);
KVTIER_API int kvtier_load(struct kvtier_client *client, const struct kvtier_transfer *transfer,
			   uint64_t *out_job);
/* The job ends as CANCELLED, soon. Unknown jobs are ignored. */
KVTIER_API void kvtier_cancel(struct kvtier_client *client, uint64_t job);

/* Readable while kvtier_poll() has something, or a deadline is to be looked at. Owned by the
 * client. */
KVTIER_API int kvtier_fd(struct kvtier_client *client);
/*
 * Takes at most `completions_max` completions; returns how many, or a negative errno. Each job
 * completes exactly once; one that completed with quiesced = 0 is followed by one more completion
 * with the same job and state and quiesced = 1.
 */
KVTIER_API int kvtier_poll(struct kvtier_client *client, struct kvtier_completion *out_completions,
			   unsigned completions_max);
/* Waits until kvtier_poll() has something: 1, or 0 after `wait_us_max`. */
KVTIER_API int kvtier_wait(struct kvtier_client *client, uint64_t wait_us_max);

/* Makes everything stored so far in the space unreachable for ever, durable when it returns 0. For
 * weights changed in place. KVTIER_SPACE_NONE: everything of the tenant. After a failure it is not
 * known whether it was done; -EAGAIN: it was not asked for. */
KVTIER_API int kvtier_forget(struct kvtier_client *client, uint32_t space, uint64_t wait_us_max);

enum kvtier_hint {
	KVTIER_HINT_END,
	KVTIER_HINT_RETAIN,
	KVTIER_HINT_PREFETCH,
	KVTIER_HINT_PIN,
	KVTIER_HINT_TOUCH
};
enum kvtier_outcome { KVTIER_ACCEPTED, KVTIER_CLIPPED, KVTIER_DEFERRED, KVTIER_REJECTED };

/* Advisory: demotes or protects, never deletes. *out_lease: for PIN. Returns a negative errno or
 * enum kvtier_outcome. */
KVTIER_API int kvtier_hint(struct kvtier_client *client, enum kvtier_hint hint, uint32_t space,
			   const struct kvtier_keys *keys, uint64_t retain_us, uint64_t wait_us_max,
			   uint64_t *out_lease);

/* The daemon's status as JSON (NUL-terminated, cut to the room). */
KVTIER_API int kvtier_stats(struct kvtier_client *client, char *text, size_t text_bytes,
			    uint64_t wait_us_max);

/*
 * Route keys: XXH3-64 with the parent's route key as seed (first block: tokens per block) over the
 * token ids as little-endian u32, then length-prefixed (u32) adapter name, cache salt and media
 * ids, in this order, each only in blocks where it applies; an empty list of extras adds nothing.
 */
struct kvtier_extra {
	const void *bytes;
	uint32_t bytes_count;
};
KVTIER_API uint64_t kvtier_route_key(uint64_t parent, const uint32_t *tokens, size_t tokens_count,
				     const struct kvtier_extra *extras, size_t extras_count);
/*
 * The route keys of `blocks_count` consecutive full blocks. The parent of out_keys[i] is
 * out_keys[i - 1], that of out_keys[0] is `parent`: tokens_per_block for the first block of a
 * prefix. extras_ends[i] is the index behind block i's last extra, where block i + 1's begin;
 * extras_ends NULL: no block has any. -EINVAL, and nothing is written: tokens_per_block of 0, ends
 * that go down, or something that is not there.
 */
KVTIER_API int kvtier_route_keys(uint64_t parent, const uint32_t *tokens, size_t tokens_per_block,
				 size_t blocks_count, const struct kvtier_extra *extras,
				 const uint32_t *extras_ends, uint64_t *out_keys);

/*
 * One engine block's payload, copied out of its planes and into them, by the caller's thread and
 * without the daemon: an engine proves by them at its start that it has described its memory right.
 * No job may use the block meanwhile. -EINVAL: a client without the worker role or with a device,
 * no such group or block, or `bytes` that are not the payload's.
 */
KVTIER_API int kvtier_block_read(struct kvtier_client *client, uint32_t group,
				 uint32_t engine_block, void *out_bytes, size_t bytes);
KVTIER_API int kvtier_block_write(struct kvtier_client *client, uint32_t group,
				  uint32_t engine_block, const void *from, size_t bytes);

/* "0.1.0", and what the library was built with. */
KVTIER_API const char *kvtier_version(void);
KVTIER_API const char *kvtier_strerror(int result);

#ifdef __cplusplus
}
#endif

#endif
