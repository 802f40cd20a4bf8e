/* tests/sim/kernel_rest.c: clocks, chance, threads, and what of kvtier needs a real machine. */
#include "tests/sim/kernel_fds.h"
#include "tests/sim/kernel_wraps.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#define CIPHERS_MAX 256u

bool kernel_is_verbose;

int __wrap_clock_gettime(clockid_t clock, struct timespec *out_now)
{
	if (kernel.process == NULL)
		return __real_clock_gettime(clock, out_now);
	uint64_t now_us = kernel.now_us + (clock == CLOCK_REALTIME ? kernel.wall_us : 0);

	out_now->tv_sec = (time_t)(now_us / SECOND_US);
	out_now->tv_nsec = (long)(now_us % SECOND_US) * 1000;
	return 0;
}

static bool nothing_is_due(void *owner)
{
	(void)owner;
	return false;
}

int __wrap_nanosleep(const struct timespec *wait, struct timespec *out_left)
{
	if (kernel.task == NULL)
		return __real_nanosleep(wait, out_left);
	(void)task_wait(nothing_is_due, NULL,
			kernel.now_us + (uint64_t)wait->tv_sec * SECOND_US +
				(uint64_t)wait->tv_nsec / 1000);
	return 0;
}

void __wrap_random_system(void *memory, size_t bytes)
{
	uint8_t *target = memory;

	if (kernel.process == NULL) {
		__real_random_system(memory, bytes);
		return;
	}
	for (size_t i = 0; i < bytes; i++)
		target[i] = (uint8_t)random_next(&kernel.random);
}

/* Only asked whether a descriptor is a pidfd. */
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f)
{
	if (number != SYS_pidfd_send_signal || !fd_is_ours((int)a))
		return __real_syscall(number, a, b, c, d, e, f);
	return object_of((int)a, OBJECT_PROCESS) != NULL ? 0 : fail(EBADF);
}

/* ---- threads ---- */

int __wrap_pthread_create(pthread_t *out_thread, const pthread_attr_t *attributes,
			  void *(*work)(void *argument), void *argument)
{
	struct task *task;

	if (kernel.process == NULL)
		return __real_pthread_create(out_thread, attributes, work, argument);
	task = task_start(kernel.process, work, argument);
	/* A place and how often it was used before. */
	*out_thread = (pthread_t)((uint64_t)task->number * TASKS_MAX +
				  (uint64_t)(task - kernel.tasks));
	return 0;
}

static bool task_is_over(void *owner)
{
	uint64_t thread = *(const uint64_t *)owner;

	return kernel.tasks[thread % TASKS_MAX].number != thread / TASKS_MAX;
}

int __wrap_pthread_join(pthread_t thread, void **out_result)
{
	uint64_t number = (uint64_t)thread;

	if (kernel.process == NULL)
		return __real_pthread_join(thread, out_result);
	(void)task_wait(task_is_over, &number, NEVER);
	return 0;
}

int __wrap_pthread_setname_np(pthread_t thread, const char *name)
{
	return kernel.process != NULL ? 0 : __real_pthread_setname_np(thread, name);
}

int __wrap_pthread_sigmask(int how, const sigset_t *wanted, sigset_t *out_old)
{
	return kernel.process != NULL ? 0 : __real_pthread_sigmask(how, wanted, out_old);
}

static bool mutex_is_free(void *owner)
{
	pthread_mutex_t *mutex = owner;

	if (pthread_mutex_trylock(mutex) != 0)
		return false;
	pthread_mutex_unlock(mutex);
	return true;
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex)
{
	if (kernel.task == NULL)
		return __real_pthread_mutex_lock(mutex);
	while (pthread_mutex_trylock(mutex) != 0) {
		/* Who holds it raises no change when it lets go: looked at again at every turn. */
		kernel.changes++;
		(void)task_wait(mutex_is_free, mutex, kernel.now_us + 10);
	}
	return 0;
}

/* Signals since the wait began; one for another condition wakes in vain, as it may. */
static uint64_t signals;

static bool signal_came(void *owner)
{
	return *(const uint64_t *)owner != signals;
}

int __wrap_pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex,
				  const struct timespec *until)
{
	uint64_t seen = signals;
	bool was_signalled;

	if (kernel.task == NULL)
		return __real_pthread_cond_timedwait(condition, mutex, until);
	pthread_mutex_unlock(mutex);
	was_signalled = task_wait(signal_came, &seen,
				  (uint64_t)until->tv_sec * SECOND_US +
					  (uint64_t)until->tv_nsec / 1000);
	__wrap_pthread_mutex_lock(mutex);
	return was_signalled ? 0 : ETIMEDOUT;
}

