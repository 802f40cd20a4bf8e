/* daemon/stats.c: the status as JSON, for `kvtier status`. */
#include "daemon/admin.h"
#include "daemon/encryption.h"
#include "daemon/gpus.h"
#include "daemon/node_inventory.h"
#include "daemon/peer_process.h"
#include "daemon/mover.h"
#include "daemon/probe.h"
#include "daemon/purge.h"
#include "daemon/reload.h"
#include "daemon/restore.h"
#include "daemon/scrub.h"
#include "daemon/server.h"
#include "base/numa.h"
#include "proto/json_text.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#define STATS_SPACES_MAX 256u   /* listed; the rest is there all the same */
/* Lists stop here: a row of any still fits, and what follows the lists. */
#define STATS_BYTES_ENOUGH (FRAME_TEXT_BYTES_MAX - 2048u)

static const char *const tier_names[TIERS] = { "cpu", "nvme" };
static const char *const state_names[SLOT_STATES] = { "free", "filling", "ready", "leaving", "bad" };
static const char *const bypass_names[FRAME_BYPASS_MODES] = { "off", "on", "observe" };

static void share_write(struct daemon *daemon, const struct tenant *tenant, enum tier_id tier,
			struct json_text *json)
{
	struct cache_share_figures figures;
	uint64_t unit = daemon->settings.extent_bytes;

	cache_share_figures(daemon->cache, tenant->handle, tier, &figures);
	json_text_object_begin(json, tier_names[tier]);
	json_text_unsigned(json, "capacity_bytes", figures.units_max * unit);
	json_text_unsigned(json, "extent_bytes_used", figures.units_used * unit);
	json_text_unsigned(json, "ready_bytes", figures.bytes_ready);
	json_text_unsigned(json, "blocks", figures.copies_whole);
	json_text_unsigned(json, "held_slots", figures.holds);
	json_text_unsigned(json, "evictions", figures.evictions);
	json_text_object_begin(json, "slots");
	for (unsigned state = 0; state < SLOT_STATES; state++)
		json_text_unsigned(json, state_names[state], figures.slots[state]);
	json_text_object_end(json);
	json_text_object_end(json);
}

static void tenant_counters_write(const struct tenant_counters *counters, struct json_text *json)
{
	json_text_object_begin(json, "counters");
	json_text_unsigned(json, "lookups", counters->lookups);
	json_text_unsigned(json, "lookup_hits", counters->lookup_hits);
	json_text_unsigned(json, "lookup_tokens", counters->lookup_tokens);
	json_text_unsigned(json, "usable_tokens", counters->usable_tokens);
	json_text_unsigned(json, "hit_blocks", counters->hit_blocks);
	json_text_unsigned(json, "miss_blocks", counters->miss_blocks);
	json_text_unsigned(json, "loaded_bytes", counters->loaded_bytes);
	json_text_unsigned(json, "stored_blocks", counters->stored_blocks);
	json_text_unsigned(json, "stored_bytes", counters->stored_bytes);
	json_text_object_end(json);
}

/* The newest first: it writes. */
static void keys_write(const struct daemon *daemon, const struct tenant *tenant,
		       struct json_text *json)
{
	const struct keyring *keyring = tenant->keyring;
	unsigned count = keyring == NULL ? 0 : keyring->count;

	json_text_array_begin(json, "keys");
	for (unsigned i = 0; i < count; i++) {
		json_text_object_begin(json, NULL);
		json_text_string(json, "name", keyring->names[i]);
		json_text_unsigned(json, "since_unix_seconds", keyring->since_us[i] / 1000000);
		json_text_object_end(json);
	}
	json_text_array_end(json);
	if (keyring == NULL)
		return;
	json_text_unsigned(json, "keys_read_unix_seconds", daemon->encryption->read_us / 1000000);
	json_text_string(json, "keys_state", encryption_keys_state(daemon));
}

