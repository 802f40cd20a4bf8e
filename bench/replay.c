/* bench/replay.c: forks the engines, deals requests to them, waits, adds up. */
#include "bench/replay.h"

#include "base/clock.h"
#include "bench/progress.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TURN_PAUSE_NS 50000L
#define PARENT_PAUSE_NS 50000000L

struct runner {
	const struct trace *trace;
	const struct replay_options *options;
	struct replay_shared *shared;
	uint32_t *hits;
	uint32_t requests_count;
	pid_t children[REPLAY_PROCESSES_MAX];
};

static void pause_ns(long ns)
{
	struct timespec pause = { .tv_nsec = ns };

	nanosleep(&pause, NULL);
}

/* Turns of one session stay with one engine; without sessions they go round. */
static unsigned request_process(const struct runner *runner, uint32_t i)
{
	uint32_t session = runner->trace->requests[i].session;

	return (session == SESSION_NONE ? i : session) % runner->options->processes;
}

static bool is_stopped(const struct runner *runner)
{
	return atomic_load_explicit(&runner->shared->stop, memory_order_relaxed);
}

/* Open loop: waits for the request's time; what is late goes at once, and the lag is kept. */
static void arrival_wait(const struct runner *runner, const struct trace_request *request,
			 struct replay_figures *figures)
{
	uint64_t due_us = runner->shared->start_us +
			  (uint64_t)((double)request->arrival_us / runner->options->speed);

	for (uint64_t now_us = clock_now_us(clock_real()); now_us < due_us && !is_stopped(runner);
	     now_us = clock_now_us(clock_real())) {
		uint64_t left_us = due_us - now_us;
		pause_ns(left_us > 50000 ? PARENT_PAUSE_NS : (long)left_us * 1000);
	}
	uint64_t now_us = clock_now_us(clock_real());
	if (now_us > due_us && now_us - due_us > figures->lag_us_max)
		figures->lag_us_max = now_us - due_us;
}

static void turn_wait(const struct runner *runner, uint32_t i)
{
	while (atomic_load_explicit(&runner->shared->turn, memory_order_acquire) != i &&
	       !is_stopped(runner))
		pause_ns(TURN_PAUSE_NS);
}

static void process_serve(const struct runner *runner, struct engine *engine, unsigned process)
{
	struct replay_figures *figures = &runner->shared->figures[process];

	for (uint32_t i = 0; i < runner->requests_count && !is_stopped(runner); i++) {
		const struct trace_request *request = &runner->trace->requests[i];
		if (request_process(runner, i) != process)
			continue;
		if (runner->options->speed > 0)
			arrival_wait(runner, request, figures);
		if (runner->options->is_lockstep)
			turn_wait(runner, i);
		if (is_stopped(runner))
			return;
		runner->hits[i] = engine_serve(engine, request);
		if (runner->options->is_lockstep) {
			if (!engine_settle(engine))
				figures->lockstep_timeouts++;
			atomic_store_explicit(&runner->shared->turn, i + 1, memory_order_release);
		}
		if (figures->stuck_jobs > 0) {
			error_set(&figures->error, -ETIME,
				  "a job did not end %u s after its deadline",
				  REPLAY_QUIET_US_MAX / 1000000);
			return;
		}
	}
}

/* All start together: the time of connecting is not the cache's. */
static void start_wait(const struct runner *runner)
{
	struct replay_shared *shared = runner->shared;

	atomic_fetch_add(&shared->ready, 1);
	while (atomic_load(&shared->ready) <= runner->options->processes && !is_stopped(runner))
		pause_ns(TURN_PAUSE_NS);
}

_Noreturn static void process_main(const struct runner *runner, unsigned process)
{
	struct replay_figures *figures = &runner->shared->figures[process];
	struct engine *engine = NULL;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	int result = engine_open(&engine, runner->trace, runner->options, process, figures,
				 &figures->error);
	if (result == 0) {
		figures->error.code = 0;
		start_wait(runner);
		process_serve(runner, engine, process);
	}
	if (figures->error.code < 0)
		atomic_store(&runner->shared->stop, true);
	if (figures->stuck_jobs == 0)
		engine_close(engine);
	_exit(figures->error.code < 0 ? 1 : 0);
}

static uint64_t requests_done(const struct runner *runner)
{
	uint64_t done = 0;

	for (unsigned process = 0; process < runner->options->processes; process++)
		done += atomic_load_explicit(&runner->shared->figures[process].requests,
					     memory_order_relaxed);
	return done;
}

static void child_end(struct runner *runner, unsigned process, int status, struct error *error)
{
	const struct error *reason = &runner->shared->figures[process].error;

	runner->children[process] = 0;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return;
	atomic_store(&runner->shared->stop, true);
	if (error->code < 0)
		return; /* the first reason is the cause of the others */
	if (WIFEXITED(status) && reason->code < 0)
		error_set(error, reason->code, "%s", reason->text);
	else if (WIFSIGNALED(status))
		error_set(error, -ECHILD, "engine process %u died of signal %d", process,
			  WTERMSIG(status));
	else
		error_set(error, -ECHILD, "engine process %u ended with status %d", process,
			  WEXITSTATUS(status));
}

