/* tests/daemon/test_daemon_keys.c: key files that are read again while the daemon runs: new keys
 * write at once, what belongs to keys that are gone becomes misses, and nothing of them is left. */
#include "daemon/server.h"
#include "tests/daemon/encryption_rig.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define SECOND_KEY "second:2222222222222222222222222222222222222222222222222222222222222222\n"
#define ROTATIONS 60u
#define MILLS 3u

static const struct rig_blocks more = { .first = 101, .count = BLOCKS, .version = 3 };

static struct settings_change changes[4];

/* What reload.c does, on its mill and on the loop. Returns how many keyrings changed. */
static unsigned read_again(struct bench *bench, const char *text)
{
	struct error error;

	rig_keys(&bench->rig, 0, text);
	assert_int_equal(encryption_read(bench->rig.daemon, &error), 0);
	return encryption_take(bench->rig.daemon, changes, 4);
}

static struct tenant *tenant(struct bench *bench)
{
	return &bench->rig.daemon->tenants[0];
}

static uint32_t key_on_disk(struct bench *bench, uint64_t key)
{
	return bench_on_disk(bench, key)->identity.key_id;
}

static const char *state(struct bench *bench)
{
	return encryption_keys_state(bench->rig.daemon);
}

/* Neither of the tenant's two keyrings but the one in force has anything in it. */
static bool is_nothing_left(struct bench *bench)
{
	const struct keyring *pair = bench->rig.daemon->encryption->keyrings;
	const struct keyring *spare = tenant(bench)->keyring == pair ? pair + 1 : pair;
	const uint8_t *bytes = (const uint8_t *)spare;

	for (size_t i = 0; i < sizeof(*spare); i++)
		if (bytes[i] != 0)
			return false;
	return true;
}

static void a_new_key_writes_at_once_and_the_old_ones_blocks_are_read(void **unused)
{
	struct bench bench;
	uint32_t first;

	(void)unused;
	bench_init(&bench, "key_file");
	first = key_on_disk(&bench, 1);
	assert_int_equal(read_again(&bench, SECOND_KEY RIG_KEY), 1);
	assert_string_equal(changes[0].key, "tenants.0.keys");
	assert_string_equal(changes[0].from, "first");
	assert_string_equal(changes[0].to, "second first");
	assert_string_equal(encryption_key_name(tenant(&bench)), "second");
	rig_drop_cpu(bench.client, 0, 1, BLOCKS);
	assert_int_equal(bench_load(&bench, 1, BLOCKS), BLOCKS);
	assert_int_equal(rig_store(bench.client, &more), BLOCKS);
	rig_settle(&bench.rig);
	assert_int_equal(key_on_disk(&bench, 1), first);
	assert_int_not_equal(key_on_disk(&bench, 101), first);
	rig_drop_cpu(bench.client, 0, 101, BLOCKS);
	assert_int_equal(bench_load(&bench, 101, BLOCKS), BLOCKS);
	assert_int_equal(key_missing(&bench), 0);
	assert_string_equal(state(&bench), "in force");
	assert_true(is_nothing_left(&bench));
	/* And after a restart. */
	bench_again(&bench, false, false);
	assert_int_equal(bench_load(&bench, 101, BLOCKS), BLOCKS);
	assert_int_equal(bench_load(&bench, 1, BLOCKS), BLOCKS);
	bench_finish(&bench);
}

static void a_file_that_says_the_same_changes_nothing(void **unused)
{
	struct bench bench;
	const struct keyring *before;
	struct keyring copy;

	(void)unused;
	bench_init(&bench, "key_file");
	before = tenant(&bench)->keyring;
	copy = *before;
	assert_int_equal(read_again(&bench, "# as before\n" RIG_KEY), 0);
	assert_ptr_equal(tenant(&bench)->keyring, before);
	/* Its nonces go on, too. */
	assert_memory_equal(before, &copy, sizeof(copy));
	assert_true(is_nothing_left(&bench));
	assert_string_equal(state(&bench), "in force");
	bench_finish(&bench);
}

