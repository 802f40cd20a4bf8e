/* tests/client/test_client_lend.c: what an engine may lend, as it says it by addresses, and the
 * packet that is made of it. */
#include "client/client.h"
#include "transfer/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define FIRST UINT64_C(0x7f0000000000)
#define SECOND UINT64_C(0x7f8000000000)
#define REGION_BYTES UINT64_C(65536)

/* A device with a region of each kind, and a group with a plane in each. */
struct lent_scene {
	struct kvtier_plane planes[2];
	struct kvtier_group group;
	struct kvtier_region regions[3];
	struct kvtier_device device;
	struct kvtier_options options;
	uint8_t handle[64];
	int fds[2];
	uint64_t fd_bytes[2];
	struct kvtier_client *client;
	char text[256];
};

static void *device_address(uint64_t address)
{
	return (void *)(uintptr_t)address;
}

static void scene_init(struct lent_scene *scene)
{
	memset(scene, 0, sizeof(*scene));
	memset(scene->handle, 0x77, sizeof(scene->handle));
	for (unsigned i = 0; i < 2; i++) {
		scene->fds[i] = memfd_create("device", MFD_CLOEXEC);
		scene->fd_bytes[i] = REGION_BYTES / 2;
	}
	scene->planes[0] = (struct kvtier_plane){ device_address(FIRST + 512), 1024, 1000 };
	scene->planes[1] = (struct kvtier_plane){ device_address(SECOND), 2048, 2048 };
	scene->group = (struct kvtier_group){ .tokens_per_block = 16,
					      .blocks_count = 10,
					      .planes_count = 2,
					      .planes = scene->planes };
	scene->regions[0] = (struct kvtier_region){ .address = FIRST,
						    .bytes = REGION_BYTES,
						    .kind = KVTIER_REGION_HANDLE,
						    .handle_offset = 4096,
						    .handle = scene->handle };
	scene->regions[1] = (struct kvtier_region){ .address = SECOND,
						    .bytes = REGION_BYTES,
						    .kind = KVTIER_REGION_FDS,
						    .fds_count = 2,
						    .fds = scene->fds,
						    .fd_bytes = scene->fd_bytes };
	scene->device = (struct kvtier_device){ .name = "0000:01:00.0",
						.regions_count = 2,
						.regions = scene->regions,
						.word_address = SECOND + REGION_BYTES - 8 };
	scene->options = (struct kvtier_options){ .socket = "/nonexistent/kv.sock",
						  .engine = "engine-1",
						  .roles = KVTIER_WORKER,
						  .identity = { .model_content = "digest" },
						  .groups_count = 1,
						  .groups = &scene->group,
						  .connect_us_max = 1,
						  .device = &scene->device };
}

static void scene_finish(struct lent_scene *scene)
{
	kvtier_close(scene->client);
	for (unsigned i = 0; i < 2; i++)
		close(scene->fds[i]);
}

static int scene_open(struct lent_scene *scene)
{
	return kvtier_open(&scene->client, &scene->options, scene->text, sizeof(scene->text));
}

static void the_packet_says_what_lies_where(void **unused)
{
	struct lent_scene scene;
	struct error error;
	struct lend_view view;
	struct layout layout;

	(void)unused;
	scene_init(&scene);
	assert_int_equal(scene_open(&scene), 0);
	const struct lending *lending = &scene.client->lending;
	assert_int_equal(lend_read(lending->packet, lending->packet_bytes, &view, &error), 0);
	assert_string_equal(view.head->device, "0000:01:00.0");
	assert_int_equal(view.head->word_region, 1);
	assert_int_equal(view.head->word_offset, REGION_BYTES - 8);
	assert_int_equal(view.regions[0].kind, LEND_HANDLE);
	assert_int_equal(view.regions[0].offset, 4096);
	assert_memory_equal(&view.regions[0].handle, scene.handle, sizeof(scene.handle));
	assert_int_equal(view.regions[1].kind, LEND_FDS);
	assert_int_equal(view.fd_bytes[1], REGION_BYTES / 2);
	assert_int_equal(view.planes[0].region, 0);
	assert_int_equal(view.planes[0].offset, 512);
	assert_int_equal(view.planes[0].stride, 1024);
	assert_int_equal(view.planes[1].region, 1);
	assert_int_equal(view.planes[1].offset, 0);
	assert_int_equal(lend_layout(&view, &layout, &error), 0);
	assert_int_equal(layout.groups[0].payload_bytes, 3048);
	layout_finish(&layout);
	/* Its own: the engine may close its descriptors. */
	assert_int_equal(lending->fds_count, 2);
	assert_true(lending->fds[0] != scene.fds[0] && fcntl(lending->fds[0], F_GETFD) >= 0);
	scene_finish(&scene);
}

