/* daemon/catalog_worker.c: the process that has the catalogue: messages in, answers out, a beat
 * between. */
#include "tiers/nvme/catalog.h"

#include "daemon/sandbox.h"
#include "daemon/worker.h"
#include "tiers/nvme/catalog_server.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#define ROOM_WAIT_MS 1   /* between two looks at a full ring: its reader sends no wake-up for room \
			  */
#define SILENCE_MS 20    /* between two looks at a silent parent */
#define HANDLED_MAX 256u /* messages between two beats */

#if HAVE_ROCKSDB
static const struct catalog_ops *const back_end = &catalog_rocksdb_ops;
#else
static const struct catalog_ops *const back_end = NULL;
#endif

/* Never drops, and beats while it waits: a slow reader is no reason to be killed. */
static bool ring_answer(void *owner, const struct catalog_message *message)
{
	struct worker_side *side = owner;
	int result;

	/* With each: a long scan beats also where its reader keeps up. A clock read is 30 ns. */
	(void)worker_side_beat(side);
	while ((result = ring_send(&side->up, message)) == -EAGAIN) {
		if (worker_side_is_orphan(side))
			return false;
		(void)worker_side_beat(side);
		(void)poll(NULL, 0, ROOM_WAIT_MS);
	}
	return result == 0;
}

/* There is no back end in this build: said once, then idle, so that the frame does not start us
 * again and again. */
static int idle_for_ever(struct worker_side *side)
{
	struct catalog_message message = { .verb = CATALOG_FAILED, .result = -ENOTSUP };

	(void)worker_side_beat(side);
	(void)ring_answer(side, &message);
	while (!worker_side_is_orphan(side)) {
		(void)worker_side_beat(side);
		while (ring_take(&side->down, &message) == 1)
			;
		worker_side_wait(side, WORKER_BEAT_US);
	}
	return EXIT_SUCCESS;
}

/* 0: go on; 1: wait for more; negative: the life ends. */
static int handle_some(struct worker_side *side, struct catalog_server *server, struct error *error)
{
	struct catalog_message message;

	for (unsigned n = 0; n < HANDLED_MAX; n++) {
		int result = ring_take(&side->down, &message);
		if (result < 0)
			return error_set(error, result, "the parent wrote an impossible index");
		if (result == 0)
			return 1;
		result = catalog_server_handle(server, &message, error);
		if (result < 0)
			return result;
	}
	return 0;
}

static int serve(struct worker_side *side, struct catalog_server *server, struct error *error)
{
	while (!worker_side_is_orphan(side)) {
		/* Under a silent parent nothing is written: another daemon may be about to open
		 * this database. Not worker_side_wait(), which returns at once while messages are
		 * there. */
		if (!worker_side_beat(side)) {
			(void)poll(NULL, 0, SILENCE_MS);
			continue;
		}
		int result = handle_some(side, server, error);
		if (result < 0)
			return result;
		if (result == 1)
			worker_side_wait(side, WORKER_BEAT_US);
	}
	return 0;
}

int catalog_worker_main(const char *path, int arguments_count, char **arguments)
{
	struct worker_side side;
	struct catalog_server server = { 0 };
	struct error error = { 0 };
	int result = worker_side_open(&side, arguments_count, arguments, &error);

	if (result == 0 && side.message_bytes != sizeof(struct catalog_message))
		result = error_set(
			&error, -EINVAL,
			"messages of %u bytes, not %zu: parent and worker are of two versions",
			side.message_bytes, sizeof(struct catalog_message));
	if (result == 0)
		result = sandbox_worker(path, &error);
	if (result == 0 && back_end == NULL)
		return idle_for_ever(&side);
	if (result == 0)
		result = catalog_server_open(&server, back_end, path, ring_answer, &side, &error);
	if (result == 0)
		result = serve(&side, &server, &error);
	catalog_server_close(&server);
	if (result < 0)
		fprintf(stderr, "kvtierd: catalogue worker: %s\n", error.text);
	return result < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
