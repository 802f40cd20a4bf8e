/* bench/replay_report.c: writes what a replay or a simulation found. */
#include "bench/replay_report.h"

#include "bench/scan.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_BYTES 128

static void put_count(json_t *root, const char *key, uint64_t count)
{
	json_object_set_new(root, key, json_integer((json_int_t)count));
}

static void put_number(json_t *root, const char *key, double number)
{
	json_object_set_new(root, key, json_real(number));
}

static void put_share(json_t *root, const char *key, uint64_t part, uint64_t whole)
{
	put_number(root, key, whole == 0 ? 0 : (double)part / (double)whole);
}

static void put_histogram(json_t *root, const char *key, const struct histogram *histogram)
{
	json_t *object = json_object();

	put_count(object, "count", histogram->count);
	put_count(object, "p50", histogram_quantile(histogram, 0.5));
	put_count(object, "p90", histogram_quantile(histogram, 0.9));
	put_count(object, "p99", histogram_quantile(histogram, 0.99));
	put_count(object, "max", histogram->max);
	json_object_set_new(root, key, object);
}

/* bytes over busy microseconds, in GB/s. */
static double gigabytes_s(uint64_t bytes, uint64_t us)
{
	return us == 0 ? 0 : (double)bytes / (double)us / 1e3;
}

static int root_write(json_t *root, const char *path, struct error *error)
{
	if (root == NULL)
		return error_set(error, -ENOMEM, "no memory to write %s", path);
	int result = strcmp(path, "-") == 0
			     ? json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9))
			     : json_dump_file(root, path, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
	json_decref(root);
	return result < 0 ? error_set(error, -EIO, "cannot write %s", path) : 0;
}

static void put_source(json_t *root, const struct report_source *source)
{
	json_object_set_new(root, "version", json_string(KVTIER_VERSION));
	json_object_set_new(root, "trace", json_string(source->trace_path));
	put_count(root, "block_tokens", source->trace->block_tokens);
	put_count(root, "unique_blocks", source->trace->unique_blocks);
}

/* The keys that a replay and a simulation have in common. */
static void put_hits(json_t *root, uint64_t requests, uint64_t input, uint64_t hit, uint64_t cpu,
		     uint64_t nvme)
{
	put_count(root, "requests", requests);
	put_count(root, "input_tokens", input);
	put_count(root, "hit_tokens", hit);
	put_count(root, "hit_tokens_cpu", cpu);
	put_count(root, "hit_tokens_nvme", nvme);
	put_share(root, "hit_share", hit, input);
	put_share(root, "hit_share_cpu", cpu, input);
	put_share(root, "hit_share_nvme", nvme, input);
}

static void put_replay_counts(json_t *root, const struct replay_figures *figures)
{
	put_count(root, "wrong_blocks", figures->wrong_blocks);
	put_count(root, "late_calls", figures->late_calls);
	put_count(root, "hit_tokens_peer", figures->hit_tokens_peer);
	put_count(root, "failed_fetches", figures->failed_fetches);
	put_count(root, "hit_blocks", figures->hit_blocks);
	put_count(root, "hit_tokens_after_return", figures->hit_tokens_returned);
	put_count(root, "daemon_returns", figures->returns);
	put_count(root, "away_requests", figures->away_requests);
	put_count(root, "checked_blocks", figures->checked_blocks);
	put_count(root, "undelivered_blocks", figures->undelivered_blocks);
	put_count(root, "stored_blocks", figures->stored_blocks);
	put_count(root, "present_blocks", figures->present_blocks);
	put_count(root, "refused_blocks", figures->refused_blocks);
	put_count(root, "failed_lookups", figures->failed_lookups);
	put_count(root, "failed_jobs", figures->failed_jobs);
	put_count(root, "stuck_jobs", figures->stuck_jobs);
	put_count(root, "lockstep_timeouts", figures->lockstep_timeouts);
	put_count(root, "lag_us_max", figures->lag_us_max);
}

