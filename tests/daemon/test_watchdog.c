/* tests/daemon/test_watchdog.c: the watchdog of a service manager that the test plays is fed while
 * the data path works, and no longer. */
#include "daemon/watchdog.h"
#include "tests/daemon/rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#define EVERY_US (10 * RIG_SECOND)
#define MILL_OPS 16u
#define TENTH_US (RIG_SECOND / 10)

static struct rig rig;
static struct watchdog watchdog;
static int manager_fd;

static int rig_up(void **unused)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	(void)unused;
	rig_init(&rig, NULL);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/notify", rig.folder);
	manager_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(manager_fd, (struct sockaddr *)&address, sizeof(address)), 0);
	setenv("NOTIFY_SOCKET", address.sun_path, 1);
	setenv("WATCHDOG_USEC", "20000000", 1);
	watchdog_init(&watchdog);
	assert_int_equal(watchdog.every_us, EVERY_US);
	return 0;
}

static int rig_down(void **unused)
{
	(void)unused;
	close(manager_fd);
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
	rig_finish(&rig);
	return 0;
}

/* How often it was fed in this time; with `is_stuck`, the mill takes nothing. */
static unsigned fed_in(uint64_t by_us, bool is_stuck)
{
	uint64_t until_us = clock_now_us(&rig.clock) + by_us;
	char words[32];
	unsigned fed = 0;
	ssize_t bytes;

	for (; clock_now_us(&rig.clock) < until_us; clock_advance(&rig.clock, TENTH_US)) {
		uint64_t now_us = clock_now_us(&rig.clock);

		for (unsigned i = 0; i < 4; i++) {
			daemon_step(rig.daemon);
			if (!is_stuck)
				(void)mill_step(&rig.daemon->mills.mills[0], now_us, MILL_OPS);
			(void)nvme_device_step(rig.daemon->devices[0].device, now_us);
		}
		watchdog_step(&watchdog, rig.daemon);
		while ((bytes = recv(manager_fd, words, sizeof(words), 0)) > 0) {
			assert_int_equal(bytes, strlen("WATCHDOG=1"));
			assert_memory_equal(words, "WATCHDOG=1", bytes);
			fed++;
		}
	}
	return fed;
}

static void a_daemon_that_works_is_fed_in_time(void **unused)
{
	(void)unused;
	assert_in_range(fed_in(10 * EVERY_US, false), 10, 11);
}

static void a_mill_that_is_stuck_is_not_covered_up(void **unused)
{
	(void)unused;
	(void)fed_in(2 * EVERY_US, false);
	/* Two of them at most come before the mill counts as silent. */
	assert_in_range(fed_in(2 * EVERY_US, true), 0, 2);
	assert_int_equal(fed_in(10 * EVERY_US, true), 0);
	/* Back, it is fed at once. */
	assert_in_range(fed_in(RIG_SECOND, false), 1, 1);
	assert_in_range(fed_in(10 * EVERY_US, false), 9, 11);
}

static void a_daemon_that_ends_is_fed_to_its_end(void **unused)
{
	(void)unused;
	(void)fed_in(EVERY_US, false);
	daemon_stop(rig.daemon);
	assert_true(fed_in(2 * EVERY_US, false) >= 1);
}

static void without_a_watchdog_nothing_is_said_or_asked(void **unused)
{
	(void)unused;
	unsetenv("WATCHDOG_USEC");
	watchdog_init(&watchdog);
	assert_int_equal(fed_in(10 * EVERY_US, false), 0);
	assert_int_equal(mills_in_flight(&rig.daemon->mills), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, rig_up, rig_down)
	const struct CMUnitTest tests[] = {
		TEST(a_daemon_that_works_is_fed_in_time),
		TEST(a_mill_that_is_stuck_is_not_covered_up),
		TEST(a_daemon_that_ends_is_fed_to_its_end),
		TEST(without_a_watchdog_nothing_is_said_or_asked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
