/* daemon/reload.c: settings read again by a mill, compared, and taken over by the loop. */
#include "daemon/reload.h"

#include "base/log.h"
#include "daemon/encryption.h"
#include "daemon/peer_process.h"
#include "daemon/notify.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct reload {
	struct daemon *daemon;
	struct settings_sources sources;
	struct list waiting;            /* for the next reading */
	struct list running;            /* for this one */
	struct reload_request signal;   /* the one that SIGHUP makes */
	bool signal_waits;
	bool is_milling;
	struct mill_op mill;
	struct settings next;           /* the mill's while is_milling */
	struct error error;             /* too */
	struct reload_report report;
};

static void tell_service(const char *lines)
{
	struct error error;

	if (notify_send(lines, &error) < 0)
		log_line(LOG_DEBUG, "notify_failed", "reason=\"%s\"", error.text);
}

/* A pipe that main read is empty now, or would keep the mill for ever. */
static int file_check(const char *path, struct error *error)
{
	struct stat status;

	if (stat(path, &status) < 0)
		return error_set(error, -errno, "%.100s: %s", path, strerror(errno));
	if (!S_ISREG(status.st_mode))
		return error_set(error, -EINVAL, "%.100s is no regular file, so it cannot be read again", path);
	return 0;
}

static void reload_work(struct mill_op *op)
{
	struct reload *reload = list_item(op, struct reload, mill);

	op->result = 0;
	if (reload->sources.file != NULL)
		op->result = file_check(reload->sources.file, &reload->error);
	if (op->result == 0)
		op->result = settings_load(&reload->next, &reload->sources, &reload->error);
	if (op->result == 0)
		op->result = encryption_read(reload->daemon, &reload->error);
	if (op->result == 0)
		op->result = peer_process_read(reload->daemon, &reload->error);
}

/* What does not read the settings each time it needs them. */
static void settings_put_to_use(struct daemon *daemon, const struct settings *before)
{
	const struct settings *settings = &daemon->settings;

	log_level_set((enum log_level)log_level_parse(settings->log_level));
	if (settings->write_bytes_day_max != before->write_bytes_day_max)
		budget_limit_set(&daemon->write_budget, settings->write_bytes_day_max,
				 daemon->now_us);
	/* What `kvtier bypass` said stays until the setting itself says something new. */
	if (strcmp(settings->bypass, before->bypass) != 0)
		daemon->bypass = daemon_bypass_parse(settings->bypass);
}

static void report_refused(struct reload_report *report, const struct error *error)
{
	report->changes_count = report->applied_count = 0;
	report->reason = *error;
	log_line(LOG_WARNING, "reload_refused", "reason=\"%s\" settings=\"as before\"", error->text);
}

static void report_log(const struct reload_report *report)
{
	for (unsigned i = 0; i < report->changes_count && i < RELOAD_CHANGES_MAX; i++) {
		const struct settings_change *change = &report->changes[i];

		log_line(LOG_INFO, change->is_reloadable ? "setting_changed" : "setting_needs_restart",
			 "key=%s from=\"%s\" to=\"%s\"", change->key, change->from, change->to);
	}
	log_line(LOG_INFO, "reloaded", "changed=%u needs_restart=%u", report->applied_count,
		 report->changes_count - report->applied_count);
}

static void reload_apply(struct reload *reload)
{
	struct daemon *daemon = reload->daemon;
	struct reload_report *report = &reload->report;
	enum log_level before_level = log_level_get();
	struct settings before;

	report->reason.text[0] = '\0';
	report->changes_count = settings_compare(&daemon->settings, &reload->next, report->changes,
						 RELOAD_CHANGES_MAX);
	if (report->changes_count < RELOAD_CHANGES_MAX)
		report->changes_count +=
			encryption_take(daemon, report->changes + report->changes_count,
					RELOAD_CHANGES_MAX - report->changes_count);
	else
		report->changes_count += encryption_take(daemon, NULL, 0);
	if (report->changes_count < RELOAD_CHANGES_MAX)
		report->changes_count +=
			peer_process_take(daemon, report->changes + report->changes_count,
					  RELOAD_CHANGES_MAX - report->changes_count);
	else
		report->changes_count += peer_process_take(daemon, NULL, 0);
	report->applied_count = 0;
	for (unsigned i = 0; i < report->changes_count && i < RELOAD_CHANGES_MAX; i++)
		report->applied_count += report->changes[i].is_reloadable;
	before = daemon->settings;
	settings_take(&daemon->settings, &reload->next);
	settings_put_to_use(daemon, &before);
	/* By the level that shows more: one that hides these lines would hide its own change. */
	enum log_level level = log_level_get();
	if (before_level > level)
		log_level_set(before_level);
	report_log(report);
	log_level_set(level);
}

