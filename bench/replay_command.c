/* bench/replay_command.c: kvtier-bench replay, with a daemon or without one (--simulate). */
#include "bench/commands.h"

#include "base/nearest.h"
#include "bench/options.h"
#include "bench/progress.h"
#include "bench/replay.h"
#include "bench/replay_report.h"
#include "bench/simulate.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define BLOCK_BYTES_MAX (UINT64_C(1) << 30)
#define SEGMENTS_MAX 256u

/* Bytes of a token's KV over all layers, at 16 bits a value, as the models' published
 * configurations give them: 2 * layers * KV heads * head size * 2, or for MLA layers * (rank +
 * rope) * 2. */
static const struct model {
	const char *name;
	uint32_t layers, token_bytes;
} models[] = {
	{ "llama-3.1-8b", 32, 131072 }, { "llama-3.3-70b", 80, 327680 }, { "qwen3-8b", 36, 147456 },
	{ "qwen3-32b", 64, 262144 },    { "deepseek-v3", 61, 70272 },
};

#define MODELS_COUNT (sizeof(models) / sizeof(models[0]))

struct replay_arguments {
	struct trace_options trace;
	struct simulation_options simulation;
	struct replay_options replay;
	const char *trace_path, *policy, *model, *json_path, *dump_path, *expect_path;
	bool is_simulation, as_fast, credits_output;
	uint64_t capacity_blocks, block_tokens, limit, deadline_ms, away_ms, connect_ms, gap_s;
	uint64_t processes, shards, users, engine_blocks;
};

static void arguments_default(struct replay_arguments *arguments)
{
	memset(arguments, 0, sizeof(*arguments));
	trace_options_default(&arguments->trace);
	arguments->policy = "lru";
	arguments->deadline_ms = 5000;
	arguments->away_ms = 20;
	arguments->connect_ms = 10000;
	arguments->gap_s = arguments->trace.gap_us_max / 1000000;
	arguments->users = arguments->trace.users;
	arguments->processes = 1;
	arguments->shards = 1;
	arguments->replay.segments = 1;
	arguments->replay.seed = arguments->trace.seed;
	arguments->replay.shows_progress = true;
}

#define AT(member) offsetof(struct replay_arguments, member)

static const struct option_row rows[] = {
	{ "trace", OPTION_TEXT, "FILE", "Mooncake or Bailian JSONL, or sessions; .gz too",
	  AT(trace_path), 0, 0, true },
	{ "block-tokens", OPTION_COUNT, "N",
	  "tokens of a block: the trace's or a multiple (default: the trace's)", AT(block_tokens),
	  1, TRACE_BLOCK_TOKENS_MAX, false },
	{ "order", OPTION_TEXT, "FILE", "sessions: CSV time_s,session,request",
	  AT(trace.order_path), 0, 0, false },
	{ "users", OPTION_COUNT, "N", "sessions without --order: user slots (default 48)",
	  AT(users), 1, TRACE_USERS_MAX, false },
	{ "gap-cap", OPTION_COUNT, "S", "sessions without --order: longest pause (default 1800)",
	  AT(gap_s), 0, 1e6, false },
	{ "limit", OPTION_COUNT, "N", "send the first N requests only", AT(limit), 1,
	  TRACE_REQUESTS_MAX, false },
	{ "output-credit", OPTION_FLAG, NULL, "store the blocks that outputs fill, too",
	  AT(credits_output), 0, 0, false },
	{ "json", OPTION_TEXT, "FILE", "write the figures there (- is stdout)", AT(json_path), 0, 0,
	  false },
	{ "dump", OPTION_TEXT, "FILE", "write request,blocks,hit_blocks there", AT(dump_path), 0, 0,
	  false },
	{ "expect", OPTION_TEXT, "FILE", "compare hits with such a dump; status 1 if any differs",
	  AT(expect_path), 0, 0, false },
	{ "simulate", OPTION_FLAG, NULL, "no daemon, no bytes: the daemon's index alone",
	  AT(is_simulation), 0, 0, false },
	{ "policy", OPTION_TEXT, "NAME", "simulate: lru", AT(policy), 0, 0, false },
	{ "capacity-blocks", OPTION_COUNT, "N", "simulate: one tier of so many blocks",
	  AT(capacity_blocks), 1, SIMULATION_CAPACITY_MAX, false },
	{ "cpu-blocks", OPTION_COUNT, "N", "simulate: two tiers: blocks of cpu",
	  AT(simulation.cpu_blocks), 1, SIMULATION_CAPACITY_MAX, false },
	{ "nvme-blocks", OPTION_COUNT, "N", "simulate: two tiers: blocks of nvme",
	  AT(simulation.nvme_blocks), 1, SIMULATION_CAPACITY_MAX, false },
	{ "socket", OPTION_TEXT, "PATH", "the tenant's socket of a running daemon",
	  AT(replay.socket), 0, 0, false },
	{ "from", OPTION_TEXT, "HOST:PORT,...",
	  "what the daemon has not is fetched from these peers of it, in turn", AT(replay.from), 0,
	  0, false },
	{ "block-bytes", OPTION_BYTES, "SIZE", "bytes of one shard of a block",
	  AT(replay.block_bytes), 64, BLOCK_BYTES_MAX, false },
	{ "model", OPTION_TEXT, "NAME", "geometry: a model's name, or layers=N,bytes=N of a token",
	  AT(model), 0, 0, false },
	{ "speed", OPTION_NUMBER, "X", "at the trace's times, X times as fast", AT(replay.speed),
	  1e-6, 1e9, false },
	{ "as-fast", OPTION_FLAG, NULL, "one request behind the other (default)", AT(as_fast), 0, 0,
	  false },
	{ "lockstep", OPTION_FLAG, NULL,
	  "each request waits until all copies of the one before are done", AT(replay.is_lockstep),
	  0, 0, false },
	{ "processes", OPTION_COUNT, "N", "engines, a process each (default 1)", AT(processes), 1,
	  REPLAY_PROCESSES_MAX, false },
	{ "shards", OPTION_COUNT, "N", "ranks of each engine (default 1)", AT(shards), 1,
	  REPLAY_SHARDS_MAX, false },
	{ "engine-blocks", OPTION_COUNT, "N",
	  "blocks of a load or store at a time (default: 256 MiB)", AT(engine_blocks), 1, 256,
	  false },
	{ "deadline-ms", OPTION_COUNT, "MS", "of each call (default 5000)", AT(deadline_ms), 1,
	  3600000, false },
	{ "away-ms", OPTION_COUNT, "MS", "a request without a daemon takes so long (default 20)",
	  AT(away_ms), 0, 60000, false },
	{ "connect-ms", OPTION_COUNT, "MS",
	  "wait so long for the daemon at the start (default 10000)", AT(connect_ms), 1, 600000,
	  false },
	{ "mark-at", OPTION_COUNT, "N", "make --mark's file once N requests are through",
	  AT(replay.mark_at), 0, 0, false },
	{ "mark", OPTION_TEXT, "FILE", "a cue for scripts", AT(replay.mark_path), 0, 0, false },
	{ "seed", OPTION_COUNT, "N", "of the session order and of the model's identity (default 7)",
	  AT(replay.seed), 0, 0, false },
};

