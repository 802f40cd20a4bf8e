/* daemon/verify_report.c: what verify found, for people or as lines of JSON; and how far it is. */
#include "daemon/verify_parts.h"

#include "proto/json_text.h"

#include <inttypes.h>
#include <string.h>

#define BAR_WIDTH 30
#define BAR_US_MIN 100000u
#define LINE_US_MIN 1000000u
#define LINE_BYTES 2048u
#define MIB (1024.0 * 1024.0)

static void line_begin(struct json_text *json, char *text, const char *event)
{
	json_text_init(json, text, LINE_BYTES);
	json_text_object_begin(json, NULL);
	json_text_string(json, "event", event);
}

static void line_end(struct verify *verify, struct json_text *json)
{
	json_text_object_end(json);
	fprintf(verify->options->out, "%s\n", json->text);
	fflush(verify->options->out);
}

static const char *tier_name(const struct look *look)
{
	return look->tier == TIER_NVME ? "nvme" : "cpu";
}

void report_begin(struct verify *verify)
{
	verify->began_us = verify->shown_us = clock_now_us(clock_real());
}

static void bar_clear(struct verify *verify)
{
	if (verify->options->has_bar)
		fputs("\r\033[K", verify->options->progress);
}

static void bar_draw(struct verify *verify, double seconds)
{
	uint64_t done = verify->result->counts.bytes, all = verify->bytes_all;
	double rate = seconds > 0 ? (double)done / seconds : 0;
	unsigned left = rate > 0 && all > done ? (unsigned)((double)(all - done) / rate) : 0;
	char bar[BAR_WIDTH + 1];

	for (unsigned i = 0; i < BAR_WIDTH; i++)
		bar[i] = all > 0 && i < done * BAR_WIDTH / all ? '#' : '.';
	bar[BAR_WIDTH] = '\0';
	fprintf(verify->options->progress, "\r[%s] %3u %%  %.0f of %.0f MiB  %.0f MiB/s  %u:%02u left ",
		bar, all > 0 ? (unsigned)(done * 100 / all) : 100, (double)done / MIB,
		(double)all / MIB, rate / MIB, left / 60, left % 60);
	fflush(verify->options->progress);
}

void report_progress(struct verify *verify, bool is_last)
{
	const struct verify_options *options = verify->options;
	uint64_t now_us = clock_now_us(clock_real());
	double seconds = (double)(now_us - verify->began_us) / 1e6;
	struct json_text json;
	char text[LINE_BYTES];

	if (is_last) {
		bar_clear(verify);
		return;
	}
	if (now_us - verify->shown_us < (options->is_json ? LINE_US_MIN : BAR_US_MIN))
		return;
	verify->shown_us = now_us;
	if (options->has_bar) {
		bar_draw(verify, seconds);
	} else if (options->is_json) {
		line_begin(&json, text, "progress");
		json_text_unsigned(&json, "bytes", verify->result->counts.bytes);
		json_text_unsigned(&json, "bytes_all", verify->bytes_all);
		json_text_double(&json, "seconds", seconds);
		line_end(verify, &json);
	}
}

void report_damaged(struct verify *verify, const struct suspect *suspect)
{
	const struct look *look = &verify->parts[suspect->part].look;
	struct json_text json;
	char text[LINE_BYTES];

	verify->told++;
	if (verify->options->is_json) {
		line_begin(&json, text, "damaged");
		json_text_string(&json, "tier", tier_name(look));
		json_text_string(&json, "path", look->path);
		json_text_unsigned(&json, "offset", look->slots_offset + suspect->offset);
		json_text_unsigned(&json, "slot_bytes", suspect->slot_bytes);
		line_end(verify, &json);
		return;
	}
	if (verify->told > VERIFY_TOLD_MAX)
		return;
	bar_clear(verify);
	fprintf(verify->options->out, "damaged: %s, slot of %u bytes at byte %" PRIu64 "\n",
		look->path, suspect->slot_bytes, look->slots_offset + suspect->offset);
}

void report_failure(struct verify *verify, const char *what, const char *remedy)
{
	struct json_text json;
	char text[LINE_BYTES];

	verify->result->failures++;
	if (verify->options->is_json) {
		line_begin(&json, text, "error");
		json_text_string(&json, "what", what);
		json_text_string(&json, "remedy", remedy);
		line_end(verify, &json);
		return;
	}
	fprintf(verify->options->progress, "kvtierd: %s%s%s\n", what, *remedy != '\0' ? ": " : "",
		remedy);
}

