/*
 * tests/gpu/engine.c: an engine's stand-in, in a process of its own: it owns device memory, lends
 * it by IPC handle and by descriptors, and looks at it by copies through its own driver.
 */
#include "tests/gpu/device_rig.h"
#include "tests/gpu/fake/fake.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

extern char **environ;

enum { ASK_HAS_NEW, ASK_WORD };
struct question {
	int what;
	uint64_t value;
};

struct stand_in {
	struct gpu_driver driver;
	gpu_stream stream;
	gpu_address memory, range;
	gpu_memory segments[ENGINE_SEGMENTS];
	struct gpu_ipc_handle handle;
	int fds[ENGINE_SEGMENTS];
	uint8_t *buffer; /* ENGINE_BYTES */
};

/* Its own mistakes end it, and the test that waits for its answer fails. */
static void must(int result)
{
	if (result != 0) {
		fprintf(stderr, "the engine's stand-in: %d\n", result);
		exit(1);
	}
}

/* An exporter's calls, which are not in our table. */
static void *exporter_call(const struct gpu_driver *driver, const char *name)
{
	void *call = dlsym(driver->library, name);

	must(call == NULL);
	return call;
}

static void copy_in(struct stand_in *engine, gpu_address target, uint64_t bytes, uint64_t seed)
{
	rig_fill(engine->buffer, bytes, seed);
	must(engine->driver.calls.copy_load(target, engine->buffer, bytes, engine->stream));
}

static bool holds(struct stand_in *engine, gpu_address source, uint64_t bytes, uint64_t seed)
{
	/* Not pinned, so it is there when the call returns. */
	must(engine->driver.calls.copy_store(engine->buffer, source, bytes, engine->stream));
	return rig_differs(engine->buffer, bytes, seed) == bytes;
}

static void lend_handle(struct stand_in *engine)
{
	int (*get)(gpu_ipc *, gpu_address);
	void *call = exporter_call(&engine->driver, "cuIpcGetMemHandle");

	memcpy(&get, &call, sizeof(get));
	must(engine->driver.calls.memory_allocate(&engine->memory, ENGINE_BYTES));
	copy_in(engine, engine->memory, ENGINE_BYTES, ENGINE_SEED);
	must(get(&engine->handle, engine->memory + 12345)); /* of any address: the whole of it */
}

static void lend_descriptors(struct stand_in *engine)
{
	const struct fake_share_properties how = { .type = 1, .handle_type = GPU_SHARE_POSIX_FD,
						   .location_type = GPU_LOCATION_DEVICE };
	const gpu_access access = { .location_type = GPU_LOCATION_DEVICE,
				    .flags = GPU_ACCESS_READ_WRITE };
	int (*create)(gpu_memory *, size_t, const struct fake_share_properties *,
		      unsigned long long);
	int (*export)(void *, gpu_memory, gpu_share, unsigned long long);
	void *call = exporter_call(&engine->driver, "cuMemCreate");

	memcpy(&create, &call, sizeof(create));
	call = exporter_call(&engine->driver, "cuMemExportToShareableHandle");
	memcpy(&export, &call, sizeof(export));
	must(engine->driver.calls.range_reserve(&engine->range,
						ENGINE_SEGMENTS * ENGINE_SEGMENT_BYTES, 0, 0, 0));
	for (unsigned n = 0; n < ENGINE_SEGMENTS; n++) {
		gpu_address address = engine->range + n * ENGINE_SEGMENT_BYTES;

		must(create(&engine->segments[n], ENGINE_SEGMENT_BYTES, &how, 0));
		must(engine->driver.calls.range_map(address, ENGINE_SEGMENT_BYTES, 0,
						    engine->segments[n], 0));
		must(engine->driver.calls.range_access(address, ENGINE_SEGMENT_BYTES, &access, 1));
		copy_in(engine, address, ENGINE_SEGMENT_BYTES, ENGINE_SEGMENT_SEED + n);
		must(export(&engine->fds[n], engine->segments[n], GPU_SHARE_POSIX_FD, 0));
	}
}

static void send_all(int socket, const struct stand_in *engine)
{
	char control[CMSG_SPACE(sizeof(engine->fds))];
	struct iovec bytes = { .iov_base = (void *)(uintptr_t)&engine->handle,
			       .iov_len = sizeof(engine->handle) };
	struct msghdr message = { .msg_iov = &bytes, .msg_iovlen = 1, .msg_control = control,
				  .msg_controllen = sizeof(control) };
	struct cmsghdr *head;

	memset(control, 0, sizeof(control));
	head = CMSG_FIRSTHDR(&message);
	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(sizeof(engine->fds));
	memcpy(CMSG_DATA(head), engine->fds, sizeof(engine->fds));
	must(sendmsg(socket, &message, 0) != (ssize_t)sizeof(engine->handle));
}

