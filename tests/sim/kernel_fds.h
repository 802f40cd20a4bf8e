/* tests/sim/kernel_fds.h: what descriptors stand for; shared by kernel_*.c. */
#ifndef KVTIER_TESTS_SIM_KERNEL_FDS_H
#define KVTIER_TESTS_SIM_KERNEL_FDS_H

#include "tests/sim/kernel.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/epoll.h>

#define EPOLL_WATCHES_MAX 128u
#define BACKLOG_MAX 64u
#define RING_BYTES (1u << 18)
#define SOCKET_PATH_BYTES 108u

enum object_kind {
	OBJECT_EVENT,
	OBJECT_TIMER,
	OBJECT_EPOLL,
	OBJECT_SOCKET,
	OBJECT_FILE,
	OBJECT_FOLDER,
	OBJECT_PROCESS /* a pidfd */
};

struct file;

/* An open description: descriptors of several processes may share it. */
struct object {
	enum object_kind kind;
	unsigned refs;
	union {
		uint64_t count; /* EVENT; PROCESS: 1: it has ended */
		uint64_t at_us; /* TIMER; 0: not armed */
		struct epoll *epoll;
		struct sock *sock;
		struct file *file; /* FILE */
		char path[128];    /* FOLDER */
	};
	bool has_lock;     /* FILE */
	uint64_t position; /* FILE: where read() goes on */
};

struct epoll {
	unsigned count;
	struct watch {
		int fd;
		uint32_t events;
		uint64_t data;
	} watches[EPOLL_WATCHES_MAX];
};

/* SOCK_SEQPACKET, SOCK_STREAM, or one that listens. */
struct sock {
	bool is_listening, is_open;
	bool is_stream, is_nonblocking;
	bool has_ended; /* the peer sends no more (shutdown) */
	in_addr_t from; /* whose it is, by TCP */
	char path[SOCKET_PATH_BYTES];
	unsigned backlog, waiting_count;
	struct sock *waiting[BACKLOG_MAX]; /* connected, not yet accepted */
	struct sock *peer;                 /* NULL: closed */
	bool was_reset;                    /* the peer closed and left something unread */
	uint64_t receive_us, send_us;      /* time-outs; 0: none */
	/* A stream's bytes, or packets that came: [bytes 4][descriptors 4][objects][bytes]. */
	uint8_t *ring;
	uint32_t head, used;
	unsigned refs; /* object, and the peer's waiting list */
};

/* How much the process has open. */
unsigned fds_count_of(const struct process *process);
unsigned mappings_count_of(const struct process *process);
/* A new descriptor of the running process for `object`, whose reference it takes over. */
int fd_open(struct object *object);
struct object *object_create(enum object_kind kind);
void object_release(struct object *object);
/* NULL, with errno: not a descriptor of that kind. */
struct object *object_of(int fd, enum object_kind kind);
struct object *object_at(int fd);

short sock_events(const struct sock *sock);
void sock_put(struct sock *sock, const void *source, size_t bytes);
void sock_take(struct sock *sock, void *target, size_t bytes);
void sock_close(struct sock *sock);
void file_close(struct object *object);
ssize_t file_read(struct object *object, void *target, size_t bytes);
void mappings_end_of(struct process *process);

/* ---- kernel_streams.c ---- */

/* A path, or a port of TCP, as a name of SOCKET_PATH_BYTES. */
void address_name(const struct sockaddr *address, char *name);
void stream_connected(struct sock *sock);
void stream_accepted(const struct sock *listener, const struct sock *sock,
		     struct sockaddr *out_address, socklen_t *bytes);
ssize_t stream_send(struct sock *sock, const void *source, size_t bytes);
ssize_t stream_receive(struct sock *sock, void *target, size_t bytes);

static inline int fail(int code)
{
	errno = code;
	return -1;
}

#endif
