/* daemon/encryption_keys.c: key files read again: what is put in force, and how the mills and the
 * blocks of what was in force are left behind. */
#include "daemon/encryption.h"

#include "base/log.h"
#include "daemon/slot_check.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define SLOTS_A_STEP 4096u

static void keys_become(struct encryption *encryption, enum keys_state next)
{
	static const bool legal[KEYS_STATES][KEYS_STATES] = {
		[KEYS_IN_FORCE] = { [KEYS_LEAVING] = true },
		[KEYS_LEAVING] = { [KEYS_SWEEPING] = true },
		/* Changed again before all slots were looked at: from the first one on. */
		[KEYS_SWEEPING] = { [KEYS_IN_FORCE] = true, [KEYS_LEAVING] = true },
	};

	assert(legal[encryption->state][next]);
	encryption->state = next;
}

/* The one of the two that is not in force. */
static struct keyring *spare_of(const struct daemon *daemon, unsigned tenant)
{
	struct keyring *pair = &daemon->encryption->keyrings[2 * tenant];

	return daemon->tenants[tenant].keyring == pair ? pair + 1 : pair;
}

/* ---- reading ---- */

int encryption_read(struct daemon *daemon, struct error *error)
{
	struct error reason;
	int result = 0;

	if (daemon->encryption == NULL || !encryption_is_from_files(daemon))
		return 0;
	for (unsigned i = 0; result == 0 && i < daemon->tenants_count; i++) {
		const char *path = daemon->settings.tenants[i].key_file;
		struct keyring *spare = spare_of(daemon, i);

		assert(spare->count == 0);
		if (path[0] == '\0')
			continue;
		result = keyring_read(spare, path, daemon->tenants[i].name, &reason);
		if (result < 0)
			error_set(error, result, "tenants.%u.key_file: %.200s", i, reason.text);
	}
	return result;
}

void encryption_discard(struct daemon *daemon)
{
	if (daemon->encryption == NULL)
		return;
	assert(!encryption_is_leaving(daemon));
	for (unsigned i = 0; i < daemon->tenants_count; i++)
		crypto_wipe(spare_of(daemon, i), sizeof(struct keyring));
}

/* ---- taking over ---- */

static void change_write(struct settings_change *change, unsigned tenant,
			 const struct keyring *before, const struct keyring *after)
{
	snprintf(change->key, sizeof(change->key), "tenants.%u.keys", tenant);
	keyring_list(before, change->from, sizeof(change->from));
	keyring_list(after, change->to, sizeof(change->to));
	change->is_reloadable = true;
}

/* A key that stays is in force since it first was. */
static void since_carry(struct keyring *keyring, const struct keyring *before, uint64_t now_us)
{
	for (unsigned i = 0; i < keyring->count; i++) {
		const struct slot_key *old = keyring_find(before, keyring->keys[i].id);

		keyring->since_us[i] = old == NULL ? now_us
						   : before->since_us[old - before->keys];
	}
}

unsigned encryption_take(struct daemon *daemon, struct settings_change *changes,
			 unsigned changes_max)
{
	struct encryption *encryption = daemon->encryption;
	unsigned count = 0;

	if (encryption == NULL || !encryption_is_from_files(daemon))
		return 0;
	assert(!encryption_is_leaving(daemon));
	encryption->read_us = clock_wall_us(daemon->clock);
	for (unsigned i = 0; i < daemon->tenants_count; i++) {
		struct tenant *tenant = &daemon->tenants[i];
		struct keyring *before = tenant->keyring, *after = spare_of(daemon, i);

		/* The life and its nonces go on. */
		if (keyring_is_same(before, after)) {
			crypto_wipe(after, sizeof(*after));
			continue;
		}
		since_carry(after, before, encryption->read_us);
		if (count < changes_max)
			change_write(&changes[count], i, before, after);
		count++;
		tenant->keyring = after;
	}
	if (count == 0)
		return 0;
	keys_become(encryption, KEYS_LEAVING);
	for (unsigned i = 0; i < daemon->mills.count; i++)
		encryption->turns[i].is_submitted = false;
	encryption->streams_have_left = false;
	encryption->turns_left = daemon->mills.count + 1;
	return count;
}

/* ---- leaving ---- */

bool encryption_is_leaving(const struct daemon *daemon)
{
	return daemon->encryption != NULL && daemon->encryption->state == KEYS_LEAVING;
}

