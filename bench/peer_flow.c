/* bench/peer_flow.c: two processes a flow, and what they found. */
#include "bench/peer_flow.h"

#include "bench/micro.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

struct flow_report {
	int result;
	struct flow_result found;
	struct error error;
};

int flow_say(struct flow_end *end, const void *word, size_t bytes)
{
	return send(end->control, word, bytes, MSG_NOSIGNAL) == (ssize_t)bytes ? 0 : -EPIPE;
}

int flow_hear(struct flow_end *end, void *word, size_t bytes)
{
	return recv(end->control, word, bytes, 0) == (ssize_t)bytes
		       ? 0
		       : error_set(&end->error, -EPIPE, "the other end has gone");
}

uint8_t *flow_slot(const struct flow_end *end, uint64_t number)
{
	return end->memory + number % FLOW_SLOTS * end->bytes;
}

void flow_begin(struct flow_end *end)
{
	char word = 'b';

	/* Both are ready; who is first waits. A failure shows in what follows. */
	(void)!flow_say(end, &word, 1);
	(void)!flow_hear(end, &word, 1);
}

double flow_cpu_seconds(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static int netns_enter(const char *name)
{
	char path[128];
	int fd, result;

	snprintf(path, sizeof(path), "/run/netns/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	result = setns(fd, CLONE_NEWNET);
	close(fd);
	return result;
}

/* In a process of its own; never returns. */
static void end_run(const struct flow *flow, const struct flow_place *place, bool is_giver,
		    struct flow_end *end, int report_fd)
{
	struct flow_report report = { 0 };
	size_t bytes = (size_t)FLOW_SLOTS * end->bytes;
	const char *device = place->devices[is_giver ? 0 : 1];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	alarm(FLOW_SECONDS_MAX);
	end->host = place->host;
	if (device != NULL)
		(void)setenv("UCX_NET_DEVICES", device, 1);
	if (is_giver && place->giver_netns != NULL && netns_enter(place->giver_netns) < 0) {
		report.result = error_set(&report.error, -errno, "cannot enter netns %s: %s",
					  place->giver_netns, strerror(errno));
		_exit(write(report_fd, &report, sizeof(report)) < 0);
	}
	end->transport = flow->transport;
	end->is_guarded = flow->is_guarded;
	end->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (end->memory == MAP_FAILED)
		_exit(1);
	(void)madvise(end->memory, bytes, MADV_HUGEPAGE);
	memset(end->memory, 1, bytes);
	report.result = is_giver ? flow->give(end) : flow->take(end);
	report.found = end->result;
	report.error = end->error;
	_exit(write(report_fd, &report, sizeof(report)) == sizeof(report) ? 0 : 1);
}

static pid_t end_start(const struct flow *flow, const struct flow_place *place, bool is_giver,
		       struct flow_end *end, const int control[2], int report_fd)
{
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	close(control[is_giver ? 1 : 0]);
	end->control = control[is_giver ? 0 : 1];
	end_run(flow, place, is_giver, end, report_fd);
	return 0;
}

/* Reports come in any order; an end that died sends none, and the other one then ends. */
static int reports_take(const int report_fd, struct flow_result *out_result, struct error *error)
{
	struct flow_report report;
	int result = 0, reports = 0;

	*out_result = (struct flow_result){ 0 };
	while (read(report_fd, &report, sizeof(report)) == sizeof(report)) {
		reports++;
		if (report.result < 0 && (result == 0 || report.result == -ENOSYS)) {
			result = report.result;
			*error = report.error;
		}
		out_result->seconds += report.found.seconds;
		out_result->sender_cpu_seconds += report.found.sender_cpu_seconds;
		out_result->bytes += report.found.bytes;
	}
	if (result == 0 && reports < 2)
		result = error_set(error, -EPIPE, "an end died, or was not done within %u s",
				   FLOW_SECONDS_MAX);
	return result;
}

int flow_measure(const struct flow *flow, const struct flow_place *place, uint32_t bytes,
		 uint32_t count, struct flow_result *out_result, struct error *error)
{
	struct flow_end end = { .bytes = bytes, .count = count };
	int control[2], report[2], result;
	pid_t pids[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control) < 0 || pipe(report) < 0)
		return error_set(error, -errno, "no sockets: %s", strerror(errno));
	fflush(NULL);
	for (int i = 0; i < 2; i++)
		pids[i] = end_start(flow, place, i == 0, &end, control, report[1]);
	close(control[0]);
	close(control[1]);
	close(report[1]);
	result = reports_take(report[0], out_result, error);
	close(report[0]);
	for (int i = 0; i < 2; i++)
		if (pids[i] > 0)
			waitpid(pids[i], NULL, 0);
	return result;
}
