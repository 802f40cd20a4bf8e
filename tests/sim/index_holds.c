/* tests/sim/index_holds.c: looks into the index, whose parts have names that the daemon's have. */
#include "tests/sim/index_holds.h"

#include "index/cache_parts.h"

bool index_holds_space(const struct cache *cache)
{
	for (uint32_t i = 0; i < cache->spaces_begun; i++)
		if (cache->spaces[i].state != SPACE_FREE && cache->spaces[i].holds != 0)
			return true;
	return false;
}

bool index_holds_for_nobody(const struct cache *cache)
{
	for (uint32_t i = 0; i < cache->leases_begun; i++) {
		const struct lease *lease = &cache->leases[i];

		/* At deadline 0 the next pass of the loop ends it. */
		if ((lease->generation & 1) != 0 && lease->is_left && lease->uses == 0 &&
		    lease->deadline_us != 0)
			return true;
	}
	return false;
}
