/* daemon/peer_process.c: see peer_process.h. */
#include "daemon/peer_process.h"

#include "base/crypto.h"
#include "base/log.h"
#include "daemon/fetch.h"
#include "daemon/grant.h"
#include "daemon/peer_files.h"
#include "daemon/peer_link.h"
#include "daemon/peer_members.h"
#include "daemon/peers.h"
#include "daemon/server.h"
#include "daemon/tickets.h"
#include "proto/json_text.h"
#include "transfer/peer/channel.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STEP_US 1000u /* beats and deaths can wait so long; answers wake the loop */
#define WRITTEN_BYTES_MAX 16384u /* of the status, for nodes; those behind it are counted */

struct peer_process {
	struct peer_link *link;
	struct peer_members *members; /* NULL: only those of the settings */
	uint64_t stepped_us;
	bool is_busy;
	struct peer_hello hello;      /* ours */
	/* Memory for keys: in force, and read again. */
	struct peer_secrets *secrets;
	struct peer_tls *tls; /* NULL: none */
	/* As far as it was logged. */
	uint32_t changes;
	bool was_ready;
	char reason[WORKER_REASON_BYTES];
};

_Static_assert(SETTINGS_TENANTS_MAX <= PEER_ARENAS_MAX, "each tenant's arena has a number");
_Static_assert(SETTINGS_PEERS_MAX <= PEER_SESSIONS_ASKED, "each node of the setting has a session");

/* ---- start and end ---- */

static void secrets_put_in_force(struct peer_process *process)
{
	peer_link_setup(process->link, &process->hello,
			(const uint8_t (*)[PEER_SECRET_BYTES])process->secrets[0].keys,
			process->secrets[0].count);
}

static void resolved(void *owner, int result, const char *text)
{
	struct daemon *daemon = owner;

	peer_members_resolved(daemon->peer_process->members, result, text);
}

int peer_process_resolve(struct daemon *daemon, const char *name)
{
	return peer_link_resolve(daemon->peer_process->link, name);
}

static int setup(struct daemon *daemon, struct error *error)
{
	const struct settings *settings = &daemon->settings;
	struct peer_process *process = daemon->peer_process;
	struct peer_hello *hello = &process->hello;
	void *memory;
	int result = crypto_memory_create(&memory, 2 * sizeof(struct peer_secrets), error);

	if (result < 0)
		return result;
	process->secrets = memory;
	result = peer_node_id(settings->state_directory, hello->node, error);
	if (result == 0)
		result = peer_secrets_read(&process->secrets[0], settings->peer_secret_file, error);
	if (result < 0)
		return result;
	if (gethostname(hello->name, sizeof(hello->name) - 1) < 0)
		snprintf(hello->name, sizeof(hello->name), "unknown");
	snprintf(hello->release, sizeof(hello->release), "%s", KVTIER_VERSION);
	hello->boot_id = daemon->boot_id;
	if (strcmp(settings->peer_encryption, "on") == 0)
		hello->features |= PEER_FEATURE_ENCRYPT;
	secrets_put_in_force(process);
	return 0;
}

/* On a mill, too. What OpenSSL does not take is refused here. */
static int tls_read(const struct settings *settings, struct peer_tls *files, struct error *error)
{
	struct channel_tls *tls = NULL;

	crypto_wipe(files, sizeof(*files));   /* so that the same files are the same bytes */
	int result = peer_pem_read(settings->peer_tls_ca, false, files->ca, error);
	if (result == 0)
		result = peer_pem_read(settings->peer_tls_certificate, false, files->certificate,
				       error);
	if (result == 0)
		result = peer_pem_read(settings->peer_tls_key, true, files->key, error);
	snprintf(files->name, sizeof(files->name), "%s", settings->peer_tls_name);
	if (result == 0)
		result = channel_tls_create(&tls, files->ca, files->certificate, files->key, error);
	channel_tls_destroy(tls);
	return result;
}

static int tls_setup(struct daemon *daemon, struct error *error)
{
	struct peer_process *process = daemon->peer_process;
	void *memory;
	int result;

	if (daemon->settings.peer_tls_key[0] == '\0')
		return 0;
	result = crypto_memory_create(&memory, 2 * sizeof(struct peer_tls), error);
	if (result < 0)
		return result;
	process->tls = memory;
	result = tls_read(&daemon->settings, &process->tls[0], error);
	if (result == 0)
		peer_link_tls(process->link, &process->tls[0]);
	return result;
}

