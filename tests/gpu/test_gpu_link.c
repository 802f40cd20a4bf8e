/*
 * tests/gpu/test_gpu_link.c: daemon, GPU's process and inference engine as three processes, over
 * the fake driver. The GPU's process is this program again, with --worker gpu.
 */
#include "daemon/gpu_link.h"
#include "tests/gpu/device_rig.h"
#include "transfer/job_words.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define BLOCKS 32u
#define PAYLOAD_BYTES (ENGINE_BYTES / BLOCKS)
#define TURNS_MAX 20000u
#define TURN_MS 2
#define NOT_YET 1

struct noted {
	struct gpu_copy copy;
	unsigned ends;
	int result;
};

static struct scene {
	struct clock clock; /* the machine's, and what a test adds */
	uint64_t added_us;
	uint64_t held_us; /* what the clock says; 0: it runs */
	struct engine engine;
	struct gpu_link *link;
	int arena_fd, words_fd;
	uint8_t *arena;
	struct job_words *words;
	struct noted copies[BLOCKS];
	int lent;
	unsigned returned;
	uint32_t number;
	char text[GPU_TEXT_BYTES];
} scene;

static uint64_t scene_now_us(struct clock *clock)
{
	(void)clock;
	if (scene.held_us > 0)
		return scene.held_us;
	return clock_now_us(clock_real()) + scene.added_us;
}

static void lent(void *owner, uint32_t number, int result, const char *text)
{
	(void)owner;
	assert_int_equal(number, scene.number);
	scene.lent = result;
	snprintf(scene.text, sizeof(scene.text), "%s", text);
}

static void returned(void *owner, uint32_t number)
{
	(void)owner;
	assert_int_equal(number, scene.number);
	scene.returned++;
}

static void copied(void *owner, const struct gpu_copy *copy, int result)
{
	const struct noted *noted = (const struct noted *)copy;

	(void)owner;
	(void)result;
	assert_int_equal(noted->ends, 0);
}

static void turn(void)
{
	struct pollfd waiting = { .fd = worker_fd(gpu_link_worker(scene.link)), .events = POLLIN };

	gpu_link_step(scene.link, scene_now_us(NULL));
	if (!worker_sleep(gpu_link_worker(scene.link)))
		return;
	(void)poll(&waiting, 1, TURN_MS);
	worker_awake(gpu_link_worker(scene.link));
}

#define AWAIT(what) \
	do { \
		bool is_so = false; \
		for (unsigned turns = 0; !(is_so = (what)) && turns < TURNS_MAX; turns++) \
			turn(); \
		assert_true(is_so); \
	} while (0)

static int memfd_make(uint64_t bytes, void **out_memory)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	*out_memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(*out_memory != MAP_FAILED);
	return fd;
}

static void scene_open(const char *library)
{
	const struct gpu_link_config config = { .vendor = "cuda", .bus_id = FAKE_BUS_ID_0,
						.library = library, .clock = &scene.clock,
						.folder = getenv(FAKE_ENVIRONMENT),
						.lent = lent, .returned = returned,
						.copied = copied };
	struct error error;

	rig_control_reset();
	memset(&scene, 0, sizeof(scene));
	scene.clock.now_us = scene_now_us;
	scene.lent = NOT_YET;
	engine_start(&scene.engine);
	scene.arena_fd = memfd_make(ENGINE_BYTES, (void **)&scene.arena);
	scene.words_fd = memfd_make(sizeof(struct job_words), (void **)&scene.words);
	assert_int_equal(gpu_link_create(&scene.link, &config, &error), 0);
	gpu_link_arena(scene.link, 0, scene.arena_fd, ENGINE_BYTES);
}

/* The fake counts what lives in processes that were killed; they say nothing when they go. */
static void scene_close(void)
{
	gpu_link_destroy(scene.link);
	munmap(scene.arena, ENGINE_BYTES);
	munmap(scene.words, sizeof(*scene.words));
	close(scene.arena_fd);
	close(scene.words_fd);
}

