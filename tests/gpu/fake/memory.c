/* tests/gpu/fake/memory.c: device memory of our own, and host memory that is pinned. */
#include "tests/gpu/fake/fake.h"

#include <stdlib.h>
#include <sys/mman.h>

struct list fake_mappings = { .head = { &fake_mappings.head, &fake_mappings.head } };

struct mapping *fake_mapping_of(const void *memory, uint64_t bytes, bool host)
{
	struct list_node *node;

	for (node = list_first(&fake_mappings); node; node = list_after(&fake_mappings, node)) {
		struct mapping *mapping = list_item(node, struct mapping, link);
		uint64_t from = (uint64_t)memory - (uint64_t)mapping->memory;

		if ((mapping->kind == MAPPING_HOST) == host && from < mapping->bytes &&
		    bytes <= mapping->bytes - from)
			return mapping;
	}
	return NULL;
}

uint8_t *fake_device_memory(uint64_t address, uint64_t bytes)
{
	uint8_t *memory = (uint8_t *)(address & ~DEVICE_BIT);
	uint64_t looked = 0;

	if ((address & DEVICE_BIT) == 0)
		return NULL;
	/* A range may be mapped of several allocations. */
	while (looked < bytes) {
		struct mapping *mapping = fake_mapping_of(memory + looked, 1, false);

		if (mapping == NULL || !mapping->is_usable)
			return NULL;
		looked = (uint64_t)(mapping->memory + mapping->bytes - memory);
	}
	return memory;
}

/* Pinned piece by piece is pinned. */
bool fake_is_pinned(const void *memory, uint64_t bytes)
{
	uint64_t looked = 0;

	while (looked < bytes) {
		struct mapping *mapping = fake_mapping_of((const char *)memory + looked, 1, true);

		if (mapping == NULL)
			return false;
		looked = (uint64_t)(mapping->memory + mapping->bytes - (const uint8_t *)memory);
	}
	return true;
}

struct mapping *fake_mapping_add(enum mapping_kind kind, uint64_t id, uint8_t *memory,
				 uint64_t bytes)
{
	struct mapping *mapping = calloc(1, sizeof(*mapping));

	*mapping = (struct mapping){ .kind = kind, .id = id, .memory = memory, .bytes = bytes,
				     .opens = 1, .is_usable = kind != MAPPING_RANGE };
	list_append(&fake_mappings, &mapping->link);
	return mapping;
}

void fake_mapping_drop(struct mapping *mapping)
{
	list_remove(&fake_mappings, &mapping->link);
	if (mapping->kind == MAPPING_OWN || mapping->kind == MAPPING_IPC)
		munmap(mapping->memory, mapping->bytes);
	if (mapping->kind != MAPPING_HOST)
		fake_table_release(mapping->id);
	free(mapping);
}

unsigned fake_memory_end(void)
{
	struct list_node *node;
	unsigned count = 0;

	pthread_mutex_lock(&fake_mutex);
	while ((node = list_first(&fake_mappings)) != NULL) {
		fake_mapping_drop(list_item(node, struct mapping, link));
		count++;
	}
	pthread_mutex_unlock(&fake_mutex);
	return count;
}

