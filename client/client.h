/*
 * client/client.h: the inside of libkvtier.
 *
 * Threads: *callers* (any thread of the engine) use the control connection themselves, one at a
 * time: whoever has the *turn*. The *copier*, one thread of a client with the worker role, owns the
 * data connection, the window and the mapping of the arena, and moves all bytes; or it lends the
 * engine's device memory, and the daemon moves them (*pull*). What both threads touch is under
 * `lock`, which is never held across a system call that can wait, nor across a copy.
 */
#ifndef KVTIER_CLIENT_CLIENT_H
#define KVTIER_CLIENT_CLIENT_H

#include "base/error.h"
#include "base/list.h"
#include "client/kvtier.h"
#include "proto/frames_blocks.h"
#include "transfer/job_words.h"
#include "transfer/lend.h"
#include "transfer/slot_header.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#define CLIENT_SOCKET_DEFAULT "/run/kvtier/t/default/kv.sock"
#define CLIENT_CONNECT_US                                                                          \
	UINT64_C(1000000) /* kvtier_open() without a bound; one attempt of the copier */
#define CLIENT_WAIT_US_MAX UINT64_C(3600000000) /* longer waits and deadlines are cut to this */
#define CLIENT_RETRY_US_MIN UINT64_C(10000) /* the copier's back-off, doubled up to the maximum */
/* A failed connect costs microseconds; a daemon that is back and not noticed costs hits. */
#define CLIENT_RETRY_US_MAX UINT64_C(100000)
#define CLIENT_CALL_RETRY_US UINT64_C(100000) /* callers try to connect at most so often */
#define BREAKER_TIMES 20u /* a daemon that does not answer is waited for 1/20 of the time */
#define BREAKER_PAUSE_US_MAX UINT64_C(1000000)
#define CLIENT_READY_CHECK_US                                                                      \
	UINT64_C(100000) /* how often a worker asks whether all ranks are there */
#define CLIENT_READY_WAIT_US UINT64_C(20000)
#define CLIENT_GRACE_US UINT64_C(1000000) /* after its deadline a load's batch is given up */
#ifdef KVTIER_SMALL /* tests/sim: pools that run empty */
#define CLIENT_JOBS_MAX 16u
#else
#define CLIENT_JOBS_MAX 256u
#endif
#define CLIENT_BLOCKS_MAX 1000000u /* of all jobs together */
#define CLIENT_SPACES_MAX 256u
#define CLIENT_PLANES_MAX 4096u    /* of one group */
#define CLIENT_COMMIT_BLOCKS 4u    /* gathered, then committed together */
#define CLIENT_FRAMES_PASS 16u     /* taken from the daemon before stores go on */
#define CLIENT_RELEASE_ITEMS 16u   /* a load's window moves on after so many blocks */
#define CLIENT_WINDOW_PLACES 4096u /* a power of two */
#define CLIENT_WINDOW_ALIGN 64u
#define CLIENT_WINDOW_HOT_BYTES (UINT64_C(16) << 20)
#define CLIENT_MAPPING_BYTES_MAX (UINT64_C(1) << 46)
#define CLIENT_CANARY_BYTES 64u
#define CLIENT_LEND_US UINT64_C(5000000) /* a driver may take long to import memory */
#define CLIENT_QUIET_LOOK_US UINT64_C(1000) /* between two looks at the words of ended jobs */
#define CLIENT_QUIET_US_MAX UINT64_C(2000000) /* kvtier_close() waits for them so long */

/* ---- kvtier_breaker.c: how often a daemon that does not answer is asked ---- */

struct breaker {
	uint64_t pause_us; /* 0: closed, everybody may ask */
	uint64_t until_us; /* nobody asks before; then one at a time */
};

bool breaker_holds(const struct breaker *breaker, uint64_t now_us);
/* There was no answer within `waited_us`. */
void breaker_trip(struct breaker *breaker, uint64_t waited_us, uint64_t now_us);
void breaker_close(struct breaker *breaker);

/* ---- kvtier_link.c: one connection; used by one thread at a time ---- */

enum link_heard {
	LINK_NOT_ASKED, /* or it broke meanwhile */
	LINK_ANSWERED,
	LINK_SILENT, /* no answer, or no room to ask, within the deadline */
};

