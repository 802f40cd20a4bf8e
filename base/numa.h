/*
 * base/numa.h: the NUMA nodes of memory: which are meant, where pages should lie, where they do.
 *
 * A set of nodes is a mask; kvtier knows the first NUMA_NODES_MAX. Runs on: any thread; all but
 * numa_nodes_read() may block. What places and looks needs libnuma at build time, and a container
 * that allows mbind and move_pages (CAP_SYS_NICE under Docker's and containerd's own profiles).
 */
#ifndef KVTIER_BASE_NUMA_H
#define KVTIER_BASE_NUMA_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NUMA_NODES_MAX 64u
#define NUMA_NODES_BYTES 200u /* of the text of any set */
#define NUMA_NODE_FOLDER "/sys/devices/system/node"

/* "0,2-3", as the kernel writes them. -EINVAL: it is not a list of nodes, or it is empty. */
must_check int numa_nodes_read(const char *text, uint64_t *out_nodes);
/* The same the other way; "" for none. Returns `text`. */
const char *numa_nodes_write(uint64_t nodes, char text[NUMA_NODES_BYTES]);
/* Those that have memory; 0: not known. `folder`: NUMA_NODE_FOLDER. */
uint64_t numa_nodes_with_memory(const char *folder);
/* That a PCI device is attached to; -1: not known, or the machine has but one. */
int numa_node_of_pci(const char *folder, const char *bus_id);

/* Whether numa_prefer() and numa_look() are built in. */
bool numa_is_built_in(void);
/*
 * Pages of a mapping that are touched from now on lie on one of the nodes while it has room, in
 * pieces that take turns where there are several, else anywhere. Pages that are there stay. `start`
 * and `bytes` are of whole huge pages, or of what is mapped. Returns 0 or a negative errno: -ENOSYS
 * where it is not built in.
 */
must_check int numa_prefer(void *start, uint64_t bytes, uint64_t nodes);
/* Samples of where pages lie, at most `samples_max`, evenly spread: how many of them on each node,
 * and how many there were. Negative errno. */
must_check int numa_look(const void *start, uint64_t bytes, unsigned samples_max,
			 unsigned out_counts[NUMA_NODES_MAX]);

/* Why numa_prefer() or numa_look() was not done, for people, with what would help. */
const char *numa_strerror(int result);

#endif
