/* tests/system/follow.c: follows a daemon's inventory as a router does, and says what it knows.
 *   follow SAID ASKED           (host:port of each)
 * Each line of stdin is a question, each answer a line of JSON:
 *   look                        how it stands
 *   engine TENANT NAME KEY...   what the engine could use of these route keys (tiers of each) */
#include "base/clock.h"
#include "cluster/node_view.h"
#include "cluster/subscription.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ENTRIES_MAX 4000000u
#define STEP_MS 10
#define MESSAGES_A_TURN 256u
#define LINE_BYTES (1u << 20)

static struct route_index *route_index;
static struct node_view *view;
static struct subscription *subscription;

static uint64_t now_us(void)
{
	return clock_now_us(clock_real());
}

static void said(void *owner, uint64_t sequence, const void *payload, size_t bytes)
{
	(void)owner;
	node_view_heard(view, sequence, payload, bytes, now_us());
}

static void answered(void *owner, uint64_t sequence, const void *payload, size_t bytes)
{
	(void)owner;
	node_view_answered(view, sequence, payload, bytes, now_us());
}

static void ask(void *owner, const void *question, size_t bytes)
{
	(void)owner;
	subscription_ask(subscription, question, bytes);
}

static void look(void)
{
	struct node_view_figures seen;
	uint64_t engines;

	node_view_look(view, &seen);
	if (!node_view_figure(view, 0, INVENTORY_ENGINES, &engines))
		engines = 0;
	printf("{\"following\": %s, \"whole\": %s, \"boot\": %" PRIu64 ", \"epoch\": %" PRIu64
	       ", \"entries\": %" PRIu64 ", \"messages\": %" PRIu64 ", \"gaps\": %" PRIu64
	       ", \"replays\": %" PRIu64 ", \"snapshots\": %" PRIu64 ", \"differences\": %" PRIu64
	       ", \"garbled\": %" PRIu64 ", \"engines\": %" PRIu64 "}\n",
	       seen.state == NODE_FOLLOWING ? "true" : "false", seen.is_whole ? "true" : "false",
	       seen.boot, seen.epoch, seen.entries, seen.messages, seen.gaps, seen.replays,
	       seen.snapshots, seen.differences, seen.garbled, engines);
}

static void engine(char *words)
{
	const char *tenant = strtok(words, " "), *name = strtok(NULL, " "), *key;
	struct node_engine found;

	if (tenant == NULL || name == NULL || !node_view_engine(view, tenant, name, &found)) {
		printf("null\n");
		return;
	}
	printf("{\"tokens\": %u, \"tiers\": [", found.tokens_per_block);
	for (unsigned n = 0; (key = strtok(NULL, " ")) != NULL; n++) {
		uint64_t number = strtoull(key, NULL, 10);
		unsigned tiers = 0;

		for (uint32_t i = 0; i < found.sources_count; i++)
			if (found.sources[i] != ROUTE_SOURCE_NONE)
				tiers |= route_index_get(route_index, found.sources[i], number);
		printf("%s%u", n > 0 ? ", " : "", tiers);
	}
	printf("]}\n");
}

/* False: nobody asks any more. */
static bool question_answer(char *line)
{
	if (fgets(line, LINE_BYTES, stdin) == NULL)
		return false;
	line[strcspn(line, "\n")] = '\0';
	if (strcmp(line, "look") == 0)
		look();
	else if (strncmp(line, "engine ", 7) == 0)
		engine(line + 7);
	else
		printf("\"no such question\"\n");
	return fflush(stdout) == 0;
}

static void serve(char *line)
{
	struct pollfd files[3] = { { .fd = STDIN_FILENO, .events = POLLIN } };
	bool has_more = true;

	subscription_fds(subscription, &files[1].fd, &files[2].fd);
	files[1].events = files[2].events = POLLIN;
	for (;;) {
		(void)poll(files, 3, has_more ? 0 : STEP_MS);
		has_more = subscription_hear(subscription, MESSAGES_A_TURN, now_us());
		node_view_step(view, now_us());
		while (route_index_sweep(route_index))
			;
		if (files[0].revents != 0 && !question_answer(line))
			return;
	}
}

int main(int arguments_count, char **arguments)
{
	struct subscription_config config = { .payload_bytes_max = INVENTORY_PAYLOAD_BYTES_MAX,
					      .silent_us_max = NODE_SILENT_US,
					      .on_said = said, .on_answer = answered };
	struct node_view_config following = { .ask = ask };
	struct subscriptions *all;
	struct error error = { 0 };
	char *line = malloc(LINE_BYTES);
	int result = 0;

	if (line == NULL || arguments_count != 3)
		return EXIT_FAILURE;
	setvbuf(stdin, NULL, _IONBF, 0);   /* so that poll() knows of each line */
	config.said = arguments[1];
	config.asked = arguments[2];
	result = route_index_create(&route_index, ENTRIES_MAX, 1, &error);
	following.index = route_index;
	if (result == 0)
		result = node_view_create(&view, &following, &error);
	if (result == 0)
		result = subscriptions_create(&all, &error);
	if (result == 0)
		result = subscription_open(all, &subscription, &config, &error);
	if (result < 0) {
		fprintf(stderr, "follow: %s\n", error.text);
		return EXIT_FAILURE;
	}
	serve(line);
	subscription_close(subscription);
	subscriptions_destroy(all);
	node_view_destroy(view);
	route_index_destroy(route_index);
	free(line);
	return EXIT_SUCCESS;
}
