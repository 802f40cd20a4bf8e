/* tests/sim/kernel_task.c: tasks as coroutines, the clock, and who runs next. */
#include "tests/sim/kernel.h"
#include "tests/sim/kernel_sanitizer.h"
#include "tests/sim/kernel_wraps.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define STACK_BYTES (STACK_FACTOR * (UINT64_C(512) << 10))
#define WALL_US (UINT64_C(1800000000) * SECOND_US)
#define CLOCK_START_US (UINT64_C(1000) * SECOND_US)

struct kernel kernel;
static void *main_stack_pointer;
/* For the sanitizer: of the stack that main() has. */
static const void *main_stack;
static size_t main_stack_bytes;

/* Saves what a call must keep, and goes on where the other stack left off. */
void task_switch(void **out_from, void *to);

#if defined(__x86_64__)
__asm__(".text\n"
	".globl task_switch\n"
	".type task_switch, @function\n"
	"task_switch:\n"
	"	pushq %rbp\n	pushq %rbx\n	pushq %r12\n	pushq %r13\n"
	"	pushq %r14\n	pushq %r15\n"
	"	movq %rsp, (%rdi)\n"
	"	movq %rsi, %rsp\n"
	"	popq %r15\n	popq %r14\n	popq %r13\n	popq %r12\n"
	"	popq %rbx\n	popq %rbp\n"
	"	ret\n"
	".size task_switch, .-task_switch\n");
#define SAVED_WORDS 6u /* before the return address */
#define RETURN_WORD 6u
#elif defined(__aarch64__)
__asm__(".text\n"
	".globl task_switch\n"
	".type task_switch, %function\n"
	"task_switch:\n"
	"	sub sp, sp, #160\n"
	"	stp x19, x20, [sp, #0]\n	stp x21, x22, [sp, #16]\n"
	"	stp x23, x24, [sp, #32]\n	stp x25, x26, [sp, #48]\n"
	"	stp x27, x28, [sp, #64]\n	stp x29, x30, [sp, #80]\n"
	"	stp d8, d9, [sp, #96]\n	stp d10, d11, [sp, #112]\n"
	"	stp d12, d13, [sp, #128]\n	stp d14, d15, [sp, #144]\n"
	"	mov x9, sp\n	str x9, [x0]\n	mov sp, x1\n"
	"	ldp x19, x20, [sp, #0]\n	ldp x21, x22, [sp, #16]\n"
	"	ldp x23, x24, [sp, #32]\n	ldp x25, x26, [sp, #48]\n"
	"	ldp x27, x28, [sp, #64]\n	ldp x29, x30, [sp, #80]\n"
	"	ldp d8, d9, [sp, #96]\n	ldp d10, d11, [sp, #112]\n"
	"	ldp d12, d13, [sp, #128]\n	ldp d14, d15, [sp, #144]\n"
	"	add sp, sp, #160\n"
	"	ret\n"
	".size task_switch, .-task_switch\n");
#define SAVED_WORDS 20u
#define RETURN_WORD 11u
#else
#error "tests/sim: write task_switch() for this processor"
#endif

uint64_t kernel_below(uint64_t limit)
{
	return random_below(&kernel.random, limit);
}

bool kernel_chance(unsigned permille)
{
	return permille > 0 && kernel_below(1000) < permille;
}

void kernel_note(uint64_t a, uint64_t b)
{
	uint64_t value = kernel.digest ^ a * UINT64_C(0x9e3779b97f4a7c15) ^ b;

	value = (value ^ (value >> 29)) * UINT64_C(0xbf58476d1ce4e5b9);
	kernel.digest = value ^ (value >> 32);
}

void kernel_start(uint64_t seed)
{
	kernel.process = NULL;
	kernel.task = NULL;
	for (unsigned i = 0; i < TASKS_MAX; i++)
		kernel.tasks[i].state = TASK_FREE;
	kernel.tasks_count = 0;
	fds_start();
	for (unsigned i = 0; i < PROCESSES_MAX; i++) {
		if (kernel.processes[i].is_alive)
			process_memory_reset(&kernel.processes[i]);
		kernel.processes[i].is_alive = kernel.processes[i].is_taken = false;
	}
	files_start();
	kernel.now_us = CLOCK_START_US;
	kernel.wall_us = WALL_US;
	kernel.changes = 1;
	kernel.resumes = 0;
	kernel.digest = seed;
	kernel.preemption_percent = 10;
	kernel.speed_us = 4;
	kernel.file_error_permille = kernel.file_full_permille = 0;
	kernel.socket_bytes = 1 << 18;
	random_init(&kernel.random, seed);
}

struct process *kernel_leave_process(void)
{
	struct process *process = kernel.process;

	kernel.process = NULL;
	return process;
}

void kernel_enter_process(struct process *process)
{
	kernel.process = process;
}

static void task_leave(void)
{
	struct task *task = kernel.task;
	void *fake = NULL;

	__sanitizer_start_switch_fiber(task->state == TASK_FREE ? NULL : &fake, main_stack,
				       main_stack_bytes);
	task_switch(&task->stack_pointer, main_stack_pointer);
	__sanitizer_finish_switch_fiber(fake, NULL, NULL);
}

/* The first frame of a task. */
static void task_begin(void)
{
	struct task *task = kernel.task;

	__sanitizer_finish_switch_fiber(NULL, &main_stack, &main_stack_bytes);
	(void)task->work(task->argument);
	task->state = TASK_FREE;
	task->number++;
	kernel.changes++;
	task_leave();
	abort();
}

struct task *task_start(struct process *process, void *(*work)(void *argument), void *argument)
{
	unsigned place = 0;

