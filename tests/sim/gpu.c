/* tests/sim/gpu.c: see gpu.h. */
#include "tests/sim/gpu.h"

#include "daemon/server.h"
#include "tests/sim/kernel_fds.h"
#include "tests/sim/kernel_files.h"
#include "tests/sim/kernel_wraps.h"

#include <assert.h>
#include <string.h>
#include <unistd.h>

#define AGAIN_US (UINT64_C(100) * 1000)
#define LATE_US (UINT64_C(2) * SECOND_US) /* as the link's */

/* ---- an engine's allocations ---- */

struct memory *gpu_sim_allocate(struct gpu_sim *gpu, uint64_t bytes, uint8_t **out_bytes,
				struct gpu_ipc_handle *out_handle)
{
	struct gpu_sim_export *export = gpu->exports;

	while (export < gpu->exports + GPU_SIM_EXPORTS && export->memory != NULL)
		export ++;
	assert(export < gpu->exports + GPU_SIM_EXPORTS);
	export->memory = memory_create(bytes);
	export->number = ++gpu->exports_ever;
	memset(out_handle, 0, sizeof(*out_handle));
	memcpy(out_handle, &export->number, sizeof(export->number));
	*out_bytes = export->memory->bytes;
	return export->memory;
}

void gpu_sim_free(struct gpu_sim *gpu, struct memory *memory)
{
	for (unsigned i = 0; i < GPU_SIM_EXPORTS; i++)
		if (gpu->exports[i].memory == memory)
			gpu->exports[i].memory = NULL;
	memory_release(memory);
}

struct memory *gpu_sim_import(const struct gpu_sim *gpu, const struct gpu_ipc_handle *handle)
{
	uint64_t number;

	memcpy(&number, handle, sizeof(number));
	for (unsigned i = 0; i < GPU_SIM_EXPORTS; i++)
		if (gpu->exports[i].memory != NULL && gpu->exports[i].number == number)
			return gpu->exports[i].memory;
	return NULL;
}

/* ---- the process ---- */

static void bell_ring(struct gpu_sim *gpu)
{
	if (gpu->bell != NULL)
		gpu->bell->count++;
	kernel.changes++;
}

static void copy_ends(struct gpu_sim *gpu, struct gpu_sim_copy *copy, int result)
{
	copy->result = result;
	copy->is_ended = true;
	bell_ring(gpu);
}

void gpu_sim_lent_end(struct gpu_sim_lent *lent)
{
	memory_release(lent->device);
	memory_release(lent->words_memory);
	memset(lent, 0, sizeof(*lent));
}

static void copy_free(struct gpu_sim *gpu, struct gpu_sim_copy *copy)
{
	memory_release(copy->arena);
	copy->is_used = false;
	gpu->copies_count--;
}

static bool copy_may_go(const struct gpu_sim_copy *copy)
{
	if (!copy->is_used || copy->is_ended)
		return false;
	if (copy->is_cancelled)
		return true;
	if (copy->gate > 0 && atomic_load(copy->lent->word) < copy->gate)
		return false;
	return copy->due_us <= kernel.now_us;
}

static struct gpu_sim_copy *copy_next(struct gpu_sim *gpu)
{
	unsigned first = (unsigned)kernel_below(GPU_SIM_COPIES);

	for (unsigned i = 0; gpu->copies_count > 0 && i < GPU_SIM_COPIES; i++) {
		struct gpu_sim_copy *copy = &gpu->copies[(first + i) % GPU_SIM_COPIES];

		if (copy_may_go(copy))
			return copy;
	}
	return NULL;
}

static bool import_is_due(const struct gpu_sim_lent *lent)
{
	return lent->is_used && !lent->is_imported && lent->import_us <= kernel.now_us;
}

static bool work_is_there(void *owner)
{
	struct gpu_sim *gpu = owner;

	if (gpu->parent == NULL || gpu->has_news)
		return true;
	for (unsigned i = 0; i < GPU_SIM_LENTS; i++)
		if (import_is_due(&gpu->lents[i]))
			return true;
	for (unsigned i = 0; gpu->copies_count > 0 && i < GPU_SIM_COPIES; i++)
		if (copy_may_go(&gpu->copies[i]))
			return true;
	return false;
}

static uint64_t work_due_us(const struct gpu_sim *gpu)
{
	uint64_t due_us = NEVER;

	for (unsigned i = 0; i < GPU_SIM_LENTS; i++)
		if (gpu->lents[i].is_used && !gpu->lents[i].is_imported &&
		    gpu->lents[i].import_us < due_us)
			due_us = gpu->lents[i].import_us;
	for (unsigned i = 0; gpu->copies_count > 0 && i < GPU_SIM_COPIES; i++) {
		const struct gpu_sim_copy *copy = &gpu->copies[i];

		if (copy->is_used && !copy->is_ended && copy->due_us > kernel.now_us &&
		    copy->due_us < due_us)
			due_us = copy->due_us;
	}
	return due_us;
}

static bool never(void *owner)
{
	(void)owner;
	return false;
}

