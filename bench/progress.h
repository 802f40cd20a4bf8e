/* bench/progress.h: a progress bar on stderr, when that is a terminal. Runs on: one thread. */
#ifndef KVTIER_BENCH_PROGRESS_H
#define KVTIER_BENCH_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
	const char *what;
	bool is_shown;
	uint64_t started_us, shown_us;
};

/* Shows nothing if not `wanted`, or stderr is no terminal. */
void progress_init(struct progress *progress, const char *what, bool wanted);
void progress_show(struct progress *progress, uint64_t done, uint64_t count);
/* Takes the bar off the terminal. */
void progress_finish(struct progress *progress);

#endif
