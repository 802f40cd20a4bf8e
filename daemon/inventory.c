/* daemon/inventory.c: see inventory.h. */
#include "daemon/inventory.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RING_MESSAGES 65536u
/* What a lost epoch waits for: room for a piece and more, so that the next is not lost at once. */
#define ROOM_AGAIN (RING_MESSAGES / 2)

#define ENGINE_MESSAGES_MAX 16u  /* for an engine, without those of its spaces */

/* Sums over what was said of a number, and whether it was said in this epoch what it means. */
struct sums {
	uint64_t entries, digest;
	uint8_t fingerprint[SPACE_ID_BYTES];
	bool is_told;
};

struct inventory {
	struct inventory_config config;
	struct worker *worker;     /* NULL: config.send() */
	bool is_alive;             /* somebody takes messages */
	bool is_told;              /* an epoch goes on */
	uint64_t epoch;
	struct sums *spaces;
	uint64_t line_us;          /* of the last line */
	uint32_t line_space;       /* the next line begins with this space's sums */
	bool is_wanted;
	uint32_t wanted;           /* cursor of the piece */
	uint16_t port, ask_port;
	uint64_t changes, lost, pieces;
	char reason[WORKER_REASON_BYTES];
};

static unsigned tier_bit(enum tier_id tier)
{
	return tier == TIER_CPU ? INVENTORY_CPU : INVENTORY_NVME;
}

static unsigned entry_bits(const struct entry *entry)
{
	unsigned bits = 0;

	for (enum tier_id tier = 0; tier < TIERS; tier++)
		bits |= entry_is_whole(entry, tier) ? tier_bit(tier) : 0;
	return bits;
}

/* ---- messages ---- */

static uint32_t room(const struct inventory *inventory)
{
	return inventory->worker != NULL ? worker_room(inventory->worker) : RING_MESSAGES;
}

static bool send(struct inventory *inventory, const struct inventory_message *message)
{
	if (inventory->worker == NULL)
		return inventory->config.send(inventory->config.owner, message);
	return worker_send(inventory->worker, message) == 0;
}

/* What may not be missed. False: the epoch is over. */
static bool tell(struct inventory *inventory, const struct inventory_message *message)
{
	if (inventory->is_told && !send(inventory, message)) {
		inventory->is_told = inventory->is_wanted = false;
		inventory->lost++;
	}
	return inventory->is_told;
}

/* Before the first word of a space, and when its number has come to mean another. */
static bool tell_space(struct inventory *inventory, uint32_t number)
{
	struct sums *sums = &inventory->spaces[number];
	const uint8_t *fingerprint = cache_space_fingerprint(inventory->config.cache, number);
	struct inventory_message message = { .verb = TELL_SPACE, .number = number };

	if (sums->is_told && memcmp(sums->fingerprint, fingerprint, SPACE_ID_BYTES) == 0)
		return true;
	memcpy(message.fingerprint, fingerprint, SPACE_ID_BYTES);
	if (!tell(inventory, &message))
		return false;
	memcpy(sums->fingerprint, fingerprint, SPACE_ID_BYTES);
	return sums->is_told = true;
}

static bool epoch_begin(struct inventory *inventory)
{
	struct inventory_message message = { .verb = TELL_EPOCH, .key = inventory->epoch + 1 };

	if (!inventory->is_alive || room(inventory) < ROOM_AGAIN || !send(inventory, &message))
		return false;
	inventory->epoch++;
	inventory->is_told = true;
	inventory->is_wanted = false;
	inventory->line_us = 0;
	for (uint32_t n = 0; n < inventory->config.spaces_max; n++)
		inventory->spaces[n].is_told = false;
	return true;
}

/* ---- changes ---- */

void inventory_changed(struct inventory *inventory, const struct entry *entry, enum tier_id tier,
		       bool is_whole)
{
	unsigned after = entry_bits(entry), bit = tier_bit(tier);
	unsigned before = is_whole ? after & ~bit : after | bit;
	struct inventory_message message = { .verb = TELL_CHANGE, .tiers = (uint8_t)after,
					     .number = entry->space, .key = entry->route_key };
	struct sums *sums = &inventory->spaces[entry->space];

	if (entry->route_key == 0)
		return;
	assert(is_whole == ((after & bit) != 0) && entry->space < inventory->config.spaces_max);
	sums->entries += (after != 0) - (before != 0);
	sums->digest += inventory_digest(entry->route_key, after) -
			inventory_digest(entry->route_key, before);
	inventory->changes++;
	if (inventory->is_told && tell_space(inventory, entry->space))
		(void)tell(inventory, &message);
}

