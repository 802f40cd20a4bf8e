/* client/kvtier_route.c: route keys. The one place that speaks to xxHash, which is compiled in:
 * nothing to link. */
#include "client/kvtier.h"

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
