/* daemon/settings_table.c: every option, once: name, type, bounds, default and the sentence that
 * explains it. */
#include "daemon/settings_table.h"

#include "tiers/nvme/nvme.h"

#include <stddef.h>

#define KIB (UINT64_C(1) << 10)
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define TIB (UINT64_C(1) << 40)
#define SECOND UINT64_C(1000000)
#ifdef KVTIER_SMALL /* tests/sim: a limit that is reached */
#define DAY_BYTES_LEAST MIB
#else
#define DAY_BYTES_LEAST GIB
#endif

#define FIELD(record, field)                                                                       \
	.offset = offsetof(struct record, field), .bytes = sizeof(((struct record *)0)->field)
#define BETWEEN(low, high) .minimum = (low), .maximum = (high)
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

_Static_assert(SETTINGS_DEVICES_MAX <= NVME_DEVICES_MAX,
	       "the tier has room for every device of the settings");

const struct setting settings_rows[] = {
	{ "run_directory", SETTING_TEXT, CHECK_PATH, FIELD(settings, run_directory),
	  .initial = "/run/kvtier",
	  .help = "Folder of the sockets: t/<tenant>/kv.sock, admin.sock, http.sock." },
	{ "state_directory", SETTING_TEXT, CHECK_PATH, FIELD(settings, state_directory),
	  .initial = "/var/lib/kvtier",
	  .help = "Folder of the journal and the catalogue; must survive a restart." },
	{ "http_listen", SETTING_TEXT, CHECK_LISTEN, FIELD(settings, http_listen),
	  .initial = "127.0.0.1:9469",
	  .help = "Address and port of /metrics, /livez and /readyz; empty for none, port 0 for any free one." },
	{ "log_level", SETTING_CHOICE, FIELD(settings, log_level),
	  .choices = "debug info warning error", .initial = "info",
	  .is_reloadable = true,
	  .help = "The least important kind of line that is logged." },
	{ "extent_bytes", SETTING_SIZE, FIELD(settings, extent_bytes), BETWEEN(MIB, 16 * GIB),
	  .initial = "64MiB",
	  .help = "Unit in which memory and devices are given to slot sizes; a power of two." },
	{ "huge_pages", SETTING_CHOICE, FIELD(settings, huge_pages), .choices = "auto always never",
	  .initial = "auto",
	  .help = "Huge pages for the cpu tier; `always` refuses to start without them." },
	{ "numa", SETTING_TEXT, CHECK_NUMA, FIELD(settings, numa), .initial = "auto",
	  .help = "NUMA nodes on which the cpu tier's memory lies while they have room: `auto` those of the GPUs in "
		  "use, none without; `off` wherever the kernel takes it; else nodes, as 0,2-3." },
	{ "io", SETTING_CHOICE, FIELD(settings, io), .choices = "auto io_uring psync",
	  .initial = "auto",
	  .help = "How devices are spoken to; `auto` takes io_uring where the kernel allows it." },
	{ "queue_depth", SETTING_COUNT, FIELD(settings, queue_depth), BETWEEN(1, 1024),
	  .initial = "32", .help = "Reads and writes in the queue of each device at once." },
	{ "mills", SETTING_COUNT, FIELD(settings, mills), BETWEEN(1, 64), .zero_allowed = true,
	  .initial = "0", .help = "Threads for checksums and copies; 0 chooses from the CPUs." },
	{ "index_blocks_max", SETTING_COUNT, FIELD(settings, index_blocks_max),
	  BETWEEN(1024, UINT32_MAX / 2), .zero_allowed = true, .initial = "0",
	  .help = "Blocks that the index has room for; 0 computes it from the tiers and block_bytes_min." },
	{ "block_bytes_min", SETTING_SIZE, FIELD(settings, block_bytes_min), BETWEEN(4 * KIB, GIB),
	  .zero_allowed = true, .initial = "0",
	  .help = "The smallest block that the index is sized for, smaller ones are refused; 0 chooses 4KiB, "
		  "16KiB or 64KiB from the tiers' sizes." },
	{ "connections_max", SETTING_COUNT, FIELD(settings, connections_max), BETWEEN(1, 4096),
	  .initial = "256", .help = "Client connections at once; more are refused." },
	{ "spaces_max", SETTING_COUNT, FIELD(settings, spaces_max), BETWEEN(1, 65536),
	  .initial = "1024",
	  .help = "Spaces (model, layout and adapter together) that are known at once, an equal part a tenant; "
		  "beyond it one that no engine uses is given back with its blocks." },
	{ "leases_max", SETTING_COUNT, FIELD(settings, leases_max), BETWEEN(1, 1048576),
	  .initial = "4096", .help = "Leases at once; further lookups are answered without one." },
	{ "window_bytes", SETTING_SIZE, FIELD(settings, window_bytes), BETWEEN(MIB, 4 * GIB),
	  .initial = "64MiB",
	  .help = "Shared memory of each data connection, through which stores travel." },
	{ "batches_max", SETTING_COUNT, FIELD(settings, batches_max), BETWEEN(1, 1024),
	  .initial = "64", .help = "Store and load batches under way at once on one connection." },
	{ "load_window_blocks", SETTING_COUNT, FIELD(settings, load_window_blocks),
	  BETWEEN(1, 4096), .initial = "64",
	  .is_reloadable = true,
	  .help = "Blocks of one load batch that may be delivered and not yet released." },
	{ "lease_max", SETTING_DURATION, FIELD(settings, lease_us_max),
	  BETWEEN(SECOND / 10, 3600 * SECOND), .initial = "1m",
	  .is_reloadable = true,
	  .help = "The longest lease that is granted; longer wishes are cut to it." },
	{ "write_bytes_day_max", SETTING_SIZE, FIELD(settings, write_bytes_day_max),
	  BETWEEN(DAY_BYTES_LEAST, 1024 * TIB), .zero_allowed = true, .initial = "0",
	  .is_reloadable = true,
	  .help = "Bytes written to all devices a day, against wear; 0 for no limit." },
	{ "scrub_bytes_second", SETTING_SIZE, FIELD(settings, scrub_bytes_second),
	  BETWEEN(MIB, 16 * GIB), .zero_allowed = true, .initial = "16MiB",
	  .is_reloadable = true,
	  .help = "How fast blocks in both tiers are checked in the background while there is little else to do; "
		  "a tenth of it is had beside any load; 0 for not at all." },
	{ "scrub_interval", SETTING_DURATION, FIELD(settings, scrub_interval_us),
	  BETWEEN(SECOND, 8760 * 3600 * SECOND), .initial = "10m", .is_reloadable = true,
	  .help = "A round of these checks begins at most so often." },
	{ "readback_every", SETTING_COUNT, FIELD(settings, readback_every),
	  BETWEEN(1, 1000000000), .zero_allowed = true, .initial = "1024", .is_reloadable = true,
	  .help = "Of so many blocks written to nvme one is read back at once and compared; 0 for none." },
	{ "restart_wait", SETTING_DURATION, FIELD(settings, restart_wait_us),
	  BETWEEN(0, 600 * SECOND), .initial = "10s",
	  .help = "How long a start waits for an earlier daemon's I/O to end before it takes new memory." },
	{ "stall_max", SETTING_DURATION, FIELD(settings, stall_us_max),
	  BETWEEN(SECOND / 10, 600 * SECOND), .initial = "5s",
	  .is_reloadable = true,
	  .help = "A worker or thread that is silent for so long is stalled, and fenced or restarted." },
	{ "bypass", SETTING_CHOICE, FIELD(settings, bypass), .choices = "off on observe",
	  .initial = "off",
	  .is_reloadable = true,
	  .help = "`on` answers every lookup with a miss, `observe` counts what would have been hits; `kvtier bypass` "
		  "changes it until the next start." },
	{ "sandbox", SETTING_CHOICE, FIELD(settings, sandbox), .choices = "auto off enforce",
	  .initial = "auto",
	  .help = "`auto` takes from the daemon what it does not need, as far as the kernel can; `enforce` refuses to "
		  "start where something of it cannot be had." },
	{ "core_dumps", SETTING_BOOL, FIELD(settings, core_dumps), .initial = "false",
	  .help = "Let a crash write a core, as far as `ulimit -c` allows; blocks of the cache are never in it." },
	{ "gpus", SETTING_TEXT, CHECK_GPUS, FIELD(settings, gpus), .initial = "auto",
	  .help = "GPUs whose memory engines may lend: `auto` takes those of NVIDIA and AMD on the PCI bus with "
		  "their driver, `off` none, else VENDOR:BUS-ID with commas between them, as cuda:0000:17:00.0." },
	{ "gpu_library", SETTING_TEXT, CHECK_PATH_OR_NONE, FIELD(settings, gpu_library), .initial = "",
	  .help = "The GPU driver's library, where it has not the vendor's usual name or place "
		  "(libcuda.so.1, libamdhip64.so)." },
	{ "encryption", SETTING_CHOICE, FIELD(settings, encryption), .choices = "off ephemeral key_file",
	  .initial = "off",
	  .help = "AES-256-GCM of all that is written to nvme: `ephemeral` by a random key that ends with the "
		  "daemon, so a restart finds nothing there; `key_file` by each tenant's. Other blocks there are misses." },
	{ "encryption_buffer_bytes", SETTING_SIZE, FIELD(settings, encryption_buffer_bytes),
	  BETWEEN(64 * KIB, 16 * GIB), .zero_allowed = true, .initial = "0",
	  .help = "Pinned memory for enciphered blocks on their way to nvme; 0 chooses: 32MiB, or what the "
		  "largest block needs." },
	{ "inventory_listen", SETTING_TEXT, CHECK_LISTEN, FIELD(settings, inventory_listen), .initial = "",
	  .help = "Address and port at which routers are told which blocks this node has, by their route keys "
		  "(ZeroMQ PUB); empty: nobody is." },
	{ "inventory_ask_listen", SETTING_TEXT, CHECK_LISTEN, FIELD(settings, inventory_ask_listen), .initial = "",
	  .help = "Address and port for their questions, of what they missed or of all there is (ZeroMQ ROUTER); "
		  "empty: that of `inventory_listen`, its port plus 1." },
	{ "peer_listen", SETTING_TEXT, CHECK_LISTEN, FIELD(settings, peer_listen), .initial = "",
	  .help = "Address and port at which other nodes reach this one, which needs `peer_secret_file`; "
		  "empty: there are no other nodes." },
	{ "peer_address", SETTING_TEXT, CHECK_PEER_OR_NONE, FIELD(settings, peer_address), .initial = "",
	  .help = "How other nodes reach `peer_listen`, for tickets: kv-2:9470, 10.0.0.2:9470. Empty: `peer_listen` "
		  "itself; where that is no single address (0.0.0.0, [::]), no tickets are given out." },
	{ "peer_gives", SETTING_CHOICE, FIELD(settings, peer_gives), .choices = "cluster tickets",
	  .initial = "cluster",
	  .help = "To whom blocks are given: `cluster` to any node that knows the secret, `tickets` only to one that "
		  "comes with a ticket for them." },
	{ "peers_file", SETTING_TEXT, CHECK_PATH_OR_NONE, FIELD(settings, peers_file), .initial = "",
	  .help = "More `peers`: a node's NAME:PORT or ADDRESS:PORT a line, # begins a comment. Read again each second; who "
		  "is not named any more is let go of." },
	{ "peers_dns", SETTING_TEXT, CHECK_PEER_OR_NONE, FIELD(settings, peers_dns), .initial = "",
	  .help = "More `peers`: NAME:PORT, whose every address is a node, as of a headless Service: "
		  "kvtierd-peers.kvtier.svc:9470. Looked up again each `peers_dns_interval`." },
	{ "peers_dns_interval", SETTING_DURATION, FIELD(settings, peers_dns_interval_us),
	  BETWEEN(SECOND / 10, 3600 * SECOND), .initial = "10s",
	  .help = "How often `peers_dns` is looked up, a fifth more or less." },
	{ "peer_secret_file", SETTING_TEXT, CHECK_PATH_OR_NONE, FIELD(settings, peer_secret_file),
	  .initial = "",
	  .help = "What all nodes of a cluster know: a line of 64 hexadecimal digits (openssl rand -hex 32) a secret, "
		  "at most 4, the first proves, all are believed. Mode as of `key_file`. A reload reads it again." },
	{ "peer_transport", SETTING_CHOICE, FIELD(settings, peer_transport), .choices = "auto ucx tcp",
	  .initial = "auto",
	  .help = "How blocks go between nodes: `ucx` by UCX, on networks whose nodes are all trusted, `tcp` by sockets, "
		  "`auto` by UCX where both have RDMA devices, else by sockets." },
	{ "peer_encryption", SETTING_CHOICE, FIELD(settings, peer_encryption), .choices = "off on",
	  .initial = "off",
	  .help = "AES-256-GCM of blocks on their way between nodes; the same on all nodes." },
	{ "peer_tls_certificate", SETTING_TEXT, CHECK_PATH_OR_NONE,
	  FIELD(settings, peer_tls_certificate), .initial = "",
	  .help = "PEM file: TLS 1.3 for what nodes say to each other, besides the secret; with `peer_tls_key` and "
		  "`peer_tls_ca`, on all nodes or none." },
	{ "peer_tls_key", SETTING_TEXT, CHECK_PATH_OR_NONE, FIELD(settings, peer_tls_key),
	  .initial = "", .help = "PEM file of the certificate's key. Mode as of `key_file`." },
	{ "peer_tls_name", SETTING_TEXT, FIELD(settings, peer_tls_name), .initial = "",
	  .help = "A DNS name that the certificate of every other node must have, as *.kvtierd.kvtier.svc; empty: any "
		  "certificate of `peer_tls_ca`." },
	{ "peer_tls_ca", SETTING_TEXT, CHECK_PATH_OR_NONE, FIELD(settings, peer_tls_ca),
	  .initial = "", .help = "PEM file of who signs the certificates of other nodes." },
};
const unsigned settings_rows_count = COUNT_OF(settings_rows);
_Static_assert(COUNT_OF(settings_rows) <= SETTINGS_ORIGINS, "an origin for each row");

