/* daemon/keyring.c: reads key files and derives what enciphers. */
#include "daemon/keyring.h"

#include "base/random.h"
#include "base/trusted_path.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEX_DIGITS (2u * CRYPTO_KEY_BYTES)
#define TENANT_BYTES_MAX 64u

static const char name_letters[] =
	"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";

static int file_check(int fd, const char *path, struct error *error)
{
	struct stat status;

	int result = trusted_secret(fd, path, error);

	if (result < 0)
		return result;
	if (fstat(fd, &status) < 0)
		return error_set(error, -errno, "%.120s: %s", path, strerror(errno));
	if (status.st_size > KEYRING_FILE_BYTES_MAX)
		return error_set(error, -EFBIG, "%.120s: a key file has at most %u bytes", path,
				 KEYRING_FILE_BYTES_MAX);
	return 0;
}

static int file_read(const char *path, char file[KEYRING_FILE_BYTES_MAX + 1],
		     struct error *error)
{
	/* A pipe must not hang the start. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t bytes = 0;
	int result = 0;

	if (fd < 0)
		return error_set(error, -errno, "cannot open the key file %.120s: %s", path,
				 strerror(errno));
	result = file_check(fd, path, error);
	if (result == 0)
		bytes = pread(fd, file, KEYRING_FILE_BYTES_MAX, 0);
	if (bytes < 0)
		result = error_set(error, -errno, "cannot read the key file %.120s: %s", path,
				   strerror(errno));
	close(fd);
	if (result < 0)
		return result;
	/* The memory was zeroed, so the text ends. */
	if (strlen(file) != (size_t)bytes)
		return error_set(error, -EINVAL, "%.120s: a key file is text, a line ID:HEX64 a key",
				 path);
	return 0;
}

static int hex_digit(char letter)
{
	if (letter >= '0' && letter <= '9')
		return letter - '0';
	if (letter >= 'a' && letter <= 'f')
		return letter - 'a' + 10;
	return letter >= 'A' && letter <= 'F' ? letter - 'A' + 10 : -1;
}

