/* daemon/devices.c: opens the nvme devices; a dead disk costs its tier, not the daemon. */
#include "daemon/devices.h"

#include "base/log.h"
#include "daemon/mover.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A device node that has gone must not come back as a file in memory, which /dev is. */
static int node_check(const char *path, struct error *error)
{
	if (!settings_names_node(path))
		return 0;
	if (access(path, F_OK) == 0 || errno != ENOENT)
		return 0;
	return error_set(error, -ENODEV, "%s is not there: the disk is gone, or has another name now", path);
}

static void note_absent(struct daemon *daemon, unsigned number, const struct error *error)
{
	struct device_absent *absent = &daemon->absent[daemon->absent_count++];
	char quoted[2 * sizeof(error->text)];

	absent->path = daemon->settings.devices[number].path;
	snprintf(absent->reason, sizeof(absent->reason), "%s", error->text);
	log_line(LOG_ERROR, "nvme_absent", "device=%s reason=%s fix=\"replace the disk, or take it out of "
		 "nvme, and restart; the rest serves without it\"", absent->path,
		 log_quote(quoted, sizeof(quoted), error->text));
}

void devices_slower(const char *path, const struct error *error)
{
	char quoted[2 * sizeof(error->text)];

	log_line(LOG_WARNING, "nvme_slower", "device=%s reason=%s", path,
		 log_quote(quoted, sizeof(quoted), error->text));
}

static void device_add(struct daemon *daemon)
{
	struct daemon_device *device = &daemon->devices[daemon->devices_count];
	const char *note = nvme_device_note(device->device);
	char quoted[512];

	device->daemon = daemon;
	device->units = nvme_device_units(device->device);
	if (daemon->devices_count > 0)
		device->first_unit = device[-1].first_unit + device[-1].units;
	daemon->devices_count++;
	log_line(LOG_INFO, "nvme_open", "device=%s units=%u unit_bytes=%llu io=\"%s\" new=%d",
		 nvme_device_path(device->device), device->units,
		 (unsigned long long)daemon->settings.extent_bytes,
		 nvme_device_io_name(device->device), nvme_device_is_new(device->device));
	if (note[0] != '\0')
		log_line(LOG_INFO, "nvme_anew", "device=%s reason=%s", nvme_device_path(device->device),
			 log_quote(quoted, sizeof(quoted), note));
}

int devices_open(struct daemon *daemon, const struct daemon_seams *seams, struct error *error)
{
	const struct settings *settings = &daemon->settings;

	for (unsigned i = 0; i < settings->devices_count; i++) {
		struct nvme_config config = {
			.path = settings->devices[i].path, .bytes = settings->devices[i].bytes,
			.unit_bytes = settings->extent_bytes, .queue_depth = settings->queue_depth,
			.ops_max = MOVES_MAX + 64, .io = settings->io, .io_ops = seams->io_ops,
			.clock = daemon->clock, .lock_wait_us_max = settings->restart_wait_us,
			.raw_initialise = settings->devices[i].raw_initialise,
		};
		struct error own = { 0 };
		int result = node_check(config.path, &own);

		if (result == 0)
			result = nvme_device_open(&daemon->devices[daemon->devices_count].device,
						  &config, &own);
		if (result >= 0) {
			device_add(daemon);
			if (result > 0)
				devices_slower(config.path, &own);
		} else if (settings_is_disk_failure(result)) {
			note_absent(daemon, i, &own);
		} else {
			if (error != NULL)
				*error = own;
			return result;
		}
	}
	return 0;
}
