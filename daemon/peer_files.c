/* daemon/peer_files.c: see peer_files.h. */
#include "daemon/peer_files.h"

#include "base/crypto.h"
#include "base/random.h"
#include "base/trusted_path.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEX_DIGITS (2u * PEER_SECRET_BYTES)
#define NODE_FILE "node-id"

/* All of a file that is no longer than `bytes_max`, and a NUL behind it. */
static int file_read(const char *path, bool is_secret, char *text, size_t bytes_max,
		     struct error *error)
{
	/* A pipe must not hang the start. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat status;
	ssize_t bytes;
	int result = 0;

	if (fd < 0)
		return error_set(error, -errno, "cannot open %.120s: %s", path, strerror(errno));
	if (is_secret)
		result = trusted_secret(fd, path, error);
	else if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode))
		result = error_set(error, -EINVAL, "%.120s is not a regular file", path);
	if (result < 0) {
		close(fd);
		return result;
	}
	bytes = pread(fd, text, bytes_max + 1, 0);
	if (bytes < 0)
		result = error_set(error, -errno, "cannot read %.120s: %s", path, strerror(errno));
	else if ((size_t)bytes > bytes_max)
		result = error_set(error, -EFBIG, "%.120s: has more than %zu bytes", path,
				   bytes_max);
	close(fd);
	if (result < 0)
		return result;
	text[bytes] = '\0';
	if (strlen(text) != (size_t)bytes)
		return error_set(error, -EINVAL, "%.120s: is not text", path);
	return 0;
}

static int hex_digit(char letter)
{
	static const char digits[] = "0123456789abcdef";
	const char *at = letter == '\0' ? NULL : strchr(digits, letter | 0x20);

	/* 0x20 makes letters small, and leaves digits. */
	return at == NULL || letter < '0' ? -1 : (int)(at - digits);
}

