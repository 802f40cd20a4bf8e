/* tests/sim/main.c: options, worker processes, figures; what fails is shrunk and printed. */
#include "tests/sim/shrink.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define JOBS_MAX 64u
#define SEED_SECONDS_MAX 60u /* of real time */
#define EXIT_USAGE 2

static const char help[] =
	"sim: kvtierd, libkvtier and their machine in one process, under a clock of its own,\n"
	"with everything that can go wrong; from a seed, so that it can be done again.\n"
	"\n"
	"  --seed N            one seed\n"
	"  --seeds FROM..TO    these\n"
	"  --first N --count N so many from the first on (default: 1, 100)\n"
	"  --jobs N            processes that share them (default: 1)\n"
	"  --mode MODE         safety: faults to the end; liveness, both: then they stop, and\n"
	"                      everything must work again (default: both)\n"
	"  --ops N             operations a seed (default: 300)\n"
	"  --without KIND,...  leave out these kinds of operations\n"
	"  --skip N,N-N,...    leave out these operations\n"
	"  --verbose           tell the history (one seed)\n"
	"  --shrink            look for a shorter history of --seed that fails as well\n"
	"  --no-shrink         of a seed that fails, do not\n"
	"  --twice             run each seed twice: the histories must be the same\n"
	"  --json FILE         write figures there\n"
	"  --help\n";

struct command_line {
	struct sim_options options;
	uint64_t first, count;
	unsigned jobs;
	bool is_shrinking, may_shrink, is_twice;
	const char *json;
};

/* What a worker leaves for its parent. */
struct worker {
	pid_t pid;
	uint64_t seed;
	volatile unsigned at;
	bool has_ended;
	struct sim_figures figures;
};

static int usage(const char *what, const char *value)
{
	fprintf(stderr, "sim: %s: \"%s\"; see sim --help\n", what, value);
	return -EINVAL;
}

static int mode_read(struct sim_options *options, const char *text)
{
	static const char *const modes[] = { "both", "safety", "liveness" };

	for (unsigned i = 0; i < 3; i++)
		if (strcmp(text, modes[i]) == 0) {
			options->mode = (enum sim_mode)i;
			return 0;
		}
	return usage("--mode is both, safety or liveness", text);
}

static int without_read(struct sim_options *options, char *text)
{
	for (char *name = strtok(text, ","); name != NULL; name = strtok(NULL, ",")) {
		unsigned kind = 0;

		while (kind < OPERATIONS && strcmp(name, operation_names[kind]) != 0)
			kind++;
		if (kind == OPERATIONS)
			return usage("--without: no such kind of operation", name);
		options->is_left_out[kind] = true;
	}
	return 0;
}

static int skip_read(struct sim_options *options, char *text)
{
	for (char *part = strtok(text, ","); part != NULL; part = strtok(NULL, ",")) {
		unsigned first, last;
		int count = sscanf(part, "%u-%u", &first, &last);

		if (count < 1)
			return usage("--skip wants numbers, such as 3,7-9", part);
		if (count == 1)
			last = first;
		for (unsigned i = first; i <= last && i < OPERATIONS_MAX; i++)
			options->is_skipped[i] = true;
	}
	return 0;
}

static int number_read(const char *text, uint64_t most, uint64_t *out_number)
{
	char *end;
	uint64_t number = strtoull(text, &end, 0);

	if (*text == '\0' || *end != '\0' || number > most)
		return usage("not a number that can be used here", text);
	*out_number = number;
	return 0;
}

static int seeds_read(struct command_line *line, const char *text)
{
	unsigned long long first, last;

	if (sscanf(text, "%llu..%llu", &first, &last) != 2 || last < first)
		return usage("--seeds wants FROM..TO", text);
	line->first = first;
	line->count = last - first + 1;
	return 0;
}

static int option_take(struct command_line *line, int option)
{
	uint64_t number = 0;
	int result = 0;

	switch (option) {
	case 's':
		line->count = 1;
		return number_read(optarg, UINT64_MAX, &line->first);
	case 'r':
		return seeds_read(line, optarg);
	case 'f':
		return number_read(optarg, UINT64_MAX, &line->first);
	case 'c':
		return number_read(optarg, UINT64_MAX, &line->count);
	case 'j':
		result = number_read(optarg, JOBS_MAX, &number);
		line->jobs = number > 0 ? (unsigned)number : 1;
		return result;
	case 'o':
		result = number_read(optarg, OPERATIONS_MAX, &number);
		line->options.operations_count = (unsigned)number;
		return result;
	case 'm':
		return mode_read(&line->options, optarg);
	case 'w':
		return without_read(&line->options, optarg);
	case 'k':
		return skip_read(&line->options, optarg);
	case 'J':
		line->json = optarg;
		return 0;
	default:
		return -EINVAL;
	}
}

