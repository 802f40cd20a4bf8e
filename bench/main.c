/* bench/main.c: kvtier-bench: finds the command and runs it. */
#include "bench/commands.h"

#include "base/nearest.h"

#include <stdio.h>
#include <string.h>

struct command {
	const char *name;
	const char *help;
	int (*run)(int argc, char **argv);
};

static const struct command commands[] = {
	{ "replay",
	  "replays a trace through a running daemon, or through its cache alone (--simulate)",
	  replay_command },
	{ "generate", "writes a synthetic trace from a seed", generate_command },
	{ "micro", "measures operations beside what the machine gives for them", micro_command },
	{ "peer", "measures blocks between two nodes beside plain sockets and plain UCX",
	  peer_command },
	{ "gpu", "measures the transfer engine beside a GPU's plain copies", gpu_command },
};

#define COMMANDS_COUNT (sizeof(commands) / sizeof(commands[0]))

static void help_print(FILE *file)
{
	fprintf(file,
		"kvtier-bench %s: what a KV cache of some size is worth, and what ours costs\n\n",
		KVTIER_VERSION);
	for (unsigned i = 0; i < COMMANDS_COUNT; i++)
		fprintf(file, "  kvtier-bench %-10s %s\n", commands[i].name, commands[i].help);
	fprintf(file, "\nkvtier-bench COMMAND --help lists a command's options.\n");
}

static int unknown_command(const char *name)
{
	const char *names[COMMANDS_COUNT];

	for (unsigned i = 0; i < COMMANDS_COUNT; i++)
		names[i] = commands[i].name;
	const char *nearest = nearest_word(name, names, COMMANDS_COUNT);
	if (nearest != NULL)
		fprintf(stderr, "kvtier-bench: no command \"%.40s\"; did you mean %s?\n", name,
			nearest);
	else
		fprintf(stderr, "kvtier-bench: no command \"%.40s\"; see kvtier-bench --help\n",
			name);
	return EXIT_REFUSED;
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		help_print(stderr);
		return EXIT_REFUSED;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
		help_print(stdout);
		return EXIT_FINE;
	}
	if (strcmp(argv[1], "--version") == 0) {
		printf("kvtier-bench %s\n", KVTIER_VERSION);
		return EXIT_FINE;
	}
	for (unsigned i = 0; i < COMMANDS_COUNT; i++)
		if (strcmp(argv[1], commands[i].name) == 0)
			return commands[i].run(argc - 2, argv + 2);
	return unknown_command(argv[1]);
}
