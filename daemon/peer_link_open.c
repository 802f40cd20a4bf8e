/* daemon/peer_link_open.c: a link's begin and end, what it is given at the start, what it shows. */
#include "base/crypto.h"
#include "daemon/peer_link_parts.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARGUMENT_BYTES 320

static_assert(sizeof(struct peer_tls) <= WORKER_PACKET_BYTES_MAX, "packets fit the channel");
static_assert(sizeof(struct peer_setup) <= WORKER_PACKET_BYTES_MAX, "packets fit the channel");

static void on_start(void *owner)
{
	(void)owner; /* the steps send what it is to have; READY follows */
}

void peer_link_setup(struct peer_link *link, const struct peer_hello *hello,
		     const uint8_t (*secrets)[PEER_SECRET_BYTES], unsigned secrets_count)
{
	assert(secrets_count > 0 && secrets_count <= PEER_SECRETS_MAX);
	crypto_wipe(link->setup, sizeof(*link->setup));
	link->setup->packet.kind = PEER_PACKET_SETUP;
	link->setup->hello = *hello;
	link->setup->secrets_count = secrets_count;
	memcpy(link->setup->secrets, secrets, secrets_count * sizeof(secrets[0]));
	link->is_setup_sent = false;
}

void peer_link_tls(struct peer_link *link, const struct peer_tls *files)
{
	assert(link->tls != NULL);
	*link->tls = *files;
	link->tls->packet.kind = PEER_PACKET_TLS;
	link->is_tls_sent = false;
}

void peer_link_arena(struct peer_link *link, uint32_t number, int fd, uint64_t bytes)
{
	assert(number < PEER_ARENAS_MAX && link->arenas[number].bytes == 0 && bytes > 0);
	link->arenas[number] = (struct link_arena){ .fd = fd, .bytes = bytes };
}

struct worker *peer_link_worker(struct peer_link *link)
{
	return link->worker;
}

uint32_t peer_link_changes(const struct peer_link *link)
{
	/* READY may be read before the first beat is seen: only both make it usable. */
	return link->changes * 2 +
	       (link->is_ready && worker_state(link->worker) == WORKER_RUNNING);
}

void peer_link_status(const struct peer_link *link, struct peer_link_status *out_status)
{
	*out_status = (struct peer_link_status){
		.state = worker_state(link->worker),
		.is_ready = link->is_ready && worker_state(link->worker) == WORKER_RUNNING,
		.transfers = link->transfers_count,
		.restarts = worker_restarts(link->worker),
		.pid = worker_pid(link->worker),
	};
	snprintf(out_status->transport, sizeof(out_status->transport), "%s", link->transport);
	snprintf(out_status->reason, sizeof(out_status->reason), "%s", link->reason);
}

void peer_link_session(const struct peer_link *link, uint32_t number,
		       struct peer_link_session *out_session)
{
	const struct link_session *session = &link->sessions[number];

	assert(number < PEER_SESSIONS_MAX);
	*out_session = (struct peer_link_session){ .is_up = session->is_up, .line = session->line };
	snprintf(out_session->transport, sizeof(out_session->transport), "%s", session->transport);
}

static int memory_create(struct peer_link *link, struct error *error)
{
	void *memory;
	int result = crypto_memory_create(&memory, sizeof(*link->setup), error);

	if (result < 0)
		return result;
	link->setup = memory;
	if (!link->config.has_tls)
		return 0;
	result = crypto_memory_create(&memory, sizeof(*link->tls), error);
	if (result == 0)
		link->tls = memory;
	return result;
}

static int worker_make(struct peer_link *link, struct error *error)
{
	const struct peer_link_config *config = &link->config;
	char argument[ARGUMENT_BYTES];
	const struct worker_config worker = {
		.name = "peer",
		.argument = argument,
		.program = config->program,
		.message_bytes = sizeof(struct peer_message),
		.messages_max = PEER_MESSAGES_MAX,
		.stall_us_max = PEER_LINK_STALL_US_MAX,
		.clock = config->clock,
		.on_start = on_start,
		.on_message = peer_link_on_message,
		.on_end = peer_link_on_end,
		.owner = link,
		.lock_fd = config->lock_fd,
		.has_channel = true,
	};

	snprintf(argument, sizeof(argument), "%s\t%s\t%s\t%s", config->listen, config->transport,
		 config->is_encrypted ? "encrypted" : "plain", config->has_tls ? "tls" : "plain");
	return worker_create(&link->worker, &worker, error);
}

int peer_link_create(struct peer_link **out_link, const struct peer_link_config *config,
		     struct error *error)
{
	struct peer_link *link = calloc(1, sizeof(*link));

	if (link == NULL)
		return error_set(error, -ENOMEM, "no memory for the link to the peer process");
	link->config = *config;
	for (uint32_t n = 0; n < PEER_TRANSFERS_MAX; n++)
		link->free[link->free_count++] = PEER_TRANSFERS_MAX - 1 - n;
	int result = memory_create(link, error);
	if (result == 0)
		result = worker_make(link, error);
	if (result < 0) {
		peer_link_destroy(link);
		return result;
	}
	*out_link = link;
	return 0;
}

void peer_link_destroy(struct peer_link *link)
{
	if (link == NULL)
		return;
	worker_destroy(link->worker);
	link->worker = NULL; /* who hears of an end may ask for the next transfer */
	peer_link_all_end(link, "we are stopping");
	crypto_memory_destroy(link->setup, sizeof(*link->setup));
	crypto_memory_destroy(link->tls, sizeof(*link->tls));
	free(link);
}
