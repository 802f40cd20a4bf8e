/*
 * daemon/encryption.h: the room of encryption at rest: the tenants' keys, the mills' ciphers, the
 * buffers between memory and devices, and what becomes of blocks that cannot be read.
 *
 * With it on, a tenant's block lies on nvme enciphered by the newest of its keys or is not
 * believed: what is found there in the clear may have been planted. With it off, what is
 * enciphered cannot be read. Both are misses that say so.
 * A reload reads the key files again. A keyring in force never changes: what was read takes its
 * place (one pointer, written by the loop), and it is wiped once each mill has been through an op
 * that was submitted after that. So whatever op a mill has, the keyring that it found, or was given
 * by the loop, outlives it; an op that waits for a device looks for its key when it is on a mill
 * again; a slot that is open in a stream is given up. Then what lies on nvme under keys that are
 * gone is dropped.
 * Runs on: the loop thread; encryption_decipher, encryption_read: a mill.
 * Limit: one change at a time; no key is read again until the mills have left the last one's.
 */
#ifndef KVTIER_DAEMON_ENCRYPTION_H
#define KVTIER_DAEMON_ENCRYPTION_H

#include "daemon/bounce.h"
#include "daemon/daemon.h"
#include "daemon/keyring.h"

/* Slots that may be deciphered in pieces at one time. */
#define ENCRYPTION_STREAMS 2u
#define ENCRYPTION_CIPHERS (MILLS_MAX + ENCRYPTION_STREAMS)

enum keys_state {
	KEYS_IN_FORCE,
	KEYS_LEAVING,     /* mills may still use those that were in force before */
	KEYS_SWEEPING,    /* blocks of keys that are gone are being dropped */
	KEYS_STATES
};

/* A mill leaves the keyrings that were in force before. */
struct keys_turn {
	struct mill_op mill;
	struct daemon *daemon;
	bool is_submitted;
};

struct encryption {
	/* two a tenant: the one in force, and one for what is read or leaves; else all zeros */
	struct keyring *keyrings;
	enum keys_state state;                     /* written by one function */
	struct keys_turn turns[MILLS_MAX];
	bool streams_have_left;
	unsigned turns_left;                       /* of the mills, and one of the streams */
	uint64_t read_us;                          /* the files, since 1970 */
	uint32_t *slot_keys;                       /* by nvme slot: the id of its key */
	uint32_t cursor;                           /* KEYS_SWEEPING: the next slot */
	uint64_t swept_blocks;
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
/* "", or the name of the key that writes. */
const char *encryption_key_name(const struct tenant *tenant);

/* Whether a block of this key (0: none) is one that this tenant can read. */
bool encryption_knows(const struct tenant *tenant, uint32_t key_id);
/* By which key lies in an nvme slot what is READY there. Of 0 alone when encryption is off. */
void encryption_slot_has(struct daemon *daemon, uint32_t nvme_slot, uint32_t key_id);
uint32_t encryption_slot_key(const struct daemon *daemon, uint32_t nvme_slot);

/* ---- encryption_keys.c: the files are read again ---- */

/* On a mill, and nobody else's call until it has ended: reads all key files beside what is in
 * force. Nothing to do without them. */
must_check int encryption_read(struct daemon *daemon, struct error *error);
/* Puts what was read in force. Writes what changed, at most `changes_max`; returns how many. */
unsigned encryption_take(struct daemon *daemon, struct settings_change *changes,
			 unsigned changes_max);
/* Or wipes it. */
void encryption_discard(struct daemon *daemon);
bool encryption_step(struct daemon *daemon);
/* Mills still leave what was in force before: no encryption_read() yet. */
bool encryption_is_leaving(const struct daemon *daemon);
/* Keys leave, and the streams still have theirs: their owner closes what is open in them, and says
 * so. */
bool encryption_wants_streams(const struct daemon *daemon);
void encryption_streams_leave(struct daemon *daemon);
/* "in force", "leaving", "sweeping". */
const char *encryption_keys_state(const struct daemon *daemon);
/* Whether key files are what keys come from. */
bool encryption_is_from_files(const struct daemon *daemon);

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
