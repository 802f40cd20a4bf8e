/*
 * daemon/session.h: one connection of a client: what it may ask for, and what is under way for it.
 * Runs on: the loop thread.
 */
#ifndef KVTIER_DAEMON_SESSION_H
#define KVTIER_DAEMON_SESSION_H

#include "daemon/daemon.h"
#include "daemon/pull.h"
#include "daemon/wire.h"
#include "proto/frames_blocks.h"

#define LOOKUP_SECTIONS_MAX 1024u
/* spaces of adapters that an engine holds; libkvtier asks for fewer */
#define ENGINE_ADAPTERS_MAX 256u
/* lookups of several frames under way at once, over all sessions */
#define LOOKUPS_MAX         16u

enum session_state {
	SESSION_FREE,
	SESSION_NEW,        /* says nothing but HELLO */
	SESSION_OPEN,       /* HELLO done; admin calls */
	SESSION_REGISTERED, /* a control connection of an engine */
	SESSION_ATTACHED,   /* a data connection of an engine */
	SESSION_CLOSING,    /* closed; waits until no move reads its window */
	SESSION_STATES
};

/* What a data connection has lent; lend.c. */
enum lend_state {
	LEND_NONE,      /* nothing yet */
	LEND_ASKED,     /* it is being imported */
	LEND_LENT,      /* blocks are pulled from it, and none are pushed any more */
	LEND_RETURNING, /* the session has ended; its copies may still be under way */
	LEND_GONE,      /* nothing of it is mapped any more */
	LEND_STATES
};

/* An engine: all ranks that registered under one name. Holds its spaces until the last of its
 * sessions has left. */
struct engine {
	char name[FRAME_NAME_BYTES];
	struct tenant *tenant;          /* NULL: free */
	uint32_t space;
	uint8_t fingerprint[SPACE_ID_BYTES];
	uint16_t world;
	uint16_t groups_count;
	uint64_t ranks;                 /* a bit a shard that is registered as a worker */
	uint32_t sessions;              /* that refer to it */
	struct frame_group groups[FRAME_GROUPS_MAX];
	struct list lenders;            /* sessions that are LENT */
	uint32_t adapters[ENGINE_ADAPTERS_MAX]; /* spaces */
	uint32_t adapters_count;
};

struct lookup_section {
	uint16_t group;
	uint16_t count;
	uint32_t first_position;
	uint32_t first;                 /* of its entries */
};

/* A lookup that comes in several frames. */
struct lookup {
	struct session *session;        /* NULL: free */
	uint8_t tag[FRAME_TAG_BYTES];
	uint64_t request;               /* the number that all its frames have */
	uint32_t space;
	uint64_t changes; /* of the index when it began: see cache_changes() */
	uint32_t keys_count;
	uint32_t sections_count;
	struct lookup_section sections[LOOKUP_SECTIONS_MAX];
	uint32_t entries[FRAME_LOOKUP_KEYS_MAX];
	uint8_t tiers[FRAME_LOOKUP_KEYS_MAX]; /* that they were found in, or TIERS */
	/* first bytes of the hashes: an entry may change hands between frames */
	uint64_t names[FRAME_LOOKUP_KEYS_MAX];
};

struct fetch;

/* Keys that are being named for a FETCH; fetch_client.c. */
struct gathering {
	bool is_begun;
	bool has_space;
	uint32_t space;
	struct fetch *fetch;     /* what they are for: it, or the ticket; NULL: refused */
	struct promise *promise;
	int result;
	char reason[96];
};

struct session {
	struct list_node link;
	struct daemon *daemon;
	struct tenant *tenant;          /* of the socket */
	bool is_admin;
	enum session_state state;
	enum frame_connection connection;
	struct wire wire;
	struct ucred peer;              /* as the kernel named it; for people, not for rights */
	uint64_t number;                /* for the log */
	struct engine *engine;
	uint64_t engine_token;          /* control: handed out; data: what it attached with */
	uint32_t roles;
	uint16_t shard;
	struct lookup *lookup;          /* its lookup of several frames, or NULL */
	struct gathering gathering;
	/* granted to it, RETAIN's excepted: nobody could give them back once it is gone */
	struct list leases;
	bool has_lost_lookup;           /* one whose first frames were dropped */
	uint64_t lost_lookup;           /* its number */
	/* data connections */
	uint8_t *window;                /* our read-only mapping */
	uint64_t window_bytes;
	int window_fd;
	struct list batches;
	unsigned batches_count;
	enum lend_state lend_state;     /* lend.c alone writes it */
	struct lent_memory lent;
	struct list_node lender;        /* LENT: of the engine */
	uint64_t lend_request;          /* ASKED: its number */
	uint32_t lent_blocks[FRAME_GROUPS_MAX];   /* LENT: engine blocks of each group */
	/* moves and mill ops that read the window or will answer here; lent memory */
	unsigned users;
	unsigned pulls;                 /* of them: moves of pulled stores */
	/* what the socket did not take yet: one reply; while it is there nothing is read */
	uint8_t *out;
	uint32_t out_bytes;
	uint32_t watched;               /* epoll events asked for */
};

