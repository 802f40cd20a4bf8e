/* tests/sim/kernel_fds.c: descriptors, eventfd, timerfd, epoll, poll. */
#include "tests/sim/kernel_fds.h"
#include "tests/sim/kernel_wraps.h"

#include <assert.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

struct descriptor {
	struct object *object;
	struct process *process;
};

static struct descriptor fds[FDS_MAX];
static unsigned fds_end; /* behind the last one in use */

bool fd_is_ours(int fd)
{
	return fd >= FD_FIRST && fd < FD_FIRST + FDS_MAX;
}

struct object *object_create(enum object_kind kind)
{
	struct object *object = __real_calloc(1, sizeof(*object));

	assert(object != NULL);
	object->kind = kind;
	object->refs = 1;
	return object;
}

void object_release(struct object *object)
{
	if (--object->refs > 0)
		return;
	switch (object->kind) {
	case OBJECT_EPOLL:
		__real_free(object->epoll);
		break;
	case OBJECT_SOCKET:
		sock_close(object->sock);
		break;
	case OBJECT_FILE:
		file_close(object);
		break;
	default:
		break;
	}
	kernel.changes++;
	__real_free(object);
}

int fd_open(struct object *object)
{
	unsigned place = 0;

	while (place < FDS_MAX && fds[place].object != NULL)
		place++;
	assert(place < FDS_MAX);
	fds[place] = (struct descriptor){ .object = object, .process = kernel.process };
	if (place >= fds_end)
		fds_end = place + 1;
	return FD_FIRST + (int)place;
}

struct object *object_at(int fd)
{
	if (fd_is_ours(fd) && fds[fd - FD_FIRST].object != NULL)
		return fds[fd - FD_FIRST].object;
	errno = EBADF;
	return NULL;
}

struct object *object_of(int fd, enum object_kind kind)
{
	struct object *object = object_at(fd);

	if (object == NULL || object->kind == kind)
		return object;
	errno = EINVAL;
	return NULL;
}

static void fd_free(unsigned place)
{
	struct object *object = fds[place].object;

	fds[place].object = NULL;
	object_release(object);
}

void fds_close_of(struct process *process)
{
	for (unsigned i = 0; i < fds_end; i++)
		if (fds[i].object != NULL && fds[i].process == process)
			fd_free(i);
	mappings_end_of(process);
}

unsigned fds_count_of(const struct process *process)
{
	unsigned count = 0;

	for (unsigned i = 0; i < fds_end; i++)
		count += fds[i].object != NULL && fds[i].process == process;
	return count;
}

void fds_start(void)
{
	for (unsigned i = 0; i < fds_end; i++)
		if (fds[i].object != NULL)
			fd_free(i);
	fds_end = 0;
}

/* Closed descriptors are not watched any more, as with the last one of a description. */
static void watches_drop(int fd)
{
	for (unsigned i = 0; i < fds_end; i++) {
		struct object *object = fds[i].object;

		if (object == NULL || object->kind != OBJECT_EPOLL)
			continue;
		for (unsigned n = 0; n < object->epoll->count; n++)
			if (object->epoll->watches[n].fd == fd) {
				object->epoll->watches[n] =
					object->epoll->watches[--object->epoll->count];
				break;
			}
	}
}

int __wrap_close(int fd)
{
	if (!fd_is_ours(fd))
		return __real_close(fd);
	if (object_at(fd) == NULL)
		return -1;
	watches_drop(fd);
	fd_free((unsigned)(fd - FD_FIRST));
	return 0;
}

static short epoll_events(const struct epoll *epoll)
{
	for (unsigned i = 0; i < epoll->count; i++)
		if (fd_events(epoll->watches[i].fd) &
		    (short)(epoll->watches[i].events | POLLHUP | POLLERR))
			return POLLIN;
	return 0;
}