/* Where the tenant's memory lies; nodes that were not asked for are not looked at. */
static void nodes_write(const struct arena_nodes *nodes, struct json_text *json)
{
	char text[NUMA_NODES_BYTES];

	json_text_object_begin(json, "cpu_numa");
	json_text_string(json, "asked", numa_nodes_write(nodes->asked, text));
	json_text_string(json, "found", numa_nodes_write(nodes->found, text));
	json_text_unsigned(json, "near_pages", nodes->near);
	json_text_unsigned(json, "looked_pages", nodes->looked);
	json_text_string(json, "reason", nodes->result < 0 ? numa_strerror(nodes->result) : "");
	json_text_object_end(json);
}

static void tenant_write(struct daemon *daemon, const struct tenant *tenant, struct json_text *json)
{
	json_text_object_begin(json, NULL);
	json_text_string(json, "name", tenant->name);
	json_text_string(json, "bypass", bypass_names[tenant->bypass]);
	json_text_unsigned(json, "leases", cache_leases_count(daemon->cache, tenant->handle));
	json_text_string(json, "encryption", daemon->settings.encryption);
	json_text_string(json, "newest_key", encryption_key_name(tenant));
	keys_write(daemon, tenant, json);
	json_text_unsigned(json, "key_missing_blocks", tenant->key_missing_blocks);
	json_text_unsigned(json, "in_clear_blocks", tenant->in_clear_blocks);
	json_text_object_begin(json, "tiers");
	share_write(daemon, tenant, TIER_CPU, json);
	share_write(daemon, tenant, TIER_NVME, json);
	json_text_object_end(json);
	json_text_string(json, "cpu_pages", tenant->arena.pages);
	nodes_write(&tenant->arena.nodes, json);
	tenant_counters_write(&tenant->counters, json);
	json_text_object_end(json);
}

static void device_write(struct daemon *daemon, unsigned number, struct json_text *json)
{
	const struct daemon_device *device = &daemon->devices[number];
	struct nvme_figures figures;

	nvme_device_figures(device->device, &figures);
	json_text_object_begin(json, NULL);
	json_text_string(json, "path", nvme_device_path(device->device));
	json_text_string(json, "io", nvme_device_io_name(device->device));
	json_text_string(json, "fenced", figures.fence_reason != NULL ? figures.fence_reason : "");
	json_text_unsigned(json, "capacity_bytes", (uint64_t)device->units * daemon->settings.extent_bytes);
	json_text_unsigned(json, "reads", figures.reads);
	json_text_unsigned(json, "writes", figures.writes);
	json_text_unsigned(json, "read_bytes", figures.read_bytes);
	json_text_unsigned(json, "write_bytes", figures.write_bytes);
	json_text_unsigned(json, "read_us", figures.read_us);
	json_text_unsigned(json, "write_us", figures.write_us);
	json_text_unsigned(json, "read_errors", figures.read_errors);
	json_text_unsigned(json, "write_errors", figures.write_errors);
	json_text_unsigned(json, "in_flight", figures.in_flight);
	json_text_object_end(json);
}

/* With the keys of one that serves. */
static void absent_write(const struct device_absent *absent, struct json_text *json)
{
	static const char *const zeros[] = { "capacity_bytes", "reads", "writes", "read_bytes",
					     "write_bytes", "read_us", "write_us", "read_errors",
					     "write_errors", "in_flight" };

	json_text_object_begin(json, NULL);
	json_text_string(json, "path", absent->path);
	json_text_string(json, "io", "");
	json_text_string(json, "fenced", absent->reason);
	for (unsigned i = 0; i < sizeof(zeros) / sizeof(zeros[0]); i++)
		json_text_unsigned(json, zeros[i], 0);
	json_text_object_end(json);
}

