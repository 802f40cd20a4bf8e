/* tests/daemon/test_daemon_memory.c: once clients are registered, the data path neither allocates
 * nor frees: malloc and its kin are counted while blocks are stored, looked up, loaded, written
 * down, evicted and raised. */
#include "tests/daemon/rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdlib.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_COUNTED 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
	__has_feature(memory_sanitizer)
#define IS_COUNTED 0
#endif
#endif
#ifndef IS_COUNTED
#define IS_COUNTED 1
#endif

/* Volatile, as compilers know that malloc() does not touch what is static here. */
static volatile bool is_counting;
static volatile unsigned long calls_count;

#if IS_COUNTED
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);
void __libc_free(void *memory);

__attribute__((visibility("default"))) void *malloc(size_t bytes)
{
	calls_count += is_counting;
	return __libc_malloc(bytes);
}

__attribute__((visibility("default"))) void *calloc(size_t count, size_t bytes)
{
	calls_count += is_counting;
	return __libc_calloc(count, bytes);
}

__attribute__((visibility("default"))) void *realloc(void *memory, size_t bytes)
{
	calls_count += is_counting;
	return __libc_realloc(memory, bytes);
}

__attribute__((visibility("default"))) void free(void *memory)
{
	calls_count += is_counting && memory != NULL;
	__libc_free(memory);
}
#endif

/* A catalogue that takes no memory: the real one has a process of its own. */

static int none_open(void **out_catalog, const char *path, struct error *error)
{
	static int nothing;

	(void)path;
	(void)error;
	*out_catalog = &nothing;
	return 0;
}

static void none_identify(void *catalog, struct catalog_identity *out_identity)
{
	(void)catalog;
	*out_identity = (struct catalog_identity){ .id = { 1 }, .is_complete = true };
}

static int none_write(void *catalog, const struct catalog_message *messages, unsigned count,
		      struct error *error)
{
	(void)catalog;
	(void)messages;
	(void)count;
	(void)error;
	return 0;
}

static int none_scan(void *catalog, struct catalog_scan *scan, struct error *error)
{
	(void)catalog;
	(void)error;
	scan->skipped = 0;
	return 0;
}

static int none_clear(void *catalog, struct error *error)
{
	(void)catalog;
	(void)error;
	return 0;
}

static void none_close(void *catalog)
{
	(void)catalog;
}

static const struct catalog_ops none_ops = {
	.name = "none",
	.open = none_open,
	.identify = none_identify,
	.write = none_write,
	.scan = none_scan,
	.clear = none_clear,
	.close = none_close,
};

static void work(struct rig *rig, struct rig_client *client, unsigned rounds)
{
	for (unsigned i = 0; i < rounds; i++) {
		struct rig_blocks blocks = { .first = 1 + 1000 * i, .count = 20, .version = 1 };
		struct rig_keys keys = { .first = blocks.first, .count = 20 };

		(void)rig_store(client, &blocks);
		struct rig_found found = rig_lookup(client, &keys, 1, RIG_SECOND);
		blocks.lease = found.lease;
		(void)rig_load(client, &blocks);
		rig_settle(rig);
		rig_drop_cpu(client, 0, blocks.first, 20);
		(void)rig_load(client, &blocks);
		(void)rig_hint(client, FRAME_HINT_PREFETCH, &blocks, 0);
		(void)rig_explain(client, 0, blocks.first);
		rig_pass_time(rig, RIG_SECOND);
	}
}

static void count_calls(const char *encryption)
{
	struct rig rig;
	struct rig_client *client;

	if (!IS_COUNTED)
		skip();
	rig_init(&rig, &(struct rig_config){ .catalog_ops = &none_ops, .encryption = encryption });
	client = rig_register(&rig, NULL);
	void *volatile canary = malloc(1);
	calls_count = 0;
	is_counting = true;
	work(&rig, client, 60);
	is_counting = false;
	assert_int_equal(calls_count, 0);
	assert_true(rig.daemon->counters.evictions[TIER_CPU] > 0);
	assert_true(rig.daemon->counters.evictions[TIER_NVME] > 0);
	assert_true(rig.daemon->counters.up_blocks > 0);
	/* The counter counts. */
	is_counting = true;
	free(canary);
	is_counting = false;
	assert_int_equal(calls_count, 1);
	rig_finish(&rig);
}

static void the_data_path_neither_allocates_nor_frees(void **unused)
{
	(void)unused;
	count_calls("off");
}

static void nor_does_it_with_encryption(void **unused)
{
	(void)unused;
	count_calls("key_file");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_data_path_neither_allocates_nor_frees),
		cmocka_unit_test(nor_does_it_with_encryption),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
