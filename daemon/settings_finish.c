/* daemon/settings_finish.c: what must hold between settings, and what is computed from others. */
#include "daemon/settings_table.h"

#include "daemon/keyring.h"
#include "daemon/peer_files.h"

#include "tiers/nvme/nvme.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define CPU_BYTES_DEFAULT "1GiB"
#define MILLS_CHOSEN_MAX 4
#define ENCRYPTION_BYTES_CHOSEN (UINT64_C(32) << 20)
#define BYTES_SMALL      (UINT64_C(16) << 30)
#define BYTES_MEDIUM     (UINT64_C(256) << 30)

static int finish_required(struct settings *settings, struct error *error)
{
	for (unsigned l = 0; l < settings_lists_count; l++) {
		const struct setting_list *list = &settings_lists[l];

		for (uint32_t index = 0; index < settings_list_count(settings, list); index++) {
			struct setting_record record = settings_list_record(settings, list, index);

			for (unsigned i = 0; i < list->rows_count; i++)
				if (list->rows[i].is_required && record.origins[i].text[0] == '\0')
					return error_set(error, -EINVAL, "%s.%u.%s: is required",
							 list->name, index, list->rows[i].name);
		}
	}
	return 0;
}

/* Whole extents, at least one, and not more than an extent table has rows. */
static int extents_check(const struct settings *settings, const char *what, uint64_t bytes,
			 struct error *error)
{
	char extent[32], most[32];
	uint64_t extents = bytes / settings->extent_bytes;

	setting_format_number(SETTING_SIZE, settings->extent_bytes, extent, sizeof(extent));
	setting_format_number(SETTING_SIZE, settings->extent_bytes * NVME_EXTENTS_MAX, most,
			      sizeof(most));
	if (extents == 0)
		return error_set(error, -ERANGE, "%s: smaller than one extent (extent_bytes: %s)",
				 what, extent);
	if (extents > NVME_EXTENTS_MAX)
		return error_set(error, -ERANGE,
				 "%s: more than %u extents of %s (%s); raise extent_bytes", what,
				 NVME_EXTENTS_MAX, extent, most);
	return 0;
}

bool settings_names_node(const char *path)
{
	return strncmp(path, "/dev/", 5) == 0 && strncmp(path, "/dev/shm/", 9) != 0;
}

bool settings_is_disk_failure(int result)
{
	return result == -EIO || result == -ENXIO || result == -ENODEV || result == -ENOMEDIUM;
}

/* The size of a disk whose bytes are not set. It stays 0 where the disk is dead or gone: opening it
 * says so, and costs its tier alone. */
static int finish_disk_bytes(struct device_settings *device, uint32_t index, struct error *error)
{
	struct stat status;
	off_t end;
	int fd;

	if (stat(device->path, &status) < 0) {
		if (errno == ENOENT && settings_names_node(device->path))
			return 0;
		return error_set(error, -errno,
				 "nvme.%u.bytes: is required, as %.100s is not there: %s", index,
				 device->path, strerror(errno));
	}
	if (!S_ISBLK(status.st_mode))
		return error_set(error, -EINVAL, "nvme.%u.bytes: is required for a file (%.100s)",
				 index, device->path);
	fd = open(device->path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 && settings_is_disk_failure(-errno))
		return 0;
	if (fd < 0)
		return error_set(error, -errno, "nvme.%u.path: %.100s: %s", index, device->path,
				 strerror(errno));
	end = lseek(fd, 0, SEEK_END);
	close(fd);
	device->bytes = end > 0 ? (uint64_t)end : 0;
	return 0;
}

static int finish_device(struct settings *settings, uint32_t index, struct error *error)
{
	struct device_settings *device = &settings->devices[index];
	char what[64];

	snprintf(what, sizeof(what), "nvme.%u.bytes", index);
	for (uint32_t other = 0; other < index; other++)
		if (strcmp(settings->devices[other].path, device->path) == 0)
			return error_set(error, -EEXIST, "nvme.%u.path: %.120s is nvme.%u already",
					 index, device->path, other);
	if (device->bytes == 0) {
		int result = finish_disk_bytes(device, index, error);

		if (result < 0 || device->bytes == 0)
			return result;
	}
	return extents_check(settings, what, device->bytes, error);
}

