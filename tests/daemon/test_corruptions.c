/*
 * tests/daemon/test_corruptions.c: damage at a high rate, in slots of both tiers, met by loads
 * through the whole daemon. Each one that a reader can see is a miss; whatever is served is right.
 *
 * KVTIER_TEST_SCALE=50 injects a million. The figures are one line of JSON:
 * injected = detected + unread + overwritten, and wrong is 0.
 */
#include "tests/daemon/rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define INJECTED_AT_SCALE_1 20000u
#define BLOCKS 512u
#define OVERWRITTEN 32u      /* of them: stored again before anybody loads */
#define PAYLOAD_BYTES 6000u
#define SLOT_BYTES 12288u
#define PAGE_BYTES 4096u
#define SECTOR_BYTES 512u
#define FIRST_KEY 1u

enum damage {
	DAMAGE_BIT,              /* anywhere in the slot */
	DAMAGE_HEADER_BIT,
	DAMAGE_BITS,
	DAMAGE_SECTOR_ZEROED,
	DAMAGE_PAGE_GARBAGE,
	DAMAGE_PAGE_OF_ANOTHER,
	DAMAGE_HEADER_OF_ANOTHER,
	DAMAGE_PAYLOAD_OF_ANOTHER,
	DAMAGE_SLOT_OF_ANOTHER,  /* a misdirected write */
	DAMAGE_SWAPPED,
	DAMAGE_TORN,             /* the end is what lay there before */
	DAMAGE_OLD_PAYLOAD,
	DAMAGE_LOST,             /* all of it is what lay there before */
	DAMAGE_ZEROED,
	DAMAGES
};

static const char *const damage_names[DAMAGES] = {
	"bit", "header_bit", "bits", "sector_zeroed", "page_garbage", "page_of_another",
	"header_of_another", "payload_of_another", "slot_of_another", "swapped", "torn",
	"old_payload", "lost", "zeroed",
};

struct figures {
	uint64_t injected, detected, unread, overwritten, wrong, undamaged_lost;
	uint64_t same_key;       /* of those put back from before: of the very key in the place */
	uint64_t by_damage[DAMAGES];
};

struct bench {
	struct rig rig;
	struct rig_client *client;
	struct figures figures[TIERS];
	uint64_t version;
	uint8_t *slots[BLOCKS];                  /* where they are now */
	uint8_t (*before)[SLOT_BYTES];           /* what was in them, undamaged */
	/* All of the tier as it was before this round's blocks, in the same life: the memory of an
	 * earlier one cannot come back. */
	uint8_t *earlier[TIERS];
	enum tier_id tier;
	bool is_damaged[BLOCKS];
};

static const struct frame_group small = {
	.tokens_per_block = RIG_TOKENS, .payload_bytes = PAYLOAD_BYTES,
	.segments_count = RIG_SEGMENTS,
};

/* What a reader of the tier looks at. Only the daemon looks at the zeros behind the payload. */
static bool is_seen(enum tier_id tier, const uint8_t *now, const uint8_t *before)
{
	size_t address = offsetof(struct slot_header, address) + tier * sizeof(struct slot_address);
	size_t payload_end = tier == TIER_NVME ? SLOT_BYTES : SLOT_HEADER_BYTES + PAYLOAD_BYTES;

	return memcmp(now, before, offsetof(struct slot_header, address)) != 0 ||
	       memcmp(now + address, before + address, sizeof(struct slot_address)) != 0 ||
	       memcmp(now + SLOT_HEADER_BYTES, before + SLOT_HEADER_BYTES,
		      payload_end - SLOT_HEADER_BYTES) != 0;
}

/* The bytes of the tier, and how many. */
static uint8_t *tier_bytes(struct bench *bench, enum tier_id tier, size_t *out_bytes)
{
	struct rig_file *file = rig_disk_file(&bench->rig.disk, "disk-0");

	*out_bytes = tier == TIER_NVME ? file->bytes : bench->rig.daemon->tenants[0].arena.bytes;
	return tier == TIER_NVME ? file->now : bench->rig.daemon->tenants[0].arena.units;
}

