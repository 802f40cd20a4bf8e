/* tests/sim/pages.h: what a page may say, by what the simulation knows. */
#ifndef KVTIER_TESTS_SIM_PAGES_H
#define KVTIER_TESTS_SIM_PAGES_H

#include "tests/sim/visitor.h"

/* When it was asked for. */
struct page_moment {
	uint64_t life, stall_us_max;
	struct counters counters;
};

void page_moment_take(const struct node *node, struct page_moment *out_moment);
/* The visitor's last answer is to `path`, asked for at `before`. */
void page_check(struct visitor *visitor, const char *path, const struct page_moment *before);

#endif
