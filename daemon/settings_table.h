/*
 * daemon/settings_table.h: the rows behind daemon/settings.h, and how one value is read and
 * written. For the settings_* files alone. Runs on: main, before any thread. Pure, but for the
 * record that is written.
 */
#ifndef KVTIER_DAEMON_SETTINGS_TABLE_H
#define KVTIER_DAEMON_SETTINGS_TABLE_H

#include "daemon/settings.h"

#define SETTING_VALUE_TEXT_BYTES (SETTINGS_PATH_BYTES + 64)

enum setting_type {
	SETTING_SIZE,     /* uint64_t bytes: "64MiB" */
	SETTING_DURATION, /* uint64_t microseconds: "5s" */
	SETTING_COUNT,    /* uint32_t or uint64_t, by the field's size: "16" */
	SETTING_TEXT,
	SETTING_CHOICE, /* text, one of the words in `choices` */
	SETTING_BOOL
};

enum setting_check {
	CHECK_NOTHING,
	CHECK_PATH, /* absolute, printable */
	CHECK_PATH_OR_NONE,
	CHECK_NAME,  /* letters, digits, '-', '_', '.' */
	CHECK_LISTEN, /* address:port, or nothing */
	CHECK_PEER,   /* name or address, and port */
	CHECK_PEER_OR_NONE,
	CHECK_GPUS,   /* auto, off, or names of GPUs */
	CHECK_NUMA    /* auto, off, or NUMA nodes */
};

struct setting {
	const char *name;
	enum setting_type type;
	enum setting_check check;
	uint32_t offset;           /* of the field in its record */
	uint32_t bytes;            /* of the field */
	uint64_t minimum, maximum; /* SIZE, DURATION, COUNT */
	bool zero_allowed;         /* 0 means "chosen" or "no limit", also below the minimum */
	bool is_required;
	bool is_reloadable;  /* may change while the daemon runs; others wait for a restart */
	const char *choices; /* CHOICE: words, one space between them */
	const char
		*initial; /* the default, as a person would write it; "" also when there is none */
	const char *help; /* one sentence */
};

struct setting_list {
	const char *name;
	const struct setting *rows;
	unsigned rows_count;
	uint32_t items_offset, item_bytes, items_max, count_offset, origins_offset;
	const char *help;
};

/* What rows describe: the settings themselves, or one item of a list. Borrows all of it. */
struct setting_record {
	void *start;
	const struct setting *rows;
	unsigned rows_count;
	struct settings_origin *origins; /* one a row */
};

extern const struct setting settings_rows[];
extern const unsigned settings_rows_count;
extern const struct setting_list settings_lists[];
extern const unsigned settings_lists_count;

struct setting_record settings_record(struct settings *settings);
uint32_t settings_list_count(const struct settings *settings, const struct setting_list *list);
/* index < items_max. */
struct setting_record settings_list_record(struct settings *settings,
					   const struct setting_list *list, uint32_t index);
/* Adds an item with the defaults. -ENOSPC: the list is full; `origin` begins the sentence. */
must_check int settings_list_append(struct settings *settings, const struct setting_list *list,
				    const char *origin, struct error *error);
void settings_list_clear(struct settings *settings, const struct setting_list *list);
const struct setting_list *settings_list_find(const char *name);

/* The row of `name`, or an error that begins with `origin` and says the nearest name. At the top
 * level names of lists are among those suggested. */
must_check int setting_find(const struct setting_record *record, const char *name,
			    const char *origin, const struct setting **out_row,
			    struct error *error);
/* Reads `text` into the row's field. The sentence begins with `origin` and the name. */
must_check int setting_store(const struct setting_record *record, const struct setting *row,
			     const char *text, const char *origin, struct error *error);
/* The field as text that setting_store() reads back. */
void setting_format(const struct setting_record *record, const struct setting *row, char *text,
		    size_t text_bytes);
/* Where the field's value came from, for people: "kvtier.yaml:12", "default", ... Borrowed. */
const char *setting_origin(const struct setting_record *record, const struct setting *row);
/* "64MiB", "5s", "1024": a number of the row's type, in its largest exact unit. */
void setting_format_number(enum setting_type type, uint64_t number, char *text, size_t text_bytes);
void setting_record_default(const struct setting_record *record);
/* KVTIER_LOG_LEVEL of log_level; `list` and `index` for items, NULL else. */
void setting_environment_name(const struct setting_list *list, uint32_t index,
			      const struct setting *row, char *text, size_t text_bytes);

#endif
