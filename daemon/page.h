/*
 * daemon/page.h: the one page that people look at, daemon/page.html, as it was when this was built.
 * It loads nothing but /status.
 */
#ifndef KVTIER_DAEMON_PAGE_H
#define KVTIER_DAEMON_PAGE_H

#include "base/text.h"

void page_write(struct text *text);
/* Content-Security-Policy of the page: its own script and style by their digests, and no others.
 * Made on the first call; lives for ever. Runs on: the loop thread. */
const char *page_policy(void);

#endif