static const struct setting tenant_rows[] = {
	{ "name", SETTING_TEXT, CHECK_NAME, FIELD(tenant_settings, name), .initial = "default",
	  .help = "Name of the tenant and of its socket's folder; letters, digits, '-', '_', '.'." },
	{ "cpu_bytes", SETTING_SIZE, FIELD(tenant_settings, cpu_bytes), BETWEEN(MIB, 64 * TIB),
	  .is_required = true, .initial = "",
	  .help = "Host memory of the tenant, rounded down to whole extents." },
	{ "nvme_bytes", SETTING_SIZE, FIELD(tenant_settings, nvme_bytes), BETWEEN(MIB, 1024 * TIB),
	  .zero_allowed = true, .initial = "",
	  .help = "Share of the devices; without it, an equal part of what the others leave; 0 for none." },
	{ "cpu_file", SETTING_TEXT, CHECK_PATH_OR_NONE, FIELD(tenant_settings, cpu_file),
	  .initial = "",
	  .help = "A file on tmpfs or hugetlbfs for the host memory, which then survives a restart; never enciphered." },
	{ "key_file", SETTING_TEXT, CHECK_PATH_OR_NONE, FIELD(tenant_settings, key_file),
	  .initial = "",
	  .help = "For `encryption: key_file`: a line ID:HEX64 a key (openssl rand -hex 32), the newest first: it "
		  "writes, all read. Mode 0600, or 0440 with a group of the daemon's, as a Secret with fsGroup has. A reload reads it "
		  "again." },
};
_Static_assert(COUNT_OF(tenant_rows) <= SETTINGS_ITEM_ORIGINS, "an origin for each row");

