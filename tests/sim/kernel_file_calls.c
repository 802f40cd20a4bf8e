/* tests/sim/kernel_file_calls.c: the system calls on files. */
#include "tests/sim/kernel_files.h"
#include "tests/sim/kernel_wraps.h"

#include <assert.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>

static bool is_simulated(const char *path)
{
	return kernel.process != NULL && path[0] == '/';
}

static int path_open(const char *path, int flags)
{
	struct file *file = file_at(path);

	if ((flags & O_DIRECTORY) != 0) {
		if (file == NULL || !file->is_folder)
			return fail(ENOENT);
		struct object *object = object_create(OBJECT_FOLDER);
		strcpy(object->path, path);
		return fd_open(object);
	}
	if (file == NULL && (flags & O_CREAT) == 0)
		return fail(ENOENT);
	if (kernel_chance(kernel.file_error_permille))
		return fail(EIO);
	if (file == NULL)
		file = file_create(path);
	if ((flags & O_TRUNC) != 0)
		file->now.count = 0;
	return file_open(file);
}

/* A second description of what another descriptor has. */
static int fd_open_again(int fd)
{
	struct object *object = object_of(fd, OBJECT_FILE);

	return object == NULL ? -1 : file_open(object->file);
}

int __wrap_open(const char *path, int flags, ...)
{
	int fd;

	if (!is_simulated(path))
		return __real_open(path, flags, 0600);
	task_preempt();
	if (sscanf(path, "/proc/self/fd/%d", &fd) == 1)
		return fd_open_again(fd);
	return path_open(path, flags);
}

static const char *path_in(int folder, const char *name)
{
	static char path[256];
	const struct object *object = object_of(folder, OBJECT_FOLDER);

	assert(object != NULL);
	snprintf(path, sizeof(path), "%s/%s", object->path, name);
	return path;
}

int __wrap_openat(int folder, const char *name, int flags, ...)
{
	if (!fd_is_ours(folder))
		return __real_openat(folder, name, flags, 0600);
	return path_open(path_in(folder, name), flags);
}

int __wrap_mkdir(const char *path, mode_t mode)
{
	struct file *file;

	if (!is_simulated(path))
		return __real_mkdir(path, mode);
	if (file_at(path) != NULL)
		return fail(EEXIST);
	file = file_create(path);
	file->is_folder = true;
	strcpy(file->durable_path, path);
	return 0;
}

int __wrap_unlink(const char *path)
{
	if (!is_simulated(path))
		return __real_unlink(path);
	return file_remove(path) ? 0 : fail(ENOENT);
}

int __wrap_unlinkat(int folder, const char *name, int flags)
{
	if (!fd_is_ours(folder))
		return __real_unlinkat(folder, name, flags);
	return file_remove(path_in(folder, name)) ? 0 : fail(ENOENT);
}

static int path_rename(struct file *file, const char *to)
{
	struct file *old = file_at(to);

	if (file == NULL)
		return fail(ENOENT);
	if (kernel_chance(kernel.file_error_permille))
		return fail(EIO);
	if (old == file)
		return 0;
	if (old != NULL)
		(void)file_remove(to);
	strcpy(file->path, to);
	return 0;
}

int __wrap_rename(const char *from, const char *to)
{
	return is_simulated(from) ? path_rename(file_at(from), to) : __real_rename(from, to);
}

int __wrap_renameat(int from_folder, const char *from, int to_folder, const char *to)
{
	struct file *file;

	if (!fd_is_ours(from_folder))
		return __real_renameat(from_folder, from, to_folder, to);
	task_preempt();
	file = file_at(path_in(from_folder, from));
	return path_rename(file, path_in(to_folder, to));
}

int __wrap_linkat(int from_folder, const char *from, int to_folder, const char *to, int flags)
{
	struct file *file, *copy;

	if (!fd_is_ours(from_folder))
		return __real_linkat(from_folder, from, to_folder, to, flags);
	file = file_at(path_in(from_folder, from));
	if (file == NULL)
		return fail(ENOENT);
	/* Both names of one file: as the old one goes at once, a copy is as good. */
	copy = file_create(path_in(to_folder, to));
	bytes_copy(&copy->now, &file->now);
	return 0;
}

int __wrap_chmod(const char *path, mode_t mode)
{
	return is_simulated(path) ? 0 : __real_chmod(path, mode);
}

int __wrap_fchmod(int fd, mode_t mode)
{
	return fd_is_ours(fd) ? 0 : __real_fchmod(fd, mode);
}

static int file_status(const struct file *file, struct stat *out_status)
{
	if (file == NULL)
		return fail(ENOENT);
	memset(out_status, 0, sizeof(*out_status));
	out_status->st_mode = file->is_folder ? S_IFDIR | 0700 : S_IFREG | 0600;
	out_status->st_ino = (ino_t)(uintptr_t)file;
	out_status->st_size = (off_t)(file->memory != NULL ? file->memory->size : file->now.count);
	return 0;
}

int __wrap_lstat(const char *path, struct stat *out_status)
{
	return is_simulated(path) ? file_status(file_at(path), out_status)
				  : __real_lstat(path, out_status);
}

