/* tests/daemon/test_scrub_pace.c: the scrubber beside a load that never ends, and slots of several
 * pieces. */
#include "daemon/encryption.h"
#include "tests/daemon/rig.h"

#include "daemon/scrub.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <string.h>

#define RATE (16 * RIG_UNIT_BYTES)
#define INTERVAL_US (600 * RIG_SECOND)
/* of the load that never pauses */
#define KEYS 256u
#define LOADED 224u /* the rest is asked for by nobody */
#define BATCH 32u
#define LATENCY_US 3000u
/* of a block whose slot is several pieces */
#define LARGE_PAYLOAD_BYTES 900000u
#define LARGE_SLOT_BYTES (SLOT_HEADER_BYTES + 901120u)
#define LARGE_BLOCKS 4u
_Static_assert(LARGE_SLOT_BYTES > 3 * SCRUB_PIECE_BYTES, "it has a first, a last, and others");

static const struct rig_engine large_engine = {
	.groups_count = 1,
	.groups = { { .tokens_per_block = RIG_TOKENS, .payload_bytes = LARGE_PAYLOAD_BYTES,
		      .segments_count = RIG_SEGMENTS } },
};
static const struct rig_blocks large_blocks = { .first = 1, .count = LARGE_BLOCKS, .version = 3 };

static struct scrub_figures figures_of(struct rig *rig)
{
	return scrub_figures(rig->daemon);
}

static void round_run(struct rig *rig)
{
	uint64_t passes = figures_of(rig).passes;

	rig_settle(rig);
	if (passes > 0)
		clock_advance(&rig->clock, INTERVAL_US);
	for (unsigned i = 0; figures_of(rig).passes == passes; i++) {
		assert_true(i < RIG_PASSES_MAX);
		rig_pass_time(rig, 1000);
	}
}

static uint8_t *bytes_of(struct rig *rig, struct rig_client *client, enum tier_id tier,
			 uint64_t key)
{
	uint32_t slot = rig_slot(client, tier, 0, key);

	assert_int_not_equal(slot, SLOT_NONE);
	return rig_slot_bytes(rig, tier, slot);
}

/* ---- a load that never pauses ---- */

struct load {
	struct rig_client *client;
	struct rig_batch *batches[2];
	uint64_t next;
};

/* One millisecond, in which each batch that has ended is followed by the next. They end at
 * different ones, so the device always has one to read. */
static void load_go_on(struct load *load, unsigned ms)
{
	struct rig *rig = load->client->rig;

	for (unsigned i = 0; i < 2; i++) {
		struct rig_batch *batch = load->batches[i];

		if (batch != NULL && batch->ended == batch->count) {
			rig_batch_give(batch);
			load->batches[i] = batch = NULL;
		}
		if (batch != NULL || ms < i * LATENCY_US / 2000)
			continue;
		load->batches[i] = rig_load_begin(
			load->client, &(struct rig_blocks){ .first = load->next, .count = BATCH });
		load->next = load->next + BATCH > LOADED ? 1 : load->next + BATCH;
		rig_settle(rig);
	}
	assert_true(rig->daemon->nvme->in_flight > 0);
	clock_advance(&rig->clock, 1000);
	rig_settle(rig);
}

static void load_end(struct load *load)
{
	for (unsigned i = 0; i < 2; i++) {
		if (load->batches[i] == NULL)
			continue;
		while (load->batches[i]->ended < load->batches[i]->count)
			rig_pass_time(load->client->rig, 1000);
		rig_batch_give(load->batches[i]);
	}
}

static uint64_t checked_bytes(struct rig *rig)
{
	return figures_of(rig).bytes[TIER_CPU] + figures_of(rig).bytes[TIER_NVME];
}

