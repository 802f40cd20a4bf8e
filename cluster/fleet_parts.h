/* cluster/fleet_parts.h: shared by fleet.c and fleet_choose.c. */
#ifndef KVTIER_CLUSTER_FLEET_PARTS_H
#define KVTIER_CLUSTER_FLEET_PARTS_H

#include "base/list.h"
#include "cluster/fleet.h"

/* One request at its pod. */
struct placed {
	struct list_node link;          /* of its pod's `waiting` or `running`, or of `free` */
	struct list_node clear;         /* of `clearing`: its keys are still said to arrive */
	uint32_t life;                  /* of this place */
	uint32_t pod;
	bool is_used, has_first, is_done, is_clearing;
	uint32_t tokens, cached_tokens; /* planned */
	uint64_t kv_tokens;
	double kv_rate;                 /* of these, given back in a second */
	double compute_seconds, restore_seconds;
	uint64_t placed_us, until_us, clear_us;
	uint16_t source;                /* where its keys arrive */
	uint64_t *keys;                 /* owned; NULL: none are said to arrive */
	uint32_t keys_count;
};

struct fleet_pod {
	bool is_used, is_draining;
	struct fleet_pod_facts facts;
	struct cost_fit fit;
	struct list waiting, running;   /* in the order in which they were placed */
	double waiting_seconds;         /* the sum of their compute_seconds */
	uint64_t first_us;              /* the last first token */
	uint64_t kv_placed;
	double kv_rate;
};

struct fleet {
	struct route_index *index;      /* borrowed */
	struct fleet_settings settings;
	struct fleet_pod pods[FLEET_PODS_MAX];
	uint32_t pods_top;
	struct placed *placed;          /* FLEET_PLACED_MAX */
	struct list free, clearing;     /* clearing: by time */
	/* of a choice */
	struct route_pod routes[FLEET_PODS_MAX];
	struct route_match matches[FLEET_PODS_MAX];
	uint32_t numbers[FLEET_PODS_MAX];
	struct fleet_estimate estimates[FLEET_PODS_MAX];
};

#endif
