/*
 * tests/daemon/rig_pair.h: two daemons on one network: an engine of the one gives, the same
 * engine of the other takes.
 */
#ifndef KVTIER_TESTS_DAEMON_RIG_PAIR_H
#define KVTIER_TESTS_DAEMON_RIG_PAIR_H

#include "tests/daemon/rig_net.h"

#include "daemon/fetch.h"
#include "daemon/grant.h"

#define BLOCKS 20u
#define WAIT_US (5 * RIG_SECOND)   /* of each fetch and load */

extern struct rig_net net;
extern struct rig rigs[2];
extern struct rig_client *giver, *taker;

/* Both NULL: the defaults. Node 1, the taker's, connects to node 0. */
void pair_start(const struct rig_engine *engine, const struct rig_config *config);
/* The same, but neither connects to the other. */
void pair_start_apart(const struct rig_engine *engine, const struct rig_config *config);
/* Once every deadline has passed nothing is held or under way on either side. */
void pair_finish(void);
void pair_pass_time(uint64_t us);
/* The giver stores keys first, first + 1, ... in version 7. */
void pair_give(uint64_t first, unsigned count);
/* Of keys 1, 2, ... */
struct rig_fetch pair_fetch(unsigned count, enum frame_fetch_mode mode);
struct rig_batch *pair_load_begin(unsigned count);
/* All of it: until each load has ended; how many were proven. */
unsigned pair_load(unsigned count);

#endif
