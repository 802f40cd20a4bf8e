/* bench/peer_command.c: `kvtier-bench peer`: blocks of another node beside what loopback gives. */
#include "bench/commands.h"
#include "bench/options.h"
#include "bench/peer_flow.h"
#include "bench/peer_node.h"

#include "base/copy.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MESSAGE_BYTES (1u << 20)
#define MESSAGES 2048u
#define SMALL_BYTES (UINT64_C(64) << 10)
#define SMALL_FETCHES 9u       /* of each sample; its median */
#define LARGE_BLOCKS 64u       /* of each sample */
#define GRACE_US 100.0         /* what a fetch may cost over a round trip */

struct peer_options {
	const char *kvtierd, *directory, *json, *host, *netns, *devices;
	uint64_t pairs;
};

static const struct option_row rows[] = {
	{ "kvtierd", OPTION_TEXT, "FILE", "the daemon to measure",
	  offsetof(struct peer_options, kvtierd), 0, 0, true },
	{ "directory", OPTION_TEXT, "DIR", "an existing folder for its files (default: /tmp)",
	  offsetof(struct peer_options, directory), 0, 0, false },
	{ "json", OPTION_TEXT, "FILE", "write the measures there",
	  offsetof(struct peer_options, json), 0, 0, false },
	{ "host", OPTION_TEXT, "ADDRESS", "messages go to this address (default: 127.0.0.1)",
	  offsetof(struct peer_options, host), 0, 0, false },
	{ "netns", OPTION_TEXT, "NAME",
	  "and come from this network namespace (of ip netns); whole nodes are not measured then",
	  offsetof(struct peer_options, netns), 0, 0, false },
	{ "ucx-devices", OPTION_TEXT, "FROM,TO", "the network devices that UCX takes there, and here",
	  offsetof(struct peer_options, devices), 0, 0, false },
	{ "pairs", OPTION_COUNT, "N", "interleaved pairs of each measure (default 11)",
	  offsetof(struct peer_options, pairs), MEASURE_PAIRS_MIN, MEASURE_PAIRS_MAX - 1, false },
};

struct peer_bench {
	struct measures measures;
	struct micro micro;
	struct flow_place place;
	uint64_t pairs;
};

/* ---- a transport's messages ---- */

/* Ours and the plain one in turn: how quick, and what a GB costs the sender. */
static int flows_compare(struct peer_bench *bench, const struct flow *ours,
			 const struct flow *plain, const char *name, double goal,
			 struct error *error)
{
	struct measure_pairs speed = { 0 }, cost = { 0 };
	struct flow_result own, other;
	char cost_name[MEASURE_NAME_BYTES];
	int result = flow_measure(plain, &bench->place, MESSAGE_BYTES, MESSAGES / 8, &other, error);

	for (uint64_t i = 0; i < bench->pairs && result == 0; i++) {
		result = flow_measure(ours, &bench->place, MESSAGE_BYTES, MESSAGES, &own, error);
		if (result == 0)
			result = flow_measure(plain, &bench->place, MESSAGE_BYTES, MESSAGES, &other,
					      error);
		if (result == 0) {
			measure_pairs_add(&speed, own.bytes / own.seconds / 1e6,
					  other.bytes / other.seconds / 1e6);
			measure_pairs_add(&cost, own.sender_cpu_seconds / own.bytes * 1e9,
					  other.sender_cpu_seconds / other.bytes * 1e9);
		}
	}
	if (result < 0)
		return result;
	measures_add_pairs(&bench->measures, name, &speed, "MB/s", MEASURE_HIGHER)->goal = goal;
	snprintf(cost_name, sizeof(cost_name), "sender_cpu_%.24s", name);
	measures_add_pairs(&bench->measures, cost_name, &cost, "CPU s/GB", MEASURE_LOWER)->goal =
		isnan(goal) ? NAN : 1.3;
	return 0;
}

static int tcp_measure(struct peer_bench *bench, struct error *error)
{
	return flows_compare(bench, &flow_our_tcp, &flow_raw_tcp, "tcp_1m", 0.80, error);
}

/* What the kernel's own queues would give ours. */
static int uring_measure(struct peer_bench *bench, struct error *error)
{
	return flows_compare(bench, &flow_uring_tcp, &flow_raw_tcp, "uring_tcp_1m", NAN, error);
}

static int ucx_measure(struct peer_bench *bench, struct error *error)
{
	return flows_compare(bench, &flow_our_ucx, &flow_raw_ucx, "ucx_1m", 0.85, error);
}

/* What it costs that a dead peer is noticed. */
static int unguarded_measure(struct peer_bench *bench, struct error *error)
{
	return flows_compare(bench, &flow_our_ucx, &flow_raw_ucx_unguarded, "ucx_1m_unguarded", NAN,
			     error);
}

/* ---- whole nodes ---- */

static int small_sample(struct peer_nodes *nodes, double *out_us, struct error *error)
{
	double samples[SMALL_FETCHES], seconds;
	int result = 0;

	for (unsigned i = 0; i < SMALL_FETCHES && result == 0; i++) {
		result = peer_nodes_fetch(nodes, 1, &seconds, error);
		samples[i] = seconds * 1e6;
	}
	if (result == 0)
		*out_us = measure_median(samples, SMALL_FETCHES);
	return result;
}

