/*
 * transfer/gate.h: waits until a word in an inference engine's memory has reached a value.
 *
 * The engine's own stream writes the word (a number that grows) behind the work that matters: the
 * step that filled blocks, or that read them for the last time. The device waits for it in a queue
 * of its own, one wait at a time, so that no copy stands behind a wait of somebody who hangs.
 * Comparison is cyclic, as the devices do it: values stay below 2^63.
 * Runs on: the device's thread.
 */
#ifndef KVTIER_TRANSFER_GATE_H
#define KVTIER_TRANSFER_GATE_H

#include "transfer/device.h"

#include <stdbool.h>
#include <stdint.h>

#define GATE_VALUE_MAX ((UINT64_C(1) << 63) - 1)

struct gate {
	struct device *device;
	enum device_queue queue; /* of its own */
	uint64_t word;           /* the device's address */
	uint64_t reached;        /* seen */
	uint64_t wanted;         /* the least that somebody waits for; 0: nobody */
	uint64_t waiting;        /* the device waits for it; 0: it does not */
	uint32_t mark;
};

/* Nobody else uses `queue` while the gate is there. */
void gate_init(struct gate *gate, struct device *device, enum device_queue queue, uint64_t word);
/* Whether the value was reached; if not, the gate looks out for it. */
bool gate_is_open(struct gate *gate, uint64_t value);
/* Asks the device; 0, or its error. */
must_check int gate_step(struct gate *gate, struct error *error);
/* Ends a wait whose writer has died: writes the word itself, from the queue `from`. The gate is
 * then open for every value. */
must_check int gate_release(struct gate *gate, enum device_queue from, struct error *error);

#endif
