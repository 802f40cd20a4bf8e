/*
 * daemon/catalog.h: tells the catalogue what became READY on nvme, and all of it again when it was
 * lost.
 * Runs on: the loop thread.
 */
#ifndef KVTIER_DAEMON_CATALOG_H
#define KVTIER_DAEMON_CATALOG_H

#include "daemon/daemon.h"

/* The link: a worker process, or in-process where the seams say so. */
must_check int catalog_open(struct daemon *daemon, const struct daemon_seams *seams,
			    struct error *error);
/* A slot that was just written from this header, enciphered by this key (0: in the clear). */
void catalog_put_header(struct daemon *daemon, const struct slot_header *header, uint32_t key_id,
			const struct slot_place *place);
/* A READY slot, as far as the index knows it: enough to find it again (sizes and times for people
 * are 0). */
void catalog_put_slot(struct daemon *daemon, uint32_t nvme_slot, uint32_t key_id);

#endif