int report_replay_json(const struct replay *replay, const struct replay_options *options,
		       const struct report_source *source, const char *path, struct error *error)
{
	const struct replay_figures *figures = &replay->figures;
	json_t *root = json_object();

	if (root == NULL)
		return error_set(error, -ENOMEM, "no memory to write %s", path);
	json_object_set_new(root, "benchmark", json_string("replay"));
	put_source(root, source);
	put_hits(root, figures->requests, figures->input_tokens, figures->hit_tokens,
		 figures->hit_tokens_cpu, figures->hit_tokens_nvme);
	put_replay_counts(root, figures);
	uint64_t nvme_bytes = figures->hit_tokens == 0
				      ? 0
				      : (uint64_t)((double)figures->loaded_bytes *
						   (double)figures->hit_tokens_nvme /
						   (double)figures->hit_tokens);
	put_count(root, "loaded_bytes", figures->loaded_bytes);
	put_count(root, "loaded_bytes_nvme", nvme_bytes);
	put_count(root, "loaded_bytes_cpu", figures->loaded_bytes - nvme_bytes);
	put_count(root, "stored_bytes", figures->stored_bytes);
	put_number(root, "load_gb_s", gigabytes_s(figures->loaded_bytes, figures->load_us));
	put_number(root, "store_gb_s", gigabytes_s(figures->stored_bytes, figures->store_us));
	put_number(root, "check_gb_s", gigabytes_s(figures->loaded_bytes, figures->check_us));
	put_number(root, "gb_s",
		   gigabytes_s(figures->loaded_bytes + figures->stored_bytes,
			       (uint64_t)(replay->seconds * 1e6)));
	put_number(root, "seconds", replay->seconds);
	put_histogram(root, "lookup_us", &figures->lookup);
	put_histogram(root, "load_us", &figures->load);
	put_histogram(root, "store_us", &figures->store);
	put_count(root, "block_bytes", options->block_bytes);
	put_count(root, "shards", options->shards);
	put_count(root, "processes", options->processes);
	put_count(root, "deadline_us", options->deadline_us);
	put_count(root, "seed", options->seed);
	return root_write(root, path, error);
}

int report_simulation_json(const struct simulation *simulation,
			   const struct simulation_options *options,
			   const struct report_source *source, const char *path,
			   struct error *error)
{
	json_t *root = json_object();

	if (root == NULL)
		return error_set(error, -ENOMEM, "no memory to write %s", path);
	json_object_set_new(root, "benchmark", json_string("simulate"));
	json_object_set_new(root, "policy", json_string("lru"));
	put_source(root, source);
	put_hits(root, simulation->requests, simulation->input_tokens, simulation->hit_tokens,
		 simulation->hit_tokens_cpu, simulation->hit_tokens_nvme);
	put_count(root, "wrong_blocks", 0);
	put_count(root, "late_calls", 0);
	put_count(root, "hit_blocks", simulation->hit_blocks);
	put_count(root, "capacity_blocks", source->capacity_blocks);
	put_count(root, "cpu_blocks", options->cpu_blocks);
	put_count(root, "nvme_blocks", options->nvme_blocks);
	put_count(root, "promoted_blocks", simulation->promoted_blocks);
	put_count(root, "stored_blocks", simulation->stored_blocks);
	put_count(root, "refused_blocks", simulation->refused_blocks);
	put_count(root, "block_accesses", simulation->accesses);
	put_number(root, "simulated_seconds", simulation->seconds);
	put_number(root, "simulate_10m_seconds",
		   simulation->accesses == 0
			   ? 0
			   : simulation->seconds * 1e7 / (double)simulation->accesses);
	return root_write(root, path, error);
}

static double percent(uint64_t part, uint64_t whole)
{
	return whole == 0 ? 0 : 100.0 * (double)part / (double)whole;
}

static void histogram_print(const char *what, const struct histogram *histogram)
{
	printf("  %-8s p50 %8.2f ms, p99 %8.2f ms, max %8.2f ms, %" PRIu64 " calls\n", what,
	       (double)histogram_quantile(histogram, 0.5) / 1e3,
	       (double)histogram_quantile(histogram, 0.99) / 1e3, (double)histogram->max / 1e3,
	       histogram->count);
}

