/*
 * tiers/nvme/block_io.h: how a device's bytes are reached: io_uring | psync | fault | simulated.
 *
 * A table has two halves. The disk_ functions block and serve open, close and the rebuild; back
 * ends for real files share them (block_disk.c). The queue functions never block, except wait(),
 * and belong to the device's thread. Runs on: disk_*: whoever opens the device (disk_read also: a
 * mill thread). Queue: open, register and close before and after the device's thread, the rest on
 * it.
 */
#ifndef KVTIER_TIERS_NVME_BLOCK_IO_H
#define KVTIER_TIERS_NVME_BLOCK_IO_H

#include "base/clock.h"
#include "base/error.h"
#include "base/list.h"
#include "tiers/nvme/nvme.h"

#include <stdbool.h>
#include <stdint.h>

#define BLOCK_QUEUE_DEPTH_MAX 1024u
/* No single system call or queue entry carries more than this: an int of bytes must hold it. */
#define BLOCK_PIECE_BYTES_MAX (UINT64_C(1) << 30)
/* How often one request is continued after a short transfer or an interruption before it is -EIO.
 */
#define BLOCK_CONTINUES_MAX 64u
#define BLOCK_NAME_BYTES 160u

enum block_verb { BLOCK_READ, BLOCK_WRITE, BLOCK_SYNC };

/* One transfer, whole or failed: a partial success does not exist above this seam. */
struct block_request {
	enum block_verb verb;
	uint64_t offset;       /* from the start of the disk */
	void *memory;          /* borrowed until reaped; unused by SYNC */
	uint64_t bytes;        /* multiple of the disk's align_bytes */
	int result;            /* 0, or a negative errno */
	uint64_t moved_bytes;  /* the back end's: how far it got */
	uint32_t continues;    /* the back end's */
	struct list_node link; /* the back end's, until reaped */
};

enum disk_flags {
	DISK_CREATE = 1,
	DISK_BUFFERED = 2,  /* do not even try O_DIRECT */
	DISK_READ_ONLY = 4  /* disk_read alone will be called */
};

/* An open file or raw device, and the lock on its description. Caller's memory. */
struct block_disk {
	int fd; /* -1: closed, or a back end without one */
	bool is_open;
	bool is_raw;          /* a block device: no allocation, no renaming */
	bool is_direct;       /* O_DIRECT was taken */
	uint32_t align_bytes; /* of offset, memory and length */
	uint64_t bytes;       /* size at open; kept by disk_allocate */
	void *owner;          /* the back end's */
};

struct block_io_config {
	struct block_disk *disk; /* borrowed; outlives the queue */
	uint32_t queue_depth;    /* requests submitted and not reaped, at most */
	struct clock *clock;
};

struct block_io; /* a back end's queue */

struct block_io_ops {
	const char *name;

	/* Each function gets the table it was reached through, so that one made at run time (fault,
	 * simulated) finds itself. Blocking; 0 or a negative errno; on failure nothing is left
	 * behind. */
	must_check int (*disk_open)(const struct block_io_ops *ops, struct block_disk *out_disk,
				    const char *path, unsigned flags, struct error *error);
	/* One try. -EBUSY: another description has it, or the kernel still writes for a dead
	 * process that had it. */
	must_check int (*disk_lock)(const struct block_io_ops *ops, struct block_disk *disk);
	/* 1: `path` still names this very file; 0: it was renamed or replaced meanwhile. */
	must_check int (*disk_is_at)(const struct block_io_ops *ops, struct block_disk *disk,
				     const char *path);
	/* Gives a file `bytes` of space of its own. */
	must_check int (*disk_allocate)(const struct block_io_ops *ops, struct block_disk *disk,
					uint64_t bytes);
	/* All of it or a negative errno; a short transfer is -EIO. Aligned as the disk says. */
	must_check int (*disk_read)(const struct block_io_ops *ops, struct block_disk *disk,
				    void *memory, uint64_t bytes, uint64_t offset);
	must_check int (*disk_write)(const struct block_io_ops *ops, struct block_disk *disk,
				     const void *memory, uint64_t bytes, uint64_t offset);
	must_check int (*disk_sync)(const struct block_io_ops *ops, struct block_disk *disk);
	/* Renames durably (the folder is synced); `to` is never replaced: -EEXIST. -ENOTSUP: there
	 * are raw devices only. */
	must_check int (*disk_rename)(const struct block_io_ops *ops, const char *from,
				      const char *to);
	must_check int (*disk_remove)(const struct block_io_ops *ops, const char *path);
	/* Also gives up the lock. Accepts a disk that is not open. */
	void (*disk_close)(const struct block_io_ops *ops, struct block_disk *disk);

