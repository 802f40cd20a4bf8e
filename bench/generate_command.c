/* bench/generate_command.c: kvtier-bench generate. */
#include "bench/commands.h"
#include "bench/generate.h"
#include "bench/options.h"
#include "bench/trace.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* "chat,agentic" */
static int mix_parse(const char *text, struct generate_options *options, struct error *error)
{
	while (*text != '\0') {
		size_t length = strcspn(text, ",");
		if (length == 4 && strncmp(text, "chat", 4) == 0)
			options->has_chat = true;
		else if (length == 7 && strncmp(text, "agentic", 7) == 0)
			options->has_agentic = true;
		else
			return error_set(
				error, -EINVAL,
				"--mix names \"%.*s\", expected chat, agentic or chat,agentic",
				length < 40 ? (int)length : 40, text);
		text += length + (text[length] == ',');
	}
	return 0;
}

struct generate_arguments {
	struct generate_options options;
	const char *mix;
};

#define AT(member) offsetof(struct generate_arguments, member)

static const struct option_row rows[] = {
	{ "mix", OPTION_TEXT, "LIST", "workloads: chat, agentic or chat,agentic (default both)",
	  AT(mix), 0, 0, false },
	{ "requests", OPTION_COUNT, "N", "how many requests (default 1000)", AT(options.requests),
	  1, GENERATE_REQUESTS_MAX, false },
	{ "seed", OPTION_COUNT, "N", "the same seed gives the same trace (default 7)",
	  AT(options.seed), 0, 0, false },
	{ "block-tokens", OPTION_COUNT, "N", "tokens of a block (default 512)",
	  AT(options.block_tokens), 1, TRACE_BLOCK_TOKENS_MAX, false },
	{ "users", OPTION_COUNT, "N", "agentic sessions at a time (default 48)", AT(options.users),
	  1, 4096, false },
	{ "chats", OPTION_NUMBER, "RATE", "chat sessions that begin a second (default 2.3)",
	  AT(options.chats_s), 0.000001, 1e6, false },
	{ "output", OPTION_TEXT, "FILE", "where to; .gz is compressed, - is stdout",
	  AT(options.path), 0, 0, true },
};

#undef AT

int generate_command(int argc, char **argv)
{
	struct options table = { "generate",
				 "writes a synthetic trace (Mooncake JSONL) from a seed", rows,
				 sizeof(rows) / sizeof(rows[0]) };
	struct generate_arguments arguments = {
		.options = { .requests = 1000,
			     .seed = 7,
			     .block_tokens = 512,
			     .users = 48,
			     .chats_s = 2.3 },
		.mix = "chat,agentic",
	};
	struct error error;

	int result = options_parse(&table, &arguments, argc, argv, &error);
	if (result == 1)
		return EXIT_FINE;
	if (result == 0)
		result = mix_parse(arguments.mix, &arguments.options, &error);
	if (result == 0)
		result = generate_write(&arguments.options, &error);
	if (result < 0) {
		fprintf(stderr, "kvtier-bench: %s\n", error.text);
		return EXIT_REFUSED;
	}
	return EXIT_FINE;
}
