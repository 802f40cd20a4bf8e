/* tests/transfer/tensor.c: planes and addresses of tensors. */
#include "tensor.h"

#include <stdlib.h>

/* Dimensions, outermost in memory first, with how many rows of each one block has. */
struct order {
	unsigned dimensions[TENSOR_DIMENSIONS_MAX];
	uint32_t sizes[TENSOR_DIMENSIONS_MAX];
	uint64_t steps[TENSOR_DIMENSIONS_MAX]; /* bytes */
};

static struct order order_of(const struct tensor *tensor)
{
	struct order order = { 0 };

	for (unsigned i = 0; i < tensor->dimensions_count; i++) {
		unsigned at = i;

		while (at > 0 && tensor->strides[order.dimensions[at - 1]] < tensor->strides[i]) {
			order.dimensions[at] = order.dimensions[at - 1];
			at--;
		}
		order.dimensions[at] = i;
	}
	for (unsigned i = 0; i < tensor->dimensions_count; i++) {
		unsigned dimension = order.dimensions[i];

		order.sizes[i] = dimension == tensor->block_dimension ? tensor->block_rows
								      : tensor->shape[dimension];
		order.steps[i] = tensor->strides[dimension] * tensor->element_bytes;
	}
	return order;
}

/* Where the nth of the elements is that the first `count` dimensions of the order number. */
static uint64_t place_of(const struct order *order, unsigned count, uint64_t n)
{
	uint64_t place = 0;

	while (count-- > 0) {
		place += n % order->sizes[count] * order->steps[count];
		n /= order->sizes[count];
	}
	return place;
}

static uint64_t elements_of(const struct order *order, unsigned count)
{
	uint64_t elements = 1;

	for (unsigned i = 0; i < count; i++)
		elements *= order->sizes[i];
	return elements;
}

uint64_t tensor_block_bytes(const struct tensor *tensor)
{
	struct order order = order_of(tensor);

	return elements_of(&order, tensor->dimensions_count) * tensor->element_bytes;
}

uint64_t tensor_span_bytes(const struct tensor *tensor)
{
	uint64_t bytes = tensor->element_bytes;

	for (unsigned i = 0; i < tensor->dimensions_count; i++)
		bytes += (tensor->shape[i] - 1) * tensor->strides[i] * tensor->element_bytes;
	return bytes;
}

unsigned tensor_planes(const struct tensor *tensor, struct layout_plane *out_planes)
{
	struct order order = order_of(tensor);
	uint64_t stride = tensor->strides[tensor->block_dimension] * tensor->block_rows *
			  tensor->element_bytes;
	uint64_t bytes = tensor->element_bytes;
	unsigned outer = tensor->dimensions_count;

	while (outer > 0 && (order.sizes[outer - 1] == 1 || order.steps[outer - 1] == bytes)) {
		outer--;
		bytes *= order.sizes[outer];
	}
	for (uint64_t n = 0; n < elements_of(&order, outer); n++)
		out_planes[n] = (struct layout_plane){
			.region = tensor->region,
			.offset = tensor->offset + place_of(&order, outer, n),
			.stride = stride,
			.bytes = bytes,
		};
	return (unsigned)elements_of(&order, outer);
}

static int by_address(const void *left, const void *right)
{
	const uint64_t *a = left, *b = right;

	return *a < *b ? -1 : *a > *b;
}

static void sort(uint64_t *addresses, uint64_t count)
{
	for (uint64_t i = 1; i < count; i++)
		if (addresses[i] < addresses[i - 1]) {
			qsort(addresses, count, sizeof(*addresses), by_address);
			return;
		}
}

/* Each element in the order of its indices, as they are counted, then all in that of memory. */
void tensor_addresses(const struct tensor *tensor, uint64_t base, uint32_t block,
		      uint64_t *out_addresses)
{
	uint32_t indices[TENSOR_DIMENSIONS_MAX] = { 0 };
	uint64_t count = 0;

	for (unsigned i = 0; i < tensor->dimensions_count;) {
		uint64_t element = block * tensor->block_rows *
				   tensor->strides[tensor->block_dimension];

		for (unsigned n = 0; n < tensor->dimensions_count; n++)
			element += indices[n] * tensor->strides[n];
		for (uint32_t byte = 0; byte < tensor->element_bytes; byte++)
			out_addresses[count++] = base + tensor->offset +
						 element * tensor->element_bytes + byte;
		for (i = 0; i < tensor->dimensions_count; i++) {
			unsigned last = tensor->dimensions_count - 1 - i;
			uint32_t end = last == tensor->block_dimension ? tensor->block_rows
								       : tensor->shape[last];

			if (++indices[last] < end)
				break;
			indices[last] = 0;
		}
	}
	sort(out_addresses, count);
}
