/*
 * tests/gpu/test_gpu_server.c: blocks between an arena and what an engine, another process, has
 * lent; over the fake driver.
 */
#include "tests/gpu/device_rig.h"
#include "tiers/gpu/gpu_server.h"
#include "transfer/job_words.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define BLOCKS 32u /* of a group; group 0: the handle's memory, 1: that of the descriptors */
#define PLANE_BYTES (ENGINE_BYTES / 2 / BLOCKS)
#define PAYLOAD_BYTES (ENGINE_BYTES / BLOCKS)
#define ARENA_BYTES (2 * ENGINE_BYTES)
#define COPIES_MAX 1024u
#define STEPS_MAX 400000u
#define JOB 7u
#define JOB_PLACE 3u

static struct scene {
	struct rig rig;
	struct engine engine;
	struct gpu_server *server;
	struct cost_table costs;
	int arena_fd, words_fd;
	uint8_t *arena;
	struct job_words *words;
	uint64_t now_us, job;
	struct {
		unsigned count;
		int result;
	} answers[COPIES_MAX];
	uint32_t asked, answered;
	uint64_t pinned;
	uint64_t copies; /* of the engine's own, at its start */
	int lent, returned; /* the last result; 1: none yet */
	char text[GPU_TEXT_BYTES];
} scene;

static bool note(void *owner, const struct gpu_message *message)
{
	(void)owner;
	switch (message->verb) {
	case GPU_COPIED:
		assert_true(message->number < scene.asked);
		scene.answers[message->number].count++;
		scene.answers[message->number].result = message->result;
		scene.answered++;
		break;
	case GPU_PINNED:
		assert_int_equal(message->result, 0);
		scene.pinned = message->offset;
		break;
	case GPU_LENT:
		scene.lent = message->result;
		memcpy(scene.text, message->text, sizeof(scene.text));
		break;
	case GPU_RETURNED:
		scene.returned = message->result;
		break;
	default:
		fail_msg("verb %u", message->verb);
	}
	return true;
}

static int memfd_make(uint64_t bytes, unsigned seals, void **out_memory)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	*out_memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(*out_memory != MAP_FAILED);
	return fd;
}

/* Where nothing is to be done the fake device's threads get their time. */
static int step(bool may_submit)
{
	const struct timespec pause = { .tv_nsec = 20000 };
	struct error error;
	int result;

	scene.now_us++;
	result = gpu_server_step(scene.server, scene.now_us, may_submit, &error);
	if (result == 0)
		nanosleep(&pause, NULL);
	return result;
}

static int arena_send(void)
{
	const struct gpu_packet packet = { .kind = GPU_PACKET_ARENA, .bytes = ARENA_BYTES };
	struct error error;

	return gpu_server_packet(scene.server, &packet, sizeof(packet), &scene.arena_fd, 1, &error);
}

static void scene_open(void)
{
	struct gpu_server_config config = {
		.device = &scene.rig.device, .costs = &scene.costs,
		.paths = (1u << COPY_PATHS) - 1, .chunk_bytes = UINT64_C(256) << 10,
		.answer = note,
	};

	memset(&scene, 0, sizeof(scene));
	scene.lent = scene.returned = 1;
	scene.now_us = 1000;
	scene.job = JOB;
	rig_init(&scene.rig, &device_cuda_ops);
	engine_start(&scene.engine);
	scene.copies = rig_control->calls[FAKE_fake_copy];
	scene.arena_fd = memfd_make(ARENA_BYTES, F_SEAL_SHRINK, (void **)&scene.arena);
	scene.words_fd = memfd_make(sizeof(struct job_words), F_SEAL_SHRINK,
				    (void **)&scene.words);
	assert_int_equal(gpu_server_create(&scene.server, &config, &scene.rig.error), 0);
}

static void pin(void)
{
	assert_int_equal(arena_send(), 0);
	for (unsigned n = 0; scene.pinned < ARENA_BYTES && n < STEPS_MAX; n++)
		assert_true(step(true) >= 0);
	assert_int_equal(scene.pinned, ARENA_BYTES);
}

struct lend_packet {
	struct gpu_packet packet;
	struct lend head;
	struct lend_region regions[2];
	uint64_t fd_bytes[ENGINE_SEGMENTS];
	struct lend_group groups[2];
	struct lend_plane planes[3];
};