static void counters_write(const struct daemon *daemon, struct json_text *json)
{
	const struct counters *counters = &daemon->counters;

	json_text_object_begin(json, "counters");
	json_text_string(json, "unit", "since start");
	json_text_unsigned(json, "lookups", counters->lookups);
	json_text_unsigned(json, "lookup_keys", counters->lookup_keys);
	json_text_unsigned(json, "lookup_tokens", counters->lookup_tokens);
	json_text_unsigned(json, "usable_tokens", counters->usable_tokens);
	json_text_unsigned(json, "hit_blocks_cpu", counters->hit_blocks[TIER_CPU]);
	json_text_unsigned(json, "hit_blocks_nvme", counters->hit_blocks[TIER_NVME]);
	json_text_unsigned(json, "hit_tokens_cpu", counters->hit_tokens[TIER_CPU]);
	json_text_unsigned(json, "hit_tokens_nvme", counters->hit_tokens[TIER_NVME]);
	json_text_unsigned(json, "miss_blocks", counters->miss_blocks);
	json_text_unsigned(json, "stored_blocks", counters->stored_blocks);
	json_text_unsigned(json, "stored_bytes", counters->stored_bytes);
	json_text_unsigned(json, "pulled_stored_blocks", counters->pulled_blocks[COPY_STORE]);
	json_text_unsigned(json, "pulled_stored_bytes", counters->pulled_bytes[COPY_STORE]);
	json_text_unsigned(json, "pulled_loaded_blocks", counters->pulled_blocks[COPY_LOAD]);
	json_text_unsigned(json, "pulled_loaded_bytes", counters->pulled_bytes[COPY_LOAD]);
	json_text_unsigned(json, "present_blocks", counters->present_blocks);
	json_text_unsigned(json, "attached_blocks", counters->attached_blocks);
	json_text_unsigned(json, "refused_parent", counters->refused[CACHE_REFUSED_PARENT]);
	json_text_unsigned(json, "refused_full", counters->refused[CACHE_REFUSED_FULL]);
	json_text_unsigned(json, "refused_size", counters->refused[CACHE_REFUSED_SIZE]);
	json_text_unsigned(json, "refused_bypass", counters->refused_bypass);
	json_text_unsigned(json, "refused_busy", counters->refused_busy);
	json_text_unsigned(json, "store_failures", counters->store_failures);
	json_text_unsigned(json, "down_blocks", counters->down_blocks);
	json_text_unsigned(json, "down_failures", counters->down_failures);
	json_text_unsigned(json, "down_unwanted", counters->down_unwanted);
	json_text_unsigned(json, "down_void", counters->down_void);
	json_text_unsigned(json, "up_blocks", counters->up_blocks);
	json_text_unsigned(json, "up_failures", counters->up_failures);
	json_text_unsigned(json, "stale_entries", counters->stale_entries);
	json_text_unsigned(json, "damaged_cpu", counters->damaged[TIER_CPU]);
	json_text_unsigned(json, "damaged_nvme", counters->damaged[TIER_NVME]);
	json_text_unsigned(json, "cipher_failures", counters->cipher_failures);
	json_text_unsigned(json, "expired_blocks", counters->expired_blocks);
	json_text_unsigned(json, "restored_cpu", counters->restored[TIER_CPU]);
	json_text_unsigned(json, "restored_nvme", counters->restored[TIER_NVME]);
	json_text_unsigned(json, "protocol_errors", counters->protocol_errors);
	json_text_unsigned(json, "forgets", counters->forgets);
	json_text_unsigned(json, "spaces_given_back", counters->spaces_given_back);
	json_text_object_end(json);
}

