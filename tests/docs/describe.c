/* tests/docs/describe.c: prints what is generated from tables (docs/SETTINGS.md and so on) without
 * starting a daemon. */
#include "daemon/settings.h"

int main(int arguments_count, char **arguments)
{
	if (arguments_count == 2 && settings_describe(arguments[1], stdout) == 0)
		return 0;
	fprintf(stderr, "usage: describe help|man|markdown|completion|metrics|failpoints\n");
	return 2;
}
