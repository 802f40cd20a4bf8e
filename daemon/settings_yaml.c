/* daemon/settings_yaml.c: the settings file. The only one that speaks to libyaml, by its event
 * interface: a document of one map of scalars and of lists of maps of scalars. Whatever else YAML
 * can say is refused where it stands. */
#include "daemon/settings_table.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <yaml.h>

#define ORIGIN_BYTES (SETTINGS_PATH_BYTES + 16)

struct reader {
	yaml_parser_t parser;
	yaml_event_t event; /* the current one; deleted before the next */
	struct settings *settings;
	const char *name; /* of the file, for messages */
	struct error *error;
	char key[SETTING_VALUE_TEXT_BYTES];
	char origin[ORIGIN_BYTES]; /* "kvtier.yaml:12" of the current event */
};

static const char *event_words(yaml_event_type_t type)
{
	switch (type) {
	case YAML_SCALAR_EVENT:
		return "a value";
	case YAML_SEQUENCE_START_EVENT:
		return "a list";
	case YAML_MAPPING_START_EVENT:
		return "a map";
	case YAML_DOCUMENT_START_EVENT:
		return "a second document";
	default:
		return "the end";
	}
}

static int refuse_unexpected(struct reader *reader, const char *wanted)
{
	return error_set(reader->error, -EINVAL, "%s: %s where %s is expected", reader->origin,
			 event_words(reader->event.type), wanted);
}

static void origin_set(struct reader *reader, size_t line)
{
	snprintf(reader->origin, sizeof(reader->origin), "%s:%zu", reader->name, line + 1);
}

/* Anchors, aliases and tags let a file say what it does not seem to say; there is nothing here they
 * are needed for. */
static int refuse_magic(struct reader *reader)
{
	const yaml_event_t *event = &reader->event;
	const yaml_char_t *anchor = NULL, *tag = NULL;

	if (event->type == YAML_ALIAS_EVENT) {
		anchor = event->data.alias.anchor;
	} else if (event->type == YAML_SCALAR_EVENT) {
		anchor = event->data.scalar.anchor;
		tag = event->data.scalar.tag;
	} else if (event->type == YAML_SEQUENCE_START_EVENT) {
		anchor = event->data.sequence_start.anchor;
		tag = event->data.sequence_start.tag;
	} else if (event->type == YAML_MAPPING_START_EVENT) {
		anchor = event->data.mapping_start.anchor;
		tag = event->data.mapping_start.tag;
	}
	if (anchor != NULL)
		return error_set(reader->error, -EINVAL,
				 "%s: anchors and aliases ('%.40s') are not supported",
				 reader->origin, (const char *)anchor);
	if (tag != NULL)
		return error_set(reader->error, -EINVAL, "%s: tags ('%.40s') are not supported",
				 reader->origin, (const char *)tag);
	return 0;
}

static int event_next(struct reader *reader)
{
	yaml_event_delete(&reader->event);
	if (!yaml_parser_parse(&reader->parser, &reader->event)) {
		const yaml_parser_t *parser = &reader->parser;

		origin_set(reader, parser->problem_mark.line);
		return error_set(reader->error, -EINVAL, "%s: not YAML: %s%s%s", reader->origin,
				 parser->problem == NULL ? "no memory" : parser->problem,
				 parser->context == NULL ? "" : " ",
				 parser->context == NULL ? "" : parser->context);
	}
	origin_set(reader, reader->event.start_mark.line);
	return refuse_magic(reader);
}

/* The current event's scalar as text; borrowed until the next event. */
static int scalar_text(struct reader *reader, const char *wanted, const char **out_text)
{
	const char *text = (const char *)reader->event.data.scalar.value;

	if (reader->event.type != YAML_SCALAR_EVENT)
		return refuse_unexpected(reader, wanted);
	if (strlen(text) != reader->event.data.scalar.length)
		return error_set(reader->error, -EINVAL, "%s: a NUL character in %s",
				 reader->origin, wanted);
	*out_text = text;
	return 0;
}

/* The key into reader->key, and the value's event as the current one. 1: a pair; 0: the map ends.
 */
static int pair_next(struct reader *reader)
{
	const char *text;
	int result = event_next(reader);

	if (result < 0)
		return result;
	if (reader->event.type == YAML_MAPPING_END_EVENT)
		return 0;
	result = scalar_text(reader, "a key", &text);
	if (result < 0)
		return result;
	if (strlen(text) >= sizeof(reader->key))
		return error_set(reader->error, -EINVAL, "%s: unknown key '%.40s...'",
				 reader->origin, text);
	snprintf(reader->key, sizeof(reader->key), "%s", text);
	result = event_next(reader);
	return result < 0 ? result : 1;
}

static int refuse_second(struct reader *reader, uint64_t *seen, unsigned index)
{
	assert(index < 64);
	if ((*seen & (UINT64_C(1) << index)) != 0)
		return error_set(reader->error, -EINVAL, "%s: '%s' stands here a second time",
				 reader->origin, reader->key);
	*seen |= UINT64_C(1) << index;
	return 0;
}

