/* transfer/cost.c: costs of copies: lines through measurements, and what follows from them. */
#include "transfer/cost.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define KIB UINT64_C(1024)

const uint64_t cost_lengths[COST_LENGTHS] = { KIB,       4 * KIB,    16 * KIB,  64 * KIB,
					      256 * KIB, 1024 * KIB, 4096 * KIB };

static const char *const direction_names[COPY_DIRECTIONS] = { "store", "load" };
static const char *const path_names[COPY_PATHS] = { "loop", "2d", "batch", "kernel" };

#define HEAD "kvtier copy costs 1: "

struct cost_line cost_line_of(struct cost_time few, struct cost_time many)
{
	double run_ns, least_ns = many.ns / many.runs / 2; /* a start explains half at most */

	assert(few.runs > 0 && few.runs < many.runs);
	run_ns = (many.ns - few.ns) / (many.runs - few.runs);
	if (run_ns < least_ns)
		run_ns = least_ns;
	double start_ns = few.ns - few.runs * run_ns;
	return (struct cost_line){ .start_ns = (float)(start_ns > 0 ? start_ns : 0),
				   .run_ns = (float)run_ns };
}

/* Between two lengths both numbers are taken to be linear in the bytes, as the link's share is. */
static struct cost_line line_between(const struct cost_line lines[COST_LENGTHS], unsigned below,
				     unsigned above, uint64_t bytes)
{
	const struct cost_line *less = &lines[below], *more = &lines[above];
	float share = (float)(bytes - cost_lengths[below]) /
		      (float)(cost_lengths[above] - cost_lengths[below]);

	return (struct cost_line){
		.start_ns = less->start_ns + share * (more->start_ns - less->start_ns),
		.run_ns = less->run_ns + share * (more->run_ns - less->run_ns),
	};
}

/* Beyond the longest, bytes are all that counts. */
static struct cost_line line_beyond(const struct cost_line lines[COST_LENGTHS], unsigned longest,
				    uint64_t bytes)
{
	struct cost_line line = lines[longest];

	line.run_ns *= (float)bytes / (float)cost_lengths[longest];
	return line;
}

static struct cost_line line_at(const struct cost_line lines[COST_LENGTHS], uint64_t bytes)
{
	unsigned n = 1;

	if (bytes <= cost_lengths[0])
		return lines[0];
	while (n < COST_LENGTHS && cost_lengths[n] < bytes)
		n++;
	return n == COST_LENGTHS ? line_beyond(lines, n - 1, bytes)
				 : line_between(lines, n - 1, n, bytes);
}

static void lines_fill(struct cost_line lines[COST_LENGTHS])
{
	struct cost_line measured[COST_LENGTHS];

	memcpy(measured, lines, sizeof(measured));
	for (unsigned n = 0; n < COST_LENGTHS; n++) {
		unsigned below = n, above = n;

		if (measured[n].run_ns > 0)
			continue;
		while (below > 0 && !(measured[below].run_ns > 0))
			below--;
		while (above < COST_LENGTHS - 1 && !(measured[above].run_ns > 0))
			above++;
		bool has_below = measured[below].run_ns > 0, has_above = measured[above].run_ns > 0;
		if (has_below && has_above)
			lines[n] = line_between(measured, below, above, cost_lengths[n]);
		else if (has_below)
			lines[n] = line_beyond(measured, below, cost_lengths[n]);
		else
			lines[n] = measured[above]; /* unmeasured where nothing was */
	}
}

void cost_fill(struct cost_table *table)
{
	for (unsigned direction = 0; direction < COPY_DIRECTIONS; direction++)
		for (unsigned path = 0; path < COPY_PATHS; path++)
			lines_fill(table->lines[direction][path]);
}

static bool is_measured(const struct cost_table *table, enum copy_direction direction,
			enum copy_path path)
{
	for (unsigned n = 0; n < COST_LENGTHS; n++)
		if (!(table->lines[direction][path][n].run_ns > 0))
			return false;
	return true;
}

double cost_estimate(const struct cost_table *table, enum copy_path path,
		     const struct cost_shape *shape)
{
	if (!is_measured(table, shape->direction, path))
		return INFINITY;
	struct cost_line line = line_at(table->lines[shape->direction][path], shape->run_bytes);
	double calls = path == COPY_2D ? (double)shape->rectangles : 1;

	return calls * line.start_ns + (double)shape->runs * line.run_ns;
}

enum copy_path cost_choose(const struct cost_table *table, unsigned allowed,
			   const struct cost_shape *shape)
{
	enum copy_path best = COPY_LOOP;
	double best_ns = INFINITY;

	for (unsigned path = 0; path < COPY_PATHS; path++) {
		double ns = (allowed & 1u << path) == 0
				    ? INFINITY
				    : cost_estimate(table, (enum copy_path)path, shape);

		if (ns < best_ns) {
			best = (enum copy_path)path;
			best_ns = ns;
		}
	}
	return best;
}

