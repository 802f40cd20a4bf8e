/*
 * daemon/inventory_sockets.h: the inventory's two sockets, ZeroMQ's PUB for what is said and ROUTER
 * for questions. The one place that speaks to libzmq. Nothing waits: to who is slow, messages are
 * lost, and he notices by their numbers.
 * Runs on: the inventory process's thread; libzmq has one of its own beside it.
 */
#ifndef KVTIER_DAEMON_INVENTORY_SOCKETS_H
#define KVTIER_DAEMON_INVENTORY_SOCKETS_H

#include "daemon/inventory_server.h"

#define INVENTORY_QUESTION_BYTES_MAX 64u
#define INVENTORY_QUEUE_MESSAGES 1024     /* of each that listens, before it loses some */

struct inventory_sockets;

/* Each address "host:port"; port 0: any free one. */
must_check int inventory_sockets_open(struct inventory_sockets **out_sockets, const char *listen,
				      const char *ask_listen, struct error *error);
void inventory_sockets_close(struct inventory_sockets *sockets);
/* Of what is said, and of questions. */
void inventory_sockets_ports(const struct inventory_sockets *sockets, uint16_t *out_said,
			     uint16_t *out_asked);
/* The functions of a wire; its room is `sockets`. */
void inventory_sockets_publish(void *room, uint64_t sequence, const void *payload, uint32_t bytes);
void inventory_sockets_answer(void *room, const void *asker, uint32_t asker_bytes,
			      uint64_t sequence, const void *payload, uint32_t bytes);
/* Hands questions to the server, some at most; false: there was none. */
bool inventory_sockets_hear(struct inventory_sockets *sockets, struct inventory_server *server);
/* May be readable when there is a question; inventory_sockets_hear() comes before each wait. */
int inventory_sockets_fd(const struct inventory_sockets *sockets);

#endif
