/* daemon/main.c: kvtierd: reads settings, builds the node, starts the threads, turns the loop until
 * told to stop. */
#include "base/checksum.h"
#include "base/copy.h"
#include "base/crypto.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/numa.h"
#include "daemon/admin.h"
#include "daemon/gpu_link.h"
#include "daemon/gpus.h"
#include "daemon/guard.h"
#include "daemon/metrics_text.h"
#include "daemon/notify.h"
#include "daemon/peer_link.h"
#include "daemon/inventory.h"
#include "daemon/node_inventory.h"
#include "daemon/peer_process.h"
#include "daemon/reload.h"
#include "daemon/sandbox.h"
#include "daemon/server.h"
#include "daemon/threads.h"
#include "daemon/watchdog.h"
#include "daemon/verify.h"
#include "tiers/nvme/catalog.h"
#include "transfer/gpu_images.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define EXIT_USAGE      2
#define EXIT_CONFIG     78                   /* EX_CONFIG */
#define DRAIN_US_MAX    UINT64_C(5000000)
#define CALIBRATE_BYTES (UINT64_C(1) << 20)
#define SETS_MAX        64

enum {
	OPTION_WORKER = 256,
	OPTION_CHECK,
	OPTION_PRINT,
	OPTION_FAILPOINTS,
	OPTION_DESCRIBE,
	OPTION_SET
};

