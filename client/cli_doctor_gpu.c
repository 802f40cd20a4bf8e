/* client/cli_doctor_gpu.c: the GPUs of this machine: which there are, whether their driver opens,
 * and what the daemon has of them. */
#include "client/cli_doctor.h"

#include "transfer/device_gpu_list.h"
#include "transfer/gpu_names.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define DRIVER_MS_MAX 10000 /* the first open of a driver may take seconds */
#define DRIVER_ADVICE                                                                              \
	"engines push their blocks until then; give kvtierd the driver's library (gpu_library) and "  \
	"devices, in a container by the vendor's runtime, or set gpus: off"

static const char *const vendor_names[GPU_VENDORS] = { [GPU_CUDA] = "cuda", [GPU_HIP] = "rocm" };

/* ---- the driver, in a process that may crash or hang ---- */

struct driver_answer {
	int count; /* or a negative errno, with the reason */
	char text[sizeof(((struct error *)0)->text)];
};

static void driver_child(enum gpu_vendor vendor, const char *library, int fd)
{
	struct driver_answer answer = { 0 };
	struct gpu_bus_id bus_ids[GPUS_MAX];
	struct error error = { 0 };

	answer.count = gpu_bus_ids(vendor, library, bus_ids, (int)GPUS_MAX, &error);
	snprintf(answer.text, sizeof(answer.text), "%s", error.text);
	if (write(fd, &answer, sizeof(answer)) != (ssize_t)sizeof(answer))
		_exit(EXIT_FAILURE);
	_exit(EXIT_SUCCESS);
}

static int answer_wait(int fd, struct driver_answer *out_answer)
{
	struct pollfd waiting = { .fd = fd, .events = POLLIN };
	int ready = poll(&waiting, 1, DRIVER_MS_MAX);

	if (ready <= 0)
		return -ETIME;
	return read(fd, out_answer, sizeof(*out_answer)) == (ssize_t)sizeof(*out_answer) ? 0 : -EIO;
}

/* 0 with the answer; -ETIME: none came in time; -EIO: it crashed. */
static int driver_ask(enum gpu_vendor vendor, const char *library, struct driver_answer *out_answer)
{
	int ends[2], result;
	pid_t child;

	if (pipe(ends) < 0)
		return -errno;
	child = fork();
	if (child == 0)
		driver_child(vendor, library, ends[1]);
	close(ends[1]);
	result = child < 0 ? -errno : answer_wait(ends[0], out_answer);
	close(ends[0]);
	if (child > 0) {
		/* One that hangs in the kernel is left to it. */
		kill(child, SIGKILL);
		(void)waitpid(child, NULL, result == -ETIME ? WNOHANG : 0);
	}
	return result;
}

static void driver_check(struct doctor *doctor, enum gpu_vendor vendor, const char *library)
{
	struct driver_answer answer;
	int result = driver_ask(vendor, library[0] == '\0' ? NULL : library, &answer);
	const char *name = gpu_vendor_name(vendor);

	if (result == -ETIME)
		finding_add(doctor, "gpu-driver", FINDING_WARN, DRIVER_ADVICE,
			    "the %s driver did not answer within %d s", name, DRIVER_MS_MAX / 1000);
	else if (result < 0)
		finding_add(doctor, "gpu-driver", FINDING_WARN, DRIVER_ADVICE,
			    "the %s driver ended the process that opened it", name);
	else if (answer.count < 0)
		finding_add(doctor, "gpu-driver", FINDING_WARN, DRIVER_ADVICE, "%s", answer.text);
	else
		finding_add(doctor, "gpu-driver", answer.count > 0 ? FINDING_OK : FINDING_WARN,
			    DRIVER_ADVICE, "the %s driver opens, and shows %d GPUs", name,
			    answer.count);
}

/* ---- what the daemon has ---- */

static void gpu_check(struct doctor *doctor, const json_t *gpu)
{
	const char *state = cli_string(gpu, "state"), *reason = cli_string(gpu, "reason");
	double pinned = cli_number(gpu, "pinned_bytes"), arenas = cli_number(gpu, "arena_bytes");
	char a[CLI_UNIT_BYTES], b[CLI_UNIT_BYTES], id[64];

	snprintf(id, sizeof(id), "%.7s:%.23s", cli_string(gpu, "vendor"), cli_string(gpu, "bus_id"));
	if (strcmp(state, "ready") == 0 && pinned >= arenas)
		finding_add(doctor, "gpu", FINDING_OK, NULL, "%s (%s) is open, %s pinned", id,
			    cli_string(gpu, "name"), cli_bytes(pinned, a));
	else if (strcmp(state, "ready") == 0)
		finding_add(doctor, "gpu", FINDING_WARN,
			    "blocks beyond that are not copied; look for a limit of locked or pinned memory, or lower cpu_bytes",
			    "%s (%s): only %s of %s are pinned: %s", id, cli_string(gpu, "name"),
			    cli_bytes(pinned, a), cli_bytes(arenas, b), reason);
	else
		finding_add(doctor, "gpu", FINDING_WARN, DRIVER_ADVICE, "%s is not open (%s)%s%s", id,
			    state, reason[0] != '\0' ? ": " : "", reason);
}

static void found_check(struct doctor *doctor, const struct gpu_name *names, unsigned count)
{
	bool is_used = json_array_size(cli_get(doctor->stats, "gpus")) > 0;

	if (count == 0 && !is_used)
		finding_add(doctor, "gpu", FINDING_OK, NULL,
			    "no GPU with its vendor's driver is on the PCI bus");
	else if (doctor->stats != NULL && !is_used)
		finding_add(doctor, "gpu", FINDING_WARN,
			    "set gpus: auto and restart kvtierd; engines push their blocks until then",
			    "kvtierd uses none of %u GPUs here, %s:%s the first", count,
			    names[0].vendor, names[0].bus_id);
	else if (doctor->stats == NULL)
		finding_add(doctor, "gpu", FINDING_OK, NULL, "%u GPUs on the PCI bus, %s:%s the first",
			    count, names[0].vendor, names[0].bus_id);
}

void check_gpus(struct doctor *doctor)
{
	struct gpu_name names[GPUS_MAX];
	unsigned count = gpus_on_pci(GPU_PCI_FOLDER, names);
	const char *libraries[GPU_VENDORS] = { NULL };
	size_t i;
	json_t *gpu;

	found_check(doctor, names, count);
	for (unsigned vendor = 0; vendor < GPU_VENDORS; vendor++) {
		for (unsigned n = 0; n < count; n++)
			if (strcmp(names[n].vendor, vendor_names[vendor]) == 0)
				libraries[vendor] = "";
		json_array_foreach(cli_get(doctor->stats, "gpus"), i, gpu)
		{
			if (strcmp(cli_string(gpu, "vendor"), vendor_names[vendor]) == 0)
				libraries[vendor] = cli_string(gpu, "library");
		}
		if (libraries[vendor] != NULL)
			driver_check(doctor, (enum gpu_vendor)vendor, libraries[vendor]);
	}
	json_array_foreach(cli_get(doctor->stats, "gpus"), i, gpu)
	{
		gpu_check(doctor, gpu);
	}
}