/* Tells whoever looks for the file that so many requests are through. */
static void mark_make(const struct replay_options *options, uint64_t done, bool *is_made)
{
	if (options->mark_path == NULL || *is_made || done < options->mark_at)
		return;
	int fd = open(options->mark_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	if (fd >= 0)
		close(fd);
	*is_made = true;
}

static void children_wait(struct runner *runner, struct replay *replay, struct error *error)
{
	struct replay_shared *shared = runner->shared;
	unsigned processes = runner->options->processes, left = processes;
	struct progress progress;
	bool is_marked = false;

	progress_init(&progress, "replay", runner->options->shows_progress);
	while (left > 0) {
		for (unsigned process = 0; process < processes; process++) {
			int status;
			if (runner->children[process] > 0 &&
			    waitpid(runner->children[process], &status, WNOHANG) > 0) {
				child_end(runner, process, status, error);
				left--;
			}
		}
		/* The one above `processes` is ours: it opens the gate. */
		if (shared->start_us == 0 && atomic_load(&shared->ready) == processes) {
			shared->start_us = clock_now_us(clock_real());
			atomic_fetch_add(&shared->ready, 1);
		}
		uint64_t done = requests_done(runner);
		mark_make(runner->options, done, &is_marked);
		progress_show(&progress, done, runner->requests_count);
		if (left > 0)
			pause_ns(shared->start_us == 0 ? TURN_PAUSE_NS : PARENT_PAUSE_NS / 10);
	}
	progress_finish(&progress);
	if (shared->start_us != 0)
		replay->seconds = (double)(clock_now_us(clock_real()) - shared->start_us) / 1e6;
}

static void figures_add(struct replay_figures *sum, const struct replay_figures *part)
{
#define ADD(member) sum->member += part->member
	ADD(requests);
	ADD(input_tokens);
	ADD(input_blocks);
	ADD(hit_tokens);
	ADD(hit_blocks);
	ADD(hit_tokens_peer);
	ADD(failed_fetches);
	ADD(hit_tokens_cpu);
	ADD(hit_tokens_nvme);
	ADD(hit_tokens_returned);
	ADD(checked_blocks);
	ADD(wrong_blocks);
	ADD(undelivered_blocks);
	ADD(late_calls);
	ADD(failed_lookups);
	ADD(failed_jobs);
	ADD(stuck_jobs);
	ADD(away_requests);
	ADD(returns);
	ADD(loaded_bytes);
	ADD(stored_bytes);
	ADD(present_blocks);
	ADD(stored_blocks);
	ADD(refused_blocks);
	ADD(load_us);
	ADD(store_us);
	ADD(check_us);
	ADD(lockstep_timeouts);
#undef ADD
	if (part->lag_us_max > sum->lag_us_max)
		sum->lag_us_max = part->lag_us_max;
	histogram_merge(&sum->lookup, &part->lookup);
	histogram_merge(&sum->load, &part->load);
	histogram_merge(&sum->store, &part->store);
}

static void figures_init(struct replay_figures *figures)
{
	histogram_init(&figures->lookup);
	histogram_init(&figures->load);
	histogram_init(&figures->store);
}

static void *shared_take(size_t bytes)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

static int children_start(struct runner *runner, struct error *error)
{
	for (unsigned process = 0; process < runner->options->processes; process++) {
		pid_t child = fork();
		if (child == 0)
			process_main(runner, process);
		if (child < 0) {
			atomic_store(&runner->shared->stop, true);
			return error_set(error, -errno, "cannot start engine process %u: %s",
					 process, strerror(errno));
		}
		runner->children[process] = child;
	}
	return 0;
}

static void children_stop(struct runner *runner)
{
	for (unsigned process = 0; process < runner->options->processes; process++) {
		if (runner->children[process] <= 0)
			continue;
		kill(runner->children[process], SIGKILL);
		waitpid(runner->children[process], NULL, 0);
	}
}

int replay_run(struct replay *replay, const struct trace *trace,
	       const struct replay_options *options, struct error *error)
{
	struct runner runner = { .trace = trace,
				 .options = options,
				 .requests_count = trace->requests_count };

	assert(options->processes >= 1 && options->processes <= REPLAY_PROCESSES_MAX);
	assert(options->shards >= 1 && options->shards <= REPLAY_SHARDS_MAX);
	memset(replay, 0, sizeof(*replay));
	if (options->requests_max != 0 && options->requests_max < runner.requests_count)
		runner.requests_count = (uint32_t)options->requests_max;
	replay->hits_count = runner.requests_count;
	runner.shared = shared_take(sizeof(*runner.shared));
	runner.hits = shared_take((runner.requests_count + 1ull) * sizeof(*runner.hits));
	replay->hits = runner.hits;
	if (runner.shared == NULL || runner.hits == NULL) {
		if (runner.shared != NULL)
			munmap(runner.shared, sizeof(*runner.shared));
		replay_finish(replay);
		return error_set(error, -ENOMEM, "no memory to share with engine processes");
	}
	memset(runner.hits, 0xff, (runner.requests_count + 1ull) * sizeof(*runner.hits));
	for (unsigned process = 0; process < options->processes; process++)
		figures_init(&runner.shared->figures[process]);
	error->code = 0;
	int result = children_start(&runner, error);
	if (result == 0)
		children_wait(&runner, replay, error);
	else
		children_stop(&runner);
	figures_init(&replay->figures);
	for (unsigned process = 0; process < options->processes; process++)
		figures_add(&replay->figures, &runner.shared->figures[process]);
	munmap(runner.shared, sizeof(*runner.shared));
	return error->code;
}

void replay_finish(struct replay *replay)
{
	if (replay->hits != NULL)
		munmap(replay->hits, (replay->hits_count + 1) * sizeof(*replay->hits));
	replay->hits = NULL;
}
