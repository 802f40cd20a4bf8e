/* bench/gpu_report.c: what was measured, on which device, for a person and as JSON: measures.h's
 * schema with "device", "date", "commit", "parts" and "sweep". */
#include "bench/gpu_bench.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define DATE_BYTES 32u

const char *gpu_path_name(enum copy_path path)
{
	static const char *const names[COPY_PATHS] = { "loop", "2d", "batch", "kernel" };

	return names[path];
}

/* ---- for a person ---- */

static void cell_print(const struct gpu_cell *cell, FILE *file)
{
	if (cell == NULL)
		fprintf(file, " %14s", "-");
	else
		fprintf(file, " %7.4g/%-6.3g", cell->rate, cell->submit_us);
}

static const struct gpu_cell *cell_find(const struct gpu_bench *bench, const struct gpu_cell *like,
					enum copy_direction direction, enum copy_path path)
{
	for (unsigned n = 0; n < bench->cells_count; n++) {
		const struct gpu_cell *cell = &bench->cells[n];

		if (cell->run_bytes == like->run_bytes && cell->runs == like->runs &&
		    cell->direction == direction && cell->path == path)
			return cell;
	}
	return NULL;
}

/* A line for each length and count; cells of one line lie one behind the other. */
static void sweep_print(const struct gpu_bench *bench, FILE *file)
{
	const struct gpu_cell *before = NULL;

	fprintf(file, "\nGB/s, and microseconds a run to submit it\n%8s %6s", "run", "runs");
	for (unsigned n = 0; n < COPY_DIRECTIONS * COPY_PATHS; n++)
		fprintf(file, " %7s %-6s", n < COPY_PATHS ? "store" : "load",
			gpu_path_name((enum copy_path)(n % COPY_PATHS)));
	fputc('\n', file);
	for (unsigned i = 0; i < bench->cells_count; i++) {
		const struct gpu_cell *cell = &bench->cells[i];

		if (before != NULL && before->run_bytes == cell->run_bytes &&
		    before->runs == cell->runs)
			continue;
		before = cell;
		fprintf(file, "%8llu %6u", (unsigned long long)cell->run_bytes, cell->runs);
		for (unsigned n = 0; n < COPY_DIRECTIONS * COPY_PATHS; n++)
			cell_print(cell_find(bench, cell, (enum copy_direction)(n / COPY_PATHS),
					     (enum copy_path)(n % COPY_PATHS)),
				   file);
		fputc('\n', file);
	}
}

void gpu_report_print(const struct gpu_bench *bench, FILE *file)
{
	const struct device_about *about = &bench->device.about;

	fprintf(file, "%s %s", bench->ops->name, about->name);
	if (about->bus_id[0] != '\0')
		fprintf(file, " at %s, %s, driver %d", about->bus_id,
			about->uuid[0] != '\0' ? about->uuid : "no UUID", about->driver_version);
	fprintf(file, "; %llu MiB an area\n", (unsigned long long)(bench->bytes >> 20));
	for (unsigned n = 0; n < bench->outcomes_count; n++)
		fprintf(file, "%-14s %6.1f s  %s\n", bench->outcomes[n].name,
			bench->outcomes[n].seconds, bench->outcomes[n].state);
	fputc('\n', file);
	measures_print(&bench->measures, file);
	if (bench->cells_count > 0)
		sweep_print(bench, file);
}

/* ---- as JSON ---- */

static json_t *text_or_null(const char *text)
{
	return text != NULL && text[0] != '\0' ? json_string(text) : json_null();
}

static json_t *device_json(const struct gpu_bench *bench)
{
	const struct device_about *about = &bench->device.about;

	return json_pack("{s:s,s:s,s:o,s:o,s:i,s:I,s:I}", "vendor", bench->ops->name, "name",
			 about->name, "bus_id", text_or_null(about->bus_id), "uuid",
			 text_or_null(about->uuid), "driver_version", about->driver_version,
			 "memory_bytes", (json_int_t)about->memory_bytes, "memory_used_bytes",
			 (json_int_t)about->memory_used_bytes);
}

static json_t *parts_json(const struct gpu_bench *bench)
{
	json_t *list = json_array();

	for (unsigned n = 0; n < bench->outcomes_count; n++)
		json_array_append_new(list,
				      json_pack("{s:s,s:s,s:f}", "name", bench->outcomes[n].name,
						"state", bench->outcomes[n].state, "seconds",
						bench->outcomes[n].seconds));
	return list;
}

static json_t *sweep_json(const struct gpu_bench *bench)
{
	json_t *list = json_array();

	for (unsigned n = 0; n < bench->cells_count; n++) {
		const struct gpu_cell *cell = &bench->cells[n];

		json_array_append_new(
			list,
			json_pack("{s:s,s:s,s:I,s:i,s:f,s:[f,f],s:f,s:i}", "direction",
				  cell->direction == COPY_STORE ? "store" : "load", "path",
				  gpu_path_name(cell->path), "run_bytes",
				  (json_int_t)cell->run_bytes, "runs", (int)cell->runs, "gb_second",
				  cell->rate, "spread", cell->rate_low, cell->rate_high,
				  "submit_us_run", cell->submit_us, "samples", (int)cell->samples));
	}
	return list;
}

int gpu_report_write(const struct gpu_bench *bench, const char *path, struct error *error)
{
	json_t *root = measures_json(&bench->measures);
	time_t now = time(NULL);
	char date[DATE_BYTES];
	struct tm parts;

	strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &parts));
	json_t *more = json_pack("{s:s,s:o,s:I,s:o,s:o,s:o}", "date", date, "commit",
				 text_or_null(bench->commit), "area_bytes",
				 (json_int_t)bench->bytes, "device", device_json(bench), "parts",
				 parts_json(bench), "sweep", sweep_json(bench));
	bool is_made = root != NULL && more != NULL && json_object_update(root, more) == 0;
	int result = is_made ? json_dump_file(root, path, JSON_INDENT(2) | JSON_REAL_PRECISION(9))
			     : 0;

	json_decref(more);
	json_decref(root);
	if (!is_made)
		return error_set(error, -ENOMEM, "no memory to write %s", path);
	return result < 0 ? error_set(error, -EIO, "cannot write %s", path) : 0;
}
