/* tests/client/test_nth_client.c: every allocation and every call of the kernel in an engine's life
 * with libkvtier fails in turn: misses and refusals with a reason, never wrong bytes, nothing left
 * behind, and no call beyond its bound. */
#include "tests/client/client_rig.h"
#include "tests/nth/nth.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BLOCKS 4u
#define SAMPLE 12u
#define CALL_US UINT64_C(200000) /* of a call that may find nobody */

static bool holds(const struct rig *rig, uint32_t block, uint8_t *const *planes)
{
	for (unsigned p = 0; p < RIG_PLANES; p++)
		if (memcmp(rig->planes[p] + block * rig_plane_stride[p],
			   planes[p] + block * rig_plane_stride[p], rig_plane_bytes[p]) != 0)
			return false;
	return true;
}

/* A job to its end, if it begins at all; its completion, or one without a job. */
static struct kvtier_completion run(struct rig *rig, bool is_store)
{
	struct kvtier_completion completion = { 0 };
	uint64_t job = 0;

	if (rig_begin(rig, is_store, BLOCKS, RIG_SHORT_US * 20, &job) < 0 || job == 0)
		return completion;
	while (kvtier_poll(rig->client, &completion, 1) == 0)
		(void)kvtier_wait(rig->client, CALL_US);
	assert_true(completion.job == job);
	assert_int_equal(completion.quiesced, 1);
	return completion;
}

/* What an engine does, as far as it is let. */
static void work(struct rig *rig, uint8_t *const *planes)
{
	struct kvtier_completion completion;
	struct kvtier_found found;

	(void)run(rig, true);
	if (rig_lookup(rig, BLOCKS, CALL_US, &found) == 0 && found.lease != 0)
		(void)kvtier_lease_release(rig->client, found.lease);
	rig_fill(rig, 2);
	completion = run(rig, false);
	for (unsigned i = 0; completion.job != 0 && i < BLOCKS; i++)
		if (completion.results[i] == 0 && !holds(rig, i, planes))
			fail_msg("after %s failed: wrong bytes of block %u", nth_failed_call(), i);
}

/* Nothing fails any more: a new client stores and loads. */
static void serves_as_ever(struct rig *rig, uint8_t *const *planes)
{
	rig->connect_us_max = 0;
	for (unsigned p = 0; p < RIG_PLANES; p++)
		memcpy(rig->planes[p], planes[p], RIG_BLOCKS * rig_plane_stride[p]);
	assert_int_equal(rig_open_client(rig, KVTIER_SCHEDULER | KVTIER_WORKER), 0);
	assert_true(kvtier_is_connected(rig->client));
	(void)rig_run(rig, true, BLOCKS);
	rig_fill(rig, 3);
	(void)rig_run(rig, false, BLOCKS);
	for (unsigned i = 0; i < BLOCKS; i++)
		assert_true(holds(rig, i, planes));
}

/* Returns how many calls could have failed. */
static uint64_t life(const struct nth_plan *plan)
{
	struct nth_books before = nth_books();
	struct rig *rig = rig_create_closed(RIG_WINDOW_BYTES);
	uint8_t *planes[RIG_PLANES];
	uint64_t seen;

	for (unsigned p = 0; p < RIG_PLANES; p++) {
		planes[p] = malloc(RIG_BLOCKS * rig_plane_stride[p]);
		memcpy(planes[p], rig->planes[p], RIG_BLOCKS * rig_plane_stride[p]);
	}
	rig->connect_us_max = CALL_US;
	nth_arm(plan);
	if (rig_open_client(rig, KVTIER_SCHEDULER | KVTIER_WORKER) == 0) {
		/* It would never store nor load, and nobody would know. */
		if (strcmp(nth_failed_call(), "pthread_create") == 0)
			fail_msg("a client without its copy thread");
		work(rig, planes);
	} else if (rig->client != NULL || strlen(rig->text) < 10) {
		fail_msg("after %s failed: \"%s\"", nth_failed_call(), rig->text);
	}
	nth_disarm();
	seen = nth_seen();
	kvtier_close(rig->client);
	rig->client = NULL;
	serves_as_ever(rig, planes);
	rig_destroy(rig);
	for (unsigned p = 0; p < RIG_PLANES; p++)
		free(planes[p]);
	nth_assert_nothing_is_left(&before);
	return seen;
}

struct sums {
	uint64_t covered, total;
};

/* Until there is no nth call any more: two threads make now more of them, now less. */
static void fail_in_turn(struct nth_plan plan, struct sums *sums)
{
	uint64_t total, stride;

	plan.nth = 0;
	total = life(&plan);
	stride = nth_stride(total, SAMPLE);
	for (plan.nth = 1;; plan.nth += stride) {
		(void)life(&plan);
		if (nth_hits() == 0)
			break;
		sums->covered++;
	}
	sums->total += stride == 1 ? plan.nth - 1 : total;
}

static void fail_by(unsigned classes, int errno_value, uint64_t count, struct sums *sums)
{
	struct nth_plan plan = { .classes = classes, .errno_value = errno_value, .count = 1 };

	fail_in_turn(plan, sums);
	plan.count = count;
	fail_in_turn(plan, sums);
}

static void every_allocation_fails_in_turn(void **unused)
{
	struct sums sums = { 0 };

	(void)unused;
	fail_by(NTH_ALLOCATION, ENOMEM, UINT64_MAX, &sums);
	assert_true(sums.total > 10);
	nth_report("libkvtier: allocations", sums.covered, sums.total);
}

static void every_call_of_the_kernel_fails_in_turn(void **unused)
{
	struct sums sums = { 0 };

	(void)unused;
	fail_by(NTH_IO, ENOMEM, UINT64_MAX, &sums);
	fail_by(NTH_IO, EMFILE, UINT64_MAX, &sums);
	fail_by(NTH_SOCKET, ECONNRESET, UINT64_MAX, &sums);
	fail_by(NTH_IO, EINTR, 3, &sums);
	fail_by(NTH_IO, EAGAIN, 3, &sums);
	assert_true(sums.total > 50);
	nth_report("libkvtier: calls of the kernel", sums.covered, sums.total);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_allocation_fails_in_turn),
		cmocka_unit_test(every_call_of_the_kernel_fails_in_turn),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
