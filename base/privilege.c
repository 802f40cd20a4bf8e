/* base/privilege.c: by system calls, as glibc has no wrappers and libcap is not needed for them. */
#include "base/privilege.h"

#include <errno.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CAPABILITIES_MAX 64u

bool privilege_has(unsigned capability)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { 0 };

	return syscall(SYS_capget, &head, data) == 0 &&
	       (data[capability / 32].effective & (1u << capability % 32)) != 0;
}

int privilege_keep(uint64_t mask, struct error *error)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { 0 };

	/* First the bounding set, while we may: without CAP_SETPCAP it stays, and no_new_privs is
	 * what makes it worthless. */
	for (unsigned n = 0; n < CAPABILITIES_MAX; n++)
		(void)prctl(PR_CAPBSET_DROP, n, 0, 0, 0);
	(void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	for (unsigned n = 0; n < CAPABILITIES_MAX; n++)
		if ((mask & (UINT64_C(1) << n)) && privilege_has(n)) {
			data[n / 32].effective |= 1u << n % 32;
			data[n / 32].permitted |= 1u << n % 32;
		}
	if (syscall(SYS_capset, &head, data) < 0)
		return error_set(error, -errno, "capabilities cannot be given up: %s", strerror(errno));
	return 0;
}