static void a_wrong_file_leaves_what_was_in_force(void **unused)
{
	struct bench bench;
	const struct keyring *before;
	struct error error;

	(void)unused;
	bench_init(&bench, "key_file");
	before = tenant(&bench)->keyring;
	rig_keys(&bench.rig, 0, SECOND_KEY "second");
	assert_int_equal(encryption_read(bench.rig.daemon, &error), -EINVAL);
	assert_non_null(strstr(error.text, "tenants.0.key_file: "));
	assert_non_null(strstr(error.text, ":2: not ID:HEX64"));
	assert_false(is_nothing_left(&bench));   /* the line before it was read */
	encryption_discard(bench.rig.daemon);
	assert_true(is_nothing_left(&bench));
	assert_ptr_equal(tenant(&bench)->keyring, before);
	rig_drop_cpu(bench.client, 0, 1, BLOCKS);
	assert_int_equal(bench_load(&bench, 1, BLOCKS), BLOCKS);
	bench_finish(&bench);
}

/* Before anybody reads them. */
static void blocks_of_a_key_that_was_taken_out_are_misses_that_say_why(void **unused)
{
	struct bench bench;

	(void)unused;
	bench_init(&bench, "key_file");
	rig_drop_cpu(bench.client, 0, 1, BLOCKS - 1);
	assert_int_equal(read_again(&bench, SECOND_KEY), 1);
	rig_settle(&bench.rig);
	assert_string_equal(state(&bench), "in force");
	assert_int_equal(rig_figures(&bench.rig, 0, TIER_NVME).copies_whole, 0);
	assert_int_equal(key_missing(&bench), BLOCKS);
	assert_int_equal(rig_explain(bench.client, 0, 1).reason, FRAME_REASON_KEY_MISSING);
	/* What lies in memory, too, is served from there. */
	assert_int_equal(bench_load(&bench, 1, BLOCKS), 1);
	assert_int_equal(bench.rig.daemon->counters.damaged[TIER_NVME], 0);
	/* And nothing stands in the way of storing them again. */
	assert_int_equal(rig_store(bench.client, &bench_blocks), BLOCKS);
	rig_settle(&bench.rig);
	rig_drop_cpu(bench.client, 0, 1, BLOCKS);
	assert_int_equal(bench_load(&bench, 1, BLOCKS - 1), BLOCKS - 1);
	bench_finish(&bench);
}

/* Found again after a restart, by the catalogue or by their headers, and then taken out. */
static void what_a_restart_found_goes_with_its_key(void **unused)
{
	(void)unused;
	for (unsigned lost = 0; lost < 2; lost++) {
		struct bench bench;

		bench_init(&bench, "key_file");
		bench_again(&bench, false, lost);
		assert_int_equal(rig_figures(&bench.rig, 0, TIER_NVME).copies_whole, BLOCKS);
		assert_int_equal(read_again(&bench, SECOND_KEY), 1);
		rig_settle(&bench.rig);
		assert_int_equal(rig_figures(&bench.rig, 0, TIER_NVME).copies_whole, 0);
		assert_int_equal(key_missing(&bench), BLOCKS);
		bench_finish(&bench);
	}
}

/* Everything but the mills. */
static void step_without_mills(struct bench *bench)
{
	for (unsigned i = 0; i < 10; i++) {
		(void)server_step(bench->rig.daemon, 0);
		(void)daemon_step(bench->rig.daemon);
	}
}