static void scrub_write(const struct daemon *daemon, struct json_text *json)
{
	struct scrub_figures figures = scrub_figures(daemon);

	json_text_object_begin(json, "scrub");
	json_text_unsigned(json, "passes", figures.passes);
	json_text_unsigned(json, "last_pass_us", figures.pass_us);
	for (unsigned tier = 0; tier < TIERS; tier++) {
		json_text_object_begin(json, tier_names[tier]);
		json_text_unsigned(json, "slots", figures.slots[tier]);
		json_text_unsigned(json, "bytes", figures.bytes[tier]);
		json_text_unsigned(json, "damaged", figures.damaged[tier]);
		json_text_object_end(json);
	}
	json_text_unsigned(json, "given_up", figures.given_up);
	json_text_unsigned(json, "rewritten", figures.rewritten);
	json_text_object_begin(json, "readbacks");
	for (unsigned result = 0; result < READBACK_RESULTS; result++)
		json_text_unsigned(json, readback_result_name(result), figures.readbacks[result]);
	json_text_object_end(json);
	json_text_object_end(json);
}

/* What `kvtier explain` and `kvtier forget` take, also when the engine has left. */
static void spaces_write(struct daemon *daemon, const struct tenant *tenant, struct json_text *json)
{
	unsigned written = 0;

	json_text_array_begin(json, "spaces");
	for (uint32_t space = 0; space < cache_spaces_end(daemon->cache) &&
				 written < STATS_SPACES_MAX && json->bytes < STATS_BYTES_ENOUGH;
	     space++) {
		if (!cache_space_is_known(daemon->cache, space))
			continue;
		const struct tenant *owner =
			daemon_tenant(daemon, cache_space_tenant(daemon->cache, space));

		if (owner == NULL || (tenant != NULL && tenant != owner))
			continue;
		written++;
		json_text_object_begin(json, NULL);
		json_text_hex(json, "space", cache_space_fingerprint(daemon->cache, space),
			      SPACE_ID_BYTES);
		json_text_string(json, "tenant", owner->name);
		json_text_object_end(json);
	}
	json_text_array_end(json);
}

/* Who speaks for the engine: its control connections, one a rank. */
static void peers_write(const struct daemon *daemon, const struct engine *engine,
			struct json_text *json)
{
	const struct session *session = NULL;

	json_text_array_begin(json, "peers");
	while ((session = server_session_after(daemon, session)) != NULL) {
		if (session->engine != engine || session->state != SESSION_REGISTERED ||
		    json->bytes >= STATS_BYTES_ENOUGH)
			continue;
		json_text_object_begin(json, NULL);
		json_text_unsigned(json, "pid", (uint64_t)session->peer.pid);
		json_text_unsigned(json, "uid", session->peer.uid);
		json_text_unsigned(json, "gid", session->peer.gid);
		json_text_unsigned(json, "shard", session->shard);
		json_text_object_end(json);
	}
	json_text_array_end(json);
}

static void engines_write(struct daemon *daemon, const struct tenant *tenant,
			  struct json_text *json)
{
	const struct engine *engine;

	json_text_array_begin(json, "engines");
	for (unsigned i = 0; (engine = server_engine_at(daemon, i)) != NULL; i++) {
		if (engine->tenant == NULL || (tenant != NULL && engine->tenant != tenant) ||
		    json->bytes >= STATS_BYTES_ENOUGH)
			continue;
		json_text_object_begin(json, NULL);
		json_text_string(json, "id", engine->name);
		json_text_string(json, "tenant", engine->tenant->name);
		json_text_hex(json, "space", engine->fingerprint, SPACE_ID_BYTES);
		json_text_unsigned(json, "world", engine->world);
		json_text_unsigned(json, "ranks", (uint64_t)__builtin_popcountll(engine->ranks));
		json_text_unsigned(json, "groups", engine->groups_count);
		peers_write(daemon, engine, json);
		json_text_object_end(json);
	}
	json_text_array_end(json);
}

/* How long the loop worked on each kind of call since the start. */
static void calls_write(const struct daemon *daemon, struct json_text *json)
{
	json_text_object_begin(json, "calls");
	for (unsigned type = FRAME_HELLO; type < CALLS_COUNT; type++) {
		const struct histogram *call = &daemon->call_us[type];

		if (call->count == 0)
			continue;
		json_text_object_begin(json, frame_type_name(type));
		json_text_unsigned(json, "count", call->count);
		json_text_unsigned(json, "p50_us", histogram_quantile(call, 0.5));
		json_text_unsigned(json, "p99_us", histogram_quantile(call, 0.99));
		json_text_unsigned(json, "max_us", call->max);
		json_text_object_end(json);
	}
	json_text_object_end(json);
}

