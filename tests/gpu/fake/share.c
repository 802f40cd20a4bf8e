/* tests/gpu/fake/share.c: memory of one process in another: by IPC handle, and by descriptor. */
#include "tests/gpu/fake/fake.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROCM_MIN 10000000
#define ROCM_6 60000000
#define ROCM_7_1 70100000
#define HANDLE_MAGIC UINT64_C(0x66616b6569706331)

struct handle {
	uint64_t magic, id, bytes;
	int32_t process;
};

/* What cuMemCreate and an import give: a descriptor of the memory's file. */
struct share {
	uint64_t id, bytes;
	int fd;
	struct list_node link;
};
static struct list shares = { .head = { &shares.head, &shares.head } };

static int file_open(uint64_t id, int flags)
{
	char path[256], name[32];

	snprintf(name, sizeof(name), "memory-%llu", (unsigned long long)id);
	fake_path(path, sizeof(path), name);
	return open(path, flags | O_CLOEXEC, 0600);
}

uint8_t *fake_file_map(uint64_t id, uint64_t bytes, bool create)
{
	int fd = file_open(id, create ? O_RDWR | O_CREAT | O_EXCL : O_RDWR);
	void *memory = MAP_FAILED;

	if (fd >= 0 && (!create || ftruncate(fd, (off_t)bytes) == 0))
		memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd >= 0)
		close(fd);
	return memory == MAP_FAILED ? NULL : memory;
}

EXPORTED int cuIpcGetMemHandle(gpu_ipc *out_handle, gpu_address address)
{
	int error = fake_enter(FAKE_cuIpcGetMemHandle, true);
	struct mapping *mapping;
	struct handle handle = { .magic = HANDLE_MAGIC, .process = getpid() };

	if (error != 0)
		return error;
	pthread_mutex_lock(&fake_mutex);
	mapping = fake_mapping_of((void *)(address & ~DEVICE_BIT), 1, false);
	if (mapping == NULL || mapping->kind != MAPPING_OWN)
		error = GPU_INVALID_VALUE;
	else
		handle.id = mapping->id, handle.bytes = mapping->bytes;
	pthread_mutex_unlock(&fake_mutex);
	memset(out_handle, 0, sizeof(*out_handle));
	memcpy(out_handle, &handle, sizeof(handle));
	return error;
}

static struct mapping *import_of(uint64_t id)
{
	struct list_node *node;

	for (node = list_first(&fake_mappings); node; node = list_after(&fake_mappings, node)) {
		struct mapping *mapping = list_item(node, struct mapping, link);

		if (mapping->kind == MAPPING_IPC && mapping->id == id)
			return mapping;
	}
	return NULL;
}

EXPORTED int cuIpcOpenMemHandle_v2(gpu_address *out_address, gpu_ipc raw, unsigned flags)
{
	int error = fake_enter(FAKE_cuIpcOpenMemHandle_v2, true);
	struct mapping *mapping;
	struct handle handle;
	uint8_t *memory;

	memcpy(&handle, &raw, sizeof(handle));
	if (error != 0 || handle.magic != HANDLE_MAGIC ||
	    flags != (fake_control->version >= ROCM_MIN && fake_control->version < ROCM_6 ? 0 : 1))
		return error != 0 ? error : GPU_INVALID_VALUE;
	if (handle.process == getpid())
		return GPU_INVALID_CONTEXT; /* the number is all that is looked at */
	pthread_mutex_lock(&fake_mutex);
	mapping = import_of(handle.id);
	if (mapping != NULL)
		mapping->opens++;
	else if (!fake_table_hold(handle.id))
		error = GPU_INVALID_VALUE;
	else if ((memory = fake_file_map(handle.id, handle.bytes, false)) != NULL)
		mapping = fake_mapping_add(MAPPING_IPC, handle.id, memory, handle.bytes);
	else
		fake_table_release(handle.id), error = GPU_MAP_FAILED;
	if (error == 0)
		*out_address = (uint64_t)mapping->memory | DEVICE_BIT;
	pthread_mutex_unlock(&fake_mutex);
	return error;
}

EXPORTED int cuIpcCloseMemHandle(gpu_address address)
{
	int error = fake_enter(FAKE_cuIpcCloseMemHandle, true);
	uint8_t *memory = (uint8_t *)(address & ~DEVICE_BIT);
	struct mapping *mapping;

	pthread_mutex_lock(&fake_mutex);
	mapping = fake_mapping_of(memory, 1, false);
	if (mapping == NULL || mapping->kind != MAPPING_IPC || mapping->memory != memory) {
		pthread_mutex_unlock(&fake_mutex);
		return GPU_INVALID_VALUE;
	}
	if (--mapping->opens == 0) {
		if (fake_wait_for_memory(memory, mapping->bytes))
			fake_control->misuses++;
		fake_mapping_drop(mapping);
	}
	pthread_mutex_unlock(&fake_mutex);
	return error;
}

