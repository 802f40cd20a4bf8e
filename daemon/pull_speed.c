/* daemon/pull_speed.c: see pull_speed.h. */
#include "daemon/pull_speed.h"

#include "index/worth.h"

#include <assert.h>
#include <math.h>

#define START_LATENCY_US 50.0    /* of the way to the device's process and back */
#define START_BYTES_US   10000.0 /* PCIe 4.0 x16, half of it */
#define WEIGHT           0.125   /* of a new window */
#define BYTES_US_MIN     1.0

void pull_speed_init(struct pull_speed *speed)
{
	*speed = (struct pull_speed){ .latency_us = START_LATENCY_US, .bytes_us = START_BYTES_US,
				      .start_latency_us = START_LATENCY_US,
				      .start_bytes_us = START_BYTES_US };
}

static void start_again(struct pull_speed *speed)
{
	speed->latency_us = speed->start_latency_us;
	speed->bytes_us = speed->start_bytes_us;
}

void pull_speed_calibrated(struct pull_speed *speed, double latency_us, double bytes_us)
{
	if (!isfinite(latency_us) || !isfinite(bytes_us) || latency_us < 0 ||
	    bytes_us < BYTES_US_MIN)
		return;
	speed->start_latency_us = START_LATENCY_US + latency_us;
	speed->start_bytes_us = bytes_us;
	start_again(speed);
}

static void window_begin(struct pull_speed *speed, bool began_idle, uint64_t now_us)
{
	speed->begin_us = now_us;
	speed->ended_bytes = 0;
	speed->has_ended = false;
	speed->began_idle = began_idle;
	speed->is_void = began_idle && speed->gated > 0;
}

static void window_learn(struct pull_speed *speed, double took_us)
{
	double bytes = (double)speed->ended_bytes;
	double copy_us = bytes / speed->bytes_us;

	if (speed->is_void || speed->ended_bytes == 0)
		return;
	if (speed->began_idle && copy_us < speed->latency_us) {
		double latency_us = took_us > copy_us ? took_us - copy_us : 0;

		speed->latency_us += WEIGHT * (latency_us - speed->latency_us);
		return;
	}
	if (speed->began_idle)
		took_us -= speed->latency_us;
	/* By the time a byte takes, not the bytes of a time: one window that was noticed at once
	 * would outweigh many. */
	double byte_us = (took_us > 1 ? took_us : 1) / bytes;
	double smoothed = 1 / speed->bytes_us + WEIGHT * (byte_us - 1 / speed->bytes_us);

	speed->bytes_us = smoothed * BYTES_US_MIN < 1 ? 1 / smoothed : BYTES_US_MIN;
}

void pull_speed_settle(struct pull_speed *speed, uint64_t now_us)
{
	uint64_t took_us = speed->end_us - speed->begin_us;

	if (speed->copies == 0 && now_us > speed->end_us && now_us - speed->end_us > PULL_OLD_US) {
		start_again(speed);
		speed->has_ended = false;
		return;
	}
	if (!speed->has_ended || now_us <= speed->end_us)
		return;
	if (speed->copies > 0 && took_us < PULL_WINDOW_US)
		return;
	window_learn(speed, (double)took_us);
	window_begin(speed, false, speed->end_us);
}

void pull_speed_begin(struct pull_speed *speed, uint64_t bytes, bool is_gated, uint64_t now_us)
{
	pull_speed_settle(speed, now_us);
	speed->gated += is_gated;
	if (speed->copies++ == 0 && !speed->has_ended)
		window_begin(speed, true, now_us);
	speed->is_void = speed->is_void || (is_gated && speed->began_idle);
	speed->waiting_bytes += bytes;
}

void pull_speed_end(struct pull_speed *speed, uint64_t bytes, bool is_gated, bool is_copied,
		    uint64_t now_us)
{
	assert(speed->copies > 0 && speed->waiting_bytes >= bytes);
	pull_speed_settle(speed, now_us);
	speed->copies--;
	speed->gated -= is_gated;
	speed->waiting_bytes -= bytes;
	speed->ended_bytes += is_copied ? bytes : 0;
	speed->is_void = speed->is_void || !is_copied;
	speed->end_us = now_us;
	speed->has_ended = true;
}

uint32_t pull_speed_us(const struct pull_speed *speed, uint64_t bytes, bool is_first)
{
	return worth_restore_us(bytes, is_first ? speed->latency_us : 0, speed->bytes_us,
				is_first ? (double)speed->waiting_bytes : 0);
}
