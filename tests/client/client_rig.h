/*
 * tests/client/client_rig.h: a client of the library, the planes of its engine, and the fake daemon
 * that it talks to. Rigs lie on the heap: a test that fails leaves its rig and the rig's threads
 * behind, and they must not write over the stack of the next one. Runs on: the test's thread.
 */
#ifndef KVTIER_TESTS_CLIENT_CLIENT_RIG_H
#define KVTIER_TESTS_CLIENT_CLIENT_RIG_H

#include "client/client.h"
#include "client/kvtier.h"
#include "tests/client/fake_daemon.h"

#define RIG_BLOCKS 40u
#define RIG_PLANES 2u
/* Never reached unless something is broken, however busy the machine is. */
#define RIG_WAIT_US UINT64_C(30000000)
#define RIG_SHORT_US UINT64_C(20000) /* where a bound itself is under test */
#define RIG_WINDOW_BYTES (1u << 20)

extern const uint64_t rig_plane_bytes[RIG_PLANES], rig_plane_stride[RIG_PLANES];

struct rig {
	struct fake_daemon fake;
	struct kvtier_client *client;
	uint64_t connect_us_max; /* of the next client; 0: RIG_WAIT_US */
	uint8_t *planes[RIG_PLANES];
	/* pull: a plane each; not where the library is told, so it cannot touch them */
	int region_fds[RIG_PLANES];
	uint64_t region_bytes[RIG_PLANES];
	bool is_pulled, has_word;
	struct kvtier_block blocks[RIG_BLOCKS];
	uint8_t hashes[RIG_BLOCKS][KVTIER_HASH_BYTES];
	char text[256];
};

/* With a client that is connected, scheduler and worker. */
struct rig *rig_create(void);
/* Without a client; rig_open_client() follows. */
struct rig *rig_create_closed(uint64_t window_bytes);
/* The same, of an engine that lends its memory to a daemon that pulls. */
struct rig *rig_create_pull_closed(void);
struct rig *rig_create_pull(void);
/* Of a plane, as the engine knows it. */
uint64_t rig_device_address(unsigned plane);
void rig_destroy(struct rig *rig);
int rig_open_client(struct rig *rig, unsigned roles);
/* Random bytes in every plane. */
void rig_fill(struct rig *rig, uint64_t seed);
/* A job with the first `count` blocks. */
int rig_begin(struct rig *rig, bool is_store, unsigned count, uint64_t deadline_us,
	      uint64_t *out_job);
/* The next completion; there must be one. */
struct kvtier_completion rig_next(struct rig *rig);
/* A job and its one completion. */
struct kvtier_completion rig_run(struct rig *rig, bool is_store, unsigned count);
int rig_lookup(struct rig *rig, unsigned count, uint64_t wait_us, struct kvtier_found *out_found);
void rig_reconnect(struct rig *rig);
/* Moves the end of the pause that a call in vain has begun: 0: now, UINT64_MAX: never. */
void rig_set_pause_end(struct rig *rig, uint64_t until_us);

#endif
