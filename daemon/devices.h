/* daemon/devices.h: the nvme devices of the settings, opened at start. One that fails is left
 * out, and the rest serves. */
#ifndef KVTIER_DAEMON_DEVICES_H
#define KVTIER_DAEMON_DEVICES_H

#include "daemon/daemon.h"

/* Opens and locks them. Fails for what the operator has to put right; a disk that is broken or gone
 * is noted in daemon->absent, and logged. */
must_check int devices_open(struct daemon *daemon, const struct daemon_seams *seams,
			    struct error *error);
/* Logs that a device works, slower than it could, and why. */
void devices_slower(const char *path, const struct error *error);

#endif
