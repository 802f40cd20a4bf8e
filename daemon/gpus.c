/* daemon/gpus.c: see gpus.h. */
#include "daemon/gpus.h"

#include "base/log.h"
#include "base/numa.h"
#include "base/trusted_path.h"
#include "daemon/server.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define STEP_US 1000u            /* beats and deaths can wait so long; answers wake the loop */

struct gpu {
	struct gpu_name name;
	int numa_node;
	struct gpu_link *link;
	struct lent_memory *lents[GPU_LENTS_MAX];
	uint64_t block_bytes[GPU_LENTS_MAX][LAYOUT_GROUPS_MAX];
	struct gpu_counters counters;
	struct pull_speed speeds[COPY_DIRECTIONS];
	uint32_t changes;                  /* as far as they were logged */
	bool was_ready;                    /* the same */
	char reason[WORKER_REASON_BYTES];  /* the same */
};

struct gpus {
	uint64_t stepped_us;
	bool is_busy;
	unsigned count;
	struct gpu gpus[];
};

_Static_assert(SETTINGS_TENANTS_MAX <= GPU_ARENAS_MAX, "each tenant's arena has a number");

/* ---- what the links say ---- */

static void lent_came(void *owner, uint32_t number, int result, const char *text)
{
	struct gpu *gpu = owner;
	struct lent_memory *lent = gpu->lents[number];

	assert(lent != NULL && lent->gpu == gpu);
	if (result < 0) {
		gpu->lents[number] = NULL;
		lent->gpu = NULL;
	}
	lent->answered(lent, result, text);
}

static void lent_went(void *owner, uint32_t number)
{
	struct gpu *gpu = owner;
	struct lent_memory *lent = gpu->lents[number];

	assert(lent != NULL && lent->gpu == gpu);
	gpu->lents[number] = NULL;
	lent->gpu = NULL;
	lent->returned(lent);
}

static void copy_ended(void *owner, const struct gpu_copy *copy, int result)
{
	struct gpu *gpu = owner;

	if (result < 0) {
		gpu->counters.failed[copy->direction]++;
		return;
	}
	gpu->counters.done[copy->direction]++;
	gpu->counters.bytes[copy->direction] += gpu->block_bytes[copy->lent][copy->group];
}

/* ---- start and end ---- */

static int gpu_open(struct daemon *daemon, struct gpu *gpu, struct error *error)
{
	const char *library = daemon->settings.gpu_library;
	char folder[2 * SETTINGS_PATH_BYTES];
	const struct gpu_link_config config = {
		.vendor = gpu->name.vendor,
		.bus_id = gpu->name.bus_id,
		.library = library[0] == '\0' ? NULL : library,
		.folder = folder,
		.clock = daemon->clock,
		.lock_fd = daemon->lock_fd,
		.lent = lent_came,
		.returned = lent_went,
		.copied = copy_ended,
		.owner = gpu,
	};

	log_line(LOG_INFO, "gpu_found", "gpu=%s:%s", gpu->name.vendor, gpu->name.bus_id);
	snprintf(folder, sizeof(folder), "%s/gpu", daemon->settings.state_directory);
	int result = trusted_folder_make(folder, 0700, "state_directory", error);
	return result < 0 ? result : gpu_link_create(&gpu->link, &config, error);
}

int gpus_create(struct daemon *daemon, struct error *error)
{
	struct gpu_name names[GPUS_MAX];
	unsigned count = gpu_names_read(daemon->settings.gpus, GPU_PCI_FOLDER, names);
	int result = 0;

	if (count == 0)
		return 0;
	daemon->gpus = calloc(1, sizeof(*daemon->gpus) + count * sizeof(struct gpu));
	if (daemon->gpus == NULL)
		return error_set(error, -ENOMEM, "no memory for %u GPUs", count);
	while (result == 0 && daemon->gpus->count < count) {
		struct gpu *gpu = &daemon->gpus->gpus[daemon->gpus->count];

		gpu->name = names[daemon->gpus->count++];
		gpu->numa_node = numa_node_of_pci(GPU_PCI_FOLDER, gpu->name.bus_id);
		for (unsigned way = 0; way < COPY_DIRECTIONS; way++)
			pull_speed_init(&gpu->speeds[way]);
		result = gpu_open(daemon, gpu, error);
	}
	if (result == 0)
		daemon->pull_ops = &pull_ops_gpus;
	return result;
}

uint64_t gpus_numa_nodes(const struct daemon *daemon)
{
	uint64_t nodes = 0;

	for (unsigned n = 0; n < gpus_count(daemon); n++)
		if (daemon->gpus->gpus[n].numa_node >= 0)
			nodes |= UINT64_C(1) << daemon->gpus->gpus[n].numa_node;
	return nodes;
}

