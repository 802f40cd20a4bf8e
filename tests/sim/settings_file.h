/*
 * tests/sim/settings_file.h: the file of a node's settings as its operator writes it, right and
 * wrong, and the model of which settings may be in force. The file has what can change while the
 * daemon runs, and sometimes more that cannot.
 * Runs on: one thread.
 */
#ifndef KVTIER_TESTS_SIM_SETTINGS_FILE_H
#define KVTIER_TESTS_SIM_SETTINGS_FILE_H

#include "daemon/settings.h"

#define SETTINGS_TEXT_BYTES 640u
#define SETTINGS_VALUES 9u
#define SETTINGS_VERSIONS_MAX 64u

struct node;
struct random;

/* A content that the file had. */
struct settings_version {
	bool is_right;
	uint64_t values[SETTINGS_VALUES];
};

struct settings_model {
	struct settings_version in_force;
	/* What was on file since it was last known what is in force; the last is there now. */
	struct settings_version possible[SETTINGS_VERSIONS_MAX];
	unsigned possible_count;
	bool was_asked;   /* since then */
	bool was_changed; /* the file, since it was asked last */
	bool may_fail;    /* reading it, as the filesystem does */
	bool is_known;    /* what is in force: the life has been looked at once */
	unsigned asking;  /* by the verb, not answered */
	uint64_t reloads; /* how often another setting came into force */
};

/* A right file with the values of the node's shape. */
void settings_file_mend(struct node *node);
/* Any content, from a task: renamed into its place, or half of it stands there for a while. */
void settings_file_change(struct node *node, struct random *random);
bool settings_file_is_right(const struct node *node);
/* A life begins: it reads the file. */
void settings_file_boot(struct node *node);
/* Somebody asks for a reload from here on; one that `is_signal` is not answered. */
void settings_file_asked(struct node *node, bool is_signal);
/* Answered, after a whole reading that began when it was asked. */
void settings_file_answered(struct node *node, bool was_done);
/* Holds what is in force against what may be. */
void settings_file_look(struct node *node);
/* Whether a right file has not come into force. */
bool settings_file_is_pending(const struct node *node);

#endif
