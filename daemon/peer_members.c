/* daemon/peer_members.c: see peer_members.h. */
#include "daemon/peer_members.h"

#include "base/log.h"
#include "base/random.h"
#include "daemon/peer_files.h"
#include "daemon/peer_link.h"
#include "daemon/peer_process.h"
#include "daemon/peers.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_LOOK_US UINT64_C(1000000)
#define MISSES_MAX 2u
#define WORDS_BYTES 160u

/* One of both: what it said last, and how it went. */
struct source {
	enum peer_source source;
	uint64_t next_us, looks, failures;
	unsigned found_count;
	char reason[WORDS_BYTES]; /* why the last look failed; "" */
	/* By the peer's number: looks since the last one that found it, and that one. */
	uint8_t misses[PEER_SESSIONS_MAX];
};

struct peer_members {
	struct daemon *daemon;
	struct source file, name;
	bool is_reading, is_resolving;
	struct mill_op mill;
	struct peer_list list;     /* the mill's while is_reading */
	struct error list_error;
};

/* ---- what a look found ---- */

static void source_failed(struct source *source, const char *what, const char *reason)
{
	char quoted[2 * WORDS_BYTES];

	source->failures++;
	if (strncmp(source->reason, reason, sizeof(source->reason) - 1) != 0)
		log_line(LOG_WARNING, "peers_not_found", "by=%s reason=%s", what,
			 log_quote(quoted, sizeof(quoted), reason));
	snprintf(source->reason, sizeof(source->reason), "%s", reason);
}

static bool is_ours(const struct peers *peers, const char *address)
{
	return strcmp(address, peers->self.address) == 0 ||
	       strcmp(address, peers->itself) == 0;
}

static void source_want(struct peer_members *members, struct source *source, const char *address)
{
	struct daemon *daemon = members->daemon;

	if (is_ours(daemon->peers, address))
		return;
	struct peer *peer = peers_want(daemon, address, source->source);
	if (peer == NULL) {
		log_line(LOG_WARNING, "peer_not_wanted", "peer=%s reason=\"there are too many\"",
			 address);
		return;
	}
	source->misses[peer->session] = 0;
	source->found_count++;
}

/* Those that it named before, and does not now. */
static void source_settle(struct peer_members *members, struct source *source)
{
	for (unsigned i = 0; i < PEER_SESSIONS_MAX; i++) {
		struct peer *peer = &members->daemon->peers->peers[i];

		if (!peer->is_used || (peer->wanted_by & source->source) == 0 ||
		    source->misses[i]++ < MISSES_MAX)
			continue;
		peers_unwant(peer, source->source);
	}
}

/* `text`: an address a line. */
static void source_take(struct peer_members *members, struct source *source, const char *text)
{
	source->looks++;
	source->found_count = 0;
	source->reason[0] = '\0';
	while (*text != '\0') {
		size_t length = strcspn(text, "\n");
		char address[PEER_ADDRESS_TEXT_BYTES];

		if (length > 0 && length < sizeof(address)) {
			memcpy(address, text, length);
			address[length] = '\0';
			source_want(members, source, address);
		}
		text += length + (text[length] == '\n');
	}
	source_settle(members, source);
}

/* ---- a file ---- */

static void file_work(struct mill_op *op)
{
	struct peer_members *members = list_item(op, struct peer_members, mill);

	op->result = peer_list_read(&members->list, members->daemon->settings.peers_file,
				    &members->list_error);
}

static void file_done(struct mill_op *op)
{
	struct peer_members *members = list_item(op, struct peer_members, mill);

	members->is_reading = false;
	if (op->result < 0)
		source_failed(&members->file, "file", members->list_error.text);
	else
		source_take(members, &members->file, members->list.text);
}

/* ---- a name ---- */

void peer_members_resolved(struct peer_members *members, int result, const char *text)
{
	if (members == NULL || !members->is_resolving)
		return;
	members->is_resolving = false;
	if (result < 0)
		source_failed(&members->name, "dns", text);
	else
		source_take(members, &members->name, text);
}

/* ---- the pass ---- */

/* A fifth less or more, so that nodes do not ask all at once. */
static uint64_t soon_us(struct peer_members *members, uint64_t interval_us)
{
	return members->daemon->now_us + interval_us * 4 / 5 +
	       random_below(&members->daemon->random, interval_us * 2 / 5 + 1);
}

bool peer_members_step(struct peer_members *members)
{
	if (members == NULL)
		return false;
	struct daemon *daemon = members->daemon;
	const struct settings *settings = &daemon->settings;

	if (daemon->phase == DAEMON_DRAINING)
		return false;
	if (settings->peers_file[0] != '\0' && !members->is_reading &&
	    daemon->now_us >= members->file.next_us) {
		members->is_reading = mills_submit(&daemon->mills, &members->mill);
		members->file.next_us = soon_us(members, FILE_LOOK_US);
	}
	if (settings->peers_dns[0] != '\0' && !members->is_resolving &&
	    daemon->now_us >= members->name.next_us) {
		members->is_resolving = peer_process_resolve(daemon, settings->peers_dns) == 0;
		members->name.next_us = soon_us(members, settings->peers_dns_interval_us);
	}
	return false;
}

/* ---- begin, end, for people ---- */

int peer_members_create(struct daemon *daemon, struct peer_members **out_members,
			struct error *error)
{
	*out_members = NULL;
	if (daemon->settings.peers_file[0] == '\0' && daemon->settings.peers_dns[0] == '\0')
		return 0;
	struct peer_members *members = calloc(1, sizeof(*members));
	if (members == NULL)
		return error_set(error, -ENOMEM, "no memory for a list of nodes");
	members->daemon = daemon;
	members->file.source = PEER_BY_FILE;
	members->name.source = PEER_BY_DNS;
	members->mill.work = file_work;
	members->mill.done = file_done;
	*out_members = members;
	return 0;
}

void peer_members_destroy(struct peer_members *members)
{
	free(members);
}

static void source_write(const struct source *source, const char *name, const char *where,
			 struct json_text *json)
{
	if (where[0] == '\0')
		return;
	json_text_object_begin(json, name);
	json_text_string(json, "from", where);
	json_text_unsigned(json, "found", source->found_count);
	json_text_unsigned(json, "looks", source->looks);
	json_text_unsigned(json, "failures", source->failures);
	json_text_string(json, "reason", source->reason);
	json_text_object_end(json);
}

void peer_members_write(const struct peer_members *members, struct json_text *json)
{
	if (members == NULL)
		return;
	source_write(&members->file, "by_file", members->daemon->settings.peers_file, json);
	source_write(&members->name, "by_dns", members->daemon->settings.peers_dns, json);
}
