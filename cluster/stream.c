/* cluster/stream.c: see stream.h. */
#include "cluster/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct waiting {
	void *message;              /* NULL: it has not come */
	size_t bytes;
};

struct stream {
	struct waiting waiting[STREAM_MESSAGES_MAX]; /* by number, modulo */
	uint64_t next;
	uint64_t seen_end;          /* behind the highest number that came, or was lost here */
	uint64_t bytes;
};

int stream_create(struct stream **out_stream, struct error *error)
{
	*out_stream = calloc(1, sizeof(**out_stream));
	return *out_stream != NULL ? 0
				   : error_set(error, -ENOMEM, "no memory for a stream (%zu bytes)",
					       sizeof(**out_stream));
}

static void take_out(struct stream *stream, struct waiting *waiting)
{
	stream->bytes -= waiting->message != NULL ? waiting->bytes : 0;
	free(waiting->message);
	waiting->message = NULL;
}

void stream_begin(struct stream *stream, uint64_t next)
{
	for (size_t i = 0; i < STREAM_MESSAGES_MAX; i++)
		take_out(stream, &stream->waiting[i]);
	stream->next = stream->seen_end = next;
}

void stream_destroy(struct stream *stream)
{
	if (stream == NULL)
		return;
	stream_begin(stream, 0);
	free(stream);
}

int stream_put(struct stream *stream, uint64_t number, const void *message, size_t bytes)
{
	struct waiting *waiting = &stream->waiting[number % STREAM_MESSAGES_MAX];

	if (number < stream->next)
		return -EALREADY;
	if (number - stream->next < STREAM_MESSAGES_MAX && waiting->message != NULL)
		return -EALREADY;
	if (number + 1 > stream->seen_end)
		stream->seen_end = number + 1;
	/* The next one always has room: nothing waits for it then. */
	if (number - stream->next >= STREAM_MESSAGES_MAX ||
	    (number != stream->next && stream->bytes + bytes > STREAM_BYTES_MAX))
		return -ENOSPC;
	waiting->message = malloc(bytes > 0 ? bytes : 1);
	if (waiting->message == NULL)
		return -ENOMEM;
	memcpy(waiting->message, message, bytes);
	waiting->bytes = bytes;
	stream->bytes += bytes;
	return 0;
}

const void *stream_peek(const struct stream *stream, size_t *out_bytes)
{
	const struct waiting *waiting = &stream->waiting[stream->next % STREAM_MESSAGES_MAX];

	*out_bytes = waiting->bytes;
	return waiting->message;
}

void stream_pass(struct stream *stream)
{
	take_out(stream, &stream->waiting[stream->next % STREAM_MESSAGES_MAX]);
	stream->next++;
}

void stream_skip(struct stream *stream, uint64_t next)
{
	if (next > stream->next && next - stream->next > STREAM_MESSAGES_MAX)
		stream_begin(stream, next);
	while (stream->next < next)
		stream_pass(stream);
	if (stream->seen_end < next)
		stream->seen_end = next;
}

uint64_t stream_next(const struct stream *stream)
{
	return stream->next;
}

bool stream_gap(const struct stream *stream, uint64_t *out_first)
{
	uint64_t number = stream->next;

	while (number < stream->seen_end && number - stream->next < STREAM_MESSAGES_MAX &&
	       stream->waiting[number % STREAM_MESSAGES_MAX].message != NULL)
		number++;
	*out_first = number;
	return number < stream->seen_end;
}
