/*
 * daemon/inventory_server.h: what the inventory process does with what it is told and asked:
 * messages with numbers, those of late kept for who missed some, snapshots piece by piece.
 *
 * Pure but for the wire: no clock, no I/O of its own; the simulator drives it, too.
 * Runs on: one thread. Owns: all memory, taken by create, but for the table of spaces, which grows
 * to the highest number told.
 */
#ifndef KVTIER_DAEMON_INVENTORY_SERVER_H
#define KVTIER_DAEMON_INVENTORY_SERVER_H

#include "daemon/inventory_messages.h"

#define INVENTORY_ASKER_BYTES_MAX 255u
#define INVENTORY_ASKERS_MAX 64u
#define INVENTORY_KEPT_MAX 16384u          /* messages that can be asked for again */
#define INVENTORY_KEPT_BYTES (16u << 20)   /* of their payloads */

/* Nothing here waits: what does not fit is lost, and who listens notices by the numbers. */
struct inventory_wire {
	void (*publish)(void *room, uint64_t sequence, const void *payload, uint32_t bytes);
	/* To one who asked. */
	void (*answer)(void *room, const void *asker, uint32_t asker_bytes, uint64_t sequence,
		       const void *payload, uint32_t bytes);
	/* Upwards, to the loop. False: there is no room; it is tried again by the next step. */
	bool (*want)(void *room, const struct inventory_message *message);
	void *room;
};

struct inventory_server;

struct inventory_server_figures {
	uint64_t messages, keys, pieces, replays;
	uint64_t refused; /* questions: too many at once, or none that can be read */
};

must_check int inventory_server_create(struct inventory_server **out_server, uint64_t boot,
				       const struct inventory_wire *wire, struct error *error);
void inventory_server_destroy(struct inventory_server *server);
/* The next message of the loop. -EPROTO: it says nonsense: end this life. -ENOMEM. */
must_check int inventory_server_told(struct inventory_server *server,
				     const struct inventory_message *message, uint64_t now_us,
				     struct error *error);
/* Nothing more is there for now: what was told goes out. */
void inventory_server_flush(struct inventory_server *server);
/* A question, as a stranger put it. */
void inventory_server_asked(struct inventory_server *server, const void *asker,
			    uint32_t asker_bytes, const void *question, size_t bytes);
/* Wants the next piece, if one is asked for. */
void inventory_server_step(struct inventory_server *server);
void inventory_server_look(const struct inventory_server *server,
			   struct inventory_server_figures *out_figures);

#endif