/* All that the engine has; blocks lie in one piece in what the handle names. */
static int lend(bool has_word)
{
	struct {
		struct lend head;
		struct lend_region regions[2];
		uint64_t fd_bytes[ENGINE_SEGMENTS];
		struct lend_group group;
		struct lend_plane plane;
	} packet = {
		.head = { .device = FAKE_BUS_ID_0, .regions_count = 2,
			  .fds_count = ENGINE_SEGMENTS, .groups_count = 1, .planes_count = 1,
			  .word_region = has_word ? 0 : LEND_NO_WORD },
		.regions = { { .bytes = ENGINE_BYTES, .kind = LEND_HANDLE,
			       .handle = scene.engine.handle },
			     { .bytes = ENGINE_SEGMENTS * ENGINE_SEGMENT_BYTES, .kind = LEND_FDS,
			       .fds_count = ENGINE_SEGMENTS } },
		.fd_bytes = { ENGINE_SEGMENT_BYTES, ENGINE_SEGMENT_BYTES, ENGINE_SEGMENT_BYTES },
		.group = { BLOCKS, 1 },
		.plane = { .stride = PAYLOAD_BYTES, .bytes = PAYLOAD_BYTES },
	};
	const int fds[] = { scene.words_fd, scene.engine.fds[0], scene.engine.fds[1],
			    scene.engine.fds[2] };

	return gpu_link_lend(scene.link, &packet, sizeof(packet), fds, 1 + ENGINE_SEGMENTS,
			     &scene.number);
}

static void lend_and_await(bool has_word)
{
	if (has_word)
		engine_write_word(&scene.engine, 4);
	scene.lent = NOT_YET;
	AWAIT(lend(has_word) == 0);
	AWAIT(scene.lent != NOT_YET);
	if (scene.lent < 0)
		fail_msg("%d: %s", scene.lent, scene.text);
	AWAIT(gpu_link_pinned(scene.link, 0) == ENGINE_BYTES);
}

static void done(struct gpu_copy *copy, int result)
{
	struct noted *noted = (struct noted *)copy;

	noted->ends++;
	noted->result = result;
}

static void ask_all(enum copy_direction direction, uint64_t gate_value)
{
	for (uint32_t n = 0; n < BLOCKS; n++) {
		scene.copies[n] = (struct noted){
			.copy = { .lent = scene.number, .block = n, .direction = direction,
				  .offset = n * PAYLOAD_BYTES, .gate_value = gate_value,
				  .deadline_us = scene_now_us(NULL) + 60000000, .job = 1,
				  .done = done },
		};
		AWAIT(gpu_link_copy(scene.link, &scene.copies[n].copy) == 0);
	}
}

static bool all_have_ended(void)
{
	for (uint32_t n = 0; n < BLOCKS; n++)
		if (scene.copies[n].ends == 0)
			return false;
	return true;
}

static void assert_ended(int result)
{
	for (uint32_t n = 0; n < BLOCKS; n++) {
		assert_int_equal(scene.copies[n].ends, 1);
		assert_int_equal(scene.copies[n].result, result);
	}
}

static void round_trip(void)
{
	ask_all(COPY_STORE, 0);
	AWAIT(all_have_ended());
	assert_ended(0);
	assert_int_equal(rig_differs(scene.arena, ENGINE_BYTES, ENGINE_SEED), ENGINE_BYTES);
	assert_int_equal(scene.words->words[0].moving, 0);
}

static void blocks_go_through_three_processes(void **unused)
{
	struct gpu_link_status status;

	(void)unused;
	scene_open(rig_library());
	assert_int_equal(lend(false), -ENODEV); /* not open yet */
	lend_and_await(false);
	round_trip();
	gpu_link_status(scene.link, &status);
	assert_true(status.is_ready && status.device[0] != '\0' && status.pid > 0);
	assert_int_equal(status.pinned_bytes, ENGINE_BYTES);
	assert_int_equal(status.lents, 1);
	gpu_link_return(scene.link, scene.number);
	AWAIT(scene.returned == 1);
	assert_int_equal(gpu_link_copy(scene.link, &scene.copies[0].copy), -ENODEV);
	engine_stop(&scene.engine);
	scene_close();
}

static void memory_that_is_asked_back_before_it_is_there_comes_back_once(void **unused)
{
	(void)unused;
	scene_open(rig_library());
	AWAIT(lend(false) == 0);
	gpu_link_return(scene.link, scene.number);
	AWAIT(scene.returned == 1);
	assert_int_equal(scene.lent, NOT_YET);
	lend_and_await(false);
	round_trip();
	gpu_link_return(scene.link, scene.number);
	AWAIT(scene.returned == 2);
	engine_stop(&scene.engine);
	scene_close();
}

