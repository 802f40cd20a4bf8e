/*
 * daemon/mill.h: the threads that touch many bytes, so that the loop does not: copies, checksums,
 * journal writes.
 *
 * Runs on: mills_submit, mills_poll, mills_sleep: the loop thread. mill_step, mill_wait: the mill's
 * own thread. An op is the mill's from submit until `done`, which runs once, on the loop, from
 * mills_poll().
 * Limit: each mill's mailbox holds MILL_OPS_MAX ops; a full one answers false.
 */
#ifndef KVTIER_DAEMON_MILL_H
#define KVTIER_DAEMON_MILL_H

#include "base/error.h"
#include "base/mailbox.h"

#include <stdbool.h>
#include <stdint.h>

#define MILLS_MAX     64       /* as many as settings allow */
#define MILL_OPS_MAX  8192u

struct mill_op {
	void (*work)(struct mill_op *op);   /* on a mill; may block; sets result */
	void (*done)(struct mill_op *op);   /* on the loop */
	int result;
	unsigned mill;                      /* which one works on it; set by mills_submit */
};

struct mill {
	struct mailbox down, up;
	uint32_t in_flight;                 /* the loop's count */
	_Atomic uint64_t beat_us;           /* the mill's last step, for the watchdog */
};

struct mills {
	struct mill mills[MILLS_MAX];
	unsigned count;
	unsigned next;
};

must_check int mills_open(struct mills *mills, unsigned count, struct error *error);
/* Needs every op to have come back, and the threads to have ended. */
void mills_close(struct mills *mills);
/* To the mill with the least to do. False: all are full. */
must_check bool mills_submit(struct mills *mills, struct mill_op *op);
/* To this one. False: it is full. */
must_check bool mills_submit_to(struct mills *mills, unsigned number, struct mill_op *op);
unsigned mills_poll(struct mills *mills, unsigned limit);
bool mills_sleep(struct mills *mills);
void mills_awake(struct mills *mills);
uint32_t mills_in_flight(const struct mills *mills);

/* One pass: at most `limit` ops; returns how many. */
unsigned mill_step(struct mill *mill, uint64_t now_us, unsigned limit);
/* Blocks until there is an op, a poke, or `wait_us_max` has passed. */
void mill_wait(struct mill *mill, uint64_t wait_us_max);

#endif