	while (place < TASKS_MAX && kernel.tasks[place].state != TASK_FREE)
		place++;
	assert(place < TASKS_MAX);
	if (place >= kernel.tasks_count)
		kernel.tasks_count = place + 1;
	struct task *task = &kernel.tasks[place];
	if (task->stack == NULL)
		task->stack = __real_mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
					  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert(task->stack != MAP_FAILED);
	/* One that was killed left its frames' marks. */
	ASAN_UNPOISON_MEMORY_REGION(task->stack, STACK_BYTES);
	/* Behind the saved words the stack is as a call has it: 8 off a multiple of 16. */
	uint64_t *top = (uint64_t *)(task->stack + STACK_BYTES) - 2 - SAVED_WORDS - 2;
	memset(top, 0, (SAVED_WORDS + 2) * sizeof(*top));
	top[RETURN_WORD] = (uint64_t)(uintptr_t)task_begin;
	task->stack_pointer = top;
	task->process = process;
	task->work = work;
	task->argument = argument;
	task->state = TASK_READY;
	return task;
}

struct process *process_start(const char *name, void *(*work)(void *argument), void *argument)
{
	unsigned place = 0;

	while (place < PROCESSES_MAX && kernel.processes[place].is_taken)
		place++;
	assert(place < PROCESSES_MAX);
	struct process *process = &kernel.processes[place];
	snprintf(process->name, sizeof(process->name), "%s", name);
	process->is_alive = process->is_taken = true;
	process->stalled_until_us = 0;
	(void)task_start(process, work, argument);
	return process;
}

void process_kill(struct process *process)
{
	assert(process->is_alive && kernel.task == NULL);
	for (unsigned i = 0; i < kernel.tasks_count; i++) {
		if (kernel.tasks[i].state == TASK_FREE || kernel.tasks[i].process != process)
			continue;
		kernel.tasks[i].state = TASK_FREE;
		kernel.tasks[i].number++;
	}
	fds_close_of(process);
	process_memory_reset(process);
	process->is_alive = false;
	kernel.changes++;
}

void process_release(struct process *process)
{
	if (process == NULL)
		return;
	if (process->is_alive)
		process_kill(process);
	process->is_taken = false;
}

static bool never(void *owner)
{
	(void)owner;
	return false;
}

/* What process_exit() left to do, as a task cannot free the stack that it stands on. */
static struct process *exiting;

void process_exit(void)
{
	exiting = kernel.task->process;
	(void)task_wait(never, NULL, NEVER);
	abort();
}

static void task_resume(struct task *task)
{
	void *fake = NULL;

	assert(kernel.task == NULL);
	kernel.task = task;
	kernel.process = task->process;
	kernel.resumes++;
	kernel_note((uint64_t)(task - kernel.tasks), kernel.now_us);
	__sanitizer_start_switch_fiber(&fake, task->stack, STACK_BYTES);
	task_switch(&main_stack_pointer, task->stack_pointer);
	__sanitizer_finish_switch_fiber(fake, NULL, NULL);
	kernel.task = NULL;
	kernel.process = NULL;
	kernel.now_us += 1 + kernel_below(kernel.speed_us);
	if (exiting != NULL)
		process_kill(exiting);
	exiting = NULL;
}

static bool task_may_run(struct task *task)
{
	if (task->state == TASK_FREE || task->process->stalled_until_us > kernel.now_us)
		return false;
	if (task->state == TASK_READY || task->until_us <= kernel.now_us)
		return true;
	if (task->seen_changes == kernel.changes)
		return false;
	task->seen_changes = kernel.changes;
	return task->is_due(task->owner);
}

bool kernel_step(void)
{
	struct task *ready[TASKS_MAX];
	unsigned count = 0;

	for (unsigned i = 0; i < kernel.tasks_count; i++) {
		if (kernel.tasks[i].state == TASK_FREE || !task_may_run(&kernel.tasks[i]))
			continue;
		/* Its turn is drawn: it stays so until it runs. */
		kernel.tasks[i].seen_changes = 0;
		ready[count++] = &kernel.tasks[i];
	}
	if (count == 0)
		return false;
	task_resume(ready[count == 1 ? 0 : kernel_below(count)]);
	return true;
}

/* When the next task that waits can go on by itself. */
static uint64_t next_us(void)
{
	uint64_t next = NEVER;

	for (unsigned i = 0; i < kernel.tasks_count; i++) {
		const struct task *task = &kernel.tasks[i];
		uint64_t at = task->until_us;

		if (task->state == TASK_FREE)
			continue;
		if (task->process->stalled_until_us > kernel.now_us)
			at = task->process->stalled_until_us;
		if (at < next)
			next = at;
	}
	return next;
}

bool kernel_step_until(uint64_t until_us)
{
	uint64_t next;

	if (kernel.now_us >= until_us)
		return false;
	if (kernel_step())
		return true;
	next = next_us();
	if (next > until_us)
		next = until_us;
	if (next > kernel.now_us)
		kernel.now_us = next;
	return kernel.now_us < until_us;
}

void kernel_run_until(uint64_t until_us)
{
	while (kernel_step_until(until_us))
		;
}

bool task_wait(bool (*is_due)(void *owner), void *owner, uint64_t until_us)
{
	struct task *task = kernel.task;
	struct process *process = kernel.process;

	assert(task != NULL);
	if (is_due(owner))
		return true;
	if (until_us <= kernel.now_us)
		return false;
	task->is_due = is_due;
	task->owner = owner;
	task->until_us = until_us;
	task->seen_changes = 0;
	task->state = TASK_WAITING;
	task_leave();
	kernel.process = process;
	task->state = TASK_READY;
	return is_due(owner);
}

void task_preempt(void)
{
	struct process *process = kernel.process;

	if (kernel.task == NULL || kernel_below(100) >= kernel.preemption_percent)
		return;
	task_leave();
	kernel.process = process;
}
