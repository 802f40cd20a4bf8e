/* client/cli_blocks.c: spaces, ls, stat, explain: what is there, and why something is not. */
#include "client/cli.h"

#include <stdlib.h>
#include <string.h>

#define LS_LIMIT_DEFAULT 100u
#define SPACES_LIMIT 65536u
#define SPACE_DIGITS 32
#define SPACE_COLUMNS 57 /* between the space and its last engine */
#define ENGINE_BYTES 64
#define HASH_DIGITS 64
#define HASH_DIGITS_MIN 16
/* What stands beside the hash. */
#define BLOCK_COLUMNS 53

static void spaces_print(struct cli *cli, const json_t *value)
{
	int digits = cli_short_digits(cli, cli_get(value, "spaces"), "space");
	int room = cli->is_tty ? cli->columns - digits - SPACE_COLUMNS : ENGINE_BYTES;
	size_t i;
	json_t *space;

	if (json_array_size(cli_get(value, "spaces")) == 0) {
		cli_line(cli, CLI_PLAIN, "no spaces: no engine has registered yet");
		return;
	}
	cli_line(cli, CLI_BOLD, "%-*s %-10s %8s %8s %6s %6s %3s %8s %s", digits, "SPACE", "TENANT",
		 "CPU", "NVME", "BLOCKS", "PINNED", "ENG", "USED", "LAST ENGINE");
	json_array_foreach(cli_get(value, "spaces"), i, space)
	{
		const json_t *bytes = cli_get(space, "bytes"), *blocks = cli_get(space, "blocks");
		double cpu = cli_number(blocks, "cpu"), nvme = cli_number(blocks, "nvme");
		bool was_used = json_is_integer(cli_get(space, "last_used_us"));
		char a[CLI_UNIT_BYTES], b[CLI_UNIT_BYTES], c[CLI_UNIT_BYTES], d[CLI_UNIT_BYTES];
		char e[CLI_UNIT_BYTES];

		cli_line(cli, CLI_PLAIN, "%-*.*s %-10.10s %8s %8s %6s %6s %3.0f %8s %.*s", digits,
			 digits, cli_string(space, "space"), cli_string(space, "tenant"),
			 cli_bytes(cli_number(bytes, "cpu"), a),
			 cli_bytes(cli_number(bytes, "nvme"), b),
			 cli_count(cpu > nvme ? cpu : nvme, c),
			 cli_count(cli_number(space, "pinned_blocks"), e),
			 cli_number(space, "engines_now"),
			 was_used ? cli_duration((uint64_t)cli_number(space, "last_used_us"), d) : "-",
			 room, cli_string(space, "last_engine"));
	}
	cli_line(cli, CLI_PLAIN, "BLOCKS of the tier that has most; ENG: engines here now; USED so long ago");
	if (digits < SPACE_DIGITS)
		cli_line(cli, CLI_PLAIN, "--space takes these first digits; -o json has all of them");
}

enum cli_exit cli_spaces(struct cli *cli)
{
	struct frame_operate frame;
	json_t *spaces = NULL;
	bool is_all;
	enum cli_exit result;

	cli_operate_start(cli, &frame, FRAME_OPERATE_LIST);
	result = cli_operate_all(cli, &frame, "spaces", SPACES_LIMIT, &spaces, &is_all);
	if (result != CLI_DONE)
		return result;
	return cli_show(cli, json_pack("{s:o}", "spaces", spaces), spaces_print);
}

static const char *tiers_words(const json_t *block, char *text, size_t bytes)
{
	size_t i;
	json_t *tier;

	text[0] = 0;
	json_array_foreach(cli_get(block, "tiers"), i, tier)
	{
		snprintf(text + strlen(text), bytes - strlen(text), "%s%.8s", i > 0 ? "+" : "",
			 json_is_string(tier) ? json_string_value(tier) : "");
	}
	return text[0] != 0 ? text : "incomplete";
}

