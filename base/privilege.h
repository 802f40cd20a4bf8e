/* base/privilege.h: capabilities of the calling thread, and of those that it starts. */
#ifndef KVTIER_BASE_PRIVILEGE_H
#define KVTIER_BASE_PRIVILEGE_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#define PRIVILEGE_NONE 0u

/* Whether the thread has this capability (CAP_...) now. */
bool privilege_has(unsigned capability);
/* Gives up all capabilities but those of the mask, in every set, for good. */
must_check int privilege_keep(uint64_t mask, struct error *error);

#endif
