/* tests/daemon/test_lend.c: memory that a data connection lends: from LEND to its end. */
#include "daemon/server.h"
#include "tests/daemon/rig_gpu.h"

#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static struct rig rig;
static struct rig_gpu gpu;

static unsigned fds_open(void)
{
	DIR *folder = opendir("/proc/self/fd");
	unsigned count = 0;

	while (readdir(folder) != NULL)
		count++;
	closedir(folder);
	return count;
}

static int begin(void **unused)
{
	(void)unused;
	rig_gpu_init(&gpu);
	rig_init(&rig, &(struct rig_config){ .gpu = &gpu });
	return 0;
}

static int end(void **unused)
{
	(void)unused;
	rig_finish_with_gpu(&rig, &gpu);
	return 0;
}

static void a_client_lends_and_is_told_of_the_process(void **unused)
{
	struct rig_client *client = rig_register(&rig, NULL);
	const struct frame_lent *reply = (const struct frame_lent *)client->reply;

	(void)unused;
	assert_int_equal(rig_lend(client, true), 0);
	assert_int_equal(reply->header.type, FRAME_LENT);
	assert_int_equal(reply->has_word, 1);
	assert_int_equal(gpu.lents_ever, 1);
	rig_client_close(client);
	rig_settle(&rig);
	assert_int_equal(server_sessions_count(rig.daemon), 0);
}

static void the_feature_is_said_only_where_something_can_be_pulled(void **unused)
{
	(void)unused;
	rig_gpu_init(&gpu);
	for (unsigned has_gpu = 0; has_gpu < 2; has_gpu++) {
		rig_init(&rig, &(struct rig_config){ .gpu = has_gpu ? &gpu : NULL });
		struct rig_client *client = rig_client_open(&rig, NULL);
		const struct frame_hello_reply *reply = (const struct frame_hello_reply *)
								client->reply;

		assert_int_equal(rig_client_connect(client, FRAME_CONTROL), 0);
		assert_int_equal((reply->features & FRAME_FEATURE_PULL) != 0, has_gpu);
		client = rig_register(&rig, NULL);
		assert_int_equal(rig_lend(client, false), has_gpu ? 0 : -ENODEV);
		assert_true(client->fds[FRAME_DATA] >= 0);
		rig_finish(&rig);
	}
	rig_gpu_finish(&gpu);
}

static void a_refusal_leaves_the_connection_and_it_may_be_tried_again(void **unused)
{
	struct rig_client *client = rig_register(&rig, NULL);
	struct rig_blocks blocks = { .first = 1, .count = 4, .version = 1 };

	(void)unused;
	gpu.lend_result = -EAGAIN;
	assert_int_equal(rig_lend(client, false), -EAGAIN);
	gpu.lend_result = 0;
	gpu.answer_result = -EINVAL;
	assert_int_equal(rig_lend(client, false), -EINVAL);
	assert_true(client->fds[FRAME_DATA] >= 0);
	assert_int_equal(rig_store(client, &blocks), 4); /* it pushes meanwhile */
	gpu.answer_result = 0;
	rig_settle(&rig);
	assert_int_equal(rig_lend(client, false), 0);
}

static void packets_that_do_not_fit_what_was_registered_are_refused(void **unused)
{
	struct rig_client *client = rig_register(&rig, NULL);
	struct lend *lend;
	struct lend_plane *planes;

	(void)unused;
	lend = rig_lend_write(client, false);
	planes = (struct lend_plane *)((uint8_t *)lend + lend_bytes(lend)) - 2;
	planes[1].bytes--; /* a block is shorter than a payload */
	assert_int_equal(rig_lend_ask(client, 1), -EINVAL);
	lend = rig_lend_write(client, false);
	planes = (struct lend_plane *)((uint8_t *)lend + lend_bytes(lend)) - 2;
	planes[1].offset += 4096; /* it leaves the region */
	assert_int_equal(rig_lend_ask(client, 1), -EINVAL);
	lend = rig_lend_write(client, false);
	lend->groups_count = 2;
	assert_int_equal(rig_lend_ask(client, 1), -EINVAL);
	(void)rig_lend_write(client, false);
	assert_int_equal(rig_lend_ask(client, 0), -EINVAL); /* no job words */
	(void)rig_lend_write(client, false);
	assert_int_equal(rig_lend_ask(client, 2), -EINVAL); /* one too many */
	assert_int_equal(gpu.lents_ever, 0);
	assert_true(client->fds[FRAME_DATA] >= 0);
}

static void a_second_lend_closes(void **unused)
{
	struct rig_client *client = rig_puller(&rig, NULL);

	(void)unused;
	assert_int_equal(rig_lend(client, true), -EINVAL);
	rig_settle(&rig);
	assert_int_equal(client->fds[FRAME_DATA], -1);
}

