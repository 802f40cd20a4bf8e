/*
 * daemon/notify.h: tells the service manager how we are (the sd_notify protocol), without its
 * library. Runs on: the loop thread. Sends at once or not at all: a full or missing socket never
 * makes us wait.
 */
#ifndef KVTIER_DAEMON_NOTIFY_H
#define KVTIER_DAEMON_NOTIFY_H

#include "base/error.h"

#include <stdint.h>

/* Sends lines such as "READY=1\nSTATUS=serving" to $NOTIFY_SOCKET. 0 also when nobody wants to
 * know. */
must_check int notify_send(const char *lines, struct error *error);

/* How often at least "WATCHDOG=1" is wanted, in microseconds: half of $WATCHDOG_USEC; 0: never. */
uint64_t notify_watchdog_us(void);

#endif