/* Plane by plane, with time in between, in which anybody may die. */
static void planes_copy(struct gpu_sim *gpu, const struct gpu_sim_copy *copy)
{
	const struct gpu_sim_group *group = &copy->lent->groups[copy->group];
	uint8_t *payload = copy->payload;

	for (uint32_t i = 0; i < group->planes_count; i++) {
		const struct lend_plane *plane = &group->planes[i];
		uint8_t *block = copy->lent->region + plane->offset + copy->block * plane->stride;

		(void)task_wait(never, NULL,
				kernel.now_us + kernel_below(gpu->shape.latency_us / 4 + 2));
		if (copy->direction == COPY_STORE)
			memcpy(payload, block, plane->bytes);
		else
			memcpy(block, payload, plane->bytes);
		payload += plane->bytes;
	}
}

static void copy_carry_out(struct gpu_sim *gpu, struct gpu_sim_copy *copy)
{
	struct job_word *word = &copy->lent->words->words[copy->place];
	bool has_failed = kernel_chance(gpu->shape.fail_permille);

	if (copy->is_cancelled || !job_word_enter(word, copy->job)) {
		gpu->cancelled++;
		copy_ends(gpu, copy, -ECANCELED);
		return;
	}
	/* What fails may have copied some of it, or all. */
	if (!has_failed || kernel_below(2) == 0)
		planes_copy(gpu, copy);
	job_word_leave(word);
	copy_ends(gpu, copy, has_failed ? -EIO : 0);
}

static void imports_do(struct gpu_sim *gpu)
{
	for (unsigned i = 0; i < GPU_SIM_LENTS; i++) {
		struct gpu_sim_lent *lent = &gpu->lents[i];

		if (!import_is_due(lent))
			continue;
		lent->is_imported = true;
		lent->import_result = kernel_chance(gpu->shape.refuse_permille) ? -EIO : 0;
		bell_ring(gpu);
	}
}

/* As tiers/gpu/gpu_server.c: without a parent nothing new begins, and what is under way ends. */
static void *gpu_live(void *argument)
{
	struct gpu_sim *gpu = argument;

	for (;;) {
		(void)task_wait(work_is_there, gpu, work_due_us(gpu));
		gpu->has_news = false;
		if (gpu->parent == NULL)
			break;
		imports_do(gpu);
		struct gpu_sim_copy *copy = copy_next(gpu);
		if (copy != NULL)
			copy_carry_out(gpu, copy);
		task_preempt();
	}
	process_exit();
}

void gpu_sim_begin(struct gpu_sim *gpu)
{
	gpu->process = process_start("gpu", gpu_live, gpu);
}

/* Whatever it held goes with it. Its pidfds are readable from now on. */
static void process_is_over(struct gpu_sim *gpu)
{
	process_release(gpu->process);
	gpu->process = NULL;
	gpu->must_die = false;
	gpu->exit->count = 1;
	object_release(gpu->exit);
	gpu->exit = NULL;
	object_release(gpu->lock);
	gpu->lock = NULL;
	gpu->again_us = kernel.now_us + AGAIN_US;
	for (unsigned i = 0; i < GPU_SIM_COPIES; i++) {
		struct gpu_sim_copy *copy = &gpu->copies[i];

		if (copy->is_used && copy->daemons == NULL)
			copy_free(gpu, copy);
		else if (copy->is_used && !copy->is_ended)
			copy_ends(gpu, copy, -EIO);
	}
	for (unsigned i = 0; i < GPU_SIM_LENTS; i++)
		if (gpu->lents[i].is_used && gpu->lents[i].daemons == NULL)
			gpu_sim_lent_end(&gpu->lents[i]);
	gpu->has_died = gpu->parent != NULL;
	bell_ring(gpu);
}

static bool is_late(const struct gpu_sim *gpu)
{
	for (unsigned i = 0; gpu->copies_count > 0 && i < GPU_SIM_COPIES; i++)
		if (gpu->copies[i].is_used && !gpu->copies[i].is_ended &&
		    gpu->copies[i].deadline_us + LATE_US < kernel.now_us)
			return true;
	return false;
}

void gpu_sim_look(struct gpu_sim *gpu)
{
	if (gpu->process == NULL)
		return;
	if (!gpu->must_die && is_late(gpu)) {
		gpu->late++;
		gpu->must_die = true;
	}
	if (gpu->must_die || !gpu->process->is_alive)
		process_is_over(gpu);
}

void gpu_sim_kill(struct gpu_sim *gpu)
{
	if (gpu->process != NULL)
		process_is_over(gpu);
}

/* Nobody waits for anything any more; what of it is not under way is not begun. */
void gpu_sim_orphan(struct gpu_sim *gpu)
{
	if (gpu->parent == NULL)
		return;
	gpu->parent = NULL;
	object_release(gpu->bell);
	gpu->bell = NULL;
	gpu->has_died = false;
	gpu->exit_fd = gpu->bell_fd = -1;
	for (unsigned i = 0; i < GPU_SIM_COPIES; i++) {
		struct gpu_sim_copy *copy = &gpu->copies[i];

		copy->daemons = NULL;
		copy->is_cancelled = true;
		if (copy->is_used && gpu->process == NULL)
			copy_free(gpu, copy);
	}
	for (unsigned i = 0; i < GPU_SIM_LENTS; i++) {
		gpu->lents[i].daemons = NULL;
		if (gpu->lents[i].is_used && gpu->process == NULL)
			gpu_sim_lent_end(&gpu->lents[i]);
	}
	kernel.changes++;
}

unsigned gpu_sim_lents(const struct gpu_sim *gpu)
{
	unsigned count = gpu->copies_count;

	for (unsigned i = 0; i < GPU_SIM_LENTS; i++)
		count += gpu->lents[i].is_used;
	return count;
}
