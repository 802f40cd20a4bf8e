/* tests/peer/test_peer_deaf.c: a peer whose channel stays, and takes nothing. */
#include "tests/peer/fake_channel.h"
#include "tests/peer/peer_rig.h"

#include <string.h>

static struct node *const first = &rig.nodes[0], *const second = &rig.nodes[1];

static void who_takes_nothing_is_left(void **unused)
{
	struct peer_frame_header header = { .magic = PEER_FRAME_MAGIC, .type = PEER_RENEW,
					    .bytes = PEER_FRAME_BYTES_MAX };
	struct peer_message message = { .verb = PEER_SAY };

	(void)unused;
	rig_open(&(struct rig_options){ 0 });
	rig_connect(first, 0, second->address);
	AWAIT(first->sessions[0].is_up && rig_up(second) < PEER_SESSIONS_MAX);
	fake_channel_faults.is_deaf = true;
	memcpy(message.frame, &header, sizeof(header));
	message.life = first->sessions[0].life;
	for (unsigned n = 0; n < 2000; n++) /* what the kernel and the channel hold, and more */
		rig_tell(first, message);
	AWAIT(!first->sessions[0].is_up);
	assert_string_equal(first->sessions[0].reason, "does not take what it is told");
	rig_close();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_takes_nothing_is_left),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
