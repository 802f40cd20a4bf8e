/*
 * bench/peer_flow.h: messages from one process to another over loopback, by ours and by what ours
 * stands on, so that both are measured alike: each end is a process of its own, the clock runs
 * from the word to begin until the last byte is there, and the sender counts its processor time.
 * Runs on: one thread; forks.
 */
#ifndef KVTIER_BENCH_PEER_FLOW_H
#define KVTIER_BENCH_PEER_FLOW_H

#include "base/error.h"
#include "transfer/peer/transport.h"

#define FLOW_SLOTS 64u        /* messages' places, in turn: more than caches hold */
#define FLOW_UNDER_WAY 16u
#define FLOW_SECONDS_MAX 60u  /* then an end is killed */

struct flow_result {
	double seconds, sender_cpu_seconds, bytes;
};

/* One end of a flow, in its process. The other end is at `control` (a SOCK_SEQPACKET pair). */
struct flow_end {
	int control;
	uint32_t bytes, count;   /* of each message; messages */
	uint8_t *memory;         /* FLOW_SLOTS * bytes, touched */
	const struct transport_ops *transport;
	bool is_guarded;
	const char *host;        /* the taker's address */
	struct flow_result result;
	struct error error;
};

struct flow {
	const char *name;
	/* Joins the other end, and moves; each fills in its part of the result. */
	int (*give)(struct flow_end *end);
	int (*take)(struct flow_end *end);
	const struct transport_ops *transport;
	/* UCX: endpoints that notice a dead peer, as ours have to; UCX then moves data by another
	 * way */
	bool is_guarded;
};

extern const struct flow flow_raw_tcp, flow_uring_tcp, flow_raw_ucx, flow_raw_ucx_unguarded,
	flow_our_tcp, flow_our_ucx;

/* Where both ends are. */
struct flow_place {
	const char *host;        /* an IPv4 address of the taker's, as 127.0.0.1 */
	const char *giver_netns; /* a name of `ip netns`: the giver is there; NULL: here */
	const char *devices[2];  /* giver's, taker's: UCX_NET_DEVICES; NULL: UCX chooses */
};

/* -ENOSYS: what it needs is not here; why is in `error`. */
must_check int flow_measure(const struct flow *flow, const struct flow_place *place,
			    uint32_t bytes, uint32_t count, struct flow_result *out_result,
			    struct error *error);

/* ---- for flows ---- */

/* A word between both ends. */
must_check int flow_say(struct flow_end *end, const void *word, size_t bytes);
must_check int flow_hear(struct flow_end *end, void *word, size_t bytes);
uint8_t *flow_slot(const struct flow_end *end, uint64_t number);
/* Returns on both ends at about the same time. */
void flow_begin(struct flow_end *end);
/* A connection with the options that ours have, or a negative error. */
must_check int flow_tcp_connect(struct flow_end *end);
must_check int flow_tcp_accept(struct flow_end *end);
/* Processor seconds of this process so far. */
double flow_cpu_seconds(void);

#endif
