/* daemon/spaces.c: spaces come and go, their floors stay. */
#include "daemon/spaces.h"

#include "base/log.h"
#include "daemon/journal_file.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int spaces_create(struct daemon *daemon, struct error *error)
{
	/* The journal has them, too, but on a mill's thread. */
	daemon->floors = calloc(1, sizeof(*daemon->floors));
	daemon->space_uses = calloc(daemon->settings.spaces_max +
					    SPACES_LEAVING_MAX * daemon->tenants_count,
				    sizeof(*daemon->space_uses));
	return daemon->floors != NULL && daemon->space_uses != NULL ? 0 : error_set(error, -ENOMEM, "no memory for floors");
}

void spaces_destroy(struct daemon *daemon)
{
	free(daemon->floors);
	free(daemon->space_uses);
	daemon->floors = NULL;
	daemon->space_uses = NULL;
}

/* Each tenant has an equal part, so that none can leave another without. */
static bool space_is_left(const struct daemon *daemon, uint32_t tenant)
{
	return cache_spaces_count(daemon->cache, tenant) <
	       daemon->settings.spaces_max / daemon->tenants_count;
}

static int space_make(struct daemon *daemon, const struct tenant *tenant,
		      const uint8_t *fingerprint, uint32_t *out_space)
{
	uint64_t floor = journal_floors_find(daemon->floors, tenant->digest, fingerprint);
	int result = cache_space_open(daemon->cache, tenant->handle, fingerprint, out_space);

	/* The number may have been another space's. */
	if (result == 0)
		daemon->space_uses[*out_space] = (struct space_use){ .used_us = 0 };
	/* Before anything is stored in it, or found again. */
	if (result == 0 && floor > 0)
		cache_space_forget(daemon->cache, *out_space, (uint32_t)floor);
	return result;
}

static int space_give_back(struct daemon *daemon, const struct tenant *tenant)
{
	int result = cache_space_give_back(daemon->cache, tenant->handle);

	if (result < 0)
		return result == -ENOENT ? -ENOSPC : result;
	daemon->counters.spaces_given_back++;
	daemon->is_sweeping = true;
	log_line(LOG_DEBUG, "space_given_back", "tenant=%s", tenant->name);
	return 0;
}

int spaces_open(struct daemon *daemon, const struct tenant *tenant, const uint8_t *fingerprint,
		uint32_t *out_space)
{
	int result = 0;

	if (cache_space_find(daemon->cache, tenant->handle, fingerprint, out_space) == 0)
		return 0;
	if (!space_is_left(daemon, tenant->handle))
		result = space_give_back(daemon, tenant);
	/* Nothing to give back where its part is nothing: more tenants than spaces. */
	if (result == 0 && !space_is_left(daemon, tenant->handle))
		result = -ENOSPC;
	return result < 0 ? result : space_make(daemon, tenant, fingerprint, out_space);
}

int spaces_restore(struct daemon *daemon, uint32_t tenant, const uint8_t *fingerprint,
		   uint32_t *out_space)
{
	if (cache_space_find(daemon->cache, tenant, fingerprint, out_space) == 0)
		return 0;
	if (!space_is_left(daemon, tenant))
		return -ENOSPC;
	return space_make(daemon, daemon_tenant(daemon, tenant), fingerprint, out_space);
}

void spaces_use(struct daemon *daemon, uint32_t space, const char *engine)
{
	struct space_use *use = &daemon->space_uses[space];

	use->used_us = daemon->now_us;
	if (strcmp(use->engine, engine) != 0)
		snprintf(use->engine, sizeof(use->engine), "%s", engine);
}

void spaces_floor_raise(struct daemon *daemon, const struct journal_record *record)
{
	uint32_t floor = (uint32_t)record->floor, space;

	assert(record->floor <= JOURNAL_FLOOR_MAX);
	journal_floors_raise(daemon->floors, record);
	for (unsigned i = 0; i < daemon->tenants_count; i++) {
		const struct tenant *tenant = &daemon->tenants[i];
		bool is_its = memcmp(tenant->digest, record->tenant, TENANT_DIGEST_BYTES) == 0;

		if (record->kind == JOURNAL_ALL || (is_its && record->kind == JOURNAL_TENANT))
			cache_tenant_forget(daemon->cache, tenant->handle, floor);
		else if (is_its && cache_space_find(daemon->cache, tenant->handle, record->space,
						    &space) == 0)
			cache_space_forget(daemon->cache, space, floor);
	}
}
