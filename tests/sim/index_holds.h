/* tests/sim/index_holds.h: what the index holds, which nothing but a test asks. */
#ifndef KVTIER_TESTS_SIM_INDEX_HOLDS_H
#define KVTIER_TESTS_SIM_INDEX_HOLDS_H

#include "index/cache.h"

bool index_holds_space(const struct cache *cache);
/* A lease whose owner has left, and that nobody uses. */
bool index_holds_for_nobody(const struct cache *cache);

#endif
