/* tests/transfer/test_lend.c: the description of lent memory, as hostile as it may come. */
#include "transfer/lend.h"

#include "base/random.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MUTATIONS 200000u

/* Two regions: one by handle, one of two descriptors; a group in each; a word. */
struct packet {
	struct lend head;
	struct lend_region regions[2];
	uint64_t fd_bytes[2];
	struct lend_group groups[2];
	struct lend_plane planes[3];
};

static struct packet packet_make(void)
{
	return (struct packet){
		.head = { .device = "0000:17:00.0", .regions_count = 2, .fds_count = 2,
			  .groups_count = 2, .planes_count = 3, .word_region = 0,
			  .word_offset = 8184 },
		.regions = { { .offset = 512, .bytes = 8192, .kind = LEND_HANDLE },
			     { .bytes = 8192, .kind = LEND_FDS, .fds_count = 2 } },
		.fd_bytes = { 4096, 4096 },
		.groups = { { 4, 2 }, { 8, 1 } },
		.planes = { { .stride = 1024, .bytes = 1024 },
			    { .offset = 4096, .stride = 512, .bytes = 512 },
			    { .region = 1, .stride = 1024, .bytes = 1024 } },
	};
}

/* On the heap, with its very size, so that a sanitizer sees what is read beyond. */
static int read_copy(const void *packet, size_t bytes, struct error *error)
{
	void *copy = malloc(bytes == 0 ? 1 : bytes);
	struct layout layout;
	struct lend_view view;

	assert_non_null(copy);
	memcpy(copy, packet, bytes);
	int result = lend_read(copy, bytes, &view, error);
	if (result == 0) {
		result = lend_layout(&view, &layout, error);
		layout_finish(&layout);
	}
	free(copy);
	return result;
}

static void what_is_well_formed_is_a_layout(void **unused)
{
	const struct packet packet = packet_make();
	struct layout layout;
	struct lend_view view;
	struct error error;

	(void)unused;
	assert_int_equal(lend_bytes(&packet.head), sizeof(packet));
	assert_int_equal(lend_read(&packet, sizeof(packet), &view, &error), 0);
	assert_ptr_equal(view.planes, packet.planes);
	assert_ptr_equal(view.fd_bytes, packet.fd_bytes);
	assert_int_equal(lend_layout(&view, &layout, &error), 0);
	assert_int_equal(layout.groups_count, 2);
	assert_int_equal(layout.groups[0].blocks_count, 4);
	assert_int_equal(layout.groups[0].payload_bytes, 1536);
	assert_int_equal(layout.groups[1].payload_bytes, 1024);
	layout_finish(&layout);
}

static void a_packet_of_any_other_length_is_refused(void **unused)
{
	struct {
		struct packet packet;
		uint8_t more[64];
	} longer = { .packet = packet_make() };
	struct error error;

	(void)unused;
	for (size_t bytes = 0; bytes <= sizeof(longer); bytes++)
		assert_int_equal(read_copy(&longer, bytes, &error),
				 bytes == sizeof(longer.packet) ? 0 : -EINVAL);
}

static void refused(const struct packet *packet)
{
	struct error error = { 0 };

	assert_int_equal(read_copy(packet, sizeof(*packet), &error), -EINVAL);
	assert_true(error.text[0] != '\0');
}

#define REFUSED(change) \
	do { \
		struct packet packet = packet_make(); \
		packet.change; \
		refused(&packet); \
	} while (0)

static void what_does_not_agree_is_refused_with_words(void **unused)
{
	(void)unused;
	REFUSED(head.device[0] = '\0');
	REFUSED(head.regions_count = 0);
	REFUSED(head.regions_count = UINT32_MAX);
	REFUSED(head.fds_count = LEND_FDS_MAX + 1);
	REFUSED(head.groups_count = UINT32_MAX);
	REFUSED(head.planes_count = 0);
	REFUSED(head.word_region = 2);
	REFUSED(head.word_offset = 8180);
	REFUSED(head.word_offset = 8192);
	REFUSED(head.word_offset = UINT64_MAX - 7);
	REFUSED(regions[0].kind = 0);
	REFUSED(regions[0].fds_count = 1);
	REFUSED(regions[0].bytes = 0);
	REFUSED(regions[0].bytes = UINT64_MAX);
	REFUSED(regions[0].offset = UINT64_MAX);
	REFUSED(regions[1].fds_count = 1);
	REFUSED(regions[1].fds_count = 3);
	REFUSED(regions[1].offset = 8);
	REFUSED(regions[1].bytes = 8191);
	REFUSED(fd_bytes[0] = 0);
	REFUSED(fd_bytes[1] = UINT64_MAX - 4095);
	REFUSED(groups[0].planes_count = 1);
	REFUSED(groups[1].planes_count = UINT32_MAX);
	REFUSED(groups[1].blocks_count = 9); /* beyond the region */
	REFUSED(groups[0].blocks_count = 0);
	REFUSED(planes[2].region = 2);
	REFUSED(planes[1].offset = 4095); /* shares a byte with another plane */
	REFUSED(planes[1].bytes = 0);
}

static void a_name_without_an_end_is_refused(void **unused)
{
	struct packet packet = packet_make();

	(void)unused;
	memset(packet.head.device, 'x', sizeof(packet.head.device));
	refused(&packet);
}

/* No answer is expected: a sanitizer, or a crash, would tell. */
static void no_bytes_are_believed_too_far(void **unused)
{
	const uint8_t edges[] = { 0, 1, 2, 0x7f, 0x80, 0xfe, 0xff };
	struct random random;
	struct error error;
	unsigned taken = 0;

	(void)unused;
	random_init(&random, 1);
	for (unsigned n = 0; n < MUTATIONS; n++) {
		struct packet packet = packet_make();
		uint64_t changes = 1 + random_below(&random, 4);

		while (changes-- > 0)
			((uint8_t *)&packet)[random_below(&random, sizeof(packet))] =
				edges[random_below(&random, sizeof(edges))];
		taken += read_copy(&packet, sizeof(packet), &error) == 0;
	}
	assert_in_range(taken, 1, MUTATIONS - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_well_formed_is_a_layout),
		cmocka_unit_test(a_packet_of_any_other_length_is_refused),
		cmocka_unit_test(what_does_not_agree_is_refused_with_words),
		cmocka_unit_test(a_name_without_an_end_is_refused),
		cmocka_unit_test(no_bytes_are_believed_too_far),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
