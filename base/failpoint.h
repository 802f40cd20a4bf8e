/*
 * base/failpoint.h: named places where a test can make the process die or an operation fail.
 * Compiled out unless built with -DKVTIER_FAILPOINTS=1 (`make FAILPOINTS=1`, every build with a
 * sanitizer, and the simulator's). While none is armed a place costs one load and one branch.
 *
 * KVTIER_FAILPOINT=name[:nth]=kill|error|stop|hang in the environment arms one: at its nth pass
 * (default 1) the process kills itself with SIGKILL, the place reports failure, the process stops
 * itself with SIGSTOP, or the thread stays there for ever. KVTIER_FAILPOINT_ONCE=path beside it:
 * only the process that can create this file acts, so the next life of a worker, which has the same
 * environment, goes on. All names stand in one table, below; `kvtierd --list-failpoints` prints
 * them.
 */
#ifndef KVTIER_BASE_FAILPOINT_H
#define KVTIER_BASE_FAILPOINT_H

#include "base/error.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>

/* Names are FAILPOINT_<name>; adding one means one row here. Each stands at a step that changes
 * state. */
#define FAILPOINT_TABLE(row) \
	row(store_admitted,        "a store was admitted, nothing was copied") \
	row(store_copying,         "a mill is about to copy a committed block into its slot") \
	row(store_copied,          "the payload is in its slot, the header is not") \
	row(store_header_written,  "payload and header are in the slot, the index does not know") \
	row(store_ready,           "the slot is READY, the client was not told") \
	row(down_submitted,        "a write to nvme was submitted") \
	row(down_written,          "a write to nvme ended, the index does not know") \
	row(down_ready,            "the nvme slot is READY, the catalogue was not told") \
	row(up_submitted,          "a read from nvme was submitted") \
	row(up_read,               "a read from nvme ended, nothing was checked") \
	row(up_checked,            "what was read is right, the cpu address part is not written") \
	row(up_ready,              "the cpu slot is READY after a read, nobody was told") \
	row(evict_cpu,             "a cpu copy is about to be freed") \
	row(evict_nvme,            "an nvme copy is about to be freed") \
	row(extent_assigned,       "an extent changed its class, its table was not written") \
	row(extent_table_written,  "one copy of the extent table was written, not yet synced") \
	row(catalog_batch_sent,    "a catalogue batch was handed to its worker") \
	row(catalog_batch_written, "the catalogue worker wrote a batch and did not answer") \
	row(catalog_opened,        "the catalogue worker opened its database") \
	row(journal_appended,      "a journal record was written, not yet synced") \
	row(journal_synced,        "a journal record is durable, the caller was not told") \
	row(forget_floor_raised,   "the floor of a space was raised in memory") \
	row(lease_granted,         "a lease was granted, the client was not told") \
	row(load_answered,         "a load was answered, nothing was released") \
	row(restore_slot,          "a slot was restored at start") \
	row(restore_done,          "all slots were restored, nobody is served yet") \
	row(register_answered,     "a registration was answered") \
	row(mill_took,             "a mill took an op and is about to work on it") \
	row(device_took,           "a device's thread took an op, nothing was submitted") \
	row(lend_received,         "a client lends device memory, the GPU's process was not told") \
	row(lend_passed,           "lent memory was passed to the GPU's process") \
	row(lend_registered,       "memory is lent, the client was not told") \
	row(lend_returned,         "lent memory was given back or has gone, nobody was told") \
	row(pull_store_submitted,  "a copy out of lent memory was passed to the GPU's process") \
	row(pull_store_copied,     "a block was pulled into its slot, not yet committed") \
	row(pull_load_submitted,   "a copy into lent memory was passed to the GPU's process") \
	row(pull_load_copied,      "a block was copied into lent memory, not yet proven right") \
	row(gpu_costs_written,     "a GPU's process wrote what copies cost, it is not READY") \
	row(gpu_imported,          "a GPU's process imported lent memory and did not say so") \
	row(gpu_store_submitted,   "a GPU's process submitted copies out of lent memory") \
	row(gpu_store_copied,      "a GPU's process copied a block out and did not say so") \
	row(gpu_load_submitted,    "a GPU's process submitted copies into lent memory") \
	row(gpu_load_copied,       "a GPU's process copied a block in and did not say so") \
	row(gpu_closed,            "a GPU's process closed lent memory and did not say so") \
	row(fetch_asked,           "another node was asked for blocks") \
	row(fetch_granted,         "another node granted blocks, none has a slot yet") \
	row(fetch_placed,          "a block from another node has a slot, it was not asked for") \
	row(fetch_arrived,         "a block from another node is in its slot, not yet checked") \
	row(fetch_checked,         "a block from another node is right, its slot is not READY") \
	row(fetch_ended,           "a fetch is over, the other node was not told") \
	row(grant_held,            "blocks are held for another node, it was not told") \
	row(grant_asked,           "another node asked for a block that it was granted") \
	row(grant_said,            "another node was told what comes, nothing was sent") \
	row(grant_sent,            "a block was sent to another node, it is still held") \
	row(grant_ended,           "what was held for another node is free again") \
	row(peer_connected,        "a peer process has a session, the daemon was told") \
	row(peer_placed,           "a peer process has a place for a block") \
	row(peer_sending,          "a peer process is about to send a chunk") \
	row(peer_sent,             "a peer process sent a chunk and did not say so") \
	row(peer_arrived,          "a chunk is in its place, a peer process did not say so")

enum failpoint {
#define FAILPOINT_ENUM(name, help) FAILPOINT_##name,
	FAILPOINT_TABLE(FAILPOINT_ENUM)
#undef FAILPOINT_ENUM
	FAILPOINTS
};

/*
 * Reads the environment once; an unknown name is an error that says the nearest, and so is any name
 * in a build without failpoints, where a test would otherwise pass because nothing was broken.
 * Before any thread starts.
 */
must_check int failpoint_arm_from_environment(struct error *error);

#if KVTIER_FAILPOINTS
/* Arms what `text` ("name[:nth]=kill|error|stop|hang") says, in place of the one armed before. No thread
 * is at a place. */
must_check int failpoint_arm(const char *text, struct error *error);
/* Whether the armed one was passed often enough to act; disarming keeps the answer, arming clears
 * it. */
bool failpoint_was_hit(void);
void failpoint_disarm(void);

/* For failpoint_hit() alone: the armed one, or FAILPOINTS; and what happens at a place whose name
 * is armed. */
extern _Atomic int failpoint_armed;
bool failpoint_pass(enum failpoint point);

/* True: the place must fail. May not return at all. Any thread. */
static inline bool failpoint_hit(enum failpoint point)
{
	/* Relaxed: it was written before this thread started. */
	int armed = atomic_load_explicit(&failpoint_armed, memory_order_relaxed);

	return __builtin_expect(armed == (int)point, 0) && failpoint_pass(point);
}
#define failpoint(name) failpoint_hit(FAILPOINT_##name)
#else
#define failpoint(name) false
#endif

/* Prints one line a failpoint: name and help; none when compiled out. */
void failpoint_list(FILE *file);

#endif
