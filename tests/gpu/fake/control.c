/* tests/gpu/fake/control.c: the control page, and the gate through which each call passes. */
#include "tests/gpu/fake/fake.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

struct fake_control *fake_control;
pthread_mutex_t fake_mutex = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t fake_changed = PTHREAD_COND_INITIALIZER;
static _Atomic int poison;
static _Atomic bool is_leaving;

void fake_path(char *path, size_t bytes, const char *name)
{
	snprintf(path, bytes, "%s/%s", getenv(FAKE_ENVIRONMENT), name);
}

int fake_control_open(void)
{
	char path[256];
	void *memory;
	int fd;

	if (fake_control != NULL)
		return 0;
	if (getenv(FAKE_ENVIRONMENT) == NULL)
		return GPU_NO_DEVICE;
	fake_path(path, sizeof(path), FAKE_CONTROL_FILE);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return GPU_NO_DEVICE;
	memory = mmap(NULL, sizeof(*fake_control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (memory == MAP_FAILED || !fake_table_enter())
		return GPU_NO_DEVICE;
	fake_control = memory;
	return 0;
}

/* Whether this pass is the one that a test wants to fail; its error, or 0. */
static int injected(enum fake_call call)
{
	uint32_t wanted = fake_control->fail_call;
	int32_t process = fake_control->fail_process;
	uint32_t left = fake_control->fail_nth;

	if (wanted != call && (wanted != FAKE_ANY_CALL || call >= FAKE_fake_copy))
		return 0;
	if (process != 0 && process != getpid())
		return 0;
	while (left > 0 && !atomic_compare_exchange_weak(&fake_control->fail_nth, &left, left - 1))
		;
	if (left != 1)
		return 0;
	fake_control->was_failed = call + 1;
	return fake_control->fail_error;
}

/* Errors after which a process gets the same for every call (CUDA's documentation of each). */
static bool is_sticky(int error)
{
	return error == GPU_ECC_UNCORRECTABLE ||
	       (error >= GPU_ILLEGAL_ADDRESS && error <= GPU_LAUNCH_FAILED &&
		error != GPU_HOST_ALREADY_REGISTERED && error != GPU_HOST_NOT_REGISTERED);
}

bool fake_is_poisoned(void)
{
	return poison != 0;
}

uint64_t fake_misuses(void)
{
	return fake_control->misuses;
}

void fake_poison(int error)
{
	int none = 0;

	atomic_compare_exchange_strong(&poison, &none, error);
}

int fake_enter(enum fake_call call, bool needs_context)
{
	int error;

	if (fake_control == NULL)
		return GPU_NOT_INITIALIZED;
	fake_control->calls[call]++;
	error = injected(call);
	if (error != 0 && is_sticky(error))
		fake_poison(error);
	if (poison != 0)
		return poison;
	if (error == 0 && needs_context && !fake_has_context())
		return GPU_INVALID_CONTEXT;
	return error;
}

void fake_pause(void)
{
	const struct timespec pause = { .tv_nsec = 50000 };

	nanosleep(&pause, NULL);
}

bool fake_is_leaving(void)
{
	return is_leaving;
}

static void leave(void)
{
	is_leaving = true;
	fake_streams_end();
}

/* By atexit(), and not as a destructor: before a sanitizer looks for threads that were left. */
__attribute__((constructor)) static void arrive(void)
{
	atexit(leave);
}