static void what_mills_have_ends_as_it_began_and_then_the_old_key_is_wiped(void **unused)
{
	struct bench bench;
	struct rig_batch *store;

	(void)unused;
	bench_init(&bench, "key_file");
	store = rig_store_begin(bench.client, &more);
	for (unsigned i = 0; !store->is_replied && i < 100; i++)
		(void)rig_step(&bench.rig);
	rig_store_commit(bench.client, store);
	for (unsigned i = 0; bench.rig.daemon->encryption->enciphering == 0; i++) {
		assert_true(i < 100);
		step_without_mills(&bench);
		if (bench.rig.daemon->encryption->enciphering == 0)
			(void)rig_step(&bench.rig);
	}
	assert_int_equal(read_again(&bench, SECOND_KEY), 1);
	step_without_mills(&bench);
	/* A mill that does nothing holds them, for ever if need be, and no other file is read. */
	assert_string_equal(state(&bench), "leaving");
	assert_true(encryption_is_leaving(bench.rig.daemon));
	assert_false(is_nothing_left(&bench));
	rig_settle(&bench.rig);
	rig_batch_give(store);
	assert_string_equal(state(&bench), "in force");
	assert_true(is_nothing_left(&bench));
	/* What was written by the old key is not there, what came after it is. */
	rig_drop_cpu(bench.client, 0, 1, BLOCKS);
	for (uint64_t key = 101; key < 101 + BLOCKS; key++)
		if (rig_slot(bench.client, TIER_NVME, 0, key) != SLOT_NONE)
			assert_int_equal(key_on_disk(&bench, key),
					 keyring_newest(tenant(&bench)->keyring)->id);
	assert_true(key_missing(&bench) > BLOCKS);
	assert_int_equal(bench_load(&bench, 101, BLOCKS), BLOCKS);
	bench_finish(&bench);
}

/* ---- with threads ---- */

struct milling {
	struct mill *mill;
	pthread_t thread;
	uint64_t now_us;
	_Atomic bool is_over;
};

static void *mill_run(void *of)
{
	struct milling *milling = of;

	while (!milling->is_over)
		if (mill_step(milling->mill, milling->now_us, 1) == 0)
			mill_wait(milling->mill, RIG_SECOND);
	return NULL;
}

/* For the thread sanitizer: threads encipher and decipher while keys change under them. */
static void keys_change_under_threads_that_use_them(void **unused)
{
	static const char *const files[] = { SECOND_KEY RIG_KEY, RIG_KEY SECOND_KEY, SECOND_KEY,
					     RIG_KEY };
	struct milling millings[MILLS];
	struct bench bench;
	unsigned served = 0;

	(void)unused;
	rig_init(&bench.rig,
		 &(struct rig_config){ .cpu_units = 4, .mills = MILLS, .encryption = "key_file" });
	bench.client = rig_register(&bench.rig, NULL);
	bench.rig.is_milled_elsewhere = true;
	for (unsigned i = 0; i < MILLS; i++) {
		/* The clock stands still meanwhile. */
		millings[i] = (struct milling){ .mill = &bench.rig.daemon->mills.mills[i],
						.now_us = clock_now_us(&bench.rig.clock) };
		assert_int_equal(pthread_create(&millings[i].thread, NULL, mill_run, &millings[i]),
				 0);
	}
	for (unsigned i = 0; i < ROTATIONS; i++) {
		struct rig_batch *load;

		assert_int_equal(rig_store(bench.client, &bench_blocks), BLOCKS);
		if (i % 2 == 0)
			rig_settle(&bench.rig);
		rig_drop_cpu(bench.client, 0, 1, BLOCKS);
		load = rig_load_begin(bench.client, &bench_blocks);
		for (unsigned step = 0; step < i % 7; step++)
			(void)rig_step(&bench.rig);
		(void)read_again(&bench, files[i % 4]);
		rig_settle(&bench.rig);
		for (unsigned block = 0; block < BLOCKS; block++)
			served += load->results[block] == 0;
		rig_batch_give(load);
		assert_true(is_nothing_left(&bench));
	}
	assert_true(served > BLOCKS);
	bench.rig.is_milled_elsewhere = false;
	for (unsigned i = 0; i < MILLS; i++) {
		millings[i].is_over = true;
		mailbox_poke(&millings[i].mill->down);
		assert_int_equal(pthread_join(millings[i].thread, NULL), 0);
	}
	bench_finish(&bench);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_new_key_writes_at_once_and_the_old_ones_blocks_are_read),
		cmocka_unit_test(a_file_that_says_the_same_changes_nothing),
		cmocka_unit_test(a_wrong_file_leaves_what_was_in_force),
		cmocka_unit_test(blocks_of_a_key_that_was_taken_out_are_misses_that_say_why),
		cmocka_unit_test(what_a_restart_found_goes_with_its_key),
		cmocka_unit_test(what_mills_have_ends_as_it_began_and_then_the_old_key_is_wiped),
		cmocka_unit_test(keys_change_under_threads_that_use_them),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
