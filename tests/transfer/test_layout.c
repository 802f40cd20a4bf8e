/* tests/transfer/test_layout.c: what is no layout is refused with words, and what shares bytes. */
#include "transfer/layout.h"

#include "base/random.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BYTES_MAX 4096u /* of a region that is looked at byte by byte */

/* One group in regions of 4,096 bytes; a test changes what it is about. */
struct description {
	uint64_t region_bytes[2];
	struct layout_plane planes[LAYOUT_PLANES_MAX + 1];
	struct layout_group_source groups[LAYOUT_GROUPS_MAX + 1];
	struct layout_source source;
};

static struct description *description_new(void)
{
	static struct description description;

	memset(&description, 0, sizeof(description));
	description.region_bytes[0] = description.region_bytes[1] = BYTES_MAX;
	description.planes[0] = (struct layout_plane){ 0, 0, 64, 32 };
	description.planes[1] = (struct layout_plane){ 0, 32, 64, 32 };
	for (unsigned i = 0; i <= LAYOUT_GROUPS_MAX; i++)
		description.groups[i] = (struct layout_group_source){
			.blocks_count = 4,
			.planes_count = 2,
			.planes = description.planes,
		};
	description.source = (struct layout_source){
		.regions_count = 2,
		.groups_count = 1,
		.region_bytes = description.region_bytes,
		.groups = description.groups,
	};
	return &description;
}

static int init(const struct description *description, struct error *error)
{
	struct layout layout;
	int result = layout_init(&layout, &description->source, error);

	layout_finish(&layout);
	return result;
}

static void refused(const struct description *description, const char *words)
{
	struct error error = { 0 };

	assert_int_equal(init(description, &error), -EINVAL);
	assert_string_equal(error.text, words);
}

static void accepted(const struct description *description)
{
	struct error error = { 0 };

	if (init(description, &error) != 0)
		fail_msg("%s", error.text);
}

static void counts_beyond_the_limits_are_refused(void **unused)
{
	struct description *description = description_new();

	(void)unused;
	accepted(description);
	description->source.regions_count = 0;
	refused(description, "0 regions, 1 to 1024 are right");
	description->source.regions_count = LAYOUT_REGIONS_MAX + 1;
	refused(description, "1025 regions, 1 to 1024 are right");
	description->source.regions_count = 2;
	description->source.groups_count = 0;
	refused(description, "0 groups, 1 to 16 are right");
	description->source.groups_count = LAYOUT_GROUPS_MAX + 1;
	refused(description, "17 groups, 1 to 16 are right");
	description->source.groups_count = LAYOUT_GROUPS_MAX;
	accepted(description);
	description->groups[15].planes_count = 0;
	refused(description, "group 15: 0 planes, 1 to 4096 are right");
	description->groups[15].planes_count = LAYOUT_PLANES_MAX + 1;
	refused(description, "group 15: 4097 planes, 1 to 4096 are right");
}

static void sizes_of_nothing_are_refused(void **unused)
{
	struct description *description = description_new();

	(void)unused;
	description->region_bytes[1] = 0;
	refused(description, "region 1: 0 bytes, 1 to 9223372036854775807 are right");
	description->region_bytes[1] = LAYOUT_REGION_BYTES_MAX + 1;
	refused(description,
		"region 1: 9223372036854775808 bytes, 1 to 9223372036854775807 are right");
	description->region_bytes[1] = 1;
	description->groups[0].blocks_count = 0;
	refused(description, "group 0: 0 blocks, at least 1 is right");
	description->groups[0].blocks_count = 4;
	description->planes[1].bytes = 0;
	refused(description, "group 0, plane 1: 0 bytes, at least 1 is right");
}

static void a_plane_ends_at_the_last_byte_of_its_region_and_not_behind_it(void **unused)
{
	struct description *description = description_new();

	(void)unused;
	description->planes[1].offset = BYTES_MAX - 3 * 64 - 32;
	accepted(description);
	description->planes[1].offset++;
	refused(description,
		"group 0, plane 1: its blocks end at byte 4097, region 0 has 4096 bytes");
	description->planes[1] = (struct layout_plane){ 1, 0, 64, 32 };
	description->region_bytes[1] = 3 * 64 + 32;
	accepted(description);
	description->region_bytes[1]--;
	refused(description,
		"group 0, plane 1: its blocks end at byte 224, region 1 has 223 bytes");
	description->planes[1].region = 2;
	refused(description, "group 0, plane 1: region 2, there are 2 (0 to 1)");
}

