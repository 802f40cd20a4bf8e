/*
 * transfer/gpu_names.h: which GPUs are meant: by a list of names, or by what the PCI bus shows with
 * a vendor's driver bound to it. No driver is opened.
 * Runs on: any thread; gpus_on_pci() may block.
 */
#ifndef KVTIER_TRANSFER_GPU_NAMES_H
#define KVTIER_TRANSFER_GPU_NAMES_H

#include "base/error.h"

#include <stdbool.h>

#define GPUS_MAX 16u
#define GPU_PCI_FOLDER "/sys/bus/pci/devices"
/* For people: what a list looks like. */
#define GPU_NAMES_EXAMPLE "cuda:0000:17:00.0,rocm:0000:c1:00.0"

struct gpu_name {
	char vendor[8];  /* "cuda", "rocm" */
	char bus_id[24]; /* "0000:17:00.0" */
};

/* "auto", "off" or names with commas between them. */
bool gpu_names_are_right(const char *text);
/* Those that `text` means, at most GPUS_MAX; `folder`: what `auto` looks at. Returns how many. */
unsigned gpu_names_read(const char *text, const char *folder, struct gpu_name *out_names);
/* Of which vendor's bound driver there are display devices and accelerators. */
unsigned gpus_on_pci(const char *folder, struct gpu_name *out_names);
/* Without regard to case, and to how many zeros a domain begins with. */
bool gpu_bus_ids_are_equal(const char *one, const char *other);

#endif
