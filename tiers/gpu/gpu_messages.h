/*
 * tiers/gpu/gpu_messages.h: what the daemon and the process that has a GPU say to each other:
 * messages of one size in the rings of daemon/worker.h, and, where descriptors go along, packets in
 * the channel beside them (down only).
 */
#ifndef KVTIER_TIERS_GPU_GPU_MESSAGES_H
#define KVTIER_TIERS_GPU_GPU_MESSAGES_H

#include "transfer/cost.h"
#include "transfer/device.h"
#include "transfer/lend.h"

#include <stdint.h>

#define GPU_MESSAGES_MAX 8192u         /* of a ring */
#define GPU_COPIES_MAX 4096u           /* under way at once: each has room to be answered */
#define GPU_ARENAS_MAX 64u             /* tenants */
#define GPU_LENTS_MAX DEVICE_WAITS_MAX /* engines that lend memory of one device */
#define GPU_TEXT_BYTES 240u /* of an error, whole */

enum gpu_verb {
	/* Down. */
	GPU_COPY = 1, /* COPIED, once */
	GPU_CANCEL,   /* all copies of `job` of lent memory `number` end soon */
	/* RETURNED: lent memory `number`, its copies ended. Sent after LENT, as packets and
	 * messages may overtake each other, and behind its last COPY. */
	GPU_RETURN,
	/* Up. */
	/* The device is open; text: its name, and behind a newline its uuid, or nothing where the
	 * vendor's do not tell devices apart; speeds. Or result, text. */
	GPU_READY,
	GPU_PINNED,   /* arena `number`: the first `offset` bytes can be copied; or result, text */
	GPU_LENT,     /* memory `number` is imported; or result, text */
	GPU_RETURNED, /* lent memory `number` is not mapped any more */
	GPU_COPIED    /* copy `number`; nothing of it is under way any more */
};

struct gpu_message {
	uint32_t verb;
	int32_t result;
	uint32_t number; /* as the verb says */
	/* COPY. */
	uint32_t memory;    /* lent */
	uint32_t arena;
	uint32_t group, block;
	uint16_t direction; /* enum copy_direction */
	uint16_t is_urgent;
	uint64_t offset;      /* of the payload in the arena */
	uint64_t gate_value;  /* that the lent word must have reached; 0: none */
	uint64_t deadline_us; /* CLOCK_MONOTONIC */
	uint64_t job;         /* of the client: see transfer/job_words.h */
	uint32_t job_place;
	uint32_t reserved;
	struct cost_speed speeds[COPY_DIRECTIONS]; /* as measured before anything else was copied */
	char text[GPU_TEXT_BYTES];
};

enum gpu_packet_kind {
	GPU_PACKET_ARENA = 1, /* with one descriptor */
	GPU_PACKET_LEND       /* a lend packet follows, with its descriptors */
};

struct gpu_packet {
	uint32_t kind;
	uint32_t number; /* arena, or lent memory: the daemon's to choose, not in use */
	uint64_t bytes;  /* ARENA: of all of it */
};

#define GPU_PACKET_BYTES_MAX (sizeof(struct gpu_packet) + LEND_BYTES_MAX)
#define GPU_PACKET_FDS_MAX (1 + LEND_FDS_MAX)

#endif
