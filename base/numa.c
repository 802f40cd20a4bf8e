/* base/numa.c: see numa.h. */
#include "base/numa.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if HAVE_NUMA
#include <numaif.h>
#endif

#define LINE_BYTES 512u
/* A piece is one mapping of the kernel's: few enough, and each of whole huge pages. */
#define PIECE_BYTES (UINT64_C(64) << 20)
#define PIECES_MAX 1024u
#define LOOK_PAGES 1024u

/* One number at `*text`, which is moved behind it. */
static int node_read(const char **text)
{
	char *end;
	unsigned long node;

	if (**text < '0' || **text > '9')
		return -EINVAL;
	node = strtoul(*text, &end, 10);
	*text = end;
	return node < NUMA_NODES_MAX ? (int)node : -EINVAL;
}

int numa_nodes_read(const char *text, uint64_t *out_nodes)
{
	uint64_t nodes = 0;

	for (;;) {
		int first = node_read(&text), last = first;

		if (first >= 0 && *text == '-') {
			text++;
			last = node_read(&text);
		}
		if (first < 0 || last < first)
			return -EINVAL;
		for (int node = first; node <= last; node++)
			nodes |= UINT64_C(1) << node;
		if (*text == '\0')
			break;
		if (*text++ != ',')
			return -EINVAL;
	}
	*out_nodes = nodes;
	return 0;
}

const char *numa_nodes_write(uint64_t nodes, char text[NUMA_NODES_BYTES])
{
	size_t at = 0;

	text[0] = '\0';
	for (unsigned node = 0; node < NUMA_NODES_MAX; node++) {
		unsigned last = node;

		if ((nodes >> node & 1) == 0)
			continue;
		while (last + 1 < NUMA_NODES_MAX && (nodes >> (last + 1) & 1) != 0)
			last++;
		at += (size_t)snprintf(text + at, NUMA_NODES_BYTES - at, "%s%u", at > 0 ? "," : "",
				       node);
		if (last > node)
			at += (size_t)snprintf(text + at, NUMA_NODES_BYTES - at, "-%u", last);
		node = last;
	}
	return text;
}

/* The first line of a file, without its end; false: there is none. */
static bool line_read(const char *path, char line[LINE_BYTES])
{
	FILE *file = fopen(path, "re");
	bool is_read;

	if (file == NULL)
		return false;
	is_read = fgets(line, (int)LINE_BYTES, file) != NULL;
	fclose(file);
	if (is_read)
		line[strcspn(line, "\n")] = '\0';
	return is_read;
}

uint64_t numa_nodes_with_memory(const char *folder)
{
	char path[PATH_MAX], line[LINE_BYTES];
	uint64_t nodes;

	snprintf(path, sizeof(path), "%s/has_memory", folder);
	return line_read(path, line) && numa_nodes_read(line, &nodes) == 0 ? nodes : 0;
}

int numa_node_of_pci(const char *folder, const char *bus_id)
{
	char path[PATH_MAX], line[LINE_BYTES];
	const char *text = line;

	snprintf(path, sizeof(path), "%s/%s/numa_node", folder, bus_id);
	if (!line_read(path, line))
		return -1;
	int node = node_read(&text);
	return node >= 0 && *text == '\0' ? node : -1;
}

const char *numa_strerror(int result)
{
	switch (result) {
	case -EPERM:
		return "not allowed: it needs CAP_SYS_NICE in containers, or a seccomp profile with mbind and move_pages";
	case -EINVAL:
		return "this machine, or this cpuset, has no memory on such a node";
	case -ENOSYS:
		return HAVE_NUMA ? "this kernel has no NUMA" : "kvtierd was built without libnuma";
	default:
		return strerror(-result);
	}
}

#if HAVE_NUMA

bool numa_is_built_in(void)
{
	return true;
}

static unsigned node_after(uint64_t nodes, unsigned node)
{
	do
		node = (node + 1) % NUMA_NODES_MAX;
	while ((nodes >> node & 1) == 0);
	return node;
}

int numa_prefer(void *start, uint64_t bytes, uint64_t nodes)
{
	uint64_t piece = bytes;
	unsigned node = NUMA_NODES_MAX - 1;

	if (nodes == 0 || bytes == 0)
		return -EINVAL;
	if ((nodes & (nodes - 1)) != 0) {
		piece = bytes / PIECES_MAX / PIECE_BYTES * PIECE_BYTES + PIECE_BYTES;
	}
	for (uint64_t at = 0; at < bytes; at += piece) {
		uint64_t rest = bytes - at < piece ? bytes - at : piece;
		unsigned long mask;

		node = node_after(nodes, node);
		mask = 1ul << node;
		/* The kernel leaves out the last bit of what it is told to look at. */
		if (mbind((uint8_t *)start + at, rest, MPOL_PREFERRED, &mask, NUMA_NODES_MAX + 1,
			  0) < 0)
			return -errno;
	}
	return 0;
}

int numa_look(const void *start, uint64_t bytes, unsigned samples_max,
	      unsigned out_counts[NUMA_NODES_MAX])
{
	uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE), pages = bytes / page_bytes;
	uint64_t samples = pages < samples_max ? pages : samples_max;
	unsigned found = 0;

	memset(out_counts, 0, NUMA_NODES_MAX * sizeof(out_counts[0]));
	for (uint64_t done = 0; done < samples;) {
		void *at[LOOK_PAGES];
		int node[LOOK_PAGES];
		unsigned count = 0;

		for (; count < LOOK_PAGES && done < samples; count++, done++)
			at[count] = (uint8_t *)(uintptr_t)start +
				    pages * done / samples * page_bytes;
		/* Without nodes to go to, it says where each lies. */
		if (move_pages(0, count, at, NULL, node, 0) < 0)
			return -errno;
		for (unsigned i = 0; i < count; i++)
			if (node[i] >= 0 && node[i] < (int)NUMA_NODES_MAX) {
				out_counts[node[i]]++;
				found++;
			}
	}
	return (int)found;
}

#else

bool numa_is_built_in(void)
{
	return false;
}

int numa_prefer(void *start, uint64_t bytes, uint64_t nodes)
{
	(void)start;
	(void)bytes;
	(void)nodes;
	return -ENOSYS;
}

int numa_look(const void *start, uint64_t bytes, unsigned samples_max,
	      unsigned out_counts[NUMA_NODES_MAX])
{
	(void)start;
	(void)bytes;
	(void)samples_max;
	memset(out_counts, 0, NUMA_NODES_MAX * sizeof(out_counts[0]));
	return -ENOSYS;
}

#endif