static void earlier_keep(struct bench *bench, enum tier_id tier)
{
	size_t bytes;
	uint8_t *start = tier_bytes(bench, tier, &bytes);

	if (bench->earlier[tier] == NULL)
		bench->earlier[tier] = malloc(bytes);
	assert_non_null(bench->earlier[tier]);
	memcpy(bench->earlier[tier], start, bytes);
}

static const uint8_t *earlier_of(struct bench *bench, const uint8_t *slot)
{
	size_t bytes;

	return bench->earlier[bench->tier] + (slot - tier_bytes(bench, bench->tier, &bytes));
}

static void flip(struct bench *bench, uint8_t *slot, size_t bytes)
{
	slot[random_below(&bench->rig.random, bytes)] ^=
		(uint8_t)(1u << random_below(&bench->rig.random, 8));
}

static void part_put(uint8_t *slot, const uint8_t *source, size_t begin, size_t end)
{
	memcpy(slot + begin, source + begin, end - begin);
}

static void damage_bits(struct bench *bench, enum damage kind, uint8_t *slot)
{
	struct random *random = &bench->rig.random;
	size_t page = random_below(random, SLOT_BYTES / PAGE_BYTES) * PAGE_BYTES;
	unsigned flips = 2 + (unsigned)random_below(random, 63);

	switch (kind) {
	case DAMAGE_BIT:
		flip(bench, slot, SLOT_BYTES);
		break;
	case DAMAGE_HEADER_BIT:
		flip(bench, slot, sizeof(struct slot_identity));
		break;
	case DAMAGE_BITS:
		for (unsigned i = 0; i < flips; i++)
			flip(bench, slot, SLOT_BYTES);
		break;
	case DAMAGE_SECTOR_ZEROED:
		memset(slot + random_below(random, SLOT_BYTES / SECTOR_BYTES) * SECTOR_BYTES, 0,
		       SECTOR_BYTES);
		break;
	case DAMAGE_PAGE_GARBAGE:
		for (size_t i = 0; i < PAGE_BYTES; i += sizeof(uint64_t)) {
			uint64_t word = random_next(random);

			memcpy(slot + page + i, &word, sizeof(word));
		}
		break;
	default:
		memset(slot, 0, SLOT_BYTES);
		break;
	}
}

/* Bytes of other slots, and of other times. */
static void damage_whole(struct bench *bench, enum damage kind, unsigned number)
{
	struct random *random = &bench->rig.random;
	const uint8_t *another = bench->before[random_below(random, BLOCKS)];
	uint8_t *slot = bench->slots[number];
	const uint8_t *earlier = earlier_of(bench, slot);
	size_t page = random_below(random, SLOT_BYTES / PAGE_BYTES) * PAGE_BYTES;
	size_t sector = random_below(random, SLOT_BYTES / SECTOR_BYTES) * SECTOR_BYTES;

	switch (kind) {
	case DAMAGE_PAGE_OF_ANOTHER:
		part_put(slot, another, page, page + PAGE_BYTES);
		break;
	case DAMAGE_HEADER_OF_ANOTHER:
		part_put(slot, another, 0, SLOT_HEADER_BYTES);
		break;
	case DAMAGE_PAYLOAD_OF_ANOTHER:
		part_put(slot, another, SLOT_HEADER_BYTES, SLOT_BYTES);
		break;
	case DAMAGE_SLOT_OF_ANOTHER:
		part_put(slot, another, 0, SLOT_BYTES);
		break;
	case DAMAGE_TORN:
		part_put(slot, earlier, sector, SLOT_BYTES);
		break;
	case DAMAGE_OLD_PAYLOAD:
		part_put(slot, earlier, SLOT_HEADER_BYTES, SLOT_BYTES);
		break;
	default:
		bench->figures[bench->tier].same_key +=
			memcmp(((const struct slot_header *)earlier)->identity.hash,
			       ((const struct slot_header *)slot)->identity.hash,
			       BLOCK_HASH_BYTES) == 0;
		part_put(slot, earlier, 0, SLOT_BYTES);
		break;
	}
}