static void beside_an_endless_load_damage_is_found_at_a_tenth_of_the_rate(void **unused)
{
	struct rig rig;
	struct load load = { .next = 1 };
	unsigned ms = 0;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .scrub_bytes_second = RATE });
	load.client = rig_register(&rig, NULL);
	for (unsigned key = 1; key <= KEYS; key += BATCH)
		assert_int_equal(rig_store(load.client, &(struct rig_blocks){ .first = key,
									      .count = BATCH }),
				 BATCH);
	round_run(&rig);
	bytes_of(&rig, load.client, TIER_NVME, KEYS)[SLOT_HEADER_BYTES] ^= 1;
	/* The whole of both tiers. */
	uint64_t round_bytes = (KEYS + 2 * RIG_SLOTS_A_UNIT) * RIG_SLOT_BYTES;
	uint64_t floor_us = round_bytes * SCRUB_FLOOR_PART * RIG_SECOND / RATE;

	rig.disk.latency_us = LATENCY_US;
	for (; ms < 100; ms++)
		load_go_on(&load, ms);
	rig.daemon->settings.scrub_interval_us = RIG_SECOND;
	uint64_t before = checked_bytes(&rig);
	uint64_t began_us = clock_now_us(&rig.clock);
	while (figures_of(&rig).damaged[TIER_NVME] == 0) {
		load_go_on(&load, ms++);
		assert_true(clock_now_us(&rig.clock) - began_us < floor_us * 5 / 4);
	}
	/* And no more than that, as the load comes first. */
	uint64_t gone_us = clock_now_us(&rig.clock) - began_us;
	assert_true(checked_bytes(&rig) - before <=
		    gone_us * (RATE / SCRUB_FLOOR_PART) / RIG_SECOND + 2 * RIG_SLOT_BYTES);
	load_end(&load);
	rig_finish_idle(&rig);
}

/* ---- slots of several pieces ---- */

static struct rig_client *large_store(struct rig *rig, const struct rig_config *config)
{
	rig_init(rig, config);
	struct rig_client *client = rig_register(rig, &large_engine);
	assert_int_equal(rig_store(client, &large_blocks), LARGE_BLOCKS);
	return client;
}

static void each_piece_of_a_large_slot_is_checked(void **unused)
{
	static const char *const encryptions[] = { NULL, "ephemeral" };
	/* of keys 1, 2, ...: the payload's first, one between, its last, and the padding's last */
	static const uint64_t places[LARGE_BLOCKS] = { SLOT_HEADER_BYTES, 2 * SCRUB_PIECE_BYTES + 9,
						       SLOT_HEADER_BYTES + LARGE_PAYLOAD_BYTES - 1,
						       LARGE_SLOT_BYTES - 1 };

	(void)unused;
	for (unsigned i = 0; i < 2; i++) {
		struct rig rig;
		struct rig_client *client = large_store(
			&rig, &(struct rig_config){ .cpu_units = 2 * LARGE_BLOCKS,
						    .nvme_units = 2 * LARGE_BLOCKS,
						    .scrub_bytes_second = RATE,
						    .encryption_buffer_bytes = 8 * RIG_UNIT_BYTES,
						    .encryption = encryptions[i] });

		round_run(&rig);
		round_run(&rig);
		for (enum tier_id tier = 0; tier < TIERS; tier++) {
			assert_true(figures_of(&rig).slots[tier] >= LARGE_BLOCKS);
			assert_int_equal(figures_of(&rig).damaged[tier], 0);
		}
		assert_int_equal(figures_of(&rig).given_up, 0);
		for (enum tier_id tier = TIERS; tier-- > 0;) {
			for (unsigned key = 1; key <= LARGE_BLOCKS; key++)
				bytes_of(&rig, client, tier, key)[places[key - 1]] ^= 4;
			round_run(&rig);
			assert_int_equal(figures_of(&rig).damaged[tier], LARGE_BLOCKS);
		}
		/* What was wrong below had been written again from above before that went. */
		assert_int_equal(rig_load(client, &large_blocks), LARGE_BLOCKS);
		rig_finish_idle(&rig);
	}
}

static void a_large_write_is_read_back_whole(void **unused)
{
	struct rig rig;
	struct rig_client *client = large_store(
		&rig, &(struct rig_config){ .cpu_units = 4, .readback_every = 1 });

	(void)unused;
	rig_settle(&rig);
	assert_int_equal(figures_of(&rig).readbacks[READBACK_GOOD], LARGE_BLOCKS);
	assert_int_equal(rig_load(client, &large_blocks), LARGE_BLOCKS);
	rig_finish_idle(&rig);
}

