/* tests/cluster/node_rig.c: see node_rig.h. */
#include "tests/cluster/node_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

struct scene scene;

static const uint8_t *fingerprint(uint32_t space)
{
	static uint8_t bytes[SPACES][INVENTORY_SPACE_BYTES];

	bytes[space][0] = (uint8_t)(space + 1);
	return bytes[space];
}

uint64_t draw(uint64_t limit)
{
	return random_next(&scene.random) % limit;
}

/* ---- the wire ---- */

static void letter_send(bool is_answer, uint64_t sequence, const void *payload, uint32_t bytes)
{
	struct letter *letter = &scene.wire[scene.wire_count];

	if (scene.wire_count == WIRE_MAX)
		return;
	*letter = (struct letter){ is_answer, sequence, scene.now_us, bytes, malloc(bytes + 1) };
	memcpy(letter->payload, payload, bytes);
	scene.wire_count++;
}

static void wire_put(bool is_answer, uint64_t sequence, const void *payload, uint32_t bytes)
{
	if (draw(100) >= scene.bad_percent || (is_answer && scene.answers_are_good)) {
		letter_send(is_answer, sequence, payload, bytes);
		return;
	}
	switch (draw(4)) {
	case 0:
		scene.lost++;
		return;
	case 1:
		letter_send(is_answer, sequence, payload, bytes > 0 ? (uint32_t)draw(bytes) : 0);
		scene.cut++;
		return;
	case 2:
		letter_send(is_answer, sequence, payload, bytes);
		letter_send(is_answer, sequence, payload, bytes);
		scene.repeated++;
		return;
	default:
		letter_send(is_answer, sequence, payload, bytes);
		if (scene.wire_count > 0)
			scene.wire[scene.wire_count - 1].due_us += draw(100) * MS;
		scene.late++;
		return;
	}
}

static void publish(void *room, uint64_t sequence, const void *payload, uint32_t bytes)
{
	(void)room;
	wire_put(false, sequence, payload, bytes);
}

static void answer(void *room, const void *asker, uint32_t asker_bytes, uint64_t sequence,
		   const void *payload, uint32_t bytes)
{
	(void)room;
	assert_int_equal(asker_bytes, 2);
	assert_memory_equal(asker, "me", 2);
	wire_put(true, sequence, payload, bytes);
}

static bool want(void *room, const struct inventory_message *message)
{
	(void)room;
	assert_int_equal(message->verb, TELL_WANT);
	assert_int_equal(message->value, scene.epoch);
	assert_false(scene.is_wanted);
	scene.is_wanted = true;
	scene.wanted = message->key;
	return true;
}

static void ask(void *owner, const void *question, size_t bytes)
{
	(void)owner;
	if (draw(100) >= scene.bad_percent)
		inventory_server_asked(scene.server, "me", 2, question, bytes);
}

void wire_clear(void)
{
	while (scene.wire_count > 0)
		free(scene.wire[--scene.wire_count].payload);
}

static void wire_deliver(void)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < scene.wire_count; i++) {
		struct letter letter = scene.wire[i];

		if (letter.due_us > scene.now_us) {
			scene.wire[kept++] = letter;
			continue;
		}
		if (letter.is_answer)
			node_view_answered(scene.view, letter.sequence, letter.payload,
					   letter.bytes, scene.now_us);
		else
			node_view_heard(scene.view, letter.sequence, letter.payload, letter.bytes,
					scene.now_us);
		free(letter.payload);
	}
	scene.wire_count = kept;
}

/* ---- the node ---- */

static void tell(struct inventory_message message)
{
	struct error error;

	assert_int_equal(inventory_server_told(scene.server, &message, scene.now_us, &error), 0);
}

static void tell_space(uint32_t space)
{
	struct inventory_message message = { .verb = TELL_SPACE, .number = space };

	if (scene.is_told[space])
		return;
	memcpy(message.fingerprint, fingerprint(space), INVENTORY_SPACE_BYTES);
	tell(message);
	scene.is_told[space] = true;
}

void epoch_begin(void)
{
	memset(scene.is_told, 0, sizeof(scene.is_told));
	scene.is_wanted = false;
	tell((struct inventory_message){ .verb = TELL_EPOCH, .key = ++scene.epoch });
}

void server_begin(void)
{
	const struct inventory_wire wire = { publish, answer, want, NULL };
	struct error error;

	inventory_server_destroy(scene.server);
	assert_int_equal(inventory_server_create(&scene.server, scene.boot, &wire, &error), 0);
	epoch_begin();
}

