/*
 * tests/client/fake_daemon.h: a daemon in a thread of the test, which speaks the protocol and
 * misbehaves on request. It keeps one slot size, never evicts, and forgets everything when it is
 * restarted.
 */
#ifndef KVTIER_TESTS_CLIENT_FAKE_DAEMON_H
#define KVTIER_TESTS_CLIENT_FAKE_DAEMON_H

#include "proto/frames_blocks.h"

#include <pthread.h>
#include <stdbool.h>

#define FAKE_CONNECTIONS_MAX 16
#define FAKE_SLOTS 64
#define FAKE_TYPES 64
#define FAKE_LEASE_FIRST 9u

/* What it does when a request of some type comes. */
enum fake_way {
	FAKE_RIGHT,
	FAKE_SILENT,       /* no answer, ever */
	FAKE_CLOSE,        /* closes this connection */
	FAKE_GARBAGE,      /* answers with what is no frame */
	FAKE_STRANGER,     /* answers with a right frame of a request that nobody made */
	FAKE_LATE,         /* answers when the next request comes, just before it */
	FAKE_REFUSE,       /* answers ERROR with fake->refusal */
	FAKE_WRONG_BOOT,   /* answers with another boot id */
	FAKE_DAMAGED,      /* LOAD: a byte of the payload is wrong */
	FAKE_REUSED,       /* LOAD: the slot holds another block */
	FAKE_OUTSIDE,      /* LOAD: the slot lies beyond the arena */
	FAKE_TWICE,        /* LOAD, COMMIT: each event is sent twice */
	FAKE_UNSEALED,     /* ATTACH: a window without seals */
	FAKE_SHORT,        /* ATTACH: says more bytes than the arena has */
	FAKE_WRONG_CANARY, /* ATTACH */
	FAKE_NO_FDS        /* ATTACH */
};

struct fake_slot {
	bool is_used;
	uint8_t hash[FRAME_HASH_BYTES];
	uint32_t generation;
};

struct fake_daemon {
	char directory[64];
	char path[96];
	pthread_t thread;
	int listen_fd, wake_fd;
	pthread_mutex_t lock; /* everything below */
	pthread_cond_t changed;
	bool is_stopping, must_restart;
	enum fake_way ways[FAKE_TYPES]; /* by request type */
	unsigned ways_left[FAKE_TYPES]; /* how often; 0: always */
	unsigned seen[FAKE_TYPES];      /* requests by type */
	unsigned released_bad, released_good, spaces_opened, lookup_keys;
	int refusal;
	uint64_t leases_granted, lease_released; /* the last one released */
	uint64_t boot_id;
	uint64_t window_bytes;
	unsigned ranks_missing;
	struct fake_connection {
		int fd;
		bool is_data;
		uint8_t *window;
		uint32_t group_bytes;
		struct fake_batch {
			uint64_t number;
			uint32_t count;
			uint8_t hashes[FRAME_KEYS_MAX][FRAME_HASH_BYTES];
		} batches[16];
		unsigned batches_count;
		uint8_t late[FRAME_BYTES_MAX];
		uint32_t late_bytes;
		uint32_t keys_count; /* of the lookup being gathered */
		uint64_t lookup_request;
		uint8_t present[FRAME_LOOKUP_KEYS_MAX / 8];
	} * connections; /* FAKE_CONNECTIONS_MAX */
	int arena_fd, arena_read_fd;
	uint8_t *arena;
	uint64_t arena_bytes, slot_bytes;
	struct fake_slot slots[FAKE_SLOTS];
	struct frame_group group; /* the last one registered */
	uint8_t fingerprint[16];
};

void fake_start(struct fake_daemon *fake, uint64_t window_bytes);
void fake_stop(struct fake_daemon *fake);
/* From now on, `times` times (0: always). */
void fake_set(struct fake_daemon *fake, enum frame_type type, enum fake_way way, unsigned times);
/* Closes all connections and comes back with another boot id and an empty cache. */
void fake_restart(struct fake_daemon *fake);
unsigned fake_seen(struct fake_daemon *fake, enum frame_type type);
/* Waits until so many requests of a type have come. */
void fake_wait_seen(struct fake_daemon *fake, enum frame_type type, unsigned count);
/* Waits until so many loaded blocks were released, over all RELEASEs; returns how many of them were
 * bad. */
unsigned fake_wait_released(struct fake_daemon *fake, unsigned count);
/* Makes the slot of `hash` another block's, as the daemon does when it takes a slot back. */
void fake_reuse_slot(struct fake_daemon *fake, const uint8_t *hash);

#endif
