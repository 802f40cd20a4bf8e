/* daemon/worker.c: the parent's end of the frame: start, mailbox, beats, stall, death, restart. */
#include "daemon/worker.h"

#include "daemon/worker_shared.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

/* Messages handed over in one step: a talkative worker must not hold the loop. */
#define MESSAGES_STEP_MAX 1024u
#define LOOK_US 1000u    /* between two looks at whether the process still lives */
#define REAP_MS_MAX 5000 /* how long destroy waits for a killed process */

static const bool legal_move[5][5] = {
	[WORKER_STOPPED] = { [WORKER_STARTING] = true, [WORKER_WAITING] = true },
	[WORKER_STARTING] = { [WORKER_RUNNING] = true,
			      [WORKER_ENDING] = true,
			      [WORKER_WAITING] = true },
	[WORKER_RUNNING] = { [WORKER_ENDING] = true, [WORKER_WAITING] = true },
	[WORKER_ENDING] = { [WORKER_WAITING] = true },
	[WORKER_WAITING] = { [WORKER_STARTING] = true, [WORKER_WAITING] = true },
};

static void worker_become(struct worker *worker, enum worker_state next)
{
	assert(legal_move[worker->state][next]);
	assert(next == WORKER_WAITING || worker->pid > 0);
	worker->state = next;
}

static bool is_alive(const struct worker *worker)
{
	return worker->state == WORKER_STARTING || worker->state == WORKER_RUNNING;
}

/* ---- death and restart ---- */

/* Notes a death; returns whether it was one too many. */
static bool death_note(struct worker *worker, uint64_t now_us)
{
	if (worker->deaths_count == WORKER_DEATHS_MAX) {
		if (now_us - worker->deaths_us[0] < WORKER_DEATHS_US) {
			worker->deaths_count = 0;
			return true;
		}
		memmove(worker->deaths_us, worker->deaths_us + 1,
			(WORKER_DEATHS_MAX - 1) * sizeof(worker->deaths_us[0]));
		worker->deaths_count--;
	}
	worker->deaths_us[worker->deaths_count++] = now_us;
	return false;
}

static void wait_begin(struct worker *worker, uint64_t now_us)
{
	if (now_us - worker->started_us >= WORKER_HEALTHY_US)
		worker->backoff_us = WORKER_BACKOFF_US_MIN;
	worker->is_resting = death_note(worker, now_us);
	worker->wait_until_us = now_us + (worker->is_resting ? WORKER_REST_US : worker->backoff_us);
	worker->backoff_us = worker->backoff_us * 2 < WORKER_BACKOFF_US_MAX ? worker->backoff_us * 2
									    : WORKER_BACKOFF_US_MAX;
	if (worker->is_resting)
		worker->backoff_us = WORKER_BACKOFF_US_MIN;
}

static void life_begin(struct worker *worker, uint64_t now_us)
{
	struct error error;
	int result = worker_life_open(worker, now_us, &error);

	worker->is_resting = false;
	if (worker->lives++ > 0)
		worker->restarts++;
	if (result < 0) {
		worker_life_close(worker);
		wait_begin(worker, now_us);
		worker_become(worker, WORKER_WAITING);
		worker->config.on_end(worker->config.owner, error.text);
		return;
	}
	worker_become(worker, WORKER_STARTING);
	worker->config.on_start(worker->config.owner);
}

void worker_kill(struct worker *worker, const char *reason)
{
	if (!is_alive(worker))
		return;
	assert(worker->pid > 0);
	snprintf(worker->reason, sizeof(worker->reason), "%s", reason);
	/* Not reaped yet, so the number is still this process's. */
	kill(worker->pid, SIGKILL);
	worker_become(worker, WORKER_ENDING);
}

/* Whether the process has ended; reaps it. */
static bool process_has_ended(struct worker *worker, int *out_status)
{
	int status = 0;
	pid_t pid = waitpid(worker->pid, &status, WNOHANG);

	/* ECHILD: somebody set SIGCHLD to be ignored, and the kernel reaped it. */
	if (pid == 0 || (pid < 0 && errno != ECHILD))
		return false;
	*out_status = status;
	return true;
}

