/* daemon/probe.c: sends canaries through the parts of the data path, and says which are missing. */
#include "daemon/probe.h"

#include "base/checksum.h"
#include "base/copy.h"
#include "base/log.h"
#include "transfer/slot_header.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CANARY_BYTES 16384u
#define PARTS_MAX    (MILLS_MAX + NVME_DEVICES_MAX + 1)
#define NAME_BYTES   (SETTINGS_PATH_BYTES + 16)

struct part {
	struct daemon *daemon;
	struct mill_op mill_op;
	struct tier_op tier_op;
	uint8_t *memory;     /* CANARY_BYTES, or a page of a device */
	unsigned number;     /* of the mill or device */
	bool is_out;         /* with whom it was sent through */
	bool is_wanted;      /* or waiting for a place there */
	bool was_late;       /* as far as it was logged */
	uint64_t began_us;   /* of what is wanted or out */
	uint64_t ended_us, took_us;
	uint64_t good, failed;      /* canaries that came back */
	uint64_t answers, deaths;   /* of the catalogue's worker, when it was sent */
	int result;
	bool (*send)(struct part *part);
	char name[NAME_BYTES];
	char late_words[NAME_BYTES + 48], failed_words[NAME_BYTES + 48];
};

struct probe {
	uint64_t asked_us; /* 0: never */
	uint64_t sent_us;  /* the last canaries; 0: never */
	unsigned parts_count;
	uint8_t *memory;   /* of all parts */
	uint32_t crc;      /* of the pattern */
	uint8_t pattern[CANARY_BYTES];
	struct part parts[PARTS_MAX];
};

static void part_ended(struct part *part, int result)
{
	uint64_t now_us = clock_now_us(part->daemon->clock);

	part->is_out = false;
	part->result = result;
	part->good += result >= 0;
	part->failed += result < 0;
	part->ended_us = now_us;
	part->took_us = now_us > part->began_us ? now_us - part->began_us : 1;
}

/* ---- a mill ---- */

static void mill_canary(struct mill_op *op)
{
	struct part *part = list_item(op, struct part, mill_op);
	const struct probe *probe = part->daemon->probe;
	uint32_t crc;

	copy_with_checksums(part->memory, probe->pattern, CANARY_BYTES, CANARY_BYTES, &crc);
	op->result = crc == probe->crc ? 0 : -EBADMSG;
}

static void mill_canary_done(struct mill_op *op)
{
	part_ended(list_item(op, struct part, mill_op), op->result);
}

static bool mill_send(struct part *part)
{
	part->mill_op.work = mill_canary;
	part->mill_op.done = mill_canary_done;
	return mills_submit_to(&part->daemon->mills, part->number, &part->mill_op);
}

/* ---- a device ---- */

static void device_canary_done(struct tier_op *op)
{
	part_ended(list_item(op, struct part, tier_op), op->result);
}

static bool device_send(struct part *part)
{
	part->tier_op = (struct tier_op){ .verb = TIER_PROBE, .device = part->number,
					  .memory = part->memory, .memory_bytes = SLOT_ALIGN_BYTES,
					  .done = device_canary_done };
	return tier_submit(part->daemon->nvme, &part->tier_op) == 0;
}

/* ---- the catalogue ---- */

static uint64_t catalog_deaths(const struct part *part)
{
	struct catalog_link_counters counters;

	catalog_link_count(part->daemon->catalog, &counters);
	return counters.deaths;
}

static bool catalog_send(struct part *part)
{
	part->answers = catalog_link_answers(part->daemon->catalog);
	part->deaths = catalog_deaths(part);
	return catalog_link_ping(part->daemon->catalog);
}

static void catalog_look(struct part *part)
{
	if (part->send != catalog_send || !part->is_out)
		return;
	if (catalog_link_answers(part->daemon->catalog) != part->answers) {
		part_ended(part, 0);
	} else if (catalog_deaths(part) != part->deaths) { /* it died with what it had */
		part->is_out = false;
		part->is_wanted = true;
	}
}

