/* daemon/gpu_worker.c: the process that has a GPU: packets and messages in, answers out, a beat
 * between. */
#include "base/failpoint.h"
#include "daemon/gpu_link.h"
#include "daemon/sandbox.h"
#include "tiers/gpu/gpu_server.h"
#include "transfer/calibrate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define HANDLED_MAX 256u  /* messages between two steps */
#define POLL_NS 20000     /* between two looks at copies that are under way */
#define CHUNK_BYTES (UINT64_C(2) << 20)
/* A kernel of ours would cost the inference engine a change of contexts. */
#define PATHS_ALLOWED (((1u << COPY_PATHS) - 1) & ~(1u << COPY_KERNEL))

struct gpu_worker {
	struct worker_side side;
	struct device device;
	struct cost_table costs;
	struct gpu_server *server;
	char costs_file[400]; /* of this device, kept from start to start */
	_Alignas(8) uint8_t packet[WORKER_PACKET_BYTES_MAX];
};

static bool answer(void *owner, const struct gpu_message *message)
{
	struct gpu_worker *worker = owner;

	/* Every copy has room; a parent that takes nothing else for so long is not there. */
	return ring_send(&worker->side.up, message) == 0;
}

static const struct device_ops *ops_of(const char *vendor)
{
	return strcmp(vendor, "cuda") == 0   ? &device_cuda_ops
	       : strcmp(vendor, "rocm") == 0 ? &device_rocm_ops
					     : NULL;
}

static int open_device(struct gpu_worker *worker, struct error *error)
{
	char vendor[8], bus_id[48], library[320], folder[320];
	struct device_config config = { .bus_id = bus_id };
	int result;

	if (sscanf(worker->side.argument, "%7[^\t]\t%47[^\t]\t%319[^\t]\t%319[^\t]", vendor, bus_id,
		   library, folder) != 4 ||
	    ops_of(vendor) == NULL)
		return error_set(error, -EINVAL,
				 "a GPU's worker was started for \"%s\", not for a vendor, a bus "
				 "id, a library and a folder",
				 worker->side.argument);
	config.library = strcmp(library, "-") == 0 ? NULL : library;
	snprintf(worker->costs_file, sizeof(worker->costs_file), "%s/costs-%s-%s", folder, vendor,
		 bus_id);
	/* Drivers keep caches there. */
	setenv("HOME", folder, 1);
	result = sandbox_gpu_worker(config.library, folder, error);
	if (result == 0)
		result = device_open(&worker->device, ops_of(vendor), &config, error);
	sandbox_worker_cores();
	return result;
}

/* As calibrate(), of the process's own scratch memory; but 1 as well where nothing was measured:
 * without costs every copy goes by single calls, so what fails here costs speed alone. A device
 * that hangs or is lost (-ETIME, -EIO) is none. */