static void numbers_that_wrap_around_are_refused(void **unused)
{
	struct description *description = description_new();
	struct layout_plane *plane = &description->planes[1];

	(void)unused;
	plane->offset = UINT64_MAX - 3 * 64 - 31; /* the end would be 0 */
	refused(description,
		"group 0, plane 1: offset 18446744073709551392 and 4 blocks every 64 bytes are beyond 64 bits; region 0 has 4096 bytes");
	*plane = (struct layout_plane){ 0, 32, UINT64_C(1) << 63, 32 };
	description->groups[0].blocks_count = 3; /* 2 * 2^63 is 0 */
	refused(description,
		"group 0, plane 1: offset 32 and 3 blocks every 9223372036854775808 bytes are beyond 64 bits; region 0 has 4096 bytes");
	*plane = (struct layout_plane){ 0, 32, UINT64_MAX, UINT64_MAX };
	description->groups[0].blocks_count = 1;
	refused(description,
		"group 0, plane 1: offset 32 and 1 blocks every 18446744073709551615 bytes are beyond 64 bits; region 0 has 4096 bytes");
	*plane = (struct layout_plane){ 0, 32, UINT64_MAX, BYTES_MAX - 32 };
	accepted(description); /* one block: its stride means nothing */
	plane->stride = 0;
	accepted(description);
	plane->stride = UINT64_MAX;
	description->groups[0].blocks_count = 2;
	refused(description,
		"group 0, plane 1: offset 32 and 2 blocks every 18446744073709551615 bytes are beyond 64 bits; region 0 has 4096 bytes");
}

static void a_block_has_fewer_than_two_to_the_64_bytes(void **unused)
{
	struct description *description = description_new();

	(void)unused;
	description->region_bytes[0] = description->region_bytes[1] = LAYOUT_REGION_BYTES_MAX;
	description->groups[0].blocks_count = 1;
	description->groups[0].planes_count = 3;
	for (unsigned i = 0; i < 3; i++)
		description->planes[i] = (struct layout_plane){ i % 2, 0, 0,
								LAYOUT_REGION_BYTES_MAX };
	refused(description, "group 0: a block has more bytes than 64 bits count");
}

static void bytes_of_two_planes_or_blocks_are_refused(void **unused)
{
	struct description *description = description_new();

	(void)unused;
	description->planes[0].bytes = 65;
	refused(description,
		"group 0, plane 0: 65 bytes of a block every 64 bytes, so blocks share bytes; a stride of at least 65 is right");
	description->planes[0].bytes = 33;
	refused(description,
		"group 0: planes 0 and 1 share bytes; each byte belongs to one plane of one block");
	description->planes[0].bytes = 32;
	description->planes[1].offset = 32 + 2 * 64 + 1; /* block 0's meets another's block 2 */
	refused(description,
		"group 0: planes 0 and 1 share bytes; each byte belongs to one plane of one block");
	description->planes[1].offset = 3 * 64 + 32; /* behind all of the other's */
	accepted(description);
	description->planes[0] = (struct layout_plane){ 0, 0, 60, 10 };
	description->planes[1] = (struct layout_plane){ 0, 35, 100, 10 };
	refused(description,
		"group 0: planes 0 and 1 lie in one another at strides 60 and 100, so they may share bytes; "
		"equal strides or multiples are right");
	description->planes[1] = (struct layout_plane){ 0, 10, 100, 10 };
	accepted(description); /* modulo 20 they are apart */
}

static void groups_may_overlay_each_other(void **unused)
{
	struct description *description = description_new();
	static const struct layout_plane other = { 0, 7, 64, 50 };

	(void)unused;
	description->groups[1] = (struct layout_group_source){ 4, 1, &other };
	description->source.groups_count = 2;
	accepted(description);
}

/* ---- against each byte ---- */

/* Whether a description of one group, all of it inside its regions, has a byte twice. */
static bool shares_bytes(const struct description *description)
{
	static bool is_taken[2][BYTES_MAX];
	const struct layout_group_source *group = &description->groups[0];

	memset(is_taken, 0, sizeof(is_taken));
	for (unsigned i = 0; i < group->planes_count; i++)
		for (unsigned block = 0; block < group->blocks_count; block++)
			for (uint64_t byte = 0; byte < group->planes[i].bytes; byte++) {
				const struct layout_plane *plane = &group->planes[i];
				bool *taken = &is_taken[plane->region][plane->offset + byte +
								       block * plane->stride];

				if (*taken)
					return true;
				*taken = true;
			}
	return false;
}

struct kind { /* of random descriptions */
	unsigned planes_max, blocks_max, offset_max, bytes_max;
	unsigned strides[4]; /* one of these each */
};

static struct description *description_random(struct random *random, const struct kind *kind)
{
	struct description *description = description_new();
	struct layout_group_source *group = &description->groups[0];