static const struct option options[] = {
	{ "config", required_argument, NULL, 'c' },
	{ "set", required_argument, NULL, OPTION_SET },
	{ "check-config", no_argument, NULL, OPTION_CHECK },
	{ "print-config", no_argument, NULL, OPTION_PRINT },
	{ "list-failpoints", no_argument, NULL, OPTION_FAILPOINTS },
	{ "describe", required_argument, NULL, OPTION_DESCRIBE },
	{ "version", no_argument, NULL, 'V' },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

struct command_line {
	const char *config;
	const char *describe;
	const char *sets[SETS_MAX];
	unsigned sets_count;
	bool is_check, is_print;
};

static void usage(FILE *file)
{
	fputs("usage: kvtierd --config FILE [--set NAME=VALUE]...\n"
	      "       kvtierd --verify --config FILE [--tier cpu|nvme] [--json]\n"
	      "\n"
	      "The node daemon of kvtier: one KV cache for all engines of a node, over pinned host memory and NVMe.\n"
	      "\n"
	      "  -c, --config FILE       settings, YAML; without it the defaults and the environment count\n"
	      "      --set NAME=VALUE    one setting, over the file and the environment\n"
	      "      --check-config      read the settings and stop: 0 good, 78 not\n"
	      "      --print-config      every setting with where it came from, and stop\n"
	      "      --verify            check the tiers of a stopped or running kvtierd; --verify --help says more\n"
	      "      --list-failpoints   the named failpoints of this build\n"
	      "      --describe FORM     help, man, markdown, metrics or completion\n"
	      "  -V, --version           version and what is built in\n"
	      "  -h, --help              this\n"
	      "\n"
	      "Exit status: 0 stopped as told, 1 failed, 2 wrong usage, 78 wrong settings.\n"
	      "\nSettings (YAML keys; environment: KVTIER_<NAME> in capitals):\n\n", file);
	settings_describe("help", file);
}

static void version(void)
{
	char sandbox[96], kernels[256];

	sandbox_describe(sandbox, sizeof(sandbox));
	printf("kvtierd %s\n", KVTIER_VERSION);
	printf("protocol: %u..%u, slot format: %u\n", FRAME_VERSION_MIN, FRAME_VERSION_MAX, SLOT_FORMAT_VERSION);
	printf("io_uring: %s\n", HAVE_IO_URING ? "built in" : "not built in (psync only)");
	printf("catalogue: %s\n", HAVE_ROCKSDB ? "rocksdb" : "none (nvme is found again by its headers)");
	printf("checksum: crc32c, %s\n", crc32c_way());
	printf("encryption: aes-256-gcm (OpenSSL %s)\n", crypto_library_version());
	printf("gpus: cuda, rocm (by the driver that is there), peers: tcp%s\n", HAVE_UCX ? ", ucx (where libucp is)" : "");
	gpu_images_describe(kernels, sizeof(kernels));
	printf("gpu kernels: %s\n", kernels);
	printf("numa: %s\n", numa_is_built_in() ? "libnuma" : "not built in (memory lies where the kernel takes it)");
	printf("sandbox: %s\n", sandbox);
	printf("failpoints: %s\n", KVTIER_FAILPOINTS ? "built in" : "none (release)");
}

/* Options that answer and stop: their exit status, or -1. */
static int answer_now(int option, const char *argument)
{
	switch (option) {
	case 'V':
		version();
		return 0;
	case 'h':
		usage(stdout);
		return 0;
	case OPTION_FAILPOINTS:
		failpoint_list(stdout);
		return 0;
	case OPTION_DESCRIBE:
		if (strcmp(argument, "metrics") == 0)
			metrics_describe(stdout);
		else
			settings_describe(argument, stdout);
		return 0;
	case '?':
		fputs("kvtierd --help lists the options\n", stderr);
		return EXIT_USAGE;
	default:
		return -1;
	}
}

/* -1: go on; else the exit status. */
static int command_line_read(int count, char **arguments, struct command_line *line)
{
	int option;

	while ((option = getopt_long(count, arguments, "c:Vh", options, NULL)) != -1) {
		int status = answer_now(option, optarg);

		if (status >= 0)
			return status;
		if (option == 'c')
			line->config = optarg;
		else if (option == OPTION_CHECK)
			line->is_check = true;
		else if (option == OPTION_PRINT)
			line->is_print = true;
		else if (option == OPTION_SET && line->sets_count < SETS_MAX)
			line->sets[line->sets_count++] = optarg;
		else if (option == OPTION_SET) {
			fprintf(stderr, "kvtierd: more than %d --set; write the rest into the file\n", SETS_MAX);
			return EXIT_USAGE;
		}
	}
	if (optind < count) {
		fprintf(stderr, "kvtierd: unexpected argument %s; kvtierd --help lists the options\n",
			arguments[optind]);
		return EXIT_USAGE;
	}
	return -1;
}

static int signals_open(void)
{
	sigset_t wanted;

	sigemptyset(&wanted);
	sigaddset(&wanted, SIGTERM);
	sigaddset(&wanted, SIGINT);
	sigaddset(&wanted, SIGHUP);
	sigprocmask(SIG_BLOCK, &wanted, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);   /* a limit of file sizes is an error, not a death */
	return signalfd(-1, &wanted, SFD_NONBLOCK | SFD_CLOEXEC);
}

/* True: it is to stop. A SIGHUP is passed on. */
static bool signals_take(struct daemon *daemon, int signal_fd)
{
	struct signalfd_siginfo info;

	while (read(signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		if (info.ssi_signo != SIGHUP)
			return true;
		reload_by_signal(daemon);
	}
	return false;
}

static void tell_service(const char *lines)
{
	struct error error;

	if (notify_send(lines, &error) < 0)
		log_line(LOG_DEBUG, "notify_failed", "reason=\"%s\"", error.text);
}

/* Turns the loop; returns when everything has drained, or the bound has passed. */
static void run(struct daemon *daemon, int signal_fd)
{
	struct watchdog watchdog;
	uint64_t stop_us = 0;
	bool was_ready = false;

	watchdog_init(&watchdog);
	while (!daemon_is_drained(daemon)) {
		bool did_work = daemon_step(daemon);

		daemon_wait(daemon, did_work ? 0 : UINT64_MAX);
		if (!was_ready && daemon->phase == DAEMON_SERVING) {
			was_ready = true;
			tell_service("READY=1\nSTATUS=serving");
		}
		watchdog_step(&watchdog, daemon);
		if (stop_us == 0 && server_has_fired(daemon) && signals_take(daemon, signal_fd)) {
			tell_service("STOPPING=1");
			stop_us = daemon->now_us + DRAIN_US_MAX;
			daemon_stop(daemon);
		}
		if (stop_us != 0 && daemon->now_us >= stop_us) {
			log_line(LOG_WARNING, "drain_incomplete", "after_ms=%llu",
				 (unsigned long long)(DRAIN_US_MAX / 1000));
			/* What is still under way belongs to a device that does not answer: leave
			 * as kill -9 would. */
			log_close();
			_exit(EXIT_FAILURE);
		}
	}
}

static void catalog_drain(struct daemon *daemon)
{
	uint64_t until_us = clock_now_us(daemon->clock) + DRAIN_US_MAX;

	if (daemon->catalog == NULL)
		return;
	catalog_link_flush(daemon->catalog);
	while (!catalog_link_is_idle(daemon->catalog) && clock_now_us(daemon->clock) < until_us &&
	       catalog_link_state(daemon->catalog) != CATALOG_LINK_ABSENT)
		/* What other processes still say is heard too: unheard, it would end each wait. */
		if (!catalog_link_step(daemon->catalog, clock_now_us(daemon->clock)) &&
		    !gpus_step(daemon) && !peer_process_step(daemon) &&
		    !node_inventory_step(daemon))
			daemon_wait(daemon, 1000);
}

/* A device that got a ring, not the psync helpers. */
static bool has_io_uring(const struct daemon *daemon)
{
	for (unsigned i = 0; i < daemon->devices_count; i++)
		if (strncmp(nvme_device_io_name(daemon->devices[i].device), "io_uring", 8) == 0)
			return true;
	return false;
}

/* The last step before threads: everything is open. */
static int confine(struct daemon *daemon, struct sandbox *sandbox, struct error *error)
{
	char quoted[200];
	const struct sandbox_parts_on parts = { .has_io_uring = has_io_uring(daemon),
						.has_gpus = gpus_count(daemon) > 0,
						.has_peers = peer_process_is_on(daemon) ||
							     node_inventory_is_on(daemon) };
	int result = sandbox_lock(sandbox, &parts, error);

	if (result < 0)
		return result;
	daemon->sandbox = *sandbox;
	log_line(sandbox->missing[0] != '\0' ? LOG_WARNING : LOG_INFO, "sandbox",
		 "mode=%s no_new_privileges=%d no_capabilities=%d seccomp=%d landlock=%u missing=%s",
		 daemon->settings.sandbox, sandbox->no_new_privileges, sandbox->no_capabilities,
		 sandbox->seccomp, sandbox->landlock,
		 log_quote(quoted, sizeof(quoted), sandbox->missing));
	return 0;
}

static int serve(const struct settings *settings, const struct settings_sources *sources)
{
	struct daemon *daemon = NULL;
	struct sandbox sandbox;
	struct threads threads;
	struct error error;
	int signal_fd = signals_open();
	int result = guard_install(&error);

	copy_calibrate(CALIBRATE_BYTES);
	if (result == 0)
		result = sandbox_enter(&sandbox, settings, sources->file, &error);
	if (result == 0)
		result = daemon_create(&daemon, settings, NULL, &error);
	if (result == 0)
		result = reload_create(daemon, sources, &error);
	if (result == 0)
		result = server_watch(daemon->server, signal_fd, &error);
	if (result == 0)
		result = confine(daemon, &sandbox, &error);
	if (result == 0) {
		log_limit_by(clock_real());
	log_open();
		result = threads_start(&threads, daemon, &error);
	}
	if (result < 0) {
		log_line(LOG_ERROR, "start_failed", "reason=\"%s\"", error.text);
		daemon_destroy(daemon);
		log_close();
		return EXIT_FAILURE;
	}
	run(daemon, signal_fd);
	catalog_drain(daemon);
	threads_stop(&threads);
	daemon_destroy(daemon);
	close(signal_fd);
	log_line(LOG_INFO, "stopped", "status=0");
	log_close();
	return EXIT_SUCCESS;
}

/* On one line, whatever a file of settings has put into it. */
static void complain(struct error *error)
{
	for (char *letter = error->text; *letter != '\0'; letter++)
		if ((unsigned char)*letter < 0x20 || *letter == 0x7f)
			*letter = '?';
	fprintf(stderr, "kvtierd: %s\n", error->text);
}

int main(int count, char **arguments)
{
	static struct settings settings;
	struct command_line line = { 0 };
	struct settings_sources sources;
	struct error error;
	int status;

	if (failpoint_arm_from_environment(&error) < 0) {
		complain(&error);
		return EXIT_USAGE;
	}
	if (count >= 4 && strcmp(arguments[1], "--worker") == 0 && strcmp(arguments[2], "catalog") == 0)
		return catalog_worker_main(arguments[3], count, arguments);
	if (count >= 4 && strcmp(arguments[1], "--worker") == 0 && strcmp(arguments[2], "gpu") == 0)
		return gpu_worker_main(count, arguments);
	if (count >= 4 && strcmp(arguments[1], "--worker") == 0 && strcmp(arguments[2], "peer") == 0)
		return peer_worker_main(count, arguments);
	if (count >= 4 && strcmp(arguments[1], "--worker") == 0 && strcmp(arguments[2], "inventory") == 0)
		return inventory_worker_main(count, arguments);
	for (int i = 1; i < count; i++)
		if (strcmp(arguments[i], "--verify") == 0)
			return verify_main(count, arguments);
	status = command_line_read(count, arguments, &line);
	if (status >= 0)
		return status;
	sources = (struct settings_sources){ line.config, line.sets, line.sets_count };
	if (settings_load(&settings, &sources, &error) < 0) {
		complain(&error);
		return EXIT_CONFIG;
	}
	if (line.is_print)
		settings_print(&settings, stdout);
	if (line.is_print || line.is_check)
		return EXIT_SUCCESS;
	log_level_set((enum log_level)log_level_parse(settings.log_level));
	core_policy_set(settings.core_dumps);
	log_line(LOG_INFO, "starting", "version=%s pid=%d checksum=%s", KVTIER_VERSION, (int)getpid(), crc32c_way());
	return serve(&settings, &sources);
}
