/*
 * tiers/nvme/catalog_server.h: answers the messages of the catalogue over a back end: collects
 * records until SYNC, then writes them as one batch. Runs on: one thread; blocks as the back end
 * does (the worker's process, or a test's only thread).
 */
#ifndef KVTIER_TIERS_NVME_CATALOG_SERVER_H
#define KVTIER_TIERS_NVME_CATALOG_SERVER_H

#include "tiers/nvme/catalog.h"

#include <stdbool.h>
#include <stdint.h>

/* More records than this without a SYNC are written early: a batch may be split, since a SYNC only
 * says that all before it is written, and each record may be applied twice. */
#define CATALOG_COLLECTED_MAX 8192u

struct catalog_server {
	const struct catalog_ops *ops;
	void *catalog;
	struct catalog_message *collected;
	unsigned collected_count;
	/* Sends; may block. False: nobody listens any more, and the life ends. */
	bool (*answer)(void *owner, const struct catalog_message *message);
	void *owner;
};

/* Opens the back end and answers OPENED, or FAILED. On failure leaves nothing behind. */
must_check int catalog_server_open(struct catalog_server *server, const struct catalog_ops *ops,
				   const char *path,
				   bool (*answer)(void *owner,
						  const struct catalog_message *message),
				   void *owner, struct error *error);
/* Negative: FAILED was answered, and the life must end. */
must_check int catalog_server_handle(struct catalog_server *server,
				     const struct catalog_message *message, struct error *error);
/* What was collected and not synced is lost. Accepts a closed one. */
void catalog_server_close(struct catalog_server *server);

#endif
