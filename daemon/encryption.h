/*
 * daemon/encryption.h: the room of encryption at rest: the tenants' keys, the mills' ciphers, the
 * buffers between memory and devices, and what becomes of blocks that cannot be read.
 *
 * With it on, a tenant's block lies on nvme enciphered by the newest of its keys or is not
 * believed: what is found there in the clear may have been planted. With it off, what is
 * enciphered cannot be read. Both are misses that say so.
 * Runs on: the loop thread; encryption_decipher: a mill.
 */
#ifndef KVTIER_DAEMON_ENCRYPTION_H
#define KVTIER_DAEMON_ENCRYPTION_H

#include "daemon/bounce.h"
#include "daemon/daemon.h"
#include "daemon/keyring.h"

/* Slots that may be deciphered in pieces at one time. */
#define ENCRYPTION_STREAMS 2u
#define ENCRYPTION_CIPHERS (MILLS_MAX + ENCRYPTION_STREAMS)

struct encryption {
	struct keyring *keyrings;                  /* one a tenant */
	/* one a mill, which alone uses it, and one a stream */
	struct slot_cipher *ciphers[ENCRYPTION_CIPHERS];
	struct bounce_pool bounces;
	unsigned enciphering;                      /* blocks that mills encipher now */
};

/* After the tenants, before the devices' memory is registered. Off, or without devices: makes
 * nothing. */
must_check int encryption_create(struct daemon *daemon, struct error *error);
/* After the devices are closed. Wipes the keys. */
void encryption_destroy(struct daemon *daemon);

/* Whether this tenant's blocks of `slot_bytes` can go down at all. */
bool encryption_can_write(const struct daemon *daemon, const struct tenant *tenant,
			  uint64_t slot_bytes);
/* A block's record or header is of a key that this tenant (by its handle) cannot read: counts it,
 * and remembers why it is gone. */
bool encryption_refuses(struct daemon *daemon, uint32_t tenant, uint32_t key_id,
			const uint8_t *space, const uint8_t *hash);
/* Counts one that a read has found, and says why it is gone. */
enum frame_reason encryption_refused(struct tenant *tenant, bool is_in_clear);
/* What was counted of the catalogue counts no more, as headers tell it again. */
void encryption_count_anew(struct daemon *daemon);
/* Once: how many blocks of earlier lives could not be read, and why. */
void encryption_log_refused(const struct daemon *daemon);
/* 0: in the clear. */
uint32_t encryption_newest_key(const struct tenant *tenant);
/* "", or the name of the key that writes. */
const char *encryption_key_name(const struct tenant *tenant);

/* Makes the slot that was read into `memory`, whose header is good, a clear one, or says why not:
 * SLOT_KEYLESS, SLOT_IN_CLEAR, SLOT_WRONG_TAG. */
enum slot_verdict encryption_decipher(const struct daemon *daemon, const struct tenant *tenant,
				      unsigned mill, struct slot_header *memory);
/* The same of a slot that comes in pieces. With SLOT_GOOD they go through slot_open_more() and
 * slot_open_end(); but where the opening's cipher is NULL they are in the clear. */
enum slot_verdict encryption_open_begin(const struct daemon *daemon, const struct tenant *tenant,
					unsigned stream, const struct slot_header *header,
					struct slot_opening *out_opening);

#endif
