/* bench/micro_calls.c: a lookup of one key beside a bare ping-pong, and of 8,192 keys in an index
 * of 10 million. */
#include "bench/micro.h"

#include "bench/payload.h"
#include "daemon/server.h"
#include "daemon/threads.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CALLS_A_SAMPLE 2000u
#define PING_BYTES (sizeof(struct frame_lookup) + sizeof(struct frame_keys) + FRAME_HASH_BYTES)
#define PONG_BYTES (sizeof(struct frame_found) + sizeof(struct frame_run) + 1)
#define LOOKUP_KEYS 8192u
#define LOOKUP_SAMPLES 31u
#define SLOT_BYTES 8192u
#define UNIT_BYTES (UINT64_C(64) << 20)

static int by_value(const void *left, const void *right)
{
	double difference = *(const double *)left - *(const double *)right;

	return difference < 0 ? -1 : difference > 0;
}

static double median_of(double *samples, unsigned count)
{
	qsort(samples, count, sizeof(double), by_value);
	return samples[count / 2];
}

/* The other end of the bare ping-pong: a blocking receive and send. */
static void pong_forever(int fd)
{
	uint8_t packet[PING_BYTES + PONG_BYTES];

	while (recv(fd, packet, sizeof(packet), 0) > 0)
		if (send(fd, packet, PONG_BYTES, MSG_NOSIGNAL) < 0)
			break;
	_exit(0);
}

static double ping_sample(int fd)
{
	static double samples[CALLS_A_SAMPLE];
	uint8_t packet[PING_BYTES] = { 0 };

	for (unsigned i = 0; i < CALLS_A_SAMPLE; i++) {
		double began = micro_now();

		if (send(fd, packet, sizeof(packet), 0) < 0 ||
		    recv(fd, packet, sizeof(packet), 0) <= 0)
			return NAN;
		samples[i] = (micro_now() - began) * 1e6;
	}
	return median_of(samples, CALLS_A_SAMPLE);
}

static double lookup_sample(struct micro_engine *engine, unsigned *out_hits)
{
	static double samples[CALLS_A_SAMPLE];
	uint8_t hash[1][KVTIER_HASH_BYTES];
	struct kvtier_keys keys = { .count = 1,
				    .hashes = (const uint8_t(*)[KVTIER_HASH_BYTES])hash };
	struct kvtier_lookup lookup = { .sections_count = 1, .sections = &keys };
	struct kvtier_found found = { 0 };

	payload_hash(1, hash[0]);
	for (unsigned i = 0; i < CALLS_A_SAMPLE; i++) {
		double began = micro_now();
		int result = kvtier_lookup(engine->client, &lookup, 1000000, &found);

		samples[i] = (micro_now() - began) * 1e6;
		*out_hits += result == 0 && found.usable_tokens > 0;
	}
	return median_of(samples, CALLS_A_SAMPLE);
}

/* Client and server on different CPUs, as an engine and its node's daemon are; on one CPU, wherever
 * the kernel puts them, for both alike. */
static void pin(pid_t pid, unsigned cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu % (unsigned)sysconf(_SC_NPROCESSORS_ONLN), &set);
	(void)sched_setaffinity(pid, sizeof(set), &set);
}

static void unpin(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	for (unsigned cpu = 0; cpu < (unsigned)sysconf(_SC_NPROCESSORS_ONLN); cpu++)
		CPU_SET(cpu, &set);
	(void)sched_setaffinity(0, sizeof(set), &set);
}

static int call_pairs(struct micro *micro, struct micro_engine *engine, int fd, const char *name,
		      double goal, struct error *error)
{
	struct measure_pairs pairs = { 0 };
	unsigned hits = 0;

	for (uint64_t i = 0; i < micro->pairs; i++) {
		double bare = ping_sample(fd);

		measure_pairs_add(&pairs, lookup_sample(engine, &hits), bare);
	}
	if (hits < micro->pairs * CALLS_A_SAMPLE)
		return error_set(error, -EIO, "%u lookups of %llu hit", hits,
				 (unsigned long long)micro->pairs * CALLS_A_SAMPLE);
	measures_add_pairs(&micro->measures, name, &pairs, "us", MEASURE_LOWER)->goal = goal;
	return 0;
}

