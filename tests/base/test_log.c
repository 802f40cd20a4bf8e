/* tests/base/test_log.c: lines come out whole and in order, and nobody waits for a slow reader. */
#include "base/log.h"
#include "base/log_limit.h"

#include <assert.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define CAPTURE_BYTES_MAX (8u << 20)
#define THREADS_COUNT 4
#define LINES_OF_A_THREAD 200

/* The thread sanitizer ends a child that starts a thread after a fork with threads. */
#if defined(__SANITIZE_THREAD__)
#define CHILD_MAY_START_THREADS 0
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CHILD_MAY_START_THREADS 0
#endif
#endif
#ifndef CHILD_MAY_START_THREADS
#define CHILD_MAY_START_THREADS 1
#endif

/* stderr goes into a file while this is open. */
struct capture {
	int stderr_before;
	FILE *file;
	char *text;
};

static void capture_open(struct capture *capture)
{
	capture->text = NULL;
	capture->file = tmpfile();
	assert_non_null(capture->file);
	capture->stderr_before = dup(STDERR_FILENO);
	assert_int_equal(dup2(fileno(capture->file), STDERR_FILENO), STDERR_FILENO);
}

/* What was written to stderr; borrowed until capture_close(). */
static const char *capture_end(struct capture *capture)
{
	size_t bytes;

	dup2(capture->stderr_before, STDERR_FILENO);
	close(capture->stderr_before);
	rewind(capture->file);
	capture->text = malloc(CAPTURE_BYTES_MAX);
	assert_non_null(capture->text);
	bytes = fread(capture->text, 1, CAPTURE_BYTES_MAX - 1, capture->file);
	capture->text[bytes] = '\0';
	return capture->text;
}

static void capture_close(struct capture *capture)
{
	fclose(capture->file);
	free(capture->text);
}

static unsigned lines_in(const char *text)
{
	unsigned lines = 0;

	for (; *text != '\0'; text++)
		lines += *text == '\n';
	return lines;
}

static void a_line_has_time_level_event_and_values(void **unused)
{
	struct capture capture;
	const char *text;
	int year, end = 0;

	(void)unused;
	capture_open(&capture);
	log_line(LOG_WARNING, "nvme_fenced", "device=%s tries=%d", "nvme0", 3);
	log_line(LOG_ERROR, "bare", "%s", "");
	text = capture_end(&capture);
	assert_int_equal(sscanf(text, "ts=%4d-%*2d-%*2dT%*2d:%*2d:%*2d.%*3dZ level=warning "
				"event=nvme_fenced device=nvme0 tries=3%n", &year, &end), 1);
	assert_true(end > 0 && text[end] == '\n');
	assert_true(year >= 2024);
	assert_non_null(strstr(text, " level=error event=bare\n"));
	capture_close(&capture);
}

static void a_level_below_the_set_one_is_silent(void **unused)
{
	struct capture capture;
	uint64_t before = log_lines_count(LOG_DEBUG);
	const char *text;

	(void)unused;
	capture_open(&capture);
	assert_int_equal(log_level_get(), LOG_INFO);
	log_line(LOG_DEBUG, "hidden", "a=%d", 1);
	log_level_set(LOG_DEBUG);
	log_line(LOG_DEBUG, "shown", "a=%d", 1);
	log_level_set(LOG_ERROR);
	log_line(LOG_WARNING, "hidden", "a=%d", 1);
	log_level_set(LOG_INFO);
	text = capture_end(&capture);
	assert_null(strstr(text, "hidden"));
	assert_non_null(strstr(text, "shown"));
	assert_int_equal(log_lines_count(LOG_DEBUG), before + 1);
	capture_close(&capture);
}

static void level_names_are_read_back(void **unused)
{
	(void)unused;
	for (int level = 0; level < LOG_LEVELS; level++)
		assert_int_equal(log_level_parse(log_level_name((enum log_level)level)), level);
	assert_int_equal(log_level_parse("Warning"), LOG_WARNING);
	assert_int_equal(log_level_parse("loud"), -1);
	assert_int_equal(log_level_parse(""), -1);
}

