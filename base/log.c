/* base/log.c: words log lines, queues them, and writes them from a thread of its own. */
#include "base/log.h"

#include "base/log_limit.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#define US_PER_SECOND 1000000u
#define US_PER_MS 1000u
#define POLL_MS 100   /* how soon a writer that waits for a reader of stderr notices log_close() */
#define CUT_MARK "..."

static_assert((LOG_QUEUE_LINES_MAX & (LOG_QUEUE_LINES_MAX - 1)) == 0, "the queue's indices wrap");
/* poll() promises that a pipe takes PIPE_BUF (4096) bytes at once, so a write after it never
 * blocks. */
static_assert(LOG_LINE_BYTES_MAX <= 4096, "a line is one write");

struct line {
	uint32_t bytes;
	char text[LOG_LINE_BYTES_MAX];
};

static struct {
	pthread_mutex_t lock;       /* over all below but the atomics; never held across a write */
	pthread_cond_t not_empty;
	struct line lines[LOG_QUEUE_LINES_MAX];
	uint32_t first;
	uint32_t count;
	uint64_t dropped;           /* not yet announced */
	uint64_t give_up_us;        /* while closing: when the writer drops the rest */
	struct clock *limit_clock;  /* NULL: no limit */
	struct log_limit limit;
	uint64_t owed_us;           /* when suppressed lines are to be said, while any are owed */
	pthread_t writer;
	uint32_t writers_count;     /* running; more than one when an earlier one was left behind */
	pthread_cond_t writer_ended;
	_Atomic bool is_open;       /* lines go to the queue */
	bool fork_is_watched;
	_Atomic int level;
	_Atomic uint64_t dropped_count;
	_Atomic uint64_t suppressed_count;
	_Atomic uint64_t lines_count[LOG_LEVELS];
} log_state = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.not_empty = PTHREAD_COND_INITIALIZER,
	.writer_ended = PTHREAD_COND_INITIALIZER,
	.level = LOG_INFO,
};

static const char *const level_names[LOG_LEVELS] = {
	[LOG_ERROR] = "error",
	[LOG_WARNING] = "warning",
	[LOG_INFO] = "info",
	[LOG_DEBUG] = "debug",
};

void log_level_set(enum log_level level)
{
	assert((unsigned)level < LOG_LEVELS);
	atomic_store_explicit(&log_state.level, (int)level, memory_order_relaxed);
}

enum log_level log_level_get(void)
{
	return (enum log_level)atomic_load_explicit(&log_state.level, memory_order_relaxed);
}

int log_level_parse(const char *name)
{
	for (int level = 0; level < LOG_LEVELS; level++) {
		if (strcasecmp(name, level_names[level]) == 0)
			return level;
	}
	return -1;
}

const char *log_level_name(enum log_level level)
{
	assert((unsigned)level < LOG_LEVELS);
	return level_names[level];
}

uint64_t log_lines_count(enum log_level level)
{
	assert((unsigned)level < LOG_LEVELS);
	return atomic_load_explicit(&log_state.lines_count[level], memory_order_relaxed);
}

uint64_t log_dropped_count(void)
{
	return atomic_load_explicit(&log_state.dropped_count, memory_order_relaxed);
}

uint64_t log_suppressed_count(void)
{
	return atomic_load_explicit(&log_state.suppressed_count, memory_order_relaxed);
}

void log_limit_by(struct clock *clock)
{
	pthread_mutex_lock(&log_state.lock);
	log_state.limit_clock = clock;
	memset(&log_state.limit, 0, sizeof(log_state.limit));
	pthread_mutex_unlock(&log_state.lock);
}

