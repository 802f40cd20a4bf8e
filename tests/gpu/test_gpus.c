/*
 * tests/gpu/test_gpus.c: a whole node opens a GPU of the fake driver, and what is lent to it is
 * pulled: daemon, GPU's process and inference engine. The GPU's process is this program again.
 */
#include "daemon/gpus.h"
#include "daemon/threads.h"
#include "tests/gpu/device_rig.h"
#include "transfer/job_words.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define BLOCKS 16u
#define PAYLOAD_BYTES (ENGINE_BYTES / BLOCKS)
#define TURNS_MAX 20000u
#define TURN_US 2000u
#define NOT_YET 1
#define TENANT 1u
#define OFFSET (ARENA_HEAD_BYTES + 4096u) /* of the first block, in the arena */

struct noted {
	struct gpu_copy copy;
	unsigned ends;
	int result;
};

static char folder[64];

static struct scene {
	struct daemon *daemon;
	struct threads threads;
	struct engine engine;
	struct lent_memory lent;
	int words_fd, answer;
	unsigned returned;
	char text[GPU_TEXT_BYTES];
	struct noted copies[BLOCKS];
	struct {
		struct lend head;
		struct lend_region region;
		struct lend_group group;
		struct lend_plane plane;
	} packet;
} scene;

static void answered(struct lent_memory *lent, int result, const char *text)
{
	assert_ptr_equal(lent, &scene.lent);
	scene.answer = result;
	snprintf(scene.text, sizeof(scene.text), "%s", text);
}

static void returned(struct lent_memory *lent)
{
	assert_ptr_equal(lent, &scene.lent);
	scene.returned++;
}

static void turn(void)
{
	bool did_work = daemon_step(scene.daemon);

	daemon_wait(scene.daemon, did_work ? 0 : TURN_US);
}

#define AWAIT(what) \
	do { \
		bool is_so = false; \
		for (unsigned turns = 0; !(is_so = (what)) && turns < TURNS_MAX; turns++) \
			turn(); \
		assert_true(is_so); \
	} while (0)

static struct gpu_figures figures(void)
{
	struct gpu_figures found;

	assert_int_equal(gpus_count(scene.daemon), 1);
	gpus_figures(scene.daemon, 0, &found);
	return found;
}

static void settings_make(struct settings *settings)
{
	const char *const pairs[][2] = {
		{ "http_listen", "" }, { "extent_bytes", "1MiB" }, { "huge_pages", "never" },
		{ "gpus", "cuda:" FAKE_BUS_ID_0 }, { "gpu_library", rig_library() },
		{ "tenants.0.name", "one" }, { "tenants.0.cpu_bytes", "2MiB" },
		{ "tenants.1.name", "two" }, { "tenants.1.cpu_bytes", "4MiB" },
	};
	struct error error;

	settings_default(settings);
	snprintf(settings->run_directory, sizeof(settings->run_directory), "%s/run", folder);
	snprintf(settings->state_directory, sizeof(settings->state_directory), "%s/state", folder);
	for (unsigned n = 0; n < sizeof(pairs) / sizeof(pairs[0]); n++)
		assert_int_equal(settings_set(settings, pairs[n][0], pairs[n][1], "test", &error), 0);
	assert_int_equal(settings_finish(settings, &error), 0);
}

static void packet_make(const char *device)
{
	scene.packet.head = (struct lend){ .regions_count = 1, .groups_count = 1, .planes_count = 1,
					   .word_region = LEND_NO_WORD };
	snprintf(scene.packet.head.device, sizeof(scene.packet.head.device), "%s", device);
	scene.packet.region = (struct lend_region){ .bytes = ENGINE_BYTES, .kind = LEND_HANDLE,
						    .handle = scene.engine.handle };
	scene.packet.group = (struct lend_group){ BLOCKS, 1 };
	scene.packet.plane = (struct lend_plane){ .stride = PAYLOAD_BYTES, .bytes = PAYLOAD_BYTES };
}

static int lend(const char *device, struct error *error)
{
	const struct pull_ops *ops = scene.daemon->pull_ops;

	scene.answer = NOT_YET;
	scene.lent = (struct lent_memory){ .answered = answered, .returned = returned };
	packet_make(device);
	return ops->lend(scene.daemon, &scene.lent, &scene.packet, sizeof(scene.packet),
			 &scene.words_fd, 1, error);
}

static void lend_and_await(const char *device)
{
	struct error error;

	AWAIT(lend(device, &error) == 0);
	AWAIT(scene.answer != NOT_YET);
	if (scene.answer < 0)
		fail_msg("%d: %s", scene.answer, scene.text);
}

static void done(struct gpu_copy *copy, int result)
{
	struct noted *noted = (struct noted *)copy;

	noted->ends++;
	noted->result = result;
}