/* What a data connection's blocks go through; batch.h. */
struct batch;

/* Answers. A full socket keeps the reply and pauses reading; -EPIPE closes later. */
void session_reply(struct session *session, void *frame, uint32_t bytes, enum frame_type type,
		   uint64_t request, int result);
void session_reply_fds(struct session *session, void *frame, uint32_t bytes, enum frame_type type,
		       uint64_t request, const int *fds, unsigned fds_count);
void session_reply_done(struct session *session, uint64_t request, int result);
void session_reply_text(struct session *session, enum frame_type type, uint64_t request, int result,
			const char *text, size_t text_bytes);
/* An event: 0, or -EAGAIN: full, try again when writable. */
must_check int session_event(struct session *session, void *frame, uint32_t bytes,
			     enum frame_type type);
/* Closes for a reason that the client is told, if it can be. */
void session_refuse(struct session *session, uint64_t request, int result, const char *reason);
/* Ends everything of the session; it is freed when nothing refers to it any more. */
void session_end(struct session *session);
/* A move or mill op that referred to the session has ended. */
void session_unuse(struct session *session);

/* One frame, if there is one, into `frame` (FRAME_BYTES_MAX), its descriptors into `fds`, and
 * serves it. */
bool session_read(struct session *session, void *frame, struct wire_fds *fds);
/* One frame, checked first. */
void session_frame(struct session *session, const void *frame, uint32_t bytes);

/* The rooms that serve frames. */
void engine_register(struct session *session, const struct frame_register *frame);
void engine_attach(struct session *session, const struct frame_attach *frame);
void engine_canary(struct session *session, const struct frame_canary *frame);
void engine_space(struct session *session, const struct frame_space *frame);
void engine_leave(struct session *session);
void lend_frame(struct session *session, const struct frame_lend *frame);
/* The session has ended: what it lent is given back. */
void lend_end(struct session *session);
/* Whether LEND may come now, with descriptors. */
bool session_may_lend(const struct session *session);
/* Whether blocks may be asked for in this way (`flags` of the frame), and of this engine's memory:
 * 0, or -EINVAL with the reason. */
must_check int lend_allows(const struct session *session, unsigned flags,
			   const struct frame_pull *pull, const char **out_reason);
void lookup_frame(struct session *session, const struct frame_lookup *frame);
void lookup_abandon(struct session *session);
void hint_frame(struct session *session, const struct frame_hint *frame);
/* Each tenant has an equal part of the leases, so that none can leave another without. */
bool lease_is_left(const struct daemon *daemon, const struct tenant *tenant);
void store_frame(struct session *session, const struct frame_store *frame);
void commit_frame(struct session *session, const struct frame_commit *frame);
void load_frame(struct session *session, const struct frame_load *frame);
void release_frame(struct session *session, const struct frame_release *frame);
void cancel_frame(struct session *session, const struct frame_cancel *frame);
void forget_frame(struct session *session, const struct frame_forget *frame);
/* The next journal record, and the slots of what was forgotten. */
bool forget_step(struct daemon *daemon);
void stats_frame(struct session *session, const struct frame_header *frame);
void explain_frame(struct session *session, const struct frame_explain *frame);
/* Why a key of a space hits or misses, bypasses aside. */
void explain_key(struct daemon *daemon, uint32_t space, uint16_t group, const uint8_t *hash,
		 struct frame_explained_item *item);
void bypass_frame(struct session *session, const struct frame_bypass *frame);

/* Whether the session's engine holds the space: a number that it was not told, or was told in an
 * earlier life of its own, is not its. */
bool session_may_use_space(const struct session *session, uint32_t space);

#endif
