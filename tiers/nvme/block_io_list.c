/* tiers/nvme/block_io_list.c: which back ends for real disks were built in. */
#include "tiers/nvme/block_io.h"

#include <string.h>

const struct block_io_ops *const block_io_list[] = {
#if HAVE_IO_URING
	&block_io_uring_ops,
#endif
	&block_io_psync_ops, NULL
};

const struct block_io_ops *block_io_find(const char *name)
{
	for (unsigned i = 0; block_io_list[i] != NULL; i++) {
		if (strcmp(block_io_list[i]->name, name) == 0)
			return block_io_list[i];
	}
	return NULL;
}
