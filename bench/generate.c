/* bench/generate.c: sessions that speak in turn, each with a context that grows, is compacted, and
 * ends. */
#include "bench/generate.h"

#include "base/random.h"
#include "bench/trace_builder.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#define ACTIVE_MAX 8192u
#define VARIANTS 80u         /* of an agent's tools and system prompt */
#define CONTEXT_MAX 1000000u /* tokens */
#define CHAT_SYSTEM 512u
#define CHAT_BATCH_S 3.0
#define CHAT_GOES_ON_1 0.25
#define CHAT_GOES_ON 0.45
#define COMPACTION 0.0045
#define SUBAGENT_SESSION 0.2
#define AGENT_START_S 60.0

/* The values at 10, 50, 90 and 99 % of a distribution; between them it is exponential. */
struct quantiles {
	double p10, p50, p90, p99;
};

static const struct quantiles chat_first = { 900, 6000, 26000, 87000 };
static const struct quantiles chat_append = { 500, 1000, 5000, 17000 };
static const struct quantiles chat_gap_s = { 42, 123, 480, 1458 };
static const struct quantiles chat_output = { 60, 350, 597, 1120 };
static const struct quantiles agent_prefix = { 12000, 15000, 16000, 21000 };
static const struct quantiles agent_first = { 15000, 24000, 259000, 626000 };
static const struct quantiles agent_turns = { 7, 45, 155, 324 };
static const struct quantiles agent_append = { 192, 704, 4032, 65664 };
static const struct quantiles agent_output = { 105, 216, 899, 3663 };
static const struct quantiles agent_gap_s = { 8, 18, 130, 2188 };
static const struct quantiles agent_context = { 66000, 148000, 339000, 785000 };

enum session_kind { SESSION_CHAT, SESSION_AGENT, SESSION_SUBAGENT };

struct session {
	enum session_kind kind;
	double next_s;
	uint32_t number;
	uint32_t turns_left, turns;
	uint32_t context, context_max; /* tokens */
	uint64_t *ids;                 /* of the full blocks of the context */
	uint64_t ids_count, ids_max;
};

struct generator {
	const struct generate_options *options;
	struct error *error;
	struct random random;
	gzFile file;
	struct session *active;
	uint32_t active_count;
	uint32_t sessions_count;
	uint64_t next_id;
	uint32_t prefix_tokens[VARIANTS + 1]; /* [VARIANTS]: chat's */
	uint64_t prefix_first_id[VARIANTS + 1];
	double next_chat_s;
};

static double uniform(struct generator *generator)
{
	return (double)(random_next(&generator->random) >> 11) * 0x1p-53;
}

static double draw(struct generator *generator, const struct quantiles *quantiles)
{
	const double share[] = { 0, 0.1, 0.5, 0.9, 0.99, 1 };
	const double value[] = { quantiles->p10 * 0.5, quantiles->p10, quantiles->p50,
				 quantiles->p90,       quantiles->p99, quantiles->p99 * 1.3 };
	double u = uniform(generator);
	unsigned part = 0;

	while (part < 4 && u >= share[part + 1])
		part++;
	double within = (u - share[part]) / (share[part + 1] - share[part]);
	return value[part] * pow(value[part + 1] / value[part], within);
}

static uint32_t draw_tokens(struct generator *generator, const struct quantiles *quantiles)
{
	double tokens = draw(generator, quantiles);

	return tokens < 1 ? 1 : tokens > CONTEXT_MAX ? CONTEXT_MAX : (uint32_t)tokens;
}

/* Gives the context as many full blocks as its tokens fill; new ones get new ids. */
static int context_fill(struct generator *generator, struct session *session)
{
	uint64_t full = session->context / generator->options->block_tokens;

	while (session->ids_count < full) {
		if (builder_grow((void **)&session->ids, session->ids_count, &session->ids_max,
				 sizeof(*session->ids)) < 0)
			return error_set(generator->error, -ENOMEM,
					 "no memory for a session's blocks");
		session->ids[session->ids_count++] = generator->next_id++;
	}
	session->ids_count = full;
	return 0;
}