/* ---- lines ---- */

/* One that does not fit is left out: the next one comes. */
void inventory_figure(struct inventory *inventory, unsigned tier, enum inventory_figure figure,
		      uint64_t value)
{
	struct inventory_message message = { .verb = TELL_FIGURE, .tiers = (uint8_t)tier,
					     .number = figure, .key = value };

	if (inventory->is_told && room(inventory) > 0)
		(void)tell(inventory, &message);
}

static bool names_tell(struct inventory *inventory, uint64_t offset, const char *name)
{
	char padded[INVENTORY_NAME_BYTES_MAX + 1] = { 0 };

	snprintf(padded, sizeof(padded), "%s", name);
	for (size_t at = 0; at < sizeof(padded) && padded[at] != '\0'; at += 16) {
		struct inventory_message message = { .verb = TELL_NAMES, .key = offset + at };

		memcpy(message.fingerprint, padded + at, 16);
		if (!tell(inventory, &message))
			return false;
	}
	return true;
}

void inventory_engine(struct inventory *inventory, const char *tenant, const char *engine,
		      uint32_t tokens_per_block, const uint32_t *spaces, uint32_t spaces_count)
{
	struct inventory_message message = { .verb = TELL_LINK };

	if (!inventory->is_told || room(inventory) < ENGINE_MESSAGES_MAX + 2 * spaces_count)
		return;
	for (uint32_t i = 0; i < spaces_count; i++)
		if (!tell_space(inventory, spaces[i]))
			return;
	if (!names_tell(inventory, 0, tenant) ||
	    !names_tell(inventory, INVENTORY_NAME_BYTES_MAX + 1, engine))
		return;
	for (uint32_t i = 0; i < spaces_count; i++) {
		message.number = spaces[i];
		if (!tell(inventory, &message))
			return;
	}
	message = (struct inventory_message){ .verb = TELL_ENGINE, .key = tokens_per_block };
	(void)tell(inventory, &message);
}

static void line_say(struct inventory *inventory)
{
	uint32_t end = cache_spaces_end(inventory->config.cache), said = 0;
	uint32_t number = inventory->line_space < end ? inventory->line_space : 0;

	for (uint32_t looked = 0; looked < end && said < INVENTORY_LINE_SPACES; looked++) {
		const struct sums *sums = &inventory->spaces[number];
		struct inventory_message message = { .verb = TELL_DIGEST, .number = number,
						     .key = sums->entries,
						     .value = sums->digest };

		number = number + 1 < end ? number + 1 : 0;
		if (!sums->is_told)
			continue;
		if (room(inventory) == 0)
			return;
		(void)tell(inventory, &message);
		said++;
	}
	inventory->line_space = number;
	if (inventory->config.figures != NULL)
		inventory->config.figures(inventory->config.owner, inventory);
}

static bool line_step(struct inventory *inventory, uint64_t now_us)
{
	if (!inventory->is_told ||
	    (inventory->line_us != 0 && now_us - inventory->line_us < INVENTORY_LINE_US))
		return false;
	inventory->line_us = now_us;
	line_say(inventory);
	return true;
}

/* ---- pieces of a snapshot ---- */

void inventory_asked(struct inventory *inventory, const struct inventory_message *message)
{
	if (message->verb == TELL_READY) {
		inventory->port = (uint16_t)message->key;
		inventory->ask_port = (uint16_t)message->value;
		return;
	}
	if (message->verb != TELL_WANT || message->key > UINT32_MAX) {
		if (inventory->worker != NULL)
			worker_kill(inventory->worker, "it asks for what there is not");
		return;
	}
	/* Of an epoch that is over: whoever asked has heard of it by now. */
	if (!inventory->is_told || message->value != inventory->epoch)
		return;
	inventory->is_wanted = true;
	inventory->wanted = (uint32_t)message->key;
}

static bool entry_say(struct inventory *inventory, uint32_t number)
{
	const struct entry *entry = cache_entry(inventory->config.cache, number);
	struct inventory_message message = { .verb = TELL_ENTRY, .number = entry->space,
					     .key = entry->route_key,
					     .tiers = (uint8_t)entry_bits(entry) };

	if (entry->route_key == 0 || message.tiers == 0)
		return true;
	return tell_space(inventory, entry->space) && tell(inventory, &message);
}