	group->blocks_count = 1 + (uint32_t)random_below(random, kind->blocks_max);
	group->planes_count = 1 + (uint32_t)random_below(random, kind->planes_max);
	for (unsigned i = 0; i < group->planes_count; i++) {
		struct layout_plane *plane = &description->planes[i];

		plane->region = random_below(random, 5) == 0;
		plane->stride = kind->strides[random_below(random, 4)];
		plane->offset = random_below(random, kind->offset_max);
		plane->bytes = 1 + random_below(random, kind->bytes_max);
		if (group->blocks_count > 1 && plane->bytes > plane->stride)
			plane->bytes = plane->stride;
	}
	return description;
}

static void where_strides_nest_exactly_what_shares_bytes_is_refused(void **unused)
{
	static const struct kind kinds[] = {
		{ 3, 5, 60, 4, { 1, 2, 4, 16 } },       { 4, 8, 200, 12, { 6, 6, 12, 24 } },
		{ 4, 12, 300, 8, { 64, 64, 64, 64 } },  { 40, 3, 2000, 30, { 500, 500, 500, 500 } },
		{ 8, 1, 300, 40, { 1, 2, 3, 5 } },      { 5, 6, 400, 40, { 5, 10, 50, 100 } },
		{ 60, 2, 3000, 8, { 20, 20, 20, 20 } }, { 30, 4, 3000, 8, { 40, 40, 120, 120 } },
	};
	unsigned accepted_count = 0, refused_count = 0;
	struct random random;

	(void)unused;
	random_init(&random, 61);
	for (unsigned i = 0; i < 80000; i++) {
		struct description *description = description_random(
			&random, &kinds[i % (sizeof(kinds) / sizeof(*kinds))]);
		struct error error = { 0 };
		bool is_refused = init(description, &error) != 0;

		if (is_refused != shares_bytes(description))
			fail_msg("description %u: %s", i, is_refused ? error.text : "accepted");
		accepted_count += !is_refused;
		refused_count += is_refused;
	}
	assert_true(accepted_count > 8000 && refused_count > 8000);
}

static void where_strides_do_not_nest_what_shares_bytes_is_refused(void **unused)
{
	static const struct kind kind = { 3, 6, 300, 6, { 12, 18, 30, 40 } };
	unsigned accepted_count = 0;
	struct random random;

	(void)unused;
	random_init(&random, 62);
	for (unsigned i = 0; i < 50000; i++) {
		struct description *description = description_random(&random, &kind);
		struct error error = { 0 };

		if (init(description, &error) == 0) {
			assert_false(shares_bytes(description));
			accepted_count++;
		}
	}
	assert_true(accepted_count > 5000);
}

static void as_many_planes_as_may_be_are_told_apart_in_a_pool_of_any_size(void **unused)
{
	struct description *description = description_new();
	struct layout_group_source *group = &description->groups[0];

	(void)unused;
	description->region_bytes[0] = LAYOUT_REGION_BYTES_MAX;
	*group = (struct layout_group_source){ UINT32_MAX, LAYOUT_PLANES_MAX, description->planes };
	for (unsigned i = 0; i < LAYOUT_PLANES_MAX; i++) /* the last first, with gaps */
		description->planes[i] = (struct layout_plane){ 0, (LAYOUT_PLANES_MAX - i) * 512,
								LAYOUT_PLANES_MAX * UINT64_C(512),
								500 };
	accepted(description);
	description->planes[17].bytes = 513; /* reaches into plane 16 */
	refused(description,
		"group 0: planes 16 and 17 share bytes; each byte belongs to one plane of one block");
	for (unsigned i = 0; i < LAYOUT_PLANES_MAX; i += 2)
		description->planes[i].stride *= 2;
	refused(description,
		"group 0: 4096 planes lie in one another at several strides, at most 1024 are right, or equal strides");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counts_beyond_the_limits_are_refused),
		cmocka_unit_test(sizes_of_nothing_are_refused),
		cmocka_unit_test(a_plane_ends_at_the_last_byte_of_its_region_and_not_behind_it),
		cmocka_unit_test(numbers_that_wrap_around_are_refused),
		cmocka_unit_test(a_block_has_fewer_than_two_to_the_64_bytes),
		cmocka_unit_test(bytes_of_two_planes_or_blocks_are_refused),
		cmocka_unit_test(groups_may_overlay_each_other),
		cmocka_unit_test(where_strides_nest_exactly_what_shares_bytes_is_refused),
		cmocka_unit_test(where_strides_do_not_nest_what_shares_bytes_is_refused),
		cmocka_unit_test(as_many_planes_as_may_be_are_told_apart_in_a_pool_of_any_size),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
