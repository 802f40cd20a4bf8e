/* tiers/nvme/block_disk.c: the blocking half of block I/O, for real files and block devices. */
#include "tiers/nvme/block_io.h"

#include "base/trusted_path.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define DISK_ALIGN_BYTES_DEFAULT 4096u
#define DISK_PATH_BYTES 4096

/* Newer than the C library's header: offsets of the fields are the kernel's ABI. */
#ifndef STATX_DIOALIGN
#define STATX_DIOALIGN 0x2000U
#endif
#define STATX_DIO_MEMORY_OFFSET 152
#define STATX_DIO_OFFSET_OFFSET 156
_Static_assert(sizeof(struct statx) >= 160, "the fields of STATX_DIOALIGN lie inside");

/* What O_DIRECT needs here; 4096 where the kernel does not say. Never above 4096: all our I/O is of
 * whole pages. */
static int disk_align(int fd, uint32_t *out_align_bytes)
{
	struct statx status;
	uint32_t memory_align, offset_align;

	*out_align_bytes = DISK_ALIGN_BYTES_DEFAULT;
	memset(&status, 0, sizeof(status));
	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) < 0)
		return 0;
	if ((status.stx_mask & STATX_DIOALIGN) == 0)
		return 0;
	memcpy(&memory_align, (uint8_t *)&status + STATX_DIO_MEMORY_OFFSET, sizeof(memory_align));
	memcpy(&offset_align, (uint8_t *)&status + STATX_DIO_OFFSET_OFFSET, sizeof(offset_align));
	if (memory_align == 0 || offset_align == 0)
		return -EOPNOTSUPP;
	*out_align_bytes = memory_align > offset_align ? memory_align : offset_align;
	return *out_align_bytes <= DISK_ALIGN_BYTES_DEFAULT ? 0 : -EOPNOTSUPP;
}

static int disk_open_fd(const char *path, unsigned flags, bool is_direct)
{
	int open_flags = O_CLOEXEC | (flags & DISK_READ_ONLY ? O_RDONLY : O_RDWR) |
			 (is_direct ? O_DIRECT : 0);
	struct stat status;
	int fd;

	if (flags & DISK_CREATE)
		open_flags |= O_CREAT;
	/* Devices go by links, such as /dev/disk/by-id/...; a file never does. */
	if (stat(path, &status) < 0 || !S_ISBLK(status.st_mode))
		open_flags |= O_NOFOLLOW;
	fd = open(path, open_flags, 0600);
	return fd < 0 ? -errno : fd;
}

static int disk_measure(struct block_disk *disk, const char *path, unsigned flags,
			struct error *error)
{
	struct stat status;
	int result = 0;

	if (fstat(disk->fd, &status) < 0)
		return error_set(error, -errno, "%s: fstat: %s", path, strerror(errno));
	disk->is_raw = S_ISBLK(status.st_mode);
	if (!disk->is_raw && !S_ISREG(status.st_mode))
		return error_set(error, -EINVAL, "%s is neither a file nor a block device", path);
	/* Who only reads neither trusts nor changes it. */
	if (!disk->is_raw && !(flags & DISK_READ_ONLY))
		result = trusted_file(disk->fd, path, error);
	if (result < 0)
		return result;
	disk->bytes = (uint64_t)status.st_size;
	if (disk->is_raw && ioctl(disk->fd, BLKGETSIZE64, &disk->bytes) < 0)
		return error_set(error, -errno, "%s: size of the block device: %s", path,
				 strerror(errno));
	return 0;
}

int block_disk_open(const struct block_io_ops *ops, struct block_disk *out_disk, const char *path,
		    unsigned flags, struct error *error)
{
	struct block_disk disk = { .fd = -1,
				   .is_direct = !(flags & DISK_BUFFERED),
				   .align_bytes = DISK_ALIGN_BYTES_DEFAULT };
	int result = flags & DISK_READ_ONLY ? 0 : trusted_parents(path, error);

	(void)ops;
	if (result < 0)
		return result;
	disk.fd = disk_open_fd(path, flags, disk.is_direct);
	if (disk.fd >= 0 && disk.is_direct && disk_align(disk.fd, &disk.align_bytes) < 0) {
		/* The open was allowed, the I/O would not be. */
		close(disk.fd);
		disk.fd = -EINVAL;
	}
	if (disk.fd == -EINVAL && disk.is_direct) {
		disk.is_direct = false;
		disk.align_bytes = DISK_ALIGN_BYTES_DEFAULT;
		disk.fd = disk_open_fd(path, flags, false);
	}
	if (disk.fd == -ELOOP)
		return error_set(error, disk.fd, "%s is a link: set nvme.path to the file that is meant", path);
	if (disk.fd < 0)
		return error_set(error, disk.fd, "%s: cannot be opened: %s%s", path, strerror(-disk.fd),
				 disk.fd == -EMFILE ? "" : error_advice(disk.fd));
	result = disk_measure(&disk, path, flags, error);
	if (result < 0) {
		close(disk.fd);
		return result;
	}
	disk.is_open = true;
	*out_disk = disk;
	return 0;
}

