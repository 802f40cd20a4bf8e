/*
 * tests/daemon/rig_net.h: a network between rigs: frames and blocks go from daemon to daemon in
 * this process, in the order and with the faults that the test says.
 *
 * A step of one rig steps all that are on its network; their clocks go together. Each node
 * reaches the others as "node-0:1", "node-1:1", and so on.
 */
#ifndef KVTIER_TESTS_DAEMON_RIG_NET_H
#define KVTIER_TESTS_DAEMON_RIG_NET_H

#include "daemon/peers.h"
#include "tests/daemon/rig.h"

#define RIG_NET_NODES 4u
#define RIG_NET_FRAMES 4096u
#define RIG_NET_TRANSFERS 4096u

struct rig_net_node {
	struct rig_net *net;
	struct rig *rig;            /* NULL: none */
	struct daemon *daemon;      /* that its ops were given to; NULL: not alive */
	bool asked[RIG_NET_NODES];  /* it connects to them */
	struct rig_net_move {
		struct peer_transfer *transfer; /* NULL: free */
		bool is_stopped;
	} moves[RIG_NET_TRANSFERS];
};

struct rig_net {
	struct rig_net_node nodes[RIG_NET_NODES];
	struct rig_net_line {
		bool is_up, is_cut;
		uint32_t life;
	} lines[RIG_NET_NODES][RIG_NET_NODES]; /* [smaller][larger] */
	struct rig_net_frame {
		unsigned from, to;
		uint32_t life;
		uint8_t bytes[PEER_FRAME_BYTES_MAX] __attribute__((aligned(8)));
	} *frames;                  /* RIG_NET_FRAMES, the first is the oldest */
	unsigned frames_count;
	/* what the test says */
	bool holds_frames, holds_blocks;
	unsigned frames_refused;    /* -EAGAIN before one is taken */
	/* Each frame before it is delivered; false: it is lost. */
	bool (*before_frame)(struct rig_net *net, unsigned from, unsigned to, void *frame);
	/* A block's bytes where they arrived. */
	void (*after_block)(struct rig_net *net, uint8_t *payload, uint64_t bytes);
	unsigned blocks_lost;       /* the next ones end with -ECONNRESET on both sides */
	/* what came of it */
	unsigned blocks_ever, frames_ever;
	bool is_stepping;
};

extern const struct peer_ops rig_net_ops;

void rig_net_init(struct rig_net *net);
void rig_net_finish(struct rig_net *net);
/* The config's network gets this rig as its node; NULL: it is on none. Before daemon_create(). */
void *rig_net_room(struct rig *rig);
/* Its daemon is told who it is, and the cluster's secret. */
void rig_net_introduce(struct rig *rig);
/* `connected`: node `from` is to keep connected to `to`, as settings say it. */
void rig_net_join(struct rig_net *net, unsigned from, unsigned to);
bool rig_net_step(struct rig_net *net, struct rig *from);
/* What is on its way is lost, and both sides are told; nothing goes until it is mended. */
void rig_net_cut(struct rig_net *net, unsigned a, unsigned b);
void rig_net_mend(struct rig_net *net, unsigned a, unsigned b);
/* The node's daemon is about to end by a kill: the others see the line go down. */
void rig_net_die(struct rig_net *net, unsigned node);

/* ---- what clients ask ---- */

struct rig_fetch {
	int result;         /* of FETCHING */
	uint64_t id;
};

struct rig_fetch rig_fetch(struct rig_client *client, unsigned node, const struct rig_keys *keys,
			   unsigned count, enum frame_fetch_mode mode, uint64_t wait_us);
/* The same, with a second node for what the first does not give. */
struct rig_fetch rig_fetch_two(struct rig_client *client, const unsigned nodes[2],
			       const struct rig_keys *keys, enum frame_fetch_mode mode,
			       uint64_t wait_us);
/* By a ticket, which is to end in a NUL. */
struct rig_fetch rig_fetch_by(struct rig_client *client, const char *ticket,
			      const struct rig_keys *keys, unsigned count,
			      enum frame_fetch_mode mode, uint64_t wait_us);
/* 0, or why not; then `out_text` is "". */
int rig_ticket(struct rig_client *client, const struct rig_keys *keys, unsigned count,
	       uint64_t keep_us, char out_text[FRAME_TICKET_BYTES_MAX]);
struct rig_found rig_fetch_wait(struct rig_client *client, uint64_t fetch, uint64_t wait_us);
void rig_fetch_end(struct rig_client *client, uint64_t fetch);

#endif