/* The pair is one of `record`'s. */
static int pair_store(struct reader *reader, const struct setting_record *record, uint64_t *seen)
{
	const struct setting *row;
	char wanted[64];
	const char *text;
	int result = setting_find(record, reader->key, reader->origin, &row, reader->error);

	if (result == 0)
		result = refuse_second(reader, seen, (unsigned)(row - record->rows));
	if (result == 0) {
		snprintf(wanted, sizeof(wanted), "a value of %s", row->name);
		result = scalar_text(reader, wanted, &text);
	}
	if (result < 0)
		return result;
	if (reader->event.data.scalar.length == 0 &&
	    reader->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE)
		return error_set(reader->error, -EINVAL,
				 "%s: %s: has no value; leave the key out for its default",
				 reader->origin, row->name);
	return setting_store(record, row, text, reader->origin, reader->error);
}

static int item_read(struct reader *reader, const struct setting_list *list)
{
	struct setting_record record;
	uint64_t seen = 0;
	int result;

	if (reader->event.type != YAML_MAPPING_START_EVENT)
		return refuse_unexpected(reader, "a map of the item's keys");
	result = settings_list_append(reader->settings, list, reader->origin, reader->error);
	if (result < 0)
		return result;
	record = settings_list_record(reader->settings, list,
				      settings_list_count(reader->settings, list) - 1);
	for (result = pair_next(reader); result > 0; result = pair_next(reader)) {
		result = pair_store(reader, &record, &seen);
		if (result < 0)
			return result;
	}
	return result;
}

static int list_read(struct reader *reader, const struct setting_list *list)
{
	int result;

	if (reader->event.type != YAML_SEQUENCE_START_EVENT)
		return refuse_unexpected(reader, "a list of maps ('- name: ...')");
	settings_list_clear(reader->settings, list);
	for (result = event_next(reader); result == 0; result = event_next(reader)) {
		if (reader->event.type == YAML_SEQUENCE_END_EVENT)
			return 0;
		result = item_read(reader, list);
		if (result < 0)
			return result;
	}
	return result;
}

static int document_read(struct reader *reader)
{
	struct setting_record record = settings_record(reader->settings);
	uint64_t seen = 0, lists_seen = 0;
	int result;

	if (reader->event.type == YAML_SCALAR_EVENT && reader->event.data.scalar.length == 0)
		return 0; /* only comments */
	if (reader->event.type != YAML_MAPPING_START_EVENT)
		return refuse_unexpected(reader, "a map of settings ('key: value')");
	for (result = pair_next(reader); result > 0; result = pair_next(reader)) {
		const struct setting_list *list = settings_list_find(reader->key);

		if (list == NULL) {
			result = pair_store(reader, &record, &seen);
		} else {
			result = refuse_second(reader, &lists_seen,
					       (unsigned)(list - settings_lists));
			if (result == 0)
				result = list_read(reader, list);
		}
		if (result < 0)
			return result;
	}
	return result;
}

static int stream_read(struct reader *reader)
{
	int result = event_next(reader); /* the stream's start */

	if (result == 0)
		result = event_next(reader);
	if (result < 0 || reader->event.type == YAML_STREAM_END_EVENT)
		return result; /* an empty file */
	assert(reader->event.type == YAML_DOCUMENT_START_EVENT);
	result = event_next(reader);
	if (result == 0)
		result = document_read(reader);
	if (result == 0)
		result = event_next(reader); /* the document's end */
	if (result == 0)
		result = event_next(reader);
	if (result == 0 && reader->event.type != YAML_STREAM_END_EVENT)
		result = refuse_unexpected(reader, "the end");
	return result;
}

int settings_read_text(struct settings *settings, const char *text, size_t text_bytes,
		       const char *name, struct error *error)
{
	struct reader reader = { .settings = settings, .name = name, .error = error };
	int result;

	if (text_bytes > SETTINGS_FILE_BYTES_MAX)
		return error_set(error, -EFBIG, "%s: larger than %u bytes", name,
				 SETTINGS_FILE_BYTES_MAX);
	if (!yaml_parser_initialize(&reader.parser))
		return error_set(error, -ENOMEM, "%s: no memory", name);
	yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, text_bytes);
	result = stream_read(&reader);
	yaml_event_delete(&reader.event);
	yaml_parser_delete(&reader.parser);
	return result;
}

/* Reads until the end or until `room` is full; returns the bytes. */
static ssize_t read_whole(int fd, char *text, size_t room)
{
	size_t filled = 0;

	while (filled < room) {
		ssize_t count = read(fd, text + filled, room - filled);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return -errno;
		if (count == 0)
			break;
		filled += (size_t)count;
	}
	return (ssize_t)filled;
}

int settings_read_file(struct settings *settings, const char *path, struct error *error)
{
	char *text = NULL;
	ssize_t count;
	int result, fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return error_set(error, -errno, "%s: %s", path, strerror(errno));
	text = malloc(SETTINGS_FILE_BYTES_MAX + 1);
	if (text == NULL) {
		result = error_set(error, -ENOMEM, "%s: no memory", path);
		goto close_file;
	}
	count = read_whole(fd, text, SETTINGS_FILE_BYTES_MAX + 1);
	if (count < 0)
		result = error_set(error, (int)count, "%s: %s", path, strerror((int)-count));
	else
		result = settings_read_text(settings, text, (size_t)count, path, error);
	free(text);
close_file:
	close(fd);
	return result;
}