static const struct setting device_rows[] = {
	{ "path", SETTING_TEXT, CHECK_PATH, FIELD(device_settings, path), .is_required = true,
	  .initial = "", .help = "A file (made when missing) or a raw block device." },
	{ "bytes", SETTING_SIZE, FIELD(device_settings, bytes), BETWEEN(MIB, 256 * TIB),
	  .zero_allowed = true, .initial = "",
	  .help = "Size of the file; a raw device may leave it out, which means all of it." },
	{ "raw_initialise", SETTING_BOOL, FIELD(device_settings, raw_initialise),
	  .initial = "false",
	  .help = "Write a superblock to a raw device that has none; what was on it is lost." },
};
_Static_assert(COUNT_OF(device_rows) <= SETTINGS_ITEM_ORIGINS, "an origin for each row");

static const struct setting peer_rows[] = {
	{ "address", SETTING_TEXT, CHECK_PEER, FIELD(peer_settings, address), .is_required = true,
	  .initial = "",
	  .help = "The `peer_listen` of another node, or a name for it: kv-2:9470, 10.0.0.2:9470, [fd00::2]:9470." },
};
_Static_assert(COUNT_OF(peer_rows) <= SETTINGS_ITEM_ORIGINS, "an origin for each row");

const struct setting_list settings_lists[] = {
	{ "tenants", tenant_rows, COUNT_OF(tenant_rows), offsetof(struct settings, tenants),
	  sizeof(struct tenant_settings), SETTINGS_TENANTS_MAX,
	  offsetof(struct settings, tenants_count), offsetof(struct tenant_settings, origins),
	  "Who shares the node, each with memory of its own; none given: one, called default, with 1GiB." },
	{ "nvme", device_rows, COUNT_OF(device_rows), offsetof(struct settings, devices),
	  sizeof(struct device_settings), SETTINGS_DEVICES_MAX,
	  offsetof(struct settings, devices_count), offsetof(struct device_settings, origins),
	  "Files and raw devices of the nvme tier; none given: no such tier." },
	{ "peers", peer_rows, COUNT_OF(peer_rows), offsetof(struct settings, peers),
	  sizeof(struct peer_settings), SETTINGS_PEERS_MAX, offsetof(struct settings, peers_count),
	  offsetof(struct peer_settings, origins),
	  "Other nodes that this one connects to; those that connect to it need not be among them." },
};
const unsigned settings_lists_count = COUNT_OF(settings_lists);
