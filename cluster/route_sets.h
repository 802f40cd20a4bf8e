/*
 * cluster/route_sets.h: the sources of a key that has more than a cell holds: arrays of u16 in
 * slabs by capacity. Runs on: one thread.
 */
#ifndef KVTIER_CLUSTER_ROUTE_SETS_H
#define KVTIER_CLUSTER_ROUTE_SETS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ROUTE_SET_CLASSES 10u       /* of 8 to 4096 members */
#define ROUTE_SET_MEMBERS_MIN 8u
#define ROUTE_SET_NONE UINT32_MAX

struct route_sets {
	struct route_slabs {
		uint16_t **slabs;
		uint32_t slabs_count, slabs_room;
		uint32_t made;      /* arrays that were ever used */
		uint32_t free;      /* a list, by its first two members; ROUTE_SET_NONE: empty */
	} classes[ROUTE_SET_CLASSES];
	uint64_t bytes;
};

void route_sets_init(struct route_sets *sets);
void route_sets_destroy(struct route_sets *sets);
/* A set with room for `members`; ROUTE_SET_NONE: no memory. */
uint32_t route_set_take(struct route_sets *sets, uint32_t members);
void route_set_give(struct route_sets *sets, uint32_t set);
uint16_t *route_set_members(const struct route_sets *sets, uint32_t set);
uint32_t route_set_room(uint32_t set);

#endif
