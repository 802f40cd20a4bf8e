/* tests/transfer/test_channel_tls.c: channels over TLS: certificates of both sides, and proofs
 * that belong to one TLS connection alone. */
#include "tests/transfer/certificates.h"
#include "tests/transfer/channel_rig.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static struct channel_rig rig;
static struct test_certificate ca, other_ca, node, stranger, old;

static int certificates_make(void **unused)
{
	(void)unused;
	signal(SIGPIPE, SIG_IGN);
	certificate_make(&ca, NULL, "our CA", false);
	certificate_make(&other_ca, NULL, "another CA", false);
	certificate_make(&node, &ca, "kvtier-peer", false);
	certificate_make(&stranger, &other_ca, "kvtier-peer", false);
	certificate_make(&old, &ca, "kvtier-peer", true);
	return 0;
}

static void tls_set(unsigned end, const struct test_certificate *own)
{
	struct error error;

	assert_int_equal(channel_tls_create(&rig.ends[end].tls, ca.certificate, own->certificate,
					    own->key, &error),
			 0);
}

static void finish(void)
{
	channel_rig_finish(&rig);
	for (unsigned i = 0; i < 2; i++)
		channel_tls_destroy(rig.ends[i].tls);
}

static void begin(const struct test_certificate *one, const struct test_certificate *other)
{
	channel_rig_init(&rig);
	tls_set(0, one);
	tls_set(1, other);
}

static void both_sides_are_certified_and_talk(void **unused)
{
	uint8_t keys[2][CHANNEL_KEY_BYTES];
	struct peer_frame_header frame;

	(void)unused;
	begin(&node, &node);
	rig.ends[0].tls_name = "kvtier-peer";
	channel_rig_join(&rig, -1);
	channel_rig_settle(&rig);
	assert_true(rig.ends[0].is_up && rig.ends[1].is_up);
	channel_data_key(rig.ends[0].channel, true, keys[0]);
	channel_data_key(rig.ends[1].channel, false, keys[1]);
	assert_memory_equal(keys[0], keys[1], CHANNEL_KEY_BYTES);
	peer_frame_start(&frame, PEER_RELEASE, sizeof(frame), 1);
	for (unsigned i = 0; i < 5000; i++)
		assert_int_equal(channel_send(rig.ends[i % 2].channel, &frame), 0);
	channel_rig_settle(&rig);
	assert_int_equal(rig.ends[0].frames, 2500);
	assert_int_equal(rig.ends[1].frames, 2500);
	channel_end(rig.ends[1].channel, -ESHUTDOWN, "bye");
	channel_rig_settle(&rig);
	assert_int_equal(rig.ends[0].result, -ESHUTDOWN);
	finish();
}

static void assert_refused(const char *one, const char *other)
{
	channel_rig_join(&rig, -1);
	channel_rig_settle(&rig);
	assert_false(rig.ends[0].is_up || rig.ends[1].is_up);
	if (!rig.ends[0].is_down || !rig.ends[1].is_down) {
		clock_advance(&rig.clock, 2000 * RIG_MS);
		channel_rig_settle(&rig);
	}
	assert_true(rig.ends[0].is_down && rig.ends[1].is_down);
	if (strstr(rig.ends[0].reason, one) == NULL || strstr(rig.ends[1].reason, other) == NULL)
		fail_msg("\"%s\" and \"%s\" instead of \"%s\" and \"%s\"", rig.ends[0].reason,
			 rig.ends[1].reason, one, other);
	finish();
}

static void a_certificate_of_somebody_else_is_refused(void **unused)
{
	(void)unused;
	begin(&node, &stranger);
	assert_refused("certificate", "TLS");
	begin(&stranger, &node);
	assert_refused("TLS", "certificate");
	begin(&node, &old);
	assert_refused("expired", "TLS");
	begin(&old, &node);
	assert_refused("TLS", "expired");
}

static void a_certificate_of_another_name_is_refused(void **unused)
{
	(void)unused;
	begin(&node, &node);
	rig.ends[0].tls_name = "kvtier-elsewhere";
	assert_refused("ostname mismatch", "TLS");
}

static void a_certificate_is_no_secret(void **unused)
{
	(void)unused;
	begin(&node, &node);
	rig.ends[1].secrets[0][0] ^= 1;
	assert_refused("peer_secret_file", "peer_secret_file");
}

static void tls_on_one_side_only_does_not_talk(void **unused)
{
	(void)unused;
	channel_rig_init(&rig);
	tls_set(1, &node);
	assert_refused("", "TLS");
	channel_rig_init(&rig);
	tls_set(0, &node);
	assert_refused("TLS", "");
}

static void what_is_wrong_with_the_files_is_said(void **unused)
{
	struct channel_tls *tls;
	struct error error;

	(void)unused;
	assert_int_equal(channel_tls_create(&tls, "", node.certificate, node.key, &error), -EINVAL);
	assert_non_null(strstr(error.text, "peer_tls_ca"));
	assert_int_equal(channel_tls_create(&tls, ca.certificate, node.key, node.key, &error),
			 -EINVAL);
	assert_non_null(strstr(error.text, "peer_tls_certificate"));
	assert_int_equal(channel_tls_create(&tls, ca.certificate, node.certificate, "no key", &error),
			 -EINVAL);
	assert_non_null(strstr(error.text, "peer_tls_key"));
	assert_int_equal(channel_tls_create(&tls, ca.certificate, node.certificate, stranger.key,
					    &error),
			 -EINVAL);
	assert_non_null(strstr(error.text, "peer_tls_key"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_sides_are_certified_and_talk),
		cmocka_unit_test(a_certificate_of_somebody_else_is_refused),
		cmocka_unit_test(a_certificate_of_another_name_is_refused),
		cmocka_unit_test(a_certificate_is_no_secret),
		cmocka_unit_test(tls_on_one_side_only_does_not_talk),
		cmocka_unit_test(what_is_wrong_with_the_files_is_said),
	};

	return cmocka_run_group_tests(tests, certificates_make, NULL);
}
