/* daemon/stats.c: the status as JSON, for `kvtier status`. */
#include "daemon/admin.h"
#include "daemon/mover.h"
#include "daemon/reload.h"
#include "daemon/restore.h"
#include "daemon/scrub.h"
#include "daemon/server.h"

#include <inttypes.h>

#define STATS_SPACES_MAX 256u   /* listed; the rest is there all the same */

static const char *const tier_names[TIERS] = { "cpu", "nvme" };
static const char *const state_names[SLOT_STATES] = { "free", "filling", "ready", "leaving", "bad" };
static const char *const bypass_names[FRAME_BYPASS_MODES] = { "off", "on", "observe" };

/* Names are checked when they are set; paths and reasons may hold anything. */
static void string_write(struct text *text, const char *name, const char *value)
{
	text_printf(text, "\"%s\":\"", name);
	for (; *value != '\0'; value++) {
		unsigned char byte = (unsigned char)*value;

		if (byte == '"' || byte == '\\')
			text_printf(text, "\\%c", byte);
		else if (byte < 0x20 || byte == 0x7f)
			text_printf(text, "\\u%04x", byte);
		else
			text_append(text, value, 1);
	}
	text_add(text, "\"");
}

static void number_write(struct text *text, const char *name, uint64_t value)
{
	text_printf(text, ",\"%s\":%" PRIu64, name, value);
}

static void share_write(struct daemon *daemon, const struct tenant *tenant, enum tier_id tier,
			struct text *text)
{
	struct cache_share_figures figures;
	uint64_t unit = daemon->settings.extent_bytes;

	cache_share_figures(daemon->cache, tenant->handle, tier, &figures);
	text_printf(text, "\"%s\":{\"capacity_bytes\":%" PRIu64, tier_names[tier], figures.units_max * unit);
	number_write(text, "extent_bytes_used", figures.units_used * unit);
	number_write(text, "ready_bytes", figures.bytes_ready);
	number_write(text, "blocks", figures.copies_whole);
	number_write(text, "held_slots", figures.holds);
	number_write(text, "evictions", figures.evictions);
	text_add(text, ",\"slots\":{");
	for (unsigned state = 0; state < SLOT_STATES; state++)
		text_printf(text, "%s\"%s\":%" PRIu64, state > 0 ? "," : "", state_names[state],
			    figures.slots[state]);
	text_add(text, "}}");
}

static void tenant_write(struct daemon *daemon, const struct tenant *tenant, struct text *text)
{
	text_add(text, "{");
	string_write(text, "name", tenant->name);
	text_printf(text, ",\"bypass\":\"%s\"", bypass_names[tenant->bypass]);
	number_write(text, "leases", cache_leases_count(daemon->cache, tenant->handle));
	text_add(text, ",\"tiers\":{");
	share_write(daemon, tenant, TIER_CPU, text);
	text_add(text, ",");
	share_write(daemon, tenant, TIER_NVME, text);
	text_add(text, "},");
	string_write(text, "cpu_pages", tenant->arena.pages);
	text_add(text, "}");
}

static void device_write(struct daemon *daemon, unsigned number, struct text *text)
{
	const struct daemon_device *device = &daemon->devices[number];
	struct nvme_figures figures;

	nvme_device_figures(device->device, &figures);
	text_printf(text, "%s{", number > 0 ? "," : "");
	string_write(text, "path", nvme_device_path(device->device));
	text_add(text, ",");
	string_write(text, "io", nvme_device_io_name(device->device));
	text_add(text, ",");
	string_write(text, "fenced", figures.fence_reason != NULL ? figures.fence_reason : "");
	number_write(text, "capacity_bytes", (uint64_t)device->units * daemon->settings.extent_bytes);
	number_write(text, "reads", figures.reads);
	number_write(text, "writes", figures.writes);
	number_write(text, "read_bytes", figures.read_bytes);
	number_write(text, "write_bytes", figures.write_bytes);
	number_write(text, "read_us", figures.read_us);
	number_write(text, "write_us", figures.write_us);
	number_write(text, "read_errors", figures.read_errors);
	number_write(text, "write_errors", figures.write_errors);
	number_write(text, "in_flight", figures.in_flight);
	text_add(text, "}");
}

/* With the keys of one that serves. */
static void absent_write(const struct device_absent *absent, bool is_first, struct text *text)
{
	text_add(text, is_first ? "{" : ",{");
	string_write(text, "path", absent->path);
	text_add(text, ",\"io\":\"\",");
	string_write(text, "fenced", absent->reason);
	text_add(text, ",\"capacity_bytes\":0,\"reads\":0,\"writes\":0,\"read_bytes\":0,\"write_bytes\":0,"
		 "\"read_us\":0,\"write_us\":0,\"read_errors\":0,\"write_errors\":0,\"in_flight\":0}");
}