const char *encryption_keys_state(const struct daemon *daemon)
{
	static const char *const names[KEYS_STATES] = { "in force", "leaving", "sweeping" };

	return names[daemon->encryption->state];
}

static void cipher_leave(const struct daemon *daemon, struct slot_cipher *cipher)
{
	for (unsigned i = 0; i < daemon->tenants_count; i++) {
		const struct keyring *before = spare_of(daemon, i);
		const struct keyring *keyring = daemon->tenants[i].keyring;

		if (before->count == 0)
			continue;
		slot_cipher_forget(cipher, before->keys, KEYRING_KEYS_MAX);
		slot_cipher_prepare(cipher, keyring_newest(keyring), keyring->life);
	}
}

static void turn_ended(struct daemon *daemon)
{
	struct encryption *encryption = daemon->encryption;

	assert(encryption->state == KEYS_LEAVING && encryption->turns_left > 0);
	if (--encryption->turns_left > 0)
		return;
	encryption->cursor = 0;
	encryption->swept_blocks = 0;
	keys_become(encryption, KEYS_SWEEPING);
	encryption_discard(daemon);
}

/* On a mill. What had the old keys was before it in the same queue. */
static void turn_work(struct mill_op *op)
{
	const struct daemon *daemon = list_item(op, struct keys_turn, mill)->daemon;

	cipher_leave(daemon, daemon->encryption->ciphers[op->mill]);
	op->result = 0;
}

static void turn_done(struct mill_op *op)
{
	turn_ended(list_item(op, struct keys_turn, mill)->daemon);
}

bool encryption_wants_streams(const struct daemon *daemon)
{
	return encryption_is_leaving(daemon) && !daemon->encryption->streams_have_left;
}

void encryption_streams_leave(struct daemon *daemon)
{
	assert(encryption_wants_streams(daemon));
	daemon->encryption->streams_have_left = true;
	for (unsigned i = 0; i < ENCRYPTION_STREAMS; i++)
		cipher_leave(daemon, daemon->encryption->ciphers[MILLS_MAX + i]);
	turn_ended(daemon);
}

static bool turns_submit(struct daemon *daemon)
{
	bool did_work = false;

	for (unsigned i = 0; i < daemon->mills.count; i++) {
		struct keys_turn *turn = &daemon->encryption->turns[i];

		if (turn->is_submitted)
			continue;
		turn->daemon = daemon;
		turn->mill.work = turn_work;
		turn->mill.done = turn_done;
		/* A full mill has it later. */
		turn->is_submitted = mills_submit_to(&daemon->mills, i, &turn->mill);
		did_work = did_work || turn->is_submitted;
	}
	return did_work;
}

/* ---- blocks of keys that are gone ---- */

static void slot_look(struct daemon *daemon, uint32_t number)
{
	const struct slot *slot = cache_slot(daemon->cache, TIER_NVME, number);
	const struct entry *entry;
	struct tenant *tenant;

	if (slot->entry == ENTRY_NONE || (slot->state != SLOT_READY && slot->state != SLOT_LEAVING))
		return;
	/* Dropped already, and read to its end by who holds it. */
	if (cache_copy_slot(daemon->cache, slot->entry, TIER_NVME, slot->shard) != number)
		return;
	entry = cache_entry(daemon->cache, slot->entry);
	tenant = daemon_tenant(daemon, cache_space_tenant(daemon->cache, entry->space));
	if (encryption_knows(tenant, encryption_slot_key(daemon, number)))
		return;
	slot_was_wrong(daemon, TIER_NVME, number, SLOT_KEYLESS);
	daemon->encryption->swept_blocks++;
}

static bool sweep_step(struct daemon *daemon)
{
	struct encryption *encryption = daemon->encryption;

	for (unsigned i = 0; i < SLOTS_A_STEP && encryption->cursor < daemon->nvme_slots_max; i++)
		slot_look(daemon, encryption->cursor++);
	if (encryption->cursor < daemon->nvme_slots_max)
		return true;
	keys_become(encryption, KEYS_IN_FORCE);
	log_line(LOG_INFO, "keys_left", "dropped_blocks=%llu",
		 (unsigned long long)encryption->swept_blocks);
	return true;
}

bool encryption_step(struct daemon *daemon)
{
	if (daemon->encryption == NULL)
		return false;
	switch (daemon->encryption->state) {
	case KEYS_LEAVING:
		return turns_submit(daemon);
	case KEYS_SWEEPING:
		return sweep_step(daemon);
	default:
		return false;
	}
}
