/* client/cli_top.c: top: the live screen. Two STATS apart give the rates. */
#include "client/cli.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#define REFRESH_US 1000000u
#define BAR_WIDTH 16
#define CALLS_SHOWN 8u

/* The figures of one moment and of the one before. */
struct top {
	struct cli *cli;
	json_t *now, *before;
	double seconds;
};

static volatile sig_atomic_t was_interrupted;

static void interrupted(int number)
{
	(void)number;
	was_interrupted = 1;
}

/* Nothing to do: the wait has ended by it. */
static void size_changed(int number)
{
	(void)number;
}

/* How much more there is now than before, a second. `now` and `before` are the same object of both
 * moments. */
static double rate(const struct top *top, const json_t *now, const json_t *before, const char *name)
{
	double more = cli_number(now, name) - cli_number(before, name);

	/* A daemon that was restarted begins again at 0. */
	return more > 0 && top->seconds > 0 ? more / top->seconds : 0;
}

static void share_words(double part, double whole, char *text)
{
	if (whole > 0)
		snprintf(text, CLI_UNIT_BYTES, "%.0f %%", part / whole * 100);
	else
		snprintf(text, CLI_UNIT_BYTES, "-");
}

static void tiers_draw(const struct top *top)
{
	static const char *const tiers[] = { "cpu", "nvme" };
	const json_t *now = cli_get(top->now, "counters"), *before = cli_get(top->before, "counters");

	cli_line(top->cli, CLI_BOLD, "%-5s %-25s %-22s %8s %11s", "TIER", "FULL", "USED", "BLOCKS",
		 "HITS/S");
	for (unsigned i = 0; i < sizeof(tiers) / sizeof(tiers[0]); i++) {
		double size = cli_tier_size(top->now, tiers[i]);
		double used = cli_tier_sum(top->now, tiers[i], "ready_bytes");
		char bar[BAR_WIDTH + 3], a[CLI_UNIT_BYTES], b[CLI_UNIT_BYTES], c[CLI_UNIT_BYTES];
		char d[CLI_UNIT_BYTES], of[2 * CLI_UNIT_BYTES + 8], hits[32];

		snprintf(hits, sizeof(hits), "hit_blocks_%s", tiers[i]);
		cli_bar(size > 0 ? used / size : 0, BAR_WIDTH, bar);
		snprintf(of, sizeof(of), "%s of %s", cli_bytes(used, a), cli_bytes(size, b));
		cli_line(top->cli, CLI_PLAIN, "%-5s %s %3.0f %%  %-22s %8s %11s", tiers[i], bar,
			 size > 0 ? used / size * 100 : 0, of,
			 cli_count(cli_tier_sum(top->now, tiers[i], "blocks"), c),
			 cli_count(rate(top, now, before, hits), d));
	}
}

/* The tenant of this name a moment before, or NULL. */
static const json_t *earlier(const json_t *list, const char *key, const char *name)
{
	size_t i;
	json_t *item;

	json_array_foreach(list, i, item)
	{
		if (strcmp(cli_string(item, key), name) == 0)
			return item;
	}
	return NULL;
}

static void tenants_draw(const struct top *top)
{
	size_t i;
	json_t *tenant;

	cli_line(top->cli, CLI_PLAIN, "%s", "");
	cli_line(top->cli, CLI_BOLD, "%-14s %9s %6s %8s %8s %10s %10s %7s", "TENANT", "LOOKUPS/S",
		 "HITS", "LOADS/S", "LOST/S", "LOADED/S", "STORED/S", "LEASES");
	json_array_foreach(cli_get(top->now, "tenants"), i, tenant)
	{
		const char *name = cli_string(tenant, "name");
		const json_t *now = cli_get(tenant, "counters");
		const json_t *before = cli_get(
			earlier(cli_get(top->before, "tenants"), "name", name), "counters");
		char hits[CLI_UNIT_BYTES], a[CLI_UNIT_BYTES], b[CLI_UNIT_BYTES], c[CLI_UNIT_BYTES];
		char d[CLI_UNIT_BYTES], e[CLI_UNIT_BYTES];

		share_words(rate(top, now, before, "usable_tokens"),
			    rate(top, now, before, "lookup_tokens"), hits);
		cli_line(top->cli, CLI_PLAIN, "%-14.14s %9s %6s %8s %8s %10s %10s %7.0f", name,
			 cli_count(rate(top, now, before, "lookups"), a), hits,
			 cli_count(rate(top, now, before, "hit_blocks"), b),
			 cli_count(rate(top, now, before, "miss_blocks"), c),
			 cli_bytes(rate(top, now, before, "loaded_bytes"), d),
			 cli_bytes(rate(top, now, before, "stored_bytes"), e),
			 cli_number(tenant, "leases"));
	}
	cli_line(top->cli, CLI_PLAIN, "HITS: share of the tokens looked up; LOST: blocks gone before they were loaded");
}

