/* tiers/gpu/gpu_lent.c: memory: arenas that are pinned, and what engines lend. */
#include "base/failpoint.h"
#include "tiers/gpu/gpu_parts.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

static void answer_with(struct gpu_server *server, enum gpu_verb verb, uint32_t number, int result,
			const char *text)
{
	struct gpu_message message = { .verb = verb, .number = number, .result = result };

	snprintf(message.text, sizeof(message.text), "%s", text);
	gpu_answer(server, &message);
}

/* ---- arenas ---- */

static int arena_map(struct arena_pinned *arena, const struct gpu_packet *packet, int fd,
		     struct error *error)
{
	struct stat status;

	if (packet->number >= GPU_ARENAS_MAX || arena->memory != NULL)
		return error_set(error, -EINVAL, "arena %u is there already", packet->number);
	if (fstat(fd, &status) < 0 || packet->bytes == 0 ||
	    (uint64_t)status.st_size < packet->bytes)
		return error_set(error, -EINVAL, "an arena of %llu bytes has fewer",
				 (unsigned long long)packet->bytes);
	void *memory = mmap(NULL, packet->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		return error_set(error, -errno, "an arena cannot be mapped: %s", strerror(errno));
	/* KV bytes are in no core. */
	(void)madvise(memory, packet->bytes, MADV_DONTDUMP);
	*arena = (struct arena_pinned){ .memory = memory, .bytes = packet->bytes };
	return 0;
}

void gpu_arena_take(struct gpu_server *server, const struct gpu_packet *packet, int fd)
{
	struct error error;
	struct arena_pinned *arena = &server->arenas[packet->number % GPU_ARENAS_MAX];
	int result = arena_map(arena, packet, fd, &error);

	if (result < 0)
		answer_with(server, GPU_PINNED, packet->number, result, error.text);
}

static bool arena_pin(struct gpu_server *server, struct arena_pinned *arena)
{
	uint64_t left = arena->bytes - arena->pinned;
	uint64_t bytes = left < GPU_PIN_STEP_BYTES ? left : GPU_PIN_STEP_BYTES;
	struct gpu_message message = { .verb = GPU_PINNED,
				       .number = (uint32_t)(arena - server->arenas) };
	struct error error;

	if (arena->memory == NULL || left == 0 || arena->has_failed)
		return false;
	message.result = device_pin(server->device, arena->memory + arena->pinned, bytes, &error);
	if (message.result == 0)
		arena->pinned += bytes;
	else
		snprintf(message.text, sizeof(message.text), "%s", error.text);
	arena->has_failed = message.result < 0;
	server->is_lost |= message.result == -EIO;
	message.offset = arena->pinned;
	gpu_answer(server, &message);
	return true;
}

bool gpu_arenas_step(struct gpu_server *server)
{
	for (unsigned n = 0; n < GPU_ARENAS_MAX; n++)
		if (arena_pin(server, &server->arenas[n]))
			return true;
	return false;
}

static void arena_close(struct gpu_server *server, struct arena_pinned *arena)
{
	struct error error;

	for (uint64_t at = 0; at < arena->pinned; at += GPU_PIN_STEP_BYTES) {
		uint64_t left = arena->pinned - at;

		(void)device_unpin(server->device, arena->memory + at,
				   left < GPU_PIN_STEP_BYTES ? left : GPU_PIN_STEP_BYTES, &error);
	}
	if (arena->memory != NULL)
		munmap(arena->memory, arena->bytes);
	*arena = (struct arena_pinned){ 0 };
}

/* ---- lent memory ---- */

static void lent_become(struct lent *lent, enum lent_state next)
{
	static const bool legal_move[LENT_STATES][LENT_STATES] = {
		[LENT_FREE] = { [LENT_USABLE] = true },
		[LENT_USABLE] = { [LENT_RETURNING] = true, [LENT_FREE] = true },
		[LENT_RETURNING] = { [LENT_FREE] = true },
	};

	assert(legal_move[lent->state][next]);
	lent->state = next;
}

/* A client that shrank it would kill us with SIGBUS. */
static int words_map(struct lent *lent, int fd, struct error *error)
{
	struct stat status;
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || fstat(fd, &status) < 0 ||
	    (uint64_t)status.st_size < sizeof(struct job_words))
		return error_set(error, -EINVAL,
				 "the job words are no memfd of %zu bytes that is sealed against "
				 "shrinking",
				 sizeof(struct job_words));
	void *memory = mmap(NULL, sizeof(struct job_words), PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			    0);
	if (memory == MAP_FAILED)
		return error_set(error, -errno, "the job words cannot be mapped: %s",
				 strerror(errno));
	lent->words = memory;
	return 0;
}

static int regions_import(struct gpu_server *server, struct lent *lent,
			  const struct lend_view *view, const int *fds, struct error *error)
{
	const uint64_t *fd_bytes = view->fd_bytes;
	uint32_t count = view->head->regions_count;
	int result = 0;

	lent->regions = calloc(count, sizeof(lent->regions[0]));
	lent->bases = calloc(count, sizeof(lent->bases[0]));
	if (lent->regions == NULL || lent->bases == NULL)
		return error_set(error, -ENOMEM, "no memory for %u regions", count);
	for (uint32_t n = 0; result == 0 && n < count; n++) {
		const struct lend_region *region = &view->regions[n];

		result = region->kind == LEND_HANDLE
				 ? device_import_handle(server->device, &region->handle,
							region->offset, region->bytes,
							&lent->regions[n], error)
				 : device_import_fds(server->device, fds, fd_bytes,
						     region->fds_count, &lent->regions[n], error);
		fds += region->fds_count;
		fd_bytes += region->fds_count;
		lent->regions_count = n + (result == 0);
		lent->bases[n] = lent->regions[n].address;
	}
	return result;
}