/* Group 0: K and V apart; group 1: in one piece, over the seams of the descriptors' memory. */
static struct lend_packet lend_make(bool has_word)
{
	struct lend_packet packet = {
		.packet = { .kind = GPU_PACKET_LEND },
		.head = { .device = FAKE_BUS_ID_0, .regions_count = 2,
			  .fds_count = ENGINE_SEGMENTS, .groups_count = 2, .planes_count = 3,
			  .word_region = has_word ? 0 : LEND_NO_WORD },
		.regions = { { .bytes = ENGINE_BYTES, .kind = LEND_HANDLE,
			       .handle = scene.engine.handle },
			     { .bytes = ENGINE_SEGMENTS * ENGINE_SEGMENT_BYTES, .kind = LEND_FDS,
			       .fds_count = ENGINE_SEGMENTS } },
		.groups = { { BLOCKS, 2 }, { BLOCKS, 1 } },
		.planes = { { .stride = PLANE_BYTES, .bytes = PLANE_BYTES },
			    { .offset = ENGINE_BYTES / 2, .stride = PLANE_BYTES,
			      .bytes = PLANE_BYTES },
			    { .region = 1, .stride = PAYLOAD_BYTES, .bytes = PAYLOAD_BYTES } },
	};

	for (unsigned n = 0; n < ENGINE_SEGMENTS; n++)
		packet.fd_bytes[n] = ENGINE_SEGMENT_BYTES;
	return packet;
}

static int lend_send(const struct lend_packet *packet)
{
	int fds[1 + ENGINE_SEGMENTS] = { scene.words_fd, scene.engine.fds[0], scene.engine.fds[1],
					 scene.engine.fds[2] };
	struct error error;

	return gpu_server_packet(scene.server, packet, sizeof(*packet), fds, 1 + ENGINE_SEGMENTS,
				 &error);
}

static void lend(bool has_word)
{
	const struct lend_packet packet = lend_make(has_word);

	if (has_word)
		engine_write_word(&scene.engine, 4);
	assert_int_equal(lend_send(&packet), 0);
	if (scene.lent != 0)
		fail_msg("%d: %s", scene.lent, scene.text);
}

static uint64_t slot_of(unsigned group, uint32_t block)
{
	return (group * BLOCKS + block) * PAYLOAD_BYTES;
}

static void say(struct gpu_message message)
{
	struct error error;

	for (unsigned n = 0; !gpu_server_has_room(scene.server) && n < STEPS_MAX; n++)
		assert_true(step(true) >= 0);
	assert_int_equal(gpu_server_message(scene.server, &message, &error), 0);
}

/* Returns the copy's number. */
static uint32_t ask(enum copy_direction direction, unsigned group, uint32_t block, uint64_t gate)
{
	const uint32_t number = scene.asked++;

	assert_true(scene.asked <= COPIES_MAX);
	say((struct gpu_message){ .verb = GPU_COPY, .number = number,
				  .direction = (uint16_t)direction, .group = group,
				  .block = block, .offset = slot_of(group, block),
				  .gate_value = gate, .deadline_us = UINT64_MAX,
				  .job = scene.job, .job_place = JOB_PLACE });
	return number;
}

static void ask_all(enum copy_direction direction, unsigned group)
{
	for (uint32_t n = 0; n < BLOCKS; n++)
		ask(direction, group, n * 13 % BLOCKS, 0);
}

static void await_answers(void)
{
	for (unsigned n = 0; scene.answered < scene.asked && n < STEPS_MAX; n++)
		assert_true(step(true) >= 0);
	assert_int_equal(scene.answered, scene.asked);
	for (uint32_t n = 0; n < scene.asked; n++)
		assert_int_equal(scene.answers[n].count, 1);
	assert_int_equal(scene.words->words[JOB_PLACE].moving, 0);
}

static void assert_results(int result)
{
	for (uint32_t n = 0; n < scene.asked; n++)
		assert_int_equal(scene.answers[n].result, result);
}