struct link {
	_Atomic int fd;   /* -1: closed. Atomic: a child after fork() reads it, see kvtier_fork.c */
	int stop_fd;      /* readable: give up waiting; -1: none */
	bool is_broken;   /* nothing can be said on it any more */
	uint64_t boot_id; /* 0: not known yet; frames of another one break the link */
	uint64_t features; /* of the daemon: FRAME_FEATURE_... */
	uint64_t request; /* the last one used */
	enum link_heard heard; /* of the last request; the asker's to set back */
	uint64_t receive_us; /* the receive time-out that the socket has; 0: none set yet */
	bool is_blocking;    /* the next receive waits in the system call itself */
	uint8_t *incoming; /* FRAME_BYTES_MAX, the frame received last */
	uint8_t *outgoing; /* FRAME_BYTES_MAX, for the owner */
};

must_check int link_init(struct link *link, int stop_fd);
void link_finish(struct link *link);
/* Connects within the deadline and says HELLO; the reply is in `incoming`. On failure the link is
 * closed. */
must_check int link_open(struct link *link, const char *path, enum frame_connection connection,
			 uint64_t deadline_us, struct error *error);
void link_close(struct link *link);
/* With descriptors, which stay the caller's. 0; what broke the link. */
must_check int link_send_fds(struct link *link, const void *frame, const int *fds,
			     unsigned fds_count);
/* 0, or -EAGAIN: no room now; anything else broke the link. */
must_check int link_try_send(struct link *link, const void *frame);
/* 0; -ETIMEDOUT; anything else broke the link. */
must_check int link_send(struct link *link, const void *frame, uint64_t deadline_us);
/* 0: a checked frame of this boot id lies in `incoming`; -EAGAIN: nothing there; anything else
 * broke the link. `out_fds` (NULL: none are taken) gets up to 2 descriptors or -1. */
must_check int link_try_receive(struct link *link, int out_fds[2], struct error *error);
/* Sends a request (its number is filled in) and waits for its reply of type `type`. The reply's
 * result, or why there is none: -ETIMEDOUT (the link can be used on), or the link is broken. Late
 * replies to earlier requests are dropped, and the leases in them given back. */
must_check int link_ask(struct link *link, void *frame, enum frame_type type, uint64_t deadline_us,
			struct error *error);
must_check int link_ask_fds(struct link *link, void *frame, enum frame_type type,
			    uint64_t deadline_us, int out_fds[2], struct error *error);
/* Waits for the reply to `link->request`, as above. */
must_check int link_await(struct link *link, enum frame_type type, uint64_t deadline_us,
			  int out_fds[2], struct error *error);

uint64_t client_now_us(void);
/* Now + wait, the wait cut to CLIENT_WAIT_US_MAX. */
uint64_t client_deadline_us(uint64_t wait_us);

/* ---- jobs ---- */

enum job_state {
	JOB_FREE,
	JOB_OPEN,    /* accepted; blocks may be copied */
	/* Ended for the caller; the copier is inside one of its blocks, or (pull) the process that
	 * copies is, for all that the job's word and a pidfd tell. */
	JOB_LEAVING,
	JOB_ENDED,   /* ended and quiescent */
	JOB_STATES
};

enum batch_state {
	BATCH_NONE,   /* none is open at the daemon */
	BATCH_ASKING, /* STORE sent, its reply has not come */
	BATCH_MOVING, /* blocks are moving */
};

enum item_state {
	ITEM_IDLE,
	ITEM_ASKED,
	ITEM_WANTED,
	ITEM_WAITING, /* for another one's store */
	ITEM_COPIED,  /* pull: the daemon has it, and does not believe it yet */
	ITEM_COMMITTED,
	ITEM_OVER
};

#define RESULT_OPEN 0x7fffffff /* in results[]: not known yet */

/* At most FRAME_KEYS_MAX blocks of a job, as the daemon sees them. The copier's alone. */
struct batch {
	enum batch_state state;
	bool is_cancelled; /* CANCEL was sent */
	uint64_t number;
	uint8_t fingerprint[16]; /* of its space */
	uint32_t first, count;   /* of the job's blocks */
	uint32_t left;           /* without a result of the daemon */
	uint32_t next;           /* stores: where the search for a wanted item goes on */
	uint32_t copied_count;   /* items that are ITEM_COPIED */
	uint32_t releases_count;
	uint8_t items[FRAME_KEYS_MAX]; /* enum item_state */
	uint32_t places[FRAME_KEYS_MAX];
	struct frame_release_item releases[FRAME_KEYS_MAX];
};

