/*
 * tests/gpu/fake/stream.c: streams and events. A stream is a FIFO and the thread that works it off;
 * nothing orders streams among one another. One mutex guards all; ops run without it.
 */
#include "tests/gpu/fake/fake.h"

#include <stdlib.h>

struct stream {
	struct list ops; /* the first is under way while `is_busy` */
	bool is_busy;
	bool is_destroyed; /* its thread ends when all is done */
	bool has_ended;
	pthread_t thread;
	struct list_node link;
};
static struct list streams = { .head = { &streams.head, &streams.head } };
static unsigned events_count;

/* Under the mutex. */
static void event_release(struct event *event)
{
	if (--event->holds == 0)
		free(event);
}

static void op_end(struct op *op)
{
	if (op->kind == OP_RECORD) {
		/* Behind an error that poisons nothing is ever done. */
		if (!fake_is_poisoned())
			op->event->done = op->value;
		event_release(op->event);
	}
	if (op->out_done != NULL)
		*op->out_done = true;
	free(op);
	pthread_cond_broadcast(&fake_changed);
}

static void *stream_run(void *argument)
{
	struct stream *stream = argument;
	struct op *op;

	pthread_mutex_lock(&fake_mutex);
	for (;;) {
		while (list_is_empty(&stream->ops) && !stream->is_destroyed)
			pthread_cond_wait(&fake_changed, &fake_mutex);
		if (list_is_empty(&stream->ops))
			break;
		op = list_item(list_first(&stream->ops), struct op, link);
		stream->is_busy = true;
		pthread_mutex_unlock(&fake_mutex);
		fake_op_run(op);
		pthread_mutex_lock(&fake_mutex);
		stream->is_busy = false;
		list_remove(&stream->ops, &op->link);
		op_end(op);
	}
	stream->has_ended = true;
	pthread_mutex_unlock(&fake_mutex);
	return NULL;
}

void fake_queue(gpu_stream target, const struct op *op, bool wait)
{
	struct stream *stream = target;
	struct op *queued = malloc(sizeof(*queued));
	bool is_done = false;

	*queued = *op;
	queued->out_done = wait ? &is_done : NULL;
	pthread_mutex_lock(&fake_mutex);
	list_append(&stream->ops, &queued->link);
	pthread_cond_broadcast(&fake_changed);
	while (wait && !is_done)
		pthread_cond_wait(&fake_changed, &fake_mutex);
	pthread_mutex_unlock(&fake_mutex);
}

static bool overlaps(const uint8_t *memory, uint64_t bytes, const void *other, uint64_t others)
{
	return (const uint8_t *)other < memory + bytes && memory < (const uint8_t *)other + others;
}

static bool op_touches(const struct op *op, const uint8_t *memory, uint64_t bytes)
{
	uint64_t rows = op->rows - 1;

	if (op->kind == OP_LAUNCH)
		return true; /* its fragments are read when it runs */
	if (op->kind == OP_WAIT || op->kind == OP_WRITE)
		return overlaps(memory, bytes, op->word, sizeof(*op->word));
	return op->kind == OP_COPY &&
	       (overlaps(memory, bytes, op->target, rows * op->target_pitch + op->bytes) ||
		overlaps(memory, bytes, op->source, rows * op->source_pitch + op->bytes));
}

static bool is_touched(const uint8_t *memory, uint64_t bytes)
{
	struct list_node *node, *link;

	for (node = list_first(&streams); node != NULL; node = list_after(&streams, node)) {
		struct stream *stream = list_item(node, struct stream, link);

		for (link = list_first(&stream->ops); link; link = list_after(&stream->ops, link))
			if (op_touches(list_item(link, struct op, link), memory, bytes))
				return true;
	}
	return false;
}

bool fake_wait_for_memory(const uint8_t *memory, uint64_t bytes)
{
	bool had_to_wait = false;

	while (is_touched(memory, bytes)) {
		had_to_wait = true;
		pthread_cond_wait(&fake_changed, &fake_mutex);
	}
	return had_to_wait;
}