static bool has_new(struct stand_in *engine)
{
	bool has = holds(engine, engine->memory, ENGINE_BYTES, ENGINE_NEW_SEED);

	for (unsigned n = 0; n < ENGINE_SEGMENTS; n++)
		has &= holds(engine, engine->range + n * ENGINE_SEGMENT_BYTES,
			     ENGINE_SEGMENT_BYTES, ENGINE_NEW_SEED + 1 + n);
	return has;
}

/* It is written when this returns. */
static void write_word(struct stand_in *engine, uint64_t value)
{
	must(engine->driver.calls.word_write(engine->stream, engine->memory, value, 0));
	while (engine->driver.calls.stream_query(engine->stream) == GPU_NOT_READY)
		sched_yield();
}

static void take_back(struct stand_in *engine)
{
	must(engine->driver.calls.memory_free(engine->memory));
	for (unsigned n = 0; n < ENGINE_SEGMENTS; n++) {
		must(engine->driver.calls.range_unmap(engine->range + n * ENGINE_SEGMENT_BYTES,
						      ENGINE_SEGMENT_BYTES));
		must(engine->driver.calls.share_release(engine->segments[n]));
		close(engine->fds[n]);
	}
	must(engine->driver.calls.range_free(engine->range,
					     ENGINE_SEGMENTS * ENGINE_SEGMENT_BYTES));
	must(engine->driver.calls.stream_destroy(engine->stream));
	must(engine->driver.calls.context_release(0));
	free(engine->buffer);
}

int engine_main(int socket)
{
	struct stand_in engine = { .buffer = malloc(ENGINE_BYTES) };
	struct question question;
	gpu_context context;
	struct error error;
	char answer;

	must(gpu_driver_open(&engine.driver, GPU_CUDA, rig_library(), &error));
	must(engine.driver.calls.context_retain(&context, 0));
	must(engine.driver.calls.context_set(context));
	must(engine.driver.calls.stream_create(&engine.stream, GPU_STREAM_NON_BLOCKING, 0));
	lend_handle(&engine);
	lend_descriptors(&engine);
	send_all(socket, &engine);
	while (recv(socket, &question, sizeof(question), 0) == (ssize_t)sizeof(question)) {
		answer = 1;
		if (question.what == ASK_HAS_NEW)
			answer = has_new(&engine);
		else
			write_word(&engine, question.value);
		must(send(socket, &answer, 1, 0) != 1);
	}
	take_back(&engine);
	return 0;
}

void engine_start(struct engine *engine)
{
	char number[16], control[CMSG_SPACE(sizeof(engine->fds))];
	char *const arguments[] = { (char *)"engine", number, NULL };
	struct iovec bytes = { .iov_base = &engine->handle, .iov_len = sizeof(engine->handle) };
	struct msghdr message = { .msg_iov = &bytes, .msg_iovlen = 1, .msg_control = control,
				  .msg_controllen = sizeof(control) };
	int sockets[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets), 0);
	snprintf(number, sizeof(number), "%d", sockets[1]);
	engine->socket = sockets[0];
	/* Not the stand-in's: it ends when this is closed. */
	assert_int_equal(fcntl(sockets[0], F_SETFD, FD_CLOEXEC), 0);
	assert_int_equal(posix_spawn(&engine->process, "/proc/self/exe", NULL, NULL, arguments,
				     environ), 0);
	close(sockets[1]);
	assert_int_equal(recvmsg(engine->socket, &message, MSG_CMSG_CLOEXEC),
			 sizeof(engine->handle));
	assert_non_null(CMSG_FIRSTHDR(&message));
	memcpy(engine->fds, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(engine->fds));
}

static char ask(struct engine *engine, int what, uint64_t value)
{
	const struct question question = { .what = what, .value = value };
	char answer = 0;

	assert_int_equal(send(engine->socket, &question, sizeof(question), 0), sizeof(question));
	assert_int_equal(recv(engine->socket, &answer, 1, 0), 1);
	return answer;
}

bool engine_has_new(struct engine *engine)
{
	return ask(engine, ASK_HAS_NEW, 0) == 1;
}

void engine_write_word(struct engine *engine, uint64_t value)
{
	ask(engine, ASK_WORD, value);
}

static void engine_end(struct engine *engine, int wanted)
{
	int status;

	close(engine->socket);
	assert_int_equal(waitpid(engine->process, &status, 0), engine->process);
	assert_int_equal(status, wanted);
	for (unsigned n = 0; n < ENGINE_SEGMENTS; n++)
		close(engine->fds[n]);
}

void engine_stop(struct engine *engine)
{
	engine_end(engine, 0); /* the end of its socket is its sign */
}

void engine_kill(struct engine *engine)
{
	kill(engine->process, SIGKILL);
	engine_end(engine, SIGKILL);
}