static void a_process_that_is_killed_costs_its_copies_and_nothing_else(void **unused)
{
	(void)unused;
	scene_open(rig_library());
	lend_and_await(false);
	atomic_store(&rig_control->is_stalled, 1);
	ask_all(COPY_STORE, 0);
	AWAIT(scene.words->words[0].moving == BLOCKS);
	kill(worker_pid(gpu_link_worker(scene.link)), SIGKILL);
	AWAIT(all_have_ended());
	assert_ended(-EIO);
	assert_int_equal(scene.returned, 1);
	assert_int_equal(gpu_link_pinned(scene.link, 0), 0);
	atomic_store(&rig_control->is_stalled, 0);
	scene.words->words[0].moving = 0; /* as a client does that saw the exit */
	lend_and_await(false);
	round_trip();
	gpu_link_return(scene.link, scene.number);
	AWAIT(scene.returned == 2);
	engine_stop(&scene.engine);
	scene_close();
}

/* It beats, and yet nothing comes back. */
static void a_device_that_hangs_costs_its_process(void **unused)
{
	struct gpu_link_status status;

	(void)unused;
	scene_open(rig_library());
	lend_and_await(false);
	atomic_store(&rig_control->is_stalled, 1);
	ask_all(COPY_LOAD, 0);
	AWAIT(scene.words->words[0].moving == BLOCKS);
	/* Held, so that a slow machine does not take the last moment for the one after it. */
	scene.held_us = scene.copies[0].copy.deadline_us + GPU_LINK_LATE_US_MAX - 1;
	for (unsigned n = 0; n < 10; n++)
		turn();
	assert_false(all_have_ended());
	scene.added_us += 60000000 + GPU_LINK_LATE_US_MAX;
	scene.held_us = 0;
	AWAIT(all_have_ended());
	assert_ended(-EIO);
	gpu_link_status(scene.link, &status);
	assert_non_null(strstr(status.reason, "hangs"));
	atomic_store(&rig_control->is_stalled, 0);
	engine_stop(&scene.engine);
	scene_close();
}

static void memory_of_a_killed_engine_is_closed_within_a_bound(void **unused)
{
	uint64_t began_us;

	(void)unused;
	scene_open(rig_library());
	lend_and_await(true);
	ask_all(COPY_STORE, 9); /* a step that never comes */
	engine_kill(&scene.engine);
	began_us = scene_now_us(NULL);
	gpu_link_return(scene.link, scene.number);
	AWAIT(scene.returned == 1);
	AWAIT(all_have_ended());
	assert_ended(-ECANCELED);
	/* The import is what keeps the memory: it has gone with it. */
	assert_int_equal(rig_memory_used(), 0);
	print_message("closed %llu us after the engine's death\n",
		      (unsigned long long)(scene_now_us(NULL) - began_us));
	scene_close();
}

static void a_driver_that_is_not_there_is_named(void **unused)
{
	struct gpu_link_status status = { 0 };

	(void)unused;
	scene_open("/nowhere/libcuda.so.1");
	for (unsigned n = 0; status.reason[0] == '\0' && n < TURNS_MAX; n++) {
		turn();
		gpu_link_status(scene.link, &status);
	}
	assert_false(status.is_ready);
	assert_non_null(strstr(status.reason, "/nowhere/libcuda.so.1"));
	engine_stop(&scene.engine);
	scene_close();
}

int main(int count, char **arguments)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blocks_go_through_three_processes),
		cmocka_unit_test(memory_that_is_asked_back_before_it_is_there_comes_back_once),
		cmocka_unit_test(a_process_that_is_killed_costs_its_copies_and_nothing_else),
		cmocka_unit_test(a_device_that_hangs_costs_its_process),
		cmocka_unit_test(memory_of_a_killed_engine_is_closed_within_a_bound),
		cmocka_unit_test(a_driver_that_is_not_there_is_named),
	};

	if (count > 2 && strcmp(arguments[1], "--worker") == 0)
		return gpu_worker_main(count, arguments);
	if (count == 2 && strcmp(arguments[0], "engine") == 0)
		return engine_main(atoi(arguments[1]));
	return cmocka_run_group_tests(tests, rig_machine_open, rig_machine_close);
}
