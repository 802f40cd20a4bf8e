/* proto/http_answer.c: the heads of answers, and what the client would rather have. */
#include "proto/http_parts.h"

#include <string.h>
#include <time.h>

#define QUALITY_MAX 1000u

const char *http_status_words(int status)
{
	static const struct {
		int status;
		const char *words;
	} known[] = {
		{ 200, "OK" },
		{ 400, "Bad Request" },
		{ 404, "Not Found" },
		{ 405, "Method Not Allowed" },
		{ 408, "Request Timeout" },
		{ 413, "Content Too Large" },
		{ 414, "URI Too Long" },
		{ 417, "Expectation Failed" },
		{ 421, "Misdirected Request" },
		{ 431, "Request Header Fields Too Large" },
		{ 500, "Internal Server Error" },
		{ 501, "Not Implemented" },
		{ 503, "Service Unavailable" },
		{ 505, "HTTP Version Not Supported" },
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (known[i].status == status)
			return known[i].words;
	return "Unknown";
}

/* RFC 9110, 5.6.7, whatever the locale. */
static void date_write(struct text *text, uint64_t wall_seconds)
{
	static const char days[] = "SunMonTueWedThuFriSat";
	static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
	time_t seconds = (time_t)wall_seconds;
	struct tm date;

	if (gmtime_r(&seconds, &date) == NULL)
		return;
	text_printf(text, "Date: %.3s, %02d %.3s %04d %02d:%02d:%02d GMT\r\n",
		    days + 3 * date.tm_wday, date.tm_mday, months + 3 * date.tm_mon,
		    date.tm_year + 1900, date.tm_hour, date.tm_min, date.tm_sec);
}

void http_answer_head(struct text *text, const struct http_answer *answer)
{
	const char *policy = answer->policy != NULL ? answer->policy
						    : "default-src 'none'; frame-ancestors 'none'";

	text_printf(text, "HTTP/1.1 %d %s\r\n", answer->status, http_status_words(answer->status));
	if (answer->wall_seconds > 0)
		date_write(text, answer->wall_seconds);
	if (answer->content_type != NULL)
		text_printf(text, "Content-Type: %s\r\n", answer->content_type);
	if (answer->allow != NULL)
		text_printf(text, "Allow: %s\r\n", answer->allow);
	text_printf(text,
		    "Content-Length: %llu\r\nCache-Control: no-store\r\n"
		    "Content-Security-Policy: %s\r\nX-Content-Type-Options: nosniff\r\n"
		    "X-Frame-Options: DENY\r\nReferrer-Policy: no-referrer\r\n"
		    "Cross-Origin-Resource-Policy: same-origin\r\nConnection: %s\r\n\r\n",
		    (unsigned long long)answer->content_bytes, policy,
		    answer->keeps_alive ? "keep-alive" : "close");
}

/* ---- Accept ---- */

/* 0 to 1000 of "0.125"; what is no quality is none. */
static unsigned quality_read(struct http_slice value)
{
	unsigned quality = 0, unit = QUALITY_MAX;

	if (value.bytes == 0 || value.bytes > 5 || (value.start[0] != '0' && value.start[0] != '1'))
		return 0;
	for (size_t i = 0; i < value.bytes; i++) {
		if (i == 1) {
			if (value.start[i] != '.')
				return 0;
			continue;
		}
		if (value.start[i] < '0' || value.start[i] > '9')
			return 0;
		quality += (unsigned)(value.start[i] - '0') * unit;
		unit /= 10;
	}
	return quality < QUALITY_MAX ? quality : QUALITY_MAX;
}

/* How exactly the media range names `type`: 0 not at all, 1 as any, 2 by its first part, 3. */
static unsigned range_names(struct http_slice range, const char *type)
{
	size_t first = strcspn(type, "/") + 1; /* with the slash */

	if (http_slice_is(range, "*/*"))
		return 1;
	if (range.bytes == first + 1 && range.start[first] == '*' &&
	    strncmp(range.start, type, first) == 0)
		return 2;
	return http_slice_is_word(range, type) ? 3 : 0;
}

/* One of the ranges of an Accept: "text/plain;version=0.0.4;q=0.3". */
static void range_weigh(struct http_slice rest, const char *type, unsigned *exactness,
			unsigned *quality)
{
	unsigned weight = QUALITY_MAX, names;
	struct http_slice part, range;
	bool more = http_cut_at(&rest, ';', &part);

	range = http_trim(more ? part : rest);
	while (more) {
		more = http_cut_at(&rest, ';', &part);
		part = http_trim(more ? part : rest);
		if (part.bytes > 2 && (part.start[0] == 'q' || part.start[0] == 'Q') &&
		    part.start[1] == '=')
			weight = quality_read(
				(struct http_slice){ part.start + 2, part.bytes - 2 });
	}
	names = range_names(range, type);
	if (names == 0 || names < *exactness || (names == *exactness && weight <= *quality))
		return;
	*exactness = names;
	*quality = weight;
}

unsigned http_accept_quality(const struct http_parser *parser, const char *type)
{
	unsigned exactness = 0, quality = 0;
	bool has_accept = false;

	for (unsigned i = 0; i < parser->fields_count; i++) {
		struct http_slice range, rest = parser->fields[i].value;
		bool more = true;

		if (!http_slice_is_word(parser->fields[i].name, "accept"))
			continue;
		has_accept = true;
		while (more) {
			more = http_cut_at(&rest, ',', &range);
			range_weigh(more ? range : rest, type, &exactness, &quality);
		}
	}
	return has_accept ? quality : QUALITY_MAX;
}