static void give_back(void)
{
	say((struct gpu_message){ .verb = GPU_RETURN });
	for (unsigned n = 0; scene.returned > 0 && n < STEPS_MAX; n++)
		assert_true(step(true) >= 0);
	assert_int_equal(scene.returned, 0);
	await_answers();
}

static void scene_close(void)
{
	await_answers();
	gpu_server_destroy(scene.server);
	munmap(scene.arena, ARENA_BYTES);
	munmap(scene.words, sizeof(*scene.words));
	close(scene.arena_fd);
	close(scene.words_fd);
	rig_finish(&scene.rig);
}

/* The byte of the engine at `position` of a group's payloads, as it was at its start. */
static uint8_t engine_byte(unsigned group, uint32_t block, uint64_t position, uint64_t seed)
{
	uint64_t at = block * PAYLOAD_BYTES + position;

	if (group == 0) {
		at = block * PLANE_BYTES + position % PLANE_BYTES +
		     position / PLANE_BYTES * (ENGINE_BYTES / 2);
		return rig_byte(seed, at);
	}
	seed = seed == ENGINE_SEED ? ENGINE_SEGMENT_SEED : seed + 1;
	return rig_byte(seed + at / ENGINE_SEGMENT_BYTES, at % ENGINE_SEGMENT_BYTES);
}

static bool slot_has(unsigned group, uint32_t block, uint64_t seed)
{
	for (uint64_t n = 0; n < PAYLOAD_BYTES; n++)
		if (scene.arena[slot_of(group, block) + n] != engine_byte(group, block, n, seed))
			return false;
	return true;
}

static void blocks_go_both_ways_and_each_is_answered_once(void **unused)
{
	uint64_t synchronous; /* the engine's own are */

	(void)unused;
	scene_open();
	synchronous = rig_control->synchronous;
	pin();
	lend(false);
	for (unsigned group = 0; group < 2; group++)
		ask_all(COPY_STORE, group);
	await_answers();
	assert_results(0);
	for (unsigned group = 0; group < 2; group++)
		for (uint32_t block = 0; block < BLOCKS; block++)
			assert_true(slot_has(group, block, ENGINE_SEED));
	for (unsigned group = 0; group < 2; group++)
		for (uint32_t block = 0; block < BLOCKS; block++)
			for (uint64_t n = 0; n < PAYLOAD_BYTES; n++)
				scene.arena[slot_of(group, block) + n] =
					engine_byte(group, block, n, ENGINE_NEW_SEED);
	for (unsigned group = 0; group < 2; group++)
		ask_all(COPY_LOAD, group);
	await_answers();
	assert_results(0);
	assert_int_equal(rig_control->synchronous, synchronous); /* the arena is pinned */
	assert_true(engine_has_new(&scene.engine));
	give_back();
	engine_stop(&scene.engine);
	scene_close();
}

static void what_cannot_be_is_answered_and_touches_nothing(void **unused)
{
	(void)unused;
	scene_open();
	ask(COPY_STORE, 0, 1, 0);
	assert_int_equal(scene.answers[0].result, -ENODEV); /* nothing is lent */
	lend(false);
	ask(COPY_STORE, 0, 1, 0);
	assert_int_equal(scene.answers[1].result, -EAGAIN); /* nothing is pinned */
	pin();
	ask(COPY_STORE, 0, BLOCKS, 0);
	ask(COPY_STORE, 2, 0, 0);
	ask(COPY_STORE, 0, 1, 5); /* no word was lent */
	for (uint32_t n = 2; n < 5; n++)
		assert_int_equal(scene.answers[n].result, -EINVAL);
	assert_int_equal(rig_control->calls[FAKE_fake_copy], scene.copies);
	give_back();
	engine_stop(&scene.engine);
	scene_close();
}

static void a_store_waits_for_the_engines_step(void **unused)
{
	(void)unused;
	scene_open();
	pin();
	lend(true);
	ask(COPY_STORE, 0, 5, 5);
	ask(COPY_STORE, 0, 6, 4);
	for (unsigned n = 0; scene.answered < 1 && n < STEPS_MAX; n++)
		assert_true(step(true) >= 0);
	assert_int_equal(scene.answers[1].count, 1); /* who does not wait is not held up */
	assert_int_equal(scene.answers[0].count, 0);
	engine_write_word(&scene.engine, 5);
	await_answers();
	assert_results(0);
	assert_true(slot_has(0, 5, ENGINE_SEED));
	give_back();
	engine_stop(&scene.engine);
	scene_close();
}