static void counters_write(const struct daemon *daemon, struct text *text)
{
	const struct counters *counters = &daemon->counters;

	text_add(text, ",\"counters\":{\"unit\":\"since start\"");
	number_write(text, "lookups", counters->lookups);
	number_write(text, "lookup_keys", counters->lookup_keys);
	number_write(text, "lookup_tokens", counters->lookup_tokens);
	number_write(text, "usable_tokens", counters->usable_tokens);
	number_write(text, "hit_blocks_cpu", counters->hit_blocks[TIER_CPU]);
	number_write(text, "hit_blocks_nvme", counters->hit_blocks[TIER_NVME]);
	number_write(text, "hit_tokens_cpu", counters->hit_tokens[TIER_CPU]);
	number_write(text, "hit_tokens_nvme", counters->hit_tokens[TIER_NVME]);
	number_write(text, "miss_blocks", counters->miss_blocks);
	number_write(text, "stored_blocks", counters->stored_blocks);
	number_write(text, "stored_bytes", counters->stored_bytes);
	number_write(text, "present_blocks", counters->present_blocks);
	number_write(text, "attached_blocks", counters->attached_blocks);
	number_write(text, "refused_parent", counters->refused[CACHE_REFUSED_PARENT]);
	number_write(text, "refused_full", counters->refused[CACHE_REFUSED_FULL]);
	number_write(text, "refused_size", counters->refused[CACHE_REFUSED_SIZE]);
	number_write(text, "refused_bypass", counters->refused_bypass);
	number_write(text, "refused_busy", counters->refused_busy);
	number_write(text, "store_failures", counters->store_failures);
	number_write(text, "down_blocks", counters->down_blocks);
	number_write(text, "down_failures", counters->down_failures);
	number_write(text, "down_unwanted", counters->down_unwanted);
	number_write(text, "down_void", counters->down_void);
	number_write(text, "up_blocks", counters->up_blocks);
	number_write(text, "up_failures", counters->up_failures);
	number_write(text, "stale_entries", counters->stale_entries);
	number_write(text, "damaged_cpu", counters->damaged[TIER_CPU]);
	number_write(text, "damaged_nvme", counters->damaged[TIER_NVME]);
	number_write(text, "expired_blocks", counters->expired_blocks);
	number_write(text, "restored_cpu", counters->restored[TIER_CPU]);
	number_write(text, "restored_nvme", counters->restored[TIER_NVME]);
	number_write(text, "protocol_errors", counters->protocol_errors);
	number_write(text, "forgets", counters->forgets);
	number_write(text, "spaces_given_back", counters->spaces_given_back);
	text_add(text, "}");
}

static void scrub_write(const struct daemon *daemon, struct text *text)
{
	struct scrub_figures figures = scrub_figures(daemon);

	text_printf(text, ",\"scrub\":{\"passes\":%" PRIu64, figures.passes);
	number_write(text, "last_pass_us", figures.pass_us);
	for (unsigned tier = 0; tier < TIERS; tier++) {
		text_printf(text, ",\"%s\":{\"slots\":%" PRIu64, tier_names[tier],
			    figures.slots[tier]);
		number_write(text, "bytes", figures.bytes[tier]);
		number_write(text, "damaged", figures.damaged[tier]);
		text_add(text, "}");
	}
	number_write(text, "rewritten", figures.rewritten);
	text_add(text, ",\"readbacks\":{");
	for (unsigned result = 0; result < READBACK_RESULTS; result++)
		text_printf(text, "%s\"%s\":%" PRIu64, result > 0 ? "," : "",
			    readback_result_name(result), figures.readbacks[result]);
	text_add(text, "}}");
}

static void fingerprint_write(struct text *text, const uint8_t *fingerprint)
{
	text_add(text, "\"");
	for (unsigned byte = 0; byte < SPACE_ID_BYTES; byte++)
		text_printf(text, "%02x", fingerprint[byte]);
	text_add(text, "\"");
}

/* What `kvtier explain` and `kvtier forget` take, also when the engine has left. */
static void spaces_write(struct daemon *daemon, const struct tenant *tenant, struct text *text)
{
	unsigned written = 0;

	text_add(text, ",\"spaces\":[");
	for (uint32_t space = 0;
	     space < cache_spaces_end(daemon->cache) && written < STATS_SPACES_MAX; space++) {
		if (!cache_space_is_known(daemon->cache, space))
			continue;
		const struct tenant *owner =
			daemon_tenant(daemon, cache_space_tenant(daemon->cache, space));

		if (owner == NULL || (tenant != NULL && tenant != owner))
			continue;
		text_add(text, written++ == 0 ? "{\"space\":" : ",{\"space\":");
		fingerprint_write(text, cache_space_fingerprint(daemon->cache, space));
		text_printf(text, ",\"tenant\":\"%s\"}", owner->name);
	}
	text_add(text, "]");
}