/* What an engine or a person wants with it. */
static const char *call_words(const char *name)
{
	static const struct {
		const char *name, *words;
	} rows[] = {
		{ "HELLO", "a client comes" },
		{ "REGISTER", "an engine, its model" },
		{ "ATTACH", "its second connection" },
		{ "LOOKUP", "which blocks are there" },
		{ "STORE", "blocks are offered" },
		{ "COMMIT", "their bytes have come" },
		{ "CANCEL", "no longer wanted" },
		{ "HINT", "what to keep or drop" },
		{ "SPACE", "an adapter" },
		{ "LOAD", "blocks are wanted" },
		{ "RELEASE", "blocks are given back" },
		{ "CANARY", "an engine's self test" },
		{ "STATS", "status, top" },
		{ "OPERATE", "the kvtier command" },
		{ "EXPLAIN", "kvtier explain" },
		{ "BYPASS", "kvtier bypass" },
		{ "FORGET", "kvtier forget, or an engine" },
	};

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (strcmp(rows[i].name, name) == 0)
			return rows[i].words;
	return "";
}

/* Which of the calls still to be shown is the slowest, by p99. */
static const char *slowest(const json_t *calls, char shown[][32], unsigned count)
{
	const char *name, *found = NULL;
	json_t *call;
	double slowest_us = -1;

	json_object_foreach((json_t *)calls, name, call)
	{
		bool was_shown = strlen(name) >= sizeof(shown[0]);

		for (unsigned i = 0; i < count; i++)
			was_shown = was_shown || strcmp(shown[i], name) == 0;
		if (!was_shown && cli_number(call, "p99_us") > slowest_us) {
			slowest_us = cli_number(call, "p99_us");
			found = name;
		}
	}
	return found;
}

static void calls_draw(const struct top *top)
{
	const json_t *calls = cli_get(top->now, "calls");
	char shown[CALLS_SHOWN][32];
	const char *name;

	cli_line(top->cli, CLI_PLAIN, "%s", "");
	cli_line(top->cli, CLI_BOLD, "%-14s %9s %9s %9s %9s  %s", "CALL", "COUNT/S", "MEDIAN", "99 %",
		 "LONGEST", "(since the start)");
	for (unsigned i = 0; i < CALLS_SHOWN && (name = slowest(calls, shown, i)) != NULL; i++) {
		const json_t *now = cli_get(calls, name);
		const json_t *before = cli_get(cli_get(top->before, "calls"), name);
		char a[CLI_UNIT_BYTES], b[CLI_UNIT_BYTES], c[CLI_UNIT_BYTES], d[CLI_UNIT_BYTES];

		strcpy(shown[i], name); /* slowest() passes longer ones over */
		cli_line(top->cli, CLI_PLAIN, "%-14.14s %9s %9s %9s %9s  %s", name,
			 cli_count(rate(top, now, before, "count"), a),
			 cli_duration((uint64_t)cli_number(now, "p50_us"), b),
			 cli_duration((uint64_t)cli_number(now, "p99_us"), c),
			 cli_duration((uint64_t)cli_number(now, "max_us"), d), call_words(name));
	}
	cli_line(top->cli, CLI_PLAIN, "how long the daemon's loop worked on each; copies and disks are not in it");
}

