/* client/cli_purge.c: purge and drain: begun, waited for, and proven. */
#include "client/cli.h"

#include <stdlib.h>
#include <string.h>

#define LOOK_US 200000u
#define LIST_LIMIT UINT64_MAX

/* ---- purge ---- */

static bool is_confirmed(struct cli *cli)
{
	char answer[8] = "";

	if (cli->is_yes || !cli->is_tty)
		return true;
	if (cli->has_space)
		fprintf(cli->error, "All blocks of this space");
	else if (cli->tenant != NULL)
		fprintf(cli->error, "All blocks of tenant %s", cli->tenant);
	else
		fprintf(cli->error, "ALL blocks that this socket may touch");
	fprintf(cli->error, " will be overwritten. Go on? [y/N] ");
	fflush(cli->error);
	return fgets(answer, sizeof(answer), stdin) != NULL &&
	       (answer[0] == 'y' || answer[0] == 'Y');
}

static enum cli_exit purge_ask(struct cli *cli, uint64_t value, json_t **out_answer)
{
	struct frame_operate frame;

	cli_operate_start(cli, &frame, FRAME_OPERATE_PURGE);
	frame.value = value;
	if (value != 0) /* how far it is: of the tenant, whatever the space */
		memset(frame.fingerprint, 0, sizeof(frame.fingerprint));
	return cli_operate(cli, &frame, out_answer);
}

static void purge_progress(struct cli_progress *progress, const json_t *answer)
{
	double bytes = cli_number(answer, "bytes"), done = cli_number(answer, "overwritten_bytes");
	double looked = cli_number(answer, "entries_looked_at"), all = cli_number(answer, "entries");
	double share = all > 0 ? looked / all : 1;
	char a[CLI_UNIT_BYTES], b[CLI_UNIT_BYTES], words[96];

	if (bytes > 0)
		share *= done / bytes;
	snprintf(words, sizeof(words), "%s of %s overwritten, %.0f blocks", cli_bytes(done, a),
		 cli_bytes(bytes, b), cli_number(answer, "blocks"));
	cli_progress_show(progress, share, words);
}

/* Blocks of one space that are older than the purge. */
static enum cli_exit count_left(struct cli *cli, const char *tenant, const char *space,
				double floor, uint64_t *left)
{
	struct frame_operate frame;
	json_t *blocks = NULL, *block;
	bool is_all;
	size_t i;
	enum cli_exit result;

	cli_operate_start(cli, &frame, FRAME_OPERATE_LIST);
	snprintf(frame.tenant, sizeof(frame.tenant), "%s", tenant);
	if (!cli_parse_hex(space, frame.fingerprint, sizeof(frame.fingerprint)))
		return CLI_REFUSED;
	result = cli_operate_all(cli, &frame, "blocks", LIST_LIMIT, &blocks, &is_all);
	if (result != CLI_DONE)
		return result;
	json_array_foreach(blocks, i, block)
	{
		*left += cli_number(block, "epoch") < floor;
	}
	json_decref(blocks);
	return CLI_DONE;
}

/* The proof: a listing of all that the purge was about. */
static enum cli_exit purge_prove(struct cli *cli, double floor, uint64_t *out_left)
{
	struct frame_operate frame;
	json_t *spaces = NULL, *space;
	bool is_all;
	size_t i;
	enum cli_exit result;

	*out_left = 0;
	cli_operate_start(cli, &frame, FRAME_OPERATE_LIST);
	memset(frame.fingerprint, 0, sizeof(frame.fingerprint));
	result = cli_operate_all(cli, &frame, "spaces", LIST_LIMIT, &spaces, &is_all);
	if (result != CLI_DONE)
		return result;
	json_array_foreach(spaces, i, space)
	{
		const char *name = cli_string(space, "space");
		uint8_t fingerprint[16] = { 0 };

		if (cli->has_space && (!cli_parse_hex(name, fingerprint, sizeof(fingerprint)) ||
				       memcmp(fingerprint, cli->space, sizeof(cli->space)) != 0))
			continue;
		result = count_left(cli, cli_string(space, "tenant"), name, floor, out_left);
		if (result != CLI_DONE)
			break;
	}
	json_decref(spaces);
	return result;
}

static void purge_print(struct cli *cli, const json_t *value)
{
	char size[CLI_UNIT_BYTES], took[CLI_UNIT_BYTES], failed[CLI_UNIT_BYTES];

	cli_line(cli, CLI_PLAIN, "%.0f blocks are gone; %s were overwritten with zeros in %s",
		 cli_number(value, "blocks"), cli_bytes(cli_number(value, "overwritten_bytes"), size),
		 cli_duration((uint64_t)cli_number(value, "elapsed_us"), took));
	if (cli_number(value, "left_blocks") == 0)
		cli_line(cli, CLI_GREEN, "proven: a listing finds none of them, and the catalogue has no record of them");
	else
		cli_line(cli, CLI_RED, "NOT PROVEN: %.0f of them are still listed; look at the daemon's log",
			 cli_number(value, "left_blocks"));
	if (cli_number(value, "failed_bytes") > 0)
		cli_line(cli, CLI_RED, "%s could not be overwritten: the device failed or is out of use; destroy it",
			 cli_bytes(cli_number(value, "failed_bytes"), failed));
	if (!json_is_true(cli_get(value, "was_quiet")))
		cli_line(cli, CLI_YELLOW, "blocks were being written as it began, whose bytes may be left: purge again when engines pause");
}