/* Puts the parts of a line that all lines have; returns its bytes, which leave room for more. */
static size_t line_begin(char *text, enum log_level level, const char *event)
{
	uint64_t now_us = clock_wall_us(clock_real());
	time_t second = (time_t)(now_us / US_PER_SECOND);
	unsigned ms = (unsigned)(now_us % US_PER_SECOND / US_PER_MS);
	struct tm utc;
	int bytes;

	gmtime_r(&second, &utc);
	bytes = snprintf(text, LOG_LINE_BYTES_MAX / 2,
			 "ts=%04d-%02d-%02dT%02d:%02d:%02d.%03uZ level=%s event=%s",
			 utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min,
			 utc.tm_sec, ms, level_names[level], event);
	assert(bytes > 0 && bytes < LOG_LINE_BYTES_MAX / 2);   /* an event's name is our own */
	return (size_t)bytes;
}

__attribute__((format(printf, 4, 0)))
static void line_word(struct line *line, enum log_level level, const char *event,
		      const char *format, va_list arguments)
{
	size_t bytes = line_begin(line->text, level, event);
	size_t room = sizeof(line->text) - bytes - 2;   /* a space before, a line break after */
	int wanted = vsnprintf(line->text + bytes + 1, room + 1, format, arguments);

	if (wanted > 0) {
		line->text[bytes] = ' ';
		bytes += 1 + ((size_t)wanted < room ? (size_t)wanted : room);
		if ((size_t)wanted > room)
			memcpy(line->text + bytes - strlen(CUT_MARK), CUT_MARK, strlen(CUT_MARK));
	}
	for (size_t i = 0; i < bytes; i++) {
		unsigned char character = (unsigned char)line->text[i];

		if (character < 0x20 || character == 0x7f)
			line->text[i] = '?';
	}
	line->text[bytes++] = '\n';
	assert(bytes <= sizeof(line->text));
	line->bytes = (uint32_t)bytes;
}

/* Writes a line by one call where it can, so that lines of several processes do not mix. A lost
 * stderr is no reason to fail: there is nobody to tell. */
static void line_write(const struct line *line)
{
	size_t done = 0;

	while (done < line->bytes) {
		ssize_t put = write(STDERR_FILENO, line->text + done, line->bytes - done);

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return;
		done += (size_t)put;
	}
}

__attribute__((format(printf, 4, 5)))
static void line_word_values(struct line *line, enum log_level level, const char *event,
			     const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	line_word(line, level, event, format, arguments);
	va_end(arguments);
}

/* The writer's: waits until there is something to say. */
static void line_wait(void)
{
	struct timespec until;

	while (log_state.count == 0 && log_state.dropped == 0 && log_state.is_open) {
		if (log_state.limit.owed_count == 0) {
			pthread_cond_wait(&log_state.not_empty, &log_state.lock);
			continue;
		}
		until.tv_sec = (time_t)(log_state.owed_us / US_PER_SECOND);
		until.tv_nsec = (long)(log_state.owed_us % US_PER_SECOND * 1000);
		if (pthread_cond_clockwait(&log_state.not_empty, &log_state.lock, CLOCK_MONOTONIC,
					   &until) == ETIMEDOUT)
			return;
	}
}

/* The writer's: waits for the oldest line. False: the log was closed and nothing is left. */
static bool line_take(struct line *out_line)
{
	uint64_t dropped = 0, suppressed;
	const char *owed = NULL;
	bool took = true;

	pthread_mutex_lock(&log_state.lock);
	line_wait();
	if (log_state.count > 0) {
		const struct line *line = &log_state.lines[log_state.first % LOG_QUEUE_LINES_MAX];

		out_line->bytes = line->bytes;
		memcpy(out_line->text, line->text, line->bytes);
		log_state.first++;
		log_state.count--;
	} else if (log_state.dropped > 0) {
		/* What was queued came first, so this is the place of the dropped ones in the
		 * order. */
		dropped = log_state.dropped;
		log_state.dropped = 0;
	} else {
		owed = log_limit_take_owed(&log_state.limit, &suppressed);
		took = owed != NULL;
	}
	pthread_mutex_unlock(&log_state.lock);
	if (owed != NULL)
		line_word_values(out_line, LOG_WARNING, "log_suppressed", "of=%s lines=%llu", owed,
				 (unsigned long long)suppressed);
	if (dropped > 0)
		line_word_values(out_line, LOG_WARNING, "log_dropped", "lines=%llu",
				 (unsigned long long)dropped);
	return took;
}