static void reload_done(struct mill_op *op)
{
	struct reload *reload = list_item(op, struct reload, mill);
	struct daemon *daemon = reload->daemon;
	struct list_node *node;

	reload->is_milling = false;
	reload->report.wall_us = clock_wall_us(daemon->clock);
	reload->report.result = op->result;
	if (op->result < 0) {
		encryption_discard(daemon);
		report_refused(&reload->report, &reload->error);
	} else {
		reload_apply(reload);
	}
#ifdef KVTIER_PLANT_RELOAD
	settings_take(&daemon->settings, &reload->next);
#endif
	while ((node = list_take_first(&reload->running)) != NULL) {
		struct reload_request *request = list_item(node, struct reload_request, link);

		request->done(request, &reload->report);
	}
}

static void signal_done(struct reload_request *request, const struct reload_report *report)
{
	struct reload *reload = list_item(request, struct reload, signal);

	(void)report;
	/* While it starts or stops, the manager waits for other words. */
	if (reload->daemon->phase == DAEMON_SERVING)
		tell_service("READY=1\nSTATUS=serving");
}

int reload_create(struct daemon *daemon, const struct settings_sources *sources,
		  struct error *error)
{
	struct reload *reload = calloc(1, sizeof(*reload));

	assert(daemon->reload == NULL);
	if (reload == NULL)
		return error_set(error, -ENOMEM, "no memory to read settings again");
	reload->daemon = daemon;
	reload->sources = *sources;
	reload->mill.work = reload_work;
	reload->mill.done = reload_done;
	reload->signal.done = signal_done;
	list_init(&reload->waiting);
	list_init(&reload->running);
	daemon->reload = reload;
	return 0;
}

void reload_destroy(struct daemon *daemon)
{
	assert(daemon->reload == NULL || !daemon->reload->is_milling);
	free(daemon->reload);
	daemon->reload = NULL;
}

int reload_request(struct daemon *daemon, struct reload_request *request)
{
	if (daemon->reload == NULL)
		return -ENOTSUP;
	assert(request->done != NULL);
	list_append(&daemon->reload->waiting, &request->link);
	return 0;
}

void reload_by_signal(struct daemon *daemon)
{
	struct reload *reload = daemon->reload;
	char lines[64];

	if (reload == NULL || reload->signal_waits)
		return;
	if (daemon->phase == DAEMON_SERVING) {
		snprintf(lines, sizeof(lines), "RELOADING=1\nMONOTONIC_USEC=%" PRIu64,
			 clock_now_us(daemon->clock));
		tell_service(lines);
	}
	/* One that is under way began before this signal: once more, when it has ended. */
	reload->signal_waits = true;
}

bool reload_step(struct daemon *daemon)
{
	struct reload *reload = daemon->reload;
	struct list_node *node;

	if (reload == NULL || reload->is_milling || encryption_is_leaving(daemon))
		return false;
	/* It waits already where the mills were full. */
	if (reload->signal_waits && reload->signal.link.next == NULL)
		list_append(&reload->waiting, &reload->signal.link);
	reload->signal_waits = false;
	if (list_is_empty(&reload->waiting))
		return false;
	reload->is_milling = mills_submit(&daemon->mills, &reload->mill);
	while (reload->is_milling && (node = list_take_first(&reload->waiting)) != NULL)
		list_append(&reload->running, node);
	return reload->is_milling;
}

bool reload_is_busy(const struct daemon *daemon)
{
	const struct reload *reload = daemon->reload;

	return reload != NULL && (reload->is_milling || reload->signal_waits ||
				  !list_is_empty(&reload->waiting));
}

const struct reload_report *reload_last(const struct daemon *daemon)
{
	static const struct reload_report none;

	return daemon->reload == NULL ? &none : &daemon->reload->report;
}
