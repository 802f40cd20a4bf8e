/* tests/transfer/channel_rig.h: two channels on the two ends of a stream, under a virtual clock. */
#ifndef KVTIER_TESTS_TRANSFER_CHANNEL_RIG_H
#define KVTIER_TESTS_TRANSFER_CHANNEL_RIG_H

#include "transfer/peer/channel.h"

#define RIG_MS UINT64_C(1000)
#define RIG_FRAMES 4096u

struct channel_end {
	struct channel *channel; /* NULL: the test speaks itself, on fd */
	int fd;
	struct peer_hello hello, theirs;
	uint8_t secrets[CHANNEL_SECRETS_MAX][CHANNEL_SECRET_BYTES];
	unsigned secrets_count;
	struct channel_tls *tls;
	const char *tls_name;
	bool is_up, is_down;
	int result;
	char reason[CHANNEL_REASON_BYTES];
	unsigned frames;
	uint64_t numbers[RIG_FRAMES]; /* of the frames that came */
};

struct channel_rig {
	struct clock clock;
	struct channel_end ends[2]; /* the first connects */
};

/* Both ends with the same secret, names, other boot ids; changed by the test before
 * channel_rig_join(). */
void channel_rig_init(struct channel_rig *rig);
/* Both channels on a pair of sockets; `raw`: that end (0 or 1) is the test's; -1: none. */
void channel_rig_join(struct channel_rig *rig, int raw);
void channel_rig_finish(struct channel_rig *rig);
/* One pass of both. */
bool channel_rig_step(struct channel_rig *rig);
/* Until nothing is done any more. */
void channel_rig_settle(struct channel_rig *rig);

#endif
