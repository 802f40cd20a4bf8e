/* tests/tiers/test_nth_nvme.c: a device over a real file, by psync and by io_uring, while every
 * allocation, every call of the kernel and every function below the seam fails in turn: an open is
 * refused with a sentence, an op ends with an error, and what is said to be there is there. By
 * io_uring, what the ring itself does never fails: reads of an open do while writes succeed. */
#include "tests/nth/nth.h"
#include "tests/tiers/nvme_rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define SLOTS 3u
#define SAMPLE 5u
#define LOCK_WAIT_US UINT64_C(10000000)

/* What may be relied upon: what an op without an error has written. */
struct promised {
	bool slots[SLOTS];
	uint32_t table; /* its generation; 0: none */
	bool table_is_unsure;
};

static bool open_try(struct nvme_rig *rig)
{
	struct error *error = &rig->error;
	int result;

	*error = (struct error){ 0 };
	result = nvme_device_open(&rig->device, &rig->config, error);
	if (result >= 0) {
		result = nvme_tier_create(&rig->tier, &rig->device, 1, error);
		if (result < 0)
			nvme_device_close(rig->device);
	}
	if (result == 0)
		return true;
	rig->device = NULL;
	if (error->code >= 0 || strlen(error->text) < 10)
		fail_msg("after %s failed: %d \"%s\"", nth_failed_call(), error->code, error->text);
	return false;
}

static void write_all(struct nvme_rig *rig, struct promised *promised)
{
	int result = nvme_rig_write_table(rig, 5);

	promised->table = result == 0 ? 5 : promised->table;
	promised->table_is_unsure = result < 0;
	for (unsigned n = 0; n < SLOTS; n++) {
		nvme_rig_fill(rig, n, (uint8_t)(n + 1));
		promised->slots[n] = nvme_rig_one(rig, n, TIER_WRITE) == 0;
	}
}

/* `is_strict`: nothing fails any more. */
static void read_all(struct nvme_rig *rig, const struct promised *promised, bool is_strict)
{
	if (is_strict && promised->table != 0 && !promised->table_is_unsure)
		if (nvme_rig_table_generation(rig) != promised->table)
			fail_msg("after %s failed: the table was written and is not there",
				 nth_failed_call());
	for (unsigned n = 0; n < SLOTS; n++) {
		nvme_rig_fill(rig, n, 0xee);
		int result = nvme_rig_one(rig, n, TIER_READ);

		if (is_strict)
			assert_int_equal(result, 0);
		if (result == 0 && promised->slots[n] && !nvme_rig_holds(rig, n, (uint8_t)(n + 1)))
			fail_msg("after %s failed: slot %u was written and is not there",
				 nth_failed_call(), n);
	}
}

/* Made, written, closed, found again; then once more, as nothing fails. */
static uint64_t life(const char *io, const struct nth_plan *plan)
{
	struct promised promised = { 0 };
	struct nth_books before = nth_books();
	struct nvme_rig rig;
	uint64_t seen;

	nvme_rig_init(&rig);
	rig.fault.inner = block_io_find(io);
	/* A ring lets go of its files, and so of their lock, a while after its end. */
	rig.clock = *clock_real();
	rig.config.lock_wait_us_max = LOCK_WAIT_US;
	nth_arm(plan);
	if (open_try(&rig)) {
		write_all(&rig, &promised);
		nvme_rig_close(&rig);
	}
	if (open_try(&rig)) {
		read_all(&rig, &promised, false);
		nvme_rig_close(&rig);
	}
	nth_disarm();
	seen = nth_seen();
	if (!open_try(&rig))
		fail_msg("after %s failed once: %s", nth_failed_call(), rig.error.text);
	read_all(&rig, &promised, true);
	write_all(&rig, &promised);
	nvme_rig_close(&rig);
	assert_true(open_try(&rig));
	read_all(&rig, &promised, true);
	nvme_rig_finish(&rig);
	nth_assert_nothing_is_left(&before);
	return seen;
}

/* Helpers of psync make now more calls, now less: until there is no nth one. */
static void fail_in_turn(const char *io, struct nth_plan plan, uint64_t sums[2])
{
	uint64_t total, stride;

	plan.nth = 0;
	total = life(io, &plan);
	stride = nth_stride(total, SAMPLE);
	for (plan.nth = 1;; plan.nth += stride) {
		(void)life(io, &plan);
		if (nth_hits() == 0)
			break;
		sums[0]++;
	}
	sums[1] += stride == 1 ? plan.nth - 1 : total;
}

static void fail_all(const char *io, const char *what)
{
	static const struct {
		unsigned classes;
		int errno_value;
		bool is_lasting;
	} ways[] = {
		{ NTH_ALLOCATION, ENOMEM, true }, { NTH_FILE, EIO, true },
		{ NTH_FILE, ENOSPC, true },       { NTH_FILE, EROFS, true },
		{ NTH_FILE, ENOMEM, false },      { NTH_IO, EMFILE, true },
		{ NTH_EVENT, EAGAIN, false },     { NTH_IO, EINTR, false },
	};
	struct nth_plan halves = { .classes = NTH_FILE, .is_short = true, .count = 1 };
	uint64_t sums[2] = { 0 };

	if (block_io_find(io) == NULL) {
		printf("SKIP %s: not built in\n", io);
		skip();
	}
	for (unsigned i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		struct nth_plan plan = { .classes = ways[i].classes,
					 .errno_value = ways[i].errno_value,
					 .count = 1 };

		fail_in_turn(io, plan, sums);
		plan.count = UINT64_MAX;
		if (ways[i].is_lasting)
			fail_in_turn(io, plan, sums);
	}
	fail_in_turn(io, halves, sums);
	assert_true(sums[1] > 50);
	nth_report(what, sums[0], sums[1]);
}

static void every_call_of_psync_fails_in_turn(void **unused)
{
	(void)unused;
	fail_all("psync", "nvme by psync: calls");
}

static void every_call_of_io_uring_fails_in_turn(void **unused)
{
	struct nvme_rig rig;
	int result;

	(void)unused;
	nvme_rig_init(&rig);
	if (block_io_find("io_uring") != NULL)
		rig.fault.inner = block_io_find("io_uring");
	result = nvme_rig_open(&rig);
	nvme_rig_finish(&rig);
	if (result < 0) {
		printf("SKIP io_uring: %s\n", rig.error.text);
		skip();
	}
	fail_all("io_uring", "nvme by io_uring: calls");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_call_of_psync_fails_in_turn),
		cmocka_unit_test(every_call_of_io_uring_fails_in_turn),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