/* Whole, but on a screen that has no room. */
static int hash_digits(const struct cli *cli)
{
	int room = cli->columns - BLOCK_COLUMNS;

	if (!cli->is_tty || room > HASH_DIGITS)
		return HASH_DIGITS;
	return room < HASH_DIGITS_MIN ? HASH_DIGITS_MIN : room;
}

static void blocks_print(struct cli *cli, const json_t *value)
{
	size_t i, count = json_array_size(cli_get(value, "blocks"));
	int digits = hash_digits(cli);
	json_t *block;

	if (count == 0) {
		cli_line(cli, CLI_PLAIN, "no blocks");
		return;
	}
	cli_line(cli, CLI_BOLD, "%-*s %5s %7s %6s %8s %-8s %4s %s", digits, "HASH", "GROUP", "PLACE",
		 "TOKENS", "BYTES", "TIERS", "HELD", "AGE");
	json_array_foreach(cli_get(value, "blocks"), i, block)
	{
		bool is_known = json_is_integer(cli_get(block, "position"));
		char a[CLI_UNIT_BYTES], b[CLI_UNIT_BYTES], tiers[32], position[24] = "-";

		if (is_known)
			snprintf(position, sizeof(position), "%.0f", cli_number(block, "position"));
		cli_line(cli, CLI_PLAIN, "%-*.*s %5.0f %7s %6.0f %8s %-8s %4.0f %s%s",
			 digits, digits, cli_string(block, "hash"), cli_number(block, "group"), position,
			 cli_number(block, "tokens"), cli_bytes(cli_number(block, "bytes"), a),
			 tiers_words(block, tiers, sizeof(tiers)), cli_number(block, "holds"),
			 is_known ? cli_duration((uint64_t)cli_number(block, "age_us"), b) : "-",
			 json_is_true(cli_get(block, "forgotten")) ? " (forgotten)" : "");
	}
	if (!json_is_true(cli_get(value, "is_all")))
		cli_line(cli, CLI_YELLOW, "%zu blocks, and there are more: --limit says how many", count);
	else
		cli_line(cli, CLI_PLAIN, "%zu blocks", count);
	if (digits < HASH_DIGITS)
		cli_line(cli, CLI_PLAIN, "PLACE in its prefix; hashes are whole in -o json, or in %d columns",
			 HASH_DIGITS + BLOCK_COLUMNS);
}

enum cli_exit cli_ls(struct cli *cli)
{
	struct cli_hash_frame asked;
	json_t *blocks = NULL;
	bool is_all = false;
	enum cli_exit result;

	if (!cli->has_space)
		return cli_usage_error(
			cli, "ls: --space FINGERPRINT is required; spaces prints the fingerprints");
	if (cli->words_count > 0 && !cli_is_hash_prefix(cli->words[0]))
		return cli_usage_error(cli, "%s: the first 8 to 63 digits of hashes are right",
				       cli->words[0]);
	cli_operate_start(cli, &asked.frame, FRAME_OPERATE_LIST);
	if (cli->words_count > 0)
		cli_hash_prefix(cli->words[0], &asked);
	result = cli_operate_all(cli, &asked.frame, "blocks", cli->limit > 0 ? cli->limit : LS_LIMIT_DEFAULT,
				 &blocks, &is_all);
	if (result != CLI_DONE)
		return result;
	return cli_show(cli, json_pack("{s:o, s:b}", "blocks", blocks, "is_all", is_all),
			blocks_print);
}

/* ---- stat ---- */

