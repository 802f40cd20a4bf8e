/*
 * transfer/device_gpu_probe.c: what a GPU and its driver can do, found out by doing it: a symbol
 * may be there and answer "not supported", and a driver says of words that it cannot where it can.
 */
#include "transfer/device_gpu.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#define PROBE_BYTES 4096u
#define PROBE_TRIES_MAX 50000u /* of 100 us, until what was queued must be done */
#define PROBE_PAUSE_NS 100000

/* Until nothing is queued. */
static int queue_wait(struct device *device, enum device_queue queue, struct error *error)
{
	const struct timespec pause = { .tv_nsec = PROBE_PAUSE_NS };
	int result = 0;

	for (unsigned tries = 0; result == 0 && tries < PROBE_TRIES_MAX; tries++) {
		result = gpu_is_idle(device, queue, error);
		if (result == 0)
			nanosleep(&pause, NULL);
	}
	if (result == 0)
		return error_set(error, -ETIMEDOUT, "%s does not end what it was given to try%s",
				 device->about.name,
				 queue == DEVICE_WAIT ? "; it may do without words" : "");
	return result < 0 ? result : 0;
}

/* What does not lose the device is an answer, and no failure. */
static int answer(struct device_gpu *gpu, int result, const struct error *said, bool *out_can,
		  struct error *error)
{
	if (result < 0 && (gpu->driver.is_lost || result != -ENOTSUP))
		return error_set(error, result, "%s", said->text);
	*out_can = result == 0;
	return 0;
}

/* One way of copying: two rows of it. */
static int path_probe(struct device *device, enum copy_path path, uint64_t address, uint8_t *host,
		      struct error *error)
{
	const struct copy_rectangle rectangle = {
		.device = address, .host = host, .bytes = PROBE_BYTES / 4, .rows = 2,
		.device_pitch = PROBE_BYTES / 2, .host_pitch = PROBE_BYTES / 2 };
	const struct device_copy copy = { .rectangles = &rectangle, .count = 1, .path = path };
	struct error said = { 0 };
	int result = gpu_copy_start(device, DEVICE_STORE_URGENT, &copy, &said);

	result = answer(device->back_end, result, &said, &device->about.has_path[path], error);
	return result < 0 ? result : queue_wait(device, DEVICE_STORE_URGENT, error);
}

/* Drivers say "no" where it works. A word is written, and waited for. */
static int words_probe(struct device *device, uint64_t address, struct error *error)
{
	struct error said = { 0 };
	int result = gpu_word_write(device, DEVICE_WAIT, address, 1, &said);

	if (result == 0)
		result = gpu_word_wait_in(device, DEVICE_WAIT, address, 1, &said);
	/* ROCm refuses memory that is not for signals as a wrong argument. */
	if (result == -EINVAL && ((struct device_gpu *)device->back_end)->driver.vendor == GPU_HIP)
		result = -ENOTSUP;
	result = answer(device->back_end, result, &said, &device->about.has_words, error);
	/* A write may be under way even where the wait was refused. */
	return result < 0 ? result : queue_wait(device, DEVICE_WAIT, error);
}

static int paths_probe(struct device *device, uint64_t address, uint8_t *host, struct error *error)
{
	struct device_gpu *gpu = device->back_end;
	const bool is_built[COPY_PATHS] = {
		[COPY_LOOP] = true,
		[COPY_2D] = gpu_has(&gpu->driver, copy_2d) && gpu->pitch_max > 0,
		[COPY_BATCH] = gpu_has_batch(&gpu->driver),
		[COPY_KERNEL] = gpu->function != NULL,
	};
	int result = 0;

	for (unsigned path = 0; result == 0 && path < COPY_PATHS; path++)
		if (is_built[path])
			result = path_probe(device, (enum copy_path)path, address, host, error);
	return result;
}

int gpu_probe(struct device *device, const struct device_config *config, struct error *error)
{
	struct device_memory scratch;
	uint8_t *host = aligned_alloc(PROBE_BYTES, PROBE_BYTES);
	int closed, result;

	if (host == NULL)
		return error_set(error, -ENOMEM, "no memory for a page");
	result = gpu_memory_open(device, PROBE_BYTES, &scratch, error);
	if (result < 0)
		goto free_host;
	result = gpu_pin(device, host, PROBE_BYTES, error);
	if (result < 0)
		goto close_scratch;
	if (!config->without_words)
		result = words_probe(device, scratch.address, error);
	if (result == 0)
		result = paths_probe(device, scratch.address, host, error);
	/* What failed may have queued a part, which must not meet memory that has gone. */
	if (result < 0) {
		(void)queue_wait(device, DEVICE_WAIT, NULL);
		(void)queue_wait(device, DEVICE_STORE_URGENT, NULL);
	}
	closed = gpu_unpin(device, host, PROBE_BYTES, result < 0 ? NULL : error);
	result = result < 0 ? result : closed;
close_scratch:
	closed = gpu_memory_close(device, &scratch, result < 0 ? NULL : error);
	result = result < 0 ? result : closed;
free_host:
	free(host);
	return result;
}