int micro_call(struct micro *micro, struct error *error)
{
	struct micro_node node;
	struct micro_engine engine = { 0 };
	int fds[2] = { -1, -1 };
	int result = micro_node_start(&node, micro, UINT64_C(64) << 20, 0, 65536, error);
	pid_t pong = 0;

	if (result == 0 && socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds) < 0)
		result = error_set(error, -errno, "no socket pair: %s", strerror(errno));
	if (result == 0) {
		pong = fork();
		if (pong == 0) {
			close(fds[0]);
			pong_forever(fds[1]);
		}
		close(fds[1]);
		result = micro_engine_open(&engine, &node, 16, error);
	}
	if (result == 0 && micro_engine_move(&engine, true, 1, 1) != 1)
		result = error_set(error, -EIO, "one block could not be stored");
	pin(0, 0);
	pin(node.pid, 1);
	pin(pong, 1);
	if (result == 0)
		result = call_pairs(micro, &engine, fds[0], "call_1key", 1.3, error);
	pin(node.pid, 0);
	pin(pong, 0);
	if (result == 0)
		result = call_pairs(micro, &engine, fds[0], "call_1key_one_cpu", NAN, error);
	unpin();
	if (fds[0] >= 0)
		close(fds[0]);
	if (pong > 0)
		waitpid(pong, NULL, 0);
	micro_engine_close(&engine);
	micro_node_stop(&node);
	return result;
}

/* ---- the daemon's own code in this process, over a large index ---- */

struct big {
	struct daemon *daemon;
	struct threads threads; /* canaries go through mills, and the end waits for them */
	bool has_threads;
	uint64_t entries;
	struct session *session;
	int fd; /* the client's end */
	uint32_t space;
};

static double thread_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Sends a frame as a client would, and lets the daemon's session serve it; its CPU seconds, or NAN.
 */
static double serve_one(struct big *big, void *frame, uint32_t bytes, enum frame_type type,
			uint16_t flags)
{
	static uint8_t answer[FRAME_BYTES_MAX];
	double began, took;

	frame_start(frame, type, bytes, 1, 0);
	((struct frame_header *)frame)->flags = flags;
	((struct frame_header *)frame)->result = 0;
	if (send(big->fd, frame, bytes, 0) < 0)
		return NAN;
	began = thread_seconds();
	server_serve(big->session);
	took = thread_seconds() - began;
	if (flags != 0 || type != FRAME_LOOKUP) {
		if (recv(big->fd, answer, sizeof(answer), MSG_DONTWAIT) <= 0 ||
		    ((struct frame_header *)answer)->result < 0 ||
		    ((struct frame_header *)answer)->type == FRAME_ERROR)
			return NAN;
		if (type == FRAME_REGISTER)
			big->space = ((struct frame_registered *)answer)->space;
		if (type == FRAME_LOOKUP && ((struct frame_found *)answer)->usable_tokens == 0)
			return NAN;
	}
	return took;
}

static int engine_say(struct big *big, struct error *error)
{
	struct frame_hello hello = { .version_min = 1,
				     .version_max = 1,
				     .connection = FRAME_CONTROL };
	struct {
		struct frame_register head;
		struct frame_group group;
		uint16_t field[2];
		char value[4];
	} registration = {
		.head = { .engine = "micro",
			  .roles = FRAME_ROLE_SCHEDULER | FRAME_ROLE_WORKER,
			  .world = 1,
			  .groups_count = 1,
			  .fields_count = 1,
			  .fields_bytes = 8 },
		.group = { .tokens_per_block = 16, .payload_bytes = 4096, .segments_count = 1 },
		.field = { FRAME_FIELD_MODEL_CONTENT, 4 },
		.value = "big",
	};

	if (isnan(serve_one(big, &hello, sizeof(hello), FRAME_HELLO, 0)) ||
	    isnan(serve_one(big, &registration, sizeof(registration), FRAME_REGISTER, 0)))
		return error_set(error, -EPROTO, "the daemon's session refused the benchmark");
	return 0;
}