/* What is kept by an operator's wish. */
static void pins_write(struct daemon *daemon, const struct tenant *tenant, struct json_text *json)
{
	uint32_t end = daemon->pins.count > 0 ? cache_spaces_end(daemon->cache) : 0;

	json_text_array_begin(json, "pins");
	for (uint32_t space = 0; space < end && json->bytes < STATS_BYTES_ENOUGH; space++) {
		uint64_t until_us, blocks = 0;
		const struct tenant *owner = NULL;

		if (cache_space_is_known(daemon->cache, space))
			owner = daemon_tenant(daemon, cache_space_tenant(daemon->cache, space));
		if (owner != NULL && (tenant == NULL || tenant == owner))
			blocks = pins_of_space(daemon, space, &until_us);
		if (blocks == 0)
			continue;
		json_text_object_begin(json, NULL);
		json_text_hex(json, "space", cache_space_fingerprint(daemon->cache, space),
			      SPACE_ID_BYTES);
		json_text_string(json, "tenant", owner->name);
		json_text_unsigned(json, "blocks", blocks);
		json_text_unsigned(json, "for_us",
				   until_us > daemon->now_us ? until_us - daemon->now_us : 0);
		json_text_object_end(json);
	}
	json_text_array_end(json);
}

static void changes_write(const struct reload_report *report, const char *name,
			  bool is_reloadable, struct json_text *json)
{
	json_text_array_begin(json, name);
	for (unsigned i = 0; i < report->changes_count && i < RELOAD_CHANGES_MAX; i++) {
		const struct settings_change *change = &report->changes[i];

		if (change->is_reloadable != is_reloadable || json->bytes >= STATS_BYTES_ENOUGH)
			continue;
		json_text_object_begin(json, NULL);
		json_text_string(json, "key", change->key);
		json_text_string(json, "from", change->from);
		json_text_string(json, "to", change->to);
		json_text_object_end(json);
	}
	json_text_array_end(json);
}

/* How the settings were last read again; null: never. */
static void reload_write(const struct daemon *daemon, struct json_text *json)
{
	const struct reload_report *report = reload_last(daemon);

	if (report->wall_us == 0) {
		json_text_string(json, "reload", NULL);
		return;
	}
	json_text_object_begin(json, "reload");
	json_text_unsigned(json, "at_unix_seconds", report->wall_us / 1000000);
	json_text_string(json, "result", report->result == 0 ? "taken" : "refused");
	json_text_string(json, "reason", report->reason.text);
	changes_write(report, "changed", true, json);
	changes_write(report, "needs_restart", false, json);
	json_text_object_end(json);
}

/* What main took from itself, and could not. */
static void sandbox_write(const struct daemon *daemon, struct json_text *json)
{
	const struct sandbox *sandbox = &daemon->sandbox;

	json_text_object_begin(json, "sandbox");
	json_text_string(json, "mode", daemon->settings.sandbox);
	json_text_bool(json, "no_new_privileges", sandbox->no_new_privileges);
	json_text_bool(json, "no_capabilities", sandbox->no_capabilities);
	json_text_bool(json, "seccomp", sandbox->seccomp);
	json_text_unsigned(json, "landlock", sandbox->landlock);
	json_text_string(json, "missing", sandbox->missing);
	json_text_object_end(json);
}

