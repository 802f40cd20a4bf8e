/* tests/docs/describe.c: prints what is generated from tables (docs/CONFIG.md, docs/CLI.md and so
 * on) without starting anything. */
#include "client/cli.h"
#include "daemon/settings.h"
#include "daemon/settings_describe.h"

#include <string.h>

int main(int arguments_count, char **arguments)
{
	if (arguments_count == 3 && strcmp(arguments[1], "cli") == 0 &&
	    cli_describe(arguments[2], stdout))
		return 0;
	if (arguments_count == 2 && settings_describe(arguments[1], stdout) == 0)
		return 0;
	fprintf(stderr, "usage: describe one of: " SETTINGS_FORMS "; or: cli man|markdown|bash|zsh|fish\n");
	return 2;
}