static void no_descriptor_stays_open(void **unused)
{
	struct rig_client *client = rig_register(&rig, NULL);
	unsigned before = fds_open();
	struct rig_client *other;

	(void)unused;
	gpu.lend_result = -EAGAIN;
	(void)rig_lend_write(client, false);
	assert_int_equal(rig_lend_ask(client, 200), -EINVAL);
	assert_int_equal(rig_lend(client, false), -EAGAIN);
	gpu.lend_result = 0;
	assert_int_equal(fds_open(), before);
	assert_int_equal(rig_lend(client, false), 0);
	assert_int_equal(fds_open(), before);
	/* With another frame, and where none may come. */
	(void)rig_frame(client, FRAME_STATS, sizeof(struct frame_header));
	assert_int_equal(rig_lend_ask(client, 7), 0);
	assert_int_equal(fds_open(), before);
	other = rig_register(&rig, NULL);
	before = fds_open();
	(void)rig_frame(other, FRAME_STATS, sizeof(struct frame_header));
	assert_int_equal(rig_lend_ask(other, 7), 0);
	assert_int_equal(fds_open(), before);
	/* More than there is room for: the connection ends. */
	(void)rig_lend_write(other, false);
	assert_int_equal(rig_lend_ask(other, 253), -EMFILE);
	rig_settle(&rig);
	assert_int_equal(other->fds[FRAME_DATA], -1);
	rig_client_hang_up(other, FRAME_CONTROL);
	rig_settle(&rig);
	assert_int_equal(fds_open(), before - 5); /* two pairs, and its window */
}

static void whoever_has_lent_does_not_push_and_whoever_has_not_is_not_pulled_from(void **unused)
{
	const struct rig_blocks pushed = { .first = 1, .count = 1, .version = 1 };
	const struct rig_blocks pulled = { .first = 1, .count = 1, .version = 1, .is_pull = true };

	(void)unused;
	for (unsigned kind = 0; kind < 4; kind++) {
		bool has_lent = kind & 1;
		struct rig_client *client = has_lent ? rig_puller(&rig, NULL)
						     : rig_register(&rig, NULL);
		const struct rig_blocks *blocks = has_lent ? &pushed : &pulled;

		if (client->device == NULL)
			(void)rig_lend_write(client, false);
		(void)(kind & 2 ? rig_load_begin(client, blocks) : rig_store_begin(client, blocks));
		rig_settle(&rig);
		assert_int_equal(client->refused, -EINVAL);
		assert_int_equal(client->fds[FRAME_DATA], -1);
		rig_client_close(client);
		rig_settle(&rig);
	}
}

static void engine_blocks_jobs_and_gates_that_are_not_are_refused(void **unused)
{
	(void)unused;
	for (unsigned kind = 0; kind < 5; kind++) {
		struct rig_client *client = rig_register(&rig, NULL);
		struct frame_store *frame;
		struct frame_store_item *item;

		assert_int_equal(rig_lend(client, kind == 3), 0);
		frame = rig_frame(client, FRAME_STORE, sizeof(*frame) + sizeof(*item));
		item = (struct frame_store_item *)(frame + 1);
		frame->header.flags = FRAME_PULL;
		frame->space = client->space;
		frame->count = 1;
		frame->pull.job = kind == 0 ? 0 : 1;
		frame->pull.job_place = kind == 1 ? RIG_GPU_JOBS : 0;
		frame->pull.gate_value = kind == 2 ? 1 : kind == 3 ? UINT64_MAX : 0;
		item->engine_block = kind == 4 ? RIG_GPU_BLOCKS : 0;
		rig_send(client, FRAME_DATA);
		rig_settle(&rig);
		assert_int_equal(client->refused, -EINVAL);
		rig_client_close(client);
		rig_settle(&rig);
	}
}

static void a_process_that_dies_closes_the_connection(void **unused)
{
	(void)unused;
	for (unsigned is_answered = 0; is_answered < 2; is_answered++) {
		struct rig_client *client = rig_register(&rig, NULL);

		gpu.holds_answers = !is_answered;
		if (is_answered) {
			assert_int_equal(rig_lend(client, false), 0);
		} else {
			rig.is_forgiving = true;
			assert_int_equal(rig_lend(client, false), -ECONNRESET);
			rig.is_forgiving = false;
		}
		rig_gpu_die(&gpu);
		rig_settle(&rig);
		assert_int_equal(client->refused, -ECONNRESET);
		assert_int_equal(client->fds[FRAME_DATA], -1);
		assert_true(client->fds[FRAME_CONTROL] >= 0);
		/* It attaches, and lends again. */
		gpu.holds_answers = false;
		client = rig_puller(&rig, NULL);
		rig_client_close(client);
		rig_settle(&rig);
	}
}

static void a_connection_that_ends_first_is_kept_until_nothing_is_mapped(void **unused)
{
	struct rig_client *client = rig_register(&rig, NULL);

	(void)unused;
	gpu.holds_answers = gpu.holds_returns = true;
	rig.is_forgiving = true;
	assert_int_equal(rig_lend(client, false), -ECONNRESET);
	rig.is_forgiving = false;
	rig_client_close(client);
	rig_settle(&rig);
	assert_int_equal(server_sessions_count(rig.daemon), 1);
	gpu.holds_returns = false;
	rig_settle(&rig);
	assert_int_equal(server_sessions_count(rig.daemon), 0);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, begin, end)
	const struct CMUnitTest tests[] = {
		CASE(a_client_lends_and_is_told_of_the_process),
		cmocka_unit_test(the_feature_is_said_only_where_something_can_be_pulled),
		CASE(a_refusal_leaves_the_connection_and_it_may_be_tried_again),
		CASE(packets_that_do_not_fit_what_was_registered_are_refused),
		CASE(a_second_lend_closes),
		CASE(no_descriptor_stays_open),
		CASE(whoever_has_lent_does_not_push_and_whoever_has_not_is_not_pulled_from),
		CASE(engine_blocks_jobs_and_gates_that_are_not_are_refused),
		CASE(a_process_that_dies_closes_the_connection),
		CASE(a_connection_that_ends_first_is_kept_until_nothing_is_mapped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