/* Returns how many slots were damaged: a swap takes the next one, too. */
static unsigned damage_one(struct bench *bench, struct figures *figures, unsigned number)
{
	enum damage kind = (enum damage)random_below(&bench->rig.random, DAMAGES);
	unsigned damaged = 1;

	if (kind == DAMAGE_SWAPPED && number + 1 < BLOCKS) {
		memcpy(bench->slots[number], bench->before[number + 1], SLOT_BYTES);
		memcpy(bench->slots[number + 1], bench->before[number], SLOT_BYTES);
		damaged = 2;
	} else if (kind <= DAMAGE_PAGE_GARBAGE || kind >= DAMAGE_ZEROED ||
		   kind == DAMAGE_SWAPPED) {
		damage_bits(bench, kind, bench->slots[number]);
	} else {
		damage_whole(bench, kind, number);
	}
	for (unsigned i = number; i < number + damaged; i++)
		bench->is_damaged[i] = true;
	figures->by_damage[kind] += damaged;
	figures->injected += damaged;
	return damaged;
}

static void blocks_store(struct bench *bench, enum tier_id tier, unsigned from, unsigned count)
{
	struct rig_blocks some = { .first = FIRST_KEY + from, .count = count,
				   .version = bench->version };

	assert_int_equal(rig_store(bench->client, &some), count);
	rig_settle(&bench->rig);
	if (tier == TIER_NVME)
		rig_drop_cpu(bench->client, 0, some.first, count);
}

static void slots_find(struct bench *bench, enum tier_id tier)
{
	for (unsigned i = 0; i < BLOCKS; i++) {
		uint32_t slot = rig_slot(bench->client, tier, 0, FIRST_KEY + i);

		assert_int_not_equal(slot, SLOT_NONE);
		bench->slots[i] = rig_slot_bytes(&bench->rig, tier, slot);
		memcpy(bench->before[i], bench->slots[i], SLOT_BYTES);
		bench->is_damaged[i] = false;
	}
}

/* The end of the run of keys is dropped, and stored again, before anybody reads the damage. */
static void overwrite(struct bench *bench, enum tier_id tier)
{
	for (unsigned i = BLOCKS - OVERWRITTEN; i < BLOCKS; i++)
		cache_entry_drop(bench->rig.daemon->cache,
				 rig_entry(bench->client, 0, FIRST_KEY + i));
	bench->version++;
	blocks_store(bench, tier, BLOCKS - OVERWRITTEN, OVERWRITTEN);
}

static void judge(struct bench *bench, enum tier_id tier, uint64_t version, const bool *is_wrong)
{
	struct figures *figures = &bench->figures[tier];

	for (unsigned i = 0; i < BLOCKS; i++) {
		bool is_served = rig_last.results[i] == 0;
		bool is_new = i >= BLOCKS - OVERWRITTEN;

		if (is_served && rig_last.versions[i] != version + is_new)
			figures->wrong++;
		if (is_new || !is_wrong[i]) {
			/* Nothing that a reader looks at is wrong: it has to be served. */
			figures->undamaged_lost += !is_served;
			figures->overwritten += is_new && bench->is_damaged[i];
			figures->unread += !is_new && bench->is_damaged[i];
			continue;
		}
		figures->detected += !is_served;
		figures->wrong += is_served;
	}
}

/* The same keys with other bytes, in the places that this round's blocks will take. */
static void earlier_make(struct bench *bench, enum tier_id tier)
{
	bench->tier = tier;
	bench->version++;
	blocks_store(bench, tier, 0, BLOCKS);
	assert_int_equal(rig_forget(bench->client, bench->client->space), 0);
	rig_settle(&bench->rig);
	earlier_keep(bench, tier);
}

