/* bench/micro_node_life.c: restart with a million blocks, two busy clients, an idle daemon. */
#include "bench/micro.h"

#include "bench/payload.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RESTART_BLOCK_BYTES 4096u
#define RESTART_SAMPLES 5u
#define FAIR_SAMPLES 11u
#define FAIR_SECONDS 0.5
#define IDLE_SECONDS 5
#define IDLE_SAMPLES 5u

/* A measure of single values: median and quartiles. */
static void add_samples(struct micro *micro, const char *name, double *samples, unsigned count,
			const char *unit, enum measure_better better, double goal)
{
	struct measure *measure = measures_add(&micro->measures, name,
					       measure_median(samples, count), unit, better);

	measure->samples = count;
	measure->spread_low = measure_quantile(samples, count, 0.25);
	measure->spread_high = measure_quantile(samples, count, 0.75);
	measure->goal = goal;
}

static bool key_hits(struct micro_engine *engine, uint64_t identity)
{
	uint8_t hash[1][KVTIER_HASH_BYTES];
	struct kvtier_keys keys = { .count = 1,
				    .hashes = (const uint8_t(*)[KVTIER_HASH_BYTES])hash };
	struct kvtier_lookup lookup = { .sections_count = 1, .sections = &keys };
	struct kvtier_found found = { 0 };

	payload_hash(identity, hash[0]);
	return kvtier_lookup(engine->client, &lookup, 1000000, &found) == 0 &&
	       found.usable_tokens > 0;
}

static int restart_sample(struct micro_node *node, struct micro_engine *engine, uint64_t identity,
			  double *out_seconds, struct error *error)
{
	double began;
	int result;

	micro_node_kill(node);
	began = micro_now();
	result = micro_node_again(node, error);
	while (result == 0 && micro_now() - began < 60.0) {
		if (kvtier_connect(engine->client, 1000000, NULL, 0) == 0 &&
		    key_hits(engine, identity)) {
			*out_seconds = micro_now() - began;
			return 0;
		}
		struct timespec pause = { .tv_nsec = 2000000 };
		nanosleep(&pause, NULL);
	}
	return result < 0 ? result
			  : error_set(error, -ETIMEDOUT, "no hit within 60 s of the restart");
}

int micro_restart(struct micro *micro, struct error *error)
{
	uint64_t blocks = micro->restart_blocks;
	uint64_t extent = UINT64_C(16) << 20;
	/* The cache may use half of the device; the first extents of a class are the cpu tier's as
	 * well. */
	uint64_t nvme_bytes = 2 * (blocks * 2 * RESTART_BLOCK_BYTES / extent + 16) * extent;
	struct micro_node node;
	struct micro_engine engine = { 0 };
	double samples[RESTART_SAMPLES];
	int result = micro_node_start(&node, micro, UINT64_C(64) << 20, nvme_bytes,
				      RESTART_BLOCK_BYTES, error);

	if (result == 0)
		result = micro_engine_open(&engine, &node, 4096, error);
	for (uint64_t done = 0; result == 0 && done < blocks;) {
		uint64_t part = blocks - done < 65536 ? blocks - done : 65536;
		int64_t good = micro_engine_move(&engine, true, 1 + done, part);

		if (good != (int64_t)part)
			result = error_set(error, -EIO, "%lld of %llu blocks were stored",
					   (long long)good, (unsigned long long)part);
		done += part;
	}
	if (result == 0)
		result = micro_engine_settle(&engine, error);
	for (unsigned i = 0; result == 0 && i < RESTART_SAMPLES; i++)
		result = restart_sample(&node, &engine,
					1 + (i * UINT64_C(7919) + blocks / 3) % blocks, &samples[i],
					error);
	if (result == 0)
		add_samples(micro, "restart_1m_seconds", samples, RESTART_SAMPLES, "s",
			    MEASURE_LOWER, 3);
	micro_engine_close(&engine);
	micro_node_stop(&node);
	return result;
}

struct busy {
	struct micro_engine engine;
	double until;
	uint64_t moved;
	int result;
};