struct cost_speed cost_speed(const struct cost_table *table, unsigned allowed,
			     enum copy_direction direction)
{
	double one_ns, many_ns;
	struct cost_shape shape = { .direction = direction, .rectangles = 1, .runs = 1,
				    .run_bytes = COST_SPEED_RUN_BYTES };

	one_ns = cost_estimate(table, cost_choose(table, allowed, &shape), &shape);
	shape.runs = COST_MANY;
	many_ns = cost_estimate(table, cost_choose(table, allowed, &shape), &shape);
	if (!isfinite(one_ns) || !isfinite(many_ns) || many_ns <= one_ns)
		return (struct cost_speed){ 0 };
	double byte_ns = (many_ns - one_ns) / ((COST_MANY - 1) * (double)COST_SPEED_RUN_BYTES);
	double latency_ns = one_ns - byte_ns * (double)COST_SPEED_RUN_BYTES;
	return (struct cost_speed){ .latency_us = latency_ns > 0 ? latency_ns / 1000 : 0,
				    .bytes_us = 1000 / byte_ns };
}

/* ---- as text ---- */

const char *cost_path_name(enum copy_path path)
{
	assert(path < COPY_PATHS);
	return path_names[path];
}

size_t cost_print(const struct cost_table *table, const char *of, char text[COST_TEXT_BYTES])
{
	size_t used = (size_t)snprintf(text, COST_TEXT_BYTES, HEAD "%.200s\n", of);

	for (unsigned direction = 0; direction < COPY_DIRECTIONS; direction++)
		for (unsigned path = 0; path < COPY_PATHS; path++) {
			if (!is_measured(table, direction, path))
				continue;
			used += (size_t)snprintf(text + used, COST_TEXT_BYTES - used, "%s %s",
						 direction_names[direction], path_names[path]);
			for (unsigned n = 0; n < COST_LENGTHS; n++) {
				const struct cost_line *line = &table->lines[direction][path][n];

				used += (size_t)snprintf(text + used, COST_TEXT_BYTES - used,
							 " %.6g+%.6g", (double)line->start_ns,
							 (double)line->run_ns);
			}
			used += (size_t)snprintf(text + used, COST_TEXT_BYTES - used, "\n");
		}
	return used;
}

static int name_find(const char *const *names, unsigned count, const char *name)
{
	for (unsigned n = 0; n < count; n++)
		if (strcmp(names[n], name) == 0)
			return (int)n;
	return -1;
}

/* One line of numbers; false: not one. */
static bool row_read(const char *text, struct cost_table *table)
{
	char direction_name[16], path_name[16];
	int used = 0;

	if (sscanf(text, "%15s %15s%n", direction_name, path_name, &used) != 2)
		return false;
	int direction = name_find(direction_names, COPY_DIRECTIONS, direction_name);
	int path = name_find(path_names, COPY_PATHS, path_name);
	if (direction < 0 || path < 0)
		return false;
	for (unsigned n = 0; n < COST_LENGTHS; n++) {
		struct cost_line line;
		int more = 0;

		text += used;
		if (sscanf(text, " %f+%f%n", &line.start_ns, &line.run_ns, &more) != 2 ||
		    !isfinite(line.start_ns) || !isfinite(line.run_ns) || line.start_ns < 0 ||
		    line.run_ns <= 0)
			return false;
		used = more;
		table->lines[direction][path][n] = line;
	}
	return text[used] == '\0';
}

int cost_read(const char *text, const char *of, struct cost_table *out_table, struct error *error)
{
	struct cost_table table = { 0 };
	char head[sizeof(HEAD) + 200], line[COST_TEXT_BYTES];

	snprintf(head, sizeof(head), HEAD "%.200s", of);
	for (unsigned number = 1; *text != '\0'; number++) {
		size_t bytes = strcspn(text, "\n");

		if (text[bytes] != '\n' || bytes >= sizeof(line))
			return error_set(error, -EINVAL, "line %u of the copy costs is not whole",
					 number);
		memcpy(line, text, bytes);
		line[bytes] = '\0';
		text += bytes + 1;
		if (number == 1 && strncmp(line, HEAD, sizeof(HEAD) - 1) != 0)
			return error_set(error, -EINVAL, "these are no copy costs");
		if (number == 1 && strcmp(line, head) != 0)
			return error_set(error, -ENOENT, "the copy costs are those of \"%.80s\"",
					 line + sizeof(HEAD) - 1);
		if (number > 1 && !row_read(line, &table))
			return error_set(error, -EINVAL, "line %u of the copy costs is damaged",
					 number);
		if (number > 1 + COPY_DIRECTIONS * COPY_PATHS)
			return error_set(error, -EINVAL, "the copy costs have too many lines");
	}
	if (!is_measured(&table, COPY_STORE, COPY_LOOP) ||
	    !is_measured(&table, COPY_LOAD, COPY_LOOP))
		return error_set(error, -EINVAL, "the copy costs end too early");
	*out_table = table;
	return 0;
}
