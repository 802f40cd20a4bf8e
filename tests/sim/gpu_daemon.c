/* tests/sim/gpu_daemon.c: the daemon's end of the GPU's process, in place of daemon/gpus.c. */
#include "tests/sim/gpu.h"

#include "daemon/server.h"
#include "tests/sim/kernel_fds.h"
#include "tests/sim/kernel_files.h"
#include "tests/sim/kernel_wraps.h"
#include "tests/sim/node.h"

#include <assert.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static struct gpu_sim *the_gpu; /* there is one node */

static void process_begin(struct gpu_sim *gpu)
{
	if (gpu->exit_fd >= 0)
		close(gpu->exit_fd);
	gpu->exit = object_create(OBJECT_PROCESS);
	gpu->exit->refs++;
	gpu->exit_fd = fd_open(gpu->exit);
	gpu->lock = object_at(gpu->parent->lock_fd);
	gpu->lock->refs++;
	gpu->lives++;
	gpu_sim_begin(gpu);
}

void gpu_sim_attach(struct gpu_sim *gpu, struct daemon *daemon)
{
	struct error error;
	int result;

	the_gpu = gpu;
	if (!gpu->shape.is_there)
		return;
	assert(gpu->process == NULL && gpu_sim_lents(gpu) == 0);
	gpu->parent = daemon;
	gpu->exit_fd = -1;
	gpu->bell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	gpu->bell = object_at(gpu->bell_fd);
	gpu->bell->refs++;
	for (unsigned way = 0; way < COPY_DIRECTIONS; way++)
		pull_speed_init(&gpu->speeds[way]);
	result = server_watch(daemon->server, gpu->bell_fd, &error);
	assert(result == 0);
	process_begin(gpu);
}

static bool process_has_gone(void *owner)
{
	return ((const struct gpu_sim *)owner)->process == NULL;
}

void gpu_sim_detach(struct gpu_sim *gpu)
{
	if (!gpu->shape.is_there)
		return;
	gpu->must_die = gpu->process != NULL;
	(void)task_wait(process_has_gone, gpu, NEVER);
	gpu->again_us = NEVER;
	(void)gpu_sim_step(gpu);
	if (gpu_sim_lents(gpu) != 0)
		sim_fail("the GPU's process has ended, and %u copies or memories are left",
			 gpu_sim_lents(gpu));
	close(gpu->exit_fd);
	close(gpu->bell_fd);
	gpu_sim_orphan(gpu);
}

/* ---- a turn ---- */

static bool copies_end(struct gpu_sim *gpu)
{
	bool did_work = false;

	for (unsigned i = 0; gpu->copies_count > 0 && i < GPU_SIM_COPIES; i++) {
		struct gpu_sim_copy *copy = &gpu->copies[i];
		struct gpu_copy *daemons = copy->daemons;

		if (!copy->is_used || !copy->is_ended)
			continue;
		memory_release(copy->arena);
		copy->is_used = false;
		gpu->copies_count--;
		did_work = true;
		daemons->done(daemons, copy->result);
	}
	return did_work;
}

static bool lent_is_copied(const struct gpu_sim *gpu, const struct gpu_sim_lent *lent)
{
	for (unsigned i = 0; gpu->copies_count > 0 && i < GPU_SIM_COPIES; i++)
		if (gpu->copies[i].is_used && gpu->copies[i].lent == lent)
			return true;
	return false;
}

static void lent_returns(struct gpu_sim_lent *lent)
{
	struct lent_memory *memory = lent->daemons;

	gpu_sim_lent_end(lent);
	memory->returned(memory);
}

static bool lent_step(struct gpu_sim *gpu, struct gpu_sim_lent *lent)
{
	struct lent_memory *memory = lent->daemons;
	int result = lent->import_result;

	if (!lent->is_used)
		return false;
	if (gpu->has_died || (lent->is_returning && !lent_is_copied(gpu, lent))) {
		lent_returns(lent);
		return true;
	}
	if (lent->is_returning || lent->is_answered || !lent->is_imported)
		return false;
	lent->is_answered = true;
	if (result < 0)
		gpu_sim_lent_end(lent);
	memory->answered(memory, result, "the import is refused");
	return true;
}

bool gpu_sim_step(struct gpu_sim *gpu)
{
	uint64_t rings;
	bool did_work;

	if (!gpu->shape.is_there)
		return false;
	(void)!read(gpu->bell_fd, &rings, sizeof(rings));
	did_work = copies_end(gpu);
	for (unsigned i = 0; i < GPU_SIM_LENTS; i++)
		did_work = lent_step(gpu, &gpu->lents[i]) || did_work;
	gpu->has_died = false;
	if (gpu->process == NULL && gpu->again_us <= kernel.now_us)
		process_begin(gpu);
	return did_work;
}

/* ---- the ops ---- */

static void news(struct gpu_sim *gpu)
{
	gpu->has_news = true;
	kernel.changes++;
}

static struct gpu_sim_lent *lent_of(const struct lent_memory *memory)
{
	for (unsigned i = 0; i < GPU_SIM_LENTS; i++)
		if (the_gpu->lents[i].is_used && the_gpu->lents[i].daemons == memory)
			return &the_gpu->lents[i];
	return NULL;
}