static bool hex_read(const char *text, size_t length, uint8_t out_bytes[CRYPTO_KEY_BYTES])
{
	if (length != HEX_DIGITS)
		return false;
	for (unsigned i = 0; i < CRYPTO_KEY_BYTES; i++) {
		int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		out_bytes[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

/* Length-prefixed, so that no two pairs of names give the same bytes. */
static void data_key_derive(struct slot_key *key, const char *tenant, const char *name)
{
	static const char salt[] = "kvtier/data-key/1";
	uint8_t info[2 + TENANT_BYTES_MAX + KEYRING_NAME_BYTES];
	size_t tenant_bytes = strnlen(tenant, TENANT_BYTES_MAX), name_bytes = strlen(name);
	uint8_t derived[CRYPTO_KEY_BYTES];

	info[0] = (uint8_t)tenant_bytes;
	memcpy(info + 1, tenant, tenant_bytes);
	info[1 + tenant_bytes] = (uint8_t)name_bytes;
	memcpy(info + 2 + tenant_bytes, name, name_bytes);
	crypto_derive((struct crypto_bytes){ key->bytes, sizeof(key->bytes) },
		      (struct crypto_bytes){ salt, sizeof(salt) - 1 },
		      (struct crypto_bytes){ info, 2 + tenant_bytes + name_bytes }, derived,
		      sizeof(derived));
	memcpy(key->bytes, derived, sizeof(derived));
	crypto_wipe(derived, sizeof(derived));
	slot_key_identify(key);
}

/* NULL, or what is wrong with the line, which begins with no blank and has `length` characters. */
static const char *line_read(struct keyring *keyring, const char *line, size_t length,
			     const char *tenant)
{
	size_t name_bytes = strspn(line, name_letters);
	unsigned number = keyring->count;
	struct slot_key *key;

	if (number == KEYRING_KEYS_MAX)
		return "more than 16 keys: remove the oldest, whose blocks are misses then";
	key = &keyring->keys[number];
	if (name_bytes == 0 || name_bytes >= length || line[name_bytes] != ':')
		return "not ID:HEX64, where ID has letters, digits, '-', '_', '.'";
	if (name_bytes >= KEYRING_NAME_BYTES)
		return "the ID is longer than 32 characters";
	if (!hex_read(line + name_bytes + 1, length - name_bytes - 1, key->bytes))
		return "behind ID: a key is 64 hexadecimal digits, as openssl rand -hex 32 prints";
	memcpy(keyring->names[number], line, name_bytes);
	for (unsigned i = 0; i < number; i++)
		if (strcmp(keyring->names[i], keyring->names[number]) == 0)
			return "this ID stands above already";
	data_key_derive(key, tenant, keyring->names[number]);
	if (keyring_find(keyring, key->id) != NULL)
		return "this key cannot stand beside one above: make another";
	keyring->count++;
	return NULL;
}

int keyring_read_text(struct keyring *keyring, const char *text, const char *path,
		      const char *tenant, struct error *error)
{
	const char *line = text;

	random_system(keyring->life, sizeof(keyring->life));
	for (unsigned number = 1; *line != '\0'; number++) {
		size_t whole = strcspn(line, "\n"), blanks = strspn(line, " \t");
		const char *begin = line + (blanks < whole ? blanks : whole);
		size_t length = whole - (size_t)(begin - line);
		const char *complaint = NULL;

		while (length > 0 && strchr(" \t\r", begin[length - 1]) != NULL)
			length--;
		if (length > 0 && *begin != '#')
			complaint = line_read(keyring, begin, length, tenant);
		if (complaint != NULL)
			return error_set(error, -EINVAL, "%.120s:%u: %s", path, number, complaint);
		line += whole + (line[whole] == '\n');
	}
	if (keyring->count == 0)
		return error_set(error, -EINVAL,
				 "%.120s: has no key; a line is ID:HEX64, 64 digits as openssl rand -hex 32 prints",
				 path);
	return 0;
}

int keyring_read(struct keyring *keyring, const char *path, const char *tenant,
		 struct error *error)
{
	int result = file_read(path, keyring->file, error);

	if (result == 0)
		result = keyring_read_text(keyring, keyring->file, path, tenant, error);
	crypto_wipe(keyring->file, sizeof(keyring->file));
	return result;
}

void keyring_random(struct keyring *keyring)
{
	random_system(keyring->keys[0].bytes, sizeof(keyring->keys[0].bytes));
	random_system(keyring->life, sizeof(keyring->life));
	slot_key_identify(&keyring->keys[0]);
	strcpy(keyring->names[0], "ephemeral");
	keyring->count = 1;
}

int keyring_check(const char *path, struct error *error)
{
	void *memory = NULL;
	int result = crypto_memory_create(&memory, sizeof(struct keyring), error);

	if (result == 0)
		result = keyring_read(memory, path, "check", error);
	crypto_memory_destroy(memory, sizeof(struct keyring));
	return result;
}

const struct slot_key *keyring_find(const struct keyring *keyring, uint32_t key_id)
{
	for (unsigned i = 0; i < keyring->count; i++)
		if (keyring->keys[i].id == key_id)
			return &keyring->keys[i];
	return NULL;
}

bool keyring_is_same(const struct keyring *keyring, const struct keyring *other)
{
	if (keyring->count != other->count)
		return false;
	for (unsigned i = 0; i < keyring->count; i++)
		if (keyring->keys[i].id != other->keys[i].id ||
		    memcmp(keyring->keys[i].bytes, other->keys[i].bytes, CRYPTO_KEY_BYTES) != 0)
			return false;
	return true;
}

void keyring_list(const struct keyring *keyring, char *text, size_t text_bytes)
{
	size_t used = 0;

	text[0] = '\0';
	for (unsigned i = 0; i < keyring->count && used < text_bytes; i++)
		used += (size_t)snprintf(text + used, text_bytes - used, "%s%s", i > 0 ? " " : "",
					 keyring->names[i]);
}

const struct slot_key *keyring_newest(const struct keyring *keyring)
{
	return &keyring->keys[0];
}

struct slot_nonce keyring_nonce(struct keyring *keyring)
{
	return slot_nonce_make(keyring->life, keyring->nonces++);
}
