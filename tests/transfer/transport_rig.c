/* tests/transfer/transport_rig.c: see transport_rig.h. */
#include "tests/transfer/transport_rig.h"

#include "base/random.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct pair pair;
const struct transport_ops *tested;

static uint32_t number_of(const uint8_t *head)
{
	uint32_t number;

	memcpy(&number, head, sizeof(number));
	assert_true(number < MESSAGES_MAX);
	for (unsigned i = 4; i < TRANSPORT_HEAD_BYTES; i++)
		assert_int_equal(head[i], (uint8_t)(number + i));
	return number;
}

static void *on_arriving(void *owner, const uint8_t head[TRANSPORT_HEAD_BYTES], uint32_t bytes)
{
	struct side *side = owner;
	uint32_t number = number_of(head);

	assert_false(side->is_down);
	assert_int_equal(bytes, side->bytes[number]);
	side->arriving++;
	return side->places[number];
}

static void on_arrived(void *owner, const uint8_t head[TRANSPORT_HEAD_BYTES], uint32_t bytes,
		       void *memory, int result)
{
	struct side *side = owner;
	uint32_t number = number_of(head);

	assert_ptr_equal(memory, side->places[number]);
	assert_int_equal(bytes, side->bytes[number]);
	assert_true(side->arriving > 0);
	side->arriving--;
	side->arrivals[number]++;
	side->arrived[number] = result;
	side->arrived_count++;
	if (side->closes_when_it_arrives && side->link != NULL)
		pair.ops->close(side->link, -ECANCELED, "the test closes it");
}

static void on_up(void *owner)
{
	struct side *side = owner;

	assert_false(side->is_up);
	side->is_up = true;
}

static void on_down(void *owner, int result, const char *reason)
{
	struct side *side = owner;

	assert_false(side->is_down);
	assert_true(result < 0);
	assert_int_equal(side->arriving, 0);
	assert_int_equal(side->sends_under_way, 0);
	side->is_down = true;
	side->result = result;
	snprintf(side->reason, sizeof(side->reason), "%s", reason);
	side->link = NULL;
}

const struct transport_events rig_events = {
	.arriving = on_arriving, .arrived = on_arrived, .up = on_up, .down = on_down,
};

bool rig_step(void)
{
	bool did_work = false;

	for (unsigned i = 0; i < 2; i++)
		if (pair.sides[i].transport != NULL)
			did_work = pair.ops->step(pair.sides[i].transport,
						  clock_now_us(&pair.clock)) ||
				   did_work;
	return did_work;
}

void rig_wait_a_little(void)
{
	struct pollfd fds[2];
	unsigned count = 0;

	for (unsigned i = 0; i < 2; i++) {
		if (pair.sides[i].transport == NULL)
			continue;
		if (!pair.ops->arm(pair.sides[i].transport))
			return;
		fds[count++] = (struct pollfd){ .fd = pair.ops->fd(pair.sides[i].transport),
						.events = POLLIN };
	}
	(void)poll(fds, count, 10);
}

static int create(struct transport **out_transport, struct error *error)
{
	const struct transport_config config = { .host = "127.0.0.1", .idle_us_max = IDLE_US,
						 .clock = &pair.clock };

	return pair.ops->create(out_transport, &config, error);
}

void pair_open_side(unsigned side)
{
	struct error error = { 0 };
	int result = create(&pair.sides[side].transport, &error);

	if (result < 0)
		fprintf(stderr, "%s: %s\n", pair.ops->name, error.text);
	assert_int_equal(result, 0);
}

void pair_begin(void)
{
	struct transport *tried = NULL;
	struct error error = { 0 };

	memset(&pair, 0, sizeof(pair));
	pair.ops = tested;
	clock_virtual_init(&pair.clock, 1000 * SECOND);
	random_system(pair.token, sizeof(pair.token));
	if (create(&tried, &error) == -ENOSYS) {
		printf("no %s: %s\n", pair.ops->name, error.text);
		skip();
	}
	pair.ops->destroy(tried);
}

void pair_open(void)
{
	pair_begin();
	for (unsigned i = 0; i < 2; i++)
		pair_open_side(i);
}

void pair_connect(void)
{
	uint8_t address[TRANSPORT_ADDRESS_BYTES_MAX];
	struct error error;
	struct side *one = &pair.sides[0], *other = &pair.sides[1];
	uint32_t bytes = pair.ops->address(other->transport, "127.0.0.1", address);

	assert_int_equal(pair.ops->expect(other->transport, pair.token, &rig_events, other,
					  &other->link, &error),
			 0);
	assert_int_equal(pair.ops->connect(one->transport, address, bytes, pair.token,
					   &rig_events, one,
					   &one->link, &error),
			 0);
}

void pair_join(void)
{
	pair_open();
	pair_connect();
	UNTIL(pair.sides[0].is_up && pair.sides[1].is_up);
}

void pair_finish(void)
{
	for (unsigned i = 0; i < 2; i++)
		if (pair.sides[i].link != NULL)
			pair.ops->close(pair.sides[i].link, -ECANCELED, "the test is over");
	UNTIL(pair.sides[0].link == NULL && pair.sides[1].link == NULL);
	for (unsigned i = 0; i < 2; i++)
		if (pair.sides[i].transport != NULL)
			pair.ops->destroy(pair.sides[i].transport);
}

static void on_sent(struct transport_send *send, int result)
{
	for (unsigned i = 0; i < 2; i++) {
		struct side *side = &pair.sides[i];

		if (send < side->sends || send >= side->sends + MESSAGES_MAX)
			continue;
		side->sent[send - side->sends] = result;
		side->sent_times[send - side->sends]++;
		side->sends_under_way--;
	}
}

void rig_send_begin(unsigned from, uint32_t number, const void *payload, uint32_t bytes)
{
	struct side *side = &pair.sides[from];
	struct transport_send *send = &side->sends[number];

	memcpy(send->head, &number, sizeof(number));
	for (unsigned i = 4; i < TRANSPORT_HEAD_BYTES; i++)
		send->head[i] = (uint8_t)(number + i);
	send->payload = payload;
	send->bytes = bytes;
	send->done = on_sent;
	side->sends_under_way++;
	pair.sides[1 - from].bytes[number] = bytes;
	pair.ops->send(side->link, send);
}

void rig_pattern(uint8_t *bytes, uint32_t count, uint64_t seed)
{
	struct random random;

	random_init(&random, seed);
	for (uint32_t i = 0; i < count; i++)
		bytes[i] = (uint8_t)random_next(&random);
}
