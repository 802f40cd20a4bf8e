/* client/cli_admin.c: bypass, pin, unpin, forget, reload, version: done in one call. */
#include "client/cli.h"

#include "base/checksum.h"

#include <stdlib.h>
#include <string.h>

#define PIN_DEFAULT_US (UINT64_C(3600) * 1000000)

static void done_print(struct cli *cli, const json_t *value)
{
	cli_line(cli, CLI_PLAIN, "%s", cli_string(value, "done"));
}

/* Asks for something that is answered by DONE. */
static enum cli_exit ask_done(struct cli *cli, void *frame, const char *done)
{
	struct link link = { .fd = -1 };
	enum cli_exit result = cli_ask(cli, &link, frame, FRAME_DONE);

	link_finish(&link);
	return result == CLI_DONE ? cli_show(cli, json_pack("{s:s}", "done", done), done_print)
				  : result;
}

/* Ended for one tenant or space, it may go on for the whole node. */
static enum cli_exit bypass_off(struct cli *cli, struct frame_bypass *frame, const char *done)
{
	struct link link = { .fd = -1 };
	enum cli_exit result = cli_ask(cli, &link, frame, FRAME_DONE);
	char admin[CLI_PATH_BYTES], words[CLI_PATH_BYTES + 128];
	json_t *stats = NULL;

	link_finish(&link);
	if (result == CLI_DONE)
		result = cli_stats(cli, &stats);
	if (result != CLI_DONE)
		return result;
	snprintf(words, sizeof(words), "%s", done);
	cli_admin_socket(cli, admin);
	if (strcmp(cli_string(stats, "bypass"), "off") != 0 && cli_string(stats, "bypass")[0] != 0)
		snprintf(words, sizeof(words),
			 "bypass is off here, but not for the whole node: kvtier bypass off --socket %.240s",
			 admin);
	json_decref(stats);
	return cli_show(cli, json_pack("{s:s}", "done", words), done_print);
}

enum cli_exit cli_bypass(struct cli *cli)
{
	static const char *const modes[FRAME_BYPASS_MODES] = {
		[FRAME_BYPASS_OFF] = "off",
		[FRAME_BYPASS_ON] = "on",
		[FRAME_BYPASS_OBSERVE] = "observe",
	};
	static const char *const done[FRAME_BYPASS_MODES] = {
		[FRAME_BYPASS_OFF] = "bypass is off: the cache serves",
		[FRAME_BYPASS_ON] = "bypass is on: every lookup misses",
		[FRAME_BYPASS_OBSERVE] =
			"bypass is observing: the cache fills, and every lookup misses",
	};
	struct frame_bypass frame;
	unsigned mode = 0;

	while (mode < FRAME_BYPASS_MODES && strcmp(cli->words[0], modes[mode]) != 0)
		mode++;
	if (mode == FRAME_BYPASS_MODES)
		return cli_usage_error(cli, "bypass %s: on, off or observe is right",
				       cli->words[0]);
	memset(&frame, 0, sizeof(frame));
	frame_start(&frame.header, FRAME_BYPASS, sizeof(frame), 0, 0);
	if (cli->tenant != NULL)
		strcpy(frame.tenant,
		       cli->tenant); /* its length was checked as the option was read */
	if (cli->has_space)
		memcpy(frame.fingerprint, cli->space, sizeof(frame.fingerprint));
	frame.mode = mode;
	if (mode == FRAME_BYPASS_OFF)
		return bypass_off(cli, &frame, done[mode]);
	return ask_done(cli, &frame, done[mode]);
}

enum cli_exit cli_forget(struct cli *cli)
{
	struct frame_forget frame;

	if (cli->has_space == cli->is_all)
		return cli_usage_error(cli, "forget: either --space FINGERPRINT or --all");
	memset(&frame, 0, sizeof(frame));
	frame_start(&frame.header, FRAME_FORGET, sizeof(frame), 0, 0);
	frame.space = UINT32_MAX;
	if (cli->has_space)
		memcpy(frame.fingerprint, cli->space, sizeof(frame.fingerprint));
	return ask_done(cli, &frame, "forgotten, durably");
}

/* ---- pin ---- */

static void pin_print(struct cli *cli, const json_t *value)
{
	double found = cli_number(value, "found_blocks"), kept = cli_number(value, "pinned_blocks");
	char how_long[CLI_UNIT_BYTES];

	if (json_is_integer(cli_get(value, "unpinned_blocks"))) {
		cli_line(cli, CLI_PLAIN, "%.0f blocks are kept no longer",
			 cli_number(value, "unpinned_blocks"));
		return;
	}
	cli_line(cli, CLI_PLAIN, "%.0f blocks are kept for %s", kept,
		 cli_duration((uint64_t)cli_number(value, "for_us"), how_long));
	if (found > kept)
		cli_line(cli, CLI_YELLOW, "at least %.0f were found, but no more than half of a tier can be kept",
			 found);
}