void view_begin(void)
{
	const struct node_view_config config = { .index = scene.index, .ask = ask };
	struct error error;

	node_view_destroy(scene.view);
	assert_int_equal(node_view_create(&scene.view, &config, &error), 0);
}

void change(struct place *place, unsigned tiers, bool is_said)
{
	scene.entries[place->space] += (uint64_t)(tiers != 0) - (uint64_t)(place->tiers != 0);
	scene.digests[place->space] += inventory_digest(place->key, tiers) -
				       inventory_digest(place->key, place->tiers);
	place->tiers = tiers;
	if (!is_said)
		return;
	tell_space(place->space);
	tell((struct inventory_message){ .verb = TELL_CHANGE, .tiers = (uint8_t)tiers,
					 .number = place->space, .key = place->key });
}

void change_some(bool is_said)
{
	struct place *place = &scene.places[draw(PLACES)];

	/* A place gets another key only once it is free. */
	if (place->tiers == 0) {
		place->space = (uint32_t)draw(SPACES);
		place->key = random_next(&scene.random);
	}
	change(place, (unsigned)draw(4) * 2, is_said);
}

static void piece_say(void)
{
	uint64_t at = scene.wanted;

	scene.is_wanted = false;
	for (unsigned looks = 0; at < PLACES && looks < LOOKS; looks++, at++) {
		const struct place *place = &scene.places[at];

		if (place->tiers == 0)
			continue;
		tell_space(place->space);
		tell((struct inventory_message){ .verb = TELL_ENTRY, .number = place->space,
						 .tiers = (uint8_t)place->tiers,
						 .key = place->key });
	}
	tell((struct inventory_message){ .verb = TELL_PIECE, .key = at < PLACES ? at : PLACES,
					 .value = PLACES });
}

void pass(unsigned changes)
{
	scene.now_us += PASS_US;
	while (changes-- > 0)
		change_some(true);
	if (scene.is_wanted)
		piece_say();
	if (scene.now_us - scene.line_us >= 1000 * MS) {
		scene.line_us = scene.now_us;
		for (uint32_t space = 0; space < SPACES; space++)
			if (scene.is_told[space])
				tell((struct inventory_message){ .verb = TELL_DIGEST,
								 .number = space,
								 .key = scene.entries[space],
								 .value = scene.digests[space] });
		tell((struct inventory_message){ .verb = TELL_FIGURE, .tiers = INVENTORY_CPU,
						 .number = INVENTORY_USED_BYTES, .key = 77 });
	}
	inventory_server_flush(scene.server);
	inventory_server_step(scene.server);
	wire_deliver();
	node_view_step(scene.view, scene.now_us);
	while (route_index_sweep(scene.index))
		;
}

void scene_open(uint64_t seed, unsigned bad_percent)
{
	struct error error;

	memset(&scene, 0, sizeof(scene));
	random_init(&scene.random, seed);
	scene.now_us = 1000000;
	scene.boot = random_next(&scene.random);
	scene.bad_percent = bad_percent;
	for (unsigned i = 0; i < PLACES; i++)
		scene.places[i] = (struct place){ .key = random_next(&scene.random) };
	assert_int_equal(route_index_create(&scene.index, 100000, seed, &error), 0);
	server_begin();
	view_begin();
}

void scene_close(void)
{
	wire_clear();
	node_view_destroy(scene.view);
	inventory_server_destroy(scene.server);
	route_index_destroy(scene.index);
}

/* How many places the view has otherwise, or more than there are. */
unsigned differences(void)
{
	unsigned count = 0;

	for (unsigned i = 0; i < PLACES; i++) {
		const struct place *place = &scene.places[i];
		uint16_t source = node_view_source(scene.view, fingerprint(place->space));
		unsigned seen = source == ROUTE_SOURCE_NONE
					? 0
					: route_index_get(scene.index, source, place->key);

		count += seen != place->tiers;
	}
	for (uint32_t space = 0; space < SPACES; space++) {
		uint16_t source = node_view_source(scene.view, fingerprint(space));
		uint64_t entries = 0, digest = 0;

		if (source != ROUTE_SOURCE_NONE)
			route_source_look(scene.index, source, &entries, &digest);
		count += entries != scene.entries[space] || digest != scene.digests[space];
	}
	return count;
}

/* Nothing changes any more, and nothing is lost any more. */
void settle(void)
{
	scene.bad_percent = 0;
	for (uint64_t end_us = scene.now_us + QUIET_US; scene.now_us < end_us;)
		pass(0);
	assert_int_equal(differences(), 0);
}

struct node_view_figures figures(void)
{
	struct node_view_figures seen;

	node_view_look(scene.view, &seen);
	return seen;
}