static void reason_set(struct worker *worker, int status)
{
	if (worker->reason[0] != '\0')
		return;
	if (WIFSIGNALED(status))
		snprintf(worker->reason, sizeof(worker->reason), "killed by signal %d (%s)",
			 WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		snprintf(worker->reason, sizeof(worker->reason), "ended with status %d",
			 WEXITSTATUS(status));
}

/* Hands over at most `limit` messages; returns how many, or -EPROTO. */
static int messages_take(struct worker *worker, unsigned limit)
{
	_Alignas(16) uint8_t message[WORKER_MESSAGE_BYTES_MAX];
	unsigned taken = 0;

	while (taken < limit && !worker->is_garbled && is_alive(worker)) {
		int result = ring_take(&worker->up, message);
		if (result < 0) {
			worker->is_garbled = true;
			return result;
		}
		if (result == 0)
			break;
		taken++;
		worker->config.on_message(worker->config.owner, message);
	}
	return (int)taken;
}

static void life_end(struct worker *worker, int status, uint64_t now_us)
{
	char reason[WORKER_REASON_BYTES];

	/* What it said before it died still counts: the ring cannot hold more than this. A worker
	 * that we gave up for a reason is not listened to any more. */
	if (worker->state != WORKER_ENDING)
		(void)messages_take(worker, worker->config.messages_max);
	reason_set(worker, status);
	snprintf(reason, sizeof(reason), "%s", worker->reason);
	worker_life_close(worker);
	wait_begin(worker, now_us);
	worker_become(worker, WORKER_WAITING);
	worker->config.on_end(worker->config.owner, reason);
}

/* ---- the step ---- */

static void beat(struct worker *worker, uint64_t now_us)
{
	uint64_t theirs = atomic_load_explicit(&worker->shared->worker_beat_us,
					       memory_order_relaxed);

	/* Ours is the machine's clock even where decisions are made on a test's: the worker is a
	 * real process. */
	atomic_store_explicit(&worker->shared->parent_beat_us, clock_now_us(clock_real()),
			      memory_order_relaxed);
	if (theirs == worker->beat)
		return;
	worker->beat = theirs;
	worker->beat_seen_us = now_us;
	if (worker->state == WORKER_STARTING)
		worker_become(worker, WORKER_RUNNING);
}

static void stall_check(struct worker *worker, uint64_t now_us)
{
	char reason[WORKER_REASON_BYTES];
	uint64_t silent_us_max = worker->config.stall_us_max;

	if (!is_alive(worker))
		return;
	if (worker->state == WORKER_STARTING && silent_us_max < WORKER_START_US_MAX)
		silent_us_max = WORKER_START_US_MAX;
	if (now_us - worker->beat_seen_us < silent_us_max)
		return;
	snprintf(reason, sizeof(reason), "stalled: no heartbeat for %llu ms",
		 (unsigned long long)(now_us - worker->beat_seen_us) / 1000);
	worker_kill(worker, reason);
}

static bool life_step(struct worker *worker, uint64_t now_us)
{
	int status, taken = 0;

	if (is_alive(worker)) {
		beat(worker, now_us);
		taken = messages_take(worker, MESSAGES_STEP_MAX);
		if (taken < 0)
			worker_kill(worker, "wrote an impossible index into its mailbox");
		stall_check(worker, now_us);
	}
	if (now_us - worker->looked_us < LOOK_US && worker->state != WORKER_ENDING)
		return taken != 0;
	worker->looked_us = now_us;
	if (!process_has_ended(worker, &status))
		return taken != 0;
	life_end(worker, status, now_us);
	return true;
}

bool worker_step(struct worker *worker, uint64_t now_us)
{
	bool did_something = false;

	assert(!worker->in_step);
	worker->in_step = true;
	if (worker->state == WORKER_STOPPED ||
	    (worker->state == WORKER_WAITING && now_us >= worker->wait_until_us)) {
		life_begin(worker, now_us);
		did_something = true;
	} else if (worker->state != WORKER_WAITING) {
		did_something = life_step(worker, now_us);
	}
	worker->in_step = false;
	return did_something;
}

/* ---- the rest ---- */

static int wake_fds_open(struct worker *worker, struct error *error)
{
	int down = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC),
	    up = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	struct epoll_event event = { .events = EPOLLIN };

	worker->down_fd = down < 0 ? -1 : worker_fd_high(down);
	worker->up_fd = up < 0 ? -1 : worker_fd_high(up);
	worker->wake_fd = epoll_create1(EPOLL_CLOEXEC);
	if (worker->down_fd < 0 || worker->up_fd < 0 || worker->wake_fd < 0 ||
	    epoll_ctl(worker->wake_fd, EPOLL_CTL_ADD, worker->up_fd, &event) < 0)
		return error_set(error, -errno, "no descriptors for worker %s: %s%s", worker->name,
				 strerror(errno), error_advice(-errno));
	return 0;
}