/* A session that begins with the prefix of a variant and has `tokens` in all. */
static int session_begin(struct generator *generator, enum session_kind kind, unsigned variant,
			 double start_s)
{
	assert(generator->active_count < ACTIVE_MAX);
	struct session *session = &generator->active[generator->active_count];
	memset(session, 0, sizeof(*session));
	session->kind = kind;
	session->number = generator->sessions_count++;
	session->next_s = start_s;
	session->context = generator->prefix_tokens[variant];
	session->context_max = CONTEXT_MAX;
	if (kind == SESSION_CHAT) {
		session->turns_left = 1;
		session->context += draw_tokens(generator, &chat_first);
	} else {
		uint32_t first = draw_tokens(generator, &agent_first);
		double turns = draw(generator, &agent_turns);
		session->turns_left = (uint32_t)(kind == SESSION_AGENT ? turns : turns / 5) + 1;
		session->context_max = draw_tokens(generator, &agent_context);
		if (first > session->context && kind == SESSION_AGENT)
			session->context = first < session->context_max ? first
									: session->context_max;
	}
	uint64_t shared = generator->prefix_tokens[variant] / generator->options->block_tokens;
	for (uint64_t i = 0; i < shared; i++) {
		if (builder_grow((void **)&session->ids, session->ids_count, &session->ids_max,
				 sizeof(*session->ids)) < 0)
			return error_set(generator->error, -ENOMEM,
					 "no memory for a session's blocks");
		session->ids[session->ids_count++] = generator->prefix_first_id[variant] + i;
	}
	generator->active_count++;
	return context_fill(generator, session);
}

static void session_end(struct generator *generator, struct session *session)
{
	free(session->ids);
	*session = generator->active[--generator->active_count];
}

static int request_write(struct generator *generator, const struct session *session,
			 uint32_t output)
{
	gzFile file = generator->file;

	gzprintf(file,
		 "{\"timestamp\": %.0f, \"input_length\": %u, \"output_length\": %u, \"hash_ids\": "
		 "[",
		 session->next_s * 1000, session->context, output);
	for (uint64_t i = 0; i < session->ids_count; i++)
		gzprintf(file, i == 0 ? "%llu" : ", %llu", (unsigned long long)session->ids[i]);
	if (session->context % generator->options->block_tokens != 0)
		gzprintf(file, session->ids_count == 0 ? "%llu" : ", %llu",
			 (unsigned long long)generator->next_id++);
	if (gzprintf(file, "], \"chat_id\": %u}\n", session->number) <= 0)
		return error_set(generator->error, -EIO, "cannot write %s",
				 generator->options->path);
	return 0;
}

/* The context before the next turn: longer, or compacted to a part of it behind the prefix. */
static int session_grow(struct generator *generator, struct session *session)
{
	bool is_chat = session->kind == SESSION_CHAT;
	uint64_t grown = (uint64_t)session->context +
			 draw_tokens(generator, is_chat ? &chat_append : &agent_append);

	if (!is_chat && (grown > session->context_max || uniform(generator) < COMPACTION)) {
		uint64_t kept = agent_prefix.p10 / (double)generator->options->block_tokens;
		if (session->ids_count > kept)
			session->ids_count = kept;
		grown = (uint64_t)(session->context * (0.2 + 0.4 * uniform(generator)));
	}
	session->context = grown < CONTEXT_MAX ? (uint32_t)grown : CONTEXT_MAX;
	return context_fill(generator, session);
}

/* Ends or goes on after a turn; an agent that ends gives its user a new session. */
static int session_turn_end(struct generator *generator, struct session *session)
{
	double now_s = session->next_s;

	session->turns++;
	if (session->kind == SESSION_CHAT) {
		double goes_on = session->turns == 1 ? CHAT_GOES_ON_1 : CHAT_GOES_ON;
		session->turns_left = uniform(generator) < goes_on;
	} else {
		session->turns_left--;
	}
	if (session->turns_left == 0) {
		bool was_agent = session->kind == SESSION_AGENT;
		session_end(generator, session);
		if (!was_agent)
			return 0;
		return session_begin(generator, SESSION_AGENT,
				     (unsigned)random_below(&generator->random, VARIANTS),
				     now_s + draw(generator, &agent_gap_s));
	}
	bool has_subagent = session->kind == SESSION_AGENT && session->turns == 2 &&
			    uniform(generator) < SUBAGENT_SESSION;
	session->next_s += draw(generator,
				session->kind == SESSION_CHAT ? &chat_gap_s : &agent_gap_s);
	int result = session_grow(generator, session);
	if (result == 0 && has_subagent && generator->active_count < ACTIVE_MAX)
		result = session_begin(generator, SESSION_SUBAGENT,
				       (unsigned)random_below(&generator->random, VARIANTS),
				       now_s + 1);
	return result;
}

static struct session *session_earliest(struct generator *generator)
{
	struct session *earliest = NULL;

