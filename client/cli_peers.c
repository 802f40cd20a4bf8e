/* client/cli_peers.c: peers: the other nodes, who is there, and why others are not. */
#include "client/cli.h"

#include <string.h>

static void peer_print(struct cli *cli, const json_t *peer)
{
	bool is_up = strcmp(cli_string(peer, "state"), "up") == 0;
	const char *name = cli_string(peer, "name");
	char a[CLI_UNIT_BYTES], b[CLI_UNIT_BYTES], c[CLI_UNIT_BYTES], d[CLI_UNIT_BYTES];

	cli_line(cli, is_up ? CLI_PLAIN : CLI_YELLOW,
		 "%-20.20s %-26.26s %-5s %8s %-9.9s %9s %10s %10s  %s", name[0] == 0 ? "-" : name,
		 cli_string(peer, "address"), cli_string(peer, "state"),
		 cli_duration((uint64_t)cli_number(peer, "since_us"), a),
		 is_up ? cli_string(peer, "transport") : "-",
		 cli_number(peer, "round_trip_us") > 0
			 ? cli_duration((uint64_t)cli_number(peer, "round_trip_us"), b)
			 : "-",
		 cli_bytes(cli_number(peer, "sent_bytes"), c),
		 cli_bytes(cli_number(peer, "received_bytes"), d), cli_string(peer, "reason"));
}

static void peers_print(struct cli *cli, const json_t *peers)
{
	const json_t *nodes = cli_get(peers, "nodes");
	size_t i;
	json_t *peer;

	if (json_object_size(peers) == 0) {
		cli_line(cli, CLI_PLAIN, "no other nodes: peer_listen is not set");
		return;
	}
	cli_line(cli, CLI_BOLD, "%s (%.8s) listens at %s: %s", cli_string(peers, "name"),
		 cli_string(peers, "node"), cli_string(peers, "listen"),
		 cli_string(peers, "state"));
	cli_line(cli, cli_string(peers, "reason")[0] == 0 ? CLI_PLAIN : CLI_YELLOW, "%s%s%s",
		 cli_string(peers, "reason")[0] == 0 ? cli_string(peers, "transport")
						     : cli_string(peers, "reason"),
		 json_is_true(cli_get(peers, "tls")) ? ", TLS" : "",
		 json_is_true(cli_get(peers, "encryption")) ? ", blocks are encrypted" : "");
	cli_line(cli, CLI_PLAIN, "%s", "");
	if (json_array_size(nodes) == 0) {
		cli_line(cli, CLI_PLAIN, "nobody is connected: the setting peers names nobody, and nobody came");
		return;
	}
	cli_line(cli, CLI_BOLD, "%-20s %-26s %-5s %8s %-9s %9s %10s %10s  %s", "NODE", "ADDRESS",
		 "STATE", "SINCE", "BY", "ROUNDTRIP", "SENT", "RECEIVED", "REASON");
	json_array_foreach(nodes, i, peer)
	{
		peer_print(cli, peer);
	}
	if (cli_number(peers, "nodes_left_out") > 0)
		cli_line(cli, CLI_PLAIN, "and %.0f more", cli_number(peers, "nodes_left_out"));
}

enum cli_exit cli_peers(struct cli *cli)
{
	json_t *stats = NULL, *peers;
	enum cli_exit result = cli_stats(cli, &stats);

	if (result != CLI_DONE)
		return result;
	peers = json_deep_copy(json_object_get(stats, "peers"));
	json_decref(stats);
	return cli_show(cli, peers == NULL ? json_object() : peers, peers_print);
}