static void devices_draw(const struct top *top)
{
	size_t i;
	json_t *now;

	if (json_array_size(cli_get(top->now, "nvme")) == 0)
		return;
	cli_line(top->cli, CLI_PLAIN, "%s", "");
	cli_line(top->cli, CLI_BOLD, "%-28s %10s %10s %8s %8s %6s", "DEVICE", "READ/S", "WRITE/S",
		 "A READ", "A WRITE", "ERRORS");
	json_array_foreach(cli_get(top->now, "nvme"), i, now)
	{
		const char *path = cli_string(now, "path");
		const json_t *before = earlier(cli_get(top->before, "nvme"), "path", path);
		double reads = rate(top, now, before, "reads");
		double writes = rate(top, now, before, "writes");
		char a[CLI_UNIT_BYTES], b[CLI_UNIT_BYTES], c[CLI_UNIT_BYTES] = "-";
		char d[CLI_UNIT_BYTES] = "-";

		if (reads > 0)
			cli_duration((uint64_t)(rate(top, now, before, "read_us") / reads), c);
		if (writes > 0)
			cli_duration((uint64_t)(rate(top, now, before, "write_us") / writes), d);
		cli_line(top->cli, cli_string(now, "fenced")[0] != 0 ? CLI_RED : CLI_PLAIN,
			 "%-28.28s %10s %10s %8s %8s %6.0f", path,
			 cli_bytes(rate(top, now, before, "read_bytes"), a),
			 cli_bytes(rate(top, now, before, "write_bytes"), b), c, d,
			 cli_number(now, "read_errors") + cli_number(now, "write_errors"));
	}
	cli_line(top->cli, CLI_PLAIN, "%.0f blocks wait to be written down",
		 cli_number(top->now, "pending_down"));
}

static void top_draw(const struct top *top)
{
	struct cli *cli = top->cli;
	json_t *health = cli_health(top->cli, top->now);
	char up[CLI_UNIT_BYTES];

	cli_line(cli, CLI_BOLD, "kvtierd %s  %s  up %s  engines %zu  connections %.0f",
		 cli_string(top->now, "version"), cli_string(top->now, "state"),
		 cli_duration((uint64_t)cli_number(top->now, "uptime_seconds") * 1000000, up),
		 json_array_size(cli_get(top->now, "engines")), cli_number(top->now, "connections"));
	if (cli_health_print(cli, health) == 0)
		cli_line(cli, CLI_GREEN, "Nothing is wrong.");
	json_decref(health);
	cli_line(cli, CLI_PLAIN, "%s", "");
	tiers_draw(top);
	tenants_draw(top);
	devices_draw(top); /* before the calls: a low terminal shows a sick disk all the same */
	calls_draw(top);
}

/* The next moment. */
static enum cli_exit top_look(struct top *top)
{
	json_t *stats = NULL;
	enum cli_exit result = cli_stats(top->cli, &stats);

	if (result != CLI_DONE)
		return result;
	json_decref(top->before);
	top->before = top->now;
	top->now = stats;
	top->seconds = top->before == NULL
			       ? 0
			       : (cli_number(top->now, "now_us") -
				  cli_number(top->before, "now_us")) / 1e6;
	return CLI_DONE;
}

/* ---- one screen ---- */

static json_t *rates_value(const struct top *top)
{
	json_t *value = json_object(), *tenants = json_array();
	size_t i;
	json_t *tenant;

	json_object_set_new(value, "seconds", json_real(top->seconds));
	json_array_foreach(cli_get(top->now, "tenants"), i, tenant)
	{
		const char *name = cli_string(tenant, "name"), *key;
		const json_t *now = cli_get(tenant, "counters");
		const json_t *before = cli_get(
			earlier(cli_get(top->before, "tenants"), "name", name), "counters");
		json_t *rates = json_pack("{s:s}", "name", name);
		json_t *unused;

		json_object_foreach((json_t *)now, key, unused)
		{
			char name_a_second[64];

			snprintf(name_a_second, sizeof(name_a_second), "%.40s_per_second", key);
			json_object_set_new(rates, name_a_second,
					    json_real(rate(top, now, before, key)));
		}
		json_array_append_new(tenants, rates);
	}
	json_object_set_new(value, "tenants", tenants);
	json_object_set_new(value, "health", cli_health(top->cli, top->now));
	json_object_set(value, "status", top->now);
	return value;
}