static void round_run(struct bench *bench, enum tier_id tier)
{
	bool is_wrong[BLOCKS];
	uint64_t version;

	earlier_make(bench, tier);
	version = ++bench->version;
	blocks_store(bench, tier, 0, BLOCKS);
	slots_find(bench, tier);
	for (unsigned i = 0; i < BLOCKS;)
		i += damage_one(bench, &bench->figures[tier], i);
	for (unsigned i = 0; i < BLOCKS; i++)
		is_wrong[i] = is_seen(tier, bench->slots[i], bench->before[i]);
	overwrite(bench, tier);
	(void)rig_load(bench->client,
		       &(struct rig_blocks){ .first = FIRST_KEY, .count = BLOCKS });
	judge(bench, tier, version, is_wrong);
	rig_settle(&bench->rig);
	rig_assert_idle(&bench->rig);
	/* A damaged slot is not used again until its extent is: all of them are, after a start. */
	rig_stop(&bench->rig);
	rig_start(&bench->rig);
	bench->client = rig_register(&bench->rig, &(struct rig_engine){
						      .groups_count = 1, .groups = { small } });
	assert_int_equal(rig_forget(bench->client, bench->client->space), 0);
	rig_settle(&bench->rig);
}

static void figures_print(const struct figures *figures, const char *tier)
{
	printf("{\"tier\":\"%s\",\"injected\":%llu,\"detected\":%llu,\"unread\":%llu,"
	       "\"overwritten\":%llu,\"wrong\":%llu,\"undamaged_lost\":%llu,\"lost_of_same_key\":%llu,"
	       "\"by_damage\":{",
	       tier, (unsigned long long)figures->injected, (unsigned long long)figures->detected,
	       (unsigned long long)figures->unread, (unsigned long long)figures->overwritten,
	       (unsigned long long)figures->wrong, (unsigned long long)figures->undamaged_lost,
	       (unsigned long long)figures->same_key);
	for (unsigned i = 0; i < DAMAGES; i++)
		printf("%s\"%s\":%llu", i > 0 ? "," : "", damage_names[i],
		       (unsigned long long)figures->by_damage[i]);
	printf("}}\n");
}

static uint64_t injected_wanted(void)
{
	const char *scale = getenv("KVTIER_TEST_SCALE");
	double wanted = INJECTED_AT_SCALE_1 * (scale != NULL ? strtod(scale, NULL) : 1);

	return wanted > BLOCKS ? (uint64_t)wanted : BLOCKS;
}

/* KVTIER_TEST_SEED: another sequence of damage; without it always the same. */
static uint64_t seed_wanted(void)
{
	const char *seed = getenv("KVTIER_TEST_SEED");

	return seed != NULL ? strtoull(seed, NULL, 10) : 0;
}

static void all_damage_is_met_as_a_miss(void **unused)
{
	static const char *const names[TIERS] = { "cpu", "nvme" };
	struct bench bench;

	(void)unused;
	memset(&bench, 0, sizeof(bench));
	bench.before = calloc(BLOCKS, SLOT_BYTES);
	assert_non_null(bench.before);
	rig_init(&bench.rig, &(struct rig_config){ .cpu_units = 16, .nvme_units = 16,
						   .load_window_blocks = BLOCKS,
						   .seed = seed_wanted() });
	bench.client = rig_register(&bench.rig, &(struct rig_engine){ .groups_count = 1,
								      .groups = { small } });
	for (unsigned i = 0; bench.figures[0].injected + bench.figures[1].injected <
			     injected_wanted(); i++)
		round_run(&bench, i % 2 == 0 ? TIER_NVME : TIER_CPU);
	for (enum tier_id tier = 0; tier < TIERS; tier++)
		figures_print(&bench.figures[tier], names[tier]);
	for (enum tier_id tier = 0; tier < TIERS; tier++) {
		const struct figures *figures = &bench.figures[tier];

		assert_int_equal(figures->wrong, 0);
		assert_int_equal(figures->undamaged_lost, 0);
		assert_int_equal(figures->injected, figures->detected + figures->unread +
							    figures->overwritten);
		assert_true(figures->detected > figures->injected / 2);
		assert_true(figures->same_key > 0);
	}
	rig_finish(&bench.rig);
	free(bench.before);
	for (enum tier_id tier = 0; tier < TIERS; tier++)
		free(bench.earlier[tier]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_damage_is_met_as_a_miss),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
