/* daemon/encryption.c: keys, ciphers and buffers, and blocks that cannot be read. */
#include "daemon/encryption.h"

#include "base/log.h"
#include "daemon/graveyard.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static size_t keyrings_bytes(const struct daemon *daemon)
{
	return 2 * daemon->tenants_count * sizeof(struct keyring);
}

bool encryption_is_from_files(const struct daemon *daemon)
{
	return strcmp(daemon->settings.encryption, "key_file") == 0;
}

static int keys_open(struct daemon *daemon, struct error *error)
{
	struct encryption *encryption = daemon->encryption;
	void *memory = NULL;
	int result = crypto_memory_create(&memory, keyrings_bytes(daemon), error);

	encryption->keyrings = memory;
	encryption->read_us = clock_wall_us(daemon->clock);
	for (unsigned i = 0; result == 0 && i < daemon->tenants_count; i++) {
		struct tenant *tenant = &daemon->tenants[i];
		struct keyring *keyring = &encryption->keyrings[2 * i];
		const char *path = daemon->settings.tenants[i].key_file;

		tenant->keyring = keyring;
		if (!encryption_is_from_files(daemon))
			keyring_random(keyring);
		else if (path[0] != '\0')   /* without a share of nvme it needs none */
			result = keyring_read(keyring, path, tenant->name, error);
		for (unsigned key = 0; key < keyring->count; key++)
			keyring->since_us[key] = encryption->read_us;
		if (result == 0)
			log_line(LOG_INFO, "encryption", "tenant=%s keys=%u newest=%s",
				 tenant->name, keyring->count, encryption_key_name(tenant));
	}
	return result;
}

/* With the keys that write, so that the data path need not derive them. */
static int cipher_open(struct daemon *daemon, unsigned number, struct error *error)
{
	struct slot_cipher **cipher = &daemon->encryption->ciphers[number];
	int result = slot_cipher_create(cipher, error);

	for (unsigned i = 0; result == 0 && i < daemon->tenants_count; i++) {
		const struct keyring *keyring = daemon->tenants[i].keyring;

		if (keyring->count > 0)   /* of a tenant with nvme */
			slot_cipher_prepare(*cipher, keyring_newest(keyring), keyring->life);
	}
	return result;
}

int encryption_create(struct daemon *daemon, struct error *error)
{
	struct encryption *encryption;
	int result;

	if (strcmp(daemon->settings.encryption, "off") == 0 || daemon->devices_count == 0)
		return 0;
	encryption = calloc(1, sizeof(*encryption));
	if (encryption == NULL)
		return error_set(error, -ENOMEM, "no memory for the ciphers");
	daemon->encryption = encryption;
	encryption->slot_keys = calloc(daemon->nvme_slots_max, sizeof(*encryption->slot_keys));
	if (encryption->slot_keys == NULL)
		return error_set(error, -ENOMEM, "no memory for the keys of %u slots",
				 daemon->nvme_slots_max);
	result = keys_open(daemon, error);
	for (unsigned i = 0; result == 0 && i < daemon->settings.mills; i++)
		result = cipher_open(daemon, i, error);
	for (unsigned i = 0; result == 0 && i < ENCRYPTION_STREAMS; i++)
		result = cipher_open(daemon, MILLS_MAX + i, error);
	if (result == 0)
		result = bounce_pool_open(&encryption->bounces,
					  daemon->settings.encryption_buffer_bytes, error);
	return result;
}

void encryption_destroy(struct daemon *daemon)
{
	struct encryption *encryption = daemon->encryption;

	if (encryption == NULL)
		return;
	assert(encryption->enciphering == 0);
	bounce_pool_close(&encryption->bounces);
	for (unsigned i = 0; i < ENCRYPTION_CIPHERS; i++)
		slot_cipher_destroy(encryption->ciphers[i]);
	crypto_memory_destroy(encryption->keyrings, keyrings_bytes(daemon));
	free(encryption->slot_keys);
	free(encryption);
	daemon->encryption = NULL;
}

bool encryption_can_write(const struct daemon *daemon, const struct tenant *tenant,
			  uint64_t slot_bytes)
{
	return tenant->keyring == NULL ||
	       (tenant->keyring->count > 0 && slot_bytes <= daemon->encryption->bounces.bytes);
}

