/*
 * daemon/settings.h: everything that can be set, from one table (daemon/settings.c) that also makes
 * `--help`, the man page, the shell completion and docs/CONFIG.md. Source, in this order: command
 * line, environment (KVTIER_<NAME>), the YAML file, the default. Keys of the file are the names of
 * the fields, but durations: their unit stands in the value (lease_max: 60s).
 * Runs on: main, before any thread; settings_load() again on a mill (daemon/reload.h).
 */
#ifndef KVTIER_DAEMON_SETTINGS_H
#define KVTIER_DAEMON_SETTINGS_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define SETTINGS_TENANTS_MAX 16
#define SETTINGS_DEVICES_MAX 8
#define SETTINGS_PEERS_MAX 64
#define SETTINGS_PATH_BYTES 256
#define SETTINGS_FILE_BYTES_MAX (1u << 20)
#define SETTINGS_ORIGINS 48
#define SETTINGS_ITEM_ORIGINS 6

/* Where a value came from, for people: "kvtier.yaml:12", "environment", "command line". Empty: the
 * default. */
struct settings_origin {
	char text[64];
};

struct tenant_settings {
	char name[64];                      /* letters, digits, '-', '_', '.' */
	uint64_t cpu_bytes;                 /* required */
	uint64_t nvme_bytes;                /* default: an equal part of all devices */
	char cpu_file[SETTINGS_PATH_BYTES]; /* a file on tmpfs or hugetlbfs: the arena survives a
					       restart */
	char key_file[SETTINGS_PATH_BYTES]; /* a line ID:HEX64 a key, newest first */
	struct settings_origin origins[SETTINGS_ITEM_ORIGINS];
};

struct device_settings {
	char path[SETTINGS_PATH_BYTES]; /* required */
	uint64_t bytes;                 /* required for a file; 0: of a disk that is dead or gone */
	bool raw_initialise;
	struct settings_origin origins[SETTINGS_ITEM_ORIGINS];
};

struct peer_settings {
	char address[128]; /* required; "host:port" */
	struct settings_origin origins[SETTINGS_ITEM_ORIGINS];
};

struct settings {
	char run_directory[SETTINGS_PATH_BYTES];   /* /run/kvtier: t/<tenant>/kv.sock, admin.sock,
						      http.sock */
	char state_directory[SETTINGS_PATH_BYTES]; /* /var/lib/kvtier: journal, catalog/ */
	char http_listen[64]; /* "127.0.0.1:9469"; "" is none; port 0: any, printed at start */
	char log_level[16];
	uint64_t extent_bytes;       /* unit of extents; 64 MiB */
	char huge_pages[16];         /* auto, always, never */
	char numa[64];               /* auto, off, or nodes */
	char io[16];                 /* auto, io_uring, psync */
	uint32_t queue_depth;        /* of each device; 32 */
	uint32_t mills;              /* threads for checksums and copies; 0: chosen from the CPUs */
	uint64_t index_blocks_max;   /* 0: from the tiers' sizes and block_bytes_min */
	uint64_t block_bytes_min;    /* the smallest block that the index is sized for; 0: chosen */
	uint32_t connections_max;    /* 256 */
	uint32_t spaces_max;         /* 1024 */
	uint32_t leases_max;         /* 4096 */
	uint64_t window_bytes;       /* of each data connection; 64 MiB */
	uint32_t batches_max;        /* STORE and LOAD batches at once on one connection; 64 */
	uint32_t load_window_blocks; /* delivered and not yet released, of one batch; 64 */
	uint64_t lease_us_max;       /* 60 s */
	uint64_t write_bytes_day_max; /* nvme writes a day, all devices; 0: no limit */
	uint64_t scrub_bytes_second; /* of slots that are checked in the background; 0: off */
	uint64_t scrub_interval_us;  /* from the begin of one round to the next, at least */
	uint32_t readback_every;     /* writes down, of which one is read back; 0: none */
	uint64_t restart_wait_us;     /* how long a start waits for an earlier daemon's I/O; 10 s */
	uint64_t stall_us_max;        /* a worker or thread silent for so long is stalled; 5 s */
	char bypass[16];              /* off, on, observe: at start */
	char sandbox[16];             /* auto, off, enforce */
	bool core_dumps;
	char gpus[320];               /* auto, off, or vendor:bus-id with ',' between them */
	char gpu_library[SETTINGS_PATH_BYTES]; /* of the driver; "": the vendor's usual name */
	char encryption[16];          /* of what lies on nvme: off, ephemeral, key_file */
	uint64_t encryption_buffer_bytes; /* 0: chosen; of no use when encryption is off */
	char inventory_listen[64];    /* "address:port" of what is said of blocks; "": nothing is */
	char inventory_ask_listen[64]; /* of questions; "": inventory_listen, its port plus 1 */
	char peer_listen[64];         /* "address:port" for other nodes; "": there are none */
	char peer_address[128];       /* "host:port" at which others reach peer_listen */
	char peer_gives[16];          /* to whom blocks are given: cluster, tickets */
	char peer_secret_file[SETTINGS_PATH_BYTES]; /* a line of 64 hex digits each, newest first */
	char peer_transport[16];      /* auto, ucx, tcp */
	char peer_encryption[16];     /* of blocks on their way: off, on */
	char peer_tls_certificate[SETTINGS_PATH_BYTES]; /* PEM; "": no TLS */
	char peer_tls_key[SETTINGS_PATH_BYTES];
	char peer_tls_ca[SETTINGS_PATH_BYTES];
	char peer_tls_name[128];      /* that others' certificates must have; "": any */
	char peers_file[SETTINGS_PATH_BYTES]; /* a node's "host:port" a line; "": none */
	char peers_dns[128];          /* "name:port": each of its addresses is a node; "": none */
	uint64_t peers_dns_interval_us;
	uint32_t peers_count;         /* nodes that we connect to */
	struct peer_settings peers[SETTINGS_PEERS_MAX];
	uint32_t tenants_count;       /* none given: one, "default" */
	struct tenant_settings tenants[SETTINGS_TENANTS_MAX];
	uint32_t devices_count;
	struct device_settings devices[SETTINGS_DEVICES_MAX];
	struct settings_origin origins[SETTINGS_ORIGINS]; /* one a row of the table */
};

