/*
 * client/cli_doctor.h: doctor's insides: its checks, and how they say what they found.
 */
#ifndef KVTIER_CLIENT_CLI_DOCTOR_H
#define KVTIER_CLIENT_CLI_DOCTOR_H

#include "client/cli.h"

#include <sys/types.h>

enum finding_level { FINDING_OK, FINDING_WARN, FINDING_FAIL };

struct doctor {
	struct cli *cli;
	json_t *findings;
	json_t *stats; /* of the daemon; NULL: it was not reached */
	pid_t daemon;  /* 0: not known */
	bool has_failed;
};

/* `advice` is said where it is not ok. */
__attribute__((format(printf, 5, 6))) void finding_add(struct doctor *doctor, const char *check,
							enum finding_level level,
							const char *advice, const char *format,
							...);
/* The first line of a file, without its end. False: it cannot be read. */
bool doctor_read(const char *path, char *text, size_t bytes);
/* Of the daemon if it is there and may be looked at, else of this process: /proc/.../NAME. */
void doctor_proc_path(const struct doctor *doctor, const char *name, char *path, size_t bytes);

/* cli_doctor_node.c: what the running daemon has, against what it was told to use. */
void check_disks(struct doctor *doctor);
void check_limits(struct doctor *doctor);
void check_memory(struct doctor *doctor);
void check_seccomp(struct doctor *doctor);
void check_versions(struct doctor *doctor);

/* cli_doctor_gpu.c: this machine's GPUs, and what the daemon has of them. */
void check_gpus(struct doctor *doctor);

/* cli_doctor_numa.c: on which NUMA nodes memory, GPUs and the daemon are. */
void check_numa(struct doctor *doctor);

/* cli_doctor_state.c: what the running daemon says of itself. */
void check_encryption(struct doctor *doctor);
void check_parts(struct doctor *doctor);
void check_sandbox(struct doctor *doctor);

#endif