/* As a restart fills it: extents, then READY slots. */
static int index_fill(struct big *big)
{
	struct cache *cache = big->daemon->cache;
	uint64_t slots_a_unit = UNIT_BYTES / SLOT_BYTES;
	uint8_t hash[BLOCK_HASH_BYTES];
	uint32_t slot;
	int result = 0;

	for (uint64_t i = 0; result == 0 && i < big->entries; i++) {
		uint64_t unit = i / slots_a_unit;
		struct cache_extent extent = { .tenant = big->daemon->tenants[0].handle,
					       .first_unit = (uint32_t)unit,
					       .units_count = 1,
					       .slot_bytes = SLOT_BYTES,
					       .generation = 1 };
		struct cache_restored restored = {
			.offset = unit * UNIT_BYTES + i % slots_a_unit * SLOT_BYTES,
			.slot_bytes = SLOT_BYTES,
			.extent_generation = 1,
			.slot_generation = 1,
			.space = big->space,
			.epoch = 1,
			.tokens = 16,
			.shards_count = 1,
			.hash = hash,
		};

		if (i % slots_a_unit == 0)
			result = cache_extent_restore(cache, big->daemon->nvme_area, &extent);
		payload_hash(i, hash);
		if (result == 0)
			result = cache_slot_restore(cache, big->daemon->nvme_area, &restored,
						    &slot);
	}
	return result;
}

/* A daemon that was opened for a tiny node gets an index for a large one. */
static int index_replace(struct big *big, struct error *error)
{
	uint64_t entries = big->entries;
	struct daemon *daemon = big->daemon;
	uint32_t units = (uint32_t)((entries + UNIT_BYTES / SLOT_BYTES - 1) /
				    (UNIT_BYTES / SLOT_BYTES));
	uint32_t areas[TIERS] = { UINT32_MAX, 0 }, units_max[TIERS] = { 0, units };
	struct cache_config config = {
		.entries_max = (uint32_t)entries,
		.slots_max = { 64, (uint32_t)entries + 64 * units },
		.areas_max = 2,
		.tenants_max = 1,
		.spaces_max = 16,
		.leases_max = 64,
		.classes_max = 16,
		.lease_items_max = 1 << 20,
		.seed = 1,
	};
	int result;

	cache_destroy(daemon->cache);
	daemon->cache = NULL;
	result = cache_create(&daemon->cache, &config, error);
	if (result == 0)
		result = cache_area_add(daemon->cache, TIER_NVME, UNIT_BYTES, &units, 1,
					&daemon->nvme_area);
	areas[TIER_NVME] = daemon->nvme_area;
	if (result == 0)
		result = cache_tenant_add(daemon->cache, areas, units_max,
					  &daemon->tenants[0].handle);
	return result;
}

/* One lookup of LOOKUP_KEYS keys of big->entries, all hits: nanoseconds of the loop's CPU a key. */
static double keys_sample(struct big *big, uint64_t seed, uint64_t lease_us)
{
	static struct {
		struct frame_lookup head;
		struct frame_keys keys;
		uint8_t hashes[FRAME_KEYS_MAX][FRAME_HASH_BYTES];
	} frame;
	double seconds = 0.0;

	/* The layout of a LOOKUP, as long as nothing pads it. */
	static_assert(offsetof(__typeof__(frame), hashes) ==
			      sizeof(struct frame_lookup) + sizeof(struct frame_keys),
		      "sections follow the head");
	for (unsigned part = 0; part < LOOKUP_KEYS / FRAME_KEYS_MAX; part++) {
		memset(&frame.head, 0, sizeof(frame.head));
		memset(frame.head.tag, (int)(seed % 251) + 1, FRAME_TAG_BYTES);
		frame.head.space = big->space;
		frame.head.sections_count = 1;
		frame.head.lease_us = lease_us;
		frame.keys = (struct frame_keys){ .first_position = part * FRAME_KEYS_MAX,
						  .count = FRAME_KEYS_MAX };
		for (unsigned i = 0; i < FRAME_KEYS_MAX; i++) {
			/* Keys anywhere in the index: the dearest case for caches of the CPU. */
			uint64_t mixed = (seed * LOOKUP_KEYS + part * FRAME_KEYS_MAX + i) *
					 UINT64_C(0x9e3779b97f4a7c15);

			payload_hash((mixed >> 20) % big->entries, frame.hashes[i]);
		}
		seconds += serve_one(big, &frame, sizeof(frame), FRAME_LOOKUP,
				     part == LOOKUP_KEYS / FRAME_KEYS_MAX - 1 ? FRAME_LAST : 0);
	}
	return seconds * 1e9 / LOOKUP_KEYS;
}