struct job {
	/* Under the client's lock. */
	struct list_node link;       /* free, queued; then the copier's */
	struct list_node ready_link; /* has something to report; or was reported last */
	enum job_state state;        /* written by job_become() */
	enum kvtier_state outcome;
	bool is_busy;        /* the copier is inside one of its blocks */
	bool is_ready;       /* on the list of reports */
	bool is_caller_done; /* its last report was given */
	bool is_copier_done; /* the copier has let go of it */
	uint32_t good_count;
	int *results;
	struct lent *lent; /* held until it is quiescent; NULL: push, or it is */
	/* Set before it is queued, then only read. */
	uint64_t id;
	void *user;
	bool is_store, has_parent;
	uint32_t space, group, first_position, count;
	uint64_t deadline_us, lease, gate_value;
	struct kvtier_block *blocks;
	uint8_t parent[FRAME_HASH_BYTES];
	uint8_t tag[FRAME_TAG_BYTES];
	/* The copier's alone. */
	struct batch batch;
};

/* ---- kvtier_window.c: places in the window, taken and given back about in order ---- */

struct window {
	uint64_t bytes;
	uint64_t head, tail;  /* bytes ever taken and given back; head - tail <= bytes */
	uint32_t first, last; /* places ever taken and given back */
	struct window_place {
		uint64_t bytes; /* with the gap before it, where the window's end was skipped */
		bool is_free;
	} places[CLIENT_WINDOW_PLACES];
};

void window_init(struct window *window, uint64_t bytes);
/* False: full now. The offset is a multiple of CLIENT_WINDOW_ALIGN and `bytes` lie behind it
 * without a break. */
must_check bool window_take(struct window *window, uint64_t bytes, uint32_t *out_place,
			    uint64_t *out_offset);
void window_give(struct window *window, uint32_t place);
bool window_is_empty(const struct window *window);

/* ---- kvtier_planes.c: a block between its planes and a run of bytes ---- */

struct group {
	struct frame_group frame;
	uint32_t blocks_count;
	uint32_t planes_count;
	struct kvtier_plane *planes;
};

must_check int group_init(struct group *group, const struct kvtier_group *from, unsigned index,
			  bool is_worker, struct error *error);
void group_finish(struct group *group);
/* Both take the checksums over the target. `out_crcs` has room for the group's segments; those of
 * empty ones (rounding up may leave some at the end) are not written. */
void group_gather(const struct group *group, uint32_t engine_block, uint8_t *target,
		  uint32_t *out_crcs);
void group_scatter(const struct group *group, uint32_t engine_block, const uint8_t *source,
		   uint32_t *out_crcs);

/* ---- kvtier_lend.c: what an engine lends ---- */

struct lending {
	struct lend *packet; /* NULL: nothing; the copier moves the bytes (push) */
	uint32_t packet_bytes;
	bool has_word;
	unsigned fds_count;
	int *fds; /* ours, of the regions in their order */
};

/* -EINVAL with what is wrong; after a failure lending_close() is due as well. */
must_check int lending_open(struct lending *lending, const struct kvtier_options *options,
			    struct error *error);
void lending_close(struct lending *lending);
/* A child after fork(): it would keep the engine's memory. */
void lending_close_fds(struct lending *lending);

/* ---- the client ---- */

struct copier {
	pthread_t thread;
	bool is_started;
	int wake_fd;
	struct link link;
	uint64_t session; /* the one that it is attached to; 0: none */
	uint64_t retry_at_us, retry_us, ready_check_at_us;
	struct list jobs;
	uint64_t batches_opened;
	uint32_t batches_count, batches_max;
	uint32_t outgoing_bytes; /* of a frame that did not fit into the socket yet */
	uint8_t *arena;
	uint64_t arena_bytes, units_offset;
	uint8_t *window_memory;
	uint64_t window_bytes;
	struct window window;
};

struct client_space {
	uint8_t adapter[32];
	uint8_t fingerprint[16];
	uint32_t handle; /* of this session */
};

struct kvtier_client {
	/* Set by kvtier_open(), then only read. */
	char *socket;
	unsigned roles, shard;
	unsigned groups_count;
	struct group *groups;
	struct lending lending;
	uint8_t *register_frame;
	uint32_t register_bytes;
	int stop_fd, ready_fd, alarm_fd, wait_fd;
	_Atomic bool is_child; /* this is the memory of a forked child */
	struct list_node fork_link;

