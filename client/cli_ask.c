/* client/cli_ask.c: what a command asks of the daemon, each in a connection of its own. */
#include "client/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What would help, for the commonest reasons why nobody answers. */
static const char *advice(const struct cli *cli, int result)
{
	switch (result) {
	case -ENOENT:
		return cli->socket != NULL ? "is that the right socket, and does kvtierd run?"
					   : "does kvtierd run? another socket is named by --socket or KVTIER_SOCKET";
	case -ECONNREFUSED:
		return "kvtierd has died or was stopped: start it again";
	case -EACCES:
	case -EPERM:
		return "this user may not use that socket: use sudo, or join its group";
	case -ETIMEDOUT:
		return "kvtierd is stopped, stuck or overloaded: look at its log; --timeout waits longer";
	default:
		return NULL;
	}
}

static enum cli_exit unreached(struct cli *cli, int result, const struct error *error)
{
	const char *words = advice(cli, result);

	fprintf(cli->error, "kvtier: %s%s%s\n", error->text, words == NULL ? "" : "; ",
		words == NULL ? "" : words);
	return CLI_UNREACHED;
}

static enum cli_exit ask_open(struct cli *cli, struct link *link, uint64_t deadline_us)
{
	struct error error = { .code = 0 };
	int result = link_init(link, -1);

	if (result < 0) {
		fprintf(cli->error, "kvtier: no memory\n");
		return CLI_UNREACHED;
	}
	result = link_open(link, cli->path, FRAME_CONTROL, deadline_us, &error);
	return result < 0 ? unreached(cli, result, &error) : CLI_DONE;
}

static enum cli_exit ask_on(struct cli *cli, struct link *link, void *frame, enum frame_type reply,
			    uint64_t deadline_us)
{
	struct error error = { .code = 0 };
	int result = link_ask(link, frame, reply, deadline_us, &error);

	if (result == 0)
		return CLI_DONE;
	if (link->is_broken || result == -ETIMEDOUT)
		return unreached(cli, result, &error);
	fprintf(cli->error, "kvtier: %s\n", error.text);
	return CLI_REFUSED;
}

enum cli_exit cli_ask(struct cli *cli, struct link *link, void *frame, enum frame_type reply)
{
	uint64_t deadline_us = client_deadline_us(cli->timeout_us);
	enum cli_exit result = ask_open(cli, link, deadline_us);

	return result == CLI_DONE ? ask_on(cli, link, frame, reply, deadline_us) : result;
}

static enum cli_exit text_take(struct cli *cli, const struct link *link, json_t **out_value)
{
	const struct frame_text *reply = (const struct frame_text *)link->incoming;

	*out_value = json_loadb((const char *)(reply + 1), reply->header.bytes - sizeof(*reply), 0,
				NULL);
	if (*out_value != NULL)
		return CLI_DONE;
	fprintf(cli->error, "kvtier: the daemon's answer is not JSON\n");
	return CLI_REFUSED;
}

enum cli_exit cli_stats(struct cli *cli, json_t **out_stats)
{
	struct frame_header frame;
	struct link link = { .fd = -1 };
	enum cli_exit result;

	frame_start(&frame, FRAME_STATS, sizeof(frame), 0, 0);
	result = cli_ask(cli, &link, &frame, FRAME_TEXT);
	if (result == CLI_DONE)
		result = text_take(cli, &link, out_stats);
	link_finish(&link);
	return result;
}

void cli_operate_start(struct cli *cli, struct frame_operate *frame, enum frame_operate_verb verb)
{
	unsigned takes = frame_operate_fields(verb);

	memset(frame, 0, sizeof(*frame));
	frame_start(&frame->header, FRAME_OPERATE, sizeof(*frame), 0, 0);
	frame->verb = verb;
	/* Its length was checked as the option was read. */
	if (cli->tenant != NULL && (takes & FRAME_TAKES_TENANT) != 0)
		strcpy(frame->tenant, cli->tenant);
	if (cli->has_space && (takes & FRAME_TAKES_SPACE) != 0)
		memcpy(frame->fingerprint, cli->space, sizeof(frame->fingerprint));
}

enum cli_exit cli_operate(struct cli *cli, struct frame_operate *frame, json_t **out_answer)
{
	uint64_t deadline_us = client_deadline_us(cli->timeout_us);
	struct link link = { .fd = -1 };
	enum cli_exit result = ask_open(cli, &link, deadline_us);

	if (result == CLI_DONE && (link.features & FRAME_FEATURE_OPERATE) == 0) {
		fprintf(cli->error,
			"kvtier: the daemon is older than this command, and does not know %s: update kvtierd\n",
			cli->name);
		result = CLI_REFUSED;
	}
	if (result == CLI_DONE)
		result = ask_on(cli, &link, frame, FRAME_TEXT, deadline_us);
	if (result == CLI_DONE)
		result = text_take(cli, &link, out_answer);
	link_finish(&link);
	return result;
}

enum cli_exit cli_operate_all(struct cli *cli, struct frame_operate *frame, const char *array,
			      uint64_t limit, json_t **out_items, bool *out_is_all)
{
	json_t *items = json_array();
	enum cli_exit result = CLI_DONE;

	*out_is_all = false;
	do {
		json_t *answer = NULL, *page;

		result = cli_operate(cli, frame, &answer);
		if (result != CLI_DONE)
			break;
		page = json_object_get(answer, array);
		json_array_extend(items, page);
		frame->cursor = (uint64_t)cli_number(answer, "next");
		json_decref(answer);
	} while (frame->cursor != 0 && json_array_size(items) < limit);
	*out_is_all = frame->cursor == 0 && json_array_size(items) <= limit;
	while (json_array_size(items) > limit)
		json_array_remove(items, json_array_size(items) - 1);
	if (result != CLI_DONE) {
		json_decref(items);
		items = NULL;
	}
	*out_items = items;
	return result;
}