int peer_process_create(struct daemon *daemon, struct error *error)
{
	const struct settings *settings = &daemon->settings;
	const struct peer_link_config config = {
		.listen = settings->peer_listen,
		.transport = settings->peer_transport,
		.is_encrypted = strcmp(settings->peer_encryption, "on") == 0,
		.has_tls = settings->peer_tls_key[0] != '\0',
		.clock = daemon->clock,
		.lock_fd = daemon->lock_fd,
		.events = &peer_events,
		.resolved = resolved,
		.owner = daemon,
	};

	if (settings->peer_listen[0] == '\0')
		return 0;
	daemon->peer_process = calloc(1, sizeof(*daemon->peer_process));
	if (daemon->peer_process == NULL)
		return error_set(error, -ENOMEM, "no memory for other nodes");
	int result = peer_link_create(&daemon->peer_process->link, &config, error);
	if (result == 0)
		result = tls_setup(daemon, error);
	return result == 0 ? setup(daemon, error) : result;
}

bool peer_process_is_on(const struct daemon *daemon)
{
	return daemon->peer_process != NULL;
}

const struct peer_ops *peer_process_ops(const struct daemon *daemon)
{
	return daemon->peer_process == NULL ? NULL : &peer_ops_link;
}

void *peer_process_room(const struct daemon *daemon)
{
	return daemon->peer_process == NULL ? NULL : daemon->peer_process->link;
}

/* peer_listen, where it says at which address. */
static bool listen_is_an_address(const char *listen)
{
	return strncmp(listen, "0.0.0.0:", 8) != 0 && strncmp(listen, "[::]:", 5) != 0 &&
	       strcmp(strrchr(listen, ':'), ":0") != 0;
}

static void self_say(struct daemon *daemon)
{
	const struct settings *settings = &daemon->settings;
	struct peer_self *self = &daemon->peers->self;

	memcpy(self->node, daemon->peer_process->hello.node, sizeof(self->node));
	self->secrets = &daemon->peer_process->secrets[0];
	self->gives_for_tickets_only = strcmp(settings->peer_gives, "tickets") == 0;
	if (settings->peer_address[0] != '\0')
		snprintf(self->address, sizeof(self->address), "%s", settings->peer_address);
	else if (listen_is_an_address(settings->peer_listen))
		snprintf(self->address, sizeof(self->address), "%s", settings->peer_listen);
}

int peer_process_open(struct daemon *daemon, struct error *error)
{
	struct peer_process *process = daemon->peer_process;

	if (process == NULL)
		return 0;
	self_say(daemon);
	for (unsigned i = 0; i < daemon->tenants_count; i++)
		peer_link_arena(process->link, i, daemon->tenants[i].arena.fd,
				ARENA_HEAD_BYTES + daemon->tenants[i].arena.bytes);
	for (uint32_t i = 0; i < daemon->settings.peers_count; i++)
		if (peers_want(daemon, daemon->settings.peers[i].address, PEER_BY_SETTING) == NULL)
			return error_set(error, -EINVAL, "peers.%u.address: %s cannot be connected",
					 i, daemon->settings.peers[i].address);
	int result = peer_members_create(daemon, &process->members, error);
	if (result < 0)
		return result;
	return server_watch(daemon->server, worker_fd(peer_link_worker(process->link)), error);
}

void peer_process_destroy(struct daemon *daemon)
{
	if (daemon->peer_process == NULL)
		return;
	peer_link_destroy(daemon->peer_process->link);
	peer_members_destroy(daemon->peer_process->members);
	crypto_memory_destroy(daemon->peer_process->secrets, 2 * sizeof(struct peer_secrets));
	crypto_memory_destroy(daemon->peer_process->tls, 2 * sizeof(struct peer_tls));
	free(daemon->peer_process);
	daemon->peer_process = NULL;
}

/* ---- a reload ---- */

