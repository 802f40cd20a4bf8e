/* tests/sim/kernel_files.h: files and shared memory, for kernel_file*.c and kernel_memory.c. */
#ifndef KVTIER_TESTS_SIM_KERNEL_FILES_H
#define KVTIER_TESTS_SIM_KERNEL_FILES_H

#include "tests/sim/kernel_fds.h"

struct memory {
	uint8_t *bytes;
	size_t size;
	unsigned refs;
};

struct bytes {
	uint8_t *at;
	size_t count, room;
};

struct file {
	struct file *next;         /* of all that are there */
	char path[128];            /* "": it has no name (any more) */
	char durable_path[128];    /* the name that a power cut leaves; "": none */
	struct bytes now, durable; /* of a file on a disk */
	struct memory *memory;     /* of a file in memory */
	bool is_memory, is_folder, is_locked;
	unsigned refs; /* open descriptions */
};

/* Zeroed. */
struct memory *memory_create(size_t bytes);
void mappings_start(void);

struct file *file_at(const char *path);
struct file *file_create(const char *path);
/* A descriptor of the running process. */
int file_open(struct file *file);
void bytes_grow(struct bytes *bytes, size_t count);
void bytes_copy(struct bytes *target, const struct bytes *source);
/* What is there now survives a power cut; of a folder, the names in it. */
void file_sync(struct file *file);
/* A whole file, made when it is not there; at once on the disk. */
void file_put(const char *path, const char *text, size_t bytes);
void folder_sync(const char *folder);

#endif
