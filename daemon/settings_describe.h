/*
 * daemon/settings_describe.h: what is made from the table of settings: shared by the files that
 * make it. Runs on: any thread.
 */
#ifndef KVTIER_DAEMON_SETTINGS_DESCRIBE_H
#define KVTIER_DAEMON_SETTINGS_DESCRIBE_H

#include "daemon/settings_table.h"

#include <stdio.h>

/* What daemon/main.c understands besides the settings. */
struct settings_flag {
	const char *name;
	const char *argument; /* NULL: none */
	const char *help;
};

extern const struct settings_flag settings_flags[];
extern const unsigned settings_flags_count;
/* What --describe takes. */
#define SETTINGS_FORMS "help man man5 markdown completion zsh fish metrics failpoints"

/* Completions of kvtierd. */
void settings_describe_bash(FILE *file);
void settings_describe_zsh(FILE *file);
void settings_describe_fish(FILE *file);

#endif
