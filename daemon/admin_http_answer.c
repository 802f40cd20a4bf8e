/* daemon/admin_http_answer.c: which page a request is for, and what is answered. */
#include "daemon/admin_http_parts.h"

#include <string.h>

static bool query_has(struct http_slice query, const char *word)
{
	size_t word_bytes = strlen(word);

	for (size_t start = 0; start < query.bytes;) {
		const char *parameter = query.start + start;
		const char *end = memchr(parameter, '&', query.bytes - start);
		size_t bytes = end == NULL ? query.bytes - start : (size_t)(end - parameter);

		if (bytes >= word_bytes && memcmp(parameter, word, word_bytes) == 0 &&
		    (bytes == word_bytes || parameter[word_bytes] == '='))
			return true;
		start += bytes + 1;
	}
	return false;
}

static void answer(struct admin_http *http, struct connection *connection, struct http_answer *head,
		   uint64_t now_us)
{
	bool is_head = http_slice_is(connection->parser.method, "HEAD");

	head->content_bytes = http->page.length;
	head->keeps_alive = !connection->closes;
	if (http->config.clock != NULL)
		head->wall_seconds = clock_wall_us(http->config.clock) / 1000000;
	text_clear(&connection->output);
	http_answer_head(&connection->output, head);
	if (!is_head)
		text_append(&connection->output, http->page.bytes, http->page.length);
	connection->sent = 0;
	connection->deadline_us = now_us + http->config.request_us_max;
	if (connection->output.is_cut) { /* no memory: nothing that is true can be said */
		http->counts.refused++;
		admin_http_become(http, connection, CONNECTION_FREE);
		return;
	}
	admin_http_become(http, connection, CONNECTION_WRITING);
}

void admin_http_refuse(struct admin_http *http, struct connection *connection, int status,
		       const char *reason, uint64_t now_us)
{
	struct http_answer head = { .status = status,
				    .content_type = "text/plain; charset=utf-8",
				    .allow = status == 405 ? "GET, HEAD" : NULL };

	http->counts.refused++;
	connection->closes = true;
	text_clear(&http->page);
	text_printf(&http->page, "%s\n", reason);
	answer(http, connection, &head, now_us);
}

static const struct admin_http_page *page_find(const struct admin_http *http,
					       struct http_slice path)
{
	for (unsigned i = 0; i < http->config.pages_count; i++)
		if (http_slice_is(path, http->config.pages[i].path))
			return &http->config.pages[i];
	return NULL;
}

/*
 * What comes from this machine by TCP must mean this machine. A web page elsewhere can let its own
 * name point here and have its visitor's browser read us; that browser still says the page's name.
 */
static bool host_is_here(struct http_slice authority)
{
	size_t bytes = 0;

	if (authority.bytes == 0 || authority.start[0] == '[')
		return true;
	while (bytes < authority.bytes && authority.start[bytes] != ':')
		bytes++;
	if (http_slice_is_word((struct http_slice){ authority.start, bytes }, "localhost"))
		return true;
	for (size_t i = 0; i < bytes; i++)
		if (authority.start[i] != '.' &&
		    (authority.start[i] < '0' || authority.start[i] > '9'))
			return false;
	return true;
}

/* 0, or the status with which the request is refused. */
static int refusal_of(const struct connection *connection, const char **out_reason)
{
	const struct http_parser *parser = &connection->parser;

	if (!http_slice_is(parser->method, "GET") && !http_slice_is(parser->method, "HEAD")) {
		*out_reason = "only GET and HEAD";
		return 405;
	}
	if (parser->is_chunked || parser->content_bytes > 0) {
		*out_reason = "no body is expected here";
		return 413;
	}
	if (connection->is_loopback && !host_is_here(parser->authority)) {
		*out_reason = "on this address only localhost or a number is answered as Host";
		return 421;
	}
	return 0;
}

void admin_http_answer(struct admin_http *http, struct connection *connection, uint64_t now_us)
{
	const struct http_parser *parser = &connection->parser;
	const struct admin_http_page *page = page_find(http, parser->path);
	struct admin_http_call call = { .request = parser, .out = &http->page };
	struct http_answer head = { .status = 200 };
	const char *reason = "no such page";
	int refusal = refusal_of(connection, &reason);

	connection->closes = !parser->keeps_alive;
	if (refusal == 0 && page == NULL)
		refusal = 404;
	if (refusal != 0) {
		admin_http_refuse(http, connection, refusal, reason, now_us);
		return;
	}
	text_clear(&http->page);
	call.is_verbose = query_has(parser->query, "verbose");
	call.content_type = page->content_type;
	head.status = page->render(http->config.owner, &call);
	head.content_type = call.content_type;
	head.policy = call.policy;
	if (http->page.is_cut) {
		admin_http_refuse(http, connection, 500, "the page is larger than its bound",
				  now_us);
		return;
	}
	http->counts.answered++;
	answer(http, connection, &head, now_us);
}