static bool line_queue(const struct line *line)
{
	bool is_open;

	pthread_mutex_lock(&log_state.lock);
	is_open = log_state.is_open;
	if (is_open && log_state.count < LOG_QUEUE_LINES_MAX) {
		uint32_t place = (log_state.first + log_state.count) % LOG_QUEUE_LINES_MAX;

		log_state.lines[place].bytes = line->bytes;
		memcpy(log_state.lines[place].text, line->text, line->bytes);
		if (log_state.count++ == 0)
			pthread_cond_signal(&log_state.not_empty);
	} else if (is_open) {
		log_state.dropped++;
		log_state.dropped_count++;
	}
	pthread_mutex_unlock(&log_state.lock);
	return is_open;
}

/* Whether the event has lines left. *out_suppressed: how many it had to do without. */
static bool line_is_allowed(enum log_level level, const char *event, uint64_t *out_suppressed)
{
	bool is_allowed = true, was_owed;

	*out_suppressed = 0;
	pthread_mutex_lock(&log_state.lock);
	if (log_state.limit_clock != NULL && level < LOG_DEBUG) {
		was_owed = log_state.limit.owed_count > 0;
		is_allowed = log_limit_allows(&log_state.limit, event,
					      clock_now_us(log_state.limit_clock), out_suppressed);
		/* The writer waits without a bound while nothing is owed. */
		if (!was_owed && !is_allowed) {
			log_state.owed_us = clock_now_us(clock_real()) + LOG_OWED_MS * US_PER_MS;
			pthread_cond_signal(&log_state.not_empty);
		}
	}
	pthread_mutex_unlock(&log_state.lock);
	if (!is_allowed)
		atomic_fetch_add_explicit(&log_state.suppressed_count, 1, memory_order_relaxed);
	return is_allowed;
}

static void line_add_suppressed(struct line *line, uint64_t suppressed)
{
	char words[48];
	size_t bytes = (size_t)snprintf(words, sizeof(words), " suppressed=%llu\n",
					(unsigned long long)suppressed);
	size_t at = line->bytes - 1; /* its line break */

	if (at + bytes > sizeof(line->text))
		at = sizeof(line->text) - bytes;
	memcpy(line->text + at, words, bytes);
	line->bytes = (uint32_t)(at + bytes);
}

void log_line(enum log_level level, const char *event, const char *format, ...)
{
	struct line line;
	va_list arguments;
	uint64_t suppressed;

	assert((unsigned)level < LOG_LEVELS);
	if (level > log_level_get())
		return;
	atomic_fetch_add_explicit(&log_state.lines_count[level], 1, memory_order_relaxed);
	if (!line_is_allowed(level, event, &suppressed))
		return;
	va_start(arguments, format);
	line_word(&line, level, event, format, arguments);
	va_end(arguments);
	if (suppressed > 0)
		line_add_suppressed(&line, suppressed);
	if (!atomic_load_explicit(&log_state.is_open, memory_order_relaxed) || !line_queue(&line))
		line_write(&line);
}

/* Waits until stderr takes a line without blocking. False: the log is closing and time is over. */
static bool reader_wait(void)
{
	struct pollfd wait = { .fd = STDERR_FILENO, .events = POLLOUT };
	bool may_wait = true;

	while (may_wait) {
		/* An error is an answer too: the write then fails, and the line is lost. */
		if (poll(&wait, 1, POLL_MS) > 0)
			return true;
		pthread_mutex_lock(&log_state.lock);
		may_wait = log_state.is_open || clock_now_us(clock_real()) < log_state.give_up_us;
		pthread_mutex_unlock(&log_state.lock);
	}
	return false;
}

static void *writer_run(void *unused)
{
	struct line line;

	(void)unused;
	while (line_take(&line) && reader_wait())
		line_write(&line);
	pthread_mutex_lock(&log_state.lock);
	assert(log_state.writers_count > 0);
	log_state.writers_count--;
	pthread_cond_signal(&log_state.writer_ended);
	pthread_mutex_unlock(&log_state.lock);
	return NULL;
}