	/* The turn: who uses the control connection. */
	pthread_mutex_t turn_lock;
	pthread_cond_t turn_given;
	bool turn_is_taken;
	/* Whoever has the turn. */
	struct link control;
	uint64_t call_retry_at_us;
	uint64_t turn_since_us;
	uint32_t keys_max;

	pthread_mutex_t lock;
	pthread_cond_t changed; /* session, is_attached, refused */
	struct breaker breaker; /* written by whoever has the turn */
	bool is_stopping;
	uint64_t session; /* raised at each registration; 0: not registered */
	uint64_t sessions_count;
	uint64_t engine_token, boot_id;
	bool is_attached;
	struct lent *lent; /* what the attachment has lent; NULL: none, or push */
	bool ranks_are_missing;
	uint64_t attempts_failed; /* of the copier, to attach */
	struct error refused;     /* code != 0: until kvtier_connect() */
	struct error failure;     /* the last one to connect, for people */
	struct client_space spaces[CLIENT_SPACES_MAX];
	uint32_t spaces_count;
	struct job *jobs; /* CLIENT_JOBS_MAX */
	struct list free_jobs, queued_jobs, ready_jobs, reported_jobs;
	uint64_t jobs_opened;
	uint32_t blocks_count; /* of all jobs */
	uint64_t alarm_us;     /* what alarm_fd is set to: jobs are to be looked at; 0: nothing */
	bool is_signalled;     /* ready_fd is readable */

	struct copier copier;
};

/* ---- kvtier_session.c: registration, and the turn ---- */

/* 0 or -ETIMEDOUT. */
must_check int turn_take(struct kvtier_client *client, uint64_t deadline_us);
void turn_give(struct kvtier_client *client);
/* With the turn. Connects and registers; on failure keeps the reason. */
must_check int session_open(struct kvtier_client *client, uint64_t deadline_us,
			    struct error *error);
/* With the turn. Forgets the session; the copier detaches by itself. */
void session_close(struct kvtier_client *client);
/* Any thread, without the turn: `session` is not good any more; whoever has the turn next closes
 * it. */
void session_lose(struct kvtier_client *client, uint64_t session);
enum control_way {
	CONTROL_ASK,    /* unless the daemon did not answer lately: -EAGAIN */
	CONTROL_INSIST, /* in any case */
};

/* A caller's way in: takes the turn and connects if it is time to. After 0, control_leave() must
 * follow. */
must_check int control_enter(struct kvtier_client *client, enum control_way way,
			     uint64_t deadline_us);
/* The same for what has no answer: with a session or not at all. */
must_check int control_enter_to_tell(struct kvtier_client *client, uint64_t deadline_us);
void control_leave(struct kvtier_client *client);
/* Between them: link_ask() on the control connection; a broken link closes the session. */
must_check int control_ask(struct kvtier_client *client, void *frame, enum frame_type type,
			   uint64_t deadline_us);
/* Asks whether all ranks are there: 0, -EAGAIN, or why it is not known. */
must_check int control_check_ready(struct kvtier_client *client, enum control_way way,
				   uint64_t deadline_us);
/* Lookups, also of what another node has: flags of each frame, and the answer's type. With the
 * turn. */
must_check int client_lookup_check(const struct kvtier_client *client,
				   const struct kvtier_lookup *lookup, uint32_t keys_max,
				   uint32_t *out_keys_count);
must_check int client_lookup_ask(struct kvtier_client *client, const struct kvtier_lookup *lookup,
				 uint32_t keys_count, unsigned flags, enum frame_type type,
				 uint64_t deadline_us);
must_check int client_found_take(const struct frame_found *frame, uint32_t keys_count,
				 struct kvtier_found *out_found);
/* A worker's blocks can be loaded now. */
bool client_can_load(struct kvtier_client *client);
/* The daemon's handle of a client's space, or -EINVAL. */
must_check int client_space_handle(struct kvtier_client *client, uint32_t space,
				   uint32_t *out_handle);
void client_wake_copier(struct kvtier_client *client);

/* ---- kvtier_jobs.c; all under the lock ---- */

must_check int jobs_init(struct kvtier_client *client);
void jobs_finish(struct kvtier_client *client);
/* Ends an open job: blocks without a result get `result`. */
void job_end(struct kvtier_client *client, struct job *job, enum kvtier_state outcome, int result);
/* Ends those whose deadline has passed, and looks whether ended ones are quiescent, if it is time
 * to. */
