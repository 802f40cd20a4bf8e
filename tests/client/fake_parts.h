/*
 * tests/client/fake_parts.h: what the files of the fake daemon share. A handler finds its request
 * in fake_incoming and builds its answer in fake_outgoing. Runs on: the daemon's thread, with its
 * lock.
 */
#ifndef KVTIER_TESTS_CLIENT_FAKE_PARTS_H
#define KVTIER_TESTS_CLIENT_FAKE_PARTS_H

#include "tests/client/fake_daemon.h"
#include "transfer/slot_header.h"

#define FAKE_UNITS_OFFSET 4096u
#define FAKE_CANARY_OFFSET 64u

extern uint8_t fake_incoming[FRAME_BYTES_MAX];
extern uint8_t fake_outgoing[FRAME_BYTES_MAX];
extern int fake_fds[1 + LEND_FDS_MAX]; /* that came with the request; closed after it */
extern unsigned fake_fds_count;

/* ---- fake_daemon.c ---- */

/* Sends a frame, or what `way` makes of it. */
void fake_send(struct fake_daemon *fake, struct fake_connection *connection, enum fake_way way,
	       void *frame);
/* The same with what lies in fake_outgoing, as the answer to `request`. */
void fake_reply(struct fake_daemon *fake, struct fake_connection *connection, enum fake_way way,
		enum frame_type type, size_t bytes, const struct frame_header *request);

/* ---- fake_blocks.c: what moves blocks ---- */

struct slot_header *fake_slot(struct fake_daemon *fake, unsigned slot);
/* The slot of a block, or -1. */
int fake_find(struct fake_daemon *fake, const uint8_t *hash);
void fake_serve_fetch(struct fake_daemon *fake, struct fake_connection *connection,
		      enum fake_way way);
/* The last frame of its keys, which lies in fake_incoming. */
void fake_fetch_begin(struct fake_daemon *fake, struct fake_connection *connection,
		      enum fake_way way);
void fake_serve_lookup(struct fake_daemon *fake, struct fake_connection *connection,
		       enum fake_way way);
void fake_serve_store(struct fake_daemon *fake, struct fake_connection *connection,
		      enum fake_way way);
void fake_serve_commit(struct fake_daemon *fake, struct fake_connection *connection,
		       enum fake_way way);
void fake_serve_load(struct fake_daemon *fake, struct fake_connection *connection,
		     enum fake_way way);
void fake_serve_release(struct fake_daemon *fake);

struct fake_batch *fake_batch_open(struct fake_connection *connection, uint64_t number,
				   uint32_t count);
struct fake_batch *fake_batch_find(struct fake_connection *connection, uint64_t number);
int fake_slot_take(struct fake_daemon *fake);
/* Makes what lies in the slot a block that is found. */
void fake_slot_seal(struct fake_daemon *fake, int slot, const uint8_t *hash);

/* ---- fake_pull.c: the engine's memory, lent ---- */

void fake_serve_lend(struct fake_daemon *fake, struct fake_connection *connection,
		     enum fake_way way);
/* A STORE was answered, or a LOAD came, with FRAME_PULL. */
void fake_pull_begin(struct fake_daemon *fake, struct fake_connection *connection,
		     enum fake_way way, const void *request);
void fake_pull_commit(struct fake_daemon *fake, struct fake_connection *connection,
		      enum fake_way way);
void fake_pull_cancel(struct fake_daemon *fake, const struct frame_cancel *frame);
void fake_pull_stop(struct fake_daemon *fake);

/* ---- fake_calls.c: what a session and an operator ask ---- */

void fake_serve_hello(struct fake_daemon *fake, struct fake_connection *connection,
		      enum fake_way way);
void fake_serve_register(struct fake_daemon *fake, struct fake_connection *connection,
			 enum fake_way way);
void fake_serve_attach(struct fake_daemon *fake, struct fake_connection *connection,
		       enum fake_way way);
void fake_serve_canary(struct fake_daemon *fake, struct fake_connection *connection,
		       enum fake_way way);
void fake_serve_hint(struct fake_daemon *fake, struct fake_connection *connection,
		     enum fake_way way);
void fake_serve_space(struct fake_daemon *fake, struct fake_connection *connection,
		      enum fake_way way);
void fake_serve_text(struct fake_daemon *fake, struct fake_connection *connection,
		     enum fake_way way);
void fake_serve_explain(struct fake_daemon *fake, struct fake_connection *connection,
			enum fake_way way);
void fake_serve_refusal(struct fake_daemon *fake, struct fake_connection *connection);

#endif