/* Joins the threads that have ended, or all. Under the mutex, which it lets go meanwhile. */
static void streams_join(bool all)
{
	struct list_node *node = list_first(&streams);

	while (node != NULL) {
		struct stream *stream = list_item(node, struct stream, link);

		node = list_after(&streams, node);
		if (!all && !stream->has_ended)
			continue;
		list_remove(&streams, &stream->link);
		pthread_mutex_unlock(&fake_mutex);
		pthread_join(stream->thread, NULL);
		free(stream);
		pthread_mutex_lock(&fake_mutex);
		node = list_first(&streams);
	}
}

unsigned fake_streams_end(void)
{
	struct list_node *node;
	unsigned count;

	pthread_mutex_lock(&fake_mutex);
	count = events_count;
	for (node = list_first(&streams); node != NULL; node = list_after(&streams, node)) {
		struct stream *stream = list_item(node, struct stream, link);

		count += !stream->is_destroyed;
		stream->is_destroyed = true;
	}
	pthread_cond_broadcast(&fake_changed);
	streams_join(true);
	pthread_mutex_unlock(&fake_mutex);
	return count;
}

EXPORTED int cuStreamCreateWithPriority(gpu_stream *out_stream, unsigned flags, int priority)
{
	int error = fake_enter(FAKE_cuStreamCreateWithPriority, true);
	struct stream *stream;

	(void)priority; /* "no effect on host-to-device and device-to-host memory operations" */
	if (error != 0 || flags != GPU_STREAM_NON_BLOCKING)
		return error != 0 ? error : GPU_INVALID_VALUE;
	stream = calloc(1, sizeof(*stream));
	list_init(&stream->ops);
	pthread_mutex_lock(&fake_mutex);
	streams_join(false);
	list_append(&streams, &stream->link);
	pthread_mutex_unlock(&fake_mutex);
	pthread_create(&stream->thread, NULL, stream_run, stream);
	*out_stream = stream;
	return 0;
}

/* Returns at once; what is queued is still done. */
EXPORTED int cuStreamDestroy_v2(gpu_stream handle)
{
	int error = fake_enter(FAKE_cuStreamDestroy_v2, true);
	struct stream *stream = handle;

	pthread_mutex_lock(&fake_mutex);
	stream->is_destroyed = true;
	pthread_cond_broadcast(&fake_changed);
	pthread_mutex_unlock(&fake_mutex);
	return error;
}

EXPORTED int cuStreamQuery(gpu_stream handle)
{
	int error = fake_enter(FAKE_cuStreamQuery, true);
	struct stream *stream = handle;

	pthread_mutex_lock(&fake_mutex);
	if (error == 0 && !list_is_empty(&stream->ops))
		error = GPU_NOT_READY;
	pthread_mutex_unlock(&fake_mutex);
	return error;
}

EXPORTED int cuEventCreate(gpu_event *out_event, unsigned flags)
{
	int error = fake_enter(FAKE_cuEventCreate, true);
	struct event *event;

	if (error != 0 || (flags & ~7u) != 0)
		return error != 0 ? error : GPU_INVALID_VALUE;
	event = calloc(1, sizeof(*event));
	event->holds = 1;
	pthread_mutex_lock(&fake_mutex);
	events_count++;
	pthread_mutex_unlock(&fake_mutex);
	*out_event = event;
	return 0;
}

EXPORTED int cuEventDestroy_v2(gpu_event event)
{
	int error = fake_enter(FAKE_cuEventDestroy_v2, true);

	pthread_mutex_lock(&fake_mutex);
	event_release(event);
	events_count--;
	pthread_mutex_unlock(&fake_mutex);
	return error;
}

EXPORTED int cuEventRecord(gpu_event handle, gpu_stream stream)
{
	int error = fake_enter(FAKE_cuEventRecord, true);
	struct event *event = handle;
	struct op op = { .kind = OP_RECORD, .event = event };

	if (error != 0)
		return error;
	pthread_mutex_lock(&fake_mutex);
	op.value = ++event->recorded;
	event->holds++;
	pthread_mutex_unlock(&fake_mutex);
	fake_queue(stream, &op, false);
	return 0;
}

EXPORTED int cuEventQuery(gpu_event handle)
{
	int error = fake_enter(FAKE_cuEventQuery, true);
	struct event *event = handle;

	pthread_mutex_lock(&fake_mutex);
	if (error == 0 && event->done < event->recorded)
		error = GPU_NOT_READY;
	pthread_mutex_unlock(&fake_mutex);
	return error;
}