/* Nothing is sent there any more, so nothing is waited for. */
static bool part_is_unused(const struct part *part)
{
	if (part->send == device_send)
		return nvme_device_is_fenced(part->daemon->devices[part->number].device);
	return part->send == catalog_send &&
	       catalog_link_state(part->daemon->catalog) == CATALOG_LINK_ABSENT;
}

/* ---- all ---- */

/* A mill that has work and takes none is seen without a canary, too. */
static bool mill_is_silent(const struct part *part)
{
	const struct mill *mill = &part->daemon->mills.mills[part->number];

	return part->send == mill_send && mill->in_flight > 0 &&
	       atomic_load_explicit(&mill->beat_us, memory_order_relaxed) +
			       part->daemon->settings.stall_us_max <
		       part->daemon->now_us;
}

static uint64_t part_waited_us(const struct part *part)
{
	uint64_t now_us = part->daemon->now_us;

	if (!part->is_out && !part->is_wanted)
		return 0;
	return now_us > part->began_us ? now_us - part->began_us : 0;
}

static uint64_t part_age_us(const struct part *part)
{
	uint64_t now_us = part->daemon->now_us; /* of this pass, in which it may have ended */

	return part->took_us > 0 && now_us > part->ended_us ? now_us - part->ended_us : 0;
}

static enum probe_state part_state(const struct part *part)
{
	if (part_is_unused(part))
		return PROBE_UNUSED;
	if (part_waited_us(part) > part->daemon->settings.stall_us_max || mill_is_silent(part))
		return PROBE_LATE;
	if (part->result < 0)
		return PROBE_FAILED;
	return part->took_us == 0 ? PROBE_UNASKED : PROBE_GOOD;
}

static void part_log(struct part *part)
{
	bool is_late = part_state(part) == PROBE_LATE;
	char quoted[NAME_BYTES + 8];

	if (is_late == part->was_late)
		return;
	part->was_late = is_late;
	log_line(is_late ? LOG_ERROR : LOG_INFO, is_late ? "probe_late" : "probe_back",
		 "part=%s waited_us=%llu", log_quote(quoted, sizeof(quoted), part->name),
		 (unsigned long long)(is_late ? part_waited_us(part) : part->took_us));
}

static bool part_step(struct part *part, bool is_due)
{
	catalog_look(part);
	part_log(part);
	if (part->is_out || part_is_unused(part)) {
		part->is_wanted = false;
		return false;
	}
	if (is_due && !part->is_wanted) {
		part->is_wanted = true;
		part->began_us = part->daemon->now_us;
	}
	/* A full queue: the canary waits as a block would, and its time runs. */
	if (!part->is_wanted || !part->send(part))
		return false;
	part->is_wanted = false;
	part->is_out = true;
	return true;
}

bool probe_step(struct daemon *daemon)
{
	struct probe *probe = daemon->probe;
	bool is_asked = probe->asked_us != 0 && daemon->now_us - probe->asked_us < PROBE_ASKED_US;
	uint64_t every_us = is_asked ? PROBE_EVERY_US : PROBE_IDLE_US;
	bool is_serving = daemon->phase == DAEMON_SERVING;
	bool is_due = is_serving && (probe->sent_us == 0 ||
				     daemon->now_us - probe->sent_us >= every_us);
	bool did = false;

	if (is_due)
		probe->sent_us = daemon->now_us;
	for (unsigned i = 0; i < probe->parts_count; i++) {
		if (!is_serving)
			probe->parts[i].is_wanted = false;
		did = part_step(&probe->parts[i], is_due) || did;
	}
	return did;
}

void probe_ask(struct daemon *daemon)
{
	daemon->probe->asked_us = daemon->now_us;
}

unsigned probe_parts_count(const struct daemon *daemon)
{
	return daemon->probe->parts_count;
}

