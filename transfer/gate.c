/* transfer/gate.c: one wait at a time for a word of an inference engine. */
#include "transfer/gate.h"

#include <assert.h>

void gate_init(struct gate *gate, struct device *device, enum device_queue queue, uint64_t word)
{
	*gate = (struct gate){ .device = device, .queue = queue, .word = word };
}

bool gate_is_open(struct gate *gate, uint64_t value)
{
	assert(value <= GATE_VALUE_MAX);
	if (value <= gate->reached)
		return true;
	if (gate->wanted == 0 || value < gate->wanted)
		gate->wanted = value;
	return false;
}

static int wait_begin(struct gate *gate, struct error *error)
{
	int result = device_word_wait(gate->device, gate->queue, gate->word, gate->wanted, error);

	if (result == 0)
		result = device_mark_set(gate->device, gate->queue, &gate->mark, error);
	if (result == 0)
		gate->waiting = gate->wanted;
	gate->wanted = 0;
	return result;
}

int gate_step(struct gate *gate, struct error *error)
{
	if (gate->waiting != 0) {
		int result = device_mark_check(gate->device, gate->mark, error);

		if (result <= 0)
			return result;
		gate->reached = gate->waiting;
		gate->waiting = 0;
	}
	if (gate->wanted <= gate->reached)
		gate->wanted = 0;
	return gate->wanted == 0 ? 0 : wait_begin(gate, error);
}

int gate_release(struct gate *gate, enum device_queue from, struct error *error)
{
	gate->reached = GATE_VALUE_MAX;
	gate->wanted = 0;
	return gate->waiting == 0
		       ? 0
		       : device_word_write(gate->device, from, gate->word, GATE_VALUE_MAX, error);
}