/* Its memory is closed, though the word that the device waits for is never written. */
static void memory_of_an_engine_that_died_is_closed(void **unused)
{
	(void)unused;
	scene_open();
	pin();
	lend(true);
	ask(COPY_STORE, 0, 5, 9);
	for (unsigned n = 0; n < 100; n++)
		assert_true(step(true) >= 0);
	assert_int_equal(scene.answered, 0);
	engine_kill(&scene.engine);
	rig_control->contexts--; /* its own */
	give_back();
	assert_results(-ECANCELED);
	scene_close(); /* nothing of the device is mapped or in use any more */
}

static void a_job_that_its_client_stopped_ends_without_the_daemon(void **unused)
{
	struct job_word *word;

	(void)unused;
	scene_open();
	word = &scene.words->words[JOB_PLACE];
	pin();
	lend(true);
	ask(COPY_LOAD, 0, 5, 9); /* for ever */
	for (unsigned n = 0; n < 10; n++)
		assert_true(step(true) >= 0);
	assert_false(job_word_is_quiet(word));
	job_word_stop(word, JOB);
	for (unsigned n = 0; !job_word_is_quiet(word) && n < STEPS_MAX; n++)
		assert_true(step(false) >= 0); /* the parent is silent */
	ask(COPY_LOAD, 0, 6, 0); /* was on its way */
	await_answers();
	assert_results(-ECANCELED);
	scene.job++;
	ask(COPY_STORE, 0, 6, 0);
	await_answers();
	assert_int_equal(scene.answers[2].result, 0);
	give_back();
	engine_stop(&scene.engine);
	scene_close();
}

static void under_a_silent_parent_nothing_begins(void **unused)
{
	(void)unused;
	scene_open();
	pin();
	lend(false);
	ask_all(COPY_STORE, 0);
	for (unsigned n = 0; n < 1000; n++)
		assert_true(step(false) >= 0);
	assert_int_equal(scene.answered, 0);
	assert_int_equal(rig_control->calls[FAKE_fake_copy], scene.copies);
	say((struct gpu_message){ .verb = GPU_CANCEL, .job = JOB });
	await_answers();
	assert_results(-ECANCELED);
	give_back();
	engine_stop(&scene.engine);
	scene_close();
}

static void memory_that_is_not_as_described_is_refused_with_the_reason(void **unused)
{
	struct lend_packet packet;
	int open_fd;
	void *memory;

	(void)unused;
	scene_open();
	packet = lend_make(false);
	packet.planes[1].offset += 1; /* beyond the region */
	assert_int_equal(lend_send(&packet), 0);
	assert_int_equal(scene.lent, -EINVAL);
	assert_true(scene.text[0] != '\0');
	packet = lend_make(false);
	packet.head.regions_count = 3;
	assert_int_equal(lend_send(&packet), -EPROTO);
	open_fd = memfd_make(sizeof(struct job_words), 0, &memory);
	munmap(memory, sizeof(struct job_words));
	close(scene.words_fd);
	scene.words_fd = open_fd;
	packet = lend_make(false);
	assert_int_equal(lend_send(&packet), 0);
	assert_int_equal(scene.lent, -EINVAL); /* it can be shrunk under us */
	engine_stop(&scene.engine);
	scene_close();
}

int main(int count, char **arguments)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blocks_go_both_ways_and_each_is_answered_once),
		cmocka_unit_test(what_cannot_be_is_answered_and_touches_nothing),
		cmocka_unit_test(a_store_waits_for_the_engines_step),
		cmocka_unit_test(memory_of_an_engine_that_died_is_closed),
		cmocka_unit_test(a_job_that_its_client_stopped_ends_without_the_daemon),
		cmocka_unit_test(under_a_silent_parent_nothing_begins),
		cmocka_unit_test(memory_that_is_not_as_described_is_refused_with_the_reason),
	};

	if (count == 2 && strcmp(arguments[0], "engine") == 0)
		return engine_main(atoi(arguments[1]));
	return cmocka_run_group_tests(tests, rig_machine_open, rig_machine_close);
}
