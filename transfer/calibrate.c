/* transfer/calibrate.c: copies of every kind, timed, within a budget. */
#include "transfer/calibrate.h"

#include "base/random.h"

#include <assert.h>
#include <errno.h>
#include <time.h>

#define SAMPLES_MAX 5u
/* Host memory is shuffled as slots are; which shuffle does not matter. */
#define SHUFFLE_SEED 1u
/* Between two runs on the device, so that they are not one. */
#define GAP_BYTES UINT64_C(4096)
/* No copy begins in the last quarter of the budget: what is under way then ends within it. */
#define LAST_SHARE 4u
/* A copy may take twice what is expected. */
#define MARGIN 2u
/* A mark is asked for without a pause for so long, as a pause of Linux takes 50 us and more; then
 * it would be a small part of what is measured. */
#define SPIN_US UINT64_C(2000)
#define PAUSE_NS 20000

/* Runs of a copy. */
enum amount { FEW, MANY, AMOUNTS };

struct samples {
	uint64_t us[SAMPLES_MAX];
	unsigned count;
};

/* What is timed at once, in both directions. */
struct trial {
	enum copy_path path;
	unsigned length; /* of cost_lengths */
	enum amount amount;
};

struct calibration {
	struct device *device;
	const struct calibrate_config *config;
	unsigned paths;
	uint64_t begin_until_us, end_us, hung_us;
	struct device_memory memory;
	struct random random;
	struct copy_rectangle rectangles[COST_MANY];
	struct samples samples[COPY_DIRECTIONS][COPY_PATHS][COST_LENGTHS][AMOUNTS];
};

/* What matters most is first: usual lengths, and paths that leave the engine its processors. */
static const unsigned lengths_order[COST_LENGTHS] = { 3, 2, 4, 1, 5, 0, 6 };
static const enum copy_path paths_order[COPY_PATHS] = { COPY_BATCH, COPY_LOOP, COPY_2D,
							COPY_KERNEL };

unsigned calibrate_paths(const struct device *device, unsigned allowed)
{
	unsigned paths = 0;

	for (unsigned path = 0; path < COPY_PATHS; path++)
		if (device->about.has_path[path])
			paths |= (allowed | 1u << COPY_LOOP) & 1u << path;
	return paths;
}

static uint32_t runs_of(unsigned length, enum amount amount)
{
	uint64_t room = CALIBRATE_SCRATCH_BYTES / cost_lengths[length];
	uint64_t many = room < COST_MANY ? room : COST_MANY;
	uint64_t few = many / 4 < COST_FEW ? many / 4 : COST_FEW;

	/* One run is no rectangle. */
	return (uint32_t)(amount == MANY ? many : few < 2 ? 2 : few);
}

static uint64_t now_us(const struct calibration *calibration)
{
	return clock_now_us(calibration->config->clock);
}

/* ---- what is copied ---- */

/* Rows of a slot lie one behind the other; the device's are apart. */
static struct device_copy one_rectangle(struct calibration *calibration, uint64_t bytes,
					uint32_t runs)
{
	calibration->rectangles[0] = (struct copy_rectangle){
		.device = calibration->memory.address,
		.host = calibration->config->scratch,
		.bytes = bytes,
		.rows = runs,
		.device_pitch = bytes + GAP_BYTES,
		.host_pitch = bytes,
	};
	return (struct device_copy){ calibration->rectangles, 1, COPY_2D };
}

/* Runs that stand on the device in order, and on our side anywhere. */
static struct device_copy scattered(struct calibration *calibration, enum copy_path path,
				    uint64_t bytes, uint32_t runs)
{
	uint64_t distance = CALIBRATE_SCRATCH_BYTES / runs;
	struct copy_rectangle *rectangles = calibration->rectangles;

	assert(distance >= bytes && runs <= COST_MANY);
	for (uint32_t n = 0; n < runs; n++) {
		uint32_t other = (uint32_t)random_below(&calibration->random, n + 1);

		rectangles[n] = (struct copy_rectangle){
			.device = calibration->memory.address + n * (bytes + GAP_BYTES),
			.bytes = bytes,
			.rows = 1,
		};
		rectangles[n].host = rectangles[other].host;
		rectangles[other].host = calibration->config->scratch + n * distance;
	}
	return (struct device_copy){ rectangles, runs, path };
}

static struct device_copy copy_of(struct calibration *calibration, const struct trial *trial)
{
	uint64_t bytes = cost_lengths[trial->length];
	uint32_t runs = runs_of(trial->length, trial->amount);

	return trial->path == COPY_2D ? one_rectangle(calibration, bytes, runs)
				      : scattered(calibration, trial->path, bytes, runs);
}

static uint64_t device_bytes(void)
{
	uint64_t most = 0;

	for (unsigned n = 0; n < COST_LENGTHS; n++) {
		uint64_t bytes = runs_of(n, MANY) * (cost_lengths[n] + GAP_BYTES);

		most = bytes > most ? bytes : most;
	}
	return most;
}

