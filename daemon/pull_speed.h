/*
 * daemon/pull_speed.h: how fast a device copies blocks in one direction, as measured on the copies
 * themselves, and what waits there; for the estimate of a load.
 *
 * Copies overlap, so what is measured is the direction, not a copy: while any is under way, windows
 * of at least PULL_WINDOW_US each say how many bytes ended in how long. A window that began with an
 * idle device has one latency in it: it teaches whichever of the two should have taken longer.
 * What ends first after idleness may have waited for an engine's word: with such copies under way
 * that window teaches nothing, nor does one in which a copy failed. What was learned longer ago
 * than PULL_OLD_US counts no more: who is told that a device is slow asks no more of it, and would
 * not see it mend.
 *
 * Runs on: the loop thread; O(1), no memory.
 */
#ifndef KVTIER_DAEMON_PULL_SPEED_H
#define KVTIER_DAEMON_PULL_SPEED_H

#include <stdbool.h>
#include <stdint.h>

#define PULL_WINDOW_US 1000u
#define PULL_OLD_US (UINT64_C(10) * 1000000)

struct pull_speed {
	double latency_us, bytes_us;
	double start_latency_us, start_bytes_us; /* where nothing newer is known */
	uint64_t waiting_bytes;                  /* queued, or being copied */
	/* the window */
	uint64_t begin_us, end_us, ended_bytes; /* end: of its last copy so far */
	uint32_t copies, gated;                 /* now; gated: wait for an engine's word */
	bool has_ended, began_idle, is_void;
};

/* What is assumed until something was copied. */
void pull_speed_init(struct pull_speed *speed);
/* What the device was measured to take, without the way there, before anything else was copied:
 * what is assumed from now on, in place of that. bytes_us that is no speed: nothing changes. */
void pull_speed_calibrated(struct pull_speed *speed, double latency_us, double bytes_us);
void pull_speed_begin(struct pull_speed *speed, uint64_t bytes, bool is_gated, uint64_t now_us);
/* Once for each begin; is_copied: the bytes did go over. */
void pull_speed_end(struct pull_speed *speed, uint64_t bytes, bool is_gated, bool is_copied,
		    uint64_t now_us);
/* Takes in what ended before now, as copies that are noticed at once end at once, and forgets what
 * is old. */
void pull_speed_settle(struct pull_speed *speed, uint64_t now_us);
/* Until the device has copied so many bytes more; is_first: behind all that waits. */
uint32_t pull_speed_us(const struct pull_speed *speed, uint64_t bytes, bool is_first);

#endif