/* The slot is nobody's then, and what lies there is another block's, or garbage. */
static void a_slot_that_goes_between_two_pieces_is_given_up_without_a_word(void **unused)
{
	(void)unused;
	for (unsigned round = 0; round < 4; round++) {
		enum tier_id tier = round & 1 ? TIER_NVME : TIER_CPU;
		bool is_stored_again = round & 2;
		struct rig rig;
		struct rig_client *client = large_store(
			&rig, &(struct rig_config){ .no_nvme = tier == TIER_CPU,
						    .cpu_units = LARGE_BLOCKS,
						    .nvme_units = LARGE_BLOCKS,
						    .scrub_bytes_second = RIG_UNIT_BYTES });

		round_run(&rig);
		uint64_t passes = figures_of(&rig).passes;
		clock_advance(&rig.clock, INTERVAL_US);
		rig_settle(&rig);
		/* Between two pieces nothing is held: the slot may go. */
		rig_assert_idle(&rig);
		uint8_t *bytes = bytes_of(&rig, client, tier, 1);
		assert_int_equal(rig_forget(client, client->space), 0);
		rig_settle(&rig);
		if (is_stored_again)
			assert_int_equal(rig_store(client, &large_blocks), LARGE_BLOCKS);
		else
			memset(bytes + SLOT_HEADER_BYTES, 0x5a, LARGE_PAYLOAD_BYTES);
		for (unsigned i = 0; figures_of(&rig).passes == passes; i++) {
			assert_true(i < RIG_PASSES_MAX);
			rig_pass_time(&rig, 1000);
		}
		assert_int_equal(figures_of(&rig).given_up, 1);
		assert_int_equal(figures_of(&rig).damaged[TIER_CPU], 0);
		assert_int_equal(figures_of(&rig).damaged[TIER_NVME], 0);
		if (is_stored_again)
			assert_int_equal(rig_load(client, &large_blocks), LARGE_BLOCKS);
		rig_finish_idle(&rig);
	}
}

/* Its context is gone in the middle; the block is as good as before. */
static void a_slot_whose_keys_change_between_two_pieces_is_given_up_without_a_word(void **unused)
{
	struct error error;
	uint64_t given_up = 0;

	(void)unused;
	for (unsigned steps = 0; steps < 24; steps++) {
		struct rig rig;
		struct rig_client *client = large_store(
			&rig, &(struct rig_config){ .cpu_units = 2 * LARGE_BLOCKS,
						    .nvme_units = 2 * LARGE_BLOCKS,
						    .scrub_bytes_second = RATE,
						    .readback_every = 1,
						    .encryption_buffer_bytes = 8 * RIG_UNIT_BYTES,
						    .encryption = "key_file" });

		round_run(&rig);
		clock_advance(&rig.clock, INTERVAL_US);
		for (unsigned i = 0; i < steps; i++) {
			(void)rig_step(&rig);
			clock_advance(&rig.clock, 1000);
		}
		rig_keys(&rig, 0, "second:22222222222222222222222222222222"
				  "22222222222222222222222222222222\n" RIG_KEY);
		assert_int_equal(encryption_read(rig.daemon, &error), 0);
		assert_int_equal(encryption_take(rig.daemon, NULL, 0), 1);
		round_run(&rig);
		given_up += figures_of(&rig).given_up;
		assert_string_equal(encryption_keys_state(rig.daemon), "in force");
		for (enum tier_id tier = 0; tier < TIERS; tier++)
			assert_int_equal(figures_of(&rig).damaged[tier], 0);
		assert_int_equal(rig.daemon->counters.cipher_failures, 0);
		assert_int_equal(figures_of(&rig).readbacks[READBACK_BAD], 0);
		assert_int_equal(rig_load(client, &large_blocks), LARGE_BLOCKS);
		rig_finish_idle(&rig);
	}
	assert_true(given_up > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(beside_an_endless_load_damage_is_found_at_a_tenth_of_the_rate),
		cmocka_unit_test(each_piece_of_a_large_slot_is_checked),
		cmocka_unit_test(a_large_write_is_read_back_whole),
		cmocka_unit_test(a_slot_that_goes_between_two_pieces_is_given_up_without_a_word),
		cmocka_unit_test(
			a_slot_whose_keys_change_between_two_pieces_is_given_up_without_a_word),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
