/* daemon/gpus_stats.c: the node's GPUs as JSON, for `kvtier status`. */
#include "daemon/gpus.h"

#include "proto/json_text.h"

#include <stdio.h>

static void copies_write(const struct gpu_figures *figures, enum copy_direction direction,
			 struct json_text *json)
{
	const struct gpu_counters *counters = &figures->counters;
	const struct pull_speed *speed = &figures->speeds[direction];

	json_text_object_begin(json, gpu_direction_name(direction));
	json_text_unsigned(json, "done", counters->done[direction]);
	json_text_unsigned(json, "failed", counters->failed[direction]);
	json_text_unsigned(json, "bytes", counters->bytes[direction]);
	json_text_unsigned(json, "waiting_bytes", speed->waiting_bytes);
	json_text_unsigned(json, "bytes_per_second", (uint64_t)(speed->bytes_us * 1e6));
	json_text_unsigned(json, "latency_us", (uint64_t)speed->latency_us);
	json_text_object_end(json);
}

static void gpu_write(const struct gpu_figures *figures, const char *library,
		      struct json_text *json)
{
	const struct gpu_link_status *link = &figures->link;

	json_text_object_begin(json, NULL);
	json_text_string(json, "vendor", figures->name.vendor);
	json_text_string(json, "bus_id", figures->name.bus_id);
	json_text_string(json, "library", library);
	json_text_string(json, "name", link->device);
	json_text_string(json, "uuid", link->uuid);
	if (figures->numa_node >= 0)
		json_text_unsigned(json, "numa_node", (uint64_t)figures->numa_node);
	json_text_string(json, "state", gpu_state_name(figures->state));
	json_text_string(json, "reason", link->reason);
	json_text_unsigned(json, "pid", (uint64_t)link->pid);
	json_text_unsigned(json, "restarts", link->restarts);
	json_text_unsigned(json, "pinned_bytes", link->pinned_bytes);
	json_text_unsigned(json, "arena_bytes", link->arenas_bytes);
	json_text_unsigned(json, "lent_memories", link->lents);
	json_text_unsigned(json, "copies_under_way", link->copies);
	json_text_object_begin(json, "copies");
	copies_write(figures, COPY_STORE, json);
	copies_write(figures, COPY_LOAD, json);
	json_text_object_end(json);
	json_text_object_end(json);
}

void gpus_write(const struct daemon *daemon, struct json_text *json)
{
	struct gpu_figures figures;

	json_text_array_begin(json, "gpus");
	for (unsigned n = 0; n < gpus_count(daemon); n++) {
		gpus_figures(daemon, n, &figures);
		gpu_write(&figures, daemon->settings.gpu_library, json);
	}
	json_text_array_end(json);
}
