/*
 * daemon/inventory.h: what the node says of its blocks: each change of what a key is found in goes
 * to a process of its own (`kvtierd --worker inventory`), which tells whoever listens
 * (proto/inventory.h); and the sums that let them see whether they missed anything.
 *
 * A change costs the loop a message in a ring. Where the ring is full, or the process has died, an
 * epoch ends: whoever follows takes a snapshot, which is read from the index piece by piece.
 * Blocks without a route key are not spoken of. Forgotten ones are until they are swept.
 * Runs on: the loop thread; nothing here waits. Owns: sums of each space.
 */
#ifndef KVTIER_DAEMON_INVENTORY_H
#define KVTIER_DAEMON_INVENTORY_H

#include "base/clock.h"
#include "base/error.h"
#include "daemon/inventory_messages.h"
#include "daemon/worker.h"
#include "index/cache.h"

#define INVENTORY_LINE_US UINT64_C(1000000)    /* between two lines of sums and figures */
#define INVENTORY_LINE_SPACES 256u             /* whose sums a line has; others have their turn */
#define INVENTORY_STALL_US_MAX (UINT64_C(2) * 1000000)

struct inventory;

struct inventory_config {
	const char *listen;        /* "host:port" of what is said */
	const char *ask_listen;    /* "host:port" of questions */
	const char *program;       /* NULL: ourselves */
	struct clock *clock;
	const struct cache *cache;
	uint64_t boot_id;
	uint32_t spaces_max;       /* numbers of spaces are below it */
	int lock_fd;               /* see worker_config */
	/* Not NULL: no process; messages go here, and those of the other way come by
	 * inventory_asked(). False: there is no room. For tests. */
	bool (*send)(void *owner, const struct inventory_message *message);
	/* Says what there is to say of tiers and engines, by inventory_figure() and
	 * inventory_engine(). May be NULL. */
	void (*figures)(void *owner, struct inventory *inventory);
	void *owner;
};

struct inventory_status {
	enum worker_state state;
	bool is_told;              /* an epoch goes on: what changes is said */
	uint16_t port, ask_port;   /* that it listens at; 0: not yet */
	uint64_t epoch;
	uint64_t changes, lost, pieces;
	uint32_t restarts;
	pid_t pid;                 /* 0: none */
	char reason[WORKER_REASON_BYTES]; /* why the last life ended; "" */
};

must_check int inventory_create(struct inventory **out_inventory,
				const struct inventory_config *config, struct error *error);
/* Kills the process. Accepts NULL. */
void inventory_destroy(struct inventory *inventory);
/* From the cache's listener: a copy of the entry has become whole, or has gone, in this tier. */
void inventory_changed(struct inventory *inventory, const struct entry *entry, enum tier_id tier,
		       bool is_whole);
/* From within config.figures(). */
void inventory_figure(struct inventory *inventory, unsigned tier, enum inventory_figure figure,
		      uint64_t value);
/* An engine that is attached, from there as well: its spaces, the first one without an adapter, at
 * most INVENTORY_ENGINE_SPACES_MAX. Names are of up to INVENTORY_NAME_BYTES_MAX bytes. */
void inventory_engine(struct inventory *inventory, const char *tenant, const char *engine,
		      uint32_t tokens_per_block, const uint32_t *spaces, uint32_t spaces_count);
bool inventory_step(struct inventory *inventory, uint64_t now_us);
/* For the loop's wait: see worker_fd() and the two below it. NULL: there is no process. */
struct worker *inventory_worker(struct inventory *inventory);
/* A message of the process. */
void inventory_asked(struct inventory *inventory, const struct inventory_message *message);
/* What was said of a space, in sum. */
void inventory_sums(const struct inventory *inventory, uint32_t space, uint64_t *out_entries,
		    uint64_t *out_digest);
void inventory_look(const struct inventory *inventory, struct inventory_status *out_status);

/* ---- the process ---- */

/* main() of `kvtierd --worker inventory "LISTEN ASK_LISTEN BOOT"`, tabs between. */
int inventory_worker_main(int arguments_count, char **arguments);

#endif