	for (uint32_t i = 0; i < generator->active_count; i++) {
		struct session *session = &generator->active[i];
		if (earliest == NULL || session->next_s < earliest->next_s)
			earliest = session;
	}
	return earliest;
}

/* Begins the chats that are due before `until_s`. Arrivals are Poisson, gathered in batches. */
static int chats_begin(struct generator *generator, double until_s)
{
	while (generator->options->has_chat && generator->next_chat_s <= until_s) {
		double batch_s = ceil(generator->next_chat_s / CHAT_BATCH_S) * CHAT_BATCH_S;
		if (generator->active_count < ACTIVE_MAX) {
			int result = session_begin(generator, SESSION_CHAT, VARIANTS, batch_s);
			if (result < 0)
				return result;
		}
		generator->next_chat_s -= log(1 - uniform(generator)) / generator->options->chats_s;
	}
	return 0;
}

static void prefixes_draw(struct generator *generator)
{
	for (unsigned variant = 0; variant <= VARIANTS; variant++) {
		uint32_t tokens = variant == VARIANTS ? CHAT_SYSTEM
						      : draw_tokens(generator, &agent_prefix);
		generator->prefix_tokens[variant] = tokens;
		generator->prefix_first_id[variant] = generator->next_id;
		generator->next_id += tokens / generator->options->block_tokens;
	}
}

static int requests_write(struct generator *generator)
{
	const struct generate_options *options = generator->options;
	int result = 0;

	prefixes_draw(generator);
	for (uint64_t user = 0; result == 0 && options->has_agentic && user < options->users;
	     user++)
		result = session_begin(generator, SESSION_AGENT,
				       (unsigned)random_below(&generator->random, VARIANTS),
				       uniform(generator) * AGENT_START_S);
	for (uint64_t i = 0; result == 0 && i < options->requests; i++) {
		struct session *session = session_earliest(generator);
		result = chats_begin(generator,
				     session != NULL ? session->next_s : generator->next_chat_s);
		session = session_earliest(generator);
		if (result < 0)
			break;
		assert(session != NULL);
		bool is_chat = session->kind == SESSION_CHAT;
		result = request_write(
			generator, session,
			draw_tokens(generator, is_chat ? &chat_output : &agent_output));
		if (result == 0)
			result = session_turn_end(generator, session);
	}
	return result;
}

static int generate_check(const struct generate_options *options, struct error *error)
{
	if (!options->has_chat && !options->has_agentic)
		return error_set(error, -EINVAL,
				 "--mix names no workload, expected chat, agentic or both");
	if (options->requests == 0 || options->requests > GENERATE_REQUESTS_MAX)
		return error_set(error, -EINVAL, "%llu requests, expected 1 to %u",
				 (unsigned long long)options->requests, GENERATE_REQUESTS_MAX);
	if (options->has_agentic && (options->users == 0 || options->users > ACTIVE_MAX / 2))
		return error_set(error, -EINVAL, "%llu users, expected 1 to %u",
				 (unsigned long long)options->users, ACTIVE_MAX / 2);
	assert(options->block_tokens > 0 && options->chats_s > 0);
	return 0;
}

int generate_write(const struct generate_options *options, struct error *error)
{
	struct generator generator = { .options = options, .error = error };
	size_t length = strlen(options->path);
	bool is_gzip = length > 3 && strcmp(options->path + length - 3, ".gz") == 0;

	int result = generate_check(options, error);
	if (result < 0)
		return result;
	generator.active = calloc(ACTIVE_MAX, sizeof(*generator.active));
	if (generator.active == NULL)
		return error_set(error, -ENOMEM, "no memory to generate a workload");
	errno = 0;
	generator.file = strcmp(options->path, "-") == 0
				 ? gzdopen(dup(1), "wT")
				 : gzopen(options->path, is_gzip ? "wbe" : "wTe");
	if (generator.file == NULL) {
		result = error_set(error, errno != 0 ? -errno : -ENOMEM, "cannot write %s: %s",
				   options->path, strerror(errno != 0 ? errno : ENOMEM));
		goto free_active;
	}
	random_init(&generator.random, options->seed);
	result = requests_write(&generator);
	for (uint32_t i = 0; i < generator.active_count; i++)
		free(generator.active[i].ids);
	if (gzclose(generator.file) != Z_OK && result == 0)
		result = error_set(error, -EIO, "cannot write %s", options->path);
free_active:
	free(generator.active);
	return result;
}