static int command_line_read(struct command_line *line, int count, char **arguments)
{
	static const struct option options[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "seeds", required_argument, NULL, 'r' },
		{ "first", required_argument, NULL, 'f' },
		{ "count", required_argument, NULL, 'c' },
		{ "jobs", required_argument, NULL, 'j' },
		{ "ops", required_argument, NULL, 'o' },
		{ "mode", required_argument, NULL, 'm' },
		{ "without", required_argument, NULL, 'w' },
		{ "skip", required_argument, NULL, 'k' },
		{ "json", required_argument, NULL, 'J' },
		{ "verbose", no_argument, NULL, 'v' },
		{ "shrink", no_argument, NULL, 'S' },
		{ "no-shrink", no_argument, NULL, 'N' },
		{ "twice", no_argument, NULL, '2' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int option, result = 0;

	line->first = 1;
	line->count = 100;
	line->jobs = 1;
	line->may_shrink = true;
	line->options.operations_count = OPERATIONS_DEFAULT;
	while (result == 0 && (option = getopt_long(count, arguments, "", options, NULL)) >= 0) {
		if (option == 'v')
			line->options.is_verbose = true;
		else if (option == 'S')
			line->is_shrinking = true;
		else if (option == 'N')
			line->may_shrink = false;
		else if (option == '2')
			line->is_twice = true;
		else if (option == 'h')
			return printf("%s", help) < 0 ? -EIO : 1;
		else
			result = option_take(line, option);
	}
	if (result == 0 && optind < count)
		result = usage("what is this", arguments[optind]);
	return result;
}

static void figures_add(struct sim_figures *sum, const struct sim_figures *more)
{
	uint64_t *target = (uint64_t *)sum;
	const uint64_t *source = (const uint64_t *)more;

	for (size_t i = 0; i < offsetof(struct sim_figures, digest) / sizeof(uint64_t); i++)
		target[i] += source[i];
}

static void worker_run(const struct command_line *line, struct worker *worker, unsigned place)
{
	struct sim_options options = line->options;

	for (uint64_t i = place; i < line->count; i += line->jobs) {
		uint64_t digest;

		options.seed = worker->seed = line->first + i;
		/* One that never waits would never end. */
		alarm(SEED_SECONDS_MAX);
		sim_run(&options, &worker->figures, &worker->at);
		if (!line->is_twice)
			continue;
		digest = worker->figures.digest;
		sim_run(&options, &worker->figures, &worker->at);
		if (worker->figures.digest != digest) {
			fprintf(stderr, "sim: seed %llu has two histories\n",
				(unsigned long long)options.seed);
			exit(EXIT_FAILURE);
		}
	}
	worker->has_ended = true;
	fflush(stdout);
	_exit(EXIT_SUCCESS);
}

/* As members of an object; returns how many of all places and ways were seen. */
static unsigned failpoints_write(const struct sim_figures *figures, FILE *file)
{
	static const char *const names[] = {
#define NAME(name, help) #name,
		FAILPOINT_TABLE(NAME)
#undef NAME
	};
	unsigned seen = 0;

	for (unsigned i = 0; i < FAILPOINTS; i++) {
		const uint64_t *hits = figures->failpoint_hits[i];

		seen += (hits[0] > 0) + (hits[1] > 0);
		if (file != NULL)
			fprintf(file, "%s\"%s\": [%llu, %llu]", i == 0 ? "" : ", ", names[i],
				(unsigned long long)hits[0], (unsigned long long)hits[1]);
	}
	return seen;
}

static int figures_write(const struct command_line *line, const struct sim_figures *figures,
			 double seconds)
{
	FILE *file = line->json != NULL ? fopen(line->json, "w") : NULL;

	printf("sim: %llu seeds in %.1f s: %llu operations, %llu blocks stored, %llu loads proven, "
	       "%llu missed; %llu lives of the daemon (%llu killed, %llu power cuts), %llu of "
	       "engines, %llu of GPU processes, %llu copies of a GPU, %llu disk faults, "
	       "%llu settings changed, %llu pages, %u of %u failpoints failed "
	       "or died at, %.0f s of its own time\n",
	       (unsigned long long)figures->seeds, seconds,
	       (unsigned long long)figures->operations, (unsigned long long)figures->stored,
	       (unsigned long long)figures->served, (unsigned long long)figures->missed,
	       (unsigned long long)figures->lives, (unsigned long long)figures->kills,
	       (unsigned long long)figures->power_cuts, (unsigned long long)figures->engine_lives,
	       (unsigned long long)figures->gpu_lives, (unsigned long long)figures->gpu_copies,
	       (unsigned long long)figures->faults, (unsigned long long)figures->reloads,
	       (unsigned long long)figures->pages,
	       failpoints_write(figures, NULL), 2 * FAILPOINTS, (double)figures->virtual_us / 1e6);
	if (line->json == NULL)
		return 0;
	if (file == NULL)
		return usage("cannot be written", line->json);
	fprintf(file,
		"{\"seeds\": %llu, \"seconds\": %.3f, \"operations\": %llu, \"stored\": %llu, "
		"\"served\": %llu, \"missed\": %llu, \"lives\": %llu, \"kills\": %llu, "
		"\"power_cuts\": %llu, \"stops\": %llu, \"engine_lives\": %llu, "
		"\"gpu_lives\": %llu, \"gpu_copies\": %llu, "
		"\"disk_faults\": %llu, \"settings_changed\": %llu, \"pages\": %llu, "
		"\"virtual_seconds\": %.3f, \"histories\": \"%016llx\", \"failpoints\": {",
		(unsigned long long)figures->seeds, seconds,
		(unsigned long long)figures->operations, (unsigned long long)figures->stored,
		(unsigned long long)figures->served, (unsigned long long)figures->missed,
		(unsigned long long)figures->lives, (unsigned long long)figures->kills,
		(unsigned long long)figures->power_cuts, (unsigned long long)figures->stops,
		(unsigned long long)figures->engine_lives, (unsigned long long)figures->gpu_lives,
		(unsigned long long)figures->gpu_copies, (unsigned long long)figures->faults,
		(unsigned long long)figures->reloads, (unsigned long long)figures->pages,
		(double)figures->virtual_us / 1e6, (unsigned long long)figures->histories);
	(void)failpoints_write(figures, file);
	fprintf(file, "}}\n");
	return fclose(file) == 0 ? 0 : -errno;
}

static void workers_start(const struct command_line *line, struct worker *workers)
{
	fflush(stdout);
	for (unsigned i = 0; i < line->jobs; i++) {
		pid_t pid = fork();

		if (pid < 0) {
			perror("sim: fork");
			exit(EXIT_FAILURE);
		}
		if (pid == 0)
			worker_run(line, &workers[i], i);
		/* Not by the child, which shares this memory. */
		workers[i].pid = pid;
	}
}

/* The one that failed first, or NULL. The others are ended. */
static struct worker *workers_await(const struct command_line *line, struct worker *workers)
{
	struct worker *failed = NULL;
	int status;
	pid_t pid;

	while ((pid = wait(&status)) > 0) {
		for (unsigned i = 0; i < line->jobs; i++) {
			if (workers[i].pid != pid)
				continue;
			workers[i].pid = 0;
			if (failed == NULL && !workers[i].has_ended)
				failed = &workers[i];
		}
		for (unsigned i = 0; failed != NULL && i < line->jobs; i++)
			if (workers[i].pid > 0)
				kill(workers[i].pid, SIGKILL);
	}
	return failed;
}

static int seeds_run(const struct command_line *line, const char *program)
{
	struct worker *workers = mmap(NULL, JOBS_MAX * sizeof(*workers), PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct sim_figures sum = { 0 };
	struct timespec began, ended;
	struct worker *failed;

	if (workers == MAP_FAILED)
		return -errno;
	clock_gettime(CLOCK_MONOTONIC, &began);
	workers_start(line, workers);
	failed = workers_await(line, workers);
	clock_gettime(CLOCK_MONOTONIC, &ended);
	if (failed == NULL) {
		for (unsigned i = 0; i < line->jobs; i++)
			figures_add(&sum, &workers[i].figures);
		return figures_write(line, &sum,
				     (double)(ended.tv_sec - began.tv_sec) +
					     (double)(ended.tv_nsec - began.tv_nsec) / 1e9);
	}
	struct sim_options options = line->options;
	options.seed = failed->seed;
	printf("sim: seed %llu failed at operation %u\n", (unsigned long long)failed->seed,
	       failed->at);
	shrink_print_replay(&options, program);
	if (line->may_shrink && !line->options.is_verbose)
		shrink(&options, program);
	return -EIO;
}

int main(int count, char **arguments)
{
	static struct command_line line;
	int result = command_line_read(&line, count, arguments);

	if (result != 0)
		return result < 0 ? EXIT_USAGE : EXIT_SUCCESS;
	if (line.is_shrinking) {
		line.options.seed = line.first;
		shrink(&line.options, arguments[0]);
		return EXIT_FAILURE;
	}
	return seeds_run(&line, arguments[0]) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
