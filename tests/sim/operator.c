/* tests/sim/operator.c: what an operator does by the admin socket, and what the model learns. */
#include "tests/sim/raw.h"

#include "proto/frames_operate.h"
#include "tests/sim/engine_parts.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define WHILE_US_MAX (3 * SECOND_US)
#define OFF_TRIES_MAX 100u
#define LOOKS_MAX 4u
#define PURGE_LOOKS_MAX 10u
#define LOOK_PAUSE_US 50000u
#define RELOADS_MAX 4u

static uint64_t below(struct operator *operator, uint64_t limit)
{
	return random_below(&operator->random, limit);
}

static void pause_us(uint64_t us)
{
	struct timespec pause = { .tv_sec = (time_t)(us / SECOND_US),
				  .tv_nsec = (long)(us % SECOND_US) * 1000 };

	nanosleep(&pause, NULL);
}

/* Whether it was done; the answer is in `frame` then, with a NUL behind it. A purge, or a daemon
 * that stands still, takes longer than one wait. */
static bool operator_ask(struct operator *operator)
{
	const struct frame_header *header = (const struct frame_header *)operator->frame;
	uint64_t request = header->request;
	ssize_t bytes;

	operator->was_answered = false;
	if (send(operator->fd, operator->frame, header->bytes, MSG_NOSIGNAL) < 0)
		return false;
	for (;;) {
		bytes = recv(operator->fd, operator->frame, FRAME_BYTES_MAX, 0);
		if (bytes < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			continue;
		if (bytes <= 0)
			return false;
		operator->frame[bytes] = '\0';
		if (header->request != request)
			continue;
		operator->was_answered = true;
		return header->result == 0 && header->type != FRAME_ERROR;
	}
}

static void *frame_make(struct operator *operator, enum frame_type type, size_t bytes)
{
	memset(operator->frame, 0, bytes);
	frame_start((struct frame_header *)operator->frame, type, (uint32_t)bytes,
		    ++operator->request, 0);
	return operator->frame;
}

static bool hello(struct operator *operator)
{
	char path[SETTINGS_PATH_BYTES + 32];
	struct frame_hello *frame = frame_make(operator, FRAME_HELLO, sizeof(*frame));

	snprintf(path, sizeof(path), "%s/admin.sock", operator->node->settings.run_directory);
	operator->fd = raw_connect(path);
	frame->version_min = FRAME_VERSION_MIN;
	frame->version_max = FRAME_VERSION_MAX;
	return operator->fd >= 0 && operator_ask(operator);
}

static void name_set(const struct operator *operator, char *name)
{
	snprintf(name, FRAME_NAME_BYTES, "tenant-%u", operator->tenant);
}

static struct frame_operate *verb_make(struct operator *operator, enum frame_operate_verb verb)
{
	struct frame_operate *frame = frame_make(operator, FRAME_OPERATE, sizeof(*frame));

	frame->verb = verb;
	return frame;
}

static void hashes_add(struct operator *operator, struct frame_operate *frame)
{
	uint8_t *hashes = (uint8_t *)(frame + 1);
	unsigned chain = (unsigned)below(operator, 6);

	frame->count = (uint16_t)(1 + below(operator, 8));
	frame->group = (uint16_t)below(operator, GROUPS_MAX);
	for (unsigned i = 0; i < frame->count; i++)
		model_hash(chain, i, hashes + i * FRAME_HASH_BYTES);
	frame->header.bytes += frame->count * FRAME_HASH_BYTES;
}

/* ---- what an answer says ---- */

static unsigned hex_digit(char letter)
{
	return (unsigned)(letter <= '9' ? letter - '0' : letter - 'a' + 10);
}

/* One of the spaces that were listed, and whose it is. False: there is none. */
static bool space_choose(struct operator *operator)
{
	static const char key[] = "\"space\":\"";
	struct frame_operate *frame = verb_make(operator, FRAME_OPERATE_LIST);
	const char *chosen = NULL;
	unsigned count = 0;

	name_set(operator, frame->tenant);
	if (!operator_ask(operator))
		return false;
	for (const char *at = (char *)operator->frame + sizeof(struct frame_text);
	     (at = strstr(at, key)) != NULL; at += sizeof(key))
		if (below(operator, ++count) == 0)
			chosen = at + sizeof(key) - 1;
	for (unsigned i = 0; chosen != NULL && i < sizeof(operator->space); i++)
		operator->space[i] = (uint8_t)(hex_digit(chosen[2 * i]) << 4 |
					       hex_digit(chosen[2 * i + 1]));
	return chosen != NULL;
}

static bool answer_has(const struct operator *operator, const char *text)
{
	return strstr((const char *)operator->frame + sizeof(struct frame_text), text) != NULL;
}

/* ---- what it does ---- */

static bool bypass_set(struct operator *operator, enum frame_bypass_mode mode)
{
	struct frame_bypass *frame = frame_make(operator, FRAME_BYPASS, sizeof(*frame));

	name_set(operator, frame->tenant);
	frame->mode = mode;
	return operator_ask(operator);
}

static bool drain_set(struct operator *operator, enum frame_drain value)
{
	verb_make(operator, FRAME_OPERATE_DRAIN)->value = value;
	return operator_ask(operator);
}

static void bypass_for_a_while(struct operator *operator)
{
	if (!bypass_set(operator, FRAME_BYPASS_ON))
		return;
	model.bypassed[operator->tenant] = model_now();
	sim_tell("operator: tenant %u is bypassed", operator->tenant);
	pause_us(operator->for_us);
	model.bypassed[operator->tenant] = 0;
	for (unsigned i = 0; i < OFF_TRIES_MAX && !bypass_set(operator, FRAME_BYPASS_OFF); i++)
		pause_us(2 * LOOK_PAUSE_US);
}

static void drain_for_a_while(struct operator *operator)
{
	if (!drain_set(operator, FRAME_DRAIN_ON))
		return;
	model.drained = model_now();
	sim_tell("operator: the node is drained");
	pause_us(operator->for_us / 2);
	if (drain_set(operator, FRAME_DRAIN_ASK))
		pause_us(operator->for_us / 2);
	model.drained = 0;
	for (unsigned i = 0; i < OFF_TRIES_MAX && !drain_set(operator, FRAME_DRAIN_OFF); i++)
		pause_us(2 * LOOK_PAUSE_US);
}

/* Until it is over, or long enough. */
static void purge_look_on(struct operator *operator)
{
	for (unsigned i = 0; i < PURGE_LOOKS_MAX; i++) {
		verb_make(operator, FRAME_OPERATE_PURGE)->value = 1;
		if (!operator_ask(operator) || answer_has(operator, "\"done\":true"))
			return;
		pause_us(LOOK_PAUSE_US);
	}
}

static void purge(struct operator *operator)
{
	struct identity identity = { .tenant = (uint16_t)operator->tenant };
	bool is_of_space = below(operator, 3) == 0 && space_choose(operator);
	bool is_of_all = !is_of_space && below(operator, 3) == 0;
	struct frame_operate *frame = verb_make(operator, FRAME_OPERATE_PURGE);
	uint64_t began = model_now();

	if (!is_of_all)
		name_set(operator, frame->tenant);
	if (is_of_space)
		memcpy(frame->fingerprint, operator->space, sizeof(frame->fingerprint));
	if (!operator_ask(operator))
		return;
	sim_tell("operator: purged %s", is_of_space ? "a space"
					: is_of_all ? "all"
						    : "a tenant");
	/* Which model's space it was is not known here. */
	for (unsigned i = 0; !is_of_space && i < operator->node->shape.tenants; i++) {
		if (is_of_all)
			identity.tenant = (uint16_t)i;
		if (identity.tenant == i)
			model_forgot(&identity, true, began);
	}
	purge_look_on(operator);
}

static void pin_set(struct operator *operator, uint64_t for_us)
{
	struct frame_operate *frame = verb_make(operator, FRAME_OPERATE_PIN);

	name_set(operator, frame->tenant);
	memcpy(frame->fingerprint, operator->space, sizeof(frame->fingerprint));
	frame->value = for_us;
	if (below(operator, 2) == 0)
		hashes_add(operator, frame);
	(void)operator_ask(operator);
}

static void pin(struct operator *operator)
{
	if (!space_choose(operator))
		return;
	pin_set(operator, 1 + operator->for_us);
	pause_us(below(operator, operator->for_us + 1));
	if (below(operator, 2) == 0)
		pin_set(operator, 0);
}

static void look(struct operator *operator)
{
	bool has_space = space_choose(operator);

	for (unsigned i = 0; i < LOOKS_MAX; i++) {
		static const enum frame_operate_verb ways[] = {
			FRAME_OPERATE_LIST, FRAME_OPERATE_STAT, FRAME_OPERATE_CONFIG,
			FRAME_OPERATE_REQUESTS, FRAME_OPERATE_VERIFY
		};
		enum frame_operate_verb verb = ways[below(operator, 5)];
		struct frame_operate *frame = verb_make(operator, verb);

		if (has_space && (frame_operate_fields(verb) & FRAME_TAKES_SPACE) != 0)
			memcpy(frame->fingerprint, operator->space, sizeof(frame->fingerprint));
		if (verb == FRAME_OPERATE_LIST)
			frame->value = below(operator, 20);
		if (verb == FRAME_OPERATE_VERIFY)
			frame->value = FRAME_VERIFY_VALUE(below(operator, FRAME_VERIFIES),
							  below(operator, 4), below(operator, 64));
		if (verb == FRAME_OPERATE_STAT)
			hashes_add(operator, frame);
		(void)operator_ask(operator);
	}
}

static void reload_ask(struct operator *operator)
{
	bool was_done;

	verb_make(operator, FRAME_OPERATE_RELOAD);
	settings_file_asked(operator->node, false);
	was_done = operator_ask(operator);
	if (operator->was_answered)
		settings_file_answered(operator->node, was_done);
}

/* At the end there is a right file again, unless it is killed before. */
static void reload(struct operator *operator)
{
	unsigned rounds = 1 + (unsigned)below(operator, RELOADS_MAX);

	for (unsigned i = 0; i < rounds; i++) {
		bool is_signal = below(operator, 2) == 0;

		if (below(operator, 5) > 0)
			settings_file_change(operator->node, &operator->random);
		if (below(operator, 2) == 0)
			node_keys_change(operator->node);
		if (is_signal)
			node_hang_up(operator->node);
		if (!is_signal || below(operator, 3) == 0)
			reload_ask(operator);
		pause_us(below(operator, operator->for_us + 1) / rounds);
	}
	settings_file_mend(operator->node);
	reload_ask(operator);
}

static void *operator_live(void *argument)
{
	static void (*const tasks[])(struct operator *operator) = {
		[OPERATOR_BYPASS] = bypass_for_a_while, [OPERATOR_DRAIN] = drain_for_a_while,
		[OPERATOR_PURGE] = purge,		[OPERATOR_PIN] = pin,
		[OPERATOR_LOOK] = look,			[OPERATOR_RELOAD] = reload,
	};
	struct operator *operator = argument;

	if (hello(operator))
		tasks[operator->task](operator);
	process_exit();
}

void operator_start(struct operator *operator, struct node *node, enum operator_task task,
		    uint64_t seed)
{
	if (operator->process != NULL && operator->process->is_alive)
		return;
	operator_kill(operator);
	memset(operator, 0, offsetof(struct operator, frame));
	operator->node = node;
	operator->task = task;
	random_init(&operator->random, seed);
	operator->tenant = (unsigned)below(operator, node->shape.tenants);
	operator->for_us = below(operator, WHILE_US_MAX);
	operator->process = process_start("operator", operator_live, operator);
}

void operator_kill(struct operator *operator)
{
	process_release(operator->process);
	operator->process = NULL;
}