int worker_create(struct worker **out_worker, const struct worker_config *config,
		  struct error *error)
{
	assert(config->message_bytes > 0 && config->message_bytes <= WORKER_MESSAGE_BYTES_MAX);
	assert(config->messages_max > 0 && config->messages_max <= WORKER_MESSAGES_MAX);
	assert(config->on_start != NULL && config->on_message != NULL && config->on_end != NULL);
	struct worker *worker = calloc(1, sizeof(*worker));
	if (worker == NULL)
		return error_set(error, -ENOMEM, "no memory for worker %s", config->name);
	worker->config = *config;
	worker->memory_fd = worker->pid_fd = worker->wake_fd = worker->down_fd = worker->up_fd = -1;
	worker->channel_fd = -1;
	worker->backoff_us = WORKER_BACKOFF_US_MIN;
	worker->name = strdup(config->name);
	worker->argument = strdup(config->argument);
	worker->program = strdup(config->program != NULL ? config->program : "/proc/self/exe");
	int result = 0;
	if (worker->name == NULL || worker->argument == NULL || worker->program == NULL)
		result = error_set(error, -ENOMEM, "no memory for worker %s", config->name);
	if (result == 0)
		result = wake_fds_open(worker, error);
	if (result < 0) {
		worker_destroy(worker);
		return result;
	}
	*out_worker = worker;
	return 0;
}

/* Bounded: a process that the kernel cannot end (a disk that hangs) is left to it; it holds its
 * lock until then. */
static void process_reap(struct worker *worker)
{
	struct pollfd ended = { .fd = worker->pid_fd, .events = POLLIN };
	int status;

	kill(worker->pid, SIGKILL);
	if (worker->pid_fd >= 0)
		(void)poll(&ended, 1, REAP_MS_MAX);
	(void)waitpid(worker->pid, &status, WNOHANG);
}

void worker_destroy(struct worker *worker)
{
	if (worker == NULL)
		return;
	assert(!worker->in_step);
	if (worker->pid > 0)
		process_reap(worker);
	worker_life_close(worker);
	worker_fd_close(&worker->wake_fd);
	worker_fd_close(&worker->down_fd);
	worker_fd_close(&worker->up_fd);
	free(worker->name);
	free(worker->argument);
	free(worker->program);
	free(worker);
}

int worker_send(struct worker *worker, const void *message)
{
	if (!is_alive(worker))
		return -ENOTCONN;
	int result = ring_send(&worker->down, message);
	if (result != -EPROTO)
		return result;
	worker->is_garbled = true;
	worker_kill(worker, "wrote an impossible index into its mailbox");
	return -ENOTCONN;
}

int worker_send_packet(struct worker *worker, const void *packet, size_t bytes, const int *fds,
		       unsigned fds_count)
{
	assert(worker->config.has_channel);
	if (!is_alive(worker))
		return -ENOTCONN;
	int result = worker_channel_send(worker->channel_fd, packet, bytes, fds, fds_count);
	uint64_t one = 1;
	/* Its wait is on this eventfd alone. A full counter wakes as well. */
	if (result == 0 && write(worker->down_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		return -errno;
	return result;
}

int worker_pid_fd(const struct worker *worker)
{
	return worker->pid_fd;
}

uint32_t worker_room(const struct worker *worker)
{
	return is_alive(worker) ? ring_room(&worker->down) : 0;
}

int worker_fd(const struct worker *worker)
{
	return worker->wake_fd;
}

bool worker_sleep(struct worker *worker)
{
	return !is_alive(worker) || ring_sleep(&worker->up);
}

void worker_awake(struct worker *worker)
{
	uint64_t wakes;

	if (is_alive(worker))
		ring_awake(&worker->up);
	else if (read(worker->up_fd, &wakes, sizeof(wakes)) < 0)
		return; /* nothing there */
}

enum worker_state worker_state(const struct worker *worker)
{
	return worker->state;
}

uint32_t worker_restarts(const struct worker *worker)
{
	return worker->restarts;
}

pid_t worker_pid(const struct worker *worker)
{
	return worker->pid;
}

bool worker_is_resting(const struct worker *worker)
{
	return worker->is_resting;
}

uint64_t worker_next_us(const struct worker *worker, uint64_t now_us)
{
	if (worker->state == WORKER_STOPPED)
		return now_us;
	if (worker->state == WORKER_WAITING)
		return worker->wait_until_us;
	return now_us + WORKER_BEAT_US;
}
