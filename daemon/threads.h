/*
 * daemon/threads.h: the threads of a real daemon: one a mill, one a device. Only main starts them.
 */
#ifndef KVTIER_DAEMON_THREADS_H
#define KVTIER_DAEMON_THREADS_H

#include "daemon/daemon.h"

#include <pthread.h>
#include <stdatomic.h>

struct threads {
	struct daemon *daemon;
	_Atomic bool is_stopping;
	unsigned count;
	pthread_t threads[MILLS_MAX + NVME_DEVICES_MAX];
	struct thread_work {
		struct threads *threads;
		struct mill *mill;             /* or */
		struct nvme_device *device;
	} work[MILLS_MAX + NVME_DEVICES_MAX];
};

must_check int threads_start(struct threads *threads, struct daemon *daemon, struct error *error);
/* Ends and joins them; ops still with a device thread come back first. */
void threads_stop(struct threads *threads);

#endif