void report_replay_print(const struct replay *replay)
{
	const struct replay_figures *figures = &replay->figures;
	uint64_t input = figures->input_tokens;

	printf("%" PRIu64 " requests in %.1f s, %" PRIu64 " input tokens\n",
	       (uint64_t)figures->requests, replay->seconds, input);
	printf("  hits     %.2f %% of the tokens: %.2f %% from cpu, %.2f %% from nvme\n",
	       percent(figures->hit_tokens, input), percent(figures->hit_tokens_cpu, input),
	       percent(figures->hit_tokens_nvme, input));
	printf("  loaded   %.2f GB at %.2f GB/s, stored %.2f GB at %.2f GB/s\n",
	       (double)figures->loaded_bytes / 1e9,
	       gigabytes_s(figures->loaded_bytes, figures->load_us),
	       (double)figures->stored_bytes / 1e9,
	       gigabytes_s(figures->stored_bytes, figures->store_us));
	histogram_print("lookup", &figures->lookup);
	histogram_print("load", &figures->load);
	histogram_print("store", &figures->store);
	if (figures->returns > 0 || figures->away_requests > 0)
		printf("  the daemon was away for %" PRIu64 " requests and came back; %" PRIu64
		       " tokens hit after that\n",
		       figures->away_requests, figures->hit_tokens_returned);
	if (figures->undelivered_blocks > 0 || figures->refused_blocks > 0)
		printf("  %" PRIu64 " blocks were not delivered, %" PRIu64 " not taken\n",
		       figures->undelivered_blocks, figures->refused_blocks);
	printf("  %" PRIu64 " blocks checked, %" PRIu64 " wrong blocks, %" PRIu64 " late calls\n",
	       figures->checked_blocks, figures->wrong_blocks, figures->late_calls);
}

void report_simulation_print(const struct simulation *simulation)
{
	printf("%" PRIu64 " requests, %" PRIu64 " block accesses in %.2f s\n", simulation->requests,
	       simulation->accesses, simulation->seconds);
	printf("  hits     %.4f %% of %" PRIu64 " tokens: %.4f %% from cpu, %.4f %% from nvme\n",
	       percent(simulation->hit_tokens, simulation->input_tokens), simulation->input_tokens,
	       percent(simulation->hit_tokens_cpu, simulation->input_tokens),
	       percent(simulation->hit_tokens_nvme, simulation->input_tokens));
}

int report_dump(const struct trace *trace, const uint32_t *hits, uint64_t hits_count,
		const char *path, struct error *error)
{
	FILE *file = fopen(path, "we");

	if (file == NULL)
		return error_set(error, -errno, "cannot write %s: %s", path, strerror(errno));
	fprintf(file, "request,blocks,hit_blocks\n");
	for (uint64_t i = 0; i < hits_count; i++)
		if (hits[i] != REPLAY_HIT_UNKNOWN)
			fprintf(file, "%" PRIu64 ",%u,%u\n", i, trace->requests[i].blocks_count,
				hits[i]);
	bool has_failed = ferror(file) != 0;
	if (fclose(file) != 0 || has_failed)
		return error_set(error, -EIO, "cannot write %s", path);
	return 0;
}

/* One row against what was found: 1 it differs, 0 not, negative: no such row. */
static int row_expect(struct scan *scan, const struct trace *trace, const uint32_t *hits,
		      uint64_t hits_count, const char *text)
{
	unsigned long request, blocks, hit;
	int end = -1;

	if (sscanf(text, "%9lu,%9lu,%9lu%n", &request, &blocks, &hit, &end) != 3 || end < 0 ||
	    text[end] != '\0')
		return scan_refuse(scan, "\"%.60s\" is not request,blocks,hit_blocks", text);
	if (request >= trace->requests_count)
		return scan_refuse(scan, "request %lu, but the trace has %u", request,
				   trace->requests_count);
	if (request >= hits_count || hits[request] == hit)
		return 0;
	return 1;
}

int report_expect(const struct trace *trace, const uint32_t *hits, uint64_t hits_count,
		  const char *path, uint64_t *out_different, struct error *error)
{
	char text[LINE_BYTES];
	uint64_t different = 0;
	struct scan *scan = malloc(sizeof(*scan));

	if (scan == NULL)
		return error_set(error, -ENOMEM, "no memory to read %s", path);
	int result = scan_open(scan, path, error);
	if (result < 0) {
		free(scan);
		return result;
	}
	result = scan_text_line(scan, text, sizeof(text));
	if (result >= 0 && (result == 0 || strcmp(text, "request,blocks,hit_blocks") != 0))
		result = scan_refuse(scan, "expected the header request,blocks,hit_blocks");
	while (result >= 0 && (result = scan_text_line(scan, text, sizeof(text))) == 1) {
		result = row_expect(scan, trace, hits, hits_count, text);
		if (result == 1 && different++ == 0)
			fprintf(stderr, "%s:%llu: expected %s, found other hits\n", path,
				(unsigned long long)scan->line - 1, text);
	}
	scan_close(scan);
	free(scan);
	if (result < 0)
		return result;
	*out_different = different;
	return 0;
}
