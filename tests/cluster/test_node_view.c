/* tests/cluster/test_node_view.c: what a reader knows of a node is what the node has, whatever the
 * wire between them does, and whoever begins anew. */
#include "tests/cluster/node_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static void a_node_is_counted_and_then_followed(void **unused)
{
	uint64_t value;

	(void)unused;
	scene_open(1, 0);
	for (unsigned i = 0; i < 500; i++)
		change_some(true);
	for (unsigned n = 0; n < 40; n++)
		pass(0);
	assert_int_equal(figures().state, NODE_FOLLOWING);
	assert_int_equal(differences(), 0);
	for (unsigned n = 0; n < 300; n++) {
		pass(10);
		assert_int_equal(differences(), 0);
	}
	assert_int_equal(figures().snapshots, 1);
	assert_int_equal(figures().gaps, 0);
	assert_int_equal(figures().differences, 0);
	assert_true(node_view_figure(scene.view, INVENTORY_CPU, INVENTORY_USED_BYTES, &value));
	assert_int_equal(value, 77);
	assert_false(node_view_figure(scene.view, INVENTORY_NVME, INVENTORY_USED_BYTES, &value));
	scene_close();
}

static void what_changes_while_it_is_counted_is_right(void **unused)
{
	(void)unused;
	for (uint64_t seed = 1; seed <= 50; seed++) {
		scene_open(seed, 0);
		for (unsigned i = 0; i < 400; i++)
			change_some(true);
		for (unsigned n = 0; n < 60; n++)
			pass(7);
		assert_int_equal(figures().state, NODE_FOLLOWING);
		assert_int_equal(differences(), 0);
		assert_int_equal(figures().snapshots, 1);
		scene_close();
	}
}

static void a_missing_message_is_asked_for_again(void **unused)
{
	(void)unused;
	scene_open(3, 0);
	for (unsigned n = 0; n < 100; n++)
		pass(3);
	scene.bad_percent = 30;
	scene.answers_are_good = true;
	for (unsigned n = 0; n < 200; n++)
		pass(3);
	settle();
	assert_true(figures().gaps > 0 && figures().replays > 0);
	assert_int_equal(figures().snapshots, 1);
	scene_close();
}

static void one_that_is_not_kept_any_more_costs_a_snapshot(void **unused)
{
	(void)unused;
	scene_open(4, 0);
	for (unsigned n = 0; n < 50; n++)
		pass(3);
	assert_int_equal(figures().snapshots, 1);
	scene.bad_percent = 100;
	for (unsigned n = 0; n < INVENTORY_KEPT_MAX + 10; n++) {
		change_some(true);
		inventory_server_flush(scene.server);
		wire_clear();
	}
	settle();
	assert_int_equal(figures().snapshots, 2);
	scene_close();
}

/* As if the daemon or a reader had a bug: nothing was missed, and still it differs. */
static void sums_that_differ_are_mended(void **unused)
{
	uint64_t snapshots;

	(void)unused;
	scene_open(5, 0);
	for (unsigned n = 0; n < 100; n++)
		pass(3);
	for (unsigned i = 0; i < 20; i++)
		change_some(false);
	assert_true(differences() > 0);
	settle();
	assert_true(figures().differences > 0);
	snapshots = figures().snapshots;
	assert_int_equal(snapshots, 2);
	/* Sums that can never be right, as of two blocks of one key, cost ever less. */
	scene.digests[0]++;
	for (unsigned n = 0; n < 60 * 1000 * MS / PASS_US; n++)
		pass(0);
	assert_true(figures().snapshots - snapshots >= 3 && figures().snapshots - snapshots <= 8);
	scene_close();
}

static void another_life_is_another_picture(void **unused)
{
	(void)unused;
	scene_open(6, 0);
	for (unsigned n = 0; n < 100; n++)
		pass(3);
	/* Half of it is gone. */
	for (unsigned i = 0; i < PLACES; i += 2)
		change(&scene.places[i], 0, false);
	scene.boot++;
	scene.epoch = 0;
	server_begin();
	settle();
	assert_int_equal(figures().boot, scene.boot);
	/* What was lost on the way to the process: another epoch. */
	for (unsigned i = 0; i < 100; i++)
		change_some(false);
	epoch_begin();
	settle();
	assert_int_equal(figures().epoch, 2);
	/* A process that began anew. */
	server_begin();
	settle();
	assert_int_equal(figures().epoch, 3);
	scene_close();
}

/* What is true becomes known within QUIET_US, whatever happened before. */
static void the_view_becomes_true(void **unused)
{
	unsigned seeds = 300;

	(void)unused;
	for (uint64_t seed = 1; seed <= seeds; seed++) {
		scene_open(seed * 7919, (unsigned)(seed % 5) * 10);
		for (unsigned n = 0; n < 400; n++) {
			unsigned bad_percent = scene.bad_percent;

			switch (draw(120)) {
			case 0:
				for (unsigned i = 0; i < 30; i++)
					change_some(false);
				epoch_begin();
				break;
			case 1:
				scene.boot = random_next(&scene.random);
				scene.epoch = 0;
				server_begin();
				break;
			case 2:
				view_begin();
				break;
			case 3:
				scene.bad_percent = 100;
				for (unsigned i = 0; i < 5; i++)
					pass(3);
				scene.bad_percent = bad_percent;
				break;
			default:
				break;
			}
			pass((unsigned)draw(5));
		}
		settle();
		scene_close();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_node_is_counted_and_then_followed),
		cmocka_unit_test(what_changes_while_it_is_counted_is_right),
		cmocka_unit_test(a_missing_message_is_asked_for_again),
		cmocka_unit_test(one_that_is_not_kept_any_more_costs_a_snapshot),
		cmocka_unit_test(sums_that_differ_are_mended),
		cmocka_unit_test(another_life_is_another_picture),
		cmocka_unit_test(the_view_becomes_true),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
