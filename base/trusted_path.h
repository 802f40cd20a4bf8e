/*
 * base/trusted_path.h: whether a path is what we believe it to be: nobody but root and ourselves
 * can put another file in its place, or has done so already.
 *
 * Trusted are root, our own user, and the owner of "/" (which is root, but in a user namespace that
 * does not map root). Parents may be links as long as they were made by them, and lead where only
 * they can change anything. Once all names on the way are trusted nobody else can change what they
 * mean, so what was checked stays true. Runs on: any thread but the loop once it turns.
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

/* What was opened as `path` is a regular file of a trusted owner that nobody else can read, but a
 * group of ours, or replace: then that group, too, may write in no folder on the way, unless that
 * is sticky. So it is with a Kubernetes Secret and fsGroup: root's files, 0440, in a root's folder,
 * 02755, behind links in a sticky one. -EACCES: the mode is wrong; the error says the right one. */
must_check int trusted_secret(int fd, const char *path, struct error *error);

#endif
