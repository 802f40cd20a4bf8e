/* client/cli_requests.c: requests, and explain --request: what became of what an engine asked for,
 * in figures and in words. */
#include "client/cli.h"

#include <stdarg.h>
#include <string.h>
#include <time.h>

#define REQUESTS_LIMIT_DEFAULT 20u
#define SENTENCE_BYTES 400
#define LIST_BYTES 200

/* Its tiers hold so many of the keys that were asked for. */
static double keys_found(const json_t *lookup)
{
	return cli_number(lookup, "cpu") + cli_number(lookup, "nvme");
}

/* Blocks of loads or stores that came to nothing. */
static double failed(const json_t *transfers)
{
	return cli_number(transfers, "missed") + cli_number(transfers, "expired") +
	       cli_number(transfers, "cancelled") + cli_number(transfers, "damaged") +
	       cli_number(transfers, "failed");
}

/* ---- requests ---- */

static void requests_print(struct cli *cli, const json_t *value)
{
	const json_t *requests = cli_get(value, "requests");
	int digits = cli_short_digits(cli, requests, "trace");
	size_t i;
	json_t *request;

	if (json_array_size(requests) == 0) {
		cli_line(cli, CLI_PLAIN, "no requests: none whose frames carry a tag since the daemon started");
		return;
	}
	cli_line(cli, CLI_BOLD, "%-*s %8s %-12s %6s %6s %6s %6s %6s %8s", digits, "REQUEST", "AGO",
		 "ENGINE", "TOKENS", "FOUND", "LOADED", "STORED", "FAILED", "LASTED");
	json_array_foreach(requests, i, request)
	{
		const json_t *lookup = cli_get(request, "lookup");
		const json_t *loads = cli_get(request, "loads"), *stores = cli_get(request, "stores");
		double wrong = failed(loads) + failed(stores);
		char a[CLI_UNIT_BYTES], b[CLI_UNIT_BYTES], c[CLI_UNIT_BYTES], d[CLI_UNIT_BYTES];
		char e[CLI_UNIT_BYTES], f[CLI_UNIT_BYTES], g[CLI_UNIT_BYTES];

		cli_line(cli, wrong > 0 ? CLI_YELLOW : CLI_PLAIN,
		    "%-*.*s %8s %-12.12s %6s %6s %6s %6s %6s %8s", digits, digits,
			 cli_string(request, "trace"),
			 cli_duration((uint64_t)cli_number(request, "ago_us"), a),
			 cli_string(request, "engine"),
			 cli_count(cli_number(lookup, "asked_tokens"), b),
			 cli_count(cli_number(lookup, "usable_tokens"), c),
			 cli_count(cli_number(loads, "delivered"), d),
			 cli_count(cli_number(stores, "stored"), e), cli_count(wrong, f),
			 cli_duration((uint64_t)cli_number(request, "lasted_us"), g));
	}
	cli_line(cli, CLI_PLAIN, "TOKENS asked for, FOUND of them; LOADED, STORED and FAILED are blocks");
	cli_line(cli, CLI_PLAIN, "kvtier explain --request TAG says all about one%s",
		 json_is_true(cli_get(value, "is_all")) ? "" : "; --limit N lists more");
}

enum cli_exit cli_requests(struct cli *cli)
{
	uint64_t limit = cli->limit > 0 ? cli->limit : REQUESTS_LIMIT_DEFAULT;
	struct frame_operate frame;
	json_t *requests = NULL;
	bool is_all = false;
	enum cli_exit result;

	cli_operate_start(cli, &frame, FRAME_OPERATE_REQUESTS);
	result = cli_operate_all(cli, &frame, "requests", limit, &requests, &is_all);
	if (result != CLI_DONE)
		return result;
	return cli_show(cli, json_pack("{s:o, s:b}", "requests", requests, "is_all", is_all),
			requests_print);
}

/* ---- explain --request: the figures ---- */