/* ---- how long it takes ---- */

static uint64_t times_more(uint64_t wanted, uint64_t known)
{
	return wanted <= known ? 1 : (wanted + known - 1) / known;
}

/* At most, going by what this path took for other copies: more runs take as many times as long,
 * longer ones as much longer, and none takes more than a longer one. 0: nothing was timed. */
static uint64_t expected_of_path(const struct samples timed[COST_LENGTHS][AMOUNTS],
				 const struct trial *trial)
{
	uint32_t runs = runs_of(trial->length, trial->amount);
	uint64_t least = UINT64_MAX;

	for (unsigned length = 0; length < COST_LENGTHS; length++)
		for (unsigned amount = 0; amount < AMOUNTS; amount++) {
			const struct samples *samples = &timed[length][amount];

			if (samples->count == 0)
				continue;
			uint64_t us = (samples->us[samples->count - 1] + 1) *
				      times_more(runs, runs_of(length, (enum amount)amount)) *
				      times_more(cost_lengths[trial->length], cost_lengths[length]);
			least = us < least ? us : least;
		}
	return least == UINT64_MAX ? 0 : least;
}

/* Of the first copy by a path it is taken that it is as the slowest of the others; nothing is
 * known of the very first, which is small. */
static uint64_t expected_us(const struct calibration *calibration, const struct trial *trial,
			    enum copy_direction direction)
{
	uint64_t expected = expected_of_path(calibration->samples[direction][trial->path], trial);
	uint64_t most = 0;

	if (expected > 0)
		return expected;
	for (unsigned other = 0; other < COPY_DIRECTIONS; other++)
		for (unsigned path = 0; path < COPY_PATHS; path++) {
			expected = expected_of_path(calibration->samples[other][path], trial);
			most = expected > most ? expected : most;
		}
	return most;
}

static bool may_begin(const struct calibration *calibration, const struct trial *trial,
		      enum copy_direction direction)
{
	uint64_t now = now_us(calibration);

	return now < calibration->begin_until_us &&
	       MARGIN * expected_us(calibration, trial, direction) <= calibration->end_us - now;
}

/* 0: done. -ETIME: the budget was over, and CALIBRATE_LATE_US more, before it was asked for the
 * last time. */
static int mark_wait(const struct calibration *calibration, uint32_t mark, struct error *error)
{
	const struct timespec pause = { .tv_nsec = PAUSE_NS };
	uint64_t began = now_us(calibration);

	for (;;) {
		uint64_t now = now_us(calibration);
		int result = device_mark_check(calibration->device, mark, error);

		if (result != 0)
			return result < 0 ? result : 0;
		if (now >= calibration->hung_us)
			return error_set(error, -ETIME,
					 "it has not ended in time; the device hangs");
		if (now - began >= SPIN_US)
			nanosleep(&pause, NULL);
	}
}

static int copy_time(struct calibration *calibration, const struct device_copy *copy,
		     enum copy_direction direction, uint64_t *out_us, struct error *error)
{
	/* Those that transfers use. */
	enum device_queue queue = direction == COPY_STORE ? DEVICE_STORE_BULK : DEVICE_LOAD_URGENT;
	struct device *device = calibration->device;
	uint64_t began = now_us(calibration);
	uint32_t mark;
	int result = device_copy_start(device, queue, copy, error);

	if (result == 0)
		result = device_mark_set(device, queue, &mark, error);
	if (result == 0)
		result = mark_wait(calibration, mark, error);
	if (result == 0)
		*out_us = now_us(calibration) - began;
	return result;
}

/* The load comes first, of the same places: so what is stored are the bytes that lie there already,
 * and nothing that somebody else has left on the device gets into our memory. */
static int trial_run(struct calibration *calibration, const struct trial *trial,
		     struct error *error)
{
	static const enum copy_direction directions[] = { COPY_LOAD, COPY_STORE };
	struct device_copy copy = copy_of(calibration, trial);
	struct error words;

	for (unsigned n = 0; n < COPY_DIRECTIONS; n++) {
		struct samples *samples = &calibration->samples[directions[n]][trial->path]
							       [trial->length][trial->amount];

		if (!may_begin(calibration, trial, directions[n]))
			return 0;
		assert(samples->count < SAMPLES_MAX);
		int result = copy_time(calibration, &copy, directions[n],
				       &samples->us[samples->count], &words);
		if (result < 0)
			return error_set(error, result, "a %s of %u runs of %llu KiB by %s: %s",
					 directions[n] == COPY_LOAD ? "load" : "store",
					 runs_of(trial->length, trial->amount),
					 (unsigned long long)cost_lengths[trial->length] >> 10,
					 cost_path_name(trial->path), words.text);
		samples->count++;
	}
	return 0;
}