/* Within one pass: all of it is true at one place among the changes. */
static bool piece_step(struct inventory *inventory)
{
	const struct cache *cache = inventory->config.cache;
	uint32_t cursor = inventory->wanted, end = cache_entries_end(cache), looked;

	if (!inventory->is_wanted || room(inventory) < 2 * INVENTORY_PIECE_LOOKS + 1)
		return false;
	inventory->is_wanted = false;
	cursor = cursor < end ? cursor : end;
	uint32_t start = cursor;
	while ((looked = cursor - start) < INVENTORY_PIECE_LOOKS && cursor < end) {
		uint32_t entry = cache_entry_next(cache, &cursor, INVENTORY_PIECE_LOOKS - looked);

		if (entry == ENTRY_NONE)
			break;
		if (!entry_say(inventory, entry))
			return true;
	}
	struct inventory_message message = { .verb = TELL_PIECE, .key = cursor, .value = end };
	(void)tell(inventory, &message);
	inventory->pieces++;
	return true;
}

bool inventory_step(struct inventory *inventory, uint64_t now_us)
{
	bool did_work = inventory->worker != NULL && worker_step(inventory->worker, now_us);

	if (!inventory->is_told)
		did_work = epoch_begin(inventory) || did_work;
	did_work = line_step(inventory, now_us) || did_work;
	return piece_step(inventory) || did_work;
}

/* ---- the process ---- */

static void process_started(void *owner)
{
	struct inventory *inventory = owner;

	inventory->is_alive = true;
}

static void process_ended(void *owner, const char *reason)
{
	struct inventory *inventory = owner;

	inventory->is_alive = inventory->is_told = inventory->is_wanted = false;
	inventory->port = inventory->ask_port = 0;
	snprintf(inventory->reason, sizeof(inventory->reason), "%s", reason);
}

static void process_asked(void *owner, const void *message)
{
	inventory_asked(owner, message);
}

static int process_open(struct inventory *inventory, struct error *error)
{
	const struct inventory_config *config = &inventory->config;
	char argument[512];
	const struct worker_config worker = {
		.name = "inventory",
		.argument = argument,
		.program = config->program,
		.message_bytes = sizeof(struct inventory_message),
		.messages_max = RING_MESSAGES,
		.stall_us_max = INVENTORY_STALL_US_MAX,
		.clock = config->clock,
		.on_start = process_started,
		.on_message = process_asked,
		.on_end = process_ended,
		.owner = inventory,
		.lock_fd = config->lock_fd,
	};

	snprintf(argument, sizeof(argument), "%s\t%s\t%llu", config->listen, config->ask_listen,
		 (unsigned long long)config->boot_id);
	return worker_create(&inventory->worker, &worker, error);
}

int inventory_create(struct inventory **out_inventory, const struct inventory_config *config,
		     struct error *error)
{
	struct inventory *inventory = calloc(1, sizeof(*inventory));
	int result = 0;

	if (inventory == NULL ||
	    (inventory->spaces = calloc(config->spaces_max, sizeof(struct sums))) == NULL) {
		free(inventory);
		return error_set(error, -ENOMEM, "no memory for the inventory of %u spaces%s",
				 config->spaces_max, error_advice(-ENOMEM));
	}
	assert(config->spaces_max <= INVENTORY_SPACES_END);
	inventory->config = *config;
	if (config->send == NULL)
		result = process_open(inventory, error);
	else
		inventory->is_alive = true;
	if (result < 0) {
		inventory_destroy(inventory);
		return result;
	}
	*out_inventory = inventory;
	return 0;
}

void inventory_destroy(struct inventory *inventory)
{
	if (inventory == NULL)
		return;
	worker_destroy(inventory->worker);
	free(inventory->spaces);
	free(inventory);
}

struct worker *inventory_worker(struct inventory *inventory)
{
	return inventory->worker;
}

void inventory_sums(const struct inventory *inventory, uint32_t space, uint64_t *out_entries,
		    uint64_t *out_digest)
{
	*out_entries = inventory->spaces[space].entries;
	*out_digest = inventory->spaces[space].digest;
}

void inventory_look(const struct inventory *inventory, struct inventory_status *out_status)
{
	const struct worker *worker = inventory->worker;

	*out_status = (struct inventory_status){
		.state = worker != NULL ? worker_state(worker) : WORKER_RUNNING,
		.is_told = inventory->is_told, .epoch = inventory->epoch,
		.port = inventory->port, .ask_port = inventory->ask_port,
		.changes = inventory->changes, .lost = inventory->lost,
		.pieces = inventory->pieces,
		.restarts = worker != NULL ? worker_restarts(worker) : 0,
		.pid = worker != NULL ? worker_pid(worker) : 0,
	};
	snprintf(out_status->reason, sizeof(out_status->reason), "%s", inventory->reason);
}