int __wrap_pthread_cond_signal(pthread_cond_t *condition)
{
	signals++;
	kernel.changes++;
	return kernel.process != NULL ? 0 : __real_pthread_cond_signal(condition);
}

int __wrap_pthread_cond_broadcast(pthread_cond_t *condition)
{
	signals++;
	kernel.changes++;
	return kernel.process != NULL ? 0 : __real_pthread_cond_broadcast(condition);
}

int __wrap_getpriority(int which, id_t who)
{
	return kernel.process != NULL ? 0 : __real_getpriority(which, who);
}

int __wrap_setpriority(int which, id_t who, int priority)
{
	return kernel.process != NULL ? 0 : __real_setpriority(which, who, priority);
}

/* ---- of kvtier ---- */

/* Memory that both sides map does not go away under us here. */
int __wrap_guard_run(void (*work)(void *owner), void *owner)
{
	work(owner);
	return 0;
}

/* The simulated processes do not fork; the simulation itself does. */
void __wrap_fork_watch(struct kvtier_client *client)
{
	(void)client;
}

void __wrap_fork_unwatch(struct kvtier_client *client)
{
	(void)client;
}

static struct owned_cipher {
	struct process *process; /* NULL: free */
	struct cipher *cipher;
} ciphers[CIPHERS_MAX];

int __wrap_cipher_create(struct cipher **out_cipher, struct error *error)
{
	unsigned place = 0;
	int result = __real_cipher_create(out_cipher, error);

	if (result < 0 || kernel.process == NULL)
		return result;
	while (place < CIPHERS_MAX && ciphers[place].process != NULL)
		place++;
	assert(place < CIPHERS_MAX);
	ciphers[place] = (struct owned_cipher){ kernel.process, *out_cipher };
	return 0;
}

void __wrap_cipher_destroy(struct cipher *cipher)
{
	for (unsigned i = 0; cipher != NULL && i < CIPHERS_MAX; i++)
		if (ciphers[i].cipher == cipher)
			ciphers[i] = (struct owned_cipher){ NULL, NULL };
	__real_cipher_destroy(cipher);
}

void process_ciphers_end(struct process *process)
{
	for (unsigned i = 0; i < CIPHERS_MAX; i++)
		if (ciphers[i].process == process)
			__wrap_cipher_destroy(ciphers[i].cipher);
}

/* Nobody else has files here. */

int __wrap_trusted_parents(const char *path, struct error *error)
{
	(void)path;
	(void)error;
	return 0;
}

int __wrap_trusted_folder_make(const char *path, mode_t mode, const char *key, struct error *error)
{
	(void)key;
	(void)error;
	return __wrap_mkdir(path, mode) == 0 || errno == EEXIST ? 0 : -errno;
}

int __wrap_trusted_file(int fd, const char *path, struct error *error)
{
	(void)fd;
	(void)path;
	(void)error;
	return 0;
}

int __wrap_trusted_secret(int fd, const char *path, struct error *error)
{
	return __wrap_trusted_file(fd, path, error);
}

/* Others run in the middle of copies: between the bytes and the checksum that is taken of them. */

void __wrap_copy_with_checksums(void *target, const void *source, size_t bytes,
				size_t segment_bytes, uint32_t *out_crcs)
{
	task_preempt();
	__real_copy_with_checksums(target, source, bytes, segment_bytes, out_crcs);
	task_preempt();
}

void __wrap_copy_away_with_checksums(void *target, const void *source, size_t bytes,
				     size_t segment_bytes, uint32_t *out_crcs)
{
	task_preempt();
	__real_copy_away_with_checksums(target, source, bytes, segment_bytes, out_crcs);
	task_preempt();
}

uint32_t __wrap_copy_with_checksum_more(uint32_t crc, void *target, const void *source,
					size_t bytes)
{
	task_preempt();
	crc = __real_copy_with_checksum_more(crc, target, source, bytes);
	task_preempt();
	return crc;
}

void __wrap_log_line(int level, const char *event, const char *format, ...)
{
	char text[512];
	va_list rest;

	(void)level;
	if (!kernel_is_verbose)
		return;
	va_start(rest, format);
	vsnprintf(text, sizeof(text), format, rest);
	va_end(rest);
	printf("%12.6f   [%s] %s %s\n", (double)kernel.now_us / 1e6,
	       kernel.process != NULL ? kernel.process->name : "-", event, text);
}
