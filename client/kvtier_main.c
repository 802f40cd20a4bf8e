/* client/kvtier_main.c: the kvtier command. */
#include "client/cli.h"

int main(int arguments_count, char **arguments)
{
	return cli_run(arguments_count, arguments, stdout, stderr);
}
