/*
 * tiers/nvme/catalog_simulated.h: the catalogue in memory, for tests: a full back end, with faults.
 * A database is known by its path and outlives its closing, as a disk does, until it is forgotten.
 * Runs on: one thread.
 */
#ifndef KVTIER_TIERS_NVME_CATALOG_SIMULATED_H
#define KVTIER_TIERS_NVME_CATALOG_SIMULATED_H

#include "tiers/nvme/catalog.h"

#include <stdint.h>

enum catalog_simulated_verb {
	CATALOG_SIMULATED_OPEN,
	CATALOG_SIMULATED_WRITE,
	CATALOG_SIMULATED_SCAN,
	CATALOG_SIMULATED_CLEAR,
	CATALOG_SIMULATED_VERBS
};

/* The nth call of `verb` from now on fails with `code`, once. Nothing of it is applied. */
void catalog_simulated_fail(const char *path, enum catalog_simulated_verb verb, unsigned nth,
			    int code);
/* How many calls of the verb until one fails; 0: it has, or none was to. */
unsigned catalog_simulated_left(const char *path, enum catalog_simulated_verb verb);
/* What is written so far survives the next power cut. */
void catalog_simulated_settle(const char *path);
/* Everything written since the last settle is gone (the database may be open or not). */
void catalog_simulated_power_cut(const char *path);
/* As an unreadable database that was set aside: empty, with a new id. */
void catalog_simulated_replace(const char *path);
uint64_t catalog_simulated_records(const char *path);
uint64_t catalog_simulated_writes(const char *path); /* batches that were applied */
/* Frees every database; none may be open. */
void catalog_simulated_forget_all(void);

#endif
