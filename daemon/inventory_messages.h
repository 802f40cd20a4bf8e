/* daemon/inventory_messages.h: between the daemon's loop and its inventory process. In one order:
 * what was sent first counts first. */
#ifndef KVTIER_DAEMON_INVENTORY_MESSAGES_H
#define KVTIER_DAEMON_INVENTORY_MESSAGES_H

#include "proto/inventory.h"

#define INVENTORY_SPACES_END (1u << 20)  /* numbers are below it */
#define INVENTORY_PIECE_LOOKS 1024u      /* places of the index that a piece is made of, at most */

enum inventory_verb {
	/* To the process. */
	TELL_EPOCH,  /* key: its number; what was told before is told again */
	TELL_SPACE,  /* the number means this space from now on */
	TELL_CHANGE, /* the key lies in these tiers now */
	TELL_DIGEST, /* key: entries; value: the digest */
	TELL_FIGURE, /* of `tiers`; number: the figure, key: its value */
	TELL_NAMES,  /* 16 bytes of an engine's names, from the offset key on: tenant at 0, engine
		      * at 64, 0 where nothing was told */
	TELL_LINK,   /* the engine has this space */
	TELL_ENGINE, /* that was all of it; key: tokens of a block */
	TELL_ENTRY,  /* of the piece that was asked for: the key lies in these tiers */
	TELL_PIECE,  /* that was all of it; key: the next cursor, value: the end */
	/* Of the process. */
	TELL_WANT,   /* a piece of this epoch (value); key: its cursor. One at a time */
	TELL_READY   /* it listens; key: the port of what is said, value: of questions */
};

struct inventory_message {
	uint8_t verb;
	uint8_t tiers;
	uint16_t unused;
	uint32_t number;
	uint64_t key;
	union {
		uint64_t value;
		uint8_t fingerprint[INVENTORY_SPACE_BYTES];
	};
};
_Static_assert(sizeof(struct inventory_message) == 32, "two are one cache line");

#endif
