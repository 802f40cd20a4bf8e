/* client/cli_progress.c: how far something is, for whoever waits for it. */
#include "client/cli.h"

#include <string.h>
#include <time.h>

#define BAR_WIDTH 24u
/* Before it, nobody can say how long it takes. */
#define ESTIMATE_AFTER_US 1000000u

void cli_pause(uint64_t us)
{
	struct timespec pause = { .tv_sec = (time_t)(us / 1000000),
				  .tv_nsec = (long)(us % 1000000 * 1000) };

	(void)nanosleep(&pause, NULL);
}

void cli_progress_show(struct cli_progress *progress, double share, const char *words)
{
	struct cli *cli = progress->cli;
	uint64_t now_us = client_now_us(), gone_us = now_us - progress->began_us;
	char bar[BAR_WIDTH + 3], left[CLI_UNIT_BYTES] = "";

	if (!cli->is_tty)
		return;
	cli_bar(share, BAR_WIDTH, bar);
	if (share > 0.01 && share < 1 && gone_us >= ESTIMATE_AFTER_US)
		cli_duration((uint64_t)((double)gone_us / share * (1 - share)), left);
	fprintf(cli->error, "\r\033[K%s %s %3.0f %%  %s%s%s", progress->what, bar, share * 100,
		words, left[0] != 0 ? ", about " : "", left);
	if (left[0] != 0)
		fprintf(cli->error, " left");
	fflush(cli->error);
	progress->is_shown = true;
}

void cli_progress_end(struct cli_progress *progress)
{
	if (progress->is_shown)
		fprintf(progress->cli->error, "\r\033[K");
	progress->is_shown = false;
}

void cli_look_print(struct cli *cli, const json_t *answer)
{
	if (cli->form != CLI_JSON)
		return;
	json_dumpf(answer, cli->out, JSON_COMPACT);
	fputc('\n', cli->out);
	fflush(cli->out);
}
