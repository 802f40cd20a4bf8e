/* client/cli_status.c: status: on one screen, what is wrong first. */
#include "client/cli.h"

#include <string.h>

#define BAR_WIDTH 20

static void tiers_print(struct cli *cli, const json_t *stats)
{
	static const char *const tiers[] = { "cpu", "nvme" };

	cli_line(cli, CLI_BOLD, "%-6s %-24s %-24s %s", "TIER", "FULL", "USED", "BLOCKS");
	for (unsigned i = 0; i < sizeof(tiers) / sizeof(tiers[0]); i++) {
		double size = cli_tier_size(stats, tiers[i]);
		double used = cli_tier_sum(stats, tiers[i], "ready_bytes");
		char bar[BAR_WIDTH + 3], a[CLI_UNIT_BYTES], b[CLI_UNIT_BYTES], c[CLI_UNIT_BYTES];
		char of[2 * CLI_UNIT_BYTES + 8];

		if (size == 0) {
			cli_line(cli, CLI_PLAIN, "%-6s none", tiers[i]);
			continue;
		}
		cli_bar(used / size, BAR_WIDTH - 6, bar);
		snprintf(of, sizeof(of), "%s of %s", cli_bytes(used, a), cli_bytes(size, b));
		cli_line(cli, CLI_PLAIN, "%-6s %s %4.0f %%   %-24s %s", tiers[i], bar,
			 used / size * 100, of,
			 cli_count(cli_tier_sum(stats, tiers[i], "blocks"), c));
	}
	cli_line(cli, CLI_PLAIN, "a full tier is normal: what was not used for longest makes room");
}

/* "87 %", or "-" where nothing was asked for. */
static const char *share_words(double part, double whole, char *text)
{
	if (whole <= 0)
		return "-";
	snprintf(text, CLI_UNIT_BYTES, "%.0f %%", part / whole * 100);
	return text;
}

static void tenants_print(struct cli *cli, const json_t *stats)
{
	size_t i;
	json_t *tenant;

	cli_line(cli, CLI_PLAIN, "%s", "");
	cli_line(cli, CLI_BOLD, "%-16s %9s %9s %10s %10s %7s", "TENANT", "LOOKUPS", "HITS", "LOADED",
		 "STORED", "LEASES");
	json_array_foreach(cli_get(stats, "tenants"), i, tenant)
	{
		const json_t *counters = cli_get(tenant, "counters");
		char a[CLI_UNIT_BYTES], b[CLI_UNIT_BYTES], c[CLI_UNIT_BYTES], d[CLI_UNIT_BYTES];

		cli_line(cli, CLI_PLAIN, "%-16.16s %9s %9s %10s %10s %7.0f",
			 cli_string(tenant, "name"),
			 cli_count(cli_number(counters, "lookups"), a),
			 share_words(cli_number(counters, "usable_tokens"),
				     cli_number(counters, "lookup_tokens"), b),
			 cli_bytes(cli_number(counters, "loaded_bytes"), c),
			 cli_bytes(cli_number(counters, "stored_bytes"), d),
			 cli_number(tenant, "leases"));
	}
	cli_line(cli, CLI_PLAIN, "since the start; HITS: share of the looked-up tokens that were there");
}

/* Where nodes were asked for. */
static void nodes_print(struct cli *cli, const json_t *stats)
{
	size_t i;
	json_t *tenant;

	json_array_foreach(cli_get(stats, "tenants"), i, tenant)
	{
		const json_t *numa = cli_get(tenant, "cpu_numa");
		const char *asked = cli_string(numa, "asked"), *reason = cli_string(numa, "reason");
		double looked = cli_number(numa, "looked_pages");

		if (asked[0] == '\0')
			continue;
		if (reason[0] != '\0')
			cli_line(cli, CLI_YELLOW, "memory of %s is not placed on NUMA node %s: %s",
				 cli_string(tenant, "name"), asked, reason);
		else
			cli_line(cli, CLI_PLAIN, "memory of %s: %.0f %% on NUMA node %s",
				 cli_string(tenant, "name"),
				 looked > 0 ? 100 * cli_number(numa, "near_pages") / looked : 0.0,
				 asked);
	}
}

static void engines_print(struct cli *cli, const json_t *stats)
{
	size_t i;
	json_t *item;

	cli_line(cli, CLI_PLAIN, "%s", "");
	if (json_array_size(cli_get(stats, "engines")) == 0)
		cli_line(cli, CLI_PLAIN, "no engine is connected");
	else
		cli_line(cli, CLI_BOLD, "%-24s %-14s %-7s %s", "ENGINE", "TENANT", "RANKS", "SPACE");
	json_array_foreach(cli_get(stats, "engines"), i, item)
	{
		char ranks[CLI_UNIT_BYTES];

		snprintf(ranks, sizeof(ranks), "%.0f of %.0f", cli_number(item, "ranks"),
			 cli_number(item, "world"));
		cli_line(cli, CLI_PLAIN, "%-24.24s %-14.14s %-7s %.32s", cli_string(item, "id"),
			 cli_string(item, "tenant"), ranks, cli_string(item, "space"));
	}
	json_array_foreach(cli_get(stats, "pins"), i, item)
	{
		char left[CLI_UNIT_BYTES];

		cli_line(cli, CLI_PLAIN, "pinned: %.0f blocks of space %.32s for %s more",
			 cli_number(item, "blocks"), cli_string(item, "space"),
			 cli_duration((uint64_t)cli_number(item, "for_us"), left));
	}
}