short fd_events(int fd)
{
	const struct object *object = object_at(fd);

	if (object == NULL)
		return POLLNVAL;
	switch (object->kind) {
	case OBJECT_EVENT:
		return object->count > 0 ? POLLIN | POLLOUT : POLLOUT;
	case OBJECT_PROCESS:
		return object->count > 0 ? POLLIN : 0;
	case OBJECT_TIMER:
		return object->at_us != 0 && object->at_us <= kernel.now_us ? POLLIN : 0;
	case OBJECT_EPOLL:
		return epoll_events(object->epoll);
	case OBJECT_SOCKET:
		return sock_events(object->sock);
	default:
		return POLLIN | POLLOUT;
	}
}

/* When a timer among what is waited for comes due. */
static uint64_t fd_due_us(int fd)
{
	const struct object *object = object_at(fd);
	uint64_t due_us = NEVER;

	if (object == NULL)
		return NEVER;
	if (object->kind == OBJECT_TIMER && object->at_us != 0)
		return object->at_us;
	for (unsigned i = 0; object->kind == OBJECT_EPOLL && i < object->epoll->count; i++) {
		uint64_t at_us = fd_due_us(object->epoll->watches[i].fd);

		due_us = at_us < due_us ? at_us : due_us;
	}
	return due_us;
}

/* ---- eventfd, timerfd ---- */

int __wrap_eventfd(unsigned count, int flags)
{
	struct object *object;

	if (kernel.process == NULL)
		return __real_eventfd(count, flags);
	object = object_create(OBJECT_EVENT);
	object->count = count;
	return fd_open(object);
}

ssize_t __wrap_write(int fd, const void *source, size_t bytes)
{
	struct object *object;
	uint64_t add;

	if (!fd_is_ours(fd))
		return __real_write(fd, source, bytes);
	object = object_of(fd, OBJECT_EVENT);
	if (object == NULL)
		return -1;
	assert(bytes == sizeof(add));
	memcpy(&add, source, sizeof(add));
	object->count += add;
	kernel.changes++;
	return (ssize_t)bytes;
}

ssize_t __wrap_read(int fd, void *target, size_t bytes)
{
	struct object *object;

	if (!fd_is_ours(fd))
		return __real_read(fd, target, bytes);
	object = object_at(fd);
	if (object != NULL && object->kind == OBJECT_FILE)
		return file_read(object, target, bytes);
	object = object_of(fd, OBJECT_EVENT);
	if (object == NULL)
		return -1;
	if (object->count == 0)
		return fail(EAGAIN);
	assert(bytes == sizeof(object->count));
	memcpy(target, &object->count, sizeof(object->count));
	object->count = 0;
	return (ssize_t)bytes;
}

int __wrap_timerfd_create(int clock, int flags)
{
	return kernel.process != NULL ? fd_open(object_create(OBJECT_TIMER))
				      : __real_timerfd_create(clock, flags);
}

int __wrap_timerfd_settime(int fd, int flags, const struct itimerspec *at,
			   struct itimerspec *out_old)
{
	struct object *object;

	if (!fd_is_ours(fd))
		return __real_timerfd_settime(fd, flags, at, out_old);
	object = object_of(fd, OBJECT_TIMER);
	if (object == NULL)
		return -1;
	assert(flags == TFD_TIMER_ABSTIME);
	object->at_us = (uint64_t)at->it_value.tv_sec * SECOND_US +
			(uint64_t)(at->it_value.tv_nsec + 999) / 1000;
	kernel.changes++;
	return 0;
}

/* ---- epoll ---- */

int __wrap_epoll_create1(int flags)
{
	struct object *object;

	if (kernel.process == NULL)
		return __real_epoll_create1(flags);
	object = object_create(OBJECT_EPOLL);
	object->epoll = __real_calloc(1, sizeof(*object->epoll));
	assert(object->epoll != NULL);
	return fd_open(object);
}