static void engines_write(struct daemon *daemon, const struct tenant *tenant, struct text *text)
{
	const struct engine *engine;
	bool is_first = true;

	text_add(text, ",\"engines\":[");
	for (unsigned i = 0; (engine = server_engine_at(daemon, i)) != NULL; i++) {
		if (engine->tenant == NULL || (tenant != NULL && engine->tenant != tenant))
			continue;
		text_add(text, is_first ? "{" : ",{");
		is_first = false;
		string_write(text, "id", engine->name);
		text_add(text, ",");
		string_write(text, "tenant", engine->tenant->name);
		text_add(text, ",\"space\":");
		fingerprint_write(text, engine->fingerprint);
		number_write(text, "world", engine->world);
		number_write(text, "ranks", (uint64_t)__builtin_popcountll(engine->ranks));
		number_write(text, "groups", engine->groups_count);
		text_add(text, "}");
	}
	text_add(text, "]");
}

static void changes_write(const struct reload_report *report, bool is_reloadable,
			  struct text *text)
{
	bool is_first = true;

	for (unsigned i = 0; i < report->changes_count && i < RELOAD_CHANGES_MAX; i++) {
		const struct settings_change *change = &report->changes[i];

		if (change->is_reloadable != is_reloadable)
			continue;
		text_add(text, is_first ? "{" : ",{");
		is_first = false;
		string_write(text, "key", change->key);
		text_add(text, ",");
		string_write(text, "from", change->from);
		text_add(text, ",");
		string_write(text, "to", change->to);
		text_add(text, "}");
	}
}

/* How the settings were last read again; null: never. */
static void reload_write(const struct daemon *daemon, struct text *text)
{
	const struct reload_report *report = reload_last(daemon);

	if (report->wall_us == 0) {
		text_add(text, ",\"reload\":null");
		return;
	}
	text_printf(text, ",\"reload\":{\"at_unix_seconds\":%" PRIu64, report->wall_us / 1000000);
	text_printf(text, ",\"result\":\"%s\",", report->result == 0 ? "taken" : "refused");
	string_write(text, "reason", report->reason.text);
	text_add(text, ",\"changed\":[");
	changes_write(report, true, text);
	text_add(text, "],\"needs_restart\":[");
	changes_write(report, false, text);
	text_add(text, "]}");
}

void stats_write(struct daemon *daemon, const struct tenant *tenant, struct text *text)
{
	struct catalog_link_counters catalog;
	const char *unready = daemon_unready_reason(daemon);
	bool is_first = true;

	text_add(text, "{");
	string_write(text, "version", KVTIER_VERSION);
	text_printf(text, ",\"boot_id\":\"%016" PRIx64 "\"", daemon->boot_id);
	number_write(text, "uptime_seconds", (daemon->now_us - daemon->started_us) / 1000000);
	text_add(text, ",");
	string_write(text, "state", unready == NULL ? "serving" : unready);
	text_printf(text, ",\"bypass\":\"%s\",\"restore\":\"%s\"", bypass_names[daemon->bypass],
		    restore_phase_name(daemon));
	number_write(text, "epoch", daemon->epoch);
	number_write(text, "connections", server_sessions_count(daemon));
	number_write(text, "moves", mover_moves_count(daemon));
	number_write(text, "pending_down", mover_pending_down(daemon));
	number_write(text, "index_blocks", cache_entries_count(daemon->cache));
	number_write(text, "index_bytes", cache_memory_bytes(daemon->cache));
	text_add(text, ",");
	string_write(text, "catalog", daemon->catalog != NULL ? catalog_link_state_name(catalog_link_state(daemon->catalog)) : "none");
	if (daemon->catalog != NULL) {
		catalog_link_count(daemon->catalog, &catalog);
		number_write(text, "catalog_pending", catalog.pending);
	}
	text_add(text, ",\"tenants\":[");
	for (unsigned i = 0; i < daemon->tenants_count; i++) {
		if (tenant != NULL && tenant != &daemon->tenants[i])
			continue;
		text_add(text, is_first ? "" : ",");
		is_first = false;
		tenant_write(daemon, &daemon->tenants[i], text);
	}
	text_add(text, "],\"nvme\":[");
	for (unsigned i = 0; i < daemon->devices_count; i++)
		device_write(daemon, i, text);
	for (unsigned i = 0; i < daemon->absent_count; i++)
		absent_write(&daemon->absent[i], daemon->devices_count + i == 0, text);
	text_add(text, "]");
	reload_write(daemon, text);
	counters_write(daemon, text);
	scrub_write(daemon, text);
	engines_write(daemon, tenant, text);
	spaces_write(daemon, tenant, text);
	text_add(text, "}");
}
