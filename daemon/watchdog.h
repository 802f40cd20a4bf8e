/*
 * daemon/watchdog.h: feeds the service manager's watchdog (WATCHDOG=1) while the data path works,
 * not just the loop: no mill or device that serving needs may be silent (daemon/probe.h). What is
 * withheld is given as soon as the part is back; else the manager ends us and starts anew.
 * Runs on: the loop thread.
 */
#ifndef KVTIER_DAEMON_WATCHDOG_H
#define KVTIER_DAEMON_WATCHDOG_H

#include "daemon/daemon.h"

struct watchdog {
	uint64_t every_us;  /* 0: nobody watches */
	uint64_t next_us;
	bool is_withheld;
};

/* Asks the environment who watches, and how often. */
void watchdog_init(struct watchdog *watchdog);
/* Once a pass. */
void watchdog_step(struct watchdog *watchdog, struct daemon *daemon);

#endif
