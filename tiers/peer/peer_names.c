/* tiers/peer/peer_names.c: see peer_names.h. */
#include "tiers/peer/peer_names.h"

#include "base/list.h"
#include "base/mailbox.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct lookup {
	struct peer_lookup lookup; /* first: what callers have is this */
	struct list_node link;
};

struct peer_names {
	struct mailbox down, up;
	pthread_t thread;
	bool has_thread;
	_Atomic bool is_stopping;
	struct list free;
	struct lookup lookups[PEER_LOOKUPS_MAX];
};

/* "host:port" or "[host]:port" in two; false: it is neither. */
static bool address_split(const char *address, char *host, size_t host_bytes, const char **out_port)
{
	const char *colon = strrchr(address, ':');
	size_t length = colon == NULL ? 0 : (size_t)(colon - address);

	if (length == 0 || colon[1] == '\0' || length >= host_bytes)
		return false;
	*out_port = colon + 1;
	if (address[0] == '[' && length > 2 && address[length - 1] == ']') {
		address++;
		length -= 2;
	}
	snprintf(host, host_bytes, "%.*s", (int)length, address);
	return true;
}

static int look_up(const char *address, int flags, struct addrinfo **out_found)
{
	const struct addrinfo wanted = { .ai_flags = AI_NUMERICSERV | flags,
					 .ai_family = AF_UNSPEC,
					 .ai_socktype = SOCK_STREAM };
	char host[PEER_ADDRESS_TEXT_MAX];
	const char *port;

	if (!address_split(address, host, sizeof(host), &port))
		return EAI_NONAME;
	return getaddrinfo(host, port, &wanted, out_found);
}

static void lookup_do(struct peer_lookup *lookup)
{
	struct addrinfo *found = NULL;
	int result = look_up(lookup->address, 0, &found);

	lookup->count = 0;
	lookup->result = 0;
	for (struct addrinfo *one = found; result == 0 && one != NULL; one = one->ai_next) {
		if (lookup->count == PEER_LOOKUP_ADDRESSES_MAX ||
		    one->ai_addrlen > sizeof(lookup->addresses[0]))
			continue;
		memcpy(&lookup->addresses[lookup->count], one->ai_addr, one->ai_addrlen);
		lookup->bytes[lookup->count++] = one->ai_addrlen;
	}
	if (found != NULL)
		freeaddrinfo(found);
	if (lookup->count > 0)
		return;
	lookup->result = -EHOSTUNREACH;
	snprintf(lookup->reason, sizeof(lookup->reason), "%.80s has no address: %s", lookup->address,
		 result == EAI_SYSTEM ? strerror(errno)
		 : result != 0	      ? gai_strerror(result)
				      : "none was found");
}

static void *names_main(void *owner)
{
	struct peer_names *names = owner;
	struct pollfd waiting = { .fd = mailbox_fd(&names->down), .events = POLLIN };

	while (!atomic_load(&names->is_stopping)) {
		struct lookup *lookup = mailbox_take(&names->down);

		if (lookup != NULL) {
			lookup_do(&lookup->lookup);
			/* As many as there are lookups fit. */
			if (!mailbox_send(&names->up, lookup))
				abort();
			continue;
		}
		if (mailbox_sleep(&names->down))
			(void)poll(&waiting, 1, -1);
		mailbox_awake(&names->down);
	}
	return NULL;
}

static int thread_start(struct peer_names *names, struct error *error)
{
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int result = pthread_create(&names->thread, NULL, names_main, names);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (result != 0)
		return error_set(error, -result, "no thread for names: %s", strerror(result));
	names->has_thread = true;
	return 0;
}

int peer_names_create(struct peer_names **out_names, struct error *error)
{
	struct peer_names *names = calloc(1, sizeof(*names));

	if (names == NULL)
		return error_set(error, -ENOMEM, "no memory for names");
	list_init(&names->free);
	for (unsigned n = 0; n < PEER_LOOKUPS_MAX; n++)
		list_append(&names->free, &names->lookups[n].link);
	int result = mailbox_open(&names->down, PEER_LOOKUPS_MAX, error);
	if (result == 0)
		result = mailbox_open(&names->up, PEER_LOOKUPS_MAX, error);
	if (result == 0)
		result = thread_start(names, error);
	if (result < 0) {
		peer_names_destroy(names);
		return result;
	}
	*out_names = names;
	return 0;
}

void peer_names_destroy(struct peer_names *names)
{
	if (names == NULL)
		return;
	atomic_store(&names->is_stopping, true);
	if (names->has_thread) {
		mailbox_poke(&names->down);
		pthread_join(names->thread, NULL);
	}
	mailbox_close(&names->down);
	mailbox_close(&names->up);
	free(names);
}

bool peer_names_ask(struct peer_names *names, uint32_t session, uint32_t turn, const char *address)
{
	struct list_node *node = list_take_first(&names->free);

	if (node == NULL)
		return false;
	struct lookup *lookup = list_item(node, struct lookup, link);
	lookup->lookup.session = session;
	lookup->lookup.turn = turn;
	snprintf(lookup->lookup.address, sizeof(lookup->lookup.address), "%s", address);
	bool was_sent = mailbox_send(&names->down, lookup);
	assert(was_sent);
	return was_sent;
}

struct peer_lookup *peer_names_take(struct peer_names *names)
{
	return mailbox_take(&names->up);
}

void peer_names_give(struct peer_names *names, struct peer_lookup *lookup)
{
	list_append(&names->free, &((struct lookup *)lookup)->link);
}

int peer_names_fd(const struct peer_names *names)
{
	return mailbox_fd(&names->up);
}

bool peer_names_sleep(struct peer_names *names)
{
	return mailbox_sleep(&names->up);
}

void peer_names_awake(struct peer_names *names)
{
	mailbox_awake(&names->up);
}

bool peer_address_read(const char *address, struct sockaddr_storage *out_address,
		       socklen_t *out_bytes)
{
	struct addrinfo *found = NULL;

	if (look_up(address, AI_NUMERICHOST, &found) != 0 || found == NULL)
		return false;
	memcpy(out_address, found->ai_addr, found->ai_addrlen);
	*out_bytes = found->ai_addrlen;
	freeaddrinfo(found);
	return true;
}

void peer_address_write(const struct sockaddr_storage *address, char *text, size_t bytes)
{
	const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)address;
	const struct sockaddr_in *four = (const struct sockaddr_in *)address;
	char host[INET6_ADDRSTRLEN] = "";

	if (address->ss_family == AF_INET6) {
		(void)!inet_ntop(AF_INET6, &six->sin6_addr, host, sizeof(host));
		snprintf(text, bytes, "[%s]:%u", host, ntohs(six->sin6_port));
		return;
	}
	(void)!inet_ntop(AF_INET, &four->sin_addr, host, sizeof(host));
	snprintf(text, bytes, "%s:%u", host, ntohs(four->sin_port));
}
