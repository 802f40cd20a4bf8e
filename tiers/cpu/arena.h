/*
 * tiers/cpu/arena.h: the host memory of one tenant: a sealed memfd, or a file on tmpfs/hugetlbfs
 * that outlives us.
 *
 * Layout: [first page: superblock, extent table copies and a canary: ARENA_HEAD_BYTES][units].
 * Offsets of slots count from the start of the units. Clients get read_fd, read-only. A memfd is
 * sealed: its size is fixed, and nobody, root included, writes to it, maps it writable or punches
 * holes into it but through our own mapping, made before the seal. One that is shared with our own
 * processes cannot have that last seal: then its mode keeps others from opening it for writing, but
 * root and who is as we are.
 *
 * The kernel may write into an arena after a kill -9 (reads of the dead daemon's rings). The lock
 * on the arena's file does not prove that these have ended, as no ring has this file registered:
 * the locks on the devices do. So devices are opened before a warm arena is trusted. Runs on: open,
 * close: any thread, before the loop starts and after it ended; the rest: the loop thread.
 */
#ifndef KVTIER_TIERS_CPU_ARENA_H
#define KVTIER_TIERS_CPU_ARENA_H

#include "base/error.h"
#include "tiers/nvme/nvme.h"
#include "transfer/slot_header.h"

#include <stdbool.h>
#include <stdint.h>

#define ARENA_HEAD_BYTES (2u << 20)
#define ARENA_CANARY_BYTES 64u

struct arena_config {
	const char *file; /* NULL or "": memfd */
	uint64_t bytes;   /* of the units area: a whole number of units */
	uint64_t unit_bytes;
	const char *huge_pages; /* "auto", "always", "never" */
	uint64_t
		lock_wait_us_max; /* how long to wait until an earlier daemon lets go of the file */
	const uint8_t *tenant_digest; /* 16 bytes; a file of another tenant is started anew */
	/* Processes that are handed `fd` map it writable, too: those that have a GPU. */
	bool is_shared;
	/* NUMA nodes for the pages, while they have room; 0: wherever the kernel takes them. */
	uint64_t nodes;
};

/* Where the pages lie, as seen at the start, where nodes were asked for. What a warm file's earlier
 * life has placed stays there. */
struct arena_nodes {
	uint64_t asked, found; /* masks; asked 0: nothing was asked, and all the rest is 0 */
	unsigned looked, near; /* samples of pages, and how many of them lie on what was asked */
	int result;            /* negative errno: not placed, or not known where */
};

struct arena {
	int fd;         /* ours, writable; never leaves the process */
	int read_fd;    /* read-only, for clients */
	uint8_t *start; /* of the whole mapping */
	uint8_t *units; /* start + ARENA_HEAD_BYTES */
	uint64_t bytes; /* of the units area */
	uint64_t unit_bytes;
	uint8_t id[DEVICE_ID_BYTES];
	bool is_warm;      /* the file held an arena of the same layout */
	char note[200];    /* "" or, for the log: why a file was started anew */
	const char *pages; /* for people: "4 KiB pages", "2 MiB pages (hugetlb)", "2 MiB pages
			      (collapsed)" */
	uint64_t sequence; /* of the extent table copy written last */
	struct arena_nodes nodes;
};

/*
 * May block: waits for the lock, touches pages. A file of another layout or tenant, or an
 * unreadable one, is started anew: unlinked and made again, never truncated, so that clients which
 * still map the old one read old bytes, which they check, and get no SIGBUS. It is not moved aside,
 * because on tmpfs that would keep its memory. -EBUSY: another daemon has the file beyond
 * lock_wait_us_max; the caller may go on with a memfd.
 */
must_check int arena_open(struct arena *arena, const struct arena_config *config,
			  struct error *error);
void arena_close(struct arena *arena);

static inline struct slot_header *arena_slot(const struct arena *arena, uint64_t offset)
{
	return (struct slot_header *)(arena->units + offset);
}

/* The extent table kept in the arena's head, so that a warm start can find the slots; two copies,
 * CRC, sequence. */
unsigned arena_extents_read(const struct arena *arena, struct nvme_extent *out_extents,
			    unsigned extents_max);
/* At most NVME_EXTENTS_MAX rows. A kill in the middle leaves the copy before. */
void arena_extents_write(struct arena *arena, const struct nvme_extent *extents, unsigned count);

/* 64 random bytes that a client reads through its own mapping to prove it sees our arena. */
const uint8_t *arena_canary(const struct arena *arena);
uint64_t arena_canary_offset(void); /* from the start of the file */

#endif