int peer_process_read(struct daemon *daemon, struct error *error)
{
	struct error reason;
	int result;

	if (daemon->peer_process == NULL)
		return 0;
	result = peer_secrets_read(&daemon->peer_process->secrets[1],
				   daemon->settings.peer_secret_file, &reason);
	if (result < 0)
		return error_set(error, result, "peer_secret_file: %s", reason.text);
	return daemon->peer_process->tls == NULL
		       ? 0
		       : tls_read(&daemon->settings, &daemon->peer_process->tls[1], error);
}

static unsigned change_note(struct settings_change *changes, unsigned changes_max, unsigned count,
			    const char *key, const char *from, const char *to)
{
	if (count >= changes_max)
		return 1;
	changes[count] = (struct settings_change){ .is_reloadable = true };
	snprintf(changes[count].key, sizeof(changes[count].key), "%s", key);
	snprintf(changes[count].from, sizeof(changes[count].from), "%s", from);
	snprintf(changes[count].to, sizeof(changes[count].to), "%s", to);
	return 1;
}

unsigned peer_process_take(struct daemon *daemon, struct settings_change *changes,
			   unsigned changes_max)
{
	struct peer_process *process = daemon->peer_process;
	char from[16], to[32];
	unsigned count = 0;

	if (process == NULL)
		return 0;
	if (memcmp(&process->secrets[0], &process->secrets[1], sizeof(process->secrets[0])) != 0) {
		snprintf(from, sizeof(from), "%u", process->secrets[0].count);
		snprintf(to, sizeof(to), "%u others", process->secrets[1].count);
		count += change_note(changes, changes_max, count, "peer_secrets", from, to);
		process->secrets[0] = process->secrets[1];
		secrets_put_in_force(process);
	}
	if (process->tls != NULL &&
	    memcmp(&process->tls[0], &process->tls[1], sizeof(process->tls[0])) != 0) {
		count += change_note(changes, changes_max, count, "peer_tls_files", "those before",
				     "others");
		process->tls[0] = process->tls[1];
		peer_link_tls(process->link, &process->tls[0]);
	}
	return count;
}

/* ---- the pass ---- */

static void changes_log(struct peer_process *process, const struct daemon *daemon)
{
	struct peer_link_status status;
	char quoted[2 * PEER_TEXT_BYTES];

	process->changes = peer_link_changes(process->link);
	peer_link_status(process->link, &status);
	if (status.is_ready && !process->was_ready)
		log_line(LOG_INFO, "peers_open", "listen=%s transport=%s pid=%d restarts=%u",
			 daemon->settings.peer_listen,
			 log_quote(quoted, sizeof(quoted), status.transport), (int)status.pid,
			 status.restarts);
	/* An end without a new reason is one that was not open in between. */
	if (status.reason[0] != '\0' && (strcmp(status.reason, process->reason) != 0 ||
					 (process->was_ready && !status.is_ready)))
		log_line(LOG_WARNING, "peers_failed", "listen=%s restarts=%u reason=%s",
			 daemon->settings.peer_listen, status.restarts,
			 log_quote(quoted, sizeof(quoted), status.reason));
	process->was_ready = status.is_ready;
	snprintf(process->reason, sizeof(process->reason), "%s", status.reason);
}

bool peer_process_step(struct daemon *daemon)
{
	struct peer_process *process = daemon->peer_process;

	if (process == NULL)
		return false;
	if (!process->is_busy && !server_has_fired(daemon) &&
	    daemon->now_us - process->stepped_us < STEP_US)
		return false;
	process->stepped_us = daemon->now_us;
	(void)peer_members_step(process->members);
	process->is_busy = peer_link_step(process->link, daemon->now_us);
	if (process->changes != peer_link_changes(process->link))
		changes_log(process, daemon);
	return process->is_busy;
}

bool peer_process_sleep(struct daemon *daemon)
{
	return daemon->peer_process == NULL ||
	       worker_sleep(peer_link_worker(daemon->peer_process->link));
}

void peer_process_awake(struct daemon *daemon)
{
	if (daemon->peer_process != NULL)
		worker_awake(peer_link_worker(daemon->peer_process->link));
}

/* ---- for people ---- */