int __wrap_epoll_ctl(int epoll, int verb, int fd, struct epoll_event *event)
{
	struct object *object;
	unsigned n = 0;

	if (!fd_is_ours(epoll))
		return __real_epoll_ctl(epoll, verb, fd, event);
	object = object_of(epoll, OBJECT_EPOLL);
	if (object == NULL || object_at(fd) == NULL)
		return -1;
	while (n < object->epoll->count && object->epoll->watches[n].fd != fd)
		n++;
	if ((verb == EPOLL_CTL_ADD) != (n == object->epoll->count))
		return fail(verb == EPOLL_CTL_ADD ? EEXIST : ENOENT);
	kernel.changes++;
	if (verb == EPOLL_CTL_DEL) {
		object->epoll->watches[n] = object->epoll->watches[--object->epoll->count];
		return 0;
	}
	assert(n < EPOLL_WATCHES_MAX);
	object->epoll->count += verb == EPOLL_CTL_ADD;
	object->epoll->watches[n] = (struct watch){ .fd = fd,
						    .events = event->events,
						    .data = event->data.u64 };
	return 0;
}

static bool epoll_is_due(void *owner)
{
	return epoll_events(owner) != 0;
}

int __wrap_epoll_wait(int epoll, struct epoll_event *out_events, int count_max, int wait_ms)
{
	struct object *object;
	int count = 0;

	if (!fd_is_ours(epoll))
		return __real_epoll_wait(epoll, out_events, count_max, wait_ms);
	object = object_of(epoll, OBJECT_EPOLL);
	if (object == NULL)
		return -1;
	if (wait_ms != 0)
		(void)task_wait(epoll_is_due, object->epoll,
				wait_ms < 0 ? NEVER : kernel.now_us + (uint64_t)wait_ms * 1000);
	for (unsigned i = 0; i < object->epoll->count && count < count_max; i++) {
		const struct watch *watch = &object->epoll->watches[i];
		uint32_t events = (uint32_t)(uint16_t)fd_events(watch->fd) &
				  (watch->events | EPOLLHUP | EPOLLERR);

		if (events != 0)
			out_events[count++] = (struct epoll_event){ .events = events,
								    .data.u64 = watch->data };
	}
	return count;
}

/* ---- poll ---- */

struct polled {
	struct pollfd *fds;
	nfds_t count;
};

static bool poll_is_due(void *owner)
{
	const struct polled *polled = owner;

	for (nfds_t i = 0; i < polled->count; i++)
		if (polled->fds[i].fd >= 0 &&
		    (fd_events(polled->fds[i].fd) &
		     (polled->fds[i].events | POLLHUP | POLLERR | POLLNVAL)) != 0)
			return true;
	return false;
}

static int poll_until(struct pollfd *polled_fds, nfds_t count, uint64_t until_us)
{
	struct polled polled = { polled_fds, count };
	int ready = 0;

	for (;;) {
		uint64_t next_us = until_us;

		for (nfds_t i = 0; i < count; i++) {
			uint64_t at_us = polled_fds[i].fd >= 0 ? fd_due_us(polled_fds[i].fd)
							       : NEVER;

			next_us = at_us < next_us ? at_us : next_us;
		}
		if (task_wait(poll_is_due, &polled, next_us) || kernel.now_us >= until_us)
			break;
	}
	/* Who only looks, again and again, takes time all the same. */
	if (kernel.now_us >= until_us)
		task_preempt();
	for (nfds_t i = 0; i < count; i++) {
		short events = polled_fds[i].fd >= 0 ? fd_events(polled_fds[i].fd) : 0;

		polled_fds[i].revents = (short)(events & (polled_fds[i].events | POLLHUP |
							  POLLERR | POLLNVAL));
		ready += polled_fds[i].revents != 0;
	}
	return ready;
}

int __wrap_poll(struct pollfd *polled, nfds_t count, int wait_ms)
{
	if (kernel.process == NULL)
		return __real_poll(polled, count, wait_ms);
	return poll_until(polled, count,
			  wait_ms < 0 ? NEVER : kernel.now_us + (uint64_t)wait_ms * 1000);
}

int __wrap_ppoll(struct pollfd *polled, nfds_t count, const struct timespec *wait,
		 const sigset_t *mask)
{
	if (kernel.process == NULL)
		return __real_ppoll(polled, count, wait, mask);
	return poll_until(polled, count,
			  wait == NULL ? NEVER
				       : kernel.now_us + (uint64_t)wait->tv_sec * SECOND_US +
						 (uint64_t)(wait->tv_nsec + 999) / 1000);
}