static gpu_memory share_add(uint64_t id, uint64_t bytes, int fd)
{
	struct share *share = calloc(1, sizeof(*share));

	*share = (struct share){ .id = id, .bytes = bytes, .fd = fd };
	pthread_mutex_lock(&fake_mutex);
	list_append(&shares, &share->link);
	pthread_mutex_unlock(&fake_mutex);
	return (gpu_memory)share;
}

/* Under the mutex. */
static struct share *share_of(gpu_memory memory)
{
	struct list_node *node;

	for (node = list_first(&shares); node != NULL; node = list_after(&shares, node))
		if (list_item(node, struct share, link) == (struct share *)memory)
			return (struct share *)memory;
	return NULL;
}

static void share_drop(struct share *share)
{
	list_remove(&shares, &share->link);
	close(share->fd);
	fake_table_release(share->id);
	free(share);
}

unsigned fake_share_end(void)
{
	struct list_node *node;
	unsigned count = 0;

	pthread_mutex_lock(&fake_mutex);
	while ((node = list_first(&shares)) != NULL) {
		share_drop(list_item(node, struct share, link));
		count++;
	}
	pthread_mutex_unlock(&fake_mutex);
	return count;
}

EXPORTED int cuMemCreate(gpu_memory *memory, size_t bytes, const struct fake_share_properties *how,
			 unsigned long long flags)
{
	int error = fake_enter(FAKE_cuMemCreate, true);
	uint64_t id;
	int fd;

	if (error != 0 || bytes == 0 || bytes % PAGE_BYTES != 0 || flags != 0 ||
	    how->location_type != GPU_LOCATION_DEVICE)
		return error != 0 ? error : GPU_INVALID_VALUE;
	id = fake_table_new(bytes);
	fd = id == 0 ? -1 : file_open(id, O_RDWR | O_CREAT | O_EXCL);
	if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0)
		return GPU_OUT_OF_MEMORY;
	*memory = share_add(id, bytes, fd);
	return 0;
}

EXPORTED int cuMemExportToShareableHandle(void *fd, gpu_memory memory, gpu_share type,
					  unsigned long long flags)
{
	int error = fake_enter(FAKE_cuMemExportToShareableHandle, true);
	struct share *share;

	if (error != 0 || type != GPU_SHARE_POSIX_FD || flags != 0)
		return error != 0 ? error : GPU_INVALID_VALUE;
	pthread_mutex_lock(&fake_mutex);
	share = share_of(memory);
	if (share != NULL)
		*(int *)fd = fcntl(share->fd, F_DUPFD_CLOEXEC, 0);
	pthread_mutex_unlock(&fake_mutex);
	return share == NULL ? GPU_INVALID_VALUE : 0;
}

/* Which memory a descriptor is of; 0: of none of ours. */
static uint64_t id_of(int fd)
{
	char path[64], target[256], *name;
	ssize_t length;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	length = readlink(path, target, sizeof(target) - 1);
	if (length <= 0)
		return 0;
	target[length] = '\0';
	name = strrchr(target, '/');
	return name != NULL && strncmp(name, "/memory-", 8) == 0 ? strtoull(name + 8, NULL, 10) : 0;
}

EXPORTED int cuMemImportFromShareableHandle(gpu_memory *memory, void *handle, gpu_share type)
{
	int error = fake_enter(FAKE_cuMemImportFromShareableHandle, true);
	struct stat status;
	uint64_t id;
	int fd;

	/* As ROCm wants it before 7.1, and everybody since. */
	if (fake_control->version >= ROCM_MIN && fake_control->version < ROCM_7_1)
		fd = *(int *)handle;
	else
		fd = (int)(intptr_t)handle;
	if (error != 0 || type != GPU_SHARE_POSIX_FD)
		return error != 0 ? error : GPU_INVALID_VALUE;
	id = id_of(fd);
	if (id == 0 || fstat(fd, &status) < 0 || !fake_table_hold(id))
		return GPU_INVALID_VALUE;
	*memory = share_add(id, (uint64_t)status.st_size, fcntl(fd, F_DUPFD_CLOEXEC, 0));
	return 0;
}