static bool hex_read(const char *text, uint8_t *out_bytes, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		int high = hex_digit(text[2 * i]);
		int low = high < 0 ? -1 : hex_digit(text[2 * i + 1]);

		if (low < 0)
			return false;
		out_bytes[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

/* NULL, or what is wrong with the line. */
static const char *secret_read(struct peer_secrets *secrets, const char *line, size_t length)
{
	uint8_t *key = secrets->keys[secrets->count % PEER_SECRETS_MAX];

	if (length != HEX_DIGITS || !hex_read(line, key, PEER_SECRET_BYTES))
		return "is not 64 hexadecimal digits, as openssl rand -hex 32 prints";
	if (secrets->count == PEER_SECRETS_MAX)
		return "is one secret too many: there are at most 4; remove the oldest";
	secrets->count++;
	return NULL;
}

static int secrets_parse(struct peer_secrets *secrets, const char *text, const char *path,
			 struct error *error)
{
	for (unsigned number = 1; *text != '\0'; number++) {
		size_t whole = strcspn(text, "\n"), length = whole;
		const char *complaint = NULL;

		while (length > 0 && strchr(" \t\r", text[length - 1]) != NULL)
			length--;
		if (length > 0 && *text != '#')
			complaint = secret_read(secrets, text, length);
		if (complaint != NULL)
			return error_set(error, -EINVAL, "%.120s:%u: %s", path, number, complaint);
		text += whole + (text[whole] == '\n');
	}
	if (secrets->count == 0)
		return error_set(error, -EINVAL,
				 "%.120s: has no secret; a line is 64 digits, as openssl rand -hex 32 prints",
				 path);
	return 0;
}

int peer_secrets_read(struct peer_secrets *secrets, const char *path, struct error *error)
{
	char text[PEER_SECRET_FILE_BYTES_MAX + 2];
	int result;

	memset(secrets, 0, sizeof(*secrets));
	result = file_read(path, true, text, PEER_SECRET_FILE_BYTES_MAX, error);
	if (result == 0)
		result = secrets_parse(secrets, text, path, error);
	crypto_wipe(text, sizeof(text));
	return result;
}

int peer_pem_read(const char *path, bool is_secret, char *text, struct error *error)
{
	int result = file_read(path, is_secret, text, PEER_PEM_BYTES_MAX - 2, error);

	if (result == 0 && strstr(text, "-----BEGIN ") == NULL)
		return error_set(error, -EINVAL, "%.120s: is not PEM, which begins with -----BEGIN",
				 path);
	return result;
}

/* ---- settings ---- */

static int secrets_check(const struct settings *settings, struct error *error)
{
	struct peer_secrets secrets;
	struct error reason;
	int result;

	if (settings->peer_secret_file[0] == '\0')
		return error_set(error, -EINVAL,
				 "peer_secret_file: is required by peer_listen: what other nodes know, too; make one "
				 "with openssl rand -hex 32");
	result = peer_secrets_read(&secrets, settings->peer_secret_file, &reason);
	crypto_wipe(&secrets, sizeof(secrets));
	return result == 0 ? 0 : error_set(error, result, "peer_secret_file: %s", reason.text);
}

static int pem_check(const char *key, const char *path, bool is_secret, struct error *error)
{
	char text[PEER_PEM_BYTES_MAX];
	struct error reason;
	int result = peer_pem_read(path, is_secret, text, &reason);

	crypto_wipe(text, sizeof(text));
	return result == 0 ? 0 : error_set(error, result, "%s: %s", key, reason.text);
}

static int tls_check(const struct settings *settings, struct error *error)
{
	const char *certificate = settings->peer_tls_certificate, *key = settings->peer_tls_key;
	const char *ca = settings->peer_tls_ca;
	int result;

	if (certificate[0] == '\0' && key[0] == '\0' && ca[0] == '\0')
		return 0;
	if (certificate[0] == '\0' || key[0] == '\0' || ca[0] == '\0')
		return error_set(error, -EINVAL,
				 "peer_tls_certificate, peer_tls_key, peer_tls_ca: TLS needs all three; %s is missing",
				 certificate[0] == '\0' ? "the certificate"
				 : key[0] == '\0'	? "the key"
							: "the CA");
	result = pem_check("peer_tls_certificate", certificate, false, error);
	if (result == 0)
		result = pem_check("peer_tls_key", key, true, error);
	return result == 0 ? pem_check("peer_tls_ca", ca, false, error) : result;
}

static int alone_check(const struct settings *settings, struct error *error)
{
	const char *useless = settings->peers_count > 0		? "peers"
			      : settings->peer_address[0]	? "peer_address"
			      : settings->peers_file[0]	? "peers_file"
			      : settings->peers_dns[0]	? "peers_dns"
			      : settings->peer_secret_file[0]	? "peer_secret_file"
			      : settings->peer_tls_certificate[0] ? "peer_tls_certificate"
			      : settings->peer_tls_key[0]	? "peer_tls_key"
			      : settings->peer_tls_ca[0]	? "peer_tls_ca"
								: NULL;

	if (useless == NULL)
		return 0;
	return error_set(error, -EINVAL,
			 "%s: is of no use without peer_listen; set it, such as 10.0.0.1:9470",
			 useless);
}

int peer_settings_check(const struct settings *settings, struct error *error)
{
	int result;

	if (settings->peer_listen[0] == '\0')
		return alone_check(settings, error);
	for (uint32_t i = 0; i < settings->peers_count; i++)
		for (uint32_t other = 0; other < i; other++)
			if (strcmp(settings->peers[i].address, settings->peers[other].address) == 0)
				return error_set(error, -EEXIST,
						 "peers.%u.address: %s is peers.%u already", i,
						 settings->peers[i].address, other);
	result = secrets_check(settings, error);
	return result == 0 ? tls_check(settings, error) : result;
}

/* ---- a list of nodes ---- */

/* The line without its comment and blanks around it. */
static size_t line_trim(const char **line, size_t length)
{
	const char *comment = memchr(*line, '#', length);

	if (comment != NULL)
		length = (size_t)(comment - *line);
	while (length > 0 && strchr(" \t\r", (*line)[length - 1]) != NULL)
		length--;
	while (length > 0 && strchr(" \t", **line) != NULL) {
		(*line)++;
		length--;
	}
	return length;
}

int peer_list_read(struct peer_list *list, const char *path, struct error *error)
{
	char *content = malloc(PEER_LIST_BYTES_MAX + 2), *out = list->text;
	int result = content == NULL
			     ? error_set(error, -ENOMEM, "no memory to read %.120s", path)
			     : file_read(path, false, content, PEER_LIST_BYTES_MAX, error);

	for (const char *at = content; result == 0 && *at != '\0';) {
		size_t whole = strcspn(at, "\n");
		const char *line = at;
		size_t length = line_trim(&line, whole);
		unsigned number = 1;
		char address[PEER_ADDRESS_TEXT_MAX];

		for (const char *before = content; before < at; before++)
			number += *before == '\n';
		snprintf(address, sizeof(address), "%.*s", (int)length, line);
		if (length >= sizeof(address) || (length > 0 && !settings_is_peer(address)))
			result = error_set(error, -EINVAL,
					   "%.120s:%u: is not NAME:PORT or ADDRESS:PORT, such as kv-2:9470",
					   path, number);
		else if (length > 0)
			out += sprintf(out, "%s\n", address);
		at += whole + (at[whole] == '\n');
	}
	*out = '\0';
	free(content);
	return result;
}

/* ---- who we are ---- */

static int id_read(const char *path, uint8_t out_id[PEER_NODE_BYTES], struct error *error)
{
	char text[2 * PEER_NODE_BYTES + 2];
	int result = file_read(path, true, text, 2 * PEER_NODE_BYTES, error);

	if (result == 0 &&
	    (strlen(text) != 2 * PEER_NODE_BYTES || !hex_read(text, out_id, PEER_NODE_BYTES)))
		return error_set(error, -EINVAL,
				 "%.120s: is not a node's id; remove it, and another is made", path);
	return result;
}

/* Whole or not at all: a kill in the middle leaves none. */
static int id_write(const char *path, const uint8_t id[PEER_NODE_BYTES], struct error *error)
{
	char text[2 * PEER_NODE_BYTES + 1], fresh[SETTINGS_PATH_BYTES + 32];
	int fd, result = 0;

	for (unsigned n = 0; n < PEER_NODE_BYTES; n++)
		snprintf(text + 2 * n, 3, "%02x", id[n]);
	snprintf(fresh, sizeof(fresh), "%s.new", path);
	(void)unlink(fresh);
	fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_set(error, -errno, "cannot make %.120s: %s%s", fresh, strerror(errno),
				 error_advice(-errno));
	if (write(fd, text, strlen(text)) != (ssize_t)strlen(text) || fsync(fd) < 0 ||
	    rename(fresh, path) < 0)
		result = error_set(error, errno == 0 ? -EIO : -errno, "cannot write %.120s: %s%s",
				   path, strerror(errno), error_advice(-errno));
	close(fd);
	return result;
}

int peer_node_id(const char *state_directory, uint8_t out_id[PEER_NODE_BYTES], struct error *error)
{
	char path[SETTINGS_PATH_BYTES + 16];

	snprintf(path, sizeof(path), "%s/" NODE_FILE, state_directory);
	if (access(path, F_OK) == 0)
		return id_read(path, out_id, error);
	random_system(out_id, PEER_NODE_BYTES);
	return id_write(path, out_id, error);
}
