/*
 * daemon/spaces.h: which spaces there are: they come with a registration, an adapter or what an
 * earlier life has stored, and go when a tenant's part of spaces_max is full and nobody holds
 * them. Also their floors, which outlive them: what a space finds when it comes back is not below
 * the floor that it had.
 * Runs on: the loop thread. Limit: an equal part of spaces_max a tenant.
 */
#ifndef KVTIER_DAEMON_SPACES_H
#define KVTIER_DAEMON_SPACES_H

#include "daemon/daemon.h"

/* Given back, and not yet rid of their blocks; of each tenant. */
#define SPACES_LEAVING_MAX 64u

must_check int spaces_create(struct daemon *daemon, struct error *error);
void spaces_destroy(struct daemon *daemon);
/*
 * The tenant's space with this fingerprint; made if need be, for which another one is given back if
 * the tenant's part is full. Whoever keeps the number holds it (cache_space_hold). -ENOSPC: all of
 * its spaces are in use. -EAGAIN: so many went lately that their blocks are still being dropped.
 */
must_check int spaces_open(struct daemon *daemon, const struct tenant *tenant,
			   const uint8_t *fingerprint, uint32_t *out_space);
/* The same for what is found again: no other space goes for it. */
must_check int spaces_restore(struct daemon *daemon, uint32_t tenant, const uint8_t *fingerprint,
			      uint32_t *out_space);
/* An engine looks something up in the space, stores or loads. */
void spaces_use(struct daemon *daemon, uint32_t space, const char *engine);
/* Raises the floor of everything that the record names, whether it is there now or not. */
void spaces_floor_raise(struct daemon *daemon, const struct journal_record *record);

#endif
