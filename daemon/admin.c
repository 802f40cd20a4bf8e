/* daemon/admin.c: the pages for probes, and the catalogue's link. */
#include "daemon/admin.h"

#include "base/log.h"
#include "daemon/admin_http.h"
#include "daemon/metrics_text.h"
#include "daemon/restore.h"
#include "daemon/server.h"
#include "proto/http.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define MILL_STALL_WORDS "a mill thread does not answer"

static int livez(void *owner, struct admin_http_call *call)
{
	(void)owner;
	/* The loop itself writes this page. */
	text_add(call->out, "ok\n");
	return 200;
}

const char *daemon_unready_reason(const struct daemon *daemon)
{
	if (daemon->phase == DAEMON_RESTORING)
		return "restoring";
	if (daemon->phase == DAEMON_DRAINING)
		return "stopping";
	for (unsigned i = 0; i < daemon->mills.count; i++) {
		const struct mill *mill = &daemon->mills.mills[i];
		uint64_t beat_us = atomic_load_explicit(&mill->beat_us, memory_order_relaxed);

		if (mill->in_flight > 0 && beat_us + daemon->settings.stall_us_max < daemon->now_us)
			return MILL_STALL_WORDS;
	}
	return NULL;
}

static int readyz(void *owner, struct admin_http_call *call)
{
	struct daemon *daemon = owner;
	struct text *out = call->out;
	const char *reason = daemon_unready_reason(daemon);

	text_printf(out, "%s\n", reason == NULL ? "ok" : reason);
	if (call->is_verbose) {
		text_printf(out, "restore: %s\n", restore_phase_name(daemon));
		for (unsigned i = 0; i < daemon->devices_count; i++)
			text_printf(out, "nvme %s: %s\n", nvme_device_path(daemon->devices[i].device),
				    daemon->devices[i].is_fenced ? "fenced" : "ok");
		for (unsigned i = 0; i < daemon->absent_count; i++)
			text_printf(out, "nvme %s: absent\n", daemon->absent[i].path);
	}
	return reason == NULL ? 200 : 503;
}

static int metrics(void *owner, struct admin_http_call *call)
{
	/* Whoever wants both alike gets what everything understands. */
	bool is_open = http_accept_quality(call->request, "application/openmetrics-text") >
		       http_accept_quality(call->request, "text/plain");
	enum metrics_format format = is_open ? METRICS_OPENMETRICS : METRICS_PROMETHEUS;

	call->content_type = metrics_content_type(format);
	metrics_write(owner, call->out, format);
	return 200;
}

static const struct admin_http_page pages[] = {
	{ "/livez", "text/plain; charset=utf-8", livez },
	{ "/readyz", "text/plain; charset=utf-8", readyz },
	{ "/metrics", NULL, metrics },
};

int admin_create(struct daemon *daemon, struct error *error)
{
	char path[2 * SETTINGS_PATH_BYTES];
	struct admin_http_config config = {
		.socket_path = path, .listen = daemon->settings.http_listen, .pages = pages,
		.pages_count = sizeof(pages) / sizeof(pages[0]), .owner = daemon,
		.clock = daemon->clock,
	};
	int result;

	snprintf(path, sizeof(path), "%s/http.sock", daemon->settings.run_directory);
	result = admin_http_open(&daemon->http, &config, error);
	if (result < 0)
		return result;
	if (admin_http_port(daemon->http) != 0)
		log_line(LOG_INFO, "http_listen", "port=%u", admin_http_port(daemon->http));
	return server_watch(daemon->server, admin_http_fd(daemon->http), error);
}

void admin_destroy(struct daemon *daemon)
{
	if (daemon->http != NULL)
		admin_http_close(daemon->http);
	daemon->http = NULL;
}

void admin_step(struct daemon *daemon)
{
	(void)admin_http_step(daemon->http, daemon->now_us);
}

void stats_frame(struct session *session, const struct frame_header *frame)
{
	struct daemon *daemon = session->daemon;
	struct text text;

	text_init(&text, FRAME_TEXT_BYTES_MAX);
	stats_write(daemon, session->is_admin ? NULL : session->tenant, &text);
	session_reply_text(session, FRAME_TEXT, frame->request, text.is_cut ? -E2BIG : 0,
			   text_words(&text), text.length);
	text_finish(&text);
}
