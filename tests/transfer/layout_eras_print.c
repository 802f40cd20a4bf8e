/* tests/transfer/layout_eras_print.c: all layouts as JSON, a line each, for tests in other
 * languages. */
#include "layout_eras.h"

#include <inttypes.h>
#include <stdlib.h>

static void planes_print(const struct tensor *tensors, unsigned count, FILE *file)
{
	static struct layout_plane planes[LAYOUT_PLANES_MAX];
	unsigned planes_count = 0;

	for (unsigned i = 0; i < count; i++)
		planes_count += tensor_planes(&tensors[i], planes + planes_count);
	for (unsigned i = 0; i < planes_count; i++)
		fprintf(file, "%s[%" PRIu32 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 "]",
			i > 0 ? "," : "", planes[i].region, planes[i].offset, planes[i].stride,
			planes[i].bytes);
}

/* [region, offset, bytes] of each run of a block, from shapes and strides alone. */
static void block_print(const struct tensor *tensors, unsigned count, uint32_t block, FILE *file)
{
	const char *comma = "";

	for (unsigned i = 0; i < count; i++) {
		uint64_t bytes = tensor_block_bytes(&tensors[i]), end;
		uint64_t *addresses = malloc(bytes * sizeof(*addresses));

		if (addresses == NULL)
			abort();
		tensor_addresses(&tensors[i], 0, block, addresses);
		for (uint64_t n = 0; n < bytes; n = end, comma = ",") {
			for (end = n + 1; end < bytes && addresses[end] == addresses[end - 1] + 1;)
				end++;
			fprintf(file, "%s[%" PRIu32 ",%" PRIu64 ",%" PRIu64 "]", comma,
				tensors[i].region, addresses[n], end - n);
		}
		free(addresses);
	}
}

static void group_print(const struct era *era, FILE *file)
{
	struct tensor tensors[ERA_TENSORS_MAX];
	unsigned count = era_tensors(era, tensors);

	fputs("{\"planes\":[", file);
	planes_print(tensors, count, file);
	fputs("],\"blocks\":[", file);
	for (uint32_t block = 0; block < ERA_BLOCKS; block++) {
		fputs(block > 0 ? ",[" : "[", file);
		block_print(tensors, count, block, file);
		fputs("]", file);
	}
	fputs("]}", file);
}

void eras_print(FILE *file)
{
	for (unsigned i = 0; i < eras_count; i++) {
		fprintf(file, "{\"name\":\"%s\",\"groups\":[", eras[i].name);
		group_print(&eras[i], file);
		fputs("]}\n", file);
	}
	for (unsigned i = 0; i < era_overlays_count; i++) {
		fprintf(file, "{\"name\":\"%s\",\"groups\":[", era_overlays[i].name);
		group_print(&era_overlays[i].groups[0], file);
		fputs(",", file);
		group_print(&era_overlays[i].groups[1], file);
		fputs("]}\n", file);
	}
}