/* A page of a space at a time; the answers are added up. */
static enum cli_exit pin_pages(struct cli *cli, struct frame_operate *frame)
{
	double found = 0, kept = 0, ended = 0;
	bool was_asked = false;

	while (!was_asked || frame->cursor != 0) {
		json_t *answer = NULL;
		enum cli_exit result = cli_operate(cli, frame, &answer);

		if (result != CLI_DONE)
			return result;
		found += cli_number(answer, "found_blocks");
		kept += cli_number(answer, "pinned_blocks");
		ended += cli_number(answer, "unpinned_blocks");
		frame->cursor = (uint64_t)cli_number(answer, "next");
		was_asked = true;
		json_decref(answer);
	}
	if (frame->value == 0)
		return cli_show(cli, json_pack("{s:I}", "unpinned_blocks", (json_int_t)ended),
				pin_print);
	return cli_show(cli,
			json_pack("{s:I, s:I, s:I}", "found_blocks", (json_int_t)found,
				  "pinned_blocks", (json_int_t)kept, "for_us",
				  (json_int_t)frame->value),
			pin_print);
}

static enum cli_exit pin_or_unpin(struct cli *cli, uint64_t for_us)
{
	size_t bytes = sizeof(struct frame_operate) +
		       (size_t)cli->words_count * FRAME_HASH_BYTES;
	struct frame_operate *frame;
	enum cli_exit result = CLI_DONE;

	if (!cli->has_space)
		return cli_usage_error(
			cli, "%s: --space FINGERPRINT is required; spaces prints the fingerprints",
			cli->name);
	frame = calloc(1, bytes);
	if (frame == NULL) {
		fprintf(cli->error, "kvtier: no memory for %d blocks\n", cli->words_count);
		return CLI_UNREACHED;
	}
	cli_operate_start(cli, frame, FRAME_OPERATE_PIN);
	frame->header.bytes = (uint32_t)bytes;
	frame->value = for_us;
	frame->group = (uint16_t)cli->group;
	frame->count = (uint16_t)cli->words_count;
	for (int i = 0; result == CLI_DONE && i < cli->words_count; i++)
		result = cli_take_hash(cli, cli->words[i],
				       (uint8_t *)(frame + 1) + i * (int)FRAME_HASH_BYTES);
	if (result == CLI_DONE)
		result = pin_pages(cli, frame);
	free(frame);
	return result;
}

enum cli_exit cli_pin(struct cli *cli)
{
	return pin_or_unpin(cli, cli->for_us > 0 ? cli->for_us : PIN_DEFAULT_US);
}

enum cli_exit cli_unpin(struct cli *cli)
{
	return pin_or_unpin(cli, 0);
}

/* ---- reload, version ---- */

static void reload_print(struct cli *cli, const json_t *value)
{
	size_t i;
	json_t *change;

	if (cli_number(value, "changed") == 0)
		cli_line(cli, CLI_PLAIN, "read again; nothing has changed");
	json_array_foreach(cli_get(value, "changes"), i, change)
	{
		bool must_restart = json_is_true(cli_get(change, "needs_restart"));

		cli_line(cli, must_restart ? CLI_YELLOW : CLI_PLAIN, "%-24s %s -> %s%s",
			 cli_string(change, "key"), cli_string(change, "before"),
			 cli_string(change, "after"),
			 must_restart ? "   needs a restart" : "   in force");
	}
}

enum cli_exit cli_reload(struct cli *cli)
{
	struct frame_operate frame;
	json_t *answer = NULL;
	enum cli_exit result;

	cli_operate_start(cli, &frame, FRAME_OPERATE_RELOAD);
	result = cli_operate(cli, &frame, &answer);
	return result == CLI_DONE ? cli_show(cli, answer, reload_print) : result;
}

static void version_print(struct cli *cli, const json_t *value)
{
	cli_line(cli, CLI_PLAIN, "kvtier %s", cli_string(value, "version"));
	cli_line(cli, CLI_PLAIN, "protocol %.0f to %.0f", cli_number(value, "protocol_min"),
		 cli_number(value, "protocol_max"));
	cli_line(cli, CLI_PLAIN, "format of slots %.0f", cli_number(value, "slot_format"));
	cli_line(cli, CLI_PLAIN, "crc32c %s", cli_string(value, "crc32c"));
}

enum cli_exit cli_version(struct cli *cli)
{
	return cli_show(cli,
			json_pack("{s:s, s:i, s:i, s:i, s:s}", "version", kvtier_version(),
				  "protocol_min", (int)FRAME_VERSION_MIN, "protocol_max",
				  (int)FRAME_VERSION_MAX, "slot_format", (int)SLOT_FORMAT_VERSION,
				  "crc32c", crc32c_way()),
			version_print);
}
