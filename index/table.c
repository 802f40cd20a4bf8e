/*
 * index/table.c: the hash table from key to entry, and the life of entries.
 *
 * Open addressing with linear probing; a bucket is 8 bytes, so a probe of several buckets is one
 * cache line. A bucket keeps 32 bits of the hash as its tag; its home is computed from the tag
 * alone, so a deletion can shift buckets back (no tombstones) without reading a single entry.
 */
#include "index/cache_parts.h"

#include <string.h>

/*
 * A search has three steps, each of which prefetches what the next one reads: bucket, entry,
 * answer. So many keys lie between one step and the next: enough to keep every miss buffer of a
 * core busy, few enough that what was prefetched first is still in the first-level cache when it is
 * read (32 lines of buckets and as many of entries: 4 KiB).
 */
#define FIND_AHEAD 32u
/* Keys that cache_find() looks for at once: it has room for their tiers. */
#define FIND_PART 1024u

static inline uint64_t mix(uint64_t left, uint64_t right)
{
	unsigned __int128 product = (unsigned __int128)left * right;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Each word meets a secret before it is multiplied, so nobody can choose a factor of zero. */
static inline uint32_t key_tag(const struct cache *cache, uint32_t space, uint16_t group,
			       const uint8_t *hash)
{
	const uint64_t *secrets = cache->secrets;
	uint64_t words[4];

	memcpy(words, hash, sizeof(words));
	uint64_t first = mix(words[0] ^ secrets[0], words[1] ^ secrets[1]);
	uint64_t second = mix(words[2] ^ secrets[2], words[3] ^ secrets[3]);
	uint64_t named = ((uint64_t)space << 16 | group) ^ secrets[4];
	return (uint32_t)(mix(first ^ named, second ^ secrets[5]) >> 32);
}

static inline uint64_t tag_home(const struct cache *cache, uint32_t tag)
{
	return (uint64_t)(((unsigned __int128)tag * cache->buckets_count) >> 32);
}

static inline uint64_t bucket_after(const struct cache *cache, uint64_t bucket)
{
	return bucket + 1 == cache->buckets_count ? 0 : bucket + 1;
}

static inline bool entry_is(const struct entry *entry, uint32_t space, uint16_t group,
			    const uint8_t *hash)
{
	return entry->space == space && entry->group == group &&
	       memcmp(entry->hash, hash, BLOCK_HASH_BYTES) == 0;
}

/* The first bucket from `bucket` on with this tag; UINT64_MAX: there is none. Ends, as a quarter is
 * always empty. */
static inline uint64_t tag_seek(const struct cache *cache, uint32_t tag, uint64_t bucket)
{
	for (;; bucket = bucket_after(cache, bucket)) {
		uint64_t value = cache->buckets[bucket];
		if (value == 0)
			return UINT64_MAX;
		if ((uint32_t)(value >> 32) == tag)
			return bucket;
	}
}

static inline uint32_t bucket_entry(const struct cache *cache, uint64_t bucket)
{
	return (uint32_t)cache->buckets[bucket] - 1;
}

static uint32_t table_find_from(const struct cache *cache, uint64_t bucket, uint32_t tag,
				const struct entry *key)
{
	while (bucket != UINT64_MAX) {
		uint32_t entry = bucket_entry(cache, bucket);
		if (entry_is(&cache->entries[entry], key->space, key->group, key->hash))
			return entry;
		bucket = tag_seek(cache, tag, bucket_after(cache, bucket));
	}
	return ENTRY_NONE;
}

uint32_t table_find(const struct cache *cache, uint32_t space, uint16_t group, const uint8_t *hash)
{
	uint32_t tag = key_tag(cache, space, group, hash);
	struct entry key = { .space = space, .group = group };

	memcpy(key.hash, hash, BLOCK_HASH_BYTES);
	return table_find_from(cache, tag_seek(cache, tag, tag_home(cache, tag)), tag, &key);
}

uint32_t cache_find_any(struct cache *cache, uint32_t space, uint16_t group,
			const uint8_t hash[BLOCK_HASH_BYTES])
{
	uint32_t entry = table_find(cache, space, group, hash);

	if (entry == ENTRY_NONE || entry_is_forgotten(cache, &cache->entries[entry]))
		return ENTRY_NONE;
	return entry;
}

/* The tier that an entry is found in, the fastest first. */
static inline uint8_t flags_tier(uint8_t flags)
{
	_Static_assert(TIERS == 2, "two bits say which tiers have a whole copy");
	static const uint8_t tiers[] = { TIERS, 0, 1, 0 };

	return tiers[flags & ENTRY_WHOLE_ANY];
}

struct finding {
	uint64_t bucket;
	uint32_t tag;
};

static inline uint32_t finding_end(const struct cache *cache, const struct cache_query *query,
				   const struct finding *finding, const uint8_t *hash)
{
	uint64_t bucket = finding->bucket;

	while (bucket != UINT64_MAX) {
		uint32_t entry = bucket_entry(cache, bucket);
		if (entry_is(&cache->entries[entry], query->space, query->group, hash))
			return entry;
		bucket = tag_seek(cache, finding->tag, bucket_after(cache, bucket));
	}
	return ENTRY_NONE;
}

void cache_find_tiers(struct cache *cache, const struct cache_query *query, uint32_t *out_entries,
		      uint8_t *out_tiers)
{
	struct finding findings[2 * FIND_AHEAD];
	unsigned count = query->count;

	assert(cache_space_is_known(cache, query->space));
	assert(count <= UINT32_MAX - 2 * FIND_AHEAD);
	uint32_t floor = cache_floor(cache, query->space);
	for (unsigned step = 0; step < count + 2 * FIND_AHEAD; step++) {
		struct finding *oldest = &findings[step % (2 * FIND_AHEAD)];
		if (step >= 2 * FIND_AHEAD) {
			unsigned i = step - 2 * FIND_AHEAD;
			uint32_t entry = finding_end(cache, query, oldest, query->hashes[i]);
			const struct entry *seen = &cache->entries[entry];
			bool is_found = entry != ENTRY_NONE && seen->epoch >= floor &&
					(seen->flags & ENTRY_WHOLE_ANY) != 0;
			out_entries[i] = is_found ? entry : ENTRY_NONE;
			out_tiers[i] = is_found ? flags_tier(seen->flags) : TIERS;
		}
		if (step >= FIND_AHEAD && step - FIND_AHEAD < count) {
			struct finding *middle = &findings[(step - FIND_AHEAD) % (2 * FIND_AHEAD)];
			middle->bucket = tag_seek(cache, middle->tag, middle->bucket);
			if (middle->bucket != UINT64_MAX)
				__builtin_prefetch(
					&cache->entries[bucket_entry(cache, middle->bucket)]);
		}
		if (step < count) {
			oldest->tag = key_tag(cache, query->space, query->group,
					      query->hashes[step]);
			oldest->bucket = tag_home(cache, oldest->tag);
			__builtin_prefetch(&cache->buckets[oldest->bucket]);
			/* A probe that begins near the end of a line may leave it. */
			__builtin_prefetch(&cache->buckets[oldest->bucket + 2]);
		}
	}
}

void cache_find(struct cache *cache, const struct cache_query *query, uint32_t *out_entries)
{
	uint8_t tiers[FIND_PART];
	struct cache_query part = *query;

	for (unsigned first = 0; first < query->count; first += part.count) {
		part.hashes = query->hashes + first;
		part.count = query->count - first < FIND_PART ? query->count - first : FIND_PART;
		cache_find_tiers(cache, &part, out_entries + first, tiers);
	}
}

const struct entry *cache_entry(const struct cache *cache, uint32_t entry)
{
	assert(entry < cache->entries_begun);
	return &cache->entries[entry];
}

/* ---- the life of an entry ---- */

static void table_insert(struct cache *cache, uint32_t entry)
{
	const struct entry *new = &cache->entries[entry];
	uint32_t tag = key_tag(cache, new->space, new->group, new->hash);
	uint64_t bucket = tag_home(cache, tag);

	assert(cache->entries_linked < cache->config.entries_max);
	while (cache->buckets[bucket] != 0)
		bucket = bucket_after(cache, bucket);
	cache->buckets[bucket] = (uint64_t)tag << 32 | (entry + 1);
	cache->entries_linked++;
}

/* Shifts back what stood behind the removed bucket and may stand nearer to its home. */
static void table_remove(struct cache *cache, uint32_t entry)
{
	const struct entry *old = &cache->entries[entry];
	uint32_t tag = key_tag(cache, old->space, old->group, old->hash);
	uint64_t count = cache->buckets_count;
	uint64_t hole = tag_home(cache, tag);

	while (cache->buckets[hole] != ((uint64_t)tag << 32 | (entry + 1))) {
		assert(cache->buckets[hole] != 0); /* a linked entry is in its run */
		hole = bucket_after(cache, hole);
	}
	for (uint64_t next = bucket_after(cache, hole); cache->buckets[next] != 0;
	     next = bucket_after(cache, next)) {
		uint64_t home = tag_home(cache, (uint32_t)(cache->buckets[next] >> 32));
		uint64_t from_home = (next + count - home) % count;
		uint64_t from_hole = (next + count - hole) % count;
		if (from_home >= from_hole) {
			cache->buckets[hole] = cache->buckets[next];
			hole = next;
		}
	}
	cache->buckets[hole] = 0;
	assert(cache->entries_linked > 0);
	cache->entries_linked--;
}

uint32_t entry_take(struct cache *cache, uint32_t space, uint16_t group, const uint8_t *hash)
{
	uint32_t entry = cache->entry_free_first;

	if (entry != ENTRY_NONE)
		cache->entry_free_first = cache->colds[entry].parent;
	else if (cache->entries_begun < cache->config.entries_max)
		entry = cache->entries_begun++;
	else
		return ENTRY_NONE;
	struct entry *new = &cache->entries[entry];
	struct entry_cold *cold = &cache->colds[entry];
	assert((new->flags &ENTRY_USED) == 0);
	*new = (struct entry){ .space = space, .group = group, .flags = ENTRY_USED | ENTRY_LINKED };
	memcpy(new->hash, hash, BLOCK_HASH_BYTES);
	for (unsigned tier = 0; tier < TIERS; tier++)
		new->copy[tier] = SLOT_NONE;
	*cold = (struct entry_cold){ .parent = ENTRY_NONE, .generation = cold->generation };
	cache->entries_used++;
	space_entry_added(cache, space);
	table_insert(cache, entry);
	return entry;
}

uint32_t entry_parent(const struct cache *cache, uint32_t entry)
{
	const struct entry_cold *cold = &cache->colds[entry];

	if (cold->parent == ENTRY_NONE)
		return ENTRY_NONE;
	const struct entry *parent = &cache->entries[cold->parent];
	bool is_current = cache->colds[cold->parent].generation == cold->parent_generation;
	return is_current && (parent->flags & ENTRY_LINKED) != 0 ? cold->parent : ENTRY_NONE;
}

void entry_set_parent(struct cache *cache, uint32_t entry, uint32_t parent)
{
	struct entry_cold *cold = &cache->colds[entry];

	assert(entry != parent);
	assert(entry_parent(cache, entry) == ENTRY_NONE);
	if (parent == ENTRY_NONE)
		return;
	cold->parent = parent;
	cold->parent_generation = cache->colds[parent].generation;
	cache->colds[parent].children++;
}

void entry_unlink(struct cache *cache, uint32_t entry)
{
	uint32_t parent = entry_parent(cache, entry);

	assert((cache->entries[entry].flags & ENTRY_LINKED) != 0);
	table_remove(cache, entry);
	cache->entries[entry].flags &= (uint8_t)~ENTRY_LINKED;
	/* Generations are short, so a link may, once in a blue moon, be to a later entry: children
	 * is a hint. */
	if (parent != ENTRY_NONE && cache->colds[parent].children > 0)
		cache->colds[parent].children--;
	cache->colds[entry].parent = ENTRY_NONE;
}

void entry_settle(struct cache *cache, uint32_t entry)
{
	struct entry *seen = &cache->entries[entry];
	struct entry_cold *cold = &cache->colds[entry];

	assert((seen->flags & ENTRY_USED) != 0);
	for (unsigned tier = 0; tier < TIERS; tier++)
		if (seen->copy[tier] != SLOT_NONE)
			return;
	assert((seen->flags & ENTRY_WHOLE_ANY) == 0);
	if ((seen->flags & ENTRY_LINKED) != 0)
		entry_unlink(cache, entry);
	if (cold->orphans > 0)
		return;
	seen->flags = 0;
	cold->generation++;
	cold->parent = cache->entry_free_first;
	cache->entry_free_first = entry;
	cache->entries_used--;
	space_entry_gone(cache, seen->space);
}

/* ---- walking ---- */

uint32_t cache_entries_end(const struct cache *cache)
{
	return cache->entries_begun;
}

uint32_t cache_entry_next(const struct cache *cache, uint32_t *cursor, unsigned looks_max)
{
	for (unsigned looks = 0; looks < looks_max && *cursor < cache->entries_begun; looks++) {
		uint32_t entry = (*cursor)++;

		if ((cache->entries[entry].flags & ENTRY_LINKED) != 0)
			return entry;
	}
	return ENTRY_NONE;
}