static int costs_measure(struct gpu_worker *worker, struct error *error)
{
	uint8_t *scratch = mmap(NULL, CALIBRATE_SCRATCH_BYTES, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	const struct calibrate_config config = {
		.scratch = scratch,
		.scratch_bytes = CALIBRATE_SCRATCH_BYTES,
		.clock = worker->side.clock,
		.budget_us = CALIBRATE_BUDGET_US,
		.paths = PATHS_ALLOWED,
	};
	int result;

	if (scratch == MAP_FAILED)
		return 1;
	result = device_pin(&worker->device, scratch, CALIBRATE_SCRATCH_BYTES, error);
	if (result == 0) {
		result = calibrate(&worker->device, &config, &worker->costs, error);
		if (result == -ETIME || result == -EIO)
			return result; /* copies may be under way: nothing is given back */
		(void)device_unpin(&worker->device, scratch, CALIBRATE_SCRATCH_BYTES, error);
	}
	munmap(scratch, CALIBRATE_SCRATCH_BYTES);
	if (result < 0 && result != -EIO) {
		fprintf(stderr, "kvtierd: GPU worker: copies go by single calls: %s\n",
			error->text);
		return 1;
	}
	return result;
}

/* Those of an earlier start, or measured now and kept, unless time ran out. */
static int costs_get(struct gpu_worker *worker, struct error *error)
{
	int result = calibrate_load(worker->costs_file, &worker->device, PATHS_ALLOWED,
				    &worker->costs, error);

	if (result == 0)
		return 0;
	if (result != -ENOENT)
		fprintf(stderr, "kvtierd: GPU worker: copies are measured anew: %s\n", error->text);
	result = costs_measure(worker, error);
	if (result != 0)
		return result < 0 ? result : 0;
	result = calibrate_store(worker->costs_file, &worker->device, PATHS_ALLOWED, &worker->costs,
				 error);
	if (result < 0)
		fprintf(stderr, "kvtierd: GPU worker: copies are measured at each start: %s\n",
			error->text);
	else
		(void)failpoint(gpu_costs_written);
	return 0;
}

static int server_open(struct gpu_worker *worker, struct error *error)
{
	const struct gpu_server_config config = {
		.device = &worker->device,
		.costs = &worker->costs,
		.paths = PATHS_ALLOWED,
		.chunk_bytes = CHUNK_BYTES,
		.answer = answer,
		.owner = worker,
	};

	return gpu_server_create(&worker->server, &config, error);
}

/* Whether it could be opened, and what it is called, or why not. */
static void say_ready(struct gpu_worker *worker, int result, const struct error *error)
{
	struct gpu_message message = { .verb = GPU_READY, .result = result };

	for (enum copy_direction way = 0; result == 0 && way < COPY_DIRECTIONS; way++)
		message.speeds[way] = cost_speed(&worker->costs, PATHS_ALLOWED, way);
	if (result == 0)
		snprintf(message.text, sizeof(message.text), "%s\n%s", worker->device.about.name,
			 worker->device.about.uuid);
	else
		snprintf(message.text, sizeof(message.text), "%s", error->text);
	(void)answer(worker, &message);
}

static int packets_take(struct gpu_worker *worker, struct error *error)
{
	int fds[WORKER_PACKET_FDS_MAX];
	unsigned fds_count;
	size_t bytes;
	int result;

	while ((result = worker_side_receive(&worker->side, worker->packet, &bytes, fds,
					     &fds_count)) == 1) {
		result = gpu_server_packet(worker->server, worker->packet, bytes, fds, fds_count,
					   error);
		while (fds_count > 0)
			close(fds[--fds_count]);
		if (result < 0)
			return result;
		(void)worker_side_beat(&worker->side); /* an import may take long */
	}
	return result == 0 ? 0 : error_set(error, result, "a packet did not come whole");
}

static int messages_take(struct gpu_worker *worker, struct error *error)
{
	struct gpu_message message;
	int result = 0;

	for (unsigned n = 0; result == 0 && n < HANDLED_MAX; n++) {
		if (!gpu_server_has_room(worker->server))
			return 0;
		int taken = ring_take(&worker->side.down, &message);
		if (taken < 0)
			return error_set(error, taken, "the parent wrote an impossible index");
		if (taken == 0)
			return 0;
		result = gpu_server_message(worker->server, &message, error);
	}
	return result;
}

/* Also under a silent parent: what is under way ends, and clients see that it has. */
static int serve(struct gpu_worker *worker, struct error *error)
{
	const struct timespec pause = { .tv_nsec = POLL_NS };
	int result = 0;

	while (result >= 0 && !worker_side_is_orphan(&worker->side)) {
		bool may_submit = worker_side_beat(&worker->side);

		result = packets_take(worker, error);
		if (result == 0)
			result = messages_take(worker, error);
		if (result == 0)
			result = gpu_server_step(worker->server, clock_now_us(worker->side.clock),
						 may_submit, error);
		if (result != 0)
			continue;
		if (gpu_server_is_idle(worker->server))
			worker_side_wait(&worker->side, WORKER_BEAT_US);
		else
			nanosleep(&pause, NULL);
	}
	return result < 0 ? result : 0;
}

int gpu_worker_main(int arguments_count, char **arguments)
{
	static struct gpu_worker worker;
	struct error error = { 0 };
	int result = worker_side_open(&worker.side, arguments_count, arguments, &error);

	if (result == 0 && worker.side.message_bytes != sizeof(struct gpu_message))
		result = error_set(
			&error, -EINVAL,
			"messages of %u bytes, not %zu: parent and worker are of two versions",
			worker.side.message_bytes, sizeof(struct gpu_message));
	if (result < 0)
		goto failed;
	result = open_device(&worker, &error);
	if (result == 0)
		result = costs_get(&worker, &error);
	if (result == 0)
		result = server_open(&worker, &error);
	say_ready(&worker, result, &error);
	if (result == 0)
		result = serve(&worker, &error);
failed:
	if (result < 0)
		fprintf(stderr, "kvtierd: GPU worker: %s\n", error.text);
	/* Nothing is given back by hand: the process's end does it, whatever is under way. */
	return result < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
