/* tests/base/test_numa.c: lists of nodes, a false /sys, and where real pages are put and found. */
#include "base/numa.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define BYTES (UINT64_C(4) << 20)
#define NODE_NOBODY_HAS 63u

static void lists_are_read_and_written(void **unused)
{
	static const struct {
		const char *text, *written;
		uint64_t nodes;
	} lists[] = {
		{ "0", "0", 1 },
		{ "0,2-3", "0,2-3", 13 },
		{ "5-5", "5", 32 },
		{ "3,1,2", "1-3", 14 },
		{ "63", "63", UINT64_C(1) << 63 },
		{ "0-63", "0-63", UINT64_MAX },
	};

	(void)unused;
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		char text[NUMA_NODES_BYTES];
		uint64_t nodes = 0;

		assert_int_equal(numa_nodes_read(lists[i].text, &nodes), 0);
		assert_int_equal(nodes, lists[i].nodes);
		assert_string_equal(numa_nodes_write(nodes, text), lists[i].written);
	}
}

static void every_other_node_has_room_in_the_text(void **unused)
{
	char text[NUMA_NODES_BYTES];
	uint64_t nodes;

	(void)unused;
	numa_nodes_write(UINT64_C(0x5555555555555555), text);
	assert_int_equal(numa_nodes_read(text, &nodes), 0);
	assert_int_equal(nodes, UINT64_C(0x5555555555555555));
	assert_string_equal(numa_nodes_write(0, text), "");
}

static void what_is_no_list_is_refused(void **unused)
{
	static const char *const texts[] = { "", ",", "0,", ",0", "a", "0-", "-1", "3-2", "64",
					     "0-64", "0 1", "99999999999999999999", "1--2", "1-2-3" };

	(void)unused;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		uint64_t nodes = 7;

		assert_int_equal(numa_nodes_read(texts[i], &nodes), -EINVAL);
		assert_int_equal(nodes, 7);
	}
}

static void file_write(const char *folder, const char *name, const char *text)
{
	char path[200];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	file = fopen(path, "we");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

static void devices_and_memory_have_the_nodes_that_sys_says(void **unused)
{
	static const struct {
		const char *text;
		int node;
	} files[] = { { "1\n", 1 }, { "-1\n", -1 },  { "\n", -1 },
		      { "", -1 },   { "2x\n", -1 }, { "64\n", -1 } };
	char folder[] = "/tmp/kvtier-numa-XXXXXX", device[200], path[260];

	(void)unused;
	assert_non_null(mkdtemp(folder));
	assert_int_equal(numa_nodes_with_memory(folder), 0);
	assert_int_equal(numa_node_of_pci(folder, "0000:17:00.0"), -1);
	snprintf(device, sizeof(device), "%s/0000:17:00.0", folder);
	assert_int_equal(mkdir(device, 0700), 0);
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		file_write(device, "numa_node", files[i].text);
		assert_int_equal(numa_node_of_pci(folder, "0000:17:00.0"), files[i].node);
	}
	file_write(folder, "has_memory", "0-1,4\n");
	assert_int_equal(numa_nodes_with_memory(folder), 19);
	snprintf(path, sizeof(path), "%s/numa_node", device);
	unlink(path);
	rmdir(device);
	snprintf(path, sizeof(path), "%s/has_memory", folder);
	unlink(path);
	assert_int_equal(rmdir(folder), 0);
}

static uint8_t *mapped(void)
{
	uint8_t *start = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
			      0);

	assert_true(start != MAP_FAILED);
	return start;
}

/* With the nodes of this machine: on most there is one, and all is there. */
static void pages_lie_where_they_are_preferred(void **unused)
{
	uint64_t there = numa_nodes_with_memory(NUMA_NODE_FOLDER);
	unsigned counts[NUMA_NODES_MAX];
	uint64_t sum = 0;

	(void)unused;
	if (!numa_is_built_in() || there == 0)
		skip();
	uint8_t *start = mapped();
	assert_int_equal(numa_look(start, BYTES, 100, counts), 0); /* none is there */
	int result = numa_prefer(start, BYTES, there);
	if (result == -EPERM || result == -ENOSYS)
		skip(); /* in a container that refuses it */
	assert_int_equal(result, 0);
	memset(start, 1, BYTES);
	assert_int_equal(numa_look(start, BYTES, 100, counts), 100);
	for (unsigned node = 0; node < NUMA_NODES_MAX; node++)
		sum += (there >> node & 1) != 0 ? counts[node] : 0;
	assert_int_equal(sum, 100);
	/* More than one call looks at, and never more than there are. */
	assert_int_equal(numa_look(start, BYTES, 5000, counts),
			 BYTES / (uint64_t)sysconf(_SC_PAGESIZE));
	munmap(start, BYTES);
}

static void a_node_that_is_not_there_is_an_error(void **unused)
{
	uint8_t *start = mapped();

	(void)unused;
	assert_true(numa_prefer(start, BYTES, UINT64_C(1) << NODE_NOBODY_HAS) < 0);
	if (numa_is_built_in())
		assert_int_equal(numa_prefer(start, BYTES, 0), -EINVAL);
	assert_non_null(strstr(numa_strerror(-EPERM), "CAP_SYS_NICE"));
	assert_non_null(strstr(numa_strerror(-EINVAL), "node"));
	munmap(start, BYTES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lists_are_read_and_written),
		cmocka_unit_test(every_other_node_has_room_in_the_text),
		cmocka_unit_test(what_is_no_list_is_refused),
		cmocka_unit_test(devices_and_memory_have_the_nodes_that_sys_says),
		cmocka_unit_test(pages_lie_where_they_are_preferred),
		cmocka_unit_test(a_node_that_is_not_there_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
