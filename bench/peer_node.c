/* bench/peer_node.c: see peer_node.h. */
#include "bench/peer_node.h"

#include "bench/payload.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define UP_SECONDS_MAX 20.0
#define FETCH_US_MAX UINT64_C(20000000)
#define FETCH_BLOCKS_MAX 64u
#define ROUND_TRIPS 201u
#define REQUEST_BYTES 64u

/* One that nobody has now. */
static int port_find(uint16_t *out_port)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t bytes = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), result = -EADDRINUSE;

	if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
	    getsockname(fd, (struct sockaddr *)&address, &bytes) == 0)
		result = 0;
	if (fd >= 0)
		close(fd);
	*out_port = ntohs(address.sin_port);
	return result;
}

static int secret_write(const char *path, struct error *error)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	char line[66];

	memset(line, 'a', 64);
	line[64] = '\n';
	bool is_written = fd >= 0 && write(fd, line, 65) == 65;
	if (fd >= 0)
		close(fd);
	return is_written ? 0 : error_set(error, -EIO, "cannot write %s", path);
}

static int node_start(struct peer_nodes *nodes, unsigned which, const struct micro *micro,
		      const char *transport, uint64_t block_bytes, uint32_t count,
		      struct error *error)
{
	struct micro *own = &nodes->micros[which];
	char secret[256], settings[sizeof(nodes->settings[0])];
	int result;

	own->kvtierd = micro->kvtierd;
	snprintf(own->directory, sizeof(own->directory), "%.180s/%u", micro->directory, which);
	if (mkdir(own->directory, 0700) < 0 && errno != EEXIST)
		return error_set(error, -errno, "cannot make %s", own->directory);
	snprintf(secret, sizeof(secret), "%s/secret", own->directory);
	result = secret_write(secret, error);
	if (result < 0)
		return result;
	snprintf(settings, sizeof(settings),
		 "peer_listen: %s\npeer_secret_file: %.220s\npeer_transport: %s\npeers: [{address: \"%s\"}]\n",
		 nodes->address[which], secret, transport, nodes->address[1 - which]);
	memcpy(nodes->settings[which], settings, sizeof(settings));
	own->settings = nodes->settings[which];
	return micro_node_start(&nodes->nodes[which], own,
				(block_bytes + 8192) * count * 5 / 4 + (UINT64_C(64) << 20), 0,
				block_bytes, error);
}

static void fetch_ask(struct peer_nodes *nodes, const struct kvtier_lookup *lookup, int *out_result,
		      struct kvtier_fetch *out_fetch)
{
	const struct kvtier_source source = { .peer = nodes->address[0] };

	*out_result = kvtier_fetch(nodes->engines[1].client, lookup, &source, FETCH_US_MAX,
				   FETCH_US_MAX, out_fetch);
}

/* Until the second sees what the first has: then a fetch is not about connecting. */
static int up_wait(struct peer_nodes *nodes, struct error *error)
{
	uint8_t hash[1][KVTIER_HASH_BYTES];
	const struct kvtier_keys keys = { .count = 1,
					  .hashes = (const uint8_t(*)[KVTIER_HASH_BYTES])hash };
	const struct kvtier_lookup lookup = { .sections_count = 1, .sections = &keys };
	double until = micro_now() + UP_SECONDS_MAX;

	payload_hash(1, hash[0]);
	while (micro_now() < until) {
		struct kvtier_fetch fetch;
		struct kvtier_found found = { 0 };
		int result;

		fetch_ask(nodes, &lookup, &result, &fetch);
		if (result == 0)
			result = kvtier_fetch_wait(nodes->engines[1].client, &fetch, 1000000,
						   &found);
		(void)kvtier_fetch_end(nodes->engines[1].client, &fetch);
		if (result == 0 && found.usable_tokens > 0)
			return 0;
	}
	return error_set(error, -ETIMEDOUT, "the nodes do not find each other");
}

int peer_nodes_start(struct peer_nodes *nodes, const struct micro *micro, const char *transport,
		     uint64_t block_bytes, uint32_t count, struct error *error)
{
	int result = 0;
	uint16_t port;

	memset(nodes, 0, sizeof(*nodes));
	for (unsigned i = 0; i < 2; i++) {
		if (port_find(&port) < 0)
			return error_set(error, -EADDRINUSE, "no port is free");
		snprintf(nodes->address[i], sizeof(nodes->address[i]), "127.0.0.1:%u", port);
	}
	for (unsigned i = 0; i < 2 && result == 0; i++)
		result = node_start(nodes, i, micro, transport, block_bytes, count, error);
	for (unsigned i = 0; i < 2 && result == 0; i++)
		result = micro_engine_open(&nodes->engines[i], &nodes->nodes[i], FETCH_BLOCKS_MAX,
					   error);
	/* Engine blocks are few: each part is stored before its memory is another's. */
	for (uint32_t done = 0; done < count && result == 0; done += FETCH_BLOCKS_MAX) {
		for (unsigned i = 0; i < FETCH_BLOCKS_MAX; i++)
			payload_fill(nodes->engines[0].memory +
					     (done + i + 1) % FETCH_BLOCKS_MAX * block_bytes,
				     block_bytes, done + i + 1, 0, 0);
		if (micro_engine_move(&nodes->engines[0], true, done + 1, FETCH_BLOCKS_MAX) !=
		    FETCH_BLOCKS_MAX)
			result = error_set(error, -EIO, "blocks could not be stored");
	}
	nodes->next = 2;
	nodes->stored = count;
	return result == 0 ? up_wait(nodes, error) : result;
}

