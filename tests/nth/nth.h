/*
 * tests/nth/nth.h: the nth call of the C library fails. In programs called test_nth_*, our own code
 * (not the tests, nor a library) reaches the functions of tests/nth/calls.inc by nth.c, which
 * counts them, lets one or more of them fail, and keeps books about what was taken and not given
 * back.
 * Runs on: any thread; arming and asking belong to the test's.
 */
#ifndef KVTIER_TESTS_NTH_NTH_H
#define KVTIER_TESTS_NTH_NTH_H

#include <stdbool.h>
#include <stdint.h>

enum nth_class {
	NTH_ALLOCATION = 1, /* memory, by malloc() and its kin or by mmap() */
	NTH_FILE = 2,       /* regular files and folders */
	NTH_SOCKET = 4,
	NTH_EVENT = 8,      /* eventfd, epoll, timers, descriptors of memory, threads, processes */
	NTH_IO = NTH_FILE | NTH_SOCKET | NTH_EVENT
};

struct nth_plan {
	unsigned classes;
	int errno_value; /* calls that cannot fail so are neither counted nor failed */
	bool is_short;   /* instead: half of a read or a write of a file is done */
	uint64_t nth;    /* from 1; 0: only count */
	uint64_t count;  /* how many in a row; UINT64_MAX: all from the nth on */
};

/* Counting begins at 0. */
void nth_arm(const struct nth_plan *plan);
void nth_disarm(void);
/* Nothing is counted and nothing fails until nth_resume(). */
void nth_pause(void);
void nth_resume(void);
/* Since it was armed: how many calls were counted, and how many of them failed. */
uint64_t nth_seen(void);
uint64_t nth_hits(void);
/* The name of the call that failed first; "" when none did. */
const char *nth_failed_call(void);

/* What is open now. */
struct nth_books {
	uint64_t allocations; /* by malloc() and its kin */
	unsigned descriptors; /* of the process */
	unsigned mappings;    /* shared ones, of the process */
};

struct nth_books nth_books(void);
/* Fails the test, with what is left, unless nothing was left since `before`. */
void nth_assert_nothing_is_left(const struct nth_books *before);

/* A line such as "allocations of a start: 812 / 812 failed in turn" and the same in
 * build/tests/nth.json. */
void nth_report(const char *what, uint64_t covered, uint64_t total);
/* Which n to try of 1..total: all, or, without CI=true, about `sample` of them, evenly. */
uint64_t nth_stride(uint64_t total, uint64_t sample);

#endif