void probe_part(const struct daemon *daemon, unsigned number, struct probe_figures *out_figures)
{
	const struct part *part = &daemon->probe->parts[number];

	assert(number < daemon->probe->parts_count);
	*out_figures = (struct probe_figures){
		.name = part->name,
		.is_needed = part->send != catalog_send,
		.state = part_state(part),
		.took_us = part->took_us,
		.age_us = part_age_us(part),
		.good = part->good,
		.failed = part->failed,
		.waited_us = part_waited_us(part),
		.result = part->result,
	};
}

const char *probe_state_name(enum probe_state state)
{
	static const char *const names[PROBE_STATES] = { "unasked", "ok", "failed", "late",
							 "out of use" };

	assert(state < PROBE_STATES);
	return names[state];
}

const char *probe_unready_reason(const struct daemon *daemon)
{
	for (unsigned i = 0; i < daemon->probe->parts_count; i++) {
		const struct part *part = &daemon->probe->parts[i];
		enum probe_state state = part_state(part);

		/* A node serves without its catalogue, and without a device that is fenced. One
		 * failed read of a device is a miss; more of them fence it. */
#ifdef KVTIER_PLANT_READY
		if (part->send == device_send)
			continue;
#endif
		if (state == PROBE_LATE && part->send != catalog_send)
			return part->late_words;
		if (state == PROBE_FAILED && part->send == mill_send)
			return part->failed_words;
	}
	return NULL;
}

__attribute__((format(printf, 4, 5))) static void part_add(struct daemon *daemon, unsigned number,
							    bool (*send)(struct part *part),
							    const char *format, ...)
{
	struct part *part = &daemon->probe->parts[daemon->probe->parts_count];
	char name[NAME_BYTES];
	va_list arguments;

	assert(daemon->probe->parts_count < PARTS_MAX);
	part->daemon = daemon;
	part->memory = daemon->probe->memory + (size_t)daemon->probe->parts_count * CANARY_BYTES;
	part->number = number;
	part->send = send;
	va_start(arguments, format);
	vsnprintf(name, sizeof(name), format, arguments);
	va_end(arguments);
	memcpy(part->name, name, sizeof(name));
	snprintf(part->late_words, sizeof(part->late_words), "%s does not answer", name);
	snprintf(part->failed_words, sizeof(part->failed_words), "%s copies wrong bytes", name);
	daemon->probe->parts_count++;
}

int probe_create(struct daemon *daemon, struct error *error)
{
	struct probe *probe = calloc(1, sizeof(*probe));
	size_t parts = daemon->mills.count + daemon->devices_count + 1;

	if (probe == NULL)
		return error_set(error, -ENOMEM, "no memory for probes");
	daemon->probe = probe;
	probe->memory = aligned_alloc(SLOT_ALIGN_BYTES, parts * CANARY_BYTES);
	if (probe->memory == NULL)
		return error_set(error, -ENOMEM, "no memory for %zu probes", parts);
	for (size_t at = 0; at < CANARY_BYTES; at += sizeof(uint64_t)) {
		uint64_t word = at * UINT64_C(0x9e3779b97f4a7c15); /* any bytes will do */

		memcpy(probe->pattern + at, &word, sizeof(word));
	}
	probe->crc = crc32c(probe->pattern, CANARY_BYTES);
	for (unsigned i = 0; i < daemon->mills.count; i++)
		part_add(daemon, i, mill_send, "mill %u", i);
	for (unsigned i = 0; i < daemon->devices_count; i++)
		part_add(daemon, i, device_send, "nvme %s",
			 nvme_device_path(daemon->devices[i].device));
	if (daemon->catalog != NULL)
		part_add(daemon, 0, catalog_send, "catalogue");
	return 0;
}

void probe_destroy(struct daemon *daemon)
{
	if (daemon->probe != NULL)
		free(daemon->probe->memory);
	free(daemon->probe);
	daemon->probe = NULL;
}
