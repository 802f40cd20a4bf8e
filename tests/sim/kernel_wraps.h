/*
 * tests/sim/kernel_wraps.h: the calls that the linker redirects to us (--wrap, SIM_WRAPS in the
 * Makefile): __wrap_X is called for X, __real_X is the C library's.
 */
#ifndef KVTIER_TESTS_SIM_KERNEL_WRAPS_H
#define KVTIER_TESTS_SIM_KERNEL_WRAPS_H

#include "base/failpoint.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/types.h>
#include <sys/vfs.h>
#include <time.h>

#define WRAPPED(type, name, ...)                                                                   \
	type __real_##name(__VA_ARGS__);                                                           \
	type __wrap_##name(__VA_ARGS__);

WRAPPED(void *, malloc, size_t bytes)
WRAPPED(void *, calloc, size_t count, size_t bytes)
WRAPPED(void *, realloc, void *memory, size_t bytes)
WRAPPED(void *, aligned_alloc, size_t align, size_t bytes)
WRAPPED(char *, strdup, const char *text)
WRAPPED(void, free, void *memory)
WRAPPED(void *, mmap, void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
WRAPPED(int, munmap, void *memory, size_t bytes)
WRAPPED(int, madvise, void *memory, size_t bytes, int advice)
WRAPPED(int, mlock, const void *memory, size_t bytes)
WRAPPED(void *, map_shared_aligned, int fd, uint64_t bytes, int protection)
WRAPPED(int, memfd_create, const char *name, unsigned flags)

WRAPPED(int, close, int fd)
WRAPPED(ssize_t, read, int fd, void *target, size_t bytes)
WRAPPED(ssize_t, write, int fd, const void *source, size_t bytes)
WRAPPED(ssize_t, pread, int fd, void *target, size_t bytes, off_t offset)
WRAPPED(ssize_t, pwrite, int fd, const void *source, size_t bytes, off_t offset)
WRAPPED(int, fcntl, int fd, int command, ...)
WRAPPED(int, eventfd, unsigned count, int flags)
WRAPPED(int, timerfd_create, int clock, int flags)
WRAPPED(int, timerfd_settime, int fd, int flags, const struct itimerspec *at,
	struct itimerspec *out_old)
WRAPPED(int, epoll_create1, int flags)
WRAPPED(int, epoll_ctl, int epoll, int verb, int fd, struct epoll_event *event)
WRAPPED(int, epoll_wait, int epoll, struct epoll_event *out_events, int count_max, int wait_ms)
WRAPPED(int, poll, struct pollfd *fds, nfds_t count, int wait_ms)
WRAPPED(int, ppoll, struct pollfd *fds, nfds_t count, const struct timespec *wait,
	const sigset_t *mask)

WRAPPED(int, socket, int domain, int type, int protocol)
WRAPPED(int, bind, int fd, const struct sockaddr *address, socklen_t bytes)
WRAPPED(int, listen, int fd, int backlog)
WRAPPED(int, accept4, int fd, struct sockaddr *out_address, socklen_t *bytes, int flags)
WRAPPED(int, connect, int fd, const struct sockaddr *address, socklen_t bytes)
WRAPPED(ssize_t, send, int fd, const void *source, size_t bytes, int flags)
WRAPPED(ssize_t, recv, int fd, void *target, size_t bytes, int flags)
WRAPPED(ssize_t, sendmsg, int fd, const struct msghdr *message, int flags)
WRAPPED(ssize_t, recvmsg, int fd, struct msghdr *message, int flags)
WRAPPED(int, setsockopt, int fd, int level, int option, const void *value, socklen_t bytes)
WRAPPED(int, shutdown, int fd, int how)
WRAPPED(int, getsockname, int fd, struct sockaddr *out_address, socklen_t *bytes)
WRAPPED(int, getsockopt, int fd, int level, int option, void *out_value, socklen_t *bytes)

WRAPPED(int, open, const char *path, int flags, ...)
WRAPPED(int, openat, int folder, const char *path, int flags, ...)
WRAPPED(int, mkdir, const char *path, mode_t mode)
WRAPPED(int, unlink, const char *path)
WRAPPED(int, unlinkat, int folder, const char *path, int flags)
WRAPPED(int, rename, const char *from, const char *to)
WRAPPED(int, renameat, int from_folder, const char *from, int to_folder, const char *to)
WRAPPED(int, linkat, int from_folder, const char *from, int to_folder, const char *to, int flags)
WRAPPED(int, chmod, const char *path, mode_t mode)
WRAPPED(int, fchmod, int fd, mode_t mode)
WRAPPED(int, stat, const char *path, struct stat *out_status)
WRAPPED(int, lstat, const char *path, struct stat *out_status)
WRAPPED(int, fstat, int fd, struct stat *out_status)
WRAPPED(int, fstatfs, int fd, struct statfs *out_status)
WRAPPED(int, ftruncate, int fd, off_t bytes)
WRAPPED(int, fallocate, int fd, int mode, off_t offset, off_t bytes)
WRAPPED(int, flock, int fd, int verb)
WRAPPED(int, fsync, int fd)
WRAPPED(int, fdatasync, int fd)

WRAPPED(long, syscall, long number, long a, long b, long c, long d, long e, long f)
WRAPPED(int, clock_gettime, clockid_t clock, struct timespec *out_now)
WRAPPED(int, nanosleep, const struct timespec *wait, struct timespec *out_left)
WRAPPED(void, random_system, void *memory, size_t bytes)

WRAPPED(int, pthread_create, pthread_t *out_thread, const pthread_attr_t *attributes,
	void *(*work)(void *argument), void *argument)
WRAPPED(int, pthread_join, pthread_t thread, void **out_result)
WRAPPED(int, pthread_setname_np, pthread_t thread, const char *name)
WRAPPED(int, pthread_sigmask, int how, const sigset_t *wanted, sigset_t *out_old)
WRAPPED(int, pthread_mutex_lock, pthread_mutex_t *mutex)
WRAPPED(int, pthread_cond_timedwait, pthread_cond_t *condition, pthread_mutex_t *mutex,
	const struct timespec *until)
WRAPPED(int, pthread_cond_signal, pthread_cond_t *condition)
WRAPPED(int, pthread_cond_broadcast, pthread_cond_t *condition)
WRAPPED(int, getpriority, int which, id_t who)
WRAPPED(int, setpriority, int which, id_t who, int priority)

/* Ours, of kvtier: what only makes sense with real threads and real signals. */
WRAPPED(int, guard_run, void (*work)(void *owner), void *owner)
struct kvtier_client;
WRAPPED(void, fork_watch, struct kvtier_client *client)
WRAPPED(void, fork_unwatch, struct kvtier_client *client)
WRAPPED(void, copy_with_checksums, void *target, const void *source, size_t bytes,
	size_t segment_bytes, uint32_t *out_crcs)
WRAPPED(void, copy_away_with_checksums, void *target, const void *source, size_t bytes,
	size_t segment_bytes, uint32_t *out_crcs)
WRAPPED(uint32_t, copy_with_checksum_more, uint32_t crc, void *target, const void *source,
	size_t bytes)
struct error;
struct cipher;
WRAPPED(int, cipher_create, struct cipher **out_cipher, struct error *error)
WRAPPED(void, cipher_destroy, struct cipher *cipher)
WRAPPED(bool, failpoint_pass, enum failpoint point)
WRAPPED(int, trusted_parents, const char *path, struct error *error)
WRAPPED(int, trusted_folder_make, const char *path, mode_t mode, const char *key,
	struct error *error)
WRAPPED(int, trusted_file, int fd, const char *path, struct error *error)
WRAPPED(int, trusted_secret, int fd, const char *path, struct error *error)
void __wrap_log_line(int level, const char *event, const char *format, ...);

#endif