/* What an engine of ours describes: one region. Others are refused, as the driver would. */
static int lent_fill(struct gpu_sim_lent *lent, const struct lend_view *view, struct error *error)
{
	const struct lend_region *region = &view->regions[0];
	const struct lend_plane *plane = view->planes;

	if (view->head->regions_count != 1 || region->kind != LEND_HANDLE ||
	    view->head->groups_count > GPU_SIM_GROUPS)
		return error_set(error, -EINVAL, "the machine's GPU does not import this");
	lent->device = gpu_sim_import(the_gpu, &region->handle);
	if (lent->device == NULL || region->offset > lent->device->size ||
	    region->bytes > lent->device->size - region->offset)
		return error_set(error, -EINVAL, "there is no such allocation");
	lent->region = lent->device->bytes + region->offset;
	lent->groups_count = view->head->groups_count;
	for (uint32_t i = 0; i < lent->groups_count; i++) {
		lent->groups[i].blocks_count = view->groups[i].blocks_count;
		lent->groups[i].planes_count = view->groups[i].planes_count;
		if (view->groups[i].planes_count > GPU_SIM_PLANES)
			return error_set(error, -EINVAL, "too many planes");
		for (uint32_t n = 0; n < view->groups[i].planes_count; n++)
			lent->groups[i].planes[n] = *plane++;
	}
	if (view->head->word_region == 0 && the_gpu->shape.has_words)
		lent->word = (_Atomic uint64_t *)(void *)(lent->region + view->head->word_offset);
	return 0;
}

static int sim_lend(struct daemon *daemon, struct lent_memory *memory, const void *packet,
		    size_t bytes, const int *fds, unsigned fds_count, struct error *error)
{
	const struct object *words = fds_count > 0 ? object_of(fds[0], OBJECT_FILE) : NULL;
	struct gpu_sim_lent *lent = the_gpu->lents;
	struct lend_view view;
	int result = lend_read(packet, bytes, &view, error);

	(void)daemon;
	assert(result == 0);
	if (the_gpu->process == NULL)
		return error_set(error, -EAGAIN, "the GPU's process has not begun");
	if (words == NULL || words->file->memory == NULL ||
	    words->file->memory->size < sizeof(struct job_words))
		return error_set(error, -EINVAL, "these are no words of jobs");
	while (lent < the_gpu->lents + GPU_SIM_LENTS && lent->is_used)
		lent++;
	if (lent == the_gpu->lents + GPU_SIM_LENTS)
		return error_set(error, -EAGAIN, "as many engines as can lend memory do");
	memset(lent, 0, sizeof(*lent));
	result = lent_fill(lent, &view, error);
	if (result < 0)
		return result;
	lent->is_used = true;
	lent->daemons = memory;
	lent->device->refs++;
	lent->words_memory = words->file->memory;
	lent->words_memory->refs++;
	lent->words = (struct job_words *)(void *)lent->words_memory->bytes;
	lent->import_us = kernel.now_us + kernel_below(2 * the_gpu->shape.import_us + 1);
	memory->speeds = the_gpu->speeds;
	memory->has_word = lent->word != NULL;
	news(the_gpu);
	return 0;
}

static void sim_give_back(struct daemon *daemon, struct lent_memory *memory)
{
	struct gpu_sim_lent *lent = lent_of(memory);

	(void)daemon;
	assert(lent != NULL && !lent->is_returning);
	lent->is_returning = true;
	for (unsigned i = 0; i < GPU_SIM_COPIES; i++)
		if (the_gpu->copies[i].is_used && the_gpu->copies[i].lent == lent)
			the_gpu->copies[i].is_cancelled = true;
	the_gpu->bell->count++;
	news(the_gpu);
}

static int sim_copy(struct daemon *daemon, struct lent_memory *memory, struct tenant *tenant,
		    struct gpu_copy *copy)
{
	struct gpu_sim_lent *lent = lent_of(memory);
	unsigned place = 0;

	(void)daemon;
	if (lent == NULL || lent->is_returning || !lent->is_answered || the_gpu->process == NULL)
		return -ENODEV;
	while (place < GPU_SIM_COPIES && the_gpu->copies[place].is_used)
		place++;
	if (place == GPU_SIM_COPIES || kernel_chance(the_gpu->shape.fail_permille))
		return -EAGAIN;
	assert(copy->group < lent->groups_count);
	assert(copy->block < lent->groups[copy->group].blocks_count);
	assert(copy->job_place < JOB_WORDS);
	the_gpu->copies[place] = (struct gpu_sim_copy){
		.is_used = true,
		.daemons = copy,
		.lent = lent,
		.direction = copy->direction,
		.group = copy->group,
		.block = copy->block,
		.place = copy->job_place,
		.job = copy->job,
		.gate = copy->gate_value,
		.due_us = kernel.now_us + kernel_below(2 * the_gpu->shape.latency_us + 1),
		.deadline_us = copy->deadline_us,
		.payload = tenant->arena.start + copy->offset,
		.arena = memory_hold(tenant->arena.start + copy->offset),
	};
	assert(the_gpu->copies[place].arena != NULL);
	assert(copy->gate_value == 0 || lent->word != NULL);
	the_gpu->copies_count++;
	the_gpu->copies_ever++;
	news(the_gpu);
	return 0;
}

static bool sim_cancel(struct daemon *daemon, struct lent_memory *memory, uint64_t job)
{
	(void)daemon;
	if (kernel_chance(the_gpu->shape.fail_permille))
		return false;
	for (unsigned i = 0; i < GPU_SIM_COPIES; i++) {
		struct gpu_sim_copy *copy = &the_gpu->copies[i];

		if (copy->is_used && copy->lent->daemons == memory && copy->job == job)
			copy->is_cancelled = true;
	}
	news(the_gpu);
	return true;
}

static int sim_process_fd(struct daemon *daemon, const struct lent_memory *memory)
{
	(void)daemon;
	return the_gpu->process == NULL || lent_of(memory) == NULL ? -1 : the_gpu->exit_fd;
}

const struct pull_ops gpu_sim_ops = {
	.name = "sim",
	.lend = sim_lend,
	.give_back = sim_give_back,
	.copy = sim_copy,
	.cancel = sim_cancel,
	.process_fd = sim_process_fd,
};