int block_disk_lock(const struct block_io_ops *ops, struct block_disk *disk)
{
	(void)ops;
	assert(disk->is_open);
	if (flock(disk->fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	return errno == EWOULDBLOCK || errno == EINTR ? -EBUSY : -errno;
}

int block_disk_is_at(const struct block_io_ops *ops, struct block_disk *disk, const char *path)
{
	struct stat ours, named;

	(void)ops;
	assert(disk->is_open);
	if (fstat(disk->fd, &ours) < 0)
		return -errno;
	if (stat(path, &named) < 0)
		return errno == ENOENT ? 0 : -errno;
	return ours.st_ino == named.st_ino && ours.st_dev == named.st_dev;
}

int block_disk_allocate(const struct block_io_ops *ops, struct block_disk *disk, uint64_t bytes)
{
	(void)ops;
	assert(disk->is_open && !disk->is_raw);
	if (ftruncate(disk->fd, 0) < 0)
		return -errno;
	if (fallocate(disk->fd, 0, 0, (off_t)bytes) < 0) {
		/* A filesystem without fallocate: pre-writing takes the space just as well. */
		if (errno != EOPNOTSUPP || ftruncate(disk->fd, (off_t)bytes) < 0)
			return -errno;
	}
	disk->bytes = bytes;
	return 0;
}

/* Moves all of it; `is_write` reads from memory. */
static int disk_move(struct block_disk *disk, void *memory, uint64_t bytes, uint64_t offset,
		     bool is_write)
{
	uint64_t moved = 0;
	unsigned continues = 0;

	assert(disk->is_open);
	while (moved < bytes) {
		uint64_t piece = bytes - moved < BLOCK_PIECE_BYTES_MAX ? bytes - moved
								       : BLOCK_PIECE_BYTES_MAX;
		uint8_t *start = (uint8_t *)memory + moved;
		off_t place = (off_t)(offset + moved);
		ssize_t result = is_write ? pwrite(disk->fd, start, piece, place)
					  : pread(disk->fd, start, piece, place);

		if (result < 0 && errno != EINTR)
			return -errno;
		if (result == 0 ||
		    (result > 0 && result % disk->align_bytes != 0 && disk->is_direct))
			return -EIO;
		if (result > 0)
			moved += (uint64_t)result;
		if ((uint64_t)(result > 0 ? result : 0) < piece &&
		    ++continues > BLOCK_CONTINUES_MAX)
			return -EIO;
	}
	return 0;
}

int block_disk_read(const struct block_io_ops *ops, struct block_disk *disk, void *memory,
		    uint64_t bytes, uint64_t offset)
{
	(void)ops;
	return disk_move(disk, memory, bytes, offset, false);
}

int block_disk_write(const struct block_io_ops *ops, struct block_disk *disk, const void *memory,
		     uint64_t bytes, uint64_t offset)
{
	(void)ops;
	return disk_move(disk, (void *)(uintptr_t)memory, bytes, offset, true);
}

int block_disk_sync(const struct block_io_ops *ops, struct block_disk *disk)
{
	(void)ops;
	assert(disk->is_open);
	return fdatasync(disk->fd) < 0 ? -errno : 0;
}

/* A rename is durable only when the folder is. */
static int folder_sync(const char *path)
{
	char folder[DISK_PATH_BYTES];
	const char *slash = strrchr(path, '/');
	int fd, result;

	if (slash == NULL)
		snprintf(folder, sizeof(folder), ".");
	else if (slash == path)
		snprintf(folder, sizeof(folder), "/");
	else if ((size_t)(slash - path) < sizeof(folder))
		snprintf(folder, sizeof(folder), "%.*s", (int)(slash - path), path);
	else
		return -ENAMETOOLONG;
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	result = fsync(fd) < 0 ? -errno : 0;
	close(fd);
	return result;
}

int block_disk_rename(const struct block_io_ops *ops, const char *from, const char *to)
{
	int result;

	(void)ops;
	result = renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) < 0 ? -errno : 0;
	/* A filesystem without the flag. The lock on the file that is renamed keeps all but a
	 * narrow race away. */
	if (result == -EINVAL)
		result = rename(from, to) < 0 ? -errno : 0;
	return result < 0 ? result : folder_sync(to);
}

int block_disk_remove(const struct block_io_ops *ops, const char *path)
{
	(void)ops;
	return unlink(path) < 0 ? -errno : 0;
}

void block_disk_close(const struct block_io_ops *ops, struct block_disk *disk)
{
	(void)ops;
	if (disk == NULL || !disk->is_open)
		return;
	/* Said aloud: a ring that had the file registered lets go of it only some time after its
	 * own end, and all I/O has come back here. */
	flock(disk->fd, LOCK_UN);
	close(disk->fd);
	disk->fd = -1;
	disk->is_open = false;
}