const char *cli_reason_words(const char *reason)
{
	static const struct {
		const char *name, *words;
	} rows[] = {
		{ "hit-cpu", "a lookup finds it, in memory" },
		{ "hit-nvme", "a lookup finds it, on nvme" },
		{ "never-stored", "never stored here, or gone so long ago that nothing is known" },
		{ "evicted", "others were used more recently" },
		{ "forgotten", "by forget or purge" },
		{ "filling", "being stored right now" },
		{ "shards-missing", "some ranks' shards are missing" },
		{ "damaged", "its checksum was wrong, so it was dropped" },
		{ "refused", "its store was refused" },
		{ "bypassed", "the bypass is on" },
		{ "key-missing", "on nvme, enciphered with a key that the tenant's key_file no longer has" },
		{ "in-clear", "on nvme in the clear, from before encryption was turned on: not believed" },
		{ "no-such-space", "there is no such space: no engine has registered in it" },
	};

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (strcmp(rows[i].name, reason) == 0)
			return rows[i].words;
	return reason;
}

static void slots_print(struct cli *cli, const json_t *block)
{
	size_t i;
	json_t *slot;

	json_array_foreach(cli_get(block, "slots"), i, slot)
	{
		const char *device = cli_string(slot, "device");

		cli_line(cli, CLI_PLAIN, "  shard %.0f in %s: %s, held by %.0f, slot %.0f.%.0f, at %.0f%s%s%s%s",
			 cli_number(slot, "shard"), cli_string(slot, "tier"),
			 cli_string(slot, "state"), cli_number(slot, "holds"),
			 cli_number(slot, "slot"), cli_number(slot, "slot_generation"),
			 cli_number(slot, "offset"), device[0] != 0 ? " of " : "", device,
			 cli_string(slot, "on_nvme")[0] != 0 ? ", on nvme: " : "",
			 cli_string(slot, "on_nvme"));
	}
}

static void stat_print(struct cli *cli, const json_t *value)
{
	size_t i;
	json_t *block;

	json_array_foreach(cli_get(value, "blocks"), i, block)
	{
		char tiers[32], size[CLI_UNIT_BYTES], age[CLI_UNIT_BYTES];

		cli_line(cli, CLI_BOLD, "%.64s", cli_string(block, "hash"));
		cli_line(cli, CLI_PLAIN, "  space      %s of tenant %s, group %.0f",
			 cli_string(block, "space"), cli_string(block, "tenant"),
			 cli_number(block, "group"));
		cli_line(cli, CLI_PLAIN, "  why        %s: %s", cli_string(block, "reason"),
			 cli_reason_words(cli_string(block, "reason")));
		cli_line(cli, CLI_PLAIN, "  is in      %s; %.0f of %.0f shards",
			 tiers_words(block, tiers, sizeof(tiers)),
			 cli_number(block, "shards_present"), cli_number(block, "shards"));
		cli_line(cli, CLI_PLAIN, "  stands for %.0f tokens; %s of payload a shard",
			 cli_number(block, "tokens"),
			 cli_bytes(cli_number(block, "payload_bytes"), size));
		if (json_is_integer(cli_get(block, "age_us")))
			cli_line(cli, CLI_PLAIN, "  stored     %s ago, position %.0f of its prefix",
				 cli_duration((uint64_t)cli_number(block, "age_us"), age),
				 cli_number(block, "position"));
		cli_line(cli, CLI_PLAIN, "  behind     %s",
			 cli_string(block, "parent")[0] != 0 ? cli_string(block, "parent")
							     : "nothing: first of a prefix, or not known");
		cli_line(cli, CLI_PLAIN, "  epoch      %.0f", cli_number(block, "epoch"));
		slots_print(cli, block);
	}
	if (json_array_size(cli_get(value, "blocks")) == 0)
		cli_line(cli, CLI_PLAIN, "not here: %s: %s", cli_string(value, "reason"),
			 cli_reason_words(cli_string(value, "reason")));
}

enum cli_exit cli_stat(struct cli *cli)
{
	struct {
		struct frame_operate frame;
		uint8_t hash[FRAME_HASH_BYTES];
	} asked;
	json_t *answer = NULL;
	enum cli_exit result;