static void node_write(const struct daemon *daemon, const struct peer *peer, struct json_text *json)
{
	struct peer_link_session shown;

	peer_link_session(daemon->peer_process->link, peer->session, &shown);
	json_text_object_begin(json, NULL);
	json_text_string(json, "name", peer->hello.name);
	json_text_hex(json, "node", peer->hello.node, sizeof(peer->hello.node));
	json_text_string(json, "address", peer->address);
	json_text_string(json, "connected_by", peer->is_asked ? "us" : "them");
	json_text_string(json, "release", peer->hello.release);
	json_text_string(json, "state", peer->is_up ? "up" : "down");
	json_text_string(json, "reason", peer->reason);
	json_text_string(json, "transport", shown.transport);
	json_text_unsigned(json, "round_trip_us", peer->is_up ? shown.line.round_trip_us : 0);
	json_text_unsigned(json, "since_us", daemon->now_us - peer->since_us);
	json_text_unsigned(json, "ups", peer->ups);
	json_text_unsigned(json, "sent_bytes", shown.line.sent_bytes);
	json_text_unsigned(json, "received_bytes", shown.line.placed_bytes);
	json_text_unsigned(json, "fetched_blocks", peer->fetched_blocks);
	json_text_unsigned(json, "sent_blocks", peer->sent_blocks);
	json_text_object_end(json);
}

/* Those that are up, or the others; how many there was no room for. */
static unsigned nodes_write(const struct daemon *daemon, bool are_up, size_t bytes_max,
			    struct json_text *json)
{
	unsigned left_out = 0;

	for (unsigned n = 0; n < PEER_SESSIONS_MAX; n++) {
		const struct peer *peer = &daemon->peers->peers[n];

		if (!peer->is_used || peer->is_up != are_up)
			continue;
		if (json->bytes < bytes_max)
			node_write(daemon, peer, json);
		else
			left_out++;
	}
	return left_out;
}

static const char *state_of(const struct peer_link_status *status)
{
	if (status->is_ready)
		return "ready";
	return status->state == WORKER_WAITING || status->state == WORKER_ENDING ? "waiting"
										  : "opening";
}

void peer_process_write(const struct daemon *daemon, struct json_text *json)
{
	const struct peer_process *process = daemon->peer_process;
	struct peer_link_status status;
	size_t bytes_max = json->bytes + WRITTEN_BYTES_MAX;
	unsigned left_out;

	if (process == NULL)
		return;
	peer_link_status(process->link, &status);
	json_text_object_begin(json, "peers");
	json_text_string(json, "name", process->hello.name);
	json_text_hex(json, "node", process->hello.node, sizeof(process->hello.node));
	json_text_string(json, "listen", daemon->settings.peer_listen);
	json_text_string(json, "address", daemon->peers->self.address);
	json_text_string(json, "gives", daemon->settings.peer_gives);
	json_text_unsigned(json, "fetches_open", fetches_count(daemon->peers));
	json_text_unsigned(json, "grants_open", grants_count(daemon->peers));
	json_text_unsigned(json, "tickets_open", tickets_count(daemon->peers));
	json_text_unsigned(json, "tickets_issued", daemon->peers->tickets_issued);
	json_text_unsigned(json, "tickets_redeemed", daemon->peers->tickets_redeemed);
	json_text_unsigned(json, "tickets_refused", daemon->peers->tickets_refused);
	json_text_string(json, "state", state_of(&status));
	json_text_string(json, "reason", status.reason);
	json_text_string(json, "transport", status.transport);
	json_text_bool(json, "encryption", strcmp(daemon->settings.peer_encryption, "on") == 0);
	json_text_bool(json, "tls", daemon->settings.peer_tls_key[0] != '\0');
	json_text_unsigned(json, "pid", (uint64_t)status.pid);
	json_text_unsigned(json, "restarts", status.restarts);
	json_text_unsigned(json, "transfers_under_way", status.transfers);
	peer_members_write(process->members, json);
	json_text_array_begin(json, "nodes");
	left_out = nodes_write(daemon, true, bytes_max, json);
	left_out += nodes_write(daemon, false, bytes_max, json);
	json_text_array_end(json);
	json_text_unsigned(json, "nodes_left_out", left_out);
	json_text_object_end(json);
}