enum frame_reason encryption_refused(struct tenant *tenant, bool is_in_clear)
{
	if (is_in_clear) {
		tenant->in_clear_blocks++;
		return FRAME_REASON_IN_CLEAR;
	}
	tenant->key_missing_blocks++;
	return FRAME_REASON_KEY_MISSING;
}

bool encryption_knows(const struct tenant *tenant, uint32_t key_id)
{
	return tenant->keyring == NULL ? key_id == 0
				       : keyring_find(tenant->keyring, key_id) != NULL;
}

bool encryption_refuses(struct daemon *daemon, uint32_t tenant, uint32_t key_id,
			const uint8_t *space, const uint8_t *hash)
{
	struct tenant *owner = daemon_tenant(daemon, tenant);

	assert(owner != NULL);
	if (encryption_knows(owner, key_id))
		return false;
	graveyard_bury(daemon->graveyard, space, hash, encryption_refused(owner, key_id == 0),
		       daemon->now_us);
	return true;
}

void encryption_count_anew(struct daemon *daemon)
{
	for (unsigned i = 0; i < daemon->tenants_count; i++)
		daemon->tenants[i].key_missing_blocks = daemon->tenants[i].in_clear_blocks = 0;
}

void encryption_log_refused(const struct daemon *daemon)
{
	bool is_ephemeral = strcmp(daemon->settings.encryption, "ephemeral") == 0;
	const char *reason = is_ephemeral ? "the key of an earlier life is gone"
			     : encryption_is_from_files(daemon)
				     ? "their key is not in the key_file, or they are in the clear"
				     : "encryption is off";

	for (unsigned i = 0; i < daemon->tenants_count; i++) {
		const struct tenant *tenant = &daemon->tenants[i];

		if (tenant->key_missing_blocks + tenant->in_clear_blocks > 0)
			log_line(is_ephemeral ? LOG_INFO : LOG_WARNING, "blocks_unreadable",
				 "tenant=%s key_missing=%llu in_clear=%llu reason=\"%s\"",
				 tenant->name, (unsigned long long)tenant->key_missing_blocks,
				 (unsigned long long)tenant->in_clear_blocks, reason);
	}
}

const char *encryption_key_name(const struct tenant *tenant)
{
	return tenant->keyring == NULL ? "" : tenant->keyring->names[0];
}

void encryption_slot_has(struct daemon *daemon, uint32_t nvme_slot, uint32_t key_id)
{
	assert(nvme_slot < daemon->nvme_slots_max);
	if (daemon->encryption != NULL)
		daemon->encryption->slot_keys[nvme_slot] = key_id;
}

uint32_t encryption_slot_key(const struct daemon *daemon, uint32_t nvme_slot)
{
	assert(nvme_slot < daemon->nvme_slots_max);
	return daemon->encryption == NULL ? 0 : daemon->encryption->slot_keys[nvme_slot];
}

/* SLOT_GOOD with NULL: nothing is enciphered. */
static enum slot_verdict key_of(const struct tenant *tenant, uint32_t key_id,
				const struct slot_key **out_key)
{
	/* Once: it may be another one a moment later. */
	const struct keyring *keyring = tenant->keyring;

	*out_key = NULL;
	if (keyring == NULL)
		return key_id == 0 ? SLOT_GOOD : SLOT_KEYLESS;
	if (key_id == 0)
		return SLOT_IN_CLEAR;
	*out_key = keyring_find(keyring, key_id);
	return *out_key == NULL ? SLOT_KEYLESS : SLOT_GOOD;
}

enum slot_verdict encryption_decipher(const struct daemon *daemon, const struct tenant *tenant,
				      unsigned mill, struct slot_header *memory)
{
	const struct slot_key *key;
	enum slot_verdict verdict = key_of(tenant, memory->identity.key_id, &key);

	return key == NULL ? verdict
			   : slot_decipher(daemon->encryption->ciphers[mill], key, memory);
}

enum slot_verdict encryption_open_begin(const struct daemon *daemon, const struct tenant *tenant,
					unsigned stream, const struct slot_header *header,
					struct slot_opening *out_opening)
{
	const struct slot_key *key;
	enum slot_verdict verdict = key_of(tenant, header->identity.key_id, &key);

	assert(stream < ENCRYPTION_STREAMS);
	out_opening->cipher = NULL;
	if (key != NULL)
		slot_open_begin(out_opening, daemon->encryption->ciphers[MILLS_MAX + stream], key,
				header);
	return verdict;
}