EXPORTED int cuMemAlloc_v2(gpu_address *out_address, size_t bytes)
{
	int error = fake_enter(FAKE_cuMemAlloc_v2, true);
	uint64_t rounded = (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES, id;
	uint8_t *memory;

	if (error != 0 || bytes == 0)
		return error != 0 ? error : GPU_INVALID_VALUE;
	id = fake_table_new(rounded);
	memory = id == 0 ? NULL : fake_file_map(id, rounded, true);
	if (memory == NULL)
		return GPU_OUT_OF_MEMORY;
	pthread_mutex_lock(&fake_mutex);
	fake_mapping_add(MAPPING_OWN, id, memory, rounded);
	pthread_mutex_unlock(&fake_mutex);
	*out_address = (uint64_t)memory | DEVICE_BIT;
	return 0;
}

/* Waits for the copies that touch it, as CUDA does. */
EXPORTED int cuMemFree_v2(gpu_address address)
{
	int error = fake_enter(FAKE_cuMemFree_v2, true);
	uint8_t *memory = (uint8_t *)(address & ~DEVICE_BIT);
	struct mapping *mapping;

	pthread_mutex_lock(&fake_mutex);
	mapping = fake_mapping_of(memory, 1, false);
	if (mapping == NULL || mapping->kind != MAPPING_OWN || mapping->memory != memory) {
		pthread_mutex_unlock(&fake_mutex);
		return GPU_INVALID_VALUE;
	}
	fake_wait_for_memory(memory, mapping->bytes);
	fake_mapping_drop(mapping);
	pthread_mutex_unlock(&fake_mutex);
	return error;
}

EXPORTED int cuMemGetAddressRange_v2(gpu_address *out_base, size_t *out_bytes, gpu_address address)
{
	int error = fake_enter(FAKE_cuMemGetAddressRange_v2, true);
	struct mapping *mapping;

	if (error != 0)
		return error;
	pthread_mutex_lock(&fake_mutex);
	mapping = fake_mapping_of((void *)(address & ~DEVICE_BIT), 1, false);
	if (mapping != NULL) {
		*out_base = (uint64_t)mapping->memory | DEVICE_BIT;
		*out_bytes = mapping->bytes;
	}
	pthread_mutex_unlock(&fake_mutex);
	return mapping == NULL ? GPU_NOT_FOUND : 0;
}

static bool overlaps_pinned(const uint8_t *memory, uint64_t bytes)
{
	struct list_node *node;

	for (node = list_first(&fake_mappings); node; node = list_after(&fake_mappings, node)) {
		struct mapping *mapping = list_item(node, struct mapping, link);

		if (mapping->kind == MAPPING_HOST && mapping->memory < memory + bytes &&
		    memory < mapping->memory + mapping->bytes)
			return true;
	}
	return false;
}

EXPORTED int cuMemHostRegister_v2(void *memory, size_t bytes, unsigned flags)
{
	int error = fake_enter(FAKE_cuMemHostRegister_v2, true);

	if (error != 0 || bytes == 0 || (flags & ~3u) != 0)
		return error != 0 ? error : GPU_INVALID_VALUE;
	pthread_mutex_lock(&fake_mutex);
	if (overlaps_pinned(memory, bytes))
		error = GPU_HOST_ALREADY_REGISTERED;
	else
		fake_mapping_add(MAPPING_HOST, 0, memory, bytes);
	pthread_mutex_unlock(&fake_mutex);
	return error;
}

EXPORTED int cuMemHostUnregister(void *memory)
{
	int error = fake_enter(FAKE_cuMemHostUnregister, true);
	struct mapping *mapping;

	pthread_mutex_lock(&fake_mutex);
	mapping = fake_mapping_of(memory, 1, true);
	if (mapping == NULL || mapping->memory != memory) {
		pthread_mutex_unlock(&fake_mutex);
		return GPU_HOST_NOT_REGISTERED;
	}
	if (fake_wait_for_memory(memory, mapping->bytes))
		fake_control->misuses++;
	fake_mapping_drop(mapping);
	pthread_mutex_unlock(&fake_mutex);
	return error;
}

EXPORTED int cuMemHostGetDevicePointer_v2(gpu_address *out_address, void *memory, unsigned flags)
{
	int error = fake_enter(FAKE_cuMemHostGetDevicePointer_v2, true);

	if (error != 0 || flags != 0)
		return error != 0 ? error : GPU_INVALID_VALUE;
	pthread_mutex_lock(&fake_mutex);
	if (!fake_is_pinned(memory, 1))
		error = GPU_INVALID_VALUE;
	pthread_mutex_unlock(&fake_mutex);
	*out_address = (uint64_t)memory | HOST_BIT;
	return error;
}
