/* tests/sim/kernel_files.c: the state directory's files, and what a power cut leaves of them. */
#include "tests/sim/kernel_files.h"
#include "tests/sim/kernel_wraps.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR_BYTES 512u
#define MEMORY_PREFIX "/memory/"

static struct file *files;

/* ---- files by name ---- */

struct file *file_at(const char *path)
{
	for (struct file *file = files; file != NULL; file = file->next)
		if (strcmp(file->path, path) == 0)
			return file;
	return NULL;
}

static void file_free_if_lost(struct file *file)
{
	struct file **link = &files;

	if (file->refs > 0 || file->path[0] != '\0' || file->durable_path[0] != '\0')
		return;
	while (*link != file)
		link = &(*link)->next;
	*link = file->next;
	memory_release(file->memory);
	__real_free(file->now.at);
	__real_free(file->durable.at);
	__real_free(file);
}

struct file *file_create(const char *path)
{
	struct file *file = __real_calloc(1, sizeof(*file));

	assert(file != NULL && strlen(path) < sizeof(file->path));
	strcpy(file->path, path);
	file->is_memory = strncmp(path, MEMORY_PREFIX, strlen(MEMORY_PREFIX)) == 0;
	file->next = files;
	files = file;
	return file;
}

void files_start(void)
{
	mappings_start();
	while (files != NULL) {
		files->path[0] = files->durable_path[0] = '\0';
		files->refs = 0;
		file_free_if_lost(files);
	}
}

void file_close(struct object *object)
{
	struct file *file = object->file;

	if (object->has_lock)
		file->is_locked = false;
	assert(file->refs > 0);
	file->refs--;
	file_free_if_lost(file);
}

int file_open(struct file *file)
{
	struct object *object = object_create(OBJECT_FILE);

	object->file = file;
	file->refs++;
	return fd_open(object);
}

bool file_remove(const char *path)
{
	struct file *file = file_at(path);

	if (file == NULL)
		return false;
	file->path[0] = '\0';
	if (file->is_memory)
		file->durable_path[0] = '\0';
	file_free_if_lost(file);
	return true;
}

/* ---- bytes ---- */

void bytes_grow(struct bytes *bytes, size_t count)
{
	if (count > bytes->room) {
		bytes->room = (count + 4095) / 4096 * 4096;
		bytes->at = __real_realloc(bytes->at, bytes->room);
		assert(bytes->at != NULL);
	}
	if (count > bytes->count) {
		memset(bytes->at + bytes->count, 0, count - bytes->count);
		bytes->count = count;
	}
}

void bytes_copy(struct bytes *target, const struct bytes *source)
{
	target->count = 0;
	bytes_grow(target, source->count);
	if (source->count > 0)
		memcpy(target->at, source->at, source->count);
}

/* Each sector is the old or the new one, and so is the length. */
static void bytes_tear(struct bytes *now, const struct bytes *durable)
{
	size_t count = kernel_below(2) == 0 ? now->count : durable->count;

	for (size_t at = 0; at < count; at += SECTOR_BYTES) {
		size_t end = at + SECTOR_BYTES < count ? at + SECTOR_BYTES : count;

		if (kernel_below(2) == 0)
			continue;
		bytes_grow(now, end);
		for (size_t i = at; i < end; i++)
			now->at[i] = i < durable->count ? durable->at[i] : 0;
	}
	now->count = count < now->count ? count : now->count;
}

void files_power_cut(void)
{
	/* A rename that was not synced happened in the whole folder, or not at all. */
	bool is_renamed = kernel_below(2) == 0;
	struct file *file = files, *next;

	for (; file != NULL; file = next) {
		next = file->next;
		assert(file->refs == 0);
		if (file->is_memory) {
			file->path[0] = file->durable_path[0] = '\0';
			file_free_if_lost(file);
			continue;
		}
		if (file->is_folder)
			continue;
		bytes_tear(&file->now, &file->durable);
		bytes_copy(&file->durable, &file->now);
		strcpy(is_renamed ? file->durable_path : file->path,
		       is_renamed ? file->path : file->durable_path);
		file_free_if_lost(file);
	}
}

bool file_damage(const char *path, bool is_cut)
{
	struct file *file = file_at(path);

	if (file == NULL || file->now.count == 0)
		return false;
	/* Of what was synced nothing is missing at the end, or everything: a file cut off where
	 * one of its records ends looks whole, and no disk makes one. */
	if (is_cut)
		file->now.count = kernel_below(2) == 0 ? 0 : 1;
	else
		file->now.at[kernel_below(file->now.count)] ^= (uint8_t)(1u << kernel_below(8));
	bytes_copy(&file->durable, &file->now);
	return true;
}

void file_sync(struct file *file)
{
	bytes_copy(&file->durable, &file->now);
}

void folder_sync(const char *folder)
{
	size_t length = strlen(folder);

	for (struct file *file = files, *next; file != NULL; file = next) {
		next = file->next;
		const char *path = file->path[0] != '\0' ? file->path : file->durable_path;
		if (strncmp(path, folder, length) != 0 || path[length] != '/')
			continue;
		strcpy(file->durable_path, file->path);
		file_free_if_lost(file);
	}
}

void file_put(const char *path, const char *text, size_t bytes)
{
	struct file *file = file_at(path);

	if (file == NULL)
		file = file_create(path);
	file->now.count = 0;
	bytes_grow(&file->now, bytes);
	if (bytes > 0)
		memcpy(file->now.at, text, bytes);
	file_sync(file);
	strcpy(file->durable_path, file->path);
}