EXPORTED int cuMemRelease(gpu_memory memory)
{
	int error = fake_enter(FAKE_cuMemRelease, true);
	struct share *share;

	pthread_mutex_lock(&fake_mutex);
	share = share_of(memory);
	if (share != NULL)
		share_drop(share);
	pthread_mutex_unlock(&fake_mutex);
	return share == NULL ? GPU_INVALID_VALUE : error;
}

EXPORTED int cuMemAddressReserve(gpu_address *out_address, size_t bytes, size_t alignment,
				 gpu_address wanted, unsigned long long flags)
{
	int error = fake_enter(FAKE_cuMemAddressReserve, true);
	void *memory;

	if (error != 0 || bytes % PAGE_BYTES != 0 || alignment > PAGE_BYTES || wanted != 0 ||
	    flags != 0)
		return error != 0 ? error : GPU_INVALID_VALUE;
	memory = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		return GPU_OUT_OF_MEMORY;
	*out_address = (uint64_t)memory | DEVICE_BIT;
	return 0;
}

EXPORTED int cuMemMap(gpu_address address, size_t bytes, size_t offset, gpu_memory memory,
		      unsigned long long flags)
{
	int error = fake_enter(FAKE_cuMemMap, true);
	uint8_t *target = (uint8_t *)(address & ~DEVICE_BIT);
	struct share *share;

	if (error != 0 || offset != 0 || flags != 0)
		return error != 0 ? error : GPU_INVALID_VALUE;
	pthread_mutex_lock(&fake_mutex);
	share = share_of(memory);
	if (share == NULL || bytes != share->bytes || fake_mapping_of(target, 1, false) != NULL)
		error = GPU_INVALID_VALUE;
	else if (mmap(target, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, share->fd, 0) ==
			 MAP_FAILED ||
		 !fake_table_hold(share->id))
		error = GPU_MAP_FAILED;
	else
		fake_mapping_add(MAPPING_RANGE, share->id, target, bytes);
	pthread_mutex_unlock(&fake_mutex);
	return error;
}

EXPORTED int cuMemSetAccess(gpu_address address, size_t bytes, const gpu_access *access,
			    size_t count)
{
	int error = fake_enter(FAKE_cuMemSetAccess, true);
	uint8_t *memory = (uint8_t *)(address & ~DEVICE_BIT);
	uint64_t done = 0;

	if (error != 0 || count != 1 || access->location_type != GPU_LOCATION_DEVICE ||
	    access->flags != GPU_ACCESS_READ_WRITE)
		return error != 0 ? error : GPU_INVALID_VALUE;
	pthread_mutex_lock(&fake_mutex);
	while (done < bytes && error == 0) {
		struct mapping *mapping = fake_mapping_of(memory + done, 1, false);

		if (mapping == NULL || mapping->kind != MAPPING_RANGE ||
		    mprotect(mapping->memory, mapping->bytes, PROT_READ | PROT_WRITE) < 0) {
			error = GPU_INVALID_VALUE;
			continue;
		}
		mapping->is_usable = true;
		done += mapping->bytes;
	}
	pthread_mutex_unlock(&fake_mutex);
	return error;
}

EXPORTED int cuMemUnmap(gpu_address address, size_t bytes)
{
	int error = fake_enter(FAKE_cuMemUnmap, true);
	uint8_t *memory = (uint8_t *)(address & ~DEVICE_BIT);
	struct mapping *mapping;

	pthread_mutex_lock(&fake_mutex);
	mapping = fake_mapping_of(memory, 1, false);
	if (mapping == NULL || mapping->memory != memory || mapping->bytes != bytes) {
		pthread_mutex_unlock(&fake_mutex);
		return GPU_INVALID_VALUE;
	}
	if (fake_wait_for_memory(memory, bytes))
		fake_control->misuses++;
	mmap(memory, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1,
	     0);
	fake_mapping_drop(mapping);
	pthread_mutex_unlock(&fake_mutex);
	return error;
}

EXPORTED int cuMemAddressFree(gpu_address address, size_t bytes)
{
	int error = fake_enter(FAKE_cuMemAddressFree, true);
	bool is_mapped;

	pthread_mutex_lock(&fake_mutex);
	is_mapped = fake_mapping_of((void *)(address & ~DEVICE_BIT), 1, false) != NULL;
	pthread_mutex_unlock(&fake_mutex);
	if (is_mapped)
		return GPU_INVALID_VALUE;
	munmap((void *)(address & ~DEVICE_BIT), bytes);
	return error;
}
