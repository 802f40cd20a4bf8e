/* client/cli_prefix.c: the first digits of a long name, as a person types them: the daemon is asked
 * which of its names begin so. */
#include "client/cli.h"

#include <assert.h>
#include <string.h>

#define PREFIX_DIGITS_MIN 6
#define NAMES_MAX 65536u
#define NAMED_BYTES 16u
#define HASH_DIGITS (2 * FRAME_HASH_BYTES)
#define HASH_DIGITS_MIN 8
#define HASHES_MAX 4096u /* of one prefix; so many are said to be more */
#define NAMED_DIGITS (2 * (int)NAMED_BYTES)

/* Lists all that there are of one kind, and tells which begin so. */
struct prefix {
	const char *digits;
	const char *option, *array, *key;
	enum frame_operate_verb verb;
};

bool cli_is_prefix(const char *text)
{
	size_t digits = strspn(text, "0123456789abcdefABCDEF");

	return text[digits] == 0 && digits >= PREFIX_DIGITS_MIN && digits < (size_t)NAMED_DIGITS;
}

static enum cli_exit find(struct cli *cli, const struct prefix *prefix, const json_t *items,
			  uint8_t *out)
{
	const char *found = NULL;
	unsigned count = 0;
	size_t i;
	json_t *item;

	json_array_foreach(items, i, item)
	{
		const char *name = cli_string(item, prefix->key);

		/* Two tenants may have the same name: it is one all the same. */
		if (strncasecmp(name, prefix->digits, strlen(prefix->digits)) != 0 ||
		    (found != NULL && strcmp(found, name) == 0))
			continue;
		found = name;
		count++;
	}
	if (count == 1 && cli_parse_hex(found, out, NAMED_BYTES))
		return CLI_DONE;
	if (count == 0)
		fprintf(cli->error, "kvtier: --%s %s: nothing that this socket may see begins so; kvtier %s lists all\n",
			prefix->option, prefix->digits, prefix->array);
	else
		fprintf(cli->error, "kvtier: --%s %s: %u begin so; give more digits\n",
			prefix->option, prefix->digits, count);
	return CLI_REFUSED;
}

static enum cli_exit resolve(struct cli *cli, const struct prefix *prefix, uint8_t *out)
{
	struct frame_operate frame;
	json_t *items = NULL;
	bool is_all;
	enum cli_exit result;

	cli_operate_start(cli, &frame, prefix->verb);
	/* All of them: what is looked for is not known yet. */
	memset(frame.fingerprint, 0, sizeof(frame.fingerprint));
	result = cli_operate_all(cli, &frame, prefix->array, NAMES_MAX, &items, &is_all);
	if (result == CLI_DONE)
		result = find(cli, prefix, items, out);
	json_decref(items);
	return result;
}

enum cli_exit cli_prefixes_resolve(struct cli *cli)
{
	const struct prefix space = { cli->space_prefix, "space", "spaces", "space",
				      FRAME_OPERATE_LIST };
	const struct prefix request = { cli->tag_prefix, "request", "requests", "trace",
					FRAME_OPERATE_REQUESTS };
	enum cli_exit result = CLI_DONE;

	if (cli->space_prefix != NULL)
		result = resolve(cli, &space, cli->space);
	if (result == CLI_DONE && cli->tag_prefix != NULL)
		result = resolve(cli, &request, cli->tag);
	return result;
}

bool cli_is_hash_prefix(const char *text)
{
	size_t digits = strspn(text, "0123456789abcdefABCDEF");

	return text[digits] == 0 && digits >= HASH_DIGITS_MIN && digits < HASH_DIGITS;
}

void cli_hash_prefix(const char *digits, struct cli_hash_frame *frame)
{
	size_t count = strlen(digits);

	assert(count <= HASH_DIGITS);
	for (unsigned end = 0; end < 2; end++) {
		char padded[HASH_DIGITS + 1] = { 0 };
		bool is_right;

		memset(padded, end == 0 ? '0' : 'f', HASH_DIGITS);
		memcpy(padded, digits, count);
		is_right = cli_parse_hex(padded, frame->hashes[end], FRAME_HASH_BYTES);
		assert(is_right);
	}
	frame->frame.header.bytes = sizeof(*frame);
	frame->frame.count = 2;
}

/* Which block's hash begins so, in the space if one is named. */
static enum cli_exit hash_resolve(struct cli *cli, const char *digits, uint8_t *out)
{
	struct cli_hash_frame asked;
	const char *found = NULL;
	json_t *blocks = NULL, *block;
	unsigned count = 0;
	bool is_all;
	size_t i;
	enum cli_exit result;

	cli_operate_start(cli, &asked.frame, FRAME_OPERATE_LIST);
	cli_hash_prefix(digits, &asked);
	result = cli_operate_all(cli, &asked.frame, "blocks", HASHES_MAX, &blocks, &is_all);
	if (result != CLI_DONE)
		return result;
	json_array_foreach(blocks, i, block)
	{
		/* Several spaces and groups may have the same block. */
		bool is_again = false;

		for (size_t j = 0; j < i && !is_again; j++)
			is_again = strcmp(cli_string(json_array_get(blocks, j), "hash"),
					  cli_string(block, "hash")) == 0;
		count += !is_again;
		found = cli_string(block, "hash");
	}
	if (count == 1 && cli_parse_hex(found, out, FRAME_HASH_BYTES)) {
		json_decref(blocks);
		return CLI_DONE;
	}
	if (count == 0)
		fprintf(cli->error, "kvtier: %s: no block that is here begins so; of one that has gone, all 64 digits are needed\n",
			digits);
	else
		fprintf(cli->error, "kvtier: %s: %s%u blocks begin so; give more digits\n", digits,
			is_all ? "" : "more than ", count);
	json_decref(blocks);
	return CLI_REFUSED;
}

enum cli_exit cli_take_hash(struct cli *cli, const char *word, uint8_t *out)
{
	if (cli_parse_hex(word, out, FRAME_HASH_BYTES))
		return CLI_DONE;
	if (cli_is_hash_prefix(word))
		return hash_resolve(cli, word, out);
	return cli_usage_error(cli, "%s: a block hash is 64 hexadecimal digits, or the first 8 or more",
			       word);
}

/* How many leading digits two names share. */
static int common(const char *a, const char *b)
{
	int count = 0;

	while (a[count] != 0 && a[count] == b[count])
		count++;
	return count;
}

int cli_short_digits(const struct cli *cli, const json_t *items, const char *key)
{
	int digits = CLI_SHORT_DIGITS;
	size_t i, j;
	json_t *item;

	if (!cli->is_tty)
		return NAMED_DIGITS;
	json_array_foreach(items, i, item)
	{
		for (j = 0; j < i && digits < NAMED_DIGITS; j++) {
			const char *other = cli_string(json_array_get(items, j), key);
			int shared = common(cli_string(item, key), other);

			if (shared < NAMED_DIGITS && shared >= digits)
				digits = shared + 1;
		}
	}
	return digits;
}