static void node_write(struct daemon *daemon, struct json_text *json)
{
	struct catalog_link_counters catalog;
	const char *unready = daemon_unready_reason(daemon);
	char boot_id[20];

	snprintf(boot_id, sizeof(boot_id), "%016" PRIx64, daemon->boot_id);
	json_text_string(json, "version", KVTIER_VERSION);
	json_text_string(json, "boot_id", boot_id);
	json_text_unsigned(json, "uptime_seconds", (daemon->now_us - daemon->started_us) / 1000000);
	json_text_unsigned(json, "now_us", daemon->now_us);
	json_text_string(json, "state", unready == NULL ? "serving" : unready);
	json_text_string(json, "bypass", bypass_names[daemon->bypass]);
	json_text_string(json, "drain", drain_state_name(daemon->drain.state));
	json_text_string(json, "purge", purge_state_name(daemon));
	json_text_string(json, "restore", restore_phase_name(daemon));
	json_text_unsigned(json, "epoch", daemon->epoch);
	json_text_unsigned(json, "connections", server_sessions_count(daemon));
	json_text_unsigned(json, "moves", mover_moves_count(daemon));
	json_text_unsigned(json, "pending_down", mover_pending_down(daemon));
	json_text_unsigned(json, "index_blocks", cache_entries_count(daemon->cache));
	json_text_unsigned(json, "index_bytes", cache_memory_bytes(daemon->cache));
	json_text_string(json, "catalog",
			 daemon->catalog == NULL ? "none"
						 : catalog_link_state_name(
							   catalog_link_state(daemon->catalog)));
	if (daemon->catalog != NULL) {
		catalog_link_count(daemon->catalog, &catalog);
		json_text_unsigned(json, "catalog_pending", catalog.pending);
	}
}

/* Of the whole node, so for who may see all of it. */
static void parts_write(const struct daemon *daemon, struct json_text *json)
{
	json_text_array_begin(json, "parts");
	for (unsigned i = 0; i < probe_parts_count(daemon); i++) {
		struct probe_figures figures;

		probe_part(daemon, i, &figures);
		json_text_object_begin(json, NULL);
		json_text_string(json, "name", figures.name);
		json_text_string(json, "state", probe_state_name(figures.state));
		json_text_unsigned(json, "took_us", figures.took_us);
		if (figures.took_us > 0)
			json_text_unsigned(json, "age_us", figures.age_us);
		json_text_unsigned(json, "waited_us", figures.waited_us);
		json_text_object_end(json);
	}
	json_text_array_end(json);
}

void stats_write(struct daemon *daemon, const struct tenant *tenant, struct text *text)
{
	static char bytes[FRAME_TEXT_BYTES_MAX + 1]; /* the loop alone */
	struct json_text json;

	json_text_init(&json, bytes, sizeof(bytes));
	json_text_object_begin(&json, NULL);
	node_write(daemon, &json);
	json_text_array_begin(&json, "tenants");
	for (unsigned i = 0; i < daemon->tenants_count; i++)
		if (tenant == NULL || tenant == &daemon->tenants[i])
			tenant_write(daemon, &daemon->tenants[i], &json);
	json_text_array_end(&json);
	json_text_array_begin(&json, "nvme");
	for (unsigned i = 0; i < daemon->devices_count; i++)
		device_write(daemon, i, &json);
	for (unsigned i = 0; i < daemon->absent_count; i++)
		absent_write(&daemon->absent[i], &json);
	json_text_array_end(&json);
	gpus_write(daemon, &json);
	if (tenant == NULL)
		peer_process_write(daemon, &json);
	if (tenant == NULL)
		node_inventory_write(daemon, &json);
	sandbox_write(daemon, &json);
	counters_write(daemon, &json);
	scrub_write(daemon, &json);
	calls_write(daemon, &json);
	if (tenant == NULL)
		parts_write(daemon, &json);
	reload_write(daemon, &json);
	pins_write(daemon, tenant, &json);
	engines_write(daemon, tenant, &json);
	spaces_write(daemon, tenant, &json);
	json_text_object_end(&json);
	assert(json_text_ok(&json));
	text_append(text, bytes, json.bytes);
}