static enum cli_exit purge_wait(struct cli *cli, json_t **answer)
{
	struct cli_progress progress = { .cli = cli, .what = "purge",
					 .began_us = client_now_us() };
	enum cli_exit result = CLI_DONE;

	while (result == CLI_DONE && !json_is_true(cli_get(*answer, "done"))) {
		purge_progress(&progress, *answer);
		cli_look_print(cli, *answer);
		cli_pause(LOOK_US);
		json_decref(*answer);
		*answer = NULL;
		result = purge_ask(cli, 1, answer);
	}
	cli_progress_end(&progress);
	return result;
}

enum cli_exit cli_purge(struct cli *cli)
{
	json_t *answer = NULL;
	uint64_t left = 0;
	enum cli_exit result;

	if ((cli->has_space || cli->tenant != NULL) == cli->is_all)
		return cli_usage_error(cli,
				       "purge: --space FINGERPRINT, --tenant NAME, or --all");
	if (!is_confirmed(cli)) {
		fprintf(cli->error, "nothing was purged\n");
		return CLI_REFUSED;
	}
	result = purge_ask(cli, 0, &answer);
	if (result == CLI_DONE)
		result = purge_wait(cli, &answer);
	if (result == CLI_DONE)
		result = purge_prove(cli, cli_number(answer, "floor"), &left);
	if (result != CLI_DONE) {
		json_decref(answer);
		return result;
	}
	json_object_set_new(answer, "left_blocks", json_integer((json_int_t)left));
	bool is_failed = left > 0 || cli_number(answer, "failed_bytes") > 0;
	result = cli_show(cli, answer, purge_print);
	return result == CLI_DONE && is_failed ? CLI_REFUSED : result;
}

/* ---- drain ---- */

static enum cli_exit drain_ask(struct cli *cli, uint64_t value, json_t **out_answer)
{
	struct frame_operate frame;

	cli_operate_start(cli, &frame, FRAME_OPERATE_DRAIN);
	frame.value = value;
	return cli_operate(cli, &frame, out_answer);
}

static void drain_print(struct cli *cli, const json_t *value)
{
	double left = cli_number(value, "memory_only_blocks");

	if (strcmp(cli_string(value, "state"), "off") == 0) {
		cli_line(cli, CLI_PLAIN, "new blocks are taken again");
		return;
	}
	cli_line(cli, CLI_GREEN, "drained: %.0f blocks were written down; kvtierd may be stopped now",
		 cli_number(value, "written_blocks"));
	if (!json_is_true(cli_get(value, "has_nvme")))
		cli_line(cli, CLI_YELLOW, "this node has no nvme: %.0f blocks are in memory only, and survive in a cpu_file alone",
			 left);
	else if (left > 0)
		cli_line(cli, CLI_YELLOW, "%.0f blocks are in memory only: nvme is full, out of use, or its daily limit is reached",
			 left);
}

static void drain_progress(struct cli_progress *progress, const json_t *answer)
{
	double slots = cli_number(answer, "slots"), pending = cli_number(answer, "pending_blocks");
	double share = slots > 0 ? (cli_number(answer, "slots_looked_at") - pending) / slots : 1;
	char words[80];

	snprintf(words, sizeof(words), "%.0f blocks written, %.0f wait",
		 cli_number(answer, "written_blocks"), pending);
	cli_progress_show(progress, share, words);
}

enum cli_exit cli_drain(struct cli *cli)
{
	struct cli_progress progress = { .cli = cli, .what = "drain",
					 .began_us = client_now_us() };
	json_t *answer = NULL;
	enum frame_drain wanted = cli->is_off ? FRAME_DRAIN_OFF : FRAME_DRAIN_ON;
	enum cli_exit result = drain_ask(cli, wanted, &answer);

	while (result == CLI_DONE && !cli->is_off && !json_is_true(cli_get(answer, "done"))) {
		/* Somebody else may have ended it. */
		if (strcmp(cli_string(answer, "state"), "off") == 0) {
			fprintf(cli->error, "kvtier: the drain was ended by somebody else\n");
			result = CLI_REFUSED;
			break;
		}
		drain_progress(&progress, answer);
		cli_look_print(cli, answer);
		cli_pause(LOOK_US);
		json_decref(answer);
		answer = NULL;
		result = drain_ask(cli, FRAME_DRAIN_ASK, &answer);
	}
	cli_progress_end(&progress);
	if (result == CLI_DONE)
		return cli_show(cli, answer, drain_print);
	json_decref(answer);
	return result;
}