static void devices_print(struct cli *cli, const json_t *stats)
{
	size_t i;
	json_t *device;

	if (json_array_size(cli_get(stats, "nvme")) == 0)
		return;
	cli_line(cli, CLI_PLAIN, "%s", "");
	cli_line(cli, CLI_BOLD, "%-30s %10s %10s %7s %s", "DEVICE", "READ", "WRITTEN", "ERRORS",
		 "STATE");
	json_array_foreach(cli_get(stats, "nvme"), i, device)
	{
		char a[CLI_UNIT_BYTES], b[CLI_UNIT_BYTES];

		cli_line(cli, CLI_PLAIN, "%-30.30s %10s %10s %7.0f %s", cli_string(device, "path"),
			 cli_bytes(cli_number(device, "read_bytes"), a),
			 cli_bytes(cli_number(device, "write_bytes"), b),
			 cli_number(device, "read_errors") + cli_number(device, "write_errors"),
			 cli_string(device, "fenced")[0] != 0 ? "out of use" : "ok");
	}
}

static void gpu_speed_print(struct cli *cli, const char *what, const json_t *copies)
{
	char a[CLI_UNIT_BYTES], b[CLI_UNIT_BYTES], c[CLI_UNIT_BYTES];

	cli_line(cli, CLI_PLAIN, "  %-6s %s/s, latency %s, %s waiting", what,
		 cli_bytes(cli_number(copies, "bytes_per_second"), a),
		 cli_duration((uint64_t)cli_number(copies, "latency_us"), b),
		 cli_bytes(cli_number(copies, "waiting_bytes"), c));
}

static void gpus_print(struct cli *cli, const json_t *stats)
{
	size_t i;
	json_t *gpu;

	if (json_array_size(cli_get(stats, "gpus")) == 0)
		return;
	cli_line(cli, CLI_PLAIN, "%s", "");
	cli_line(cli, CLI_BOLD, "%-24s %-8s %10s %4s %10s %10s %8s  %s", "GPU", "STATE", "PINNED",
		 "LENT", "STORED", "LOADED", "RESTARTS", "NAME");
	json_array_foreach(cli_get(stats, "gpus"), i, gpu)
	{
		const json_t *copies = cli_get(gpu, "copies");
		char id[64], a[CLI_UNIT_BYTES], b[CLI_UNIT_BYTES], c[CLI_UNIT_BYTES];

		snprintf(id, sizeof(id), "%.7s:%.23s", cli_string(gpu, "vendor"),
			 cli_string(gpu, "bus_id"));
		cli_line(cli, CLI_PLAIN, "%-24s %-8s %10s %4.0f %10s %10s %8.0f  %s", id,
			 cli_string(gpu, "state"), cli_bytes(cli_number(gpu, "pinned_bytes"), a),
			 cli_number(gpu, "lent_memories"),
			 cli_bytes(cli_number(cli_get(copies, "store"), "bytes"), b),
			 cli_bytes(cli_number(cli_get(copies, "load"), "bytes"), c),
			 cli_number(gpu, "restarts"), cli_string(gpu, "name"));
		gpu_speed_print(cli, "stores", cli_get(copies, "store"));
		gpu_speed_print(cli, "loads", cli_get(copies, "load"));
	}
}

static void status_print(struct cli *cli, const json_t *stats)
{
	char up[CLI_UNIT_BYTES];

	cli_line(cli, CLI_BOLD, "kvtierd %s, %s, up %s", cli_string(stats, "version"),
		 cli_string(stats, "state"),
		 cli_duration((uint64_t)cli_number(stats, "uptime_seconds") * 1000000, up));
	if (cli_health_print(cli, cli_get(stats, "health")) == 0)
		cli_line(cli, CLI_GREEN, "Nothing is wrong.");
	cli_line(cli, CLI_PLAIN, "%s", "");
	tiers_print(cli, stats);
	tenants_print(cli, stats);
	nodes_print(cli, stats);
	engines_print(cli, stats);
	devices_print(cli, stats);
	gpus_print(cli, stats);
}

enum cli_exit cli_status(struct cli *cli)
{
	json_t *stats = NULL;
	enum cli_exit result = cli_stats(cli, &stats);

	if (result != CLI_DONE)
		return result;
	json_object_set_new(stats, "health", cli_health(cli, stats));
	return cli_show(cli, stats, status_print);
}
