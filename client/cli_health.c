/* client/cli_health.c: what a daemon's figures say is wrong, in plain words, and what to do. */
#include "client/cli.h"

#include <stdarg.h>
#include <string.h>

#define WORDS_BYTES 320

__attribute__((format(printf, 4, 5))) static void add(json_t *health, const char *level,
						      const char *fix, const char *format, ...)
{
	char words[WORDS_BYTES];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(words, sizeof(words), format, arguments);
	va_end(arguments);
	json_array_append_new(health,
			      json_pack("{s:s, s:s, s:s}", "level", level, "what", words, "fix", fix));
}

static void look_at_state(const json_t *stats, json_t *health)
{
	const char *state = cli_string(stats, "state");
	const char *drain = cli_string(stats, "drain"), *catalog = cli_string(stats, "catalog");
	const char *purge = cli_string(stats, "purge");

	if (strcmp(state, "restoring") == 0)
		add(health, "warn", "Wait: it serves from memory already, and nvme comes next.",
		    "It is still finding again what was stored before it started.");
	else if (state[0] != 0 && strcmp(state, "serving") != 0)
		add(health, "fail", "Look at the daemon's log; restart it if that goes on.",
		    "It does not serve: %s.", state);
	if (drain[0] != 0 && strcmp(drain, "off") != 0)
		add(health, "warn", "To take new blocks again: kvtier drain --off",
		    "It is drained: no new blocks are taken.");
	if (purge[0] != 0 && strcmp(purge, "none") != 0 && strcmp(purge, "done") != 0)
		add(health, "warn", "It ends when no engine reads these blocks any more.",
		    "A purge is under way: what it is about is found no more.");
	if (strcmp(catalog, "absent") == 0 || strcmp(catalog, "behind") == 0)
		add(health, "warn", "Nothing is lost; look for worker_ended in the log.",
		    "The catalogue is %s: the next start reads every header on nvme, which takes longer.",
		    catalog);
}

/* Of the whole node: only the admin socket can end it. */
static void look_at_bypass(const struct cli *cli, const json_t *stats, json_t *health)
{
	const char *bypass = cli_string(stats, "bypass");
	char admin[CLI_PATH_BYTES], fix[WORDS_BYTES];

	cli_admin_socket(cli, admin);
	snprintf(fix, sizeof(fix), "To end it: kvtier bypass off --socket %.240s", admin);
	if (strcmp(bypass, "on") == 0)
		add(health, "warn", fix,
		    "The bypass is on for the whole node: every lookup misses, nothing is stored.");
	else if (strcmp(bypass, "observe") == 0)
		add(health, "warn", fix,
		    "The bypass observes on the whole node: blocks are stored, and every lookup misses.");
}

static void look_at_devices(const json_t *stats, json_t *health)
{
	size_t i;
	json_t *device;

	json_array_foreach(cli_get(stats, "nvme"), i, device)
	{
		double errors = cli_number(device, "read_errors") +
				cli_number(device, "write_errors");

		if (cli_string(device, "fenced")[0] != 0)
			add(health, "fail",
			    "Its blocks are misses, the rest goes on. Check the disk (dmesg, smartctl), then restart kvtierd.",
			    "nvme %s is out of use: %s.", cli_string(device, "path"),
			    cli_string(device, "fenced"));
		else if (errors > 0)
			add(health, "warn", "Check the disk: dmesg, smartctl -a.",
			    "nvme %s had %.0f failed operations.", cli_string(device, "path"),
			    errors);
	}
}

static void look_at_gpus(const json_t *stats, json_t *health)
{
	size_t i;
	json_t *gpu;

	json_array_foreach(cli_get(stats, "gpus"), i, gpu)
	{
		const char *reason = cli_string(gpu, "reason"), *state = cli_string(gpu, "state");

		if (reason[0] == 0)
			continue;
		add(health, "warn", "To know more: kvtier doctor",
		    strcmp(state, "ready") == 0 ? "GPU %s:%s reaches only a part of memory: %s."
						: "GPU %s:%s is not open: %s.",
		    cli_string(gpu, "vendor"), cli_string(gpu, "bus_id"), reason);
	}
}

static void look_at_peers(const json_t *stats, json_t *health)
{
	const json_t *peers = cli_get(stats, "peers");
	size_t i;
	json_t *peer;

	if (cli_string(peers, "reason")[0] != 0)
		add(health, "warn", "Blocks of other nodes are misses until then. To know more: kvtier peers",
		    "The process for other nodes is not there: %s.", cli_string(peers, "reason"));
	json_array_foreach(cli_get(peers, "nodes"), i, peer)
	{
		if (strcmp(cli_string(peer, "state"), "up") == 0 ||
		    cli_string(peer, "reason")[0] == 0)
			continue;
		add(health, "warn", "Its blocks are misses until then. To know more: kvtier peers",
		    "Node %s is not connected: %s.", cli_string(peer, "address"),
		    cli_string(peer, "reason"));
	}
}