void peer_nodes_stop(struct peer_nodes *nodes)
{
	for (unsigned i = 0; i < 2; i++) {
		if (nodes->engines[i].client != NULL)
			micro_engine_close(&nodes->engines[i]);
		micro_node_stop(&nodes->nodes[i]);
	}
}

int peer_nodes_fetch(struct peer_nodes *nodes, uint32_t count, double *out_seconds,
		     struct error *error)
{
	static uint8_t hashes[FETCH_BLOCKS_MAX][KVTIER_HASH_BYTES];
	struct micro_engine *engine = &nodes->engines[1];
	struct kvtier_keys keys = { .count = count,
				    .hashes = (const uint8_t(*)[KVTIER_HASH_BYTES])hashes };
	const struct kvtier_lookup lookup = { .sections_count = 1, .sections = &keys };
	struct kvtier_fetch fetch;
	int result;

	if (nodes->next + count - 1 > nodes->stored || count > FETCH_BLOCKS_MAX)
		return error_set(error, -ENOENT, "no blocks are left to be fetched");
	keys.first_position = (uint32_t)((nodes->next - 1) % FETCH_BLOCKS_MAX);
	for (uint32_t i = 0; i < count; i++)
		payload_hash(nodes->next + i, hashes[i]);
	double began = micro_now();
	fetch_ask(nodes, &lookup, &result, &fetch);
	int64_t good = result < 0 ? result
				  : micro_engine_move(engine, false, nodes->next, count);
	*out_seconds = micro_now() - began;
	if (result == 0)
		(void)kvtier_fetch_end(engine->client, &fetch);
	if (good != (int64_t)count)
		return error_set(error, good < 0 ? (int)good : -EIO,
				 "%lld of %u blocks came from the other node", (long long)good,
				 count);
	for (uint32_t i = 0; i < count; i++)
		if (!payload_is_right(engine->memory + (nodes->next + i) % engine->blocks *
							       engine->block_bytes,
				      engine->block_bytes, nodes->next + i, 0, 0))
			return error_set(error, -EILSEQ, "a wrong block came");
	nodes->next += count;
	return 0;
}

/* ---- plain sockets ---- */

static void answers_give(int fd, uint32_t bytes)
{
	uint8_t request[REQUEST_BYTES], *answer = calloc(1, bytes);

	while (answer != NULL && recv(fd, request, sizeof(request), MSG_WAITALL) == REQUEST_BYTES)
		for (uint32_t done = 0; done < bytes;) {
			ssize_t sent = send(fd, answer + done, bytes - done, MSG_NOSIGNAL);

			if (sent <= 0)
				_exit(1);
			done += (uint32_t)sent;
		}
	_exit(0);
}

static int trips_take(int fd, uint32_t bytes, double *out_us)
{
	static double samples[ROUND_TRIPS];
	uint8_t request[REQUEST_BYTES] = { 0 }, *answer = malloc(bytes);
	unsigned count = 0;

	for (; answer != NULL && count < ROUND_TRIPS; count++) {
		double began = micro_now();

		if (send(fd, request, sizeof(request), MSG_NOSIGNAL) != REQUEST_BYTES ||
		    recv(fd, answer, bytes, MSG_WAITALL) != (ssize_t)bytes)
			break;
		samples[count] = (micro_now() - began) * 1e6;
	}
	free(answer);
	*out_us = count > 0 ? measure_median(samples, count) : 0;
	return count == ROUND_TRIPS ? 0 : -EIO;
}

int peer_raw_round_trip(uint32_t bytes, double *out_us, struct error *error)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t address_bytes = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1, result = -EIO;

	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(listener, 1) < 0 ||
	    getsockname(listener, (struct sockaddr *)&address, &address_bytes) < 0)
		return error_set(error, -errno, "no socket on loopback");
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		int fd = accept(listener, NULL, NULL);

		close(listener);
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		answers_give(fd, bytes);
	}
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0) {
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		result = trips_take(fd, bytes, out_us);
	}
	if (fd >= 0)
		close(fd);
	close(listener);
	if (pid > 0)
		waitpid(pid, NULL, 0);
	return result < 0 ? error_set(error, result, "no round trip over loopback") : 0;
}