static void list_add(char *list, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void list_add(char *list, const char *format, ...)
{
	size_t used = strlen(list);
	va_list arguments;

	used += (size_t)snprintf(list + used, LIST_BYTES - used, "%s", used > 0 ? ", " : "");
	va_start(arguments, format);
	if (used < LIST_BYTES)
		vsnprintf(list + used, LIST_BYTES - used, format, arguments);
	va_end(arguments);
}

struct count_name {
	const char *key, *words;
};

/* "8 delivered, 1 no longer there": those that are not 0. */
static void counts_list(const json_t *object, const struct count_name *names, unsigned count,
			char *list)
{
	list[0] = 0;
	for (unsigned i = 0; i < count; i++)
		if (cli_number(object, names[i].key) > 0)
			list_add(list, "%.0f %s", cli_number(object, names[i].key), names[i].words);
}

static void when_print(struct cli *cli, const json_t *request)
{
	time_t seconds = (time_t)(cli_number(request, "began_unix_us") / 1e6);
	char when[40] = "", ago[CLI_UNIT_BYTES], lasted[CLI_UNIT_BYTES];
	struct tm parts;

	if (gmtime_r(&seconds, &parts) != NULL)
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S UTC", &parts);
	cli_line(cli, CLI_BOLD, "request %.32s", cli_string(request, "trace"));
	cli_line(cli, CLI_PLAIN, "  engine   %.64s of tenant %.64s", cli_string(request, "engine"),
		 cli_string(request, "tenant"));
	cli_line(cli, CLI_PLAIN, "  space    %.32s", cli_string(request, "space"));
	cli_line(cli, CLI_PLAIN, "  began    %s, %s ago; last heard of %s later", when,
		 cli_duration((uint64_t)cli_number(request, "ago_us"), ago),
		 cli_duration((uint64_t)cli_number(request, "lasted_us"), lasted));
}

static void lookup_print(struct cli *cli, const json_t *lookup)
{
	double times = cli_number(lookup, "times"), keys = cli_number(lookup, "keys");
	char list[LIST_BYTES] = "";

	if (times == 0) {
		cli_line(cli, CLI_PLAIN, "  lookup   none");
		return;
	}
	list_add(list, "%.0f in memory", cli_number(lookup, "cpu"));
	list_add(list, "%.0f on nvme", cli_number(lookup, "nvme"));
	list_add(list, "%.0f not there", keys - keys_found(lookup));
	cli_line(cli, CLI_PLAIN, "  lookup   %.0f blocks: %s%s", keys, list,
		 times > 1 ? "; the last one of several" : "");
	cli_line(cli, CLI_PLAIN, "  tokens   %.0f asked for, %.0f usable, %.0f worth loading",
		 cli_number(lookup, "asked_tokens"), cli_number(lookup, "usable_tokens"),
		 cli_number(lookup, "worth_tokens"));
	cli_line(cli, CLI_PLAIN, "  lease    %s", cli_string(lookup, "lease"));
	if (cli_string(lookup, "first_missing")[0] == 0)
		return;
	cli_line(cli, CLI_PLAIN, "  missing  %.64s", cli_string(lookup, "first_missing"));
	cli_line(cli, CLI_PLAIN, "           is the first; now %s: %s",
		 cli_string(lookup, "first_missing_now"),
		 cli_reason_words(cli_string(lookup, "first_missing_now")));
}

static void transfers_print(struct cli *cli, const json_t *request, const char *name)
{
	static const struct count_name outcomes[] = {
		{ "delivered", "delivered" },	 { "stored", "stored" },
		{ "missed", "no longer there" }, { "expired", "too late" },
		{ "cancelled", "cancelled" },	 { "damaged", "damaged" },
		{ "failed", "failed" },
	};
	const json_t *transfers = cli_get(request, name);
	double batches = cli_number(transfers, "batches");
	double blocks = cli_number(transfers, "blocks");
	char list[LIST_BYTES], longest[CLI_UNIT_BYTES];

	if (batches == 0) {
		cli_line(cli, CLI_PLAIN, "  %-8s none", name);
		return;
	}
	counts_list(transfers, outcomes, sizeof(outcomes) / sizeof(outcomes[0]), list);
	cli_line(cli, CLI_PLAIN, "  %-8s %.0f block%s in %.0f batch%s: %s; the longest took %s", name,
		 blocks, blocks == 1 ? "" : "s", batches, batches == 1 ? "" : "es",
		 list[0] != 0 ? list : "not ended yet",
		 cli_duration((uint64_t)cli_number(transfers, "longest_us"), longest));
}

static void answers_print(struct cli *cli, const json_t *request)
{
	static const struct count_name answers[] = {
		{ "wanted", "taken" },
		{ "present", "there already" },
		{ "stored_by_another", "being stored by another engine" },
		{ "refused_parent", "refused: the block before is not there" },
		{ "refused_full", "refused: no room" },
		{ "refused_size", "refused: too long" },
		{ "refused_busy", "refused: bypass, drain, or too busy" },
	};
	char list[LIST_BYTES];

	counts_list(cli_get(request, "store_answers"), answers,
		    sizeof(answers) / sizeof(answers[0]), list);
	/* All taken says nothing more. */
	if (strchr(list, ',') != NULL || cli_number(cli_get(request, "store_answers"), "wanted") == 0)
		cli_words(cli, CLI_PLAIN, "           ", list);
}

/* ---- explain --request: what it means ---- */

__attribute__((format(printf, 2, 3))) static void say(struct cli *cli, const char *format, ...)
{
	char sentence[SENTENCE_BYTES];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(sentence, sizeof(sentence), format, arguments);
	va_end(arguments);
	cli_words(cli, CLI_PLAIN, "  ", sentence);
}

static void lookup_say(struct cli *cli, const json_t *request)
{
	const json_t *lookup = cli_get(request, "lookup"), *loads = cli_get(request, "loads");
	double asked = cli_number(lookup, "asked_tokens");
	double usable = cli_number(lookup, "usable_tokens");
	double worth = cli_number(lookup, "worth_tokens");
	const char *last = cli_string(lookup, "last");

	if (cli_number(lookup, "times") == 0)
		say(cli, "The engine did not look anything up with this tag.");
	else if (strcmp(last, "answered") != 0)
		say(cli, "The lookup was answered as a miss: %.100s.", last);
	else if (usable == 0 && keys_found(lookup) > 0)
		say(cli,
		    "Blocks were there, but not from the first on, so nothing could be used: all %.0f "
		    "tokens had to be computed.",
		    asked);
	else if (usable == 0)
		say(cli, "Nothing of it was there: all %.0f tokens had to be computed.", asked);
	else
		say(cli, "Of %.0f tokens the first %.0f were there; the rest had to be computed.",
		    asked, usable);
	if (worth == 0 && usable > 0)
		say(cli,
		    "None was worth loading: computing is faster than reading nvme now, or the bypass "
		    "observed.");
	else if (worth < usable)
		say(cli,
		    "Of those, %.0f were not worth it: computing them is faster than reading them from "
		    "nvme now.",
		    usable - worth);
	if (worth > 0 && cli_number(loads, "batches") == 0)
		say(cli,
		    "The engine loaded none of them: it had them itself, or the request ended before.");
	if (strcmp(cli_string(lookup, "lease"), "refused") == 0 && usable > 0)
		say(cli,
		    "No lease was left, so blocks may have gone before they were loaded: too many "
		    "requests hold blocks at once, or cpu_bytes is too small.");
}

/* What is said when a count is not 0. */
struct counted_words {
	const char *name, *words;
};

static void counted_say(struct cli *cli, const json_t *counts, const struct counted_words *rows,
			unsigned rows_count)
{
	for (unsigned i = 0; i < rows_count; i++)
		if (cli_number(counts, rows[i].name) > 0)
			say(cli, "%s", rows[i].words);
}

static void loads_say(struct cli *cli, const json_t *loads)
{
	static const struct counted_words rows[] = {
		{ "missed", "Blocks to load were no longer there: never found by the lookup, evicted "
			    "since, or damaged on nvme (kvtier status counts those). The engine "
			    "computes them." },
		{ "expired", "Loads came too late for the engine's deadline, so it computed instead: "
			     "nvme or this node was too slow; look at kvtier top." },
		{ "damaged", "The engine found wrong bytes as it took them and used none of them: run "
			     "kvtier verify, and test this machine's memory." },
		{ "cancelled", "Loads were cancelled: by the engine, or because it went away." },
	};

	counted_say(cli, loads, rows, sizeof(rows) / sizeof(rows[0]));
}

static void stores_say(struct cli *cli, const json_t *request)
{
	static const struct counted_words rows[] = {
		{ "refused_full", "There was no room: what is there is held or pinned, or this one "
				  "request is longer than the cache." },
		{ "refused_parent", "Blocks were refused because the one before them is not there: "
				    "they could never be found." },
		{ "refused_size", "Blocks are too long for the tenant's memory: raise its cpu_bytes, "
				  "or see extent_bytes." },
		{ "refused_busy", "Stores were passed by: the bypass was on, the node drained, or too "
				  "many were under way (kvtier status)." },
	};
	const json_t *stores = cli_get(request, "stores");
	const json_t *answers = cli_get(request, "store_answers");

	if (cli_number(stores, "expired") + cli_number(stores, "failed") > 0)
		say(cli,
		    "Blocks were not stored in time, or not rightly: others will compute them again. The "
		    "engine was slow, or the daemon overloaded: kvtier top.");
	if (cli_number(stores, "cancelled") > 0)
		say(cli, "Stores were cancelled: by the engine, or because it went away.");
	counted_say(cli, answers, rows, sizeof(rows) / sizeof(rows[0]));
}

static void request_print(struct cli *cli, const json_t *value)
{
	size_t i;
	json_t *request;

	json_array_foreach(cli_get(value, "requests"), i, request)
	{
		when_print(cli, request);
		lookup_print(cli, cli_get(request, "lookup"));
		transfers_print(cli, request, "loads");
		transfers_print(cli, request, "stores");
		answers_print(cli, request);
		cli_line(cli, CLI_BOLD, "what it means");
		lookup_say(cli, request);
		loads_say(cli, cli_get(request, "loads"));
		stores_say(cli, request);
	}
}

enum cli_exit cli_explain_request(struct cli *cli)
{
	struct frame_operate frame;
	json_t *requests = NULL;
	bool is_all;
	enum cli_exit result;

	cli_operate_start(cli, &frame, FRAME_OPERATE_REQUESTS);
	memcpy(frame.tag, cli->tag, sizeof(frame.tag));
	result = cli_operate_all(cli, &frame, "requests", UINT32_MAX, &requests, &is_all);
	if (result != CLI_DONE)
		return result;
	if (json_array_size(requests) == 0) {
		fprintf(cli->error, "kvtier: no request with this tag is known here: the last 4,096 since the start are "
				    "kept; kvtier requests lists them\n");
		json_decref(requests);
		return CLI_REFUSED;
	}
	return cli_show(cli, json_pack("{s:o}", "requests", requests), request_print);
}
