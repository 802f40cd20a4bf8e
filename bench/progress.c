/* bench/progress.c: draws the bar at most ten times a second. */
#include "bench/progress.h"

#include "base/clock.h"

#include <stdio.h>
#include <unistd.h>

#define BAR_WIDTH 40
#define SHOW_US_MIN 100000u

void progress_init(struct progress *progress, const char *what, bool wanted)
{
	progress->what = what;
	progress->is_shown = wanted && isatty(STDERR_FILENO) == 1;
	progress->started_us = clock_now_us(clock_real());
	progress->shown_us = 0;
}

void progress_show(struct progress *progress, uint64_t done, uint64_t count)
{
	uint64_t now_us = clock_now_us(clock_real());
	char bar[BAR_WIDTH + 1];

	if (!progress->is_shown || count == 0 || now_us - progress->shown_us < SHOW_US_MIN)
		return;
	progress->shown_us = now_us;
	int full = (int)(done * BAR_WIDTH / count);
	for (int i = 0; i < BAR_WIDTH; i++)
		bar[i] = i < full ? '#' : '.';
	bar[BAR_WIDTH] = '\0';
	double seconds = (double)(now_us - progress->started_us) / 1e6;
	fprintf(stderr, "\r%s [%s] %llu of %llu, %.0f s", progress->what, bar,
		(unsigned long long)done, (unsigned long long)count, seconds);
	fflush(stderr);
}

void progress_finish(struct progress *progress)
{
	if (progress->is_shown)
		fprintf(stderr, "\r\033[K");
}
