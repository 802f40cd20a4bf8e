/*
 * daemon/peer_files.h: what a node knows of itself and of its cluster by files: secrets, PEM files,
 * its id. All that is read from them is secret, and stands in no message.
 * Runs on: main, before any thread.
 */
#ifndef KVTIER_DAEMON_PEER_FILES_H
#define KVTIER_DAEMON_PEER_FILES_H

#include "base/error.h"
#include "daemon/settings.h"
#include "tiers/peer/peer_messages.h"

#define PEER_SECRET_FILE_BYTES_MAX 4096u

struct peer_secrets {
	unsigned count;
	uint8_t keys[PEER_SECRETS_MAX][PEER_SECRET_BYTES];
};

/* The caller wipes it. The error says what to do, with the line where there is one. */
must_check int peer_secrets_read(struct peer_secrets *secrets, const char *path,
				 struct error *error);
/* `text` has room for PEER_PEM_BYTES_MAX. `is_secret`: nobody else may read the file. */
must_check int peer_pem_read(const char *path, bool is_secret, char *text, struct error *error);
/* Nodes, one a line, without comments and blanks. */
#define PEER_LIST_BYTES_MAX 65536u
struct peer_list {
	char text[PEER_LIST_BYTES_MAX + 1];
};

/* -EINVAL: a line that is no address, with its number. May block. */
must_check int peer_list_read(struct peer_list *list, const char *path, struct error *error);
/* For checking settings: all that peers need is there, fits together and can be read. */
must_check int peer_settings_check(const struct settings *settings, struct error *error);
/* The state directory's id, the same in each life; made where there is none. */
must_check int peer_node_id(const char *state_directory, uint8_t out_id[PEER_NODE_BYTES],
			    struct error *error);

#endif
