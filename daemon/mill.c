/* daemon/mill.c: hands ops to mill threads and takes them back. */
#include "daemon/mill.h"

#include "base/failpoint.h"

#include <assert.h>
#include <poll.h>
#include <string.h>

int mills_open(struct mills *mills, unsigned count, struct error *error)
{
	assert(count >= 1 && count <= MILLS_MAX);
	memset(mills, 0, sizeof(*mills));
	for (unsigned i = 0; i < count; i++) {
		struct mill *mill = &mills->mills[i];
		int result = mailbox_open(&mill->down, MILL_OPS_MAX, error);

		if (result < 0)
			goto close_opened;
		mills->count = i + 1;
		result = mailbox_open(&mill->up, MILL_OPS_MAX, error);
		if (result < 0)
			goto close_opened;
		continue;
close_opened:
		mills_close(mills);
		return result;
	}
	return 0;
}

void mills_close(struct mills *mills)
{
	if (mills == NULL)
		return;
	for (unsigned i = 0; i < mills->count; i++) {
		assert(mills->mills[i].in_flight == 0);
		mailbox_close(&mills->mills[i].down);
		mailbox_close(&mills->mills[i].up);
	}
	mills->count = 0;
}

bool mills_submit_to(struct mills *mills, unsigned number, struct mill_op *op)
{
	assert(number < mills->count);
	assert(op->work != NULL && op->done != NULL);
	/* The bound covers both directions: what came back and was not polled still counts. */
	if (mills->mills[number].in_flight >= MILL_OPS_MAX)
		return false;
	op->mill = number;
	bool was_sent = mailbox_send(&mills->mills[number].down, op);
	assert(was_sent);
	mills->mills[number].in_flight++;
	return true;
}

bool mills_submit(struct mills *mills, struct mill_op *op)
{
	unsigned least = mills->next++ % mills->count;

	for (unsigned i = 0; i < mills->count; i++)
		if (mills->mills[i].in_flight < mills->mills[least].in_flight)
			least = i;
	return mills_submit_to(mills, least, op);
}

unsigned mills_poll(struct mills *mills, unsigned limit)
{
	unsigned taken = 0;

	for (unsigned i = 0; i < mills->count; i++) {
		struct mill *mill = &mills->mills[i];
		struct mill_op *op;

		while (taken < limit && (op = mailbox_take(&mill->up)) != NULL) {
			assert(mill->in_flight > 0);
			mill->in_flight--;
			taken++;
			op->done(op);
		}
	}
	return taken;
}

bool mills_sleep(struct mills *mills)
{
	bool may_sleep = true;

	for (unsigned i = 0; i < mills->count; i++)
		may_sleep = mailbox_sleep(&mills->mills[i].up) && may_sleep;
	return may_sleep;
}

void mills_awake(struct mills *mills)
{
	for (unsigned i = 0; i < mills->count; i++)
		mailbox_awake(&mills->mills[i].up);
}

uint32_t mills_in_flight(const struct mills *mills)
{
	uint32_t total = 0;

	for (unsigned i = 0; i < mills->count; i++)
		total += mills->mills[i].in_flight;
	return total;
}

unsigned mill_step(struct mill *mill, uint64_t now_us, unsigned limit)
{
	struct mill_op *op;
	unsigned worked = 0;

	atomic_store_explicit(&mill->beat_us, now_us, memory_order_relaxed);
	while (worked < limit && (op = mailbox_take(&mill->down)) != NULL) {
		(void)failpoint(mill_took);
		op->work(op);
		bool was_sent = mailbox_send(&mill->up, op);
		assert(was_sent);
		worked++;
	}
	return worked;
}

void mill_wait(struct mill *mill, uint64_t wait_us_max)
{
	struct pollfd poll_fd = { .fd = mailbox_fd(&mill->down), .events = POLLIN };

	if (mailbox_sleep(&mill->down))
		(void)poll(&poll_fd, 1, (int)(wait_us_max / 1000));
	mailbox_awake(&mill->down);
}