/* Stores and loads its own blocks until the time is over. */
static void *busy_run(void *owner)
{
	struct busy *busy = owner;
	uint64_t count = busy->engine.blocks;

	while (micro_now() < busy->until && busy->result == 0) {
		int64_t stored = micro_engine_move(&busy->engine, true, busy->engine.next_identity,
						   count);
		int64_t loaded = micro_engine_move(&busy->engine, false, busy->engine.next_identity,
						   count);

		busy->engine.next_identity += count;
		busy->result = stored < 0 ? (int)stored : loaded < 0 ? (int)loaded : 0;
		busy->moved += stored > 0 && loaded > 0 ? (uint64_t)(stored + loaded) : 0;
	}
	return NULL;
}

static int fair_sample(struct busy pair[2], double *out_share, struct error *error)
{
	pthread_t threads[2];
	double until = micro_now() + FAIR_SECONDS;

	for (unsigned i = 0; i < 2; i++) {
		pair[i].until = until;
		pair[i].moved = 0;
		if (pthread_create(&threads[i], NULL, busy_run, &pair[i]) != 0)
			return error_set(error, -EAGAIN, "no thread");
	}
	for (unsigned i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	if (pair[0].result < 0 || pair[1].result < 0 || pair[0].moved == 0 || pair[1].moved == 0)
		return error_set(error, -EIO, "a busy client moved nothing");
	*out_share = pair[0].moved < pair[1].moved ? (double)pair[0].moved / (double)pair[1].moved
						   : (double)pair[1].moved / (double)pair[0].moved;
	return 0;
}

int micro_fair(struct micro *micro, struct error *error)
{
	static struct busy pair[2];
	struct micro_node node;
	double samples[FAIR_SAMPLES];
	int result = micro_node_start(&node, micro, UINT64_C(512) << 20, 0, 65536, error);

	for (unsigned i = 0; result == 0 && i < 2; i++) {
		result = micro_engine_open(&pair[i].engine, &node, 256, error);
		pair[i].engine.next_identity = 1 + (uint64_t)i * UINT64_C(1000000000);
	}
	for (unsigned i = 0; result == 0 && i < FAIR_SAMPLES; i++)
		result = fair_sample(pair, &samples[i], error);
	if (result == 0)
		add_samples(micro, "fair_share", samples, FAIR_SAMPLES, "ratio", MEASURE_HIGHER,
			    0.90);
	for (unsigned i = 0; i < 2; i++)
		micro_engine_close(&pair[i].engine);
	micro_node_stop(&node);
	return result;
}

/* CPU seconds of one process so far, to the nanosecond: short wakes do not show in the kernel's
 * ticks. */
static double cpu_seconds(pid_t pid)
{
	struct timespec used;
	clockid_t clock;

	if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &used) < 0)
		return 0.0;
	return (double)used.tv_sec + (double)used.tv_nsec / 1e9;
}

/* The daemon and its workers: every process whose parent it is. */
static double node_cpu_seconds(pid_t pid)
{
	double seconds = cpu_seconds(pid);
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid, (int)pid);
	FILE *file = fopen(path, "r");
	if (file == NULL)
		return seconds;
	for (int child; fscanf(file, "%d", &child) == 1;)
		seconds += cpu_seconds(child);
	fclose(file);
	return seconds;
}

int micro_idle(struct micro *micro, struct error *error)
{
	struct micro_node node;
	struct micro_engine engine = { 0 };
	double samples[IDLE_SAMPLES];
	int result = micro_node_start(&node, micro, UINT64_C(64) << 20, UINT64_C(256) << 20, 65536,
				      error);

	if (result == 0)
		result = micro_engine_open(&engine, &node, 64, error);
	if (result == 0 && micro_engine_move(&engine, true, 1, 64) != 64)
		result = error_set(error, -EIO, "64 blocks could not be stored");
	if (result == 0)
		result = micro_engine_settle(&engine, error);
	for (unsigned i = 0; result == 0 && i < IDLE_SAMPLES; i++) {
		struct timespec pause = { .tv_sec = IDLE_SECONDS };
		double began = micro_now(), used = node_cpu_seconds(node.pid);

		nanosleep(&pause, NULL);
		samples[i] = (node_cpu_seconds(node.pid) - used) / (micro_now() - began);
	}
	if (result == 0)
		add_samples(micro, "idle_core", samples, IDLE_SAMPLES, "cores", MEASURE_LOWER,
			    0.005);
	micro_engine_close(&engine);
	micro_node_stop(&node);
	return result;
}
