/*
 * daemon/keyring.h: a tenant's keys for what lies on nvme: from its file, or random for this life.
 *
 * A key file has a line `ID:HEX64` a key, the newest first; '#' begins a comment. The first key
 * writes, all of them read. ID is a name for people; what stands in headers follows from the key's
 * bytes. The data key is derived (HKDF-SHA256) from the line's bytes, the tenant's name and the ID,
 * so that one file may serve several tenants.
 * Runs on: any thread until it is in force; then read by mills, and never changed but by
 * keyring_nonce(), on the loop. Lives in memory of crypto_memory_create().
 */
#ifndef KVTIER_DAEMON_KEYRING_H
#define KVTIER_DAEMON_KEYRING_H

#include "base/error.h"
#include "transfer/slot_cipher.h"

#define KEYRING_KEYS_MAX 16u
#define KEYRING_NAME_BYTES 33u
#define KEYRING_FILE_BYTES_MAX 4096u

struct keyring {
	unsigned count;
	struct slot_key keys[KEYRING_KEYS_MAX];
	char names[KEYRING_KEYS_MAX][KEYRING_NAME_BYTES];
	uint64_t since_us[KEYRING_KEYS_MAX];     /* in force, since 1970 */
	uint8_t life[SLOT_LIFE_BYTES];   /* random, of this keyring */
	uint64_t nonces;                 /* given out in it */
	char file[KEYRING_FILE_BYTES_MAX + 1];   /* while it is read; then wiped */
};

/* Both fill a zeroed keyring. The error says what to do, with the line where there is one, and
 * never what stands in it. */
must_check int keyring_read(struct keyring *keyring, const char *path, const char *tenant,
			    struct error *error);
void keyring_random(struct keyring *keyring);
/* The same of a text in memory, NUL-terminated; `path` stands in messages. */
must_check int keyring_read_text(struct keyring *keyring, const char *text, const char *path,
				 const char *tenant, struct error *error);
/* For checking settings: reads the file as above and keeps nothing of it. */
must_check int keyring_check(const char *path, struct error *error);

/* NULL: no such key. Any thread. */
const struct slot_key *keyring_find(const struct keyring *keyring, uint32_t key_id);
/* The same keys, in the same order. Any thread. */
bool keyring_is_same(const struct keyring *keyring, const struct keyring *other);
/* The names, the newest first, with blanks between; cut where it is too long. Any thread. */
void keyring_list(const struct keyring *keyring, char *text, size_t text_bytes);
/* The one that writes, and its next nonce. */
const struct slot_key *keyring_newest(const struct keyring *keyring);
struct slot_nonce keyring_nonce(struct keyring *keyring);

#endif
