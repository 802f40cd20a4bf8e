/*
 * tiers/nvme/catalog_aside.h: sets an unreadable database aside, and notices one that cannot even
 * be opened without killing the process. For back ends of the catalogue; they block.
 *
 * PATH.opening has one byte for each attempt to open PATH since the last that succeeded.
 */
#ifndef KVTIER_TIERS_NVME_CATALOG_ASIDE_H
#define KVTIER_TIERS_NVME_CATALOG_ASIDE_H

#include "base/error.h"

#include <stdbool.h>

#define CATALOG_ATTEMPTS_MAX                                                                       \
	5 /* deaths while opening, one after the other, before the database is set aside */

/* Renames PATH to PATH.unreadable-N, and removes an earlier one: at most one is kept. Nothing at
 * PATH is no failure. */
must_check int catalog_set_aside(const char *path, struct error *error);
/* Notes that an attempt begins; -ENOSPC where there is hardly any room. *out_hopeless:
 * CATALOG_ATTEMPTS_MAX have failed already. */
must_check int catalog_attempt_begin(const char *path, bool *out_hopeless, struct error *error);
void catalog_attempt_succeeded(const char *path);
/* The next attempt finds it hopeless: what is inside cannot be read. */
void catalog_attempt_is_hopeless(const char *path);

#endif