int gpus_open(struct daemon *daemon, struct error *error)
{
	int result = 0;

	for (unsigned n = 0; result == 0 && n < gpus_count(daemon); n++) {
		struct gpu_link *link = daemon->gpus->gpus[n].link;

		for (unsigned i = 0; i < daemon->tenants_count; i++)
			gpu_link_arena(link, i, daemon->tenants[i].arena.fd,
				       ARENA_HEAD_BYTES + daemon->tenants[i].arena.bytes);
		result = server_watch(daemon->server, worker_fd(gpu_link_worker(link)), error);
	}
	return result;
}

void gpus_destroy(struct daemon *daemon)
{
	for (unsigned n = 0; n < gpus_count(daemon); n++)
		gpu_link_destroy(daemon->gpus->gpus[n].link);
	free(daemon->gpus);
	daemon->gpus = NULL;
}

/* ---- the pass ---- */

static void changes_log(struct gpu *gpu)
{
	struct gpu_link_status status;
	char quoted[2 * WORKER_REASON_BYTES];

	gpu->changes = gpu_link_changes(gpu->link);
	gpu_link_status(gpu->link, &status);
	for (unsigned way = 0; status.is_ready && !gpu->was_ready && way < COPY_DIRECTIONS; way++)
		pull_speed_calibrated(&gpu->speeds[way], status.speeds[way].latency_us,
				      status.speeds[way].bytes_us);
	if (status.is_ready && !gpu->was_ready)
		log_line(LOG_INFO, "gpu_open", "gpu=%s:%s name=%s pid=%d restarts=%u",
			 gpu->name.vendor, gpu->name.bus_id,
			 log_quote(quoted, sizeof(quoted), status.device), (int)status.pid,
			 status.restarts);
	/* An end without a new reason is one that was not open in between. */
	if (status.reason[0] != '\0' &&
	    (strcmp(status.reason, gpu->reason) != 0 || (gpu->was_ready && !status.is_ready)))
		log_line(LOG_WARNING, "gpu_failed", "gpu=%s:%s restarts=%u reason=%s",
			 gpu->name.vendor, gpu->name.bus_id, status.restarts,
			 log_quote(quoted, sizeof(quoted), status.reason));
	gpu->was_ready = status.is_ready;
	snprintf(gpu->reason, sizeof(gpu->reason), "%s", status.reason);
}

bool gpus_step(struct daemon *daemon)
{
	struct gpus *gpus = daemon->gpus;

	if (gpus == NULL)
		return false;
	if (!gpus->is_busy && !server_has_fired(daemon) &&
	    daemon->now_us - gpus->stepped_us < STEP_US)
		return false;
	gpus->stepped_us = daemon->now_us;
	gpus->is_busy = false;
	for (unsigned n = 0; n < gpus->count; n++) {
		struct gpu *gpu = &gpus->gpus[n];

		gpus->is_busy = gpu_link_step(gpu->link, daemon->now_us) || gpus->is_busy;
		if (gpu->changes != gpu_link_changes(gpu->link))
			changes_log(gpu);
	}
	return gpus->is_busy;
}

bool gpus_sleep(struct daemon *daemon)
{
	bool may_sleep = true;

	for (unsigned n = 0; n < gpus_count(daemon); n++)
		may_sleep = worker_sleep(gpu_link_worker(daemon->gpus->gpus[n].link)) && may_sleep;
	return may_sleep;
}

void gpus_awake(struct daemon *daemon)
{
	for (unsigned n = 0; n < gpus_count(daemon); n++)
		worker_awake(gpu_link_worker(daemon->gpus->gpus[n].link));
}

/* ---- pull ---- */

static bool is_named(const struct gpu *gpu, const char *name)
{
	struct gpu_link_status status;

	if (gpu_bus_ids_are_equal(gpu->name.bus_id, name))
		return true;
	gpu_link_status(gpu->link, &status);
	return status.uuid[0] != '\0' && strcasecmp(status.uuid, name) == 0;
}

/* -EAGAIN also where a UUID may be that of one that has not been opened yet. */
static int gpu_find(struct daemon *daemon, const char *name, struct gpu **out_gpu,
		    struct error *error)
{
	bool is_uuid = strncasecmp(name, "GPU-", 4) == 0, all_are_known = true;

	for (unsigned n = 0; n < gpus_count(daemon); n++) {
		struct gpu *gpu = &daemon->gpus->gpus[n];
		struct gpu_link_status status;

		if (is_named(gpu, name)) {
			*out_gpu = gpu;
			return 0;
		}
		gpu_link_status(gpu->link, &status);
		all_are_known = all_are_known && status.device[0] != '\0';
	}
	if (is_uuid && !all_are_known)
		return error_set(error, -EAGAIN,
				 "no GPU that is open has the UUID %s; kvtierd knows others by "
				 "their PCI bus id alone until they are", name);
	return error_set(error, -ENODEV, "kvtierd has no GPU %s: setting gpus", name);
}

