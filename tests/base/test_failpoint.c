/* tests/base/test_failpoint.c: named places where the process dies or an operation fails. */
#include "base/failpoint.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define VARIABLE "KVTIER_FAILPOINT"

static void nothing_is_armed_without_the_environment(void **unused)
{
	(void)unused;
	unsetenv(VARIABLE);
	assert_int_equal(failpoint_arm_from_environment(NULL), 0);
	setenv(VARIABLE, "", 1);
	assert_int_equal(failpoint_arm_from_environment(NULL), 0);
	unsetenv(VARIABLE);
	if (failpoint(store_ready))
		fail();
}

#if KVTIER_FAILPOINTS
static int arm(const char *text, struct error *error)
{
	int result;

	setenv(VARIABLE, text, 1);
	result = failpoint_arm_from_environment(error);
	unsetenv(VARIABLE);
	return result;
}

static void an_armed_place_fails_once_at_its_nth_pass(void **unused)
{
	(void)unused;
	assert_int_equal(arm("store_ready:3=error", NULL), 0);
	assert_false(failpoint(store_ready));
	assert_false(failpoint(evict_cpu));
	assert_false(failpoint(store_ready));
	assert_false(failpoint_was_hit());
	assert_true(failpoint(store_ready));
	assert_true(failpoint_was_hit());
	assert_false(failpoint(store_ready));
	failpoint_disarm();
	assert_true(failpoint_was_hit());
	assert_int_equal(failpoint_arm("evict_cpu=error", NULL), 0);
	assert_false(failpoint_was_hit());
	assert_false(failpoint(store_ready));
	assert_true(failpoint(evict_cpu));
	failpoint_disarm();
}

static void a_disarmed_place_counts_nothing(void **unused)
{
	(void)unused;
	assert_int_equal(arm("up_read=error", NULL), 0);
	failpoint_disarm();
	assert_false(failpoint(up_read));
	assert_false(failpoint_was_hit());
}

/* The status of a child that passes `up_read` twice after arming `text`. */
static int status_of_child(const char *text, int options)
{
	int status;
	pid_t child = fork();

	assert_true(child >= 0);
	if (child == 0) {
		bool failed;

		if (arm(text, NULL) < 0)
			_exit(90);
		failed = failpoint(up_read);
		failed |= failpoint(up_read);
		_exit(failed ? 91 : 92);
	}
	assert_int_equal(waitpid(child, &status, options), child);
	if (WIFSTOPPED(status)) {
		int end;

		kill(child, SIGCONT);
		assert_int_equal(waitpid(child, &end, 0), child);
		assert_int_equal(WEXITSTATUS(end), 92);   /* it went on as if nothing had been */
	}
	return status;
}

static void kill_ends_the_process_at_the_place(void **unused)
{
	int status = status_of_child("up_read:2=kill", 0);

	(void)unused;
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGKILL);
	status = status_of_child("up_read:3=kill", 0);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 92);
}

static void of_processes_with_one_environment_the_first_dies(void **unused)
{
	char path[] = "/tmp/kvtier-failpoint-XXXXXX";
	int fd = mkstemp(path);

	(void)unused;
	assert_true(fd >= 0);
	close(fd);
	unlink(path);
	setenv("KVTIER_FAILPOINT_ONCE", path, 1);
	assert_true(WIFSIGNALED(status_of_child("up_read=kill", 0)));
	assert_int_equal(WEXITSTATUS(status_of_child("up_read=kill", 0)), 92);
	assert_int_equal(unlink(path), 0);
	assert_true(WIFSIGNALED(status_of_child("up_read=kill", 0)));
	unlink(path);
	unsetenv("KVTIER_FAILPOINT_ONCE");
}

static void stop_stops_the_process_until_it_is_continued(void **unused)
{
	int status = status_of_child("up_read=stop", WUNTRACED);

	(void)unused;
	assert_true(WIFSTOPPED(status));
	assert_int_equal(WSTOPSIG(status), SIGSTOP);
}

static void a_mistyped_name_says_the_nearest(void **unused)
{
	struct error error;

	(void)unused;
	assert_int_equal(arm("stor_redy=kill", &error), -EINVAL);
	assert_non_null(strstr(error.text, "store_ready"));
	assert_int_equal(arm("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx=kill", &error), -EINVAL);
	assert_non_null(strstr(error.text, "--list-failpoints"));
}

static void what_does_not_read_right_is_refused_with_its_reason(void **unused)
{
	static const struct { const char *text, *reason; } refused[] = {
		{ "store_ready", "name[:nth]=" },
		{ "=kill", "name[:nth]=" },
		{ "store_ready=explode", "kill, error, stop" },
		{ "store_ready=", "kill, error, stop" },
		{ "store_ready:0=kill", "from 1" },
		{ "store_ready:-1=kill", "from 1" },
		{ "store_ready: 1=kill", "from 1" },
		{ "store_ready:=kill", "from 1" },
		{ "store_ready:1x=kill", "from 1" },
		{ "store_ready:99999999999999999999=kill", "from 1" },
	};
	char *longer;

	(void)unused;
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		struct error error;

		assert_int_equal(arm(refused[i].text, &error), -EINVAL);
		assert_non_null(strstr(error.text, refused[i].reason));
	}
	longer = malloc(10000);
	assert_non_null(longer);
	memset(longer, 'a', 9999);
	longer[9999] = '\0';
	longer[9000] = '=';
	assert_int_equal(arm(longer, NULL), -EINVAL);
	free(longer);
	assert_false(failpoint(store_ready));
}

static void the_list_has_a_line_for_each(void **unused)
{
	char *text = NULL;
	size_t bytes = 0;
	unsigned lines = 0;
	FILE *file = open_memstream(&text, &bytes);

	(void)unused;
	assert_non_null(file);
	failpoint_list(file);
	fclose(file);
	for (size_t i = 0; i < bytes; i++)
		lines += text[i] == '\n';
	assert_int_equal(lines, FAILPOINTS);
	assert_non_null(strstr(text, "journal_synced "));
	free(text);
}
#else
static void a_failpoint_that_cannot_act_is_an_error(void **unused)
{
	struct error error;

	(void)unused;
	setenv(VARIABLE, "store_ready=kill", 1);
	assert_int_equal(failpoint_arm_from_environment(&error), -ENOTSUP);
	assert_non_null(strstr(error.text, "FAILPOINTS=1"));
	unsetenv(VARIABLE);
}

static void the_list_is_empty(void **unused)
{
	char *text = NULL;
	size_t bytes = 1;
	FILE *file = open_memstream(&text, &bytes);

	(void)unused;
	assert_non_null(file);
	failpoint_list(file);
	fclose(file);
	assert_int_equal(bytes, 0);
	free(text);
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_armed_without_the_environment),
#if KVTIER_FAILPOINTS
		cmocka_unit_test(an_armed_place_fails_once_at_its_nth_pass),
		cmocka_unit_test(a_disarmed_place_counts_nothing),
		cmocka_unit_test(kill_ends_the_process_at_the_place),
		cmocka_unit_test(of_processes_with_one_environment_the_first_dies),
		cmocka_unit_test(stop_stops_the_process_until_it_is_continued),
		cmocka_unit_test(a_mistyped_name_says_the_nearest),
		cmocka_unit_test(what_does_not_read_right_is_refused_with_its_reason),
		cmocka_unit_test(the_list_has_a_line_for_each),
#else
		cmocka_unit_test(a_failpoint_that_cannot_act_is_an_error),
		cmocka_unit_test(the_list_is_empty),
#endif
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
