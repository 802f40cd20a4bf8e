/* tests/sim/keys.c: what a node's operator does about encryption: between its lives he turns it on
 * and off, and also during one he writes the tenants' key files anew. And what must not stand on
 * its disks. */
#include "tests/sim/kernel_files.h"
#include "tests/sim/model.h"
#include "tests/sim/node.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define KEY_HEX_DIGITS 64u
#define ALIGN_BYTES 64u

static const char *const mode_names[ENCRYPTIONS] = { "off", "ephemeral", "key_file" };

static void key_make(char *line, size_t line_bytes, unsigned number)
{
	size_t used = (size_t)snprintf(line, line_bytes, "key-%u:", number);

	assert(used + KEY_HEX_DIGITS + 2 <= line_bytes);
	for (unsigned i = 0; i < KEY_HEX_DIGITS; i++)
		line[used++] = "0123456789abcdef"[kernel_below(16)];
	line[used++] = '\n';
	line[used] = '\0';
}

/* The newest line is the first. With only that one left, what older keys wrote is lost. */
static void keys_rotate(struct node *node, unsigned tenant)
{
	struct node_keys *keys = &node->keys[tenant];
	unsigned kept = keys->count < NODE_KEYS_MAX ? keys->count : NODE_KEYS_MAX - 1;
	char text[NODE_KEYS_MAX * NODE_KEY_LINE_BYTES] = "";

	if (kernel_below(3) == 0)
		kept = 0;
	memmove(keys->lines[1], keys->lines[0], kept * NODE_KEY_LINE_BYTES);
	key_make(keys->lines[0], NODE_KEY_LINE_BYTES, keys->made++);
	keys->count = kept + 1;
	for (unsigned i = 0; i < keys->count; i++)
		strcat(text, keys->lines[i]);
	file_put(node->settings.tenants[tenant].key_file, text, strlen(text));
}

void node_keys_set(struct node *node)
{
	enum node_encryption mode = node->shape.encryption;

	if (node->shape.encryption_change_percent > kernel_below(100))
		mode = (enum node_encryption)kernel_below(ENCRYPTIONS);
	strcpy(node->settings.encryption, mode_names[mode]);
	node->was_in_clear = node->was_in_clear || mode == ENCRYPTION_OFF;
	for (unsigned i = 0; i < node->shape.tenants; i++) {
		char *path = node->settings.tenants[i].key_file;

		path[0] = '\0';
		if (mode != ENCRYPTION_KEY_FILE)
			continue;
		snprintf(path, SETTINGS_PATH_BYTES, "%s-keys/tenant-%u", node->folder, i);
		if (node->keys[i].count == 0 || kernel_below(100) < node->shape.key_change_percent)
			keys_rotate(node, i);
	}
}

void node_keys_change(struct node *node)
{
	for (unsigned i = 0; i < node->shape.tenants; i++)
		if (node->settings.tenants[i].key_file[0] != '\0' && kernel_below(2) == 0) {
			keys_rotate(node, i);
			sim_tell("keys: tenant %u has %u in its file", i, node->keys[i].count);
		}
}

bool node_is_in_clear(const struct node *node)
{
	if (node->was_in_clear)
		return false;
	for (unsigned i = 0; i < node->shape.devices; i++)
		for (uint64_t at = 0; at < node->disks[i]->bytes; at += ALIGN_BYTES)
			if (model_is_payload(node->disks[i]->now + at))
				return true;
	return false;
}