void settings_default(struct settings *settings);
/* A path whose node has gone where nothing is there: it must not be made as a file. */
bool settings_names_node(const char *path);
/* "kv-2.kv:9470", "10.0.0.2:9470", "[fd00::2]:9470": names are looked up later, again and again. */
bool settings_is_peer(const char *text);
/* The disk's own failures: waiting for an operator would not bring its blocks back. */
bool settings_is_disk_failure(int result);
/* Reads one YAML file over the defaults. An unknown key is an error with line and nearest known
 * key; so are anchors, aliases, duplicate keys, wrong units, values out of range. */
must_check int settings_read_file(struct settings *settings, const char *path, struct error *error);
/* The same of a text in memory (tests, fuzzing); `name` stands in messages. */
must_check int settings_read_text(struct settings *settings, const char *text, size_t text_bytes,
				  const char *name, struct error *error);
/* One value by its key, as the command line and the environment give it: settings_set(s,
 * "log_level", "debug", ...). Items of lists are named by number: "tenants.0.cpu_bytes",
 * "nvme.1.path"; the number behind the last appends. */
must_check int settings_set(struct settings *settings, const char *key, const char *value,
			    const char *origin, struct error *error);
/* KVTIER_<NAME>, as KVTIER_LOG_LEVEL, KVTIER_TENANTS_0_CPU_BYTES. Other variables that begin so are
 * left alone: Kubernetes makes some of its own for a service called kvtier. */
must_check int settings_read_environment(struct settings *settings, struct error *error);
/* Relations between values; fills what is 0 and "chosen". */
must_check int settings_finish(struct settings *settings, struct error *error);
/* Where main found the settings, so that they can be read again. Borrows all of it. */
struct settings_sources {
	const char *file;        /* NULL: none */
	const char *const *sets; /* NAME=VALUE, as --set gives them */
	unsigned sets_count;
};

/* Defaults, file, environment, --set, settings_finish(): all that a start does. */
must_check int settings_load(struct settings *settings, const struct settings_sources *sources,
			     struct error *error);

/* A key whose value is another in two settings. */
struct settings_change {
	char key[48];           /* "log_level", "tenants.0.cpu_bytes", "nvme" when items came or went */
	char from[96], to[96];  /* as settings_print() writes values; long ones are cut */
	bool is_reloadable;     /* else it waits for a restart */
};

/* What differs, without what was chosen by settings_finish() in both; at most `changes_max` are
 * written. Returns how many there are. */
unsigned settings_compare(const struct settings *now, const struct settings *next,
			  struct settings_change *changes, unsigned changes_max);
/* Takes over the values, and their origins, of all that may change while the daemon runs. */
void settings_take(struct settings *now, const struct settings *next);
/* Every value with its origin (default, chosen by settings_finish(), file:line, environment,
 * option), as YAML that can be read back. */
void settings_print(const struct settings *settings, FILE *file);
/* Generators: "help", "man", "markdown", "completion"; also "metrics" and "failpoints" from their
 * tables. -EINVAL: no such form, nothing was printed. */
int settings_describe(const char *form, FILE *file);

#endif
