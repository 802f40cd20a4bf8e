/* tests/gpu/device_rig.c: see device_rig.h. */
#include "tests/gpu/device_rig.h"
#include "tests/gpu/fake/fake.h"

#include <fcntl.h>
#include <glob.h>
#include <libgen.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

struct fake_control *rig_control;
static char folder[64];
static char image[] = "the fake driver takes any image";

static const char *beside(const char *name)
{
	static char path[512];
	char program[400];
	ssize_t length = readlink("/proc/self/exe", program, sizeof(program) - 1);

	assert_true(length > 0);
	program[length] = '\0';
	snprintf(path, sizeof(path), "%s/%s", dirname(program), name);
	return path;
}

const char *rig_library(void)
{
	return beside("fake_driver.so");
}

const char *rig_library_rocm(void)
{
	return beside("fake_rocm.so");
}

int rig_machine_again(void)
{
	char path[128];
	void *memory;
	int fd;

	snprintf(path, sizeof(path), "%s/" FAKE_CONTROL_FILE, getenv(FAKE_ENVIRONMENT));
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, sizeof(*rig_control)) < 0)
		return -1;
	memory = mmap(NULL, sizeof(*rig_control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	rig_control = memory;
	return memory == MAP_FAILED ? -1 : 0;
}

int rig_machine_open(void **state)
{
	(void)state;
	snprintf(folder, sizeof(folder), "/dev/shm/kvtier-gpu-XXXXXX");
	if (mkdtemp(folder) == NULL)
		return -1;
	setenv(FAKE_ENVIRONMENT, folder, 1);
	return rig_machine_again();
}

/* What GPUs' processes have kept for their next start. */
static void costs_remove(void)
{
	char pattern[128];
	glob_t found;

	snprintf(pattern, sizeof(pattern), "%s/costs-*", folder);
	if (glob(pattern, 0, NULL, &found) != 0)
		return;
	for (size_t n = 0; n < found.gl_pathc; n++)
		unlink(found.gl_pathv[n]);
	globfree(&found);
}

int rig_machine_close(void **state)
{
	char path[128];

	(void)state;
	costs_remove();
	snprintf(path, sizeof(path), "%s/" FAKE_CONTROL_FILE, folder);
	unlink(path);
	snprintf(path, sizeof(path), "%s/" FAKE_PROCESSES_FILE, folder);
	unlink(path);
	munmap(rig_control, sizeof(*rig_control));
	return rmdir(folder); /* all of the driver's memory has gone from it */
}

void rig_control_reset(void)
{
	assert_int_equal(rig_memory_used(), 0);
	memset(rig_control, 0, sizeof(*rig_control));
}

uint64_t rig_memory_used(void)
{
	uint64_t bytes = 0;

	for (unsigned n = 0; n < FAKE_ALLOCATIONS_MAX; n++)
		if (rig_control->allocations[n].id != 0)
			bytes += rig_control->allocations[n].bytes;
	return bytes;
}

struct device_config rig_config(void)
{
	return (struct device_config){ .bus_id = FAKE_BUS_ID_0, .library = rig_library(),
				       .kernel_image = image, .kernel_blocks = 3 };
}

void rig_init(struct rig *rig, const struct device_ops *ops)
{
	const struct device_config config = rig_config();

	rig_control_reset();
	*rig = (struct rig){ 0 };
	rig->host = mmap(NULL, RIG_HOST_BYTES, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(rig->host != MAP_FAILED);
	if (device_open(&rig->device, ops, &config, &rig->error) < 0 ||
	    device_pin(&rig->device, rig->host, RIG_HOST_BYTES, &rig->error) < 0 ||
	    device_memory_open(&rig->device, RIG_DEVICE_BYTES, &rig->memory, &rig->error) < 0)
		fail_msg("%s", rig->error.text);
}

void rig_finish(struct rig *rig)
{
	device_close(&rig->device);
	munmap(rig->host, RIG_HOST_BYTES);
	assert_int_equal(rig_control->left_behind, 0);
	assert_int_equal(rig_control->misuses, 0);
	assert_int_equal(rig_control->contexts, 0);
}

uint8_t *rig_peek(const struct rig *rig, uint64_t offset)
{
	return (uint8_t *)((rig->memory.address & ~DEVICE_BIT) + offset);
}

int rig_wait(struct rig *rig, uint32_t mark)
{
	const struct timespec pause = { .tv_nsec = 20000 };
	int result = 0;

	for (unsigned tries = 0; result == 0 && tries < RIG_TRIES_MAX; tries++) {
		result = device_mark_check(&rig->device, mark, &rig->error);
		if (result == 0)
			nanosleep(&pause, NULL);
	}
	return result;
}

uint8_t rig_byte(uint64_t seed, uint64_t position)
{
	uint64_t word = (seed << 40 ^ position >> 3) * UINT64_C(0x9e3779b97f4a7c15);

	word ^= word >> 29;
	return (uint8_t)(word >> 8 * (position & 7));
}

void rig_fill(uint8_t *memory, uint64_t bytes, uint64_t seed)
{
	for (uint64_t n = 0; n < bytes; n++)
		memory[n] = rig_byte(seed, n);
}

uint64_t rig_differs(const uint8_t *memory, uint64_t bytes, uint64_t seed)
{
	uint64_t n = 0;

	while (n < bytes && memory[n] == rig_byte(seed, n))
		n++;
	return n;
}
