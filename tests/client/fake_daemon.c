/* tests/client/fake_daemon.c: see fake_daemon.h. One thread, one poll loop; its lock is held while
 * a frame is served. */
#include "tests/client/fake_parts.h"

#include "base/random.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define ARENA_BYTES (8u << 20)

_Alignas(64) uint8_t fake_incoming[FRAME_BYTES_MAX];
_Alignas(64) uint8_t fake_outgoing[FRAME_BYTES_MAX];
int fake_fds[1 + LEND_FDS_MAX];
unsigned fake_fds_count;

static void connection_close(struct fake_connection *connection, uint64_t window_bytes)
{
	if (connection->fd >= 0)
		close(connection->fd);
	if (connection->window != NULL)
		munmap(connection->window, window_bytes);
	memset(connection, 0, sizeof(*connection));
	connection->fd = -1;
}

void fake_send(struct fake_daemon *fake, struct fake_connection *connection, enum fake_way way,
	       void *frame)
{
	struct frame_header *header = frame;

	header->boot_id = fake->boot_id + (way == FAKE_WRONG_BOOT);
	if (way == FAKE_GARBAGE)
		header->magic ^= 1;
	if (way == FAKE_STRANGER)
		header->request += 1000;
	if (way == FAKE_LATE) {
		memcpy(connection->late, frame, header->bytes);
		connection->late_bytes = header->bytes;
		return;
	}
	(void)!send(connection->fd, frame, header->bytes, MSG_NOSIGNAL);
}

void fake_reply(struct fake_daemon *fake, struct fake_connection *connection, enum fake_way way,
		enum frame_type type, size_t bytes, const struct frame_header *request)
{
	frame_start((struct frame_header *)fake_outgoing, type, (uint32_t)bytes, request->request,
		    0);
	fake_send(fake, connection, way, fake_outgoing);
}

static void serve_frame(struct fake_daemon *fake, struct fake_connection *connection,
			enum fake_way way)
{
	const struct frame_header *header = (const struct frame_header *)fake_incoming;

	switch (header->type) {
	case FRAME_HELLO:
		fake_serve_hello(fake, connection, way);
		break;
	case FRAME_REGISTER:
		fake_serve_register(fake, connection, way);
		break;
	case FRAME_ATTACH:
		fake_serve_attach(fake, connection, way);
		break;
	case FRAME_CANARY:
		fake_serve_canary(fake, connection, way);
		break;
	case FRAME_SPACE:
		fake_serve_space(fake, connection, way);
		break;
	case FRAME_LOOKUP:
		fake_serve_lookup(fake, connection, way);
		break;
	case FRAME_LEASE_RELEASE:
		fake->lease_released = ((const struct frame_lease_release *)header)->lease;
		break;
	case FRAME_STORE:
		fake_serve_store(fake, connection, way);
		break;
	case FRAME_COMMIT:
		fake_serve_commit(fake, connection, way);
		break;
	case FRAME_LOAD:
		fake_serve_load(fake, connection, way);
		break;
	case FRAME_RELEASE:
		fake_serve_release(fake);
		break;
	case FRAME_LEND:
		fake_serve_lend(fake, connection, way);
		break;
	case FRAME_CANCEL:
		fake_pull_cancel(fake, (const struct frame_cancel *)header);
		break;
	case FRAME_HINT:
		fake_serve_hint(fake, connection, way);
		break;
	case FRAME_FORGET:
	case FRAME_BYPASS:
		fake_reply(fake, connection, way, FRAME_DONE, sizeof(*header), header);
		break;
	case FRAME_STATS:
		fake_serve_text(fake, connection, way);
		break;
	case FRAME_EXPLAIN:
		fake_serve_explain(fake, connection, way);
		break;
	default:
		fake_serve_fetch(fake, connection, way);
	}
}

static void serve_packet(struct fake_daemon *fake, struct fake_connection *connection, size_t bytes)
{
	const struct frame_header *header = (const struct frame_header *)fake_incoming;
	struct error error = { .code = 0 };
	enum fake_way way;

	if (frame_check(fake_incoming, bytes, false, &error) < 0) {
		fprintf(stderr, "fake daemon: a client sent a wrong frame: %s\n", error.text);
		abort();
	}
	if (connection->late_bytes > 0) {
		(void)!send(connection->fd, connection->late, connection->late_bytes, MSG_NOSIGNAL);
		connection->late_bytes = 0;
	}
	way = fake->ways[header->type];
	if (fake->ways_left[header->type] > 0 && --fake->ways_left[header->type] == 0)
		fake->ways[header->type] = FAKE_RIGHT;
	if (way == FAKE_CLOSE)
		connection_close(connection, fake->window_bytes);
	else if (way == FAKE_REFUSE)
		fake_serve_refusal(fake, connection);
	else if (way != FAKE_SILENT)
		serve_frame(fake, connection, way);
	fake->seen[header->type]++;
	pthread_cond_broadcast(&fake->changed);
}

