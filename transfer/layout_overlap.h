/* transfer/layout_overlap.h: whether some byte is two planes', or two blocks', of one group. */
#ifndef KVTIER_TRANSFER_LAYOUT_OVERLAP_H
#define KVTIER_TRANSFER_LAYOUT_OVERLAP_H

#include "transfer/layout.h"

/* Each plane lies inside its region, and its own blocks are apart. -EINVAL: overlap, or not told
 * to be free of it, as layout_init() says; -ENOMEM. `index` of the group is for the words. */
must_check int layout_check_overlaps(const struct layout_group_source *group, unsigned index,
				     struct error *error);

#endif