void report_note(struct verify *verify, const char *what)
{
	struct json_text json;
	char text[LINE_BYTES];

	if (!verify->options->is_json) {
		fprintf(verify->options->out, "%s\n", what);
		return;
	}
	line_begin(&json, text, "note");
	json_text_string(&json, "what", what);
	line_end(verify, &json);
}

static void counts_json(struct json_text *json, const struct verify_counts *counts)
{
	uint64_t all = 0;

	for (enum verify_kind kind = 0; kind < VERIFY_KINDS; kind++)
		all += counts->slots[kind];
	json_text_unsigned(json, "slots", all);
	for (enum verify_kind kind = 0; kind < VERIFY_KINDS; kind++)
		json_text_unsigned(json, verify_kind_name(kind), counts->slots[kind]);
	json_text_unsigned(json, "bytes", counts->bytes);
	json_text_unsigned(json, "heads_damaged", counts->heads_damaged);
}

static const char *kind_words(enum verify_kind kind)
{
	switch (kind) {
	case VERIFY_SEALED:
		return "sealed (enciphered: their payload cannot be checked here)";
	case VERIFY_IN_FLUX:
		return "in flux";
	default:
		return verify_kind_name(kind);
	}
}

static void counts_words(FILE *out, const struct verify_counts *counts)
{
	const char *separator = "";

	for (enum verify_kind kind = 0; kind < VERIFY_KINDS; kind++) {
		if (counts->slots[kind] == 0 && kind != VERIFY_GOOD && kind != VERIFY_DAMAGED)
			continue;
		fprintf(out, "%s%" PRIu64 " %s", separator, counts->slots[kind],
			kind_words(kind));
		separator = ", ";
	}
	fputc('\n', out);
}

static unsigned good_count(const bool is_good[2])
{
	return (unsigned)is_good[0] + is_good[1];
}

void report_part(struct verify *verify, const struct verify_part *part)
{
	const struct look *look = &part->look;
	FILE *out = verify->options->out;
	struct json_text json;
	char text[LINE_BYTES];

	if (verify->options->is_json) {
		line_begin(&json, text, "part");
		json_text_string(&json, "tier", tier_name(look));
		json_text_string(&json, "path", look->path);
		json_text_string(&json, "tenant", part->name);
		json_text_unsigned(&json, "superblocks_good", good_count(look->superblock_is_good));
		json_text_unsigned(&json, "tables_good", good_count(look->table_is_good));
		json_text_unsigned(&json, "extents", look->extents_count);
		counts_json(&json, &part->counts);
		line_end(verify, &json);
		return;
	}
	fprintf(out, "%s %s%s%s: superblocks %u of %u good, extent tables %u of 2, %u extents\n    ",
		tier_name(look), look->path, *part->name != '\0' ? ", tenant " : "", part->name,
		good_count(look->superblock_is_good), look->superblocks_count,
		good_count(look->table_is_good), look->extents_count);
	counts_words(out, &part->counts);
}

static const char *conclusion(const struct verify_result *result)
{
	switch (verify_status(result)) {
	case 0:
		return "no damage";
	case 1:
		return "what is damaged is a miss, never wrong bytes; kvtierd drops it when it meets it";
	default:
		return "not all of it could be read";
	}
}

void report_end(struct verify *verify)
{
	const struct verify_result *result = verify->result;
	double seconds = (double)(clock_now_us(clock_real()) - verify->began_us) / 1e6;
	FILE *out = verify->options->out;
	struct json_text json;
	char text[LINE_BYTES];

	if (verify->options->is_json) {
		line_begin(&json, text, "summary");
		json_text_bool(&json, "running", result->is_running);
		json_text_bool(&json, "journal_damaged", result->journal_is_damaged);
		json_text_unsigned(&json, "failures", result->failures);
		counts_json(&json, &result->counts);
		json_text_double(&json, "seconds", seconds);
		json_text_signed(&json, "status", verify_status(result));
		line_end(verify, &json);
		return;
	}
	if (verify->told > VERIFY_TOLD_MAX)
		fprintf(out, "%" PRIu64 " more damaged slots; --json lists them all\n",
			verify->told - VERIFY_TOLD_MAX);
	fprintf(out, "all (kvtierd is %s), %.0f MiB in %.1f s: ",
		result->is_running ? "running" : "not running",
		(double)result->counts.bytes / MIB, seconds);
	counts_words(out, &result->counts);
	fprintf(out, "%s\n", conclusion(result));
}
