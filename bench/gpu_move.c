/* bench/gpu_move.c: plain copies through a device, and whether what was moved has arrived. */
#include "bench/gpu_bench.h"

#include "bench/micro.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define PIECES_UNDER_WAY 2u /* so that the next is there when one ends */

/* One direction of plain copies. */
struct stream {
	enum device_queue queue;
	uint64_t device;
	const uint8_t *host;
	bool is_wanted;
	uint64_t pieces, started, ended;
	uint32_t marks[PIECES_UNDER_WAY];
	double seconds; /* until all pieces were there; 0: not yet */
};

bool gpu_mode_has(enum gpu_mode mode, enum copy_direction direction)
{
	return mode == GPU_BOTH || (mode == GPU_STORE) == (direction == COPY_STORE);
}

const char *gpu_mode_name(enum gpu_mode mode)
{
	static const char *const names[GPU_MODES] = { "store", "load", "both" };

	return names[mode];
}

static int is_late(struct gpu_bench *bench, double began, struct error *error)
{
	if (micro_now() - began < GPU_END_SECONDS_MAX)
		return 0;
	bench->is_stuck = true;
	return error_set(error, -ETIMEDOUT, "a copy has not ended within %.0f s",
			 GPU_END_SECONDS_MAX);
}

int gpu_copy(struct gpu_bench *bench, enum device_queue queue, const struct device_copy *copy,
	     double out_seconds[2], struct error *error)
{
	double began = micro_now();
	uint32_t mark;
	int result = device_copy_start(&bench->device, queue, copy, error);

	if (result < 0)
		return result;
	out_seconds[0] = micro_now() - began;
	result = device_mark_set(&bench->device, queue, &mark, error);
	if (result < 0)
		return result;
	do {
		result = device_mark_check(&bench->device, mark, error);
		if (result == 0)
			result = is_late(bench, began, error);
	} while (result == 0);
	out_seconds[1] = micro_now() - began;
	return result < 0 ? result : 0;
}

int gpu_copy_plain(struct gpu_bench *bench, enum device_queue queue, uint64_t device,
		   const uint8_t *host, uint64_t bytes, struct error *error)
{
	const struct copy_rectangle row = {
		.device = device, .host = (uint8_t *)(uintptr_t)host, .bytes = bytes, .rows = 1
	};
	const struct device_copy copy = { .rectangles = &row, .count = 1, .path = COPY_LOOP };
	double seconds[2];

	return gpu_copy(bench, queue, &copy, seconds, error);
}

int gpu_clear(struct gpu_bench *bench, enum gpu_mode mode, uint64_t bytes, struct error *error)
{
	assert(bytes <= bench->bytes);
	memset(gpu_host_target(bench), 0, bytes);
	if (!gpu_mode_has(mode, COPY_LOAD))
		return 0;
	return gpu_copy_plain(bench, DEVICE_LOAD_BULK, gpu_device_target(bench),
			      gpu_host_target(bench), bytes, error);
}

int gpu_read_back(struct gpu_bench *bench, uint64_t bytes, struct error *error)
{
	memset(gpu_host_target(bench), 0, bytes);
	return gpu_copy_plain(bench, DEVICE_STORE_BULK, gpu_device_target(bench),
			      gpu_host_target(bench), bytes, error);
}

int gpu_compare(const uint8_t *found, const uint8_t *wanted, uint64_t bytes, struct error *error)
{
	uint64_t at = 0;

	if (memcmp(found, wanted, bytes) == 0)
		return 0;
	while (found[at] == wanted[at])
		at++;
	return error_set(error, -EILSEQ,
			 "wrong bytes: 0x%02x, not 0x%02x, at byte %llu of %llu that were copied",
			 found[at], wanted[at], (unsigned long long)at, (unsigned long long)bytes);
}

static int plain_check(struct gpu_bench *bench, enum gpu_mode mode, struct error *error)
{
	int result = 0;

	if (gpu_mode_has(mode, COPY_STORE))
		result = gpu_compare(gpu_host_target(bench), gpu_host_source(bench), bench->bytes,
				     error);
	if (result == 0 && gpu_mode_has(mode, COPY_LOAD)) {
		result = gpu_read_back(bench, bench->bytes, error);
		if (result == 0)
			result = gpu_compare(gpu_host_target(bench), gpu_host_source(bench),
					     bench->bytes, error);
	}
	return result;
}