enum wrong {
	NO_NAME, LONG_NAME, NO_REGIONS, NO_WORKER, EMPTY_REGION, WRAPPING_REGION, OVERLAP,
	STRANGE_KIND, NO_HANDLE, HANDLE_AND_FDS, NO_FDS, FDS_TOO_SHORT, EMPTY_FD, CLOSED_FD,
	FDS_WITH_OFFSET, PLANE_OUTSIDE, PLANE_ACROSS, PLANES_OVERLAP, WORD_OUTSIDE,
	WORD_UNALIGNED, WRONGS
};

static const char *const sentences[WRONGS] = {
	[NO_NAME] = "device: a name of 1 to 47 bytes is required: its PCI bus id or uuid",
	[LONG_NAME] = "device: a name of 1 to 47 bytes is required: its PCI bus id or uuid",
	[NO_REGIONS] = "device: regions_count is 0; 1 to 1024 are right",
	[NO_WORKER] = "device: only a worker lends memory",
	[EMPTY_REGION] = "region 1: 0 bytes at 0x7f8000000000 are no memory",
	[WRAPPING_REGION] = "region 1: 65536 bytes at 0xfffffffffffffff0 are no memory",
	[OVERLAP] = "region 1 overlaps region 0: 0x7f000000fff8 lies in both",
	[STRANGE_KIND] = "region 0: kind is 9; KVTIER_REGION_HANDLE or KVTIER_REGION_FDS is right",
	[NO_HANDLE] = "region 0: of this kind, a handle and no descriptors are right",
	[HANDLE_AND_FDS] = "region 0: of this kind, a handle and no descriptors are right",
	[NO_FDS] = "region 1: of this kind, fds and the fd_bytes of each are required",
	[FDS_TOO_SHORT] = "region 1: bytes is 65536, fd_bytes are 65528",
	[EMPTY_FD] = "region 1: fd_bytes[0] is 0",
	[CLOSED_FD] = "region 1: fds[1] is -1: Bad file descriptor",
	[FDS_WITH_OFFSET] =
		"region 1: of this kind, no handle and no handle_offset are right",
	[PLANE_OUTSIDE] = "group 0, plane 0: 0x7effffffffff lies in no region of the device",
	[PLANE_ACROSS] =
		"group 0, plane 1: its 20480 bytes go beyond the end of region 1, at 0x7f8000010000",
	[PLANES_OVERLAP] = "group 0",
	[WORD_OUTSIDE] = "word_address: 0x7f8000010000 lies in no region",
	[WORD_UNALIGNED] =
		"word_address: 0x7f8000000004 is no multiple of 8 from its region's start",
};

static void scene_spoil(struct lent_scene *scene, enum wrong wrong)
{
	struct kvtier_region *first = &scene->regions[0], *second = &scene->regions[1];

	switch (wrong) {
	case NO_NAME:         scene->device.name = NULL; break;
	case LONG_NAME:       scene->device.name = "0123456789012345678901234567890123456789"
						   "01234567"; break;
	case NO_REGIONS:      scene->device.regions_count = 0; break;
	case NO_WORKER:       scene->options.roles = KVTIER_SCHEDULER; break;
	case EMPTY_REGION:    second->bytes = 0; break;
	case WRAPPING_REGION: second->address = -UINT64_C(16); break;
	case OVERLAP:         second->address = FIRST + REGION_BYTES - 8; break;
	case STRANGE_KIND:    first->kind = (enum kvtier_region_kind)9; break;
	case NO_HANDLE:       first->handle = NULL; break;
	case HANDLE_AND_FDS:  first->fds_count = 1; break;
	case NO_FDS:          second->fds_count = 0; break;
	case FDS_TOO_SHORT:   scene->fd_bytes[1] -= 8; break;
	case EMPTY_FD:        scene->fd_bytes[0] = 0; break;
	case CLOSED_FD:       close(scene->fds[1]); scene->fds[1] = -1; break;
	case FDS_WITH_OFFSET: second->handle_offset = 1; break;
	case PLANE_OUTSIDE:   scene->planes[0].base = device_address(FIRST - 1); break;
	case PLANE_ACROSS:    scene->planes[1].base = device_address(SECOND + REGION_BYTES - 20479);
			      break;
	case PLANES_OVERLAP:  scene->planes[1].base = device_address(FIRST + 600); break;
	case WORD_OUTSIDE:    scene->device.word_address = SECOND + REGION_BYTES; break;
	case WORD_UNALIGNED:  scene->device.word_address = SECOND + 4; break;
	default:              fail();
	}
}

static void each_wrong_description_is_refused_with_what_is_wrong(void **unused)
{
	(void)unused;
	for (unsigned wrong = 0; wrong < WRONGS; wrong++) {
		struct lent_scene scene;

		scene_init(&scene);
		scene_spoil(&scene, wrong);
		assert_int_equal(scene_open(&scene), -EINVAL);
		if (strncmp(scene.text, sentences[wrong], strlen(sentences[wrong])) != 0)
			assert_string_equal(scene.text, sentences[wrong]);
		assert_null(scene.client);
		scene_finish(&scene);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_packet_says_what_lies_where),
		cmocka_unit_test(each_wrong_description_is_refused_with_what_is_wrong),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