static int gate_open(struct gpu_server *server, struct lent *lent, const struct lend *head,
		     struct error *error)
{
	if (head->word_region == LEND_NO_WORD)
		return 0;
	if (!server->device->about.has_words)
		return error_set(error, -ENOTSUP,
				 "%s cannot wait for a word: order copies in the engine's process",
				 server->device->about.name);
	gate_init(&lent->gate, server->device, DEVICE_WAIT + (lent - server->lents),
		  lent->bases[head->word_region] + head->word_offset);
	lent->has_gate = true;
	return 0;
}

/* Accepts one of which only a part is there. */
static void lent_close(struct gpu_server *server, struct lent *lent)
{
	struct error error;

	assert(lent->copies_count == 0);
	for (uint32_t n = 0; n < lent->regions_count; n++)
		server->is_lost |= device_memory_close(server->device, &lent->regions[n],
						       &error) == -EIO;
	layout_finish(&lent->layout);
	if (lent->words != NULL)
		munmap(lent->words, sizeof(*lent->words));
	free(lent->regions);
	free(lent->bases);
	lent_become(lent, LENT_FREE);
	*lent = (struct lent){ 0 };
}

void gpu_lent_take(struct gpu_server *server, uint32_t number, const struct lend_view *view,
		   const int *fds)
{
	struct error error;
	struct lent *lent = &server->lents[number % GPU_LENTS_MAX];
	int result;

	if (number >= GPU_LENTS_MAX || lent->state != LENT_FREE) {
		answer_with(server, GPU_LENT, number, -EINVAL, "this number is in use");
		return;
	}
	lent_become(lent, LENT_USABLE);
	lent->number = number;
	result = lend_layout(view, &lent->layout, &error);
	if (result == 0)
		result = words_map(lent, fds[0], &error);
	if (result == 0)
		result = regions_import(server, lent, view, fds + 1, &error);
	/* Who asked is told; the next one finds a process whose device is there. */
	server->is_lost |= result == -EIO;
	if (result == 0)
		result = gate_open(server, lent, view->head, &error);
	if (result == 0 && failpoint(gpu_imported))
		result = error_set(&error, -EAGAIN, "import: failpoint");
	if (result < 0)
		lent_close(server, lent);
	answer_with(server, GPU_LENT, number, result, result < 0 ? error.text : "");
}

void gpu_lent_return(struct gpu_server *server, struct lent *lent)
{
	if (lent->state != LENT_USABLE)
		return;
	lent_become(lent, LENT_RETURNING);
	gpu_copies_cancel(server, lent, 0);
}

/* Nothing of the engine's is waited for, or copied, any more. A wait for a word that nobody will
 * write any more is ended by ourselves: the word is still mapped. 1; 0; or the device's error. */
static int lent_is_quiet(struct gpu_server *server, struct lent *lent, struct error *error)
{
	int result = 0;

	if (lent->copies_count > 0 || !lent->has_gate)
		return lent->copies_count == 0;
	if (!lent->is_released)
		result = gate_release(&lent->gate, DEVICE_STORE_URGENT, error);
	lent->is_released = result == 0;
	if (result == 0)
		result = device_is_idle(server->device, lent->gate.queue, error);
	return result == 1 ? device_is_idle(server->device, DEVICE_STORE_URGENT, error) : result;
}

/* A call that fails costs those who wait behind it; after -EIO the device is lost. */
static void gate_look(struct gpu_server *server, struct lent *lent)
{
	struct error error;
	int result = gate_step(&lent->gate, &error);

	server->is_lost |= result == -EIO;
	if (result < 0)
		gpu_copies_cancel(server, lent, 0);
}

static bool lent_step(struct gpu_server *server, struct lent *lent)
{
	struct error error;
	uint32_t number = lent->number;

	if (lent->state == LENT_USABLE && lent->has_gate)
		gate_look(server, lent);
	if (lent->state != LENT_RETURNING)
		return false;
	int quiet = lent_is_quiet(server, lent, &error);
	server->is_lost |= quiet == -EIO;
	if (quiet <= 0)
		return false;
	lent_close(server, lent);
	(void)failpoint(gpu_closed);
	answer_with(server, GPU_RETURNED, number, 0, "");
	return true;
}

bool gpu_lents_step(struct gpu_server *server)
{
	bool did = false;

	for (unsigned n = 0; n < GPU_LENTS_MAX; n++)
		if (server->lents[n].state != LENT_FREE)
			did |= lent_step(server, &server->lents[n]);
	return did;
}

void gpu_lents_close(struct gpu_server *server)
{
	for (unsigned n = 0; n < GPU_LENTS_MAX; n++)
		if (server->lents[n].state != LENT_FREE)
			lent_close(server, &server->lents[n]);
	for (unsigned n = 0; n < GPU_ARENAS_MAX; n++)
		arena_close(server, &server->arenas[n]);
}
