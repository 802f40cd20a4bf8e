/* tests/tiers/test_tier_fault.c: the fake and the faulty tier keep the contract of tiers/tier.h. */
#include "tiers/fault/tier_fake.h"
#include "tiers/fault/tier_fault.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define PAGE 4096u
#define DEVICE_BYTES (16 * PAGE)
#define OPS 8u

struct rig {
	struct clock clock;
	struct tier_fake fake;
	struct tier_fault fault;
	struct tier_op ops[OPS];
	uint8_t *memory;
};

static unsigned done_count;

static void op_done(struct tier_op *op)
{
	(void)op;
	done_count++;
}

static void rig_init(struct rig *rig)
{
	struct error error;

	memset(rig, 0, sizeof(*rig));
	done_count = 0;
	clock_virtual_init(&rig->clock, 5);
	rig->memory = aligned_alloc(PAGE, OPS * PAGE);
	assert_non_null(rig->memory);
	assert_int_equal(tier_fake_open(&rig->fake, 2, DEVICE_BYTES, OPS, &rig->clock, &error), 0);
	assert_int_equal(tier_fault_open(&rig->fault, &rig->fake.tier, OPS, &error), 0);
}

static void rig_finish(struct rig *rig)
{
	tier_close(&rig->fault.tier);
	tier_close(&rig->fake.tier);
	free(rig->memory);
}

static struct tier_op *rig_op(struct rig *rig, unsigned n, enum tier_verb verb)
{
	struct tier_op *op = &rig->ops[n];

	memset(op, 0, sizeof(*op));
	op->verb = verb;
	op->device = n % 2;
	op->offset = n * PAGE;
	op->memory = rig->memory + n * PAGE;
	op->memory_bytes = PAGE;
	op->done = op_done;
	return op;
}

static int rig_one(struct rig *rig, unsigned n, enum tier_verb verb)
{
	struct tier_op *op = rig_op(rig, n, verb);
	int result = tier_submit(&rig->fault.tier, op);

	if (result < 0)
		return result;
	assert_int_equal(tier_poll(&rig->fault.tier, 1), 1);
	return op->result;
}

static void what_is_written_is_read_back(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	memset(rig.memory + 3 * PAGE, 9, PAGE);
	assert_int_equal(rig_one(&rig, 3, TIER_WRITE), 0);
	memset(rig.memory + 3 * PAGE, 0, PAGE);
	assert_int_equal(rig_one(&rig, 3, TIER_READ), 0);
	assert_int_equal(rig.memory[3 * PAGE + 17], 9);
	assert_int_equal(tier_fake_memory(&rig.fake, 1)[3 * PAGE], 9);
	assert_int_equal(rig.fault.tier.ops_done, 2);
	assert_int_equal(rig.fault.tier.bytes_written, PAGE);
	assert_int_equal(rig.fake.tier.in_flight, 0);
	rig_finish(&rig);
}

static void the_nth_op_fails_and_moves_nothing(void **unused)
{
	(void)unused;
	for (unsigned nth = 1; nth <= 3; nth++) {
		struct rig rig;

		rig_init(&rig);
		memset(rig.memory, 1, OPS * PAGE);
		tier_fault_arm(&rig.fault, nth, -EIO);
		for (unsigned n = 0; n < 3; n++) {
			assert_int_equal(tier_fault_was_hit(&rig.fault), n >= nth);
			assert_int_equal(rig_one(&rig, n, TIER_WRITE), n + 1 == nth ? -EIO : 0);
			assert_int_equal(tier_fake_memory(&rig.fake, n % 2)[n * PAGE],
					 n + 1 != nth);
		}
		assert_int_equal(rig.fault.tier.ops_failed, 1);
		rig_finish(&rig);
	}
}

static void an_op_can_be_refused_or_fail_after_it_was_done(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	memset(rig.memory, 1, OPS * PAGE);
	tier_fault_arm_at(&rig.fault, TIER_FAULT_AT_SUBMIT, 1, 2, -EAGAIN);
	assert_int_equal(rig_one(&rig, 0, TIER_WRITE), -EAGAIN);
	assert_int_equal(rig_one(&rig, 0, TIER_WRITE), -EAGAIN);
	assert_int_equal(rig.fault.tier.in_flight, 0);
	tier_fault_arm_at(&rig.fault, TIER_FAULT_AFTER, 1, 1, -EIO);
	assert_int_equal(rig_one(&rig, 0, TIER_WRITE), -EIO);
	assert_int_equal(tier_fake_memory(&rig.fake, 0)[0], 1);
	assert_int_equal(rig_one(&rig, 0, TIER_WRITE), 0);
	rig_finish(&rig);
}

static void held_ops_end_when_released_and_never_inside_submit(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	tier_fake_hold(&rig.fake);
	for (unsigned n = 0; n < OPS; n++)
		assert_int_equal(tier_submit(&rig.fault.tier, rig_op(&rig, n, TIER_READ)), 0);
	assert_int_equal(done_count, 0);
	assert_int_equal(tier_submit(&rig.fault.tier, &rig.ops[0]), -EAGAIN);
	assert_int_equal(tier_poll(&rig.fault.tier, OPS), 0);
	assert_true(tier_sleep(&rig.fault.tier));
	tier_fake_release(&rig.fake, 3);
	assert_false(tier_sleep(&rig.fault.tier));
	assert_int_equal(tier_poll(&rig.fault.tier, 2), 2);
	assert_int_equal(tier_poll(&rig.fault.tier, OPS), 1);
	tier_fake_flow(&rig.fake);
	assert_int_equal(tier_poll(&rig.fault.tier, OPS), OPS - 3);
	assert_int_equal(done_count, OPS);
	rig_finish(&rig);
}

static void a_fenced_device_refuses(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	rig.fake.is_fenced[1] = true;
	assert_int_equal(rig_one(&rig, 1, TIER_READ), -EIO);
	assert_int_equal(rig_one(&rig, 2, TIER_READ), 0);
	rig_finish(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_is_read_back),
		cmocka_unit_test(the_nth_op_fails_and_moves_nothing),
		cmocka_unit_test(an_op_can_be_refused_or_fail_after_it_was_done),
		cmocka_unit_test(held_ops_end_when_released_and_never_inside_submit),
		cmocka_unit_test(a_fenced_device_refuses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
