/* daemon/metrics.c: the page of metrics, from the counters of all rooms. */
#include "daemon/admin.h"
#include "daemon/admin_http.h"
#include "daemon/encryption.h"
#include "daemon/gpus.h"
#include "daemon/inventory.h"
#include "daemon/metrics_peers.h"
#include "daemon/metrics_text.h"
#include "daemon/mover.h"
#include "daemon/node_inventory.h"
#include "daemon/probe.h"
#include "daemon/scrub.h"
#include "daemon/server.h"

#include "base/checksum.h"
#include "base/copy.h"
#include "base/log.h"

static const char *const tier_names[TIERS] = { "cpu", "nvme" };
static const char *const state_names[SLOT_STATES] = { "free", "filling", "ready", "leaving", "bad" };
static const char *const bypass_names[FRAME_BYPASS_MODES] = { "off", "on", "observe" };
#define VALUE(metric, value) metrics_value(page, METRIC_##metric, METRIC_NO_LABELS, (value))
#define LABELLED(metric, value, ...)                                                               \
	metrics_value(page, METRIC_##metric, METRIC_LABELS(__VA_ARGS__), (value))

static void daemon_metrics(struct daemon *daemon, struct metrics_page *page)
{
	const char *io = daemon->devices_count > 0 ? nvme_device_io_name(daemon->devices[0].device) : "none";
	unsigned counts[2] = { 0 };
	unsigned engines = 0;
	struct session *session = NULL;
	const struct engine *engine;

	LABELLED(build_info, 1, KVTIER_VERSION, io, crc32c_way(),
		 copy_way_name(copy_choice_get().copy));
	VALUE(uptime_seconds, (daemon->now_us - daemon->started_us) / 1000000);
	VALUE(ready, daemon_unready_reason(daemon) == NULL);
	for (unsigned mode = 0; mode < FRAME_BYPASS_MODES; mode++)
		LABELLED(bypass, daemon->bypass == mode, bypass_names[mode]);
	while ((session = server_session_after(daemon, session)) != NULL)
		counts[session->connection == FRAME_DATA]++;
	LABELLED(connections, counts[0], "control");
	LABELLED(connections, counts[1], "data");
	for (unsigned i = 0; (engine = server_engine_at(daemon, i)) != NULL; i++)
		engines += engine->tenant != NULL &&
			   __builtin_popcountll(engine->ranks) == engine->world;
	VALUE(engines, engines);
	VALUE(leases, daemon_leases_count(daemon));
	VALUE(moves, mover_moves_count(daemon));
	VALUE(pending_down, mover_pending_down(daemon));
	VALUE(index_blocks, cache_entries_count(daemon->cache));
	VALUE(index_bytes, cache_memory_bytes(daemon->cache));
	for (unsigned i = 0; i < daemon->tenants_count; i++)
		LABELLED(spaces, cache_spaces_count(daemon->cache, daemon->tenants[i].handle),
			 daemon->tenants[i].name);
}

static void pull_metrics(const struct counters *counters, struct metrics_page *page)
{
	for (enum copy_direction way = 0; way < COPY_DIRECTIONS; way++)
		LABELLED(pulled_blocks_total, counters->pulled_blocks[way],
			 gpu_direction_name(way));
	for (enum copy_direction way = 0; way < COPY_DIRECTIONS; way++)
		LABELLED(pulled_bytes_total, counters->pulled_bytes[way], gpu_direction_name(way));
}

static void call_metrics(struct daemon *daemon, struct metrics_page *page)
{
	const struct counters *counters = &daemon->counters;

	LABELLED(lookups_total, counters->lookup_hits, "hit");
	LABELLED(lookups_total, counters->lookups - counters->lookup_hits, "miss");
	VALUE(lookup_tokens_total, counters->lookup_tokens);
	VALUE(usable_tokens_total, counters->usable_tokens);
	VALUE(worth_tokens_total, counters->worth_tokens);
	for (unsigned tier = 0; tier < TIERS; tier++)
		LABELLED(hit_tokens_total, counters->hit_tokens[tier], tier_names[tier]);
	for (unsigned tier = 0; tier < TIERS; tier++)
		LABELLED(blocks_loaded_total, counters->hit_blocks[tier], tier_names[tier]);
	for (unsigned tier = 0; tier < TIERS; tier++)
		LABELLED(loaded_bytes_total, counters->loaded_bytes[tier], tier_names[tier]);
	VALUE(blocks_missed_total, counters->miss_blocks);
	VALUE(blocks_stored_total, counters->stored_blocks);
	VALUE(stored_bytes_total, counters->stored_bytes);
	pull_metrics(counters, page);
	LABELLED(blocks_refused_total, counters->present_blocks, "present");
	LABELLED(blocks_refused_total, counters->refused[CACHE_REFUSED_PARENT], "parent");
	LABELLED(blocks_refused_total, counters->refused[CACHE_REFUSED_FULL], "full");
	LABELLED(blocks_refused_total, counters->refused[CACHE_REFUSED_SIZE], "size");
	LABELLED(blocks_refused_total, counters->refused_busy, "busy");
	LABELLED(blocks_refused_total, counters->refused_bypass, "bypass");
	VALUE(store_failures_total, counters->store_failures);
	VALUE(blocks_expired_total, counters->expired_blocks);
	VALUE(leases_refused_total, counters->leases_refused);
	VALUE(forgets_total, counters->forgets);
	VALUE(spaces_given_back_total, counters->spaces_given_back);
	VALUE(protocol_errors_total, counters->protocol_errors);
	VALUE(log_suppressed_lines_total, log_suppressed_count());
	VALUE(log_dropped_lines_total, log_dropped_count());
	for (unsigned type = FRAME_HELLO; type < CALLS_COUNT; type++)
		metrics_histogram(page, METRIC_call_seconds, METRIC_LABELS(frame_type_name(type)),
				  &daemon->call_us[type]);
}

static void encryption_metrics(struct daemon *daemon, struct metrics_page *page)
{
	VALUE(cipher_failures_total, daemon->counters.cipher_failures);
	for (unsigned i = 0; i < daemon->tenants_count; i++) {
		const struct tenant *tenant = &daemon->tenants[i];

		LABELLED(blocks_unreadable_total, tenant->key_missing_blocks, tenant->name,
			 "key_missing");
		LABELLED(blocks_unreadable_total, tenant->in_clear_blocks, tenant->name,
			 "in_clear");
	}
	for (unsigned i = 0; i < daemon->tenants_count; i++)
		LABELLED(encryption, 1, daemon->tenants[i].name, daemon->settings.encryption,
			 encryption_key_name(&daemon->tenants[i]));
}

static void tier_metrics(struct daemon *daemon, struct metrics_page *page)
{
	const struct counters *counters = &daemon->counters;

	for (unsigned tier = 0; tier < TIERS; tier++)
		LABELLED(evictions_total, counters->evictions[tier], tier_names[tier]);
	LABELLED(demotions_total, counters->down_blocks, "done");
	LABELLED(demotions_total, counters->down_failures, "failed");
	LABELLED(demotions_total, counters->down_unwanted, "unwanted");
	LABELLED(demotions_total, counters->down_void, "void");
	LABELLED(promotions_total, counters->up_blocks, "done");
	LABELLED(promotions_total, counters->up_failures, "failed");
	for (unsigned tier = 0; tier < TIERS; tier++)
		LABELLED(checksum_failures_total, counters->damaged[tier], tier_names[tier]);
	VALUE(stale_entries_total, counters->stale_entries);
	encryption_metrics(daemon, page);
	for (unsigned tier = 0; tier < TIERS; tier++)
		LABELLED(restored_blocks_total, counters->restored[tier], tier_names[tier]);
}

static void scrub_metrics(struct daemon *daemon, struct metrics_page *page)
{
	struct scrub_figures figures = scrub_figures(daemon);

	for (unsigned result = 0; result < READBACK_RESULTS; result++)
		LABELLED(integrity_checks_total, figures.readbacks[result], tier_names[TIER_NVME],
			 readback_result_name(result));
	for (unsigned tier = 0; tier < TIERS; tier++)
		LABELLED(scrubbed_slots_total, figures.slots[tier], tier_names[tier]);
	for (unsigned tier = 0; tier < TIERS; tier++)
		LABELLED(scrubbed_bytes_total, figures.bytes[tier], tier_names[tier]);
	for (unsigned tier = 0; tier < TIERS; tier++)
		LABELLED(scrub_damaged_total, figures.damaged[tier], tier_names[tier]);
	VALUE(scrub_given_up_total, figures.given_up);
	VALUE(scrub_rewritten_total, figures.rewritten);
	VALUE(scrub_passes_total, figures.passes);
	metrics_real(page, METRIC_scrub_pass_seconds, METRIC_NO_LABELS,
		     (double)figures.pass_us / 1e6);
}

static void share_metrics(struct daemon *daemon, struct metrics_page *page, enum metric metric)
{
	uint64_t unit = daemon->settings.extent_bytes;

	for (unsigned i = 0; i < daemon->tenants_count; i++)
		for (unsigned tier = 0; tier < TIERS; tier++) {
			const struct tenant *tenant = &daemon->tenants[i];
			struct cache_share_figures figures;

			cache_share_figures(daemon->cache, tenant->handle, tier, &figures);
			if (metric == METRIC_tier_bytes)
				LABELLED(tier_bytes, figures.units_max * unit, tenant->name,
					 tier_names[tier]);
			else if (metric == METRIC_tier_used_bytes)
				LABELLED(tier_used_bytes, figures.bytes_ready, tenant->name,
					 tier_names[tier]);
			for (unsigned state = 0; metric == METRIC_slots && state < SLOT_STATES;
			     state++)
				LABELLED(slots, figures.slots[state], tenant->name,
					 tier_names[tier], state_names[state]);
		}
}

static void device_metrics(struct daemon *daemon, struct metrics_page *page, enum metric metric)
{
	for (unsigned i = 0; i < daemon->devices_count; i++) {
		const char *path = nvme_device_path(daemon->devices[i].device);
		struct nvme_figures figures;

		nvme_device_figures(daemon->devices[i].device, &figures);
		if (metric == METRIC_nvme_ops_total) {
			LABELLED(nvme_ops_total, figures.reads, path, "read", "done");
			LABELLED(nvme_ops_total, figures.read_errors, path, "read", "failed");
			LABELLED(nvme_ops_total, figures.writes, path, "write", "done");
			LABELLED(nvme_ops_total, figures.write_errors, path, "write", "failed");
		} else if (metric == METRIC_nvme_read_bytes_total) {
			LABELLED(nvme_read_bytes_total, figures.read_bytes, path);
		} else if (metric == METRIC_nvme_written_bytes_total) {
			LABELLED(nvme_written_bytes_total, figures.write_bytes, path);
		} else if (metric == METRIC_nvme_in_flight) {
			LABELLED(nvme_in_flight, figures.in_flight, path);
		} else {
			LABELLED(nvme_fenced, figures.fence_reason != NULL, path);
		}
	}
	for (unsigned i = 0; metric == METRIC_nvme_fenced && i < daemon->absent_count; i++)
		LABELLED(nvme_fenced, 1, daemon->absent[i].path);
}

static void gpu_copies_metrics(const struct gpu_figures *figures, const char *gpu,
			       struct metrics_page *page, enum metric metric)
{
	const struct gpu_counters *counters = &figures->counters;

	for (unsigned direction = 0; direction < COPY_DIRECTIONS; direction++) {
		const char *way = gpu_direction_name(direction);
		const struct pull_speed *speed = &figures->speeds[direction];

		if (metric == METRIC_gpu_copied_bytes_total) {
			LABELLED(gpu_copied_bytes_total, counters->bytes[direction], gpu, way);
		} else if (metric == METRIC_gpu_waiting_bytes) {
			LABELLED(gpu_waiting_bytes, speed->waiting_bytes, gpu, way);
		} else if (metric == METRIC_gpu_speed_bytes_per_second) {
			LABELLED(gpu_speed_bytes_per_second, (uint64_t)(speed->bytes_us * 1e6), gpu,
				 way);
		} else if (metric == METRIC_gpu_latency_seconds) {
			metrics_real(page, METRIC_gpu_latency_seconds, METRIC_LABELS(gpu, way),
				     speed->latency_us / 1e6);
		} else {
			LABELLED(gpu_copies_total, counters->done[direction], gpu, way, "done");
			LABELLED(gpu_copies_total, counters->failed[direction], gpu, way, "failed");
		}
	}
}

static void gpu_metrics(const struct daemon *daemon, struct metrics_page *page, enum metric metric)
{
	for (unsigned n = 0; n < gpus_count(daemon); n++) {
		struct gpu_figures figures;
		char gpu[sizeof(figures.name) + 1];

		gpus_figures(daemon, n, &figures);
		snprintf(gpu, sizeof(gpu), "%s:%s", figures.name.vendor, figures.name.bus_id);
		if (metric == METRIC_gpu_pinned_bytes)
			LABELLED(gpu_pinned_bytes, figures.link.pinned_bytes, gpu);
		else if (metric == METRIC_gpu_lent_memories)
			LABELLED(gpu_lent_memories, figures.link.lents, gpu);
		else if (metric == METRIC_gpu_restarts_total)
			LABELLED(gpu_restarts_total, figures.link.restarts, gpu);
		else if (metric != METRIC_gpu_state)
			gpu_copies_metrics(&figures, gpu, page, metric);
		for (unsigned state = 0; metric == METRIC_gpu_state && state < GPU_STATES; state++)
			LABELLED(gpu_state, figures.state == state, gpu, gpu_state_name(state));
	}
}

static void probe_metrics(struct daemon *daemon, struct metrics_page *page)
{
	struct probe_figures figures;

	for (unsigned i = 0; i < probe_parts_count(daemon); i++) {
		probe_part(daemon, i, &figures);
		LABELLED(probe_late, figures.state == PROBE_LATE, figures.name);
	}
	for (unsigned i = 0; i < probe_parts_count(daemon); i++) {
		probe_part(daemon, i, &figures);
		if (figures.took_us > 0)
			metrics_real(page, METRIC_probe_seconds, METRIC_LABELS(figures.name),
				     (double)figures.took_us / 1e6);
	}
	for (unsigned i = 0; i < probe_parts_count(daemon); i++) {
		probe_part(daemon, i, &figures);
		if (figures.took_us > 0)
			metrics_real(page, METRIC_probe_age_seconds, METRIC_LABELS(figures.name),
				     (double)figures.age_us / 1e6);
	}
	for (unsigned i = 0; i < probe_parts_count(daemon); i++) {
		probe_part(daemon, i, &figures);
		LABELLED(probes_total, figures.good, figures.name, "good");
		LABELLED(probes_total, figures.failed, figures.name, "failed");
	}
}

static void workers_metrics(struct daemon *daemon, struct metrics_page *page)
{
	struct catalog_link_counters catalog = { 0 };
	struct inventory_status inventory;
	bool has_inventory = node_inventory_look(daemon, &inventory);

	if (daemon->catalog != NULL) {
		catalog_link_count(daemon->catalog, &catalog);
		LABELLED(worker_up, catalog_link_pid(daemon->catalog) != 0, "catalog");
	}
	if (has_inventory)
		LABELLED(worker_up, inventory.pid != 0, "inventory");
	if (daemon->catalog != NULL)
		LABELLED(worker_restarts_total, catalog.deaths, "catalog");
	if (has_inventory)
		LABELLED(worker_restarts_total, inventory.restarts, "inventory");
	if (daemon->catalog != NULL)
		VALUE(catalog_lag_records, catalog.pending);
	if (!has_inventory)
		return;
	VALUE(inventory_changes_total, inventory.changes);
	VALUE(inventory_epochs_total, inventory.epoch);
	VALUE(inventory_pieces_total, inventory.pieces);
}

void metrics_write(struct daemon *daemon, struct text *text, enum metrics_format format)
{
	static const enum metric share_rows[] = { METRIC_slots, METRIC_tier_bytes,
						  METRIC_tier_used_bytes };
	static const enum metric device_rows[] = { METRIC_nvme_ops_total,
						   METRIC_nvme_written_bytes_total,
						   METRIC_nvme_read_bytes_total,
						   METRIC_nvme_in_flight, METRIC_nvme_fenced };
	struct metrics_page page_memory;
	struct metrics_page *page = &page_memory;

	metrics_begin(page, text, format);
	daemon_metrics(daemon, page);
	call_metrics(daemon, page);
	tier_metrics(daemon, page);
	scrub_metrics(daemon, page);
	for (unsigned i = 0; i < sizeof(share_rows) / sizeof(share_rows[0]); i++)
		share_metrics(daemon, page, share_rows[i]);
	for (unsigned i = 0; i < sizeof(device_rows) / sizeof(device_rows[0]); i++)
		device_metrics(daemon, page, device_rows[i]);
	for (enum metric row = METRIC_gpu_state; row <= METRIC_gpu_copied_bytes_total; row++)
		gpu_metrics(daemon, page, row);
	probe_metrics(daemon, page);
	metrics_peers_write(daemon, page);
	workers_metrics(daemon, page);
	struct admin_http_counts http = admin_http_counts(daemon->http);
	LABELLED(http_requests_total, http.answered, "answered");
	LABELLED(http_requests_total, http.refused, "refused");
	LABELLED(http_requests_total, http.late, "late");
	LABELLED(http_requests_total, http.crowded, "crowded");
	metrics_end(page);
}
