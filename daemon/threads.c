/* daemon/threads.c: loops around step() and wait(). */
#include "daemon/threads.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define THREAD_WAIT_US UINT64_C(500000)
#define MILL_OPS_A_STEP 16u
#define DEVICE_NICE (-10)

static void *mill_thread(void *owner)
{
	struct thread_work *work = owner;
	struct clock *clock = work->threads->daemon->clock;

	while (!atomic_load_explicit(&work->threads->is_stopping, memory_order_relaxed))
		if (mill_step(work->mill, clock_now_us(clock), MILL_OPS_A_STEP) == 0)
			mill_wait(work->mill, THREAD_WAIT_US);
	return NULL;
}

static void *device_thread(void *owner)
{
	struct thread_work *work = owner;
	struct clock *clock = work->threads->daemon->clock;

	/* It works for microseconds and keeps the disk busy: behind threads that copy it would wait
	 * for a tick while the disk idles. Without the right to ask for it, it stays as it is. */
	if (getpriority(PRIO_PROCESS, (id_t)gettid()) > DEVICE_NICE)
		(void)setpriority(PRIO_PROCESS, (id_t)gettid(), DEVICE_NICE);

	while (!atomic_load_explicit(&work->threads->is_stopping, memory_order_relaxed))
		if (!nvme_device_step(work->device, clock_now_us(clock)))
			nvme_device_wait(work->device, THREAD_WAIT_US);
	return NULL;
}

static int thread_add(struct threads *threads, struct mill *mill, struct nvme_device *device,
		      struct error *error)
{
	struct thread_work *work = &threads->work[threads->count];
	char name[16] = "kvtier-mill";
	int result;

	*work = (struct thread_work){ .threads = threads, .mill = mill, .device = device };
	result = pthread_create(&threads->threads[threads->count], NULL,
				mill != NULL ? mill_thread : device_thread, work);
	if (result != 0)
		return error_set(error, -result, "cannot start a thread: %s%s", strerror(result),
				 error_advice(-result));
	if (device != NULL)
		strcpy(name, "kvtier-nvme");
	(void)pthread_setname_np(threads->threads[threads->count], name);
	threads->count++;
	return 0;
}

int threads_start(struct threads *threads, struct daemon *daemon, struct error *error)
{
	sigset_t all, before;
	int result = 0;

	memset(threads, 0, sizeof(*threads));
	threads->daemon = daemon;
	/* Signals are the loop's. SIGBUS is aimed at the thread that caused it. */
	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGABRT);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (unsigned i = 0; result == 0 && i < daemon->mills.count; i++)
		result = thread_add(threads, &daemon->mills.mills[i], NULL, error);
	for (unsigned i = 0; result == 0 && i < daemon->devices_count; i++)
		result = thread_add(threads, NULL, daemon->devices[i].device, error);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (result < 0)
		threads_stop(threads);
	return result;
}

void threads_stop(struct threads *threads)
{
	atomic_store(&threads->is_stopping, true);
	for (unsigned i = 0; i < threads->count; i++) {
		if (threads->work[i].mill != NULL)
			mailbox_poke(&threads->work[i].mill->down);
		else
			nvme_device_poke(threads->work[i].device);
	}
	for (unsigned i = 0; i < threads->count; i++)
		pthread_join(threads->threads[i], NULL);
	threads->count = 0;
}
