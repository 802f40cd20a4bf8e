/* tests/sim/failpoints.c: one failpoint of a node is armed in some of its lives: the place fails,
 * or the node dies there, on whichever of its threads passes. */
#include "tests/sim/kernel_wraps.h"
#include "tests/sim/node.h"

/* Most places are passed often, some once a life. */
#define PASSES_BITS_MAX 9u

#if KVTIER_FAILPOINTS

static struct {
	struct node *node;
	uint64_t passes_left;
	bool is_kill;
} armed;

void node_failpoint_disarm(void)
{
	failpoint_armed = FAILPOINTS;
	armed.node = NULL;
}

void node_failpoint_arm(struct node *node)
{
	node_failpoint_disarm();
	if (kernel_below(100) >= node->shape.failpoint_percent)
		return;
	armed.node = node;
	armed.passes_left = 1 + kernel_below(UINT64_C(1) << kernel_below(PASSES_BITS_MAX));
	armed.is_kill = kernel_below(2) == 0;
	failpoint_armed = (int)kernel_below(FAILPOINTS);
	sim_tell("failpoint %d is armed for pass %llu", (int)failpoint_armed,
		 (unsigned long long)armed.passes_left);
}

/* In place of the product's, which counts for a whole process of the real machine. */
bool __wrap_failpoint_pass(enum failpoint point)
{
	struct node *node = armed.node;

	if (node == NULL || kernel.process != node->process || armed.passes_left == 0 ||
	    --armed.passes_left > 0)
		return false;
	node->failpoint_hits[point][armed.is_kill]++;
	sim_tell("failpoint %d: %s", (int)point, armed.is_kill ? "kill" : "error");
	if (armed.is_kill)
		node_die(node);
	return true;
}

#else

void node_failpoint_disarm(void)
{
}

void node_failpoint_arm(struct node *node)
{
	(void)node;
}

#endif