/* What the copies of each group bring, for the counters. */
static void groups_measure(const struct lend_view *view, uint64_t *out_bytes)
{
	const struct lend_plane *plane = view->planes;

	for (uint32_t group = 0; group < view->head->groups_count; group++) {
		out_bytes[group] = 0;
		for (uint32_t n = 0; n < view->groups[group].planes_count; n++)
			out_bytes[group] += (plane++)->bytes;
	}
}

static int gpu_lend(struct daemon *daemon, struct lent_memory *lent, const void *packet,
		    size_t bytes, const int *fds, unsigned fds_count, struct error *error)
{
	struct gpu_link_status status;
	struct lend_view view;
	struct gpu *gpu = NULL;
	int result = lend_read(packet, bytes, &view, error);

	if (result == 0)
		result = gpu_find(daemon, view.head->device, &gpu, error);
	if (result < 0)
		return result;
	gpu_link_status(gpu->link, &status);
	if (!status.is_ready)
		return error_set(error, -EAGAIN, "GPU %s is not open: %s", gpu->name.bus_id,
				 status.reason[0] != '\0' ? status.reason : "it is being opened");
	if (status.is_pinning)
		return error_set(error, -EAGAIN, "GPU %s: memory is still being pinned",
				 gpu->name.bus_id);
	result = gpu_link_lend(gpu->link, packet, bytes, fds, fds_count, &lent->number);
	if (result < 0)
		return error_set(error, -EAGAIN, "GPU %s: %s", gpu->name.bus_id,
				 result == -EAGAIN ? "as many engines as can lend memory do"
						   : "its process has ended");
	assert(gpu->lents[lent->number] == NULL);
	gpu->lents[lent->number] = lent;
	groups_measure(&view, gpu->block_bytes[lent->number]);
	lent->gpu = gpu;
	lent->speeds = gpu->speeds;
	lent->has_word = view.head->word_region != LEND_NO_WORD;
	return 0;
}

static void gpu_give_back(struct daemon *daemon, struct lent_memory *lent)
{
	(void)daemon;
	assert(lent->gpu != NULL);
	gpu_link_return(lent->gpu->link, lent->number);
}

static int gpu_copy_begin(struct daemon *daemon, struct lent_memory *lent, struct tenant *tenant,
			  struct gpu_copy *copy)
{
	if (lent->gpu == NULL)
		return -ENODEV;
	copy->lent = lent->number;
	copy->arena = (uint32_t)(tenant - daemon->tenants);
	return gpu_link_copy(lent->gpu->link, copy);
}

static bool gpu_cancel(struct daemon *daemon, struct lent_memory *lent, uint64_t job)
{
	(void)daemon;
	return lent->gpu == NULL || gpu_link_cancel(lent->gpu->link, lent->number, job);
}

static int gpu_process_fd(struct daemon *daemon, const struct lent_memory *lent)
{
	(void)daemon;
	return lent->gpu == NULL ? -1 : worker_pid_fd(gpu_link_worker(lent->gpu->link));
}

const struct pull_ops pull_ops_gpus = {
	.name = "gpus",
	.lend = gpu_lend,
	.give_back = gpu_give_back,
	.copy = gpu_copy_begin,
	.cancel = gpu_cancel,
	.process_fd = gpu_process_fd,
};

/* ---- for people ---- */

unsigned gpus_count(const struct daemon *daemon)
{
	return daemon->gpus == NULL ? 0 : daemon->gpus->count;
}

void gpus_figures(const struct daemon *daemon, unsigned number, struct gpu_figures *out_figures)
{
	const struct gpu *gpu = &daemon->gpus->gpus[number];
	struct gpu_link_status *link = &out_figures->link;

	assert(number < gpus_count(daemon));
	out_figures->name = gpu->name;
	out_figures->numa_node = gpu->numa_node;
	out_figures->counters = gpu->counters;
	memcpy(out_figures->speeds, gpu->speeds, sizeof(out_figures->speeds));
	for (unsigned way = 0; way < COPY_DIRECTIONS; way++)
		pull_speed_settle(&out_figures->speeds[way], daemon->now_us);
	gpu_link_status(gpu->link, link);
	if (link->is_ready)
		out_figures->state = link->is_pinning ? GPU_PINNING : GPU_OPEN;
	else if (link->state == WORKER_WAITING || link->state == WORKER_ENDING)
		out_figures->state = GPU_WAITING;
	else
		out_figures->state = GPU_OPENING;
}

const char *gpu_state_name(enum gpu_state state)
{
	static const char *const names[GPU_STATES] = {
		[GPU_OPENING] = "opening",
		[GPU_PINNING] = "pinning",
		[GPU_OPEN] = "ready",
		[GPU_WAITING] = "waiting",
	};

	assert(state < GPU_STATES);
	return names[state];
}

const char *gpu_direction_name(enum copy_direction direction)
{
	return direction == COPY_STORE ? "store" : "load";
}
