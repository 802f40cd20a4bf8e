/* tiers/nvme/catalog_server.c: answers the messages of the catalogue over a back end. */
#include "tiers/nvme/catalog_server.h"

#include "base/failpoint.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int answer(struct catalog_server *server, const struct catalog_message *message,
		  struct error *error)
{
	return server->answer(server->owner, message)
		       ? 0
		       : error_set(error, -EPIPE, "nobody listens any more");
}

static int answer_failed(struct catalog_server *server, int code)
{
	struct catalog_message message = { .verb = CATALOG_FAILED, .result = code };

	(void)server->answer(server->owner, &message);
	return code;
}

static int answer_identity(struct catalog_server *server, enum catalog_verb verb,
			   struct error *error)
{
	struct catalog_message message = { .verb = verb };
	struct catalog_identity identity;

	_Static_assert(sizeof(identity.id) == sizeof(message.record.space),
		       "the id travels in space");
	server->ops->identify(server->catalog, &identity);
	memcpy(message.record.space, identity.id, sizeof(identity.id));
	message.result = identity.is_complete;
	return answer(server, &message, error);
}

static int opened(struct catalog_server *server, struct error *error)
{
	if (failpoint(catalog_opened))
		return error_set(error, -EIO, "failpoint catalog_opened");
	return answer_identity(server, CATALOG_OPENED, error);
}

int catalog_server_open(struct catalog_server *server, const struct catalog_ops *ops,
			const char *path,
			bool (*send)(void *owner, const struct catalog_message *message),
			void *owner, struct error *error)
{
	*server = (struct catalog_server){ .ops = ops, .answer = send, .owner = owner };
	server->collected = calloc(CATALOG_COLLECTED_MAX, sizeof(server->collected[0]));
	if (server->collected == NULL)
		return answer_failed(server,
				     error_set(error, -ENOMEM, "no memory to collect a batch"));
	int result = ops->open(&server->catalog, path, error);
	if (result == 0)
		result = opened(server, error);
	if (result < 0) {
		(void)answer_failed(server, result);
		catalog_server_close(server);
	}
	return result;
}

void catalog_server_close(struct catalog_server *server)
{
	if (server->ops == NULL)
		return;
	server->ops->close(server->catalog);
	free(server->collected);
	memset(server, 0, sizeof(*server));
}

static int write_collected(struct catalog_server *server, struct error *error)
{
	unsigned count = server->collected_count;

	server->collected_count = 0;
	return count == 0 ? 0
			  : server->ops->write(server->catalog, server->collected, count, error);
}

static int collect(struct catalog_server *server, const struct catalog_message *message,
		   struct error *error)
{
	int result = 0;

	if (server->collected_count == CATALOG_COLLECTED_MAX)
		result = write_collected(server, error);
	assert(server->collected_count < CATALOG_COLLECTED_MAX);
	server->collected[server->collected_count++] = *message;
	return result;
}

static int sync_batch(struct catalog_server *server, uint64_t batch, struct error *error)
{
	struct catalog_message message = { .verb = CATALOG_SYNCED, .batch = batch };
	int result = write_collected(server, error);

	if (result < 0)
		return result;
	if (failpoint(catalog_batch_written))
		return error_set(error, -EIO, "failpoint catalog_batch_written");
	return answer(server, &message, error);
}

struct scan_answers {
	struct catalog_server *server;
	struct catalog_message message;
	uint64_t rows;
	bool is_listened_to;
};

static bool answer_row(void *owner, const struct catalog_record *record)
{
	struct scan_answers *answers = owner;

	answers->message.record = *record;
	answers->rows++;
	answers->is_listened_to = answers->server->answer(answers->server->owner,
							  &answers->message);
	return answers->is_listened_to;
}

static int scan(struct catalog_server *server, struct error *error)
{
	struct scan_answers answers = { .server = server,
					.message = { .verb = CATALOG_ROW },
					.is_listened_to = true };
	struct catalog_scan scanning = { .row = answer_row, .owner = &answers };
	int result = server->ops->scan(server->catalog, &scanning, error);

	if (result < 0)
		return result;
	if (!answers.is_listened_to)
		return error_set(error, -EPIPE, "nobody listens any more");
	struct catalog_message message = { .verb = CATALOG_SCANNED,
					   .batch = answers.rows,
					   .skipped = scanning.skipped };
	return answer(server, &message, error);
}

static int clear(struct catalog_server *server, struct error *error)
{
	/* What was put before is not wanted any more. */
	server->collected_count = 0;
	int result = server->ops->clear(server->catalog, error);
	if (result < 0)
		return result;
	return answer_identity(server, CATALOG_CLEARED, error);
}

int catalog_server_handle(struct catalog_server *server, const struct catalog_message *message,
			  struct error *error)
{
	int result;

	assert(server->ops != NULL);
	switch (message->verb) {
	case CATALOG_PUT:
	case CATALOG_DELETE:
	case CATALOG_MARK:
		result = collect(server, message, error);
		break;
	case CATALOG_SYNC:
		result = sync_batch(server, message->batch, error);
		break;
	case CATALOG_SCAN:
		result = scan(server, error);
		break;
	case CATALOG_CLEAR:
		result = clear(server, error);
		break;
	default:
		result = error_set(error, -EPROTO, "the catalogue knows no verb %u", message->verb);
	}
	return result == 0 ? 0 : answer_failed(server, result);
}
