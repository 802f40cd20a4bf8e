/*
 * base/trusted_path.h: whether a path is what we believe it to be: nobody but root and ourselves
 * can put another file in its place, or has done so already.
 *
 * Trusted are root, our own user, and the owner of "/" (which is root, but in a user namespace that
 * does not map root). Parents may be links as long as they were made by them. Once all parents are
 * trusted nobody else can change what a name in them means, so what was checked stays true. Runs
 * on: any thread, before the loop starts.
 */
#ifndef KVTIER_BASE_TRUSTED_PATH_H
#define KVTIER_BASE_TRUSTED_PATH_H

#include "base/error.h"

#include <sys/types.h>

/* -EPERM: somebody else owns a folder or link on the way to `path`, or anybody may write there. */
must_check int trusted_parents(const char *path, struct error *error);
/* Makes the folder where there is none, with exactly `mode`; else it must be a folder, no link, of
 * a trusted owner, and not be writable for everybody. `key`: the setting that it comes from. */
must_check int trusted_folder_make(const char *path, mode_t mode, const char *key,
				   struct error *error);
/* What was opened as `path` is a regular file with no other name, of a trusted owner, and not
 * writable for everybody. A file of our own loses what its mode gives to others. */
must_check int trusted_file(int fd, const char *path, struct error *error);

#endif
