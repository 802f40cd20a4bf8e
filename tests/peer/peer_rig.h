/*
 * tests/peer/peer_rig.h: two peer servers in one thread, over real channels and the tests'
 * transport, and what their daemons would see of them.
 */
#ifndef KVTIER_TESTS_PEER_PEER_RIG_H
#define KVTIER_TESTS_PEER_PEER_RIG_H

#include "tests/peer/fake_transport.h"
#include "tiers/peer/peer_parts.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define RIG_ARENA_BYTES (UINT64_C(32) << 20)
#define RIG_QUEUE 2048u
#define NOT_YET 1
#define LONG_US (UINT64_C(600) * 1000000)

struct node {
	struct peer_server *server;
	char address[64];
	int arena_fd;
	uint8_t *arena;
	struct peer_message *queue; /* said, and not looked at yet */
	unsigned queued, room;
	/* What was said. */
	bool is_ready;
	struct node_session {
		bool is_up;
		uint32_t life;
		unsigned ups, downs, news, forgotten, frames;
		int result;
		char reason[PEER_TEXT_BYTES];
		struct peer_up up;
		uint8_t frame[PEER_FRAME_BYTES_MAX]; /* the last */
		struct peer_line line;
	} sessions[PEER_SESSIONS_MAX];
	int results[PEER_TRANSFERS_MAX];
	unsigned ends[PEER_TRANSFERS_MAX];
	unsigned session_of[PEER_TRANSFERS_MAX];
};

struct rig {
	struct clock clock; /* the machine's, and what a test adds */
	uint64_t added_us;
	struct node nodes[2];
};
extern struct rig rig;

struct rig_options {
	bool is_encrypted, is_swapped; /* swapped: the second has the smaller id */
	bool is_same_node;
	const struct transport_ops *first[3], *second[3]; /* of each; none: fake_transport */
};

void rig_open(const struct rig_options *options);
void rig_close(void);
uint64_t rig_now_us(void);
/* A pass of both; whether one did anything. */
bool rig_turn(void);
void rig_tell(struct node *node, struct peer_message message);
void rig_connect(struct node *node, uint32_t session, const char *address);
void rig_transfer(struct node *node, bool is_place, uint32_t number, uint32_t session, uint64_t tag,
		  uint64_t offset, uint64_t bytes);
/* The same; it ends in so many us at the latest. */
void rig_transfer_until(struct node *node, bool is_place, uint32_t number, uint32_t session,
			uint64_t tag, uint64_t offset, uint64_t bytes, uint64_t us);
/* A session of `node` that is up. PEER_SESSIONS_MAX: none. */
uint32_t rig_up(const struct node *node);
void rig_fill(uint8_t *memory, uint64_t bytes, uint64_t seed);
bool rig_is_filled(const uint8_t *memory, uint64_t bytes, uint64_t seed);

#define AWAIT(what)                                                                                \
	do {                                                                                       \
		uint64_t until_us = clock_now_us(clock_real()) + 10000000;                         \
		bool is_so;                                                                        \
		while (!(is_so = (what)) && clock_now_us(clock_real()) < until_us)                 \
			rig_turn();                                                                \
		assert_true(is_so);                                                                \
	} while (0)

#endif
