/* daemon/metrics_peers.c: what other nodes are, give and take, for the page of metrics. */
#include "daemon/metrics_peers.h"

#include "daemon/fetch.h"
#include "daemon/grant.h"
#include "daemon/peers.h"
#include "daemon/tickets.h"

static const char *const outcome_names[FETCH_OUTCOMES] = {
	[FETCH_GIVEN] = "given",	     [FETCH_NOTHING] = "nothing", [FETCH_REFUSED] = "refused",
	[FETCH_UNREACHABLE] = "unreachable", [FETCH_LATE] = "late",	  [FETCH_CANCELLED] = "cancelled",
};

#define VALUE(metric, value) metrics_value(page, METRIC_##metric, METRIC_NO_LABELS, (value))
#define LABELLED(metric, value, ...)                                                               \
	metrics_value(page, METRIC_##metric, METRIC_LABELS(__VA_ARGS__), (value))

static void nodes_metrics(const struct peers *peers, struct metrics_page *page)
{
	unsigned up = 0, down = 0;

	for (unsigned i = 0; i < PEER_SESSIONS_MAX; i++) {
		up += peers->peers[i].is_used && peers->peers[i].is_up;
		down += peers->peers[i].is_used && !peers->peers[i].is_up;
	}
	LABELLED(peers, up, "up");
	LABELLED(peers, down, "down");
	VALUE(peer_sessions_total, peers->sessions_ever);
	VALUE(peer_fetches, fetches_count(peers));
	VALUE(peer_grants, grants_count(peers));
}

void metrics_peers_write(const struct daemon *daemon, struct metrics_page *page)
{
	const struct counters *counters = &daemon->counters;
	const struct peers *peers = daemon->peers;

	if (peers == NULL)
		return;
	nodes_metrics(peers, page);
	for (unsigned i = 0; i < FETCH_OUTCOMES; i++)
		LABELLED(peer_fetches_total, peers->fetches_ended[i], outcome_names[i]);
	LABELLED(peer_blocks_total, counters->fetched_blocks, "in");
	LABELLED(peer_blocks_total, peers->sent_blocks, "out");
	LABELLED(peer_bytes_total, counters->fetched_bytes, "in");
	LABELLED(peer_bytes_total, peers->sent_bytes, "out");
	LABELLED(peer_blocks_lost_total, peers->wrong_blocks, "wrong");
	LABELLED(peer_blocks_lost_total,
		 counters->fetch_failures > peers->wrong_blocks
			 ? counters->fetch_failures - peers->wrong_blocks
			 : 0,
		 "other");
	VALUE(peer_tickets, tickets_count(peers));
	LABELLED(peer_tickets_total, peers->tickets_issued, "issued");
	LABELLED(peer_tickets_total, peers->tickets_redeemed, "redeemed");
	LABELLED(peer_tickets_total, peers->tickets_refused, "refused");
}