static void nobody_can_forge_a_line(void **unused)
{
	struct capture capture;
	const char *text;

	(void)unused;
	capture_open(&capture);
	log_line(LOG_INFO, "told", "name=%s", "a\nts=now level=error event=forged\x1b[31m");
	text = capture_end(&capture);
	assert_int_equal(lines_in(text), 1);
	assert_null(strchr(text, 0x1b));
	capture_close(&capture);
}

static void a_long_line_is_cut_and_says_so(void **unused)
{
	struct capture capture;
	static char longer[3 * LOG_LINE_BYTES_MAX];
	const char *text;

	(void)unused;
	memset(longer, 'x', sizeof(longer) - 1);
	capture_open(&capture);
	log_line(LOG_INFO, "long", "value=%s", longer);
	log_open();
	log_line(LOG_INFO, "long", "value=%s", longer);
	log_close();
	text = capture_end(&capture);
	assert_int_equal(lines_in(text), 2);
	assert_int_equal(strlen(text), 2 * LOG_LINE_BYTES_MAX);
	assert_int_equal(strncmp(text + LOG_LINE_BYTES_MAX - 5, "x...\n", 5), 0);
	capture_close(&capture);
}

static void *log_many(void *argument)
{
	int thread = *(int *)argument;

	for (int i = 0; i < LINES_OF_A_THREAD; i++)
		log_line(LOG_INFO, "many", "thread=%d line=%d", thread, i);
	return NULL;
}

static void lines_of_threads_come_out_whole_and_in_each_ones_order(void **unused)
{
	struct capture capture;
	pthread_t threads[THREADS_COUNT];
	int numbers[THREADS_COUNT];
	int next[THREADS_COUNT] = { 0 };
	const char *text;

	(void)unused;
	static_assert(THREADS_COUNT * LINES_OF_A_THREAD < LOG_QUEUE_LINES_MAX, "none is dropped");
	capture_open(&capture);
	log_open();
	log_open();
	for (int i = 0; i < THREADS_COUNT; i++) {
		numbers[i] = i;
		assert_int_equal(pthread_create(&threads[i], NULL, log_many, &numbers[i]), 0);
	}
	for (int i = 0; i < THREADS_COUNT; i++)
		pthread_join(threads[i], NULL);
	log_close();
	log_close();
	text = capture_end(&capture);
	assert_int_equal(lines_in(text), THREADS_COUNT * LINES_OF_A_THREAD);
	while ((text = strstr(text, "event=many ")) != NULL) {
		int thread, line;

		assert_int_equal(sscanf(text, "event=many thread=%d line=%d", &thread, &line), 2);
		assert_in_range(thread, 0, THREADS_COUNT - 1);
		assert_int_equal(line, next[thread]++);
		text++;
	}
	capture_close(&capture);
}

/* The reader's text once the pipe is closed. */
static char *pipe_read_all(int fd)
{
	char *text = malloc(CAPTURE_BYTES_MAX);
	size_t bytes = 0;
	ssize_t got;

	assert_non_null(text);
	while ((got = read(fd, text + bytes, CAPTURE_BYTES_MAX - 1 - bytes)) > 0)
		bytes += (size_t)got;
	text[bytes] = '\0';
	return text;
}

struct reader {
	int fd;
	char *text;
};

static void *reader_run(void *argument)
{
	struct reader *reader = argument;

	reader->text = pipe_read_all(reader->fd);
	return NULL;
}