#undef AT

/* "layers=32,bytes=131072" or a known name: layers, and bytes of a token. */
static int model_find(const char *text, struct model *out_model, struct error *error)
{
	const char *names[MODELS_COUNT];
	int end = -1;

	if (sscanf(text, "layers=%9u,bytes=%9u%n", &out_model->layers, &out_model->token_bytes,
		   &end) == 2 &&
	    end > 0 && text[end] == '\0' && out_model->layers > 0 && out_model->token_bytes > 0)
		return 0;
	for (unsigned i = 0; i < MODELS_COUNT; i++) {
		names[i] = models[i].name;
		if (strcmp(text, names[i]) == 0) {
			*out_model = models[i];
			return 0;
		}
	}
	const char *nearest = nearest_word(text, names, MODELS_COUNT);
	return error_set(error, -EINVAL,
			 "no model \"%.40s\"; did you mean %s, or layers=N,bytes=N?", text,
			 nearest != NULL ? nearest : names[0]);
}

/* The geometry, once the trace has said how many tokens a block has. */
static int geometry_finish(struct replay_arguments *arguments, const struct trace *trace,
			   struct error *error)
{
	struct replay_options *options = &arguments->replay;
	struct model model = { 0 };

	if (arguments->model != NULL) {
		int result = model_find(arguments->model, &model, error);
		if (result < 0)
			return result;
		options->segments = model.layers < SEGMENTS_MAX ? model.layers : SEGMENTS_MAX;
	}
	if (options->block_bytes == 0)
		options->block_bytes = (uint64_t)model.token_bytes * trace->block_tokens /
				       options->shards;
	if (options->block_bytes == 0)
		return error_set(error, -EINVAL, "replay needs --block-bytes or --model");
	if (options->block_bytes % 64 != 0 || options->block_bytes > BLOCK_BYTES_MAX)
		return error_set(error, -EINVAL,
				 "blocks of %llu bytes, expected a multiple of 64 up to 1GiB",
				 (unsigned long long)options->block_bytes);
	return 0;
}

