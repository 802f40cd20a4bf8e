/* tests/daemon/test_notify.c: datagrams to a service manager that the test plays. */
#include "daemon/notify.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

static int manager_open(const char *name, bool is_abstract)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name) +
				      (is_abstract ? 0 : 1));

	memcpy(address.sun_path, name, strlen(name));
	if (is_abstract)
		address.sun_path[0] = '\0';
	assert_int_equal(bind(fd, (struct sockaddr *)&address, bytes), 0);
	setenv("NOTIFY_SOCKET", name, 1);
	return fd;
}

static void lines_reach_the_manager(void **unused)
{
	char names[2][108], reply[100];
	const char *folder = getenv("TMPDIR");
	struct error error;

	(void)unused;
	snprintf(names[0], sizeof(names[0]), "%s/notify.%d", folder == NULL ? "/tmp" : folder,
		 getpid());
	snprintf(names[1], sizeof(names[1]), "@kvtier-test-notify.%d", getpid());
	for (int i = 0; i < 2; i++) {
		int fd = manager_open(names[i], i == 1);

		assert_int_equal(notify_send("READY=1\nSTATUS=serving", &error), 0);
		assert_int_equal(recv(fd, reply, sizeof(reply), 0), 22);
		assert_memory_equal(reply, "READY=1\nSTATUS=serving", 22);
		close(fd);
	}
	assert_int_equal(notify_send("READY=1", &error), -ECONNREFUSED);
	unlink(names[0]);
}

static void without_a_manager_nothing_is_said(void **unused)
{
	struct error error;

	(void)unused;
	unsetenv("NOTIFY_SOCKET");
	assert_int_equal(notify_send("READY=1", &error), 0);
	setenv("NOTIFY_SOCKET", "relative", 1);
	assert_int_equal(notify_send("READY=1", &error), -EINVAL);
	setenv("NOTIFY_SOCKET", "/nowhere/at/all", 1);
	assert_int_equal(notify_send("READY=1", &error), -ENOENT);
}

static void the_watchdog_is_fed_twice_as_often(void **unused)
{
	char pid[32];

	(void)unused;
	unsetenv("WATCHDOG_USEC");
	assert_int_equal(notify_watchdog_us(), 0);
	setenv("WATCHDOG_USEC", "30000000", 1);
	assert_int_equal(notify_watchdog_us(), 15000000);
	setenv("WATCHDOG_PID", "1", 1);
	assert_int_equal(notify_watchdog_us(), 0);
	snprintf(pid, sizeof(pid), "%d", getpid());
	setenv("WATCHDOG_PID", pid, 1);
	assert_int_equal(notify_watchdog_us(), 15000000);
	setenv("WATCHDOG_USEC", "30s", 1);
	assert_int_equal(notify_watchdog_us(), 0);
	setenv("WATCHDOG_USEC", "99999999999999999999999", 1);
	assert_int_equal(notify_watchdog_us(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lines_reach_the_manager),
		cmocka_unit_test(without_a_manager_nothing_is_said),
		cmocka_unit_test(the_watchdog_is_fed_twice_as_often),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
