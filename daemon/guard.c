/* daemon/guard.c: the SIGBUS handler and the place it jumps back to, one a thread. */
#include "daemon/guard.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>

static _Thread_local sigjmp_buf *volatile way_back;

static void on_sigbus(int number)
{
	if (way_back != NULL)
		siglongjmp(*way_back, 1);
	signal(number, SIG_DFL);
	raise(number);
}

int guard_install(struct error *error)
{
	struct sigaction action = { .sa_handler = on_sigbus, .sa_flags = SA_NODEFER };

	sigemptyset(&action.sa_mask);
	if (sigaction(SIGBUS, &action, NULL) < 0)
		return error_set(error, -errno, "cannot install a SIGBUS handler: %s", strerror(errno));
	return 0;
}

int guard_run(void (*work)(void *owner), void *owner)
{
	sigjmp_buf here;

	if (sigsetjmp(here, 0) != 0) {
		way_back = NULL;
		return -EFAULT;
	}
	way_back = &here;
	work(owner);
	way_back = NULL;
	return 0;
}