/* With the descriptors that come along, which are closed again when it was served. */
static ssize_t packet_receive(int fd)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(fake_fds))];
	} control;
	struct iovec iovec = { fake_incoming, sizeof(fake_incoming) };
	struct msghdr message = { .msg_iov = &iovec,
				  .msg_iovlen = 1,
				  .msg_control = control.bytes,
				  .msg_controllen = sizeof(control.bytes) };
	ssize_t bytes = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	const struct cmsghdr *head = bytes > 0 ? CMSG_FIRSTHDR(&message) : NULL;

	fake_fds_count = 0;
	if (head != NULL && head->cmsg_type == SCM_RIGHTS) {
		fake_fds_count = (unsigned)((head->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fake_fds, CMSG_DATA(head), fake_fds_count * sizeof(int));
	}
	return bytes;
}

static void fake_accept(struct fake_daemon *fake)
{
	int fd = accept4(fake->listen_fd, NULL, NULL, SOCK_CLOEXEC);

	for (unsigned i = 0; fd >= 0 && i < FAKE_CONNECTIONS_MAX; i++) {
		if (fake->connections[i].fd < 0) {
			fake->connections[i].fd = fd;
			return;
		}
	}
	if (fd >= 0)
		close(fd);
}

static void fake_forget_all(struct fake_daemon *fake)
{
	for (unsigned i = 0; i < FAKE_CONNECTIONS_MAX; i++)
		connection_close(&fake->connections[i], fake->window_bytes);
	memset(fake->slots, 0, sizeof(fake->slots));
	fake->boot_id += 100;
	fake->must_restart = false;
	pthread_cond_broadcast(&fake->changed);
}

static void *fake_run(void *argument)
{
	struct fake_daemon *fake = argument;

	for (;;) {
		struct pollfd fds[2 + FAKE_CONNECTIONS_MAX] = {
			{ .fd = fake->listen_fd, .events = POLLIN },
			{ .fd = fake->wake_fd, .events = POLLIN },
		};
		uint64_t drained;

		pthread_mutex_lock(&fake->lock);
		for (unsigned i = 0; i < FAKE_CONNECTIONS_MAX; i++)
			fds[2 + i] = (struct pollfd){ .fd = fake->connections[i].fd,
						      .events = POLLIN };
		pthread_mutex_unlock(&fake->lock);
		poll(fds, 2 + FAKE_CONNECTIONS_MAX, -1);
		pthread_mutex_lock(&fake->lock);
		if (fds[1].revents != 0)
			(void)!read(fake->wake_fd, &drained, sizeof(drained));
		if (fake->is_stopping)
			break;
		for (unsigned i = 0; i < FAKE_CONNECTIONS_MAX; i++) {
			struct fake_connection *connection = &fake->connections[i];
			ssize_t bytes;

			if (fds[2 + i].revents == 0 || connection->fd != fds[2 + i].fd)
				continue;
			bytes = packet_receive(connection->fd);
			if (bytes > 0)
				serve_packet(fake, connection, (size_t)bytes);
			else if (bytes == 0 || errno != EAGAIN)
				connection_close(connection, fake->window_bytes);
			while (fake_fds_count > 0)
				close(fake_fds[--fake_fds_count]);
		}
		pthread_cond_broadcast(&fake->changed);
		if (fake->must_restart)
			fake_forget_all(fake);
		if (fds[0].revents != 0)
			fake_accept(fake);
		pthread_mutex_unlock(&fake->lock);
	}
	pthread_mutex_unlock(&fake->lock);
	return NULL;
}

static void arena_make(struct fake_daemon *fake)
{
	char path[64];

	fake->arena_fd = memfd_create("arena", MFD_CLOEXEC);
	fake->arena_bytes = ARENA_BYTES;
	if (ftruncate(fake->arena_fd, ARENA_BYTES) < 0)
		abort();
	fake->arena = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fake->arena_fd,
			   0);
	random_system(fake->arena + FAKE_CANARY_OFFSET, 64);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fake->arena_fd);
	fake->arena_read_fd = open(path, O_RDONLY | O_CLOEXEC);
}