static uint8_t *arena_at(uint32_t block)
{
	return scene.daemon->tenants[TENANT].arena.start + OFFSET + block * PAYLOAD_BYTES;
}

static int copy_ask(uint32_t block, enum copy_direction direction)
{
	struct noted *noted = &scene.copies[block];

	*noted = (struct noted){
		.copy = { .block = block, .direction = direction,
			  .offset = OFFSET + block * PAYLOAD_BYTES, .job = 1,
			  .deadline_us = clock_now_us(clock_real()) + 60000000, .done = done },
	};
	return scene.daemon->pull_ops->copy(scene.daemon, &scene.lent,
					    &scene.daemon->tenants[TENANT], &noted->copy);
}

static bool all_have_ended(void)
{
	for (uint32_t n = 0; n < BLOCKS; n++)
		if (scene.copies[n].ends == 0)
			return false;
	return true;
}

static void copy_all(enum copy_direction direction, int result)
{
	for (uint32_t n = 0; n < BLOCKS; n++)
		AWAIT(copy_ask(n, direction) == 0);
	AWAIT(all_have_ended());
	for (uint32_t n = 0; n < BLOCKS; n++) {
		assert_int_equal(scene.copies[n].ends, 1);
		assert_int_equal(scene.copies[n].result, result);
	}
}

