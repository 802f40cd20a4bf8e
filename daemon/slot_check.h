/*
 * daemon/slot_check.h: what a slot must hold to be believed, how a mill checks it, and what becomes
 * of one that is wrong. The one check of loads, of readers' reports, of the scrubber and of
 * read-backs.
 * Runs on: the loop thread; slot_claim_check() on a mill.
 */
#ifndef KVTIER_DAEMON_SLOT_CHECK_H
#define KVTIER_DAEMON_SLOT_CHECK_H

#include "daemon/daemon.h"
#include "transfer/slot_cipher.h"

/* What the index says that a slot holds, and where it lies. */
struct slot_claim {
	enum tier_id tier;
	uint8_t space[SPACE_ID_BYTES];
	uint8_t hash[BLOCK_HASH_BYTES];
	uint8_t device[DEVICE_ID_BYTES];  /* of the device, or of the tenant's arena */
	uint32_t epoch;
	uint16_t group, shard;
	struct slot_place place;
	const struct tenant *tenant;      /* whose keys decipher it */
};

/* Of a slot that belongs to an entry. */
void slot_claim_make(struct daemon *daemon, enum tier_id tier, uint32_t slot,
		     struct slot_claim *out_claim);
/* Header, place, key, epoch and payload of the slot's bytes at `header`. Of the nvme tier they are
 * ours, and what is enciphered is in the clear afterwards. `mill`: on which this runs. */
enum slot_verdict slot_claim_check(const struct daemon *daemon, const struct slot_claim *claim,
				   unsigned mill, struct slot_header *header);

/* The same check of a slot that comes in pieces, one behind the other, each unchanged while it is
 * looked at. Zeroed but for claim and cipher: none has come. */
struct slot_stream {
	struct slot_claim claim;
	unsigned cipher;                  /* < ENCRYPTION_STREAMS: nobody else's meanwhile */
	struct slot_header header;        /* as it came; in the clear at the end */
	struct slot_opening opening;
	struct slot_payload payload;
	uint64_t bytes;                   /* that have come */
	bool is_ended;
	enum slot_verdict verdict;        /* when it has ended */
};

/* The next piece, the first of which has the header; of the nvme tier it is ours, and what is
 * enciphered is in the clear afterwards. Ends with the slot's last, or when it is wrong. */
void slot_stream_piece(const struct daemon *daemon, struct slot_stream *stream, void *piece,
		       uint64_t bytes);
/* How many bytes are still to come of one that has not ended. */
uint64_t slot_stream_rest(const struct slot_stream *stream);

/* READY or LEAVING, and still the same slot: only then may it be told bad. */
bool slot_is_readable(const struct daemon *daemon, enum tier_id tier, uint32_t slot,
		      uint32_t generation);
/*
 * A readable slot was found to be `verdict`, not good: counts it, and quarantines it if it is
 * damaged, else drops it (something else lies there, so the index was stale; or there is no key
 * for it). In the cpu tier, where nothing may be stale, everything wrong is damage.
 */
void slot_was_wrong(struct daemon *daemon, enum tier_id tier, uint32_t slot,
		    enum slot_verdict verdict);
/* A readable slot's device did not give its bytes: it is not offered again. */
void slot_was_unreadable(struct daemon *daemon, uint32_t nvme_slot);

#endif
