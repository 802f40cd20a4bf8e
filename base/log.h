/*
 * base/log.h: log lines as key=value, to stderr, through a bounded queue and a writer thread, so
 * that nobody waits for a slow reader of stderr; what does not fit is counted and said later
 * (event=log_dropped).
 * Runs on: any thread. Code below daemon/ logs at debug only.
 *
 *   log_line(LOG_WARNING, "nvme_fenced", "device=%s reason=\"%s\"", name, error.text);
 *   ts=2026-11-22T12:00:00.123Z level=warning event=nvme_fenced device=nvme0 reason="EIO on read"
 */
#ifndef KVTIER_BASE_LOG_H
#define KVTIER_BASE_LOG_H

#include "base/clock.h"

#include <stddef.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG, LOG_LEVELS };

#define LOG_LINE_BYTES_MAX 1024     /* with its end; what is longer ends in "..." */
#define LOG_QUEUE_LINES_MAX 1024
#define LOG_CLOSE_WAIT_MS_MAX 1000
#define LOG_OWED_MS 10000           /* how late what was suppressed is said at the latest */

/* Starts the writer thread; before it, after log_close(), in a forked child, and when there can be
 * no thread, lines are written by the caller itself. */
void log_open(void);
/* Writes what is queued, for at most LOG_CLOSE_WAIT_MS_MAX when nobody reads stderr; stops the
 * thread. May be called again, and without log_open(). */
void log_close(void);
void log_level_set(enum log_level level);
enum log_level log_level_get(void);
/* -1: no such level. */
int log_level_parse(const char *name);
const char *log_level_name(enum log_level level);

/* From now on at most so many lines of one event as base/log_limit.h says, but at debug, which
 * somebody asked for. The others are counted and said: "suppressed=12" ends the next line of that
 * event, and event=log_suppressed comes when there is none. `clock` NULL: no limit, as at first. */
void log_limit_by(struct clock *clock);

/* A line break or another control character in the text becomes '?': nobody can forge a line. */
__attribute__((format(printf, 3, 4)))
void log_line(enum log_level level, const char *event, const char *format, ...);

/* How many lines of a level were logged since the start (dropped and suppressed ones too), and how
 * many were dropped, or suppressed. */
uint64_t log_lines_count(enum log_level level);
uint64_t log_dropped_count(void);
uint64_t log_suppressed_count(void);

/* Quotes a value for a log line: "..." with \" \\ \n escaped, control characters as \xNN; always
 * ends with NUL. */
const char *log_quote(char *target, size_t target_bytes, const char *text);

#endif