static enum cli_exit top_once(struct top *top)
{
	enum cli_exit result = top_look(top);

	if (result != CLI_DONE)
		return result;
	cli_pause(REFRESH_US);
	result = top_look(top);
	if (result != CLI_DONE)
		return result;
	if (top->cli->form != CLI_TABLE)
		return cli_show(top->cli, rates_value(top), NULL);
	top->cli->is_cut = true;
	top_draw(top);
	return CLI_DONE;
}

/* ---- the live screen ---- */

static void size_look(struct cli *cli)
{
	struct winsize size;

	if (ioctl(fileno(cli->out), TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
		return;
	cli->columns = size.ws_col < CLI_COLUMNS_MAX ? size.ws_col : CLI_COLUMNS_MAX;
	cli->rows = size.ws_row;
}

/* Until the next moment, or a key. False: that was enough. */
static bool wait_key(void)
{
	struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };
	uint64_t until_us = client_now_us() + REFRESH_US;

	while (!was_interrupted) {
		uint64_t now_us = client_now_us();
		char key;

		if (now_us >= until_us)
			return true;
		if (poll(&input, 1, (int)((until_us - now_us) / 1000) + 1) <= 0)
			return !was_interrupted; /* also a new size: drawn at once */
		if (read(STDIN_FILENO, &key, 1) <= 0 || key == 'q' || key == 'Q')
			return false;
	}
	return false;
}

static void live_draw(struct top *top)
{
	struct cli *cli = top->cli;
	FILE *error = cli->error;
	char *words = NULL;
	size_t bytes = 0;

	/* What would be said beside the screen is said on it. */
	cli->error = open_memstream(&words, &bytes);
	if (cli->error == NULL)
		cli->error = error;
	enum cli_exit result = top_look(top);
	if (cli->error != error)
		fclose(cli->error);
	cli->error = error;
	size_look(cli);
	cli->rows_printed = 0;
	fprintf(cli->out, "\033[H");
	if (result != CLI_DONE) {
		if (words != NULL)
			words[strcspn(words, "\n")] = 0;
		cli_words(cli, CLI_RED, "", words == NULL ? "no answer" : words);
	}
	if (top->now != NULL)
		top_draw(top);
	fprintf(cli->out, "\033[Jq ends it");
	fflush(cli->out);
	free(words);
}

static enum cli_exit top_live(struct top *top)
{
	struct sigaction action = { .sa_handler = interrupted };
	struct sigaction resized = { .sa_handler = size_changed };
	struct termios kept, raw;
	enum cli_exit result = top_look(top);

	if (result != CLI_DONE)
		return result;
	if (tcgetattr(STDIN_FILENO, &kept) != 0)
		return cli_usage_error(top->cli, "top needs a terminal; --once prints one screen");
	(void)sigaction(SIGINT, &action, NULL);
	(void)sigaction(SIGTERM, &action, NULL);
	(void)sigaction(SIGWINCH, &resized, NULL);
	raw = kept;
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	(void)tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	top->cli->is_cut = top->cli->is_live = true;
	fprintf(top->cli->out, "\033[?1049h\033[?25l"); /* a screen of its own, no cursor */
	do {
		live_draw(top);
	} while (wait_key());
	fprintf(top->cli->out, "\033[?25h\033[?1049l");
	fflush(top->cli->out);
	(void)tcsetattr(STDIN_FILENO, TCSANOW, &kept);
	return CLI_DONE;
}

enum cli_exit cli_top(struct cli *cli)
{
	struct top top = { .cli = cli };
	enum cli_exit result;

	if (cli->is_once || !cli->is_tty || cli->form != CLI_TABLE)
		result = top_once(&top);
	else
		result = top_live(&top);
	json_decref(top.now);
	json_decref(top.before);
	return result;
}
