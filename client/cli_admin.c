/* client/cli_admin.c: status, explain, bypass, forget, version. */
#include "client/cli.h"

#include "base/checksum.h"
#include "proto/json_text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define EXPLAIN_JSON_BYTES (512u << 10)

enum cli_exit cli_status(struct cli *cli)
{
	struct frame_header frame;
	struct link link = { .fd = -1 };
	const struct frame_text *reply;
	const char *text;
	size_t bytes;
	enum cli_exit result;

	frame_start(&frame, FRAME_STATS, sizeof(frame), 0, 0);
	result = cli_ask(cli, &link, &frame, FRAME_TEXT);
	if (result == CLI_DONE) {
		reply = (const struct frame_text *)link.incoming;
		text = (const char *)(reply + 1);
		bytes = reply->header.bytes - sizeof(*reply);
		if (cli->is_json) {
			fwrite(text, 1, bytes, cli->out);
			fputc('\n', cli->out);
		} else if (!cli_print_tree(text, bytes, cli->out)) {
			fprintf(cli->error, "kvtier: the daemon's answer is not JSON\n");
			result = CLI_REFUSED;
		}
	}
	link_finish(&link);
	return result;
}

static void explain_print_json(struct cli *cli, const struct frame_explained *reply, char *text)
{
	const struct frame_explained_item *items = (const struct frame_explained_item *)(reply + 1);
	struct json_text json;

	json_text_init(&json, text, EXPLAIN_JSON_BYTES);
	json_text_array_begin(&json, NULL);
	for (uint32_t i = 0; i < reply->count; i++) {
		json_text_object_begin(&json, NULL);
		json_text_string(&json, "hash", cli->words[i]);
		json_text_string(&json, "reason", frame_reason_name(items[i].reason));
		json_text_unsigned(&json, "shards_present", items[i].shards_present);
		json_text_unsigned(&json, "age_us", items[i].age_us);
		json_text_object_end(&json);
	}
	json_text_array_end(&json);
	fprintf(cli->out, "%s\n", text);
}

static enum cli_exit explain_print(struct cli *cli, const struct frame_explained *reply)
{
	const struct frame_explained_item *items = (const struct frame_explained_item *)(reply + 1);
	char *text;

	if (reply->count != (uint32_t)cli->words_count) {
		fprintf(cli->error, "kvtier: asked about %d blocks, the daemon explained %u\n",
			cli->words_count, reply->count);
		return CLI_REFUSED;
	}
	if (cli->is_json) {
		text = malloc(EXPLAIN_JSON_BYTES);
		if (text == NULL)
			return CLI_REFUSED;
		explain_print_json(cli, reply, text);
		free(text);
		return CLI_DONE;
	}
	for (uint32_t i = 0; i < reply->count; i++) {
		fprintf(cli->out, "%s  %-14s", cli->words[i], frame_reason_name(items[i].reason));
		if (items[i].age_us > 0)
			fprintf(cli->out, "  %.1f s ago", (double)items[i].age_us / 1e6);
		if (items[i].reason == FRAME_REASON_SHARDS_MISSING)
			fprintf(cli->out, "  %u shards are there", items[i].shards_present);
		fputc('\n', cli->out);
	}
	return CLI_DONE;
}

enum cli_exit cli_explain(struct cli *cli)
{
	struct frame_explain *frame;
	struct link link = { .fd = -1 };
	size_t bytes = sizeof(*frame) + (size_t)cli->words_count * FRAME_HASH_BYTES;
	enum cli_exit result;

	if (!cli->has_space)
		return cli_usage_error(
			cli,
			"explain: --space FINGERPRINT is required; status prints the fingerprints");
	frame = calloc(1, bytes);
	if (frame == NULL)
		return CLI_REFUSED;
	frame_start(&frame->header, FRAME_EXPLAIN, (uint32_t)bytes, 0, 0);
	memcpy(frame->fingerprint, cli->space, sizeof(frame->fingerprint));
	frame->group = (uint16_t)cli->group;
	frame->count = (uint16_t)cli->words_count;
	for (int i = 0; i < cli->words_count; i++) {
		if (!cli_parse_hex(cli->words[i],
				   (uint8_t *)(frame + 1) + i * (int)FRAME_HASH_BYTES,
				   FRAME_HASH_BYTES)) {
			result = cli_usage_error(cli, "%s: a block hash is 64 hexadecimal digits",
						 cli->words[i]);
			free(frame);
			return result;
		}
	}
	result = cli_ask(cli, &link, frame, FRAME_EXPLAINED);
	if (result == CLI_DONE)
		result = explain_print(cli, (const struct frame_explained *)link.incoming);
	link_finish(&link);
	free(frame);
	return result;
}

/* Asks for something that is answered by DONE. */
static enum cli_exit ask_done(struct cli *cli, void *frame, const char *done)
{
	struct link link = { .fd = -1 };
	enum cli_exit result = cli_ask(cli, &link, frame, FRAME_DONE);

	link_finish(&link);
	if (result == CLI_DONE)
		fprintf(cli->out, cli->is_json ? "{\"done\":\"%s\"}\n" : "%s\n", done);
	return result;
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

enum cli_exit cli_version(struct cli *cli)
{
	fprintf(cli->out,
		cli->is_json
			? "{\"version\":\"%s\",\"protocol_min\":%u,\"protocol_max\":%u,\"crc32c\":\"%s\"}\n"
			: "kvtier %s\nprotocol %u to %u\ncrc32c %s\n",
		kvtier_version(), FRAME_VERSION_MIN, FRAME_VERSION_MAX, crc32c_way());
	return CLI_DONE;
}