void jobs_look(struct kvtier_client *client, uint64_t now_us);
/* When it is time to look again, or UINT64_MAX. */
uint64_t jobs_look_at_us(const struct kvtier_client *client);
/* Without the lock and without a copier: until all jobs are quiescent, CLIENT_QUIET_US_MAX at
 * most. */
void jobs_drain(struct kvtier_client *client);
/* The copier has no use for it any more. */
void job_let_go(struct kvtier_client *client, struct job *job);

/* ---- the same, taking the lock; the copier's ---- */

/* False: the job has ended, its blocks are not to be touched. True: job_leave_block() follows. */
must_check bool job_enter_block(struct kvtier_client *client, struct job *job);
void job_leave_block(struct kvtier_client *client, struct job *job);
bool job_is_open(struct kvtier_client *client, struct job *job);
void job_set_result(struct kvtier_client *client, struct job *job, uint32_t index, int result);

/* ---- kvtier_copier.c, kvtier_attach.c, kvtier_store.c, kvtier_load.c: the copier ---- */

must_check int copier_start(struct kvtier_client *client, struct error *error);
void copier_stop(struct kvtier_client *client);
must_check int copier_attach(struct kvtier_client *client, struct error *error);
void copier_unmap(struct copier *copier);
/* Sends what lies in link.outgoing, now or as soon as there is room; 0 or the link is broken. */
must_check int copier_send(struct copier *copier);
static inline bool copier_can_send(const struct copier *copier)
{
	return copier->outgoing_bytes == 0;
}
/* Opens the next batch of a job; *out_handle is its space's. */
void batch_begin(struct kvtier_client *client, struct job *job, enum batch_state state,
		 uint32_t *out_handle);
/* The daemon is done with one item. */
void batch_item_over(struct job *job, uint32_t index);
/* Its deadline is long past and the daemon said nothing: late events will find no batch. */
void batch_give_up(struct job *job);
void batch_end(struct copier *copier, struct job *job);
must_check int batch_cancel(struct copier *copier, struct job *job);
/* One step each of one job: 1: went on, 0: has to wait, or why the link is broken. */
must_check int store_step(struct kvtier_client *client, struct job *job, bool is_open);
must_check int load_step(struct kvtier_client *client, struct job *job, bool is_open);
must_check int store_replied(struct kvtier_client *client, struct job *job,
			     const struct frame_store_reply *frame);
must_check int store_committed(struct kvtier_client *client, struct job *job,
			       const struct frame_committed *frame);
must_check int load_loaded(struct kvtier_client *client, struct job *job,
			   const struct frame_loaded *frame);

must_check int store_copied(struct kvtier_client *client, struct job *job,
			    const struct frame_copied *frame);

/* ---- kvtier_pull.c: memory that is lent, and what proves that it is left alone ---- */

/* One LEND's; the daemon's process has its words too. Lives until every job that was opened with
 * it is quiescent. Under the client's lock, but for what is set before it is shared. */
struct lent {
	uint32_t holds; /* the attachment's, and jobs' */
	bool has_word;  /* gate values may be given */
	int process_fd; /* a pidfd: when it exits nobody copies any more */
	struct job_words *words; /* by a job's place in the client */
};

/* Whether the daemon moves this client's bytes. */
static inline bool client_is_pulled(const struct kvtier_client *client)
{
	return client->lending.packet != NULL;
}
/* The copier, attached: lends, and waits until the memory is imported. -EAGAIN: the daemon is not
 * ready for it yet. *out_lent: to be released. */
must_check int pull_lend(struct kvtier_client *client, struct lent **out_lent,
			 struct error *error);
void lent_hold(struct lent *lent);
void lent_release(struct lent *lent); /* NULL is allowed */
/* From now on no further block of this job is begun; true: and none is under way. */
must_check bool lent_is_quiet(struct lent *lent, uint32_t place, uint64_t job);
/* What STORE and LOAD say of it. */
struct frame_pull pull_of(const struct kvtier_client *client, const struct job *job);

/* Tests only: called inside a block, after its bytes were copied and before they are believed
 * (loads, stores by pull), or before they are copied (stores). NULL. */
extern void (*_Atomic copier_block_hook)(void);
static inline void copier_call_block_hook(void)
{
	void (*hook)(void) = atomic_load_explicit(&copier_block_hook, memory_order_relaxed);

	if (hook != NULL)
		hook();
}

/* ---- kvtier_fork.c: what a child after fork() must leave alone ---- */

void fork_watch(struct kvtier_client *client);
void fork_unwatch(struct kvtier_client *client);

#endif
