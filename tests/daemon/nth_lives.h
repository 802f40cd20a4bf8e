/*
 * tests/daemon/nth_lives.h: two lives of a daemon, the second upon what the first has left, while
 * the nth call of the C library fails. Runs on: one thread.
 */
#ifndef KVTIER_TESTS_DAEMON_NTH_LIVES_H
#define KVTIER_TESTS_DAEMON_NTH_LIVES_H

#include "tests/nth/nth.h"
#include "tiers/nvme/block_io_fault.h"

struct nth_sums {
	uint64_t covered, total;
};

/* Every call that can fail as the plan says, in turn (its nth is not looked at). The daemon refuses
 * to start with a sentence, or serves as far as it can; it never serves a wrong byte and leaves
 * nothing behind; and once nothing fails any more, the same life serves as ever, and so does the
 * next. Adds to the sums. */
void nth_lives_calls_fail(const struct nth_plan *plan, struct nth_sums *sums);
/* The same, once each and then `count` in a row. */
void nth_lives_fail_by(unsigned classes, int errno_value, uint64_t count, struct nth_sums *sums);
/* The same for every function of struct block_io_ops, once each and for good, ... */
void nth_lives_disks_fail(enum block_fault fault, int errno_value, struct nth_sums *sums);
/* ... and for every call of the catalogue. */
void nth_lives_catalog_fails(int errno_value, struct nth_sums *sums);

#endif
