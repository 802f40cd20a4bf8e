/* daemon/grant_parts.h: what the files of grants share; for those alone. */
#ifndef KVTIER_DAEMON_GRANT_PARTS_H
#define KVTIER_DAEMON_GRANT_PARTS_H

#include "daemon/grant.h"
#include "daemon/mover.h"

#define GRANT_LEASES_MAX 64u               /* one for each time that a stream found more */
#define GATHERING_US_MAX (UINT64_C(1) * 1000000) /* from a query's frame to its next */

enum grant_key_state {
	GRANT_KEY_AWAITED, /* not here, or not held */
	GRANT_KEY_REFUSED, /* not in the ticket, or given for it before */
	GRANT_KEY_HELD,
	GRANT_KEY_SENT     /* all its shards were: it is held no more */
};

struct grant {
	struct list_node link;
	struct peer *peer;
	uint32_t life;
	uint64_t number;            /* the asker's */
	struct tenant *tenant;      /* NULL: not open */
	uint32_t space;             /* held */
	uint64_t deadline_us, lease_us;
	uint64_t changes;           /* of the index, when awaited keys were last looked for */
	bool is_open;               /* its last frame has come */
	bool is_over;               /* nothing new is sent; it is there for its sends alone */
	bool is_stream;
	bool is_said;               /* what was granted last was told */
	/* the ticket it came with; its number as it was redeemed; NULL: it came with none */
	struct promise *promise;
	uint64_t promise_number;
	uint32_t ticket_bytes;
	char ticket[PEER_TICKET_BYTES_MAX];
	uint64_t until_us;          /* of the ticket: no renewal goes beyond it */
	uint32_t count;
	uint32_t settled_count;     /* keys that are not awaited */
	uint32_t looked;            /* keys before it are not awaited */
	uint32_t shards_count;
	unsigned leases_count, sends_count;
	uint64_t leases[GRANT_LEASES_MAX];
	struct list sends;          /* WANTED, RAISING, HELD, SENDING, in the order asked for */
	uint32_t entries[PEER_ITEMS_MAX];
	struct peer_key keys[PEER_ITEMS_MAX];
};

enum send_state {
	SEND_WANTED,
	SEND_RAISING, /* on its way from nvme */
	SEND_HELD,    /* its cpu slot is held; the network was full */
	SEND_SENDING,
	SEND_UNSAID   /* FAILED is to be said */
};

struct send {
	struct list_node link; /* of the grant, or free */
	struct grant *grant;
	struct waiter waiter;
	enum send_state state;
	uint64_t tag;
	uint32_t item, shard;
	uint32_t cpu_slot;
	uint64_t payload_bytes;
	bool is_said; /* BLOCK was */
	int result;
	struct peers *peers;
	struct peer_transfer transfer;
};

struct grants {
	struct list free, live;
	struct list sends_free;
	unsigned sends_used;
	struct send sends[SENDS_MAX];
	struct grant grants[GRANTS_MAX];
};

void grant_end(struct peers *peers, struct grant *grant);
bool grant_say(struct peers *peers, const struct peer *peer, uint32_t life, void *frame);
/* grant NULL: there is none (any more), and the peer is told that this tag fails. */
void grant_send_add(struct peers *peers, struct peer *peer, struct grant *grant,
		    const struct peer_fetch_item *item);
bool grant_sends_step(struct peers *peers, struct grant *grant);
/* Those that the network does not have end now, the others soon. */
void grant_sends_stop(struct peers *peers, struct grant *grant);

#endif