/* From kvtier_fetch() until the block is in the engine, beside a plain round trip and 100 us. */
static int small_measure(struct peer_bench *bench, struct error *error)
{
	static struct peer_nodes nodes;
	struct measure_pairs pairs = { 0 };
	uint32_t blocks = ((uint32_t)bench->pairs + 1) * SMALL_FETCHES / 64 * 64 + 64;
	double ours = 0, plain = 0;
	int result = peer_nodes_start(&nodes, &bench->micro, "tcp", SMALL_BYTES, blocks, error);

	if (result == 0)
		result = small_sample(&nodes, &ours, error);
	for (uint64_t i = 0; i < bench->pairs && result == 0; i++) {
		result = small_sample(&nodes, &ours, error);
		if (result == 0)
			result = peer_raw_round_trip(SMALL_BYTES, &plain, error);
		if (result == 0)
			measure_pairs_add(&pairs, ours, plain + GRACE_US);
	}
	peer_nodes_stop(&nodes);
	if (result == 0)
		measures_add_pairs(&bench->measures, "fetch_64k_us", &pairs, "us",
				   MEASURE_LOWER)->goal = 1.5;
	return result;
}

/* 64 MiB of the other node into the engine, beside the same by plain sockets into memory. */
static int large_measure(struct peer_bench *bench, struct error *error)
{
	static struct peer_nodes nodes;
	struct measure_pairs pairs = { 0 };
	struct flow_result plain;
	double seconds = 0;
	int result = peer_nodes_start(&nodes, &bench->micro, "tcp", MESSAGE_BYTES,
				      ((uint32_t)bench->pairs + 2) * LARGE_BLOCKS, error);

	if (result == 0)
		result = peer_nodes_fetch(&nodes, LARGE_BLOCKS, &seconds, error);
	for (uint64_t i = 0; i < bench->pairs && result == 0; i++) {
		result = peer_nodes_fetch(&nodes, LARGE_BLOCKS, &seconds, error);
		if (result == 0)
			result = flow_measure(&flow_raw_tcp, &bench->place, MESSAGE_BYTES,
					      MESSAGES / 8, &plain, error);
		if (result == 0)
			measure_pairs_add(&pairs, LARGE_BLOCKS * MESSAGE_BYTES / seconds / 1e6,
					  plain.bytes / plain.seconds / 1e6);
	}
	peer_nodes_stop(&nodes);
	if (result == 0)
		(void)measures_add_pairs(&bench->measures, "fetch_load_1m", &pairs, "MB/s",
					 MEASURE_HIGHER);
	return result;
}

static const struct part {
	const char *name;
	int (*run)(struct peer_bench *bench, struct error *error);
	bool is_of_nodes;
} parts[] = {
	{ "tcp", tcp_measure, false },
	{ "a pair of sockets by io_uring", uring_measure, false },
	{ "ucx", ucx_measure, false },
	{ "ucx without its errors", unguarded_measure, false },
	{ "a block of 64 KiB", small_measure, true },
	{ "blocks of 1 MiB", large_measure, true },
};

static int parts_run(struct peer_bench *bench)
{
	int status = EXIT_FINE;

	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		struct error error = { .text = "" };

		if (parts[i].is_of_nodes && bench->place.giver_netns != NULL)
			continue;
		fprintf(stderr, "measuring %s\n", parts[i].name);
		int result = parts[i].run(bench, &error);
		if (result < 0)
			fprintf(stderr, "kvtier-bench peer: %s: %s%s\n", parts[i].name,
				result == -ENOSYS ? "skipped: " : "", error.text);
		if (result < 0 && result != -ENOSYS)
			status = EXIT_REFUSED;
	}
	return status;
}

static void devices_take(struct flow_place *place, const char *text)
{
	static char devices[2][64];
	const char *comma = strchrnul(text, ',');

	snprintf(devices[0], sizeof(devices[0]), "%.*s", (int)(comma - text), text);
	snprintf(devices[1], sizeof(devices[1]), "%s", *comma != '\0' ? comma + 1 : text);
	place->devices[0] = devices[0];
	place->devices[1] = devices[1];
}

int peer_command(int argc, char **argv)
{
	static const struct options options = {
		"peer", "measures blocks between two nodes beside plain sockets and plain UCX", rows,
		sizeof(rows) / sizeof(rows[0])
	};
	static struct peer_bench bench;
	struct peer_options chosen = { .directory = "/tmp", .host = "127.0.0.1",
				       .pairs = MEASURE_PAIRS_MIN };
	struct error error;
	char command[300];
	int result = options_parse(&options, &chosen, argc, argv, &error);

	if (result > 0)
		return EXIT_FINE;
	if (result < 0) {
		fprintf(stderr, "kvtier-bench peer: %s\n", error.text);
		return EXIT_REFUSED;
	}
	signal(SIGPIPE, SIG_IGN);
	copy_calibrate(1u << 20);
	bench.pairs = chosen.pairs;
	bench.place.host = chosen.host;
	bench.place.giver_netns = chosen.netns;
	if (chosen.devices != NULL)
		devices_take(&bench.place, chosen.devices);
	bench.micro.kvtierd = chosen.kvtierd;
	snprintf(bench.micro.directory, sizeof(bench.micro.directory),
		 "%.150s/kvtier-peer-XXXXXX", chosen.directory);
	if (mkdtemp(bench.micro.directory) == NULL) {
		fprintf(stderr, "kvtier-bench peer: cannot make a folder in %s: %s\n",
			chosen.directory, strerror(errno));
		return EXIT_REFUSED;
	}
	measures_init(&bench.measures, "peer");
	int status = parts_run(&bench);
	measures_print(&bench.measures, stdout);
	if (chosen.json != NULL && measures_write(&bench.measures, chosen.json, &error) < 0) {
		fprintf(stderr, "kvtier-bench peer: %s\n", error.text);
		status = EXIT_REFUSED;
	}
	snprintf(command, sizeof(command), "rm -rf '%s'", bench.micro.directory);
	return system(command) == 0 ? status : EXIT_REFUSED;
}
