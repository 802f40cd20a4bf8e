/*
 * tests/client/fake_daemon.h: a daemon in a thread of the test, which speaks the protocol and
 * misbehaves on request. It keeps one slot size, never evicts, and forgets everything when it is
 * restarted.
 */
#ifndef KVTIER_TESTS_CLIENT_FAKE_DAEMON_H
#define KVTIER_TESTS_CLIENT_FAKE_DAEMON_H

#include "proto/frames_blocks.h"
#include "proto/frames_peers.h"

#include "transfer/job_words.h"
#include "transfer/lend.h"

#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>

#define FAKE_CONNECTIONS_MAX 16
#define FAKE_SLOTS 64
#define FAKE_TYPES 64
#define FAKE_LEASE_FIRST 9u
#define FAKE_REGIONS_MAX 8

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
	FAKE_NO_FDS,       /* ATTACH, LEND */
	FAKE_WRONG_FD,     /* LEND: a descriptor, but of no process */
	FAKE_WRONG_ITEM    /* STORE: COPIED names an item that the batch has not */
};

struct fake_slot {
	bool is_used;
	uint8_t hash[FRAME_HASH_BYTES];
	uint32_t generation;
};

/* What was lent last, as the process that copies has it; and one request that is held back. */
struct fake_pull {
	bool is_on;      /* the daemon says that it pulls */
	bool has_word;   /* as LENT says */
	bool must_hold;  /* the next request: its copies begin, and end by fake_pull_end() */
	bool is_held, is_cancelled;
	pid_t process;   /* the GPU's, which does nothing; 0: none */
	int process_fd;
	struct job_words *words;
	struct lend *packet;
	uint8_t *regions[FAKE_REGIONS_MAX];
	uint64_t region_bytes[FAKE_REGIONS_MAX];
	struct frame_pull last; /* of the last STORE or LOAD */
	struct fake_connection *held_by;
	struct job_words *held_words;
	struct job_word *held_word, *ending; /* one of them; of the copies that end now */
	uint8_t held[FRAME_BYTES_MAX];
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
			int slots[FRAME_KEYS_MAX]; /* pull: where it was copied to; -1: not */
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
	struct fake_pull pull;
	struct fake_fetch {
		bool is_off;         /* it has no peers */
		int refusal;         /* of each fetch; 0 */
		unsigned waits;      /* FETCH_WAITs that are answered -EAGAIN first */
		char peer[FRAME_PEER_BYTES]; /* of the last one */
		uint32_t mode;
		uint64_t keep_us, wait_us;
		bool is_ticket; /* the list that was named last is a ticket's */
		char ticket[FRAME_TICKET_BYTES_MAX + 1]; /* of the last FETCH */
		uint64_t number, ended; /* the last one's; of the last END */
		uint32_t keys_count;
	} fetch;
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
/* From now on it pulls, by a process that the caller can end. */
void fake_pull_start(struct fake_daemon *fake);
/* The next STORE or LOAD begins its copies and does not end them. */
void fake_pull_hold(struct fake_daemon *fake);
/* Waits until copies are held; they are under way for the words. */
void fake_pull_wait_held(struct fake_daemon *fake);
/* The held copies end, and the client is told where its connection still stands. */
void fake_pull_end(struct fake_daemon *fake);
/* The process that copies dies; what it had begun is never said to have ended. */
void fake_pull_kill(struct fake_daemon *fake);
/* Waits until no data connection is open. */
void fake_wait_detached(struct fake_daemon *fake);
/* Makes the slot of `hash` another block's, as the daemon does when it takes a slot back. */
void fake_reuse_slot(struct fake_daemon *fake, const uint8_t *hash);

#endif