static int finish_tenant(struct settings *settings, uint32_t index, struct error *error)
{
	struct tenant_settings *tenant = &settings->tenants[index];
	struct sockaddr_un address;
	char what[64];
	size_t socket_bytes;

	snprintf(what, sizeof(what), "tenants.%u.cpu_bytes", index);
	for (uint32_t other = 0; other < index; other++) {
		const struct tenant_settings *earlier = &settings->tenants[other];

		if (strcmp(earlier->name, tenant->name) == 0)
			return error_set(error, -EEXIST,
					 "tenants.%u.name: '%s' is tenants.%u already", index,
					 tenant->name, other);
		if (tenant->cpu_file[0] != '\0' && strcmp(earlier->cpu_file, tenant->cpu_file) == 0)
			return error_set(
				error, -EEXIST,
				"tenants.%u.cpu_file: %.120s is that of tenants.%u already", index,
				tenant->cpu_file, other);
	}
	socket_bytes = strlen(settings->run_directory) + strlen("/t//kv.sock") +
		       strlen(tenant->name) + 1;
	if (socket_bytes > sizeof(address.sun_path))
		return error_set(
			error, -ENAMETOOLONG,
			"run_directory: with tenant '%s', paths of sockets get longer than %zu characters: set a shorter one",
			tenant->name, sizeof(address.sun_path) - 1);
	tenant->cpu_bytes -= tenant->cpu_bytes % settings->extent_bytes;
	return extents_check(settings, what, tenant->cpu_bytes, error);
}

static bool nvme_bytes_is_given(struct settings *settings, uint32_t index)
{
	struct setting_record record = settings_list_record(settings, settings_list_find("tenants"),
							    index);
	const struct setting *row;
	int result = setting_find(&record, "nvme_bytes", "", &row, NULL);

	assert(result == 0);
	return record.origins[row - record.rows].text[0] != '\0';
}

/* Shares of the devices: as given, and what is left in equal parts to those that were given none.
 */
static int finish_shares(struct settings *settings, struct error *error)
{
	uint64_t extent_bytes = settings->extent_bytes, device_bytes = 0, given_bytes = 0;
	uint32_t open_count = 0;
	bool are_known = true;   /* no disk is dead whose size only it could tell */

	for (uint32_t i = 0; i < settings->devices_count; i++) {
		device_bytes += settings->devices[i].bytes / extent_bytes * extent_bytes;
		are_known = are_known && settings->devices[i].bytes > 0;
	}
	for (uint32_t i = 0; i < settings->tenants_count; i++) {
		if (!nvme_bytes_is_given(settings, i)) {
			open_count++;
			continue;
		}
		settings->tenants[i].nvme_bytes -= settings->tenants[i].nvme_bytes % extent_bytes;
		given_bytes += settings->tenants[i].nvme_bytes;
	}
	if (given_bytes > device_bytes && !are_known)
		device_bytes = given_bytes;
	if (given_bytes > device_bytes) {
		char given[32], there[32];

		setting_format_number(SETTING_SIZE, given_bytes, given, sizeof(given));
		setting_format_number(SETTING_SIZE, device_bytes, there, sizeof(there));
		return error_set(error, -ERANGE,
				 "tenants: their nvme_bytes add up to %s, the devices to %s", given,
				 there);
	}
	for (uint32_t i = 0; i < settings->tenants_count; i++) {
		if (!nvme_bytes_is_given(settings, i))
			settings->tenants[i].nvme_bytes = (device_bytes - given_bytes) /
							  open_count / extent_bytes * extent_bytes;
	}
	return 0;
}

static int finish_key_file(struct settings *settings, uint32_t index, struct error *error)
{
	const struct tenant_settings *tenant = &settings->tenants[index];
	bool is_wanted = strcmp(settings->encryption, "key_file") == 0;
	struct error reason;
	int result;

	if (!is_wanted && tenant->key_file[0] != '\0')
		return error_set(error, -EINVAL,
				 "tenants.%u.key_file: is of no use with encryption: %s; set encryption: key_file",
				 index, settings->encryption);
	if (is_wanted && tenant->nvme_bytes > 0 && tenant->key_file[0] == '\0')
		return error_set(error, -EINVAL,
				 "tenants.%u.key_file: is required by encryption: key_file for tenant '%s'",
				 index, tenant->name);
	if (tenant->key_file[0] == '\0')
		return 0;
	result = keyring_check(tenant->key_file, &reason);
	return result == 0 ? 0
			   : error_set(error, result, "tenants.%u.key_file: %s", index,
				       reason.text);
}

/* The buffers hold the largest slot that there can be: blocks come through a window, and a slot
 * lies in an extent. */