static int scene_open(void **unused)
{
	static struct settings settings;
	struct error error = { 0 };

	(void)unused;
	rig_control_reset();
	memset(&scene, 0, sizeof(scene));
	engine_start(&scene.engine);
	scene.words_fd = memfd_create("words", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(scene.words_fd, sizeof(struct job_words)), 0);
	assert_int_equal(fcntl(scene.words_fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	settings_make(&settings);
	if (daemon_create(&scene.daemon, &settings, NULL, &error) < 0)
		fail_msg("%s", error.text);
	assert_int_equal(threads_start(&scene.threads, scene.daemon, &error), 0);
	return 0;
}

static void daemon_end(void)
{
	if (scene.daemon == NULL)
		return;
	daemon_stop(scene.daemon);
	AWAIT(daemon_is_drained(scene.daemon));
	threads_stop(&scene.threads);
	daemon_destroy(scene.daemon);
	scene.daemon = NULL;
}

static int scene_close(void **unused)
{
	(void)unused;
	daemon_end();
	engine_stop(&scene.engine);
	close(scene.words_fd);
	return 0;
}

static void blocks_are_pulled_into_the_tenants_own_arena(void **unused)
{
	(void)unused;
	lend_and_await(FAKE_BUS_ID_0);
	copy_all(COPY_STORE, 0);
	assert_int_equal(rig_differs(arena_at(0), ENGINE_BYTES, ENGINE_SEED), ENGINE_BYTES);
	rig_fill(arena_at(0), ENGINE_BYTES, ENGINE_NEW_SEED);
	copy_all(COPY_LOAD, 0);
	assert_int_equal(figures().counters.done[COPY_STORE], BLOCKS);
	assert_int_equal(figures().counters.bytes[COPY_STORE], ENGINE_BYTES);
	assert_int_equal(figures().counters.bytes[COPY_LOAD], ENGINE_BYTES);
	scene.daemon->pull_ops->give_back(scene.daemon, &scene.lent);
	AWAIT(scene.returned == 1);
	assert_int_equal(copy_ask(0, COPY_STORE), -ENODEV);
	/* What was loaded is the engine's now. */
	lend_and_await(FAKE_BUS_ID_0);
	memset(arena_at(0), 0, ENGINE_BYTES);
	copy_all(COPY_STORE, 0);
	assert_int_equal(rig_differs(arena_at(0), ENGINE_BYTES, ENGINE_NEW_SEED), ENGINE_BYTES);
}

static void a_device_is_found_however_it_is_named(void **unused)
{
	char uuid[sizeof(((struct gpu_link_status *)0)->uuid)];

	(void)unused;
	lend_and_await("00000000:17:00.0");
	scene.daemon->pull_ops->give_back(scene.daemon, &scene.lent);
	AWAIT(scene.returned == 1);
	snprintf(uuid, sizeof(uuid), "%s", figures().link.uuid);
	assert_int_equal(strncmp(uuid, "GPU-", 4), 0);
	lend_and_await(uuid);
	assert_true(scene.daemon->pull_ops->process_fd(scene.daemon, &scene.lent) >= 0);
}

static void what_cannot_be_lent_says_why(void **unused)
{
	struct error error;

	(void)unused;
	/* Nothing has turned: the process is not even there. */
	assert_int_equal(lend(FAKE_BUS_ID_0, &error), -EAGAIN);
	assert_non_null(strstr(error.text, "being opened"));
	assert_int_equal(lend("GPU-00000000-0000-0000-0000-000000000000", &error), -EAGAIN);
	AWAIT(figures().state == GPU_OPEN);
	assert_int_equal(lend("GPU-00000000-0000-0000-0000-000000000000", &error), -ENODEV);
	assert_int_equal(lend(FAKE_BUS_ID_1, &error), -ENODEV);
	assert_non_null(strstr(error.text, FAKE_BUS_ID_1));
	assert_non_null(strstr(error.text, "gpus"));
	/* A handle that names nothing: found out by the driver. */
	scene.engine.handle.bytes[0] ^= 0xff;
	assert_int_equal(lend(FAKE_BUS_ID_0, &error), 0);
	AWAIT(scene.answer != NOT_YET);
	assert_true(scene.answer < 0 && scene.text[0] != '\0');
	assert_int_equal(copy_ask(0, COPY_STORE), -ENODEV);
	assert_int_equal(scene.returned, 0);
	scene.engine.handle.bytes[0] ^= 0xff;
}

static void a_death_brings_all_home_and_lending_goes_on(void **unused)
{
	(void)unused;
	lend_and_await(FAKE_BUS_ID_0);
	/* On a busy machine the start was tried again. */
	uint32_t restarts = figures().link.restarts;
	atomic_store(&rig_control->is_stalled, 1);
	for (uint32_t n = 0; n < BLOCKS; n++)
		AWAIT(copy_ask(n, COPY_STORE) == 0);
	kill(figures().link.pid, SIGKILL);
	AWAIT(scene.returned == 1);
	assert_true(all_have_ended());
	assert_int_equal(scene.copies[0].result, -EIO);
	assert_int_equal(figures().counters.failed[COPY_STORE], BLOCKS);
	assert_int_equal(scene.daemon->pull_ops->process_fd(scene.daemon, &scene.lent), -1);
	assert_true(scene.daemon->pull_ops->cancel(scene.daemon, &scene.lent, 1));
	atomic_store(&rig_control->is_stalled, 0);
	lend_and_await(FAKE_BUS_ID_0);
	assert_true(figures().link.restarts > restarts);
}

/* Who hears of the end asks for the next copy. */
static void done_asks_again(struct gpu_copy *copy, int result)
{
	done(copy, result);
	assert_int_equal(copy_ask(BLOCKS - 1, COPY_STORE), -ENODEV);
}

static void a_daemon_that_ends_first_waits_for_the_process(void **unused)
{
	(void)unused;
	lend_and_await(FAKE_BUS_ID_0);
	atomic_store(&rig_control->is_stalled, 1);
	AWAIT(copy_ask(0, COPY_STORE) == 0);
	scene.copies[0].copy.done = done_asks_again;
	daemon_end();
	assert_int_equal(scene.copies[0].ends, 1);
	assert_int_equal(scene.copies[0].result, -EIO);
	assert_int_equal(scene.returned, 1);
	atomic_store(&rig_control->is_stalled, 0);
}

/* ---- the machine lies in the folder that GPUs' processes may write ---- */

static int machine_make(void **state)
{
	char path[96];

	(void)state;
	snprintf(folder, sizeof(folder), "/dev/shm/kvtier-gpus-XXXXXX");
	if (mkdtemp(folder) == NULL)
		return -1;
	snprintf(path, sizeof(path), "%s/state", folder);
	if (mkdir(path, 0700) < 0)
		return -1;
	strcat(path, "/gpu");
	setenv(FAKE_ENVIRONMENT, path, 1);
	return mkdir(path, 0700) < 0 ? -1 : rig_machine_again();
}

static int path_remove(const char *path, const struct stat *status, int flag, struct FTW *place)
{
	(void)status;
	(void)flag;
	(void)place;
	return remove(path);
}

static int machine_remove(void **state)
{
	(void)state;
	munmap(rig_control, sizeof(*rig_control));
	return nftw(folder, path_remove, 16, FTW_DEPTH | FTW_PHYS);
}

#define SCENE(name) cmocka_unit_test_setup_teardown(name, scene_open, scene_close)

int main(int count, char **arguments)
{
	const struct CMUnitTest tests[] = {
		SCENE(blocks_are_pulled_into_the_tenants_own_arena),
		SCENE(a_device_is_found_however_it_is_named),
		SCENE(what_cannot_be_lent_says_why),
		SCENE(a_death_brings_all_home_and_lending_goes_on),
		SCENE(a_daemon_that_ends_first_waits_for_the_process),
	};

	if (count > 2 && strcmp(arguments[1], "--worker") == 0)
		return gpu_worker_main(count, arguments);
	if (count == 2 && strcmp(arguments[0], "engine") == 0)
		return engine_main(atoi(arguments[1]));
	return cmocka_run_group_tests(tests, machine_make, machine_remove);
}