void fake_start(struct fake_daemon *fake, uint64_t window_bytes)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	memset(fake, 0, sizeof(*fake));
	fake->connections = calloc(FAKE_CONNECTIONS_MAX, sizeof(*fake->connections));
	for (unsigned i = 0; i < FAKE_CONNECTIONS_MAX; i++)
		fake->connections[i].fd = -1;
	fake->window_bytes = window_bytes;
	fake->boot_id = 1000;
	memset(fake->fingerprint, 0x5a, sizeof(fake->fingerprint));
	pthread_mutex_init(&fake->lock, NULL);
	pthread_cond_init(&fake->changed, NULL);
	arena_make(fake);
	strcpy(fake->directory, "/tmp/kvtier-fake-XXXXXX");
	if (mkdtemp(fake->directory) == NULL)
		abort();
	snprintf(fake->path, sizeof(fake->path), "%s/kv.sock", fake->directory);
	strcpy(address.sun_path, fake->path);
	fake->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	fake->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (bind(fake->listen_fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(fake->listen_fd, 8) < 0)
		abort();
	pthread_create(&fake->thread, NULL, fake_run, fake);
}

static void fake_wake(struct fake_daemon *fake)
{
	uint64_t one = 1;

	(void)!write(fake->wake_fd, &one, sizeof(one));
}

void fake_stop(struct fake_daemon *fake)
{
	pthread_mutex_lock(&fake->lock);
	fake->is_stopping = true;
	pthread_mutex_unlock(&fake->lock);
	fake_wake(fake);
	pthread_join(fake->thread, NULL);
	for (unsigned i = 0; i < FAKE_CONNECTIONS_MAX; i++)
		connection_close(&fake->connections[i], fake->window_bytes);
	free(fake->connections);
	fake_pull_stop(fake);
	munmap(fake->arena, ARENA_BYTES);
	close(fake->arena_fd);
	close(fake->arena_read_fd);
	close(fake->listen_fd);
	close(fake->wake_fd);
	pthread_cond_destroy(&fake->changed);
	pthread_mutex_destroy(&fake->lock);
	unlink(fake->path);
	rmdir(fake->directory);
}

void fake_set(struct fake_daemon *fake, enum frame_type type, enum fake_way way, unsigned times)
{
	pthread_mutex_lock(&fake->lock);
	fake->ways[type] = way;
	fake->ways_left[type] = times;
	pthread_mutex_unlock(&fake->lock);
}

void fake_restart(struct fake_daemon *fake)
{
	pthread_mutex_lock(&fake->lock);
	fake->must_restart = true;
	fake_wake(fake);
	while (fake->must_restart)
		pthread_cond_wait(&fake->changed, &fake->lock);
	pthread_mutex_unlock(&fake->lock);
}

unsigned fake_seen(struct fake_daemon *fake, enum frame_type type)
{
	unsigned seen;

	pthread_mutex_lock(&fake->lock);
	seen = fake->seen[type];
	pthread_mutex_unlock(&fake->lock);
	return seen;
}

void fake_wait_seen(struct fake_daemon *fake, enum frame_type type, unsigned count)
{
	pthread_mutex_lock(&fake->lock);
	while (fake->seen[type] < count)
		pthread_cond_wait(&fake->changed, &fake->lock);
	pthread_mutex_unlock(&fake->lock);
}

unsigned fake_wait_released(struct fake_daemon *fake, unsigned count)
{
	unsigned bad;

	pthread_mutex_lock(&fake->lock);
	while (fake->released_bad + fake->released_good < count)
		pthread_cond_wait(&fake->changed, &fake->lock);
	bad = fake->released_bad;
	assert(bad + fake->released_good == count);
	pthread_mutex_unlock(&fake->lock);
	return bad;
}

void fake_reuse_slot(struct fake_daemon *fake, const uint8_t *hash)
{
	int slot;

	pthread_mutex_lock(&fake->lock);
	slot = fake_find(fake, hash);
	assert(slot >= 0);
	slot_header_clear(fake_slot(fake, (unsigned)slot));
	memset(fake_slot(fake, (unsigned)slot) + 1, 0xee, fake->group.payload_bytes);
	fake->slots[slot].generation++;
	fake->slots[slot].is_used = false;
	pthread_mutex_unlock(&fake->lock);
}
