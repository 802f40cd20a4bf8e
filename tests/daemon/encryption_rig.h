/* tests/daemon/encryption_rig.h: a rig with encryption, and blocks on its disk. Runs on: one
 * thread. */
#ifndef KVTIER_TESTS_DAEMON_ENCRYPTION_RIG_H
#define KVTIER_TESTS_DAEMON_ENCRYPTION_RIG_H

#include "daemon/encryption.h"
#include "tests/daemon/rig.h"

#define BLOCKS 16u

extern const struct rig_blocks bench_blocks; /* keys 1 to BLOCKS */

struct bench {
	struct rig rig;
	struct rig_client *client;
};

/* All are stored and written down. `encryption` as in the settings. */
void bench_init(struct bench *bench, const char *encryption);
/* The next life, until its rebuild is through. */
void bench_again(struct bench *bench, bool is_killed, bool is_catalog_lost);
/* Nothing is held or under way, and the rig ends. */
void bench_finish(struct bench *bench);
struct slot_header *bench_on_disk(struct bench *bench, uint64_t key);
/* How many of these keys were served, rightly. */
unsigned bench_load(struct bench *bench, uint64_t first, unsigned count);
uint64_t key_missing(struct bench *bench);

#endif
