/* daemon/tenants.c: see tenants.h. */
#include "daemon/tenants.h"

#include "daemon/fingerprint.h"
#include "daemon/gpus.h"
#include "daemon/peer_process.h"

#include "base/log.h"
#include "base/numa.h"

#include <string.h>

static uint64_t nodes_wanted(const struct daemon *daemon)
{
	uint64_t nodes = 0;

	if (strcmp(daemon->settings.numa, "auto") == 0)
		return gpus_numa_nodes(daemon);
	/* What is no list is `off`, or nothing: settings were looked at when they were read. */
	return numa_nodes_read(daemon->settings.numa, &nodes) == 0 ? nodes : 0;
}

static void arena_opened(const struct tenant *tenant)
{
	const struct arena *arena = &tenant->arena;
	const struct arena_nodes *nodes = &arena->nodes;
	char asked[NUMA_NODES_BYTES], found[NUMA_NODES_BYTES];

	log_line(LOG_INFO, "arena_open", "tenant=%s bytes=%llu pages=\"%s\" warm=%d", tenant->name,
		 (unsigned long long)arena->bytes, arena->pages, arena->is_warm);
	if (nodes->asked == 0)
		return;
	numa_nodes_write(nodes->asked, asked);
	if (nodes->result < 0)
		log_line(LOG_WARNING, "arena_nodes", "tenant=%s asked=%s reason=\"%s\"",
			 tenant->name, asked, numa_strerror(nodes->result));
	else
		log_line(LOG_INFO, "arena_nodes", "tenant=%s asked=%s found=%s near=%u/%u",
			 tenant->name, asked, numa_nodes_write(nodes->found, found), nodes->near,
			 nodes->looked);
}

int tenants_open(struct daemon *daemon, struct error *error)
{
	const struct settings *settings = &daemon->settings;
	uint64_t nodes = nodes_wanted(daemon);

	for (unsigned i = 0; i < settings->tenants_count; i++) {
		struct tenant *tenant = &daemon->tenants[i];
		struct arena_config config = {
			.file = settings->tenants[i].cpu_file,
			.bytes = settings->tenants[i].cpu_bytes,
			.unit_bytes = settings->extent_bytes,
			.huge_pages = settings->huge_pages,
			.lock_wait_us_max = settings->restart_wait_us,
			.tenant_digest = tenant->digest,
			.is_shared = gpus_count(daemon) > 0 || peer_process_is_on(daemon),
			.nodes = nodes,
		};
		int result;

		memcpy(tenant->name, settings->tenants[i].name, sizeof(tenant->name));
		fingerprint_tenant(tenant->name, tenant->digest);
		list_init(&tenant->slotless);
		result = arena_open(&tenant->arena, &config, error);
		if (result < 0)
			return result;
		daemon->tenants_count++;
		arena_opened(tenant);
	}
	return 0;
}