static int finish_encryption(struct settings *settings, struct error *error)
{
	uint64_t largest = slot_bytes_for(settings->window_bytes);
	uint64_t bytes = settings->encryption_buffer_bytes;
	char text[32];
	int result = 0;

	for (uint32_t i = 0; result == 0 && i < settings->tenants_count; i++)
		result = finish_key_file(settings, i, error);
	if (result < 0 || strcmp(settings->encryption, "off") == 0)
		return result;
	if (largest > settings->extent_bytes)
		largest = settings->extent_bytes;
	if (bytes == 0)
		bytes = largest < ENCRYPTION_BYTES_CHOSEN ? ENCRYPTION_BYTES_CHOSEN : largest;
	setting_format_number(SETTING_SIZE, largest, text, sizeof(text));
	if (bytes < largest)
		return error_set(error, -ERANGE,
				 "encryption_buffer_bytes: less than the largest block of window_bytes and extent_bytes takes (%s)",
				 text);
	settings->encryption_buffer_bytes = bytes - bytes % SLOT_ALIGN_BYTES;
	return 0;
}

static uint32_t mills_choose(void)
{
	cpu_set_t cpus;
	int count = 1;

	if (sched_getaffinity(0, sizeof(cpus), &cpus) == 0)
		count = CPU_COUNT(&cpus) / 2;
	if (count < 1)
		return 1;
	return count > MILLS_CHOSEN_MAX ? MILLS_CHOSEN_MAX : (uint32_t)count;
}

static void finish_chosen(struct settings *settings)
{
	uint64_t bytes = 0, blocks;

	if (settings->mills == 0)
		settings->mills = mills_choose();
	for (uint32_t i = 0; i < settings->tenants_count; i++)
		bytes += settings->tenants[i].cpu_bytes + settings->tenants[i].nvme_bytes;
	/* An index takes about 130 bytes a block: small nodes can afford small blocks, large ones
	 * need not. */
	if (settings->block_bytes_min == 0)
		settings->block_bytes_min = bytes <= BYTES_SMALL    ? 4096
					    : bytes <= BYTES_MEDIUM ? 16384
								    : 65536;
	if (settings->index_blocks_max > 0)
		return;
	/* A block in both tiers takes one entry, so this is more than enough. */
	blocks = bytes / slot_bytes_for(settings->block_bytes_min);
	if (blocks < 1024)
		blocks = 1024;
	settings->index_blocks_max = blocks > UINT32_MAX / 2 ? UINT32_MAX / 2 : blocks;
}

/* Questions go to the next port of the same address; to any free one where any would do. */
static int finish_inventory(struct settings *settings, struct error *error)
{
	const char *listen = settings->inventory_listen, *colon = strrchr(listen, ':');
	unsigned port = colon == NULL ? 0 : (unsigned)strtoul(colon + 1, NULL, 10);

	if (listen[0] == '\0')
		return 0;
	if (settings->inventory_ask_listen[0] == '\0' && port == 65535)
		return error_set(error, -ERANGE,
				 "inventory_listen: %s has no next port for questions; "
				 "set inventory_ask_listen", listen);
	if (settings->inventory_ask_listen[0] == '\0')
		snprintf(settings->inventory_ask_listen, sizeof(settings->inventory_ask_listen),
			 "%.*s:%u", (int)(colon - listen), listen, port == 0 ? 0 : port + 1);
	if (port != 0 && strcmp(settings->inventory_ask_listen, listen) == 0)
		return error_set(error, -EINVAL,
				 "inventory_ask_listen: %s is inventory_listen; it needs a port of "
				 "its own", listen);
	return 0;
}

int settings_finish(struct settings *settings, struct error *error)
{
	int result = 0;

	if ((settings->extent_bytes & (settings->extent_bytes - 1)) != 0)
		return error_set(error, -EINVAL,
				 "extent_bytes: %llu is not a power of two, such as 64MiB",
				 (unsigned long long)settings->extent_bytes);
	if (slot_bytes_for(settings->block_bytes_min) > settings->extent_bytes)
		return error_set(
			error, -ERANGE,
			"block_bytes_min: with its header it does not fit into extent_bytes");
	if (settings->tenants_count == 0)
		result = settings_set(settings, "tenants.0.cpu_bytes", CPU_BYTES_DEFAULT, "default",
				      error);
	if (result == 0)
		result = finish_required(settings, error);
	for (uint32_t i = 0; result == 0 && i < settings->devices_count; i++)
		result = finish_device(settings, i, error);
	for (uint32_t i = 0; result == 0 && i < settings->tenants_count; i++)
		result = finish_tenant(settings, i, error);
	if (result == 0)
		result = finish_shares(settings, error);
	if (result == 0)
		result = finish_encryption(settings, error);
	if (result == 0)
		result = finish_inventory(settings, error);
	if (result == 0)
		result = peer_settings_check(settings, error);
	if (result < 0)
		return result;
	finish_chosen(settings);
	assert(settings->tenants_count > 0 && settings->mills > 0 &&
	       settings->index_blocks_max > 0);
	return 0;
}
