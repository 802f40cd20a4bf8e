/* tests/sim/pages.c: what a page may say, by what the simulation knows. */
#include "tests/sim/pages.h"

#include "daemon/probe.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* Until a canary is sent, and for the answer. */
#define PROBE_SLACK_US (PROBE_EVERY_US + SECOND_US)

void page_moment_take(const struct node *node, struct page_moment *out_moment)
{
	memset(out_moment, 0, sizeof(*out_moment));
	out_moment->life = node->lives;
	if (node->daemon == NULL)
		return;
	out_moment->counters = node->daemon->counters;
	out_moment->stall_us_max = node->daemon->settings.stall_us_max;
}

/* ---- /readyz ---- */

static bool device_is_fenced(const struct daemon *daemon, const char *path)
{
	for (unsigned i = 0; i < daemon->devices_count; i++)
		if (strcmp(nvme_device_path(daemon->devices[i].device), path) == 0)
			return nvme_device_is_fenced(daemon->devices[i].device);
	return true; /* absent */
}

/* How long the disk has hung while it was asked about, in this life. */
static uint64_t hang_watched_us(struct visitor *visitor, unsigned number)
{
	const struct disk *disk = visitor->node->disks[number];
	uint64_t since_us = visitor->watched_us[number];

	if (visitor->life != visitor->node->lives ||
	    visitor->hangs_until_us[number] != disk->hangs_until_us ||
	    disk->hangs_until_us <= kernel.now_us || since_us == 0) {
		visitor->hangs_until_us[number] = disk->hangs_until_us;
		visitor->watched_us[number] = kernel.now_us;
		return 0;
	}
	if (since_us < visitor->node->steady_us)
		since_us = visitor->node->steady_us;
	return kernel.now_us > since_us ? kernel.now_us - since_us : 0;
}

/* 200: no device has hung for too long. */
static void ready_check(struct visitor *visitor, uint64_t stall_us_max)
{
	const struct node *node = visitor->node;

	if (stall_us_max < node->daemon->settings.stall_us_max)
		stall_us_max = node->daemon->settings.stall_us_max;
	for (unsigned i = 0; i < node->shape.devices; i++) {
		uint64_t watched_us = hang_watched_us(visitor, i);

		if (visitor->status == 200 && watched_us > stall_us_max + PROBE_SLACK_US &&
		    !device_is_fenced(node->daemon, node->disks[i]->path))
			sim_fail("/readyz says 200, and %s has hung for %llu ms",
				 node->disks[i]->path, (unsigned long long)(watched_us / 1000));
	}
	visitor->life = node->lives;
}

/* The last line says why. */
static const char *reason_of(const struct visitor *visitor)
{
	const char *reason = visitor->body, *end;

	while ((end = strchr(reason, '\n')) != NULL && end[1] != '\0')
		reason = end + 1;
	return reason;
}

static void unready_check(const struct visitor *visitor, const char *reason)
{
	const struct node *node = visitor->node;

	if (strncmp(reason, "mill ", 5) == 0)
		return;
	for (unsigned i = 0; i < node->shape.devices; i++)
		if (strstr(reason, node->disks[i]->path) != NULL)
			return;
	sim_fail("/readyz says 503, and not why: %.60s", reason);
}

static void readyz_check(struct visitor *visitor, const struct page_moment *before)
{
	const char *reason = reason_of(visitor);
	bool has_begun = strcmp(reason, "restoring\n") != 0 && strcmp(reason, "stopping\n") != 0;

	if (visitor->status != 503 &&
	    (visitor->status != 200 || strcmp(reason, "ok\n") != 0))
		sim_fail("/readyz says %d: %.60s", visitor->status, reason);
	if (visitor->status == 503 && has_begun)
		unready_check(visitor, reason);
	if (!has_begun || before->life != visitor->node->lives || visitor->node->daemon == NULL)
		memset(visitor->watched_us, 0, sizeof(visitor->watched_us));
	else
		ready_check(visitor, before->stall_us_max);
}

/* ---- /metrics ---- */