/* Makes stderr a pipe; returns its reading end. */
static int pipe_open(int *out_stderr_before)
{
	int ends[2];

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	*out_stderr_before = dup(STDERR_FILENO);
	assert_int_equal(dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
	close(ends[1]);
	return ends[0];
}

static void pipe_restore(int stderr_before)
{
	dup2(stderr_before, STDERR_FILENO);
	close(stderr_before);
}

static void a_stuck_reader_costs_lines_that_are_counted_and_announced(void **unused)
{
	const unsigned lines_count = 3 * LOG_QUEUE_LINES_MAX;
	uint64_t dropped = log_dropped_count();
	struct reader reader;
	pthread_t thread;
	int stderr_before;
	unsigned long announced = 0;
	unsigned lines;

	(void)unused;
	reader.fd = pipe_open(&stderr_before);
	log_open();
	for (unsigned i = 0; i < lines_count; i++)
		log_line(LOG_INFO, "flood", "i=%u padding=%0200d", i,
			 0); /* would hang if it waited */
	dropped = log_dropped_count() - dropped;
	assert_true(dropped > 0);
	assert_int_equal(pthread_create(&thread, NULL, reader_run, &reader), 0);
	log_close();
	pipe_restore(stderr_before);
	assert_int_equal(pthread_join(thread, NULL), 0);
	lines = lines_in(reader.text);
	for (char *text = reader.text; (text = strstr(text, "event=log_dropped lines=")) != NULL;
	     text++) {
		announced += strtoul(strchr(text, ' ') + strlen(" lines="), NULL, 10);
		lines--;
	}
	assert_int_equal(announced, dropped);
	assert_int_equal(lines + dropped, lines_count);
	close(reader.fd);
	free(reader.text);
}

static void a_reader_that_never_reads_does_not_keep_close_waiting(void **unused)
{
	uint64_t dropped = log_dropped_count();
	int stderr_before;
	int fd = pipe_open(&stderr_before);

	(void)unused;
	assert_true(fcntl(fd, F_SETPIPE_SZ, 4096) > 0);
	log_open();
	for (unsigned i = 0; i < 100; i++)
		log_line(LOG_INFO, "flood", "i=%u padding=%0200d", i, 0);
	log_close();   /* ends: that is the test */
	pipe_restore(stderr_before);
	assert_true(log_dropped_count() > dropped);
	close(fd);
}

static void a_reader_that_left_does_not_end_the_process(void **unused)
{
	int stderr_before;
	int fd = pipe_open(&stderr_before);

	(void)unused;
	close(fd);
	log_open();
	log_line(LOG_INFO, "into_nothing", "a=%d", 1);
	log_close();
	pipe_restore(stderr_before);
}

static void a_forked_child_logs_by_itself_and_writes_nothing_of_its_parent(void **unused)
{
	int stderr_before;
	int fd = pipe_open(&stderr_before);
	char *text;
	int status;

	(void)unused;
	log_open();
	log_line(LOG_INFO, "of_parent", "a=%d", 1);
	for (int i = 0; i < 20; i++) {
		pid_t child = fork();

		assert_true(child >= 0);
		if (child == 0) {
			log_line(LOG_INFO, "of_child", "a=%d", 1);
			if (CHILD_MAY_START_THREADS)
				log_open();
			log_line(LOG_INFO, "of_child_thread", "a=%d", 1);
			log_close();
			_exit(0);
		}
		log_line(LOG_INFO, "of_parent", "a=%d", 1);
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_int_equal(status, 0);
	}
	log_close();
	pipe_restore(stderr_before);
	text = pipe_read_all(fd);
	assert_int_equal(lines_in(text), 61);
	close(fd);
	free(text);
}

static void a_quoted_value_is_one_word_and_fits(void **unused)
{
	char room[64];

	(void)unused;
	assert_string_equal(log_quote(room, sizeof(room), "plain"), "\"plain\"");
	assert_string_equal(log_quote(room, sizeof(room), ""), "\"\"");
	assert_string_equal(log_quote(room, sizeof(room), "a\"b\\c\nd\te\x7f"),
			    "\"a\\\"b\\\\c\\nd\\x09e\\x7f\"");
	assert_string_equal(log_quote(room, sizeof(room), "\xc3\xa4"), "\"\xc3\xa4\"");
	assert_string_equal(log_quote(room, 6, "abcdef"), "\"abc\"");
	assert_string_equal(log_quote(room, 6, "ab\x01"), "\"ab\"");   /* no half of an escape */
	assert_string_equal(log_quote(room, 3, "abc"), "\"\"");
	assert_string_equal(log_quote(room, 2, "abc"), "");
	assert_string_equal(log_quote(room, 1, "abc"), "");
}

static unsigned times_in(const char *text, const char *words)
{
	unsigned times = 0;

	while ((text = strstr(text, words)) != NULL) {
		text += strlen(words);
		times++;
	}
	return times;
}

static void one_event_cannot_fill_the_log_and_what_is_left_out_is_said(void **unused)
{
	uint64_t suppressed = log_suppressed_count();
	struct capture capture;
	struct clock clock;
	const char *text;

	(void)unused;
	clock_virtual_init(&clock, 1000000);
	capture_open(&capture);
	log_limit_by(&clock);
	for (unsigned i = 0; i < LOG_LIMIT_BURST + 100; i++)
		log_line(LOG_WARNING, "flood", "i=%u", i);
	log_line(LOG_ERROR, "nvme_fenced", "device=%d", 1); /* has lines of its own */
	for (unsigned i = 0; i < LOG_LIMIT_BURST + 100; i++)
		log_line(LOG_DEBUG, "detail", "i=%u", i);
	clock_advance(&clock, 2 * LOG_LIMIT_LINE_US);
	for (unsigned i = 0; i < 10; i++)
		log_line(LOG_WARNING, "flood", "later=%u", i);
	log_open();
	log_close(); /* the last ones are said at the end at the latest */
	log_limit_by(NULL);
	log_line(LOG_WARNING, "flood", "free=%d", 1);
	text = capture_end(&capture);
	assert_int_equal(times_in(text, "event=flood i="), LOG_LIMIT_BURST);
	assert_int_equal(times_in(text, "event=nvme_fenced"), 1);
	assert_int_equal(times_in(text, "event=flood later="), 2);
	assert_non_null(strstr(text, "event=flood later=0 suppressed=100\n"));
	assert_non_null(strstr(text, "event=flood later=1\n"));
	assert_int_equal(times_in(text, "event=log_suppressed of=flood lines=8\n"), 1);
	assert_non_null(strstr(text, "event=flood free=1\n"));
	assert_int_equal(log_suppressed_count() - suppressed, 108);
	capture_close(&capture);
}

static void the_limit_holds_many_events_and_a_full_table_is_no_limit(void **unused)
{
	static char names[LOG_LIMIT_EVENTS_MAX + 1][16];
	static struct log_limit limit;
	uint64_t suppressed;

	(void)unused;
	for (unsigned i = 0; i <= LOG_LIMIT_EVENTS_MAX; i++) {
		snprintf(names[i], sizeof(names[i]), "event-%u", i);
		for (unsigned line = 0; line < LOG_LIMIT_BURST; line++)
			assert_true(log_limit_allows(&limit, names[i], 5, &suppressed));
		assert_int_equal(log_limit_allows(&limit, names[i], 5, &suppressed),
				 i == LOG_LIMIT_EVENTS_MAX);
	}
	assert_int_equal(limit.owed_count, LOG_LIMIT_EVENTS_MAX);
	/* A clock that goes back gives nothing, one that goes far ahead no more than the burst. */
	assert_false(log_limit_allows(&limit, "event-0", 0, &suppressed));
	assert_true(log_limit_allows(&limit, "event-0", UINT64_MAX, &suppressed));
	assert_int_equal(suppressed, 2);
	for (unsigned i = 1; i < LOG_LIMIT_EVENTS_MAX; i++)
		assert_string_equal(log_limit_take_owed(&limit, &suppressed), names[i]);
	assert_null(log_limit_take_owed(&limit, &suppressed));
	assert_int_equal(limit.owed_count, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_line_has_time_level_event_and_values),
		cmocka_unit_test(a_level_below_the_set_one_is_silent),
		cmocka_unit_test(level_names_are_read_back),
		cmocka_unit_test(nobody_can_forge_a_line),
		cmocka_unit_test(a_long_line_is_cut_and_says_so),
		cmocka_unit_test(lines_of_threads_come_out_whole_and_in_each_ones_order),
		cmocka_unit_test(a_stuck_reader_costs_lines_that_are_counted_and_announced),
		cmocka_unit_test(a_reader_that_never_reads_does_not_keep_close_waiting),
		cmocka_unit_test(a_reader_that_left_does_not_end_the_process),
		cmocka_unit_test(a_forked_child_logs_by_itself_and_writes_nothing_of_its_parent),
		cmocka_unit_test(one_event_cannot_fill_the_log_and_what_is_left_out_is_said),
		cmocka_unit_test(the_limit_holds_many_events_and_a_full_table_is_no_limit),
		cmocka_unit_test(a_quoted_value_is_one_word_and_fits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