static int arguments_finish(struct replay_arguments *arguments, struct error *error)
{
	struct replay_options *options = &arguments->replay;

	if (strcmp(arguments->policy, "lru") != 0)
		return error_set(error, -EINVAL, "--policy is \"%.40s\", expected lru",
				 arguments->policy);
	if (arguments->as_fast && options->speed > 0)
		return error_set(error, -EINVAL, "--as-fast and --speed exclude each other");
	if (!arguments->is_simulation && options->socket == NULL)
		return error_set(error, -EINVAL,
				 "replay needs --socket PATH of a daemon, or --simulate");
	if (arguments->is_simulation && options->socket != NULL)
		return error_set(error, -EINVAL, "--simulate and --socket exclude each other");
	if (arguments->capacity_blocks != 0 &&
	    (arguments->simulation.cpu_blocks != 0 || arguments->simulation.nvme_blocks != 0))
		return error_set(error, -EINVAL,
				 "--capacity-blocks and --cpu-blocks exclude each other");
	arguments->trace.block_tokens = (uint32_t)arguments->block_tokens;
	arguments->trace.users = (uint32_t)arguments->users;
	arguments->trace.gap_us_max = arguments->gap_s * 1000000;
	arguments->trace.seed = options->seed;
	if (arguments->capacity_blocks != 0)
		arguments->simulation.cpu_blocks = arguments->capacity_blocks;
	arguments->simulation.requests_max = arguments->limit;
	options->requests_max = arguments->limit;
	options->processes = (uint32_t)arguments->processes;
	options->shards = (uint32_t)arguments->shards;
	options->engine_blocks = (uint32_t)arguments->engine_blocks;
	options->deadline_us = arguments->deadline_ms * 1000;
	options->away_us = arguments->away_ms * 1000;
	options->connect_us_max = arguments->connect_ms * 1000;
	return 0;
}

/* Then nothing else is written there. */
static bool json_is_stdout(const struct replay_arguments *arguments)
{
	return arguments->json_path != NULL && strcmp(arguments->json_path, "-") == 0;
}

/* Dump and comparison; returns EXIT_FINE, EXIT_FOUND or EXIT_REFUSED (worded). */
static int hits_report(const struct replay_arguments *arguments, const struct trace *trace,
		       const uint32_t *hits, uint64_t hits_count, struct error *error)
{
	uint64_t different = 0;

	if (arguments->dump_path != NULL &&
	    report_dump(trace, hits, hits_count, arguments->dump_path, error) < 0)
		return EXIT_REFUSED;
	if (arguments->expect_path == NULL)
		return EXIT_FINE;
	if (report_expect(trace, hits, hits_count, arguments->expect_path, &different, error) < 0)
		return EXIT_REFUSED;
	fprintf(json_is_stdout(arguments) ? stderr : stdout,
		"  %llu of %llu requests have other hits than %s\n", (unsigned long long)different,
		(unsigned long long)hits_count, arguments->expect_path);
	return different == 0 ? EXIT_FINE : EXIT_FOUND;
}

static int simulation_command(struct replay_arguments *arguments, const struct trace *trace,
			      struct error *error)
{
	struct report_source source = { trace, arguments->trace_path, arguments->capacity_blocks };
	struct simulation simulation;

	if (simulation_run(&simulation, trace, &arguments->simulation, error) < 0)
		return EXIT_REFUSED;
	if (!json_is_stdout(arguments))
		report_simulation_print(&simulation);
	int status = hits_report(arguments, trace, simulation.hits, simulation.requests, error);
	if (status != EXIT_REFUSED && arguments->json_path != NULL &&
	    report_simulation_json(&simulation, &arguments->simulation, &source,
				   arguments->json_path, error) < 0)
		status = EXIT_REFUSED;
	simulation_finish(&simulation);
	return status;
}

static int daemon_command(struct replay_arguments *arguments, const struct trace *trace,
			  struct error *error)
{
	struct report_source source = { trace, arguments->trace_path, 0 };
	struct replay replay;
	int status = EXIT_REFUSED;

	if (geometry_finish(arguments, trace, error) < 0)
		return EXIT_REFUSED;
	if (replay_run(&replay, trace, &arguments->replay, error) < 0)
		goto finish;
	if (!json_is_stdout(arguments))
		report_replay_print(&replay);
	status = hits_report(arguments, trace, replay.hits, replay.hits_count, error);
	if (status != EXIT_REFUSED && arguments->json_path != NULL &&
	    report_replay_json(&replay, &arguments->replay, &source, arguments->json_path, error) <
		    0)
		status = EXIT_REFUSED;
	if (status == EXIT_FINE && replay.figures.wrong_blocks > 0)
		status = EXIT_FOUND;
finish:
	replay_finish(&replay);
	return status;
}

static int replay_with(struct replay_arguments *arguments, struct error *error)
{
	struct trace trace;

	if (arguments_finish(arguments, error) < 0 ||
	    trace_read(&trace, arguments->trace_path, &arguments->trace, error) < 0)
		return EXIT_REFUSED;
	int status = EXIT_REFUSED;
	if (arguments->credits_output && trace_credit_output(&trace, error) < 0)
		goto finish;
	status = arguments->is_simulation ? simulation_command(arguments, &trace, error)
					  : daemon_command(arguments, &trace, error);
finish:
	trace_finish(&trace);
	return status;
}

int replay_command(int argc, char **argv)
{
	struct options table = { "replay",
				 "replays a trace through a daemon, or through its index alone",
				 rows, sizeof(rows) / sizeof(rows[0]) };
	struct replay_arguments arguments;
	struct error error = { 0 };

	arguments_default(&arguments);
	int result = options_parse(&table, &arguments, argc, argv, &error);
	if (result == 1)
		return EXIT_FINE;
	int status = result < 0 ? EXIT_REFUSED : replay_with(&arguments, &error);
	if (status == EXIT_REFUSED)
		fprintf(stderr, "kvtier-bench: %s\n", error.text);
	return status;
}
