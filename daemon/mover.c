/* daemon/mover.c: the pool of moves, and what all kinds have in common: waiting for a slot, for the
 * tier, for a mill. */
#include "daemon/mover_parts.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* Handed to a device at once: its queue, and as much again three times to refill it from. */
#define QUEUES_IN_FLIGHT 4u

static const bool legal_move[MOVE_STATES][MOVE_STATES] = {
	[MOVE_FREE] = { [MOVE_SLOTLESS] = true, [MOVE_QUEUED] = true, [MOVE_MILLED] = true },
	[MOVE_SLOTLESS] = { [MOVE_QUEUED] = true,
			    [MOVE_MILLED] = true,
			    [MOVE_IO] = true,
			    [MOVE_FREE] = true },
	[MOVE_QUEUED] = { [MOVE_IO] = true, [MOVE_DEVICE] = true, [MOVE_FREE] = true },
	[MOVE_IO] = { [MOVE_MILLED] = true, [MOVE_FREE] = true },
	[MOVE_DEVICE] = { [MOVE_COPIED] = true, [MOVE_MILLED] = true, [MOVE_FREE] = true },
	[MOVE_COPIED] = { [MOVE_MILLED] = true, [MOVE_FREE] = true },
	[MOVE_MILLED] = { [MOVE_QUEUED] = true, [MOVE_FREE] = true },
};

static size_t mover_bytes(void)
{
	return sizeof(struct mover) + MOVES_MAX * sizeof(struct move) +
	       DOWNS_MAX * sizeof(struct down);
}

int mover_create(struct daemon *daemon, struct error *error)
{
	size_t bytes = mover_bytes();
	struct mover *mover = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	static_assert(MOVES_MAX <= MILL_OPS_MAX, "a mill has room for every move");
	if (mover == MAP_FAILED)
		return error_set(error, -ENOMEM, "no memory for %u moves (%zu bytes)", MOVES_MAX, bytes);
	mover->moves = (struct move *)(mover + 1);
	mover->downs = (struct down *)(mover->moves + MOVES_MAX);
	list_init(&mover->free);
	list_init(&mover->queued_up);
	list_init(&mover->queued_down);
	list_init(&mover->queued_out);
	list_init(&mover->queued_in);
	list_init(&mover->active);
	for (unsigned i = 0; i < MOVES_MAX; i++)
		list_append(&mover->free, &mover->moves[i].link);
	daemon->mover = mover;
	return 0;
}

void mover_destroy(struct mover *mover)
{
	if (mover != NULL)
		munmap(mover, mover_bytes());
}

static struct list *queue_of(struct move *move)
{
	struct mover *mover = move->daemon->mover;

	switch (move->kind) {
	case MOVE_UP:
		return &mover->queued_up;
	case MOVE_OUT:
		return &mover->queued_out;
	case MOVE_STORE:
		return &mover->queued_in;
	default:
		return &mover->queued_down;
	}
}

static struct list *list_of_state(struct move *move)
{
	struct mover *mover = move->daemon->mover;

	switch (move->state) {
	case MOVE_FREE:
		return &mover->free;
	case MOVE_SLOTLESS:
		return &move->tenant->slotless;
	case MOVE_QUEUED:
		return queue_of(move);
	default:
		return &mover->active;
	}
}

void move_become(struct move *move, enum move_state next)
{
	assert(legal_move[move->state][next]);
	list_remove(list_of_state(move), &move->link);
	move->state = next;
	list_append(list_of_state(move), &move->link);
}

struct move *move_take(struct daemon *daemon, enum move_kind kind, struct tenant *tenant,
		       uint32_t entry, uint32_t shard)
{
	struct list_node *node = list_first(&daemon->mover->free);

	if (node == NULL)
		return NULL;
	struct move *move = list_item(node, struct move, link);
	assert(move->state == MOVE_FREE);
	move->kind = kind;
	move->daemon = daemon;
	move->tenant = tenant;
	move->entry = entry;
	move->shard = shard;
	move->cpu_slot = SLOT_NONE;
	move->nvme_slot = SLOT_NONE;
	move->source = NULL;
	move->lent = NULL;
	move->stopped = 0;
	move->bounce = NULL;
	move->deadline_us = UINT64_MAX;
	list_init(&move->waiters);
	return move;
}

