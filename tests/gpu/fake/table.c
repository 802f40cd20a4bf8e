/*
 * tests/gpu/fake/table.c: the device's memory over all processes. An allocation lives while one
 * process that lives holds it, as on a GPU: its exporter, or whoever imported it.
 */
#include "tests/gpu/fake/fake.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

static int processes_fd = -1;

static struct flock byte_of(pid_t process)
{
	return (struct flock){ .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = process,
			       .l_len = 1 };
}

bool fake_table_enter(void)
{
	struct flock mine = byte_of(getpid());
	char path[256];

	fake_path(path, sizeof(path), FAKE_PROCESSES_FILE);
	/* It stays open: the lock goes with the process. */
	processes_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	return processes_fd >= 0 && fcntl(processes_fd, F_SETLK, &mine) == 0;
}

/* By a lock, which a process loses as it dies: its number stands in /proc until whoever inherited
 * it waits for it, and one in a sandbox can neither look there nor ask by a signal. */
static bool has_ended(pid_t process)
{
	struct flock lock = byte_of(process);

	/* One's own locks are in nobody's way. */
	return process != getpid() && fcntl(processes_fd, F_GETLK, &lock) == 0 &&
	       lock.l_type == F_UNLCK;
}

/* Held for a few stores, by processes that a test may kill at any time; taken over from the
 * dead. */
static void table_lock(void)
{
	uint32_t owner = 0;

	while (!atomic_compare_exchange_weak(&fake_control->lock, &owner, (uint32_t)getpid())) {
		if (owner != 0 && has_ended((pid_t)owner) &&
		    atomic_compare_exchange_strong(&fake_control->lock, &owner, (uint32_t)getpid()))
			return;
		owner = 0;
		fake_pause();
	}
}

static void table_unlock(void)
{
	fake_control->lock = 0;
}

static struct fake_allocation *find(uint64_t id)
{
	for (unsigned n = 0; n < FAKE_ALLOCATIONS_MAX; n++)
		if (fake_control->allocations[n].id == id)
			return &fake_control->allocations[n];
	return NULL;
}

/* Forgets users that died; frees what nobody uses. True: it is free now. */
static bool settle(struct fake_allocation *allocation)
{
	bool is_used = false;
	char path[256], name[32];

	for (unsigned n = 0; n < FAKE_USERS_MAX; n++) {
		int32_t user = allocation->users[n];

		if (user != 0 && has_ended(user))
			allocation->users[n] = 0;
		is_used |= allocation->users[n] != 0;
	}
	if (is_used || allocation->id == 0)
		return false;
	snprintf(name, sizeof(name), "memory-%llu", (unsigned long long)allocation->id);
	fake_path(path, sizeof(path), name);
	unlink(path);
	allocation->id = 0;
	return true;
}

static bool user_add(struct fake_allocation *allocation)
{
	unsigned free = FAKE_USERS_MAX;

	for (unsigned n = 0; n < FAKE_USERS_MAX; n++) {
		if (allocation->users[n] == getpid()) {
			allocation->holds[n]++;
			return true;
		}
		if (allocation->users[n] == 0)
			free = n;
	}
	if (free == FAKE_USERS_MAX)
		return false;
	allocation->users[free] = getpid();
	allocation->holds[free] = 1;
	return true;
}

static uint64_t bytes_used(void)
{
	uint64_t bytes = 0;

	for (unsigned n = 0; n < FAKE_ALLOCATIONS_MAX; n++) {
		settle(&fake_control->allocations[n]);
		if (fake_control->allocations[n].id != 0)
			bytes += fake_control->allocations[n].bytes;
	}
	return bytes;
}

EXPORTED uint64_t fake_table_bytes(void)
{
	uint64_t bytes;

	table_lock();
	bytes = bytes_used();
	table_unlock();
	return bytes;
}

uint64_t fake_table_new(uint64_t bytes)
{
	struct fake_allocation *allocation;
	uint64_t id = 0;

	table_lock();
	if (bytes_used() + bytes > FAKE_MEMORY_BYTES)
		goto unlock;
	allocation = find(0);
	if (allocation == NULL)
		goto unlock;
	id = ++fake_control->next_id;
	*allocation = (struct fake_allocation){ .id = id, .bytes = bytes };
	user_add(allocation);
unlock:
	table_unlock();
	return id;
}

bool fake_table_hold(uint64_t id)
{
	struct fake_allocation *allocation;
	bool is_there;

	table_lock();
	allocation = id == 0 ? NULL : find(id);
	is_there = allocation != NULL && !settle(allocation) && user_add(allocation);
	table_unlock();
	return is_there;
}

bool fake_table_release(uint64_t id)
{
	struct fake_allocation *allocation;
	bool is_free = false;

	table_lock();
	allocation = find(id);
	for (unsigned n = 0; allocation != NULL && n < FAKE_USERS_MAX; n++)
		if (allocation->users[n] == getpid() && --allocation->holds[n] == 0)
			allocation->users[n] = 0;
	if (allocation != NULL)
		is_free = settle(allocation);
	table_unlock();
	return is_free;
}