static int big_open(struct big *big, struct micro *micro, struct error *error)
{
	static struct settings settings;
	char *arguments[][2] = { { "http_listen", "" },
				 { "log_level", "error" },
				 { "gpus", "off" }, /* their processes are of another program */
				 { "tenants.0.name", "default" },
				 { "tenants.0.cpu_bytes", "64MiB" } };
	int fds[2];
	int result = 0;

	settings_default(&settings);
	snprintf(settings.run_directory, sizeof(settings.run_directory), "%s/big",
		 micro->directory);
	snprintf(settings.state_directory, sizeof(settings.state_directory), "%s/big-state",
		 micro->directory);
	for (unsigned i = 0; result == 0 && i < sizeof(arguments) / sizeof(arguments[0]); i++)
		result = settings_set(&settings, arguments[i][0], arguments[i][1], "micro", error);
	if (result == 0)
		result = settings_finish(&settings, error);
	if (result == 0)
		result = daemon_create(&big->daemon, &settings, NULL, error);
	if (result == 0)
		result = threads_start(&big->threads, big->daemon, error);
	big->has_threads = result == 0;
	while (result == 0 && big->daemon->phase == DAEMON_RESTORING)
		daemon_step(big->daemon);
	if (result == 0 && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, fds) < 0)
		result = error_set(error, -errno, "no socket pair: %s", strerror(errno));
	if (result < 0)
		return result;
	struct wire wire = { .ops = &wire_unix, .fd = fds[1] };
	big->fd = fds[0];
	big->session = server_adopt(big->daemon, &wire, &big->daemon->tenants[0], false);
	return 0;
}

static void big_close(struct big *big)
{
	if (big->daemon == NULL)
		return;
	if (big->fd >= 0)
		close(big->fd);
	daemon_stop(big->daemon);
	while (big->has_threads && !daemon_is_drained(big->daemon)) {
		daemon_step(big->daemon);
		server_step(big->daemon, 0);
	}
	if (big->has_threads)
		threads_stop(&big->threads);
	daemon_destroy(big->daemon);
}

static int keys_measure(struct micro *micro, struct big *big, const char *name, uint64_t lease_us,
			double goal, struct error *error)
{
	double samples[LOOKUP_SAMPLES];
	struct measure *measure;

	for (unsigned i = 0; i < LOOKUP_SAMPLES; i++) {
		samples[i] = keys_sample(big, i + 1, lease_us);
		if (isnan(samples[i]))
			return error_set(error, -EIO, "a lookup of keys that are all there missed");
	}
	measure = measures_add(&micro->measures, name, measure_median(samples, LOOKUP_SAMPLES),
			       "ns/key", MEASURE_LOWER);
	measure->samples = LOOKUP_SAMPLES;
	measure->spread_low = measure_quantile(samples, LOOKUP_SAMPLES, 0.25);
	measure->spread_high = measure_quantile(samples, LOOKUP_SAMPLES, 0.75);
	measure->goal = goal;
	return 0;
}

int micro_lookup(struct micro *micro, struct error *error)
{
	struct big big = { .fd = -1, .entries = micro->index_blocks };
	int result = big_open(&big, micro, error);

	if (result == 0)
		result = index_replace(&big, error);
	if (result == 0)
		result = engine_say(&big, error);
	if (result == 0 && index_fill(&big) < 0)
		result = error_set(error, -EIO, "the index could not be filled");
	if (result == 0) {
		measures_add(&micro->measures, "index_bytes_block",
			     (double)cache_memory_bytes(big.daemon->cache) / (double)big.entries, "bytes",
			     MEASURE_LOWER)
			->goal = 160;
		result = keys_measure(micro, &big, "lookup_ns_key", 0, 80, error);
	}
	if (result == 0)
		result = keys_measure(micro, &big, "lookup_lease_ns_key", 1000, NAN, error);
	big_close(&big);
	return result;
}
