/* daemon/admin.c: the pages: probes, metrics, the status, and the one for people. */
#include "daemon/admin.h"

#include "base/log.h"
#include "daemon/admin_http.h"
#include "daemon/metrics_text.h"
#include "daemon/page.h"
#include "daemon/probe.h"
#include "daemon/restore.h"
#include "daemon/server.h"
#include "proto/http.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

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
	return probe_unready_reason(daemon);
}

/* As Kubernetes' own servers list them: [+] good, [-] what is wrong. */
static void parts_write(struct daemon *daemon, struct text *out)
{
	text_printf(out, "[%c] restore %s\n", daemon->phase == DAEMON_RESTORING ? '-' : '+',
		    restore_phase_name(daemon));
	for (unsigned i = 0; i < probe_parts_count(daemon); i++) {
		struct probe_figures figures;
		bool is_good;

		probe_part(daemon, i, &figures);
		is_good = figures.state == PROBE_GOOD || figures.state == PROBE_UNASKED;
		text_printf(out, "[%c] %s %s", is_good ? '+' : '-', figures.name,
			    probe_state_name(figures.state));
		if (figures.state == PROBE_LATE)
			text_printf(out, " for %.3f s", (double)figures.waited_us / 1e6);
		if (figures.took_us > 0)
			text_printf(out, ", last round trip %.6f s", (double)figures.took_us / 1e6);
		text_add(out, is_good || figures.is_needed || figures.state != PROBE_LATE
				      ? "\n"
				      : " (served without it)\n");
	}
	for (unsigned i = 0; i < daemon->absent_count; i++)
		text_printf(out, "[-] nvme %s absent (served without it)\n",
			    daemon->absent[i].path);
}

static int readyz(void *owner, struct admin_http_call *call)
{
	struct daemon *daemon = owner;
	const char *reason = daemon_unready_reason(daemon);

	probe_ask(daemon);
	if (call->is_verbose)
		parts_write(daemon, call->out);
	text_printf(call->out, "%s\n", reason == NULL ? "ok" : reason);
	return reason == NULL ? 200 : 503;
}

/* Once it has started, it has started: whether it can serve now is /readyz's. */
static int startupz(void *owner, struct admin_http_call *call)
{
	const struct daemon *daemon = owner;
	bool is_restoring = daemon->phase == DAEMON_RESTORING;

	text_add(call->out, is_restoring ? "restoring\n" : "ok\n");
	return is_restoring ? 503 : 200;
}

static int status(void *owner, struct admin_http_call *call)
{
	probe_ask(owner);
	stats_write(owner, NULL, call->out);
	return 200;
}

static int page(void *owner, struct admin_http_call *call)
{
	(void)owner;
	page_write(call->out);
	call->policy = page_policy();
	return 200;
}

static int metrics(void *owner, struct admin_http_call *call)
{
	/* Whoever wants both alike gets what everything understands. */
	bool is_open = http_accept_quality(call->request, "application/openmetrics-text") >
		       http_accept_quality(call->request, "text/plain");
	enum metrics_format format = is_open ? METRICS_OPENMETRICS : METRICS_PROMETHEUS;

	probe_ask(owner);
	call->content_type = metrics_content_type(format);
	metrics_write(owner, call->out, format);
	return 200;
}

static const struct admin_http_page pages[] = {
	{ "/livez", "text/plain; charset=utf-8", livez },
	{ "/readyz", "text/plain; charset=utf-8", readyz },
	{ "/startupz", "text/plain; charset=utf-8", startupz },
	{ "/metrics", NULL, metrics },
	{ "/status", "application/json", status },
	{ "/", "text/html; charset=utf-8", page },
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
