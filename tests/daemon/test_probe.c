/* tests/daemon/test_probe.c: canaries in a daemon whose parts are stepped, or not, by the test. */
#include "daemon/admin.h"
#include "daemon/probe.h"
#include "tests/daemon/rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define MILL_OPS 16u

static struct rig rig;

static int rig_up(void **unused)
{
	(void)unused;
	rig_init(&rig, &(struct rig_config){ .mills = 2 });
	return 0;
}

static int rig_down(void **unused)
{
	(void)unused;
	rig_finish(&rig);
	return 0;
}

static struct probe_figures part_named(const char *name)
{
	struct probe_figures figures = { 0 };

	for (unsigned i = 0; i < probe_parts_count(rig.daemon); i++) {
		probe_part(rig.daemon, i, &figures);
		if (strncmp(figures.name, name, strlen(name)) == 0)
			return figures;
	}
	fail_msg("there is no part %s", name);
	return figures;
}

/* Lets time pass in which `is_mill_1_dead` does nothing. */
static void pass(uint64_t by_us, bool is_mill_1_dead)
{
	for (uint64_t until_us = clock_now_us(&rig.clock) + by_us;
	     clock_now_us(&rig.clock) < until_us; clock_advance(&rig.clock, 100000)) {
		uint64_t now_us = clock_now_us(&rig.clock);

		if (!is_mill_1_dead) {
			rig_settle(&rig);
			continue;
		}
		daemon_step(rig.daemon);
		(void)mill_step(&rig.daemon->mills.mills[0], now_us, MILL_OPS);
		(void)nvme_device_step(rig.daemon->devices[0].device, now_us);
		daemon_step(rig.daemon);
	}
}

static void assert_all_good(void)
{
	assert_int_equal(part_named("mill 0").state, PROBE_GOOD);
	assert_int_equal(part_named("mill 1").state, PROBE_GOOD);
	assert_int_equal(part_named("nvme").state, PROBE_GOOD);
	assert_int_equal(part_named("catalogue").state, PROBE_GOOD);
	assert_null(probe_unready_reason(rig.daemon));
}

static void canaries_go_through_every_part_each_second_while_somebody_asks(void **unused)
{
	uint64_t submitted = rig.daemon->nvme->ops_submitted;

	(void)unused;
	probe_ask(rig.daemon);
	pass(5 * RIG_SECOND, false);
	assert_in_range(rig.daemon->nvme->ops_submitted - submitted, 4, 5);
	assert_all_good();
	assert_in_range(part_named("nvme").good, 5, 6);
	assert_in_range(part_named("nvme").age_us, 1, PROBE_EVERY_US);
}

static void a_daemon_that_nobody_asks_sends_them_seldom_and_knows_all_the_same(void **unused)
{
	uint64_t submitted;

	(void)unused;
	pass(RIG_SECOND, false);
	assert_all_good();
	pass(2 * PROBE_ASKED_US, false);
	submitted = rig.daemon->nvme->ops_submitted;
	pass(10 * PROBE_IDLE_US, false);
	assert_int_equal(rig.daemon->nvme->ops_submitted, submitted + 10);
	assert_in_range(part_named("mill 1").age_us, 1, PROBE_IDLE_US);
	assert_all_good();
}

static void a_mill_that_hangs_in_an_idle_daemon_makes_it_unready_though_nobody_asked(void **unused)
{
	(void)unused;
	pass(RIG_SECOND, false);
	assert_null(daemon_unready_reason(rig.daemon));
	pass(PROBE_IDLE_US + rig.daemon->settings.stall_us_max + RIG_SECOND, true);
	assert_string_equal(daemon_unready_reason(rig.daemon), "mill 1 does not answer");
}

static void a_mill_that_does_nothing_is_named_within_the_bound_and_may_come_back(void **unused)
{
	uint64_t stall_us = rig.daemon->settings.stall_us_max;

	(void)unused;
	probe_ask(rig.daemon);
	pass(stall_us - RIG_SECOND, true);
	assert_null(daemon_unready_reason(rig.daemon));
	pass(3 * RIG_SECOND, true);
	assert_string_equal(daemon_unready_reason(rig.daemon), "mill 1 does not answer");
	assert_int_equal(part_named("mill 0").state, PROBE_GOOD);
	assert_true(part_named("mill 1").waited_us > stall_us);
	pass(RIG_SECOND, false);
	assert_null(daemon_unready_reason(rig.daemon));
	assert_int_equal(part_named("mill 1").state, PROBE_GOOD);
}

static void a_device_that_keeps_a_canary_is_late_until_it_is_fenced(void **unused)
{
	uint64_t stall_us = rig.daemon->settings.stall_us_max;

	(void)unused;
	block_io_fault_hold(&rig.fault);
	probe_ask(rig.daemon);
	pass(stall_us + 2 * RIG_SECOND, false);
	assert_non_null(strstr(daemon_unready_reason(rig.daemon), "nvme "));
	assert_int_equal(part_named("nvme").state, PROBE_LATE);
	pass(NVME_STALL_US_MAX, false);
	assert_true(rig.daemon->devices[0].is_fenced);
	assert_int_equal(part_named("nvme").state, PROBE_UNUSED);
	assert_null(daemon_unready_reason(rig.daemon)); /* cpu serves */
}

static void a_disk_that_fails_every_canary_is_fenced_though_no_engine_uses_it(void **unused)
{
	(void)unused;
	block_io_fault_arm(&rig.fault, BLOCK_FAULT_ERROR, BLOCK_FAULT_QUEUE, 1, 100);
	probe_ask(rig.daemon);
	pass(2 * RIG_SECOND, false);
	assert_int_equal(part_named("nvme").state, PROBE_FAILED);
	assert_null(daemon_unready_reason(rig.daemon)); /* one failed read is a miss */
	pass(NVME_ERRORS_RUN_MAX * RIG_SECOND, false);
	assert_true(rig.daemon->devices[0].is_fenced);
	assert_null(daemon_unready_reason(rig.daemon));
}

int main(void)
{
#define ROW(test) cmocka_unit_test_setup_teardown(test, rig_up, rig_down)
	const struct CMUnitTest tests[] = {
		ROW(canaries_go_through_every_part_each_second_while_somebody_asks),
		ROW(a_daemon_that_nobody_asks_sends_them_seldom_and_knows_all_the_same),
		ROW(a_mill_that_hangs_in_an_idle_daemon_makes_it_unready_though_nobody_asked),
		ROW(a_mill_that_does_nothing_is_named_within_the_bound_and_may_come_back),
		ROW(a_device_that_keeps_a_canary_is_late_until_it_is_fenced),
		ROW(a_disk_that_fails_every_canary_is_fenced_though_no_engine_uses_it),
	};
#undef ROW

	return cmocka_run_group_tests(tests, NULL, NULL);
}