static void fork_prepare(void)
{
	pthread_mutex_lock(&log_state.lock);
}

static void fork_in_parent(void)
{
	pthread_mutex_unlock(&log_state.lock);
}

/* The child has no writer thread; what is queued is the parent's to write. */
static void fork_in_child(void)
{
	log_state.is_open = false;
	log_state.first = 0;
	log_state.count = 0;
	log_state.dropped = 0;
	memset(&log_state.limit, 0, sizeof(log_state.limit));
	log_state.writers_count = 0;
	/* They know threads that are not here. */
	log_state.not_empty = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
	log_state.writer_ended = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
	pthread_mutex_unlock(&log_state.lock);
}

void log_open(void)
{
	sigset_t all;
	sigset_t before;
	int result = 0;

	pthread_mutex_lock(&log_state.lock);
	if (!log_state.fork_is_watched)
		log_state.fork_is_watched = pthread_atfork(fork_prepare, fork_in_parent,
							   fork_in_child) == 0;
	if (!log_state.is_open && log_state.fork_is_watched) {
		/* Signals are for the threads that expect them; and a reader who left must not end
		 * us. */
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &before);
		log_state.is_open = true;
		result = pthread_create(&log_state.writer, NULL, writer_run, NULL);
		log_state.is_open = result == 0;
		log_state.writers_count += result == 0;
		pthread_sigmask(SIG_SETMASK, &before, NULL);
	}
	pthread_mutex_unlock(&log_state.lock);
	if (result != 0)
		log_line(LOG_WARNING, "log_thread_failed", "reason=\"%s\"", strerror(result));
}

void log_close(void)
{
	struct timespec until;
	pthread_t writer;
	bool was_open;
	bool has_ended;
	int result = 0;

	pthread_mutex_lock(&log_state.lock);
	was_open = log_state.is_open;
	writer = log_state.writer;
	log_state.is_open = false;
	log_state.give_up_us = clock_now_us(clock_real()) + LOG_CLOSE_WAIT_MS_MAX * US_PER_MS;
	until.tv_sec = (time_t)(log_state.give_up_us / US_PER_SECOND) + 1;
	until.tv_nsec = 0;
	pthread_cond_signal(&log_state.not_empty);
	while (was_open && log_state.writers_count > 0 && result == 0)
		result = pthread_cond_clockwait(&log_state.writer_ended, &log_state.lock,
						CLOCK_MONOTONIC, &until);
	has_ended = log_state.writers_count == 0;
	if (was_open) {
		log_state.dropped_count += log_state.count;
		log_state.count = 0;
	}
	pthread_mutex_unlock(&log_state.lock);
	/* Another process can fill a shared pipe between poll() and write(); then the writer stays
	 * behind. */
	if (was_open && has_ended)
		pthread_join(writer, NULL);
	else if (was_open)
		pthread_detach(writer);
}

const char *log_quote(char *target, size_t target_bytes, const char *text)
{
	size_t used = 0;

	assert(target_bytes > 0);
	if (target_bytes < 3) {
		target[0] = '\0';
		return target;
	}
	target[used++] = '"';
	for (; *text != '\0'; text++) {
		unsigned char character = (unsigned char)*text;
		char escaped[5];
		size_t bytes;

		if (character == '"' || character == '\\')
			snprintf(escaped, sizeof(escaped), "\\%c", character);
		else if (character == '\n')
			snprintf(escaped, sizeof(escaped), "\\n");
		else if (character < 0x20 || character == 0x7f)
			snprintf(escaped, sizeof(escaped), "\\x%02x", character);
		else
			snprintf(escaped, sizeof(escaped), "%c", character);
		bytes = strlen(escaped);
		if (used + bytes + 2 > target_bytes)
			break;
		memcpy(target + used, escaped, bytes);
		used += bytes;
	}
	target[used++] = '"';
	target[used] = '\0';
	return target;
}
