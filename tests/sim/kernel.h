/*
 * tests/sim/kernel.h: the machine under the simulation: time, chance, processes with tasks
 * (threads), memory of their own, descriptors, sockets and files.
 *
 * The program is linked with --wrap for the system calls that kvtierd and libkvtier make, so both
 * run as they are: a call that waits gives the processor to another task, and the clock stands
 * until no task can go on. A process can be killed wherever a task waits or is preempted: its
 * memory and descriptors are gone at once, files stay. Everything follows from one seed.
 * Runs on: one thread. Outside of a process (`kernel.process` NULL) the wrapped calls are the real
 * ones.
 */
#ifndef KVTIER_TESTS_SIM_KERNEL_H
#define KVTIER_TESTS_SIM_KERNEL_H

#include "base/list.h"
#include "base/random.h"

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROCESSES_MAX 24u
#define TASKS_MAX 96u
#define FD_FIRST 5000
#define FDS_MAX 1024
#define SECOND_US UINT64_C(1000000)
#define NEVER UINT64_MAX

enum task_state { TASK_FREE, TASK_READY, TASK_WAITING };

struct task {
	enum task_state state;
	struct process *process;
	uint32_t number; /* of this place: raised when it is freed */
	void *(*work)(void *argument);
	void *argument;
	void *stack_pointer;
	uint8_t *stack;
	/* WAITING: until `is_due` says so, or the time has come. */
	bool (*is_due)(void *owner);
	void *owner;
	uint64_t until_us;
	uint64_t seen_changes; /* of the kernel's, when is_due was asked last */
};

struct process {
	char name[24];
	bool is_alive;
	bool is_taken; /* its place is not used again before process_release() */
	uint64_t stalled_until_us; /* none of its tasks runs before */
	/* Its memory: small pieces in its heap, big ones in rooms of whole pages. */
	uint8_t *heap;
	size_t small_bytes;
	struct list rooms;
	unsigned pieces, pieces_before; /* that it has not freed: now; but what is tested */
	void *free_pieces[16]; /* by the power of two of their bytes */
};

struct kernel {
	uint64_t now_us;  /* CLOCK_MONOTONIC */
	uint64_t wall_us; /* CLOCK_REALTIME is so much ahead */
	uint64_t changes; /* raised by whatever may let a waiting task go on */
	uint64_t resumes, digest;
	unsigned preemption_percent; /* how often a task is preempted where it can be */
	unsigned speed_us;           /* a task runs for less than this, a turn */
	struct random random;        /* who runs next, and what the machine decides */
	struct process *process;     /* whose task runs; NULL: the simulation itself */
	struct task *task;
	struct process processes[PROCESSES_MAX];
	struct task tasks[TASKS_MAX];
	unsigned tasks_count; /* the places behind were never used since the boot */
	/* Faults of the state directory's filesystem, in 1/1000 of the calls. */
	unsigned file_error_permille, file_full_permille;
	unsigned socket_bytes; /* room of each direction */
};

extern struct kernel kernel;

/* Everything is as after a boot: no process, no file, the clock at its start. */
void kernel_start(uint64_t seed);
uint64_t kernel_below(uint64_t limit);
bool kernel_chance(unsigned permille);
/* Into the digest of this history. */
void kernel_note(uint64_t a, uint64_t b);

/* ---- processes and tasks ---- */

struct process *process_start(const char *name, void *(*work)(void *argument), void *argument);
/* As kill -9, at once; must not be called from one of its tasks. */
void process_kill(struct process *process);
/* Whoever started it looks at it no more; ends it if need be. Accepts NULL. */
void process_release(struct process *process);
/* The calling task's process ends, and with it the task. */
_Noreturn void process_exit(void);
struct task *task_start(struct process *process, void *(*work)(void *argument), void *argument);
/* Lets one task run until it waits. False: all wait; the clock was not moved. */
bool kernel_step(void);
/* The same, but moves the clock to where one can go on, at most to `until_us`. False: it stands
 * there, and all wait. */
bool kernel_step_until(uint64_t until_us);
void kernel_run_until(uint64_t until_us);
/* From a task: true when due, false when the time has come. */
bool task_wait(bool (*is_due)(void *owner), void *owner, uint64_t until_us);
/* From a task: others may run now, or not. */
void task_preempt(void);
/* What the simulation itself does in between, in no process. */
struct process *kernel_leave_process(void);
void kernel_enter_process(struct process *process);

/* ---- memory ---- */

/* Zeroed. `user`: who asks, any address that tells callers apart. */
void *process_allocate(struct process *process, size_t bytes, size_t align, const void *user);
bool process_free(void *memory); /* false: not of a process */
size_t process_bytes_of(const void *memory);
bool process_owns(const void *memory);
void process_memory_reset(struct process *process);
/* OpenSSL's part of its ciphers is the C library's memory, and goes before its own. */
void process_ciphers_end(struct process *process);

/* ---- descriptors ---- */

void fds_start(void);
void fds_close_of(struct process *process);
bool fd_is_ours(int fd);
short fd_events(int fd); /* poll's */

/* ---- files ---- */

void files_start(void);
/* The power fails: what was not synced is there, or not, or torn. Files in memory are gone. */
void files_power_cut(void);
/* One bit of a file flips, or all of it is gone. False: no such file. */
bool file_damage(const char *path, bool is_cut);
bool file_remove(const char *path);

/* Shared memory: the bytes of a memfd or of a file that is mapped. */
struct memory;
/* Which shared memory this is in, held until released; NULL: none. */
struct memory *memory_hold(const void *address);
void memory_release(struct memory *memory);

#endif