/* The number behind a name with its labels at the beginning of a line; -1: it is not there. */
static double metric_of(const char *page, const char *name)
{
	size_t bytes = strlen(name);

	for (const char *at = page; (at = strstr(at, name)) != NULL; at += bytes)
		if ((at == page || at[-1] == '\n') && at[bytes] == ' ')
			return strtod(at + bytes, NULL);
	return -1;
}

static void metric_between(const char *page, const char *name, uint64_t least, uint64_t most)
{
	double value = metric_of(page, name);

	if (value < (double)least || value > (double)most)
		sim_fail("/metrics: %s is %.0f, and should be %llu to %llu", name, value,
			 (unsigned long long)least, (unsigned long long)most);
}

static bool line_is_counter(const char *line, size_t bytes)
{
	return line[0] != '#' && memmem(line, bytes, "_total", 6) != NULL;
}

/* No counter falls: both pages have the same lines in the same order, but for tenants' and
 * devices' that came or went. */
static void counters_compare(const char *before, const char *now)
{
	const char *seen = before;

	for (const char *line = now, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
		const char *space = memrchr(line, ' ', (size_t)(end - line));
		char name[160];

		if (space == NULL || !line_is_counter(line, (size_t)(end - line)) ||
		    (size_t)(space - line) + 2 > sizeof(name))
			continue;
		snprintf(name, sizeof(name), "\n%.*s ", (int)(space - line), line);
		const char *old = strstr(seen, name);
		if (old == NULL)
			continue;
		seen = old + 1;
		if (strtod(space, NULL) < strtod(old + strlen(name), NULL))
			sim_fail("/metrics: fell from %.40s to %.*s", old + strlen(name),
				 (int)(end - line), line);
	}
}

static void metrics_check(struct visitor *visitor, const struct page_moment *before)
{
	const struct node *node = visitor->node;
	const struct counters *past = &before->counters, *now;
	size_t bytes = strlen(visitor->body);

	if (before->life != node->lives || node->daemon == NULL || bytes >= METRICS_BYTES_MAX)
		return;
	now = &node->daemon->counters;
	metric_between(visitor->body, "kvtier_blocks_stored_total", past->stored_blocks,
		       now->stored_blocks);
	metric_between(visitor->body, "kvtier_blocks_missed_total", past->miss_blocks,
		       now->miss_blocks);
	metric_between(visitor->body, "kvtier_blocks_loaded_total{tier=\"cpu\"}",
		       past->hit_blocks[TIER_CPU], now->hit_blocks[TIER_CPU]);
	metric_between(visitor->body, "kvtier_checksum_failures_total{tier=\"nvme\"}",
		       past->damaged[TIER_NVME], now->damaged[TIER_NVME]);
	metric_between(visitor->body, "kvtier_forgets_total", past->forgets, now->forgets);
	if (visitor->metrics_life == node->lives)
		counters_compare(visitor->metrics, visitor->body);
	memcpy(visitor->metrics, visitor->body, bytes + 1);
	visitor->metrics_life = node->lives;
}

/* ---- the others ---- */

static void status_check(const struct visitor *visitor)
{
	json_error_t error;
	json_t *status = json_loads(visitor->body, 0, &error);

	if (status == NULL)
		sim_fail("/status is not JSON: %s", error.text);
	json_decref(status);
}

void page_check(struct visitor *visitor, const char *path, const struct page_moment *before)
{
	visitor->node->pages++;
	if (strncmp(path, "/readyz", 7) == 0) {
		readyz_check(visitor, before);
		return;
	}
	if (visitor->status != 200 &&
	    (visitor->status != 503 || strcmp(path, "/startupz") != 0))
		sim_fail("%s is answered with %d", path, visitor->status);
	if (strcmp(path, "/metrics") == 0)
		metrics_check(visitor, before);
	if (strcmp(path, "/status") == 0)
		status_check(visitor);
	if (strcmp(path, "/livez") == 0 && strcmp(visitor->body, "ok\n") != 0)
		sim_fail("/livez says %.60s", visitor->body);
}