/* Everything once more, if there is time. */
static int round_run(struct calibration *calibration, struct error *error)
{
	int result = 0;

	for (unsigned length = 0; length < COST_LENGTHS; length++)
		for (unsigned n = 0; n < COPY_PATHS; n++) {
			struct trial trial = { paths_order[n], lengths_order[length], FEW };

			if ((calibration->paths & 1u << trial.path) == 0)
				continue;
			result = trial_run(calibration, &trial, error);
			trial.amount = MANY;
			if (result == 0)
				result = trial_run(calibration, &trial, error);
			if (result < 0)
				return result;
		}
	return 0;
}

/* Nothing of ours is under way any more; waits for it as mark_wait() does. */
static bool is_quiet(const struct calibration *calibration)
{
	const struct timespec pause = { .tv_nsec = PAUSE_NS };

	for (;;) {
		uint64_t now = now_us(calibration);
		int loads = device_is_idle(calibration->device, DEVICE_LOAD_URGENT, NULL);
		int stores = device_is_idle(calibration->device, DEVICE_STORE_BULK, NULL);

		if (loads != 0 && stores != 0)
			return loads > 0 && stores > 0;
		if (loads < 0 || stores < 0 || now >= calibration->hung_us)
			return false;
		nanosleep(&pause, NULL);
	}
}

/* ---- what follows from it ---- */

/* The clock counts whole microseconds; what took none took less. */
static double median_ns(const struct samples *samples)
{
	uint64_t sorted[SAMPLES_MAX] = { 0 };

	for (unsigned n = 0; n < samples->count; n++) {
		unsigned place = n;

		for (; place > 0 && sorted[place - 1] > samples->us[n]; place--)
			sorted[place] = sorted[place - 1];
		sorted[place] = samples->us[n];
	}
	uint64_t us = sorted[(samples->count - 1) / 2];
	return us == 0 ? 500 : (double)us * 1000;
}

/* False: was not measured. */
static bool line_make(const struct samples samples[AMOUNTS], unsigned length,
		      struct cost_line *out_line)
{
	if (samples[FEW].count == 0 || samples[MANY].count == 0)
		return false;
	*out_line = cost_line_of(
		(struct cost_time){ runs_of(length, FEW), median_ns(&samples[FEW]) },
		(struct cost_time){ runs_of(length, MANY), median_ns(&samples[MANY]) });
	return true;
}

/* As calibrate() returns. */
static int table_make(const struct calibration *calibration, struct cost_table *out_table)
{
	struct cost_table table = { 0 };
	bool is_whole = true;

	for (unsigned direction = 0; direction < COPY_DIRECTIONS; direction++)
		for (unsigned path = 0; path < COPY_PATHS; path++)
			for (unsigned n = 0; n < COST_LENGTHS; n++)
				if ((calibration->paths & 1u << path) != 0)
					is_whole &= line_make(
						calibration->samples[direction][path][n], n,
						&table.lines[direction][path][n]);
	cost_fill(&table);
	*out_table = table;
	return is_whole ? 0 : 1;
}

static int config_check(const struct calibrate_config *config, struct error *error)
{
	assert((uintptr_t)config->scratch % GAP_BYTES == 0);
	if (config->scratch_bytes < CALIBRATE_SCRATCH_BYTES)
		return error_set(error, -EINVAL,
				 "%llu bytes to measure copies with: it takes 16 MiB",
				 (unsigned long long)config->scratch_bytes);
	if (config->paths == 0)
		return error_set(error, -EINVAL, "no copy path is allowed");
	return 0;
}

int calibrate(struct device *device, const struct calibrate_config *config,
	      struct cost_table *out_table, struct error *error)
{
	struct calibration calibration = { .device = device, .config = config };
	int closed, result = config_check(config, error);

	if (result < 0)
		return result;
	calibration.paths = calibrate_paths(device, config->paths);
	calibration.end_us = now_us(&calibration) + config->budget_us;
	calibration.hung_us = calibration.end_us + CALIBRATE_LATE_US;
	calibration.begin_until_us = calibration.end_us - config->budget_us / LAST_SHARE;
	random_init(&calibration.random, SHUFFLE_SEED);
	result = device_memory_open(device, device_bytes(), &calibration.memory, error);
	if (result < 0)
		return result;
	for (unsigned n = 0; result == 0 && n < SAMPLES_MAX; n++)
		result = round_run(&calibration, error);
	/* A device that hangs or is lost may still use its memory, and closing it may wait for
	 * that: the process is to end, which gives back all. */
	if (result < 0 && !is_quiet(&calibration))
		return result;
	closed = device_memory_close(device, &calibration.memory, result < 0 ? NULL : error);
	if (result == 0)
		result = closed;
	return result < 0 ? result : table_make(&calibration, out_table);
}
