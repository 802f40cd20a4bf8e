/* tests/peer/fake_channel.h: takes the place of transfer/peer/channel.c in a test that names it. */
#ifndef KVTIER_TESTS_PEER_FAKE_CHANNEL_H
#define KVTIER_TESTS_PEER_FAKE_CHANNEL_H

#include "transfer/peer/channel.h"

struct fake_channel_faults {
	bool is_deaf; /* nothing is read */
};
extern struct fake_channel_faults fake_channel_faults;

#endif