	cli_operate_start(cli, &asked.frame, FRAME_OPERATE_STAT);
	result = cli_take_hash(cli, cli->words[0], asked.hash);
	if (result != CLI_DONE)
		return result;
	asked.frame.header.bytes = sizeof(asked);
	asked.frame.group = (uint16_t)cli->group;
	asked.frame.count = 1;
	result = cli_operate(cli, &asked.frame, &answer);
	return result == CLI_DONE ? cli_show(cli, answer, stat_print) : result;
}

/* ---- explain ---- */

static void explain_print(struct cli *cli, const json_t *value)
{
	size_t i;
	json_t *item;

	json_array_foreach(value, i, item)
	{
		const char *reason = cli_string(item, "reason");
		double age_us = cli_number(item, "age_us");
		char ago[CLI_UNIT_BYTES];

		cli_line(cli, CLI_BOLD, "%.64s", cli_string(item, "hash"));
		cli_line(cli, CLI_PLAIN, "  %s: %s%s%s", reason, cli_reason_words(reason),
			 age_us > 0 ? ", since " : "",
			 age_us > 0 ? cli_duration((uint64_t)age_us, ago) : "");
	}
}

static json_t *explain_value(struct cli *cli, const struct frame_explained *reply)
{
	const struct frame_explained_item *items = (const struct frame_explained_item *)(reply + 1);
	json_t *value = json_array();

	for (uint32_t i = 0; i < reply->count; i++)
		json_array_append_new(
			value,
			json_pack("{s:s, s:s, s:i, s:I}", "hash", cli->words[i], "reason",
				  frame_reason_name(items[i].reason), "shards_present",
				  (int)items[i].shards_present, "age_us",
				  (json_int_t)items[i].age_us));
	return value;
}

static enum cli_exit explain_hashes(struct cli *cli, struct frame_explain *frame)
{
	struct link link = { .fd = -1 };
	const struct frame_explained *reply;
	enum cli_exit result = CLI_DONE;

	for (int i = 0; i < cli->words_count && result == CLI_DONE; i++)
		result = cli_take_hash(cli, cli->words[i],
				       (uint8_t *)(frame + 1) + i * (int)FRAME_HASH_BYTES);
	if (result != CLI_DONE)
		return result;
	result = cli_ask(cli, &link, frame, FRAME_EXPLAINED);
	reply = (const struct frame_explained *)link.incoming;
	if (result == CLI_DONE && reply->count != (uint32_t)cli->words_count) {
		fprintf(cli->error, "kvtier: asked about %d blocks, the daemon explained %u\n",
			cli->words_count, reply->count);
		result = CLI_REFUSED;
	}
	if (result == CLI_DONE)
		result = cli_show(cli, explain_value(cli, reply), explain_print);
	link_finish(&link);
	return result;
}

enum cli_exit cli_explain(struct cli *cli)
{
	struct frame_explain *frame;
	size_t bytes = sizeof(*frame) + (size_t)cli->words_count * FRAME_HASH_BYTES;
	enum cli_exit result;

	if ((cli->given & CLI_REQUEST) != 0 && cli->words_count == 0 && !cli->has_space)
		return cli_explain_request(cli);
	if ((cli->given & CLI_REQUEST) != 0)
		return cli_usage_error(cli, "explain: --request stands alone");
	if (!cli->has_space)
		return cli_usage_error(
			cli,
			"explain: --space FINGERPRINT is required; spaces prints the fingerprints");
	if (cli->words_count == 0)
		return cli_usage_error(cli, "explain: which blocks? Their hashes follow");
	frame = calloc(1, bytes);
	if (frame == NULL) {
		fprintf(cli->error, "kvtier: no memory for %d blocks\n", cli->words_count);
		return CLI_UNREACHED;
	}
	frame_start(&frame->header, FRAME_EXPLAIN, (uint32_t)bytes, 0, 0);
	memcpy(frame->fingerprint, cli->space, sizeof(frame->fingerprint));
	frame->group = (uint16_t)cli->group;
	frame->count = (uint16_t)cli->words_count;
	result = explain_hashes(cli, frame);
	free(frame);
	return result;
}