	/* May be refused by the kernel (-EPERM, -ENOSYS, -ENOMEM); the caller then takes another
	 * back end. */
	must_check int (*open)(const struct block_io_ops *ops, struct block_io **out_io,
			       const struct block_io_config *config, struct error *error);
	/* Memory that requests will use, at most once, before the first submit. On failure requests
	 * work all the same, only slower. -ENOTSUP: registering means nothing here. */
	must_check int (*register_memory)(struct block_io *io, const struct nvme_memory *memory,
					  unsigned count, struct error *error);
	/* Takes a request, which is the back end's until reaped. -EAGAIN: queue_depth are under
	 * way. */
	must_check int (*submit)(struct block_io *io, struct block_request *request);
	/* Starts what was submitted since the last flush; one system call for all of them. */
	void (*flush)(struct block_io *io);
	/* Fills out_requests with at most `limit` finished ones; returns how many. No system call
	 * when there is none. */
	unsigned (*reap)(struct block_io *io, struct block_request **out_requests, unsigned limit);
	/* Blocks until something is reapable, `wake_fd` is readable, or `wait_us_max` passed; may
	 * return early. */
	void (*wait)(struct block_io *io, int wake_fd, uint64_t wait_us_max);
	/* For people: "io_uring, registered buffers and files". */
	void (*describe)(const struct block_io *io, char *text, size_t text_bytes);
	/* Needs every request to have been reaped. Accepts NULL. */
	void (*close)(struct block_io *io);
};

/* What every back end's queue begins with. */
struct block_io {
	const struct block_io_ops *ops;
};

extern const struct block_io_ops
	block_io_uring_ops; /* built only where liburing is: see block_io_list.c */
extern const struct block_io_ops block_io_psync_ops;

/* The back ends for real disks, the preferred first; ends with NULL. The only list of them. */
extern const struct block_io_ops *const block_io_list[];
/* By name, or NULL. */
const struct block_io_ops *block_io_find(const char *name);

/* block_disk.c: the first half of the table, for files and block devices. */
must_check int block_disk_open(const struct block_io_ops *ops, struct block_disk *out_disk,
			       const char *path, unsigned flags, struct error *error);
must_check int block_disk_lock(const struct block_io_ops *ops, struct block_disk *disk);
must_check int block_disk_is_at(const struct block_io_ops *ops, struct block_disk *disk,
				const char *path);
must_check int block_disk_allocate(const struct block_io_ops *ops, struct block_disk *disk,
				   uint64_t bytes);
must_check int block_disk_read(const struct block_io_ops *ops, struct block_disk *disk,
			       void *memory, uint64_t bytes, uint64_t offset);
must_check int block_disk_write(const struct block_io_ops *ops, struct block_disk *disk,
				const void *memory, uint64_t bytes, uint64_t offset);
must_check int block_disk_sync(const struct block_io_ops *ops, struct block_disk *disk);
must_check int block_disk_rename(const struct block_io_ops *ops, const char *from, const char *to);
must_check int block_disk_remove(const struct block_io_ops *ops, const char *path);
void block_disk_close(const struct block_io_ops *ops, struct block_disk *disk);

#define BLOCK_DISK_OPS                                                                             \
	.disk_open = block_disk_open, .disk_lock = block_disk_lock,                                \
	.disk_is_at = block_disk_is_at, .disk_allocate = block_disk_allocate,                      \
	.disk_read = block_disk_read, .disk_write = block_disk_write,                              \
	.disk_sync = block_disk_sync, .disk_rename = block_disk_rename,                            \
	.disk_remove = block_disk_remove, .disk_close = block_disk_close

#endif