void move_give(struct move *move)
{
	assert(list_is_empty(&move->waiters));
	move_become(move, MOVE_FREE);
}

void move_tell(struct move *move, int result)
{
	struct list_node *node;

	while ((node = list_take_first(&move->waiters)) != NULL) {
		struct waiter *waiter = list_item(node, struct waiter, link);

		waiter->list = NULL;
		waiter->done(waiter, result, move->cpu_slot);
	}
}

void move_mill(struct move *move, void (*work)(struct mill_op *), void (*done)(struct mill_op *))
{
	move_become(move, MOVE_MILLED);
	move->mill.work = work;
	move->mill.done = done;
	move->mill.result = 0;
	bool was_taken = mills_submit(&move->daemon->mills, &move->mill);
	assert(was_taken);
}

uint32_t move_tier_room(const struct daemon *daemon)
{
	return QUEUES_IN_FLIGHT * daemon->settings.queue_depth * daemon->devices_count;
}

bool move_tier_has_room(const struct daemon *daemon)
{
	return daemon->nvme->in_flight < move_tier_room(daemon);
}

struct slot_address move_nvme_address(const struct move *move)
{
	struct slot_address address = {
		.offset = move->nvme_place.offset,
		.extent_generation = move->nvme_place.extent_generation,
		.slot_generation = move->nvme_place.slot_generation,
	};

	memcpy(address.device, move->device_id, DEVICE_ID_BYTES);
	slot_address_seal(&address);
	return address;
}

/* An enciphered copy went away from its cpu slot when that was held for the mill. */
static bool is_clear_down(const struct move *move)
{
	return move->kind == MOVE_DOWN && move->bounce == NULL;
}

static int submit_now(struct move *move)
{
	struct daemon *daemon = move->daemon;

	if (!move_tier_has_room(daemon))
		return -EAGAIN;
	if (is_clear_down(move)) {
		/* From here until it is written the slot stays where it is. */
		cache_slot_hold(daemon->cache, TIER_CPU, move->cpu_slot);
		move->memory->address[TIER_NVME] = move_nvme_address(move);
	}
	int result = tier_submit(daemon->nvme, &move->io);
	if (result < 0 && is_clear_down(move))
		cache_slot_release(daemon->cache, TIER_CPU, move->cpu_slot);
	return result;
}

static void io_failed_at_once(struct move *move, int result)
{
	/* As if the tier had said so: one way for every failure. */
	if (is_clear_down(move))
		cache_slot_hold(move->daemon->cache, TIER_CPU, move->cpu_slot);
	move_become(move, MOVE_IO);
	move->io.result = result;
	move->io.done(&move->io);
}

void move_submit(struct move *move)
{
	struct mover *mover = move->daemon->mover;
	struct list *queue = move->kind == MOVE_UP ? &mover->queued_up : &mover->queued_down;
	int result = list_is_empty(queue) ? 0 : -EAGAIN;

	move->io.verb = move->kind == MOVE_UP ? TIER_READ : TIER_WRITE;
	move->io.device = move->nvme_place.device;
	move->io.offset = move->nvme_place.offset;
	move->io.memory = move->bounce != NULL ? move->bounce->memory : move->memory;
	move->io.memory_bytes = move->slot_bytes;
	move->io.done = move->kind == MOVE_UP ? move_up_done : move_down_done;
	if (move->state != MOVE_QUEUED)
		move_become(move, MOVE_QUEUED);
	else
		result = 0;
	if (result == 0)
		result = submit_now(move);
	if (result == 0)
		move_become(move, MOVE_IO);
	else if (result != -EAGAIN)
		io_failed_at_once(move, result);
}