int __wrap_stat(const char *path, struct stat *out_status)
{
	return is_simulated(path) ? file_status(file_at(path), out_status)
				  : __real_stat(path, out_status);
}

int __wrap_fstat(int fd, struct stat *out_status)
{
	struct object *object;

	if (!fd_is_ours(fd))
		return __real_fstat(fd, out_status);
	object = object_of(fd, OBJECT_FILE);
	return object == NULL ? -1 : file_status(object->file, out_status);
}

int __wrap_fstatfs(int fd, struct statfs *out_status)
{
	struct object *object;

	if (!fd_is_ours(fd))
		return __real_fstatfs(fd, out_status);
	object = object_of(fd, OBJECT_FILE);
	if (object == NULL)
		return -1;
	memset(out_status, 0, sizeof(*out_status));
	out_status->f_type = object->file->is_memory ? TMPFS_MAGIC : EXT4_SUPER_MAGIC;
	out_status->f_bsize = 4096;
	return 0;
}

int __wrap_memfd_create(const char *name, unsigned flags)
{
	struct file *file;
	int fd;

	if (kernel.process == NULL)
		return __real_memfd_create(name, flags);
	if ((flags & MFD_HUGETLB) != 0)
		return fail(ENOMEM);
	file = file_create("");
	file->is_memory = true;
	fd = file_open(file);
	return fd;
}

int __wrap_ftruncate(int fd, off_t bytes)
{
	struct object *object;

	if (!fd_is_ours(fd))
		return __real_ftruncate(fd, bytes);
	object = object_of(fd, OBJECT_FILE);
	if (object == NULL)
		return -1;
	assert(object->file->is_memory && bytes > 0);
	if (object->file->memory == NULL)
		object->file->memory = memory_create((size_t)bytes);
	return object->file->memory->size == (size_t)bytes ? 0 : fail(EINVAL);
}

int __wrap_fallocate(int fd, int mode, off_t offset, off_t bytes)
{
	return fd_is_ours(fd) ? 0 : __real_fallocate(fd, mode, offset, bytes);
}

int __wrap_flock(int fd, int verb)
{
	struct object *object;

	if (!fd_is_ours(fd))
		return __real_flock(fd, verb);
	object = object_of(fd, OBJECT_FILE);
	if (object == NULL)
		return -1;
	assert((verb & LOCK_NB) != 0);
	if (object->file->is_locked && !object->has_lock)
		return fail(EWOULDBLOCK);
	object->file->is_locked = object->has_lock = true;
	return 0;
}

int __wrap_fcntl(int fd, int command, ...)
{
	va_list rest;
	long value;

	va_start(rest, command);
	value = va_arg(rest, long);
	va_end(rest);
	if (!fd_is_ours(fd))
		return __real_fcntl(fd, command, value);
	return command == F_GET_SEALS ? F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL : 0;
}

static int synced(int fd)
{
	struct object *object = object_at(fd);

	if (object == NULL)
		return -1;
	/* Before and behind it is where a kill hurts most. */
	task_preempt();
	if (kernel_chance(kernel.file_error_permille))
		return fail(EIO);
	if (object->kind == OBJECT_FOLDER)
		folder_sync(object->path);
	else
		file_sync(object->file);
	return 0;
}

int __wrap_fsync(int fd)
{
	return fd_is_ours(fd) ? synced(fd) : __real_fsync(fd);
}

int __wrap_fdatasync(int fd)
{
	return fd_is_ours(fd) ? synced(fd) : __real_fdatasync(fd);
}

static ssize_t bytes_read(const struct file *file, void *target, size_t bytes, size_t offset)
{
	const uint8_t *at = file->memory != NULL ? file->memory->bytes : file->now.at;
	size_t count = file->memory != NULL ? file->memory->size : file->now.count;

	if (offset >= count)
		return 0;
	if (bytes > count - offset)
		bytes = count - offset;
	memcpy(target, at + offset, bytes);
	return (ssize_t)bytes;
}

ssize_t file_read(struct object *object, void *target, size_t bytes)
{
	ssize_t count = bytes_read(object->file, target, bytes, object->position);

	object->position += (uint64_t)count;
	return count;
}

ssize_t __wrap_pread(int fd, void *target, size_t bytes, off_t offset)
{
	struct object *object;

	if (!fd_is_ours(fd))
		return __real_pread(fd, target, bytes, offset);
	object = object_of(fd, OBJECT_FILE);
	if (object == NULL)
		return -1;
	return bytes_read(object->file, target, bytes, (size_t)offset);
}

ssize_t __wrap_pwrite(int fd, const void *source, size_t bytes, off_t offset)
{
	struct object *object;

	if (!fd_is_ours(fd))
		return __real_pwrite(fd, source, bytes, offset);
	object = object_of(fd, OBJECT_FILE);
	if (object == NULL)
		return -1;
	assert(!object->file->is_memory);
	task_preempt();
	if (kernel_chance(kernel.file_error_permille))
		return fail(EIO);
	if (kernel_chance(kernel.file_full_permille))
		return fail(ENOSPC);
	bytes_grow(&object->file->now, (size_t)offset + bytes);
	memcpy(object->file->now.at + offset, source, bytes);
	task_preempt();
	return (ssize_t)bytes;
}
