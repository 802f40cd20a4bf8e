/* tests/sim/shrink.c: fewer operations, fewer kinds, then one after the other (delta debugging). */
#include "tests/sim/shrink.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRY_SECONDS_MAX 20u
#define TRIES_MAX 1500u

static unsigned tries;
static volatile unsigned *failed_at; /* shared with the children */

/* Whether it fails; *failed_at says where. */
static bool fails(const struct sim_options *options)
{
	struct sim_figures figures = { 0 };
	int status;
	pid_t pid;

	if (tries++ >= TRIES_MAX)
		return false;
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		int null = open("/dev/null", O_WRONLY);

		(void)dup2(null, STDERR_FILENO);
		alarm(TRY_SECONDS_MAX);
		sim_run(options, &figures, failed_at);
		_exit(EXIT_SUCCESS);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return false;
	return !WIFEXITED(status) || WEXITSTATUS(status) != EXIT_SUCCESS;
}

static void print_skips(const struct sim_options *options)
{
	const char *between = " --skip ";

	for (unsigned i = 0; i < options->operations_count; i++) {
		unsigned last = i;

		if (!options->is_skipped[i])
			continue;
		while (last + 1 < options->operations_count && options->is_skipped[last + 1])
			last++;
		if (last > i)
			printf("%s%u-%u", between, i, last);
		else
			printf("%s%u", between, i);
		between = ",";
		i = last;
	}
}

void shrink_print_replay(const struct sim_options *options, const char *program)
{
	static const char *const modes[] = { "both", "safety", "liveness" };
	const char *between = " --without ";

	printf("replay: %s --seed %llu --ops %u --mode %s", program,
	       (unsigned long long)options->seed, options->operations_count, modes[options->mode]);
	for (unsigned i = 0; i < OPERATIONS; i++) {
		if (!options->is_left_out[i])
			continue;
		printf("%s%s", between, operation_names[i]);
		between = ",";
	}
	print_skips(options);
	printf(" --verbose\n");
	fflush(stdout);
}

static void shrink_count(struct sim_options *options)
{
	for (unsigned step = options->operations_count / 2; step > 0;) {
		struct sim_options shorter = *options;

		shorter.operations_count -= step;
		if (step < options->operations_count && fails(&shorter))
			*options = shorter;
		else
			step /= 2;
	}
}

static void shrink_kinds(struct sim_options *options)
{
	for (unsigned kind = 0; kind < OPERATIONS; kind++) {
		struct sim_options fewer = *options;

		fewer.is_left_out[kind] = true;
		if (!options->is_left_out[kind] && fails(&fewer))
			*options = fewer;
	}
}

static void shrink_single(struct sim_options *options)
{
	for (unsigned size = (options->operations_count + 1) / 2; size > 0; size /= 2) {
		for (unsigned first = 0; first < options->operations_count; first += size) {
			struct sim_options fewer = *options;
			unsigned left = 0;

			for (unsigned i = first;
			     i < first + size && i < options->operations_count; i++) {
				left += !fewer.is_skipped[i];
				fewer.is_skipped[i] = true;
			}
			if (left > 0 && fails(&fewer))
				*options = fewer;
		}
	}
}

void shrink(const struct sim_options *given, const char *program)
{
	struct sim_options options = *given;
	char text[160];

	failed_at = mmap(NULL, sizeof(*failed_at), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	options.is_verbose = false;
	tries = 0;
	if (!fails(&options)) {
		printf("shrink: this does not fail\n");
		return;
	}
	shrink_count(&options);
	shrink_kinds(&options);
	shrink_single(&options);
	printf("shrunk in %u tries to:\n", tries);
	plan_make(options.seed, options.operations_count);
	for (unsigned i = 0; i < options.operations_count; i++) {
		const struct operation *operation = &plan.operations[i];

		if (options.is_skipped[i] || options.is_left_out[operation->kind])
			continue;
		operation_describe(operation, text, sizeof(text));
		printf("%4u %s\n", i, text);
	}
	shrink_print_replay(&options, program);
}
