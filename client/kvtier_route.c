/* client/kvtier_route.c: route keys. The one place that speaks to xxHash, which is compiled in:
 * nothing to link. */
#include "client/kvtier.h"

#include <errno.h>
#include <stdbool.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

/* Tokens hashed in memory order are little-endian as the route key wants them. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "token ids are hashed as little-endian");

uint64_t kvtier_route_key(uint64_t parent, const uint32_t *tokens, size_t tokens_count,
			  const struct kvtier_extra *extras, size_t extras_count)
{
	XXH3_state_t state;

	if (extras_count == 0)
		return XXH3_64bits_withSeed(tokens, tokens_count * sizeof(*tokens), parent);
	XXH3_INITSTATE(&state);
	XXH3_64bits_reset_withSeed(&state, parent);
	XXH3_64bits_update(&state, tokens, tokens_count * sizeof(*tokens));
	for (size_t i = 0; i < extras_count; i++) {
		XXH3_64bits_update(&state, &extras[i].bytes_count, sizeof(extras[i].bytes_count));
		XXH3_64bits_update(&state, extras[i].bytes, extras[i].bytes_count);
	}
	return XXH3_64bits_digest(&state);
}

/* False: an extra that is not there, or ends that go down. */
static bool extras_are_right(const struct kvtier_extra *extras, const uint32_t *ends,
			    size_t blocks_count)
{
	uint32_t end = 0;

	for (size_t block = 0; block < blocks_count; block++) {
		if (ends[block] < end || (ends[block] > 0 && extras == NULL))
			return false;
		for (; end < ends[block]; end++)
			if (extras[end].bytes == NULL && extras[end].bytes_count > 0)
				return false;
	}
	return true;
}

int kvtier_route_keys(uint64_t parent, const uint32_t *tokens, size_t tokens_per_block,
		      size_t blocks_count, const struct kvtier_extra *extras,
		      const uint32_t *extras_ends, uint64_t *out_keys)
{
	uint32_t first = 0;

	if (tokens_per_block == 0 ||
	    blocks_count > SIZE_MAX / sizeof(*tokens) / tokens_per_block ||
	    (blocks_count > 0 && (tokens == NULL || out_keys == NULL)) ||
	    (extras_ends != NULL && !extras_are_right(extras, extras_ends, blocks_count)))
		return -EINVAL;
	for (size_t block = 0; block < blocks_count; block++) {
		uint32_t end = extras_ends == NULL ? 0 : extras_ends[block];

		parent = kvtier_route_key(parent, tokens + block * tokens_per_block,
					  tokens_per_block, end > first ? extras + first : NULL,
					  end - first);
		out_keys[block] = parent;
		first = end;
	}
	return 0;
}