static void look_at_counters(const json_t *stats, json_t *health)
{
	const json_t *counters = cli_get(stats, "counters");
	double cpu = cli_number(counters, "damaged_cpu");
	double nvme = cli_number(counters, "damaged_nvme");
	double refused = cli_number(counters, "protocol_errors");

	if (cpu > 0)
		add(health, "fail", "Test this machine's memory: look for ECC errors in dmesg.",
		    "%.0f blocks in memory had a wrong checksum; each became a miss.", cpu);
	if (nvme > 0)
		add(health, "warn", "If it grows, check the disk: dmesg, smartctl -a.",
		    "%.0f blocks on nvme had a wrong checksum; each became a miss.", nvme);
	if (refused > 0)
		add(health, "warn", "Look for client_refused in the daemon's log.",
		    "%.0f clients were sent away for what they said.", refused);
}

static void look_at_clients(const json_t *stats, json_t *health)
{
	size_t i;
	json_t *item;

	json_array_foreach(cli_get(stats, "tenants"), i, item)
	{
		const char *bypass = cli_string(item, "bypass");

		char fix[WORDS_BYTES];

		snprintf(fix, sizeof(fix), "To end it: kvtier bypass off --tenant %.64s",
			 cli_string(item, "name"));
		if (bypass[0] != 0 && strcmp(bypass, "off") != 0)
			add(health, "warn", fix, "For tenant %s the bypass is %s: its lookups miss.",
			    cli_string(item, "name"),
			    strcmp(bypass, "observe") == 0 ? "observing" : bypass);
	}
	json_array_foreach(cli_get(stats, "engines"), i, item)
	{
		if (cli_number(item, "ranks") < cli_number(item, "world"))
			add(health, "warn",
			    "Its lookups are answered when all are there: start the rest, or look at its log.",
			    "Engine %s has %.0f of %.0f ranks here.", cli_string(item, "id"),
			    cli_number(item, "ranks"), cli_number(item, "world"));
	}
}

static void add_waiting(json_t *health, const json_t *changes)
{
	char names[WORDS_BYTES - 64] = "";
	size_t i;
	json_t *change;

	json_array_foreach(changes, i, change)
	{
		size_t used = strlen(names);

		snprintf(names + used, sizeof(names) - used, "%s%.64s", i > 0 ? ", " : "",
			 cli_string(change, "key"));
	}
	add(health, "warn", "Restart kvtierd when it suits.",
	    "Changed, and waiting for a restart: %s.", names);
}

static void look_at_reload(const json_t *stats, json_t *health)
{
	const json_t *reload = cli_get(stats, "reload");
	size_t waiting = json_array_size(cli_get(reload, "needs_restart"));

	if (strcmp(cli_string(reload, "result"), "refused") == 0)
		add(health, "warn", "Mend the file, then: kvtier reload",
		    "The last reload was refused, the old settings are in force: %s.",
		    cli_string(reload, "reason"));
	else if (waiting > 0)
		add_waiting(health, cli_get(reload, "needs_restart"));
}

json_t *cli_health(const struct cli *cli, const json_t *stats)
{
	json_t *health = json_array();

	look_at_state(stats, health);
	look_at_bypass(cli, stats, health);
	look_at_devices(stats, health);
	look_at_gpus(stats, health);
	look_at_peers(stats, health);
	look_at_counters(stats, health);
	look_at_clients(stats, health);
	look_at_reload(stats, health);
	return health;
}

unsigned cli_health_print(struct cli *cli, const json_t *health)
{
	size_t i;
	json_t *finding;

	json_array_foreach(health, i, finding)
	{
		bool is_failure = strcmp(cli_string(finding, "level"), "fail") == 0;

		cli_words_behind(cli, is_failure ? CLI_RED : CLI_YELLOW,
				 is_failure ? "FAIL " : "WARN ", "     ",
				 cli_string(finding, "what"));
		cli_words(cli, CLI_PLAIN, "     ", cli_string(finding, "fix"));
	}
	return (unsigned)json_array_size(health);
}

double cli_tier_sum(const json_t *stats, const char *tier, const char *name)
{
	double sum = 0;
	size_t i;
	json_t *tenant;

	json_array_foreach(cli_get(stats, "tenants"), i, tenant)
	{
		sum += cli_number(cli_get(cli_get(tenant, "tiers"), tier), name);
	}
	return sum;
}

double cli_tier_size(const json_t *stats, const char *tier)
{
	double shares = cli_tier_sum(stats, tier, "capacity_bytes"), devices = 0;
	size_t i;
	json_t *device;

	if (strcmp(tier, "nvme") != 0)
		return shares;
	json_array_foreach(cli_get(stats, "nvme"), i, device)
	{
		devices += cli_number(device, "capacity_bytes");
	}
	return devices > 0 && devices < shares ? devices : shares;
}
