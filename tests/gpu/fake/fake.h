/*
 * tests/gpu/fake/fake.h: a GPU driver without a GPU, under CUDA's names, in a library of its own
 * that the driver table opens by path. What the device would do, threads do: a stream is a FIFO
 * with a thread. Device memory is files on tmpfs that processes map, so what one exports another
 * really imports. Its addresses have a bit set that a CPU cannot follow; those that a device is
 * given for pinned host memory have another.
 */
#ifndef KVTIER_TESTS_GPU_FAKE_FAKE_H
#define KVTIER_TESTS_GPU_FAKE_FAKE_H

#include "base/list.h"
#include "tests/gpu/fake/control.h"
#include "transfer/copy.h"
#include "transfer/gpu_driver.h"
#include "transfer/kernels/kv_copy.h"

#include <pthread.h>
#include <stdbool.h>

#define EXPORTED __attribute__((visibility("default")))
/* What the table asks for, so that a fake call of another shape does not build. */
#define DECLARE(name, need, cuda, hip, arguments) EXPORTED int cuda arguments;
#define DECLARE_CUDA(name, need, cuda, arguments) EXPORTED int cuda arguments;
#define DECLARE_HIP(name, need, hip, arguments)
GPU_CALLS(DECLARE, DECLARE_CUDA, DECLARE_HIP)
#undef DECLARE
#undef DECLARE_CUDA
#undef DECLARE_HIP
/* An exporter's calls, which we do not make: an engine does. */
struct fake_share_properties {
	int type, handle_type, location_type, location;
	void *unused;
	unsigned char flags[8];
};
EXPORTED int cuIpcGetMemHandle(gpu_ipc *handle, gpu_address address);
EXPORTED int cuMemCreate(gpu_memory *memory, size_t bytes, const struct fake_share_properties *how,
			 unsigned long long flags);
EXPORTED int cuMemExportToShareableHandle(void *fd, gpu_memory memory, gpu_share type,
					  unsigned long long flags);
EXPORTED int cuPointerGetAttribute(void *value, int attribute, gpu_address address);

#define DEVICE_BIT (UINT64_C(1) << 56)
#define HOST_BIT (UINT64_C(1) << 57)
#define PAGE_BYTES 4096u

/* ---- control.c ---- */

extern struct fake_control *fake_control;
extern pthread_mutex_t fake_mutex; /* of all lists below; held for short */
extern pthread_cond_t fake_changed; /* an op ended */
int fake_control_open(void);
/* "KVTIER_FAKE_GPU/name". */
void fake_path(char *path, size_t bytes, const char *name);
/* Counts a call; the error with which it must fail, or 0. `needs_context`: 201 without one. */
int fake_enter(enum fake_call call, bool needs_context);
/* For tests that do not have the page's layout. */
EXPORTED uint64_t fake_misuses(void);
void fake_poison(int error);
bool fake_is_poisoned(void);
bool fake_is_leaving(void); /* the process ends: streams let go */
/* A short sleep, between two looks at what another process or thread will change. */
void fake_pause(void);

/* ---- context.c ---- */

bool fake_has_context(void);

/* ---- memory.c ---- */

enum mapping_kind { MAPPING_OWN, MAPPING_IPC, MAPPING_RANGE, MAPPING_HOST };
struct mapping {
	enum mapping_kind kind;
	uint64_t id;       /* of the allocation */
	uint8_t *memory;   /* where the CPU finds it */
	uint64_t bytes;
	unsigned opens;    /* of an import */
	bool is_usable;    /* a range: access was given */
	struct list_node link;
};
extern struct list fake_mappings;
/* The mapping that has all of [memory, +bytes), or NULL. Under the mutex. */
struct mapping *fake_mapping_of(const void *memory, uint64_t bytes, bool host);
/* Device memory as a CPU address; NULL: not all of it is ours to use. Under the mutex. */
uint8_t *fake_device_memory(uint64_t address, uint64_t bytes);
bool fake_is_pinned(const void *memory, uint64_t bytes);
struct mapping *fake_mapping_add(enum mapping_kind kind, uint64_t id, uint8_t *memory,
				 uint64_t bytes);
void fake_mapping_drop(struct mapping *mapping);
/* Objects of a context that ends; how many there were. */
unsigned fake_memory_end(void);

/* ---- table.c: who uses which allocation, over all processes ---- */

/* This process lives, from now on. False: it cannot be told to others. */
bool fake_table_enter(void);
uint64_t fake_table_new(uint64_t bytes); /* 0: no room */
bool fake_table_hold(uint64_t id);       /* false: it has gone */
/* True: nobody has it any more. */
bool fake_table_release(uint64_t id);
EXPORTED uint64_t fake_table_bytes(void);

/* ---- share.c ---- */

/* A new file of device memory, mapped shared; NULL: cannot be had. */
uint8_t *fake_file_map(uint64_t id, uint64_t bytes, bool create);
unsigned fake_share_end(void);

/* ---- stream.c ---- */

enum op_kind { OP_COPY, OP_LAUNCH, OP_RECORD, OP_WAIT, OP_WRITE };
struct event {
	uint64_t recorded, done;
	unsigned holds; /* the caller's, and each op's */
};
struct op {
	enum op_kind kind;
	enum copy_direction direction;
	uint8_t *target;
	const uint8_t *source;
	uint64_t bytes, rows, target_pitch, source_pitch;
	struct event *event;
	uint64_t *word;
	uint64_t value;
	struct kv_copy launch;
	bool *out_done; /* of a caller who waits */
	struct list_node link;
};
/* Queues a copy of `op`; with `wait`: returns when it is done. */
void fake_queue(gpu_stream stream, const struct op *op, bool wait);
/* Waits until nothing queued touches the memory. True: something did. Under the mutex. */
bool fake_wait_for_memory(const uint8_t *memory, uint64_t bytes);
/* Lets all streams and events of the process go; how many there were. */
unsigned fake_streams_end(void);

/* ---- copy.c ---- */

/* Does what `op` says; runs on a stream's thread, without the mutex. */
void fake_op_run(struct op *op);
/* Copies as a batch does, by whatever call. */
int fake_batch(gpu_address *targets, gpu_address *sources, size_t *bytes, size_t count,
	       gpu_stream stream);

#endif
