/*
 * tests/gpu/device_rig.h: a device over the fake driver, a machine of its own for each test
 * program, and an engine's stand-in: this program again, as another process.
 */
#ifndef KVTIER_TESTS_GPU_DEVICE_RIG_H
#define KVTIER_TESTS_GPU_DEVICE_RIG_H

#include "tests/gpu/fake/control.h"
#include "transfer/device.h"

#include <sys/types.h>

#define RIG_HOST_BYTES (UINT64_C(4) << 20)
#define RIG_DEVICE_BYTES (UINT64_C(8) << 20)
#define RIG_TRIES_MAX 200000u

/* The fake driver's path, under CUDA's names or HIP's; and its control page, which all tests of the
 * program share. */
const char *rig_library(void);
const char *rig_library_rocm(void);
extern struct fake_control *rig_control;
int rig_machine_open(void **state);  /* a cmocka group's setup */
int rig_machine_close(void **state);
int rig_machine_again(void); /* in a process that a test started: the same machine */
void rig_control_reset(void);
/* Of the machine's devices: what allocations hold, and how many there are. */
uint64_t rig_memory_used(void);

struct rig {
	struct device device;
	struct device_memory memory; /* RIG_DEVICE_BYTES */
	uint8_t *host;               /* RIG_HOST_BYTES, pinned */
	struct error error;
};

struct device_config rig_config(void);
/* Opens and pins; what is wrong ends the test. */
void rig_init(struct rig *rig, const struct device_ops *ops);
/* Checks also that the driver has nothing left of ours. */
void rig_finish(struct rig *rig);
/* The CPU's view of the device's memory at `offset`. */
uint8_t *rig_peek(const struct rig *rig, uint64_t offset);
/* mark_check() until it is not 0. */
int rig_wait(struct rig *rig, uint32_t mark);
/* The byte that stands at `position` of what was made from `seed`. */
uint8_t rig_byte(uint64_t seed, uint64_t position);
void rig_fill(uint8_t *memory, uint64_t bytes, uint64_t seed);
/* Where the first byte lies that is not rig_fill()'s; `bytes`: nowhere. */
uint64_t rig_differs(const uint8_t *memory, uint64_t bytes, uint64_t seed);

/* ---- the engine's stand-in ---- */

#define ENGINE_BYTES (UINT64_C(3) << 20)
#define ENGINE_SEGMENTS 3u
#define ENGINE_SEGMENT_BYTES (UINT64_C(1) << 20)
#define ENGINE_SEED 77u
#define ENGINE_SEGMENT_SEED 88u
#define ENGINE_NEW_SEED 99u

struct engine {
	pid_t process;
	int socket;
	struct gpu_ipc_handle handle; /* of ENGINE_BYTES, filled with ENGINE_SEED */
	int fds[ENGINE_SEGMENTS];     /* of memory that is filled with ENGINE_SEGMENT_SEED + n */
};

void engine_start(struct engine *engine);
/* Whether all it lent holds what ENGINE_NEW_SEED makes, by its own copy through its own driver. */
bool engine_has_new(struct engine *engine);
/* The engine writes its first word, as its stream does behind a step. */
void engine_write_word(struct engine *engine, uint64_t value);
/* It frees what it lent, and ends. */
void engine_stop(struct engine *engine);
void engine_kill(struct engine *engine);
/* main() of the stand-in. */
int engine_main(int socket);

#endif