/* The next piece; those behind the last begin anew, to keep the other direction company. */
static int stream_start(struct gpu_bench *bench, struct stream *stream, struct error *error)
{
	uint64_t from = stream->started % stream->pieces * GPU_PIECE_BYTES;
	uint64_t left = bench->bytes - from;
	const struct copy_rectangle row = {
		.device = stream->device + from,
		.host = (uint8_t *)(uintptr_t)stream->host + from,
		.bytes = left < GPU_PIECE_BYTES ? left : GPU_PIECE_BYTES,
		.rows = 1,
	};
	const struct device_copy copy = { .rectangles = &row, .count = 1, .path = COPY_LOOP };
	int result = device_copy_start(&bench->device, stream->queue, &copy, error);

	if (result == 0)
		result = device_mark_set(&bench->device, stream->queue,
					 &stream->marks[stream->started % PIECES_UNDER_WAY], error);
	if (result == 0)
		stream->started++;
	return result;
}

/* `may_start`: pieces are wanted, be it for company. */
static int stream_step(struct gpu_bench *bench, struct stream *stream, bool may_start, double began,
		       struct error *error)
{
	while (stream->ended < stream->started) {
		int result = device_mark_check(
			&bench->device, stream->marks[stream->ended % PIECES_UNDER_WAY], error);
		if (result < 0)
			return result;
		if (result == 0)
			break;
		if (++stream->ended == stream->pieces)
			stream->seconds = micro_now() - began;
	}
	if (may_start && stream->started - stream->ended < PIECES_UNDER_WAY)
		return stream_start(bench, stream, error);
	return 0;
}

static bool is_complete(const struct stream *stream)
{
	return !stream->is_wanted || stream->seconds > 0;
}

static int streams_run(struct gpu_bench *bench, struct stream streams[COPY_DIRECTIONS],
		       struct error *error)
{
	double began = micro_now();
	bool is_busy = true;
	int result = 0;

	while (result == 0 && is_busy) {
		bool are_complete = is_complete(&streams[COPY_STORE]) &&
				    is_complete(&streams[COPY_LOAD]);

		is_busy = !are_complete;
		for (unsigned n = 0; n < COPY_DIRECTIONS && result == 0; n++) {
			bool may_start = streams[n].is_wanted && !are_complete &&
					 (streams[n].started < streams[n].pieces ||
					  !is_complete(&streams[1 - n]));

			result = stream_step(bench, &streams[n], may_start, began, error);
			is_busy |= streams[n].ended < streams[n].started;
		}
		if (result == 0 && is_busy)
			result = is_late(bench, began, error);
	}
	return result;
}

int gpu_plain(struct gpu_bench *bench, enum gpu_mode mode, double *out_rate, struct error *error)
{
	uint64_t pieces = (bench->bytes + GPU_PIECE_BYTES - 1) / GPU_PIECE_BYTES;
	struct stream streams[COPY_DIRECTIONS] = {
		{ .queue = DEVICE_STORE_BULK,
		  .device = gpu_device_source(bench),
		  .host = gpu_host_target(bench),
		  .pieces = pieces,
		  .is_wanted = gpu_mode_has(mode, COPY_STORE) },
		{ .queue = DEVICE_LOAD_URGENT,
		  .device = gpu_device_target(bench),
		  .host = gpu_host_source(bench),
		  .pieces = pieces,
		  .is_wanted = gpu_mode_has(mode, COPY_LOAD) },
	};
	int result = gpu_clear(bench, mode, bench->bytes, error);

	if (result == 0)
		result = streams_run(bench, streams, error);
	if (result == 0)
		result = plain_check(bench, mode, error);
	if (result < 0)
		return result;
	*out_rate = 0;
	for (unsigned n = 0; n < COPY_DIRECTIONS; n++)
		if (streams[n].is_wanted)
			*out_rate += (double)bench->bytes / streams[n].seconds / 1e9;
	return 0;
}