void move_has_cpu_slot(struct move *move, uint32_t slot)
{
	struct slot_place place;

	cache_slot_place(move->daemon->cache, TIER_CPU, slot, &place);
	assert(place.slot_bytes >= SLOT_HEADER_BYTES + SLOT_ALIGN_BYTES);
	move->cpu_slot = slot;
	move->cpu_generation = place.slot_generation;
	move->slot_bytes = place.slot_bytes;
	move->memory = arena_slot(&move->tenant->arena, place.offset);
	memset(&move->cpu_address, 0, sizeof(move->cpu_address));
	memcpy(move->cpu_address.device, move->tenant->arena.id, DEVICE_ID_BYTES);
	move->cpu_address.offset = place.offset;
	move->cpu_address.extent_generation = place.extent_generation;
	move->cpu_address.slot_generation = place.slot_generation;
	slot_address_seal(&move->cpu_address);
}

bool move_cpu_is_current(const struct move *move)
{
	return move->cpu_slot != SLOT_NONE &&
	       cache_slot_is_current(move->daemon->cache, TIER_CPU, move->cpu_slot,
				     move->cpu_generation);
}

bool move_nvme_is_current(const struct move *move)
{
	return move->nvme_slot != SLOT_NONE &&
	       cache_slot_is_current(move->daemon->cache, TIER_NVME, move->nvme_slot,
				     move->nvme_generation);
}

bool move_cpu_is_readable(const struct move *move)
{
	return move->cpu_slot != SLOT_NONE &&
	       slot_is_readable(move->daemon, TIER_CPU, move->cpu_slot, move->cpu_generation);
}

bool move_nvme_is_readable(const struct move *move)
{
	return move->nvme_slot != SLOT_NONE &&
	       slot_is_readable(move->daemon, TIER_NVME, move->nvme_slot, move->nvme_generation);
}

void move_add_waiter(struct move *move, struct waiter *waiter)
{
	assert(waiter->list == NULL);
	waiter->list = &move->waiters;
	list_append(&move->waiters, &waiter->link);
}

void mover_forget_waiter(struct waiter *waiter)
{
	if (waiter->list == NULL)
		return;
	list_remove(waiter->list, &waiter->link);
	waiter->list = NULL;
}

/* Tries to give the first slotless moves their slots, in order; the first that gets none stops the
 * round. */
static bool slotless_step(struct daemon *daemon, struct tenant *tenant)
{
	bool did_work = false;
	struct list_node *node;

	while ((node = list_first(&tenant->slotless)) != NULL) {
		struct move *move = list_item(node, struct move, link);
		unsigned leaving = 0;
		uint32_t slot = SLOT_NONE;
		int result = -ETIME;

		if (daemon->now_us < move->deadline_us && daemon->phase != DAEMON_DRAINING)
			result = cache_slot_take(daemon->cache, move->entry, TIER_CPU, move->shard,
						 move->slot_bytes, ENTRY_NONE, &slot, &leaving);
		if (result == -EAGAIN)
			return did_work;
		did_work = true;
		if (result < 0) {
			move_slotless_end(move, result);
			continue;
		}
		move_has_cpu_slot(move, slot);
		if (move->kind == MOVE_STORE)
			move_store_start(move);
		else
			move_up_start(move);
	}
	return did_work;
}

static bool queue_step(struct list *queue)
{
	bool did_work = false;
	struct list_node *node;

	while ((node = list_first(queue)) != NULL) {
		struct move *move = list_item(node, struct move, link);

		if (move_queued_is_void(move)) {
			did_work = true;
			continue;
		}
		move_submit(move);
		if (list_first(queue) == node)
			return did_work;
		did_work = true;
	}
	return did_work;
}

bool mover_step(struct daemon *daemon)
{
	bool did_work = false;

	for (unsigned i = 0; i < daemon->tenants_count; i++)
		did_work = slotless_step(daemon, &daemon->tenants[i]) || did_work;
	did_work = move_pulls_step(daemon) || did_work;
	/* Loads go before stores. */
	did_work = queue_step(&daemon->mover->queued_up) || did_work;
	if (!list_is_empty(&daemon->mover->queued_up))
		return did_work;
	did_work = queue_step(&daemon->mover->queued_down) || did_work;
	if (list_is_empty(&daemon->mover->queued_down))
		did_work = move_downs_step(daemon) || did_work;
	return did_work;
}

unsigned mover_moves_count(const struct daemon *daemon)
{
	return MOVES_MAX - (unsigned)daemon->mover->free.count;
}

unsigned mover_pending_down(const struct daemon *daemon)
{
	return daemon->mover->stores_down;
}
