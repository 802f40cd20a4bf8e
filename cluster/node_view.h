/*
 * cluster/node_view.h: one node's blocks in the index of routes, as its daemon says
 * (proto/inventory.h): each change in order, what was missed asked for again, and all of it by a
 * snapshot where that does not help; held against the daemon's sums each second.
 *
 * Each space of the node has a source of its own in the index. While a snapshot comes, what was
 * known before stays in use; then it is replaced at once.
 * Pure: no I/O, no clock. Runs on: one thread. Owns: its sources, and what waits for its turn.
 */
#ifndef KVTIER_CLUSTER_NODE_VIEW_H
#define KVTIER_CLUSTER_NODE_VIEW_H

#include "base/error.h"
#include "cluster/route_index.h"
#include "proto/inventory.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NODE_SILENT_US UINT64_C(3000000)      /* without a word, of which one is due each second */
#define NODE_QUESTION_US UINT64_C(500000)     /* without an answer: asked again */
#define NODE_GAP_US UINT64_C(20000)           /* that a missing message may still come by itself */
#define NODE_SNAPSHOT_US_MIN UINT64_C(1000000) /* between two for sums that differ; doubled ... */
#define NODE_SNAPSHOT_US_MAX UINT64_C(60000000) /* ... up to this */
#define NODE_SPACES_MAX 1024u
#define NODE_PIECES_WAITING_MAX 128u
#define NODE_ENGINES_MAX 256u
#define NODE_ENGINE_SPACES_MAX 64u            /* further ones are not looked into */

enum node_view_state {
	NODE_COUNTING, /* a snapshot is asked for, or comes */
	NODE_FOLLOWING
};

struct node_view_config {
	struct route_index *index;
	/* For the node's socket for questions; may be lost. */
	void (*ask)(void *owner, const void *question, size_t bytes);
	void *owner;
};

struct node_view_figures {
	enum node_view_state state;
	bool is_whole;            /* all of it was known once, and is matched */
	uint64_t boot, epoch, next;
	uint64_t heard_us;        /* when the last good message came; 0: never */
	uint64_t messages, garbled, gaps, replays, snapshots, differences;
	uint64_t short_entries;   /* that the index had no room for, since the last snapshot */
	uint64_t entries;         /* in the index, of all its spaces */
};

struct node_view;

/* An engine that is attached to the node's daemon. */
struct node_engine {
	uint32_t tokens_per_block;
	uint64_t heard_us;
	/* In the index, of each of its spaces, the first one without an adapter; ROUTE_SOURCE_NONE
	 * where nothing is known of it. */
	uint16_t sources[NODE_ENGINE_SPACES_MAX];
	uint32_t sources_count;
};

must_check int node_view_create(struct node_view **out_view, const struct node_view_config *config,
				struct error *error);
/* Its sources are dropped. Accepts NULL. */
void node_view_destroy(struct node_view *view);
/* A message of what is said. */
void node_view_heard(struct node_view *view, uint64_t sequence, const void *payload, size_t bytes,
		     uint64_t now_us);
/* A message of what is answered. */
void node_view_answered(struct node_view *view, uint64_t sequence, const void *payload,
			size_t bytes, uint64_t now_us);
/* Asks what is to be asked; at least each NODE_GAP_US while something is missing. */
void node_view_step(struct node_view *view, uint64_t now_us);
/* The source of a space, or ROUTE_SOURCE_NONE. Ask again after each call of the above. */
uint16_t node_view_source(const struct node_view *view,
			  const uint8_t fingerprint[INVENTORY_SPACE_BYTES]);
/* False: the node has not spoken of it for NODE_SILENT_US. Ask again after each call of the
 * above. */
must_check bool node_view_engine(const struct node_view *view, const char *tenant,
				 const char *engine, struct node_engine *out_engine);
/* The last word on it; false: none yet. */
must_check bool node_view_figure(const struct node_view *view, unsigned tier,
				 enum inventory_figure figure, uint64_t *out_value);
void node_view_look(const struct node_view *view, struct node_view_figures *out_figures);

#endif
