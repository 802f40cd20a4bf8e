/*
 * tiers/gpu/gpu_server.h: the work of the process that has a GPU: pins arenas, imports what engines
 * lend, and copies blocks between the two.
 *
 * Copies that are asked for one behind the other, of one job, become one transfer. A copy is
 * answered as soon as its block is there, and in any case exactly once, when nothing of it is under
 * way any more. While nobody would hear an answer (the parent is silent) nothing new is submitted.
 * Once the device is lost only the end of the process helps, and step() says so.
 *
 * Runs on: one thread, which may block in the driver while memory is pinned, lent and returned.
 */
#ifndef KVTIER_TIERS_GPU_GPU_SERVER_H
#define KVTIER_TIERS_GPU_GPU_SERVER_H

#include "base/error.h"
#include "tiers/gpu/gpu_messages.h"
#include "transfer/cost.h"
#include "transfer/transfer.h"

#include <stdbool.h>
#include <stdint.h>

#define GPU_PIN_STEP_BYTES (UINT64_C(256) << 20) /* of a pass: a pin may take a second a GiB */

struct gpu_server_config {
	struct device *device;         /* open; borrowed */
	const struct cost_table *costs; /* borrowed */
	unsigned paths;                /* bits 1 << enum copy_path */
	uint64_t chunk_bytes;
	uint64_t bytes_second_max[COPY_DIRECTIONS]; /* 0: as fast as it goes */
	/* Sends a message up. False: nobody is there who takes it; the process is to end. */
	bool (*answer)(void *owner, const struct gpu_message *message);
	void *owner;
};

struct gpu_server;

must_check int gpu_server_create(struct gpu_server **out_server,
				 const struct gpu_server_config *config, struct error *error);
/* Gives back what was pinned and lent. No copy is under way, or the device is lost. NULL is
 * allowed. */
void gpu_server_destroy(struct gpu_server *server);
/* A packet of the channel; takes the descriptors. 0 also where what it asks for fails: that is
 * answered. -EPROTO: not a packet. */
must_check int gpu_server_packet(struct gpu_server *server, const void *packet, size_t bytes,
				 const int *fds, unsigned fds_count, struct error *error);
/* False: the next message has to wait until a step ended some copies. */
bool gpu_server_has_room(const struct gpu_server *server);
/* 0, or -EPROTO. */
must_check int gpu_server_message(struct gpu_server *server, const struct gpu_message *message,
				  struct error *error);
/* One pass: 1: it did something; 0: nothing to do; -EIO: the device is lost; -EPIPE: nobody takes
 * answers. */
must_check int gpu_server_step(struct gpu_server *server, uint64_t now_us, bool may_submit,
			       struct error *error);
/* Nothing is under way, nor waits for anything but messages. */
bool gpu_server_is_idle(const struct gpu_server *server);

#endif
