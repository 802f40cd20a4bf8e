/* tests/cluster/node_rig.h: a node with the real server of its inventory, a reader's real view of
 * it, and a wire between them that loses, cuts, repeats and delays. */
#ifndef KVTIER_TESTS_CLUSTER_NODE_RIG_H
#define KVTIER_TESTS_CLUSTER_NODE_RIG_H

#include "base/random.h"
#include "cluster/node_view.h"
#include "daemon/inventory_server.h"

#define PLACES 600u
#define SPACES 3u
#define LOOKS 50u             /* places that a piece is made of */
#define WIRE_MAX 4096u
#define MS UINT64_C(1000)
#define PASS_US (5 * MS)
#define QUIET_US (2000 * MS)  /* in which the view has to become true */

struct place {
	uint32_t space;
	uint64_t key;
	unsigned tiers;
};

struct letter {
	bool is_answer;
	uint64_t sequence;
	uint64_t due_us;
	uint32_t bytes;
	uint8_t *payload;
};

extern struct scene {
	struct random random;
	uint64_t now_us;
	uint64_t boot, epoch;
	struct inventory_server *server;
	struct node_view *view;
	struct route_index *index;
	struct place places[PLACES];
	uint64_t entries[SPACES], digests[SPACES];
	bool is_told[SPACES];
	bool is_wanted;
	uint64_t wanted;
	struct letter wire[WIRE_MAX];
	unsigned wire_count;
	unsigned bad_percent;         /* of messages that something happens to */
	bool answers_are_good;
	uint64_t line_us;
	unsigned lost, cut, repeated, late;
} scene;

void scene_open(uint64_t seed, unsigned bad_percent);
void scene_close(void);
uint64_t draw(uint64_t limit);
/* What was said before is not to be relied on; a process, or a reader, that begins anew. */
void epoch_begin(void);
void server_begin(void);
void view_begin(void);
/* is_said: the process hears of it. */
void change(struct place *place, unsigned tiers, bool is_said);
void change_some(bool is_said);
/* PASS_US go by. */
void pass(unsigned changes);
/* Messages that are on their way are lost. */
void wire_clear(void);
/* How many places and sums the view has otherwise. */
unsigned differences(void);
/* Nothing changes any more, and nothing is lost any more: the view is right in time. */
void settle(void);
struct node_view_figures figures(void);

#endif
