/* client/cli_verify.c: `kvtier verify` is `kvtierd --verify`, which knows the tiers. */
#include "client/cli.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DAEMON "kvtierd"

void cli_find_daemon(char *path, size_t path_bytes)
{
	ssize_t length = readlink("/proc/self/exe", path, path_bytes - sizeof("/" DAEMON));
	char *slash;

	path[length > 0 ? length : 0] = '\0';
	slash = strrchr(path, '/');
	if (slash != NULL)
		strcpy(slash + 1, DAEMON);
	if (slash == NULL || access(path, X_OK) < 0)
		path[0] = '\0';
}

enum cli_exit cli_verify_run(int count, char **words, FILE *error)
{
	char path[PATH_MAX];
	char **arguments = calloc((size_t)count + 3, sizeof(*arguments));

	if (arguments == NULL) {
		fprintf(error, "kvtier: no memory\n");
		return CLI_UNREACHED;
	}
	arguments[0] = DAEMON;
	arguments[1] = "--verify";
	memcpy(arguments + 2, words, (size_t)count * sizeof(*words));
	cli_find_daemon(path, sizeof(path));
	if (path[0] != '\0')
		execv(path, arguments);
	else
		execvp(DAEMON, arguments);
	fprintf(error, "kvtier: verify is done by kvtierd, which is neither beside this program nor in PATH (%s)\n",
		strerror(errno));
	free(arguments);
	return CLI_UNREACHED;
}

/* Only reached behind options of this command, which kvtierd does not have. */
enum cli_exit cli_verify(struct cli *cli)
{
	return cli_usage_error(cli, "verify comes first, before all options; right is: kvtier verify --config FILE");
}
