/* client/kvtier_text.c: what the library says about itself and about results. */
#include "client/kvtier.h"

#include <errno.h>
#include <string.h>

const char *kvtier_version(void)
{
	return KVTIER_VERSION;
}

const char *kvtier_strerror(int result)
{
	switch (result) {
	case 0:
		return "no error";
	case -ENOENT:
		return "a miss";
	case -EBADMSG:
		return "a wrong checksum: the block counts as a miss and is dropped";
	case -ENOSPC:
		return "the cache did not take the block";
	case -ETIME:
		return "the job's deadline passed before this block's turn";
	case -ETIMEDOUT:
		return "the daemon did not answer in time";
	case -ECANCELED:
		return "cancelled";
	case -ENOTCONN:
		return "not connected to the daemon";
	case -EAGAIN:
		return "not now: the daemon did not answer lately, ranks of this engine are "
		       "missing, or there are too many jobs";
	case -ECHILD:
		return "this client belongs to the parent process; open one in the child";
	case -EPERM:
		return "the daemon refused the registration";
	case -ENOTSUP:
		return "the daemon's GPU cannot wait for a gate value: wait, and give 0";
	case -EINVAL:
		return "an argument or option is not right";
	default:
		return result < 0 ? strerror(-result) : "not an error";
	}
}
