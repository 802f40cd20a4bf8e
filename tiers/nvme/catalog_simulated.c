/* tiers/nvme/catalog_simulated.c: the catalogue in memory: a sorted array a database, and what was
 * settled of it. */
#include "tiers/nvme/catalog_simulated.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DATABASES_MAX 64

struct rows {
	struct catalog_record **sorted; /* by (device, offset); each on the heap */
	uint64_t count, room;
	struct catalog_identity identity;
};

struct database {
	char path[512];
	struct rows now, settled;
	bool is_open;
	uint64_t writes;
	unsigned fail_nth[CATALOG_SIMULATED_VERBS]; /* 0: not armed */
	int fail_code[CATALOG_SIMULATED_VERBS];
};

static struct database *databases[DATABASES_MAX];
static uint64_t ids_given; /* ids need only differ, so that runs from one seed are alike */

static void *must_allocate(void *old, size_t bytes)
{
	void *memory = realloc(old, bytes);

	assert(memory != NULL); /* a test's own memory */
	return memory;
}

static void identity_renew(struct rows *rows)
{
	memset(&rows->identity, 0, sizeof(rows->identity));
	ids_given++;
	memcpy(rows->identity.id, &ids_given, sizeof(ids_given));
}

static void rows_empty(struct rows *rows)
{
	for (uint64_t n = 0; n < rows->count; n++)
		free(rows->sorted[n]);
	free(rows->sorted);
	rows->sorted = NULL;
	rows->count = rows->room = 0;
}

static void rows_copy(struct rows *target, const struct rows *source)
{
	rows_empty(target);
	target->identity = source->identity;
	if (source->count == 0)
		return;
	target->sorted = must_allocate(NULL, source->count * sizeof(target->sorted[0]));
	target->count = target->room = source->count;
	for (uint64_t n = 0; n < source->count; n++) {
		target->sorted[n] = must_allocate(NULL, sizeof(struct catalog_record));
		*target->sorted[n] = *source->sorted[n];
	}
}

static struct database *database_of(const char *path)
{
	unsigned n = 0;

	for (; n < DATABASES_MAX && databases[n] != NULL; n++)
		if (strcmp(databases[n]->path, path) == 0)
			return databases[n];
	assert(n < DATABASES_MAX && strlen(path) < sizeof(databases[n]->path));
	databases[n] = must_allocate(NULL, sizeof(*databases[n]));
	memset(databases[n], 0, sizeof(*databases[n]));
	strcpy(databases[n]->path, path);
	identity_renew(&databases[n]->now);
	databases[n]->settled.identity = databases[n]->now.identity;
	return databases[n];
}

static int place_compare(const struct catalog_record *a, const struct catalog_record *b)
{
	int order = memcmp(a->device, b->device, sizeof(a->device));

	return order != 0 ? order : (a->offset > b->offset) - (a->offset < b->offset);
}

/* Where `record` is, or would be. */
static uint64_t rows_find(const struct rows *rows, const struct catalog_record *record)
{
	uint64_t low = 0, high = rows->count;

	while (low < high) {
		uint64_t middle = low + (high - low) / 2;
		if (place_compare(rows->sorted[middle], record) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool rows_has_at(const struct rows *rows, uint64_t at, const struct catalog_record *record)
{
	return at < rows->count && place_compare(rows->sorted[at], record) == 0;
}

static void rows_put(struct rows *rows, const struct catalog_record *record)
{
	uint64_t at = rows_find(rows, record);

	if (rows_has_at(rows, at, record)) {
		*rows->sorted[at] = *record;
		return;
	}
	if (rows->count == rows->room) {
		rows->room = rows->room == 0 ? 64 : rows->room * 2;
		rows->sorted = must_allocate(rows->sorted, rows->room * sizeof(rows->sorted[0]));
	}
	memmove(rows->sorted + at + 1, rows->sorted + at,
		(rows->count - at) * sizeof(rows->sorted[0]));
	rows->sorted[at] = must_allocate(NULL, sizeof(*record));
	*rows->sorted[at] = *record;
	rows->count++;
}

static void rows_delete(struct rows *rows, const struct catalog_record *record)
{
	uint64_t at = rows_find(rows, record);

	if (!rows_has_at(rows, at, record))
		return;
	free(rows->sorted[at]);
	rows->count--;
	memmove(rows->sorted + at, rows->sorted + at + 1,
		(rows->count - at) * sizeof(rows->sorted[0]));
}

static int fault(struct database *database, enum catalog_simulated_verb verb, struct error *error)
{
	static const char *const names[CATALOG_SIMULATED_VERBS] = { "open", "write", "scan",
								    "clear" };

	if (database->fail_nth[verb] == 0 || --database->fail_nth[verb] > 0)
		return 0;
	return error_set(error, database->fail_code[verb], "the simulated catalogue fails this %s",
			 names[verb]);
}

static int simulated_open(void **out_catalog, const char *path, struct error *error)
{
	struct database *database = database_of(path);
	int result = fault(database, CATALOG_SIMULATED_OPEN, error);

	if (result < 0)
		return result;
	assert(!database->is_open);
	database->is_open = true;
	*out_catalog = database;
	return 0;
}

static void simulated_identify(void *catalog, struct catalog_identity *out_identity)
{
	struct database *database = catalog;

	*out_identity = database->now.identity;
}

static int simulated_write(void *catalog, const struct catalog_message *messages, unsigned count,
			   struct error *error)
{
	struct database *database = catalog;
	int result = fault(database, CATALOG_SIMULATED_WRITE, error);

	if (result < 0)
		return result;
	assert(database->is_open);
	for (unsigned n = 0; n < count; n++) {
		if (messages[n].verb == CATALOG_MARK)
			database->now.identity.is_complete = true;
		else if (messages[n].verb == CATALOG_DELETE)
			rows_delete(&database->now, &messages[n].record);
		else
			rows_put(&database->now, &messages[n].record);
	}
	database->writes++;
	return 0;
}

static int simulated_scan(void *catalog, struct catalog_scan *scan, struct error *error)
{
	struct database *database = catalog;
	int result = fault(database, CATALOG_SIMULATED_SCAN, error);

	if (result < 0)
		return result;
	assert(database->is_open);
	scan->skipped = 0;
	for (uint64_t n = 0; n < database->now.count; n++)
		if (!scan->row(scan->owner, database->now.sorted[n]))
			break;
	return 0;
}

static int simulated_clear(void *catalog, struct error *error)
{
	struct database *database = catalog;
	int result = fault(database, CATALOG_SIMULATED_CLEAR, error);

	if (result < 0)
		return result;
	assert(database->is_open);
	rows_empty(&database->now);
	identity_renew(&database->now);
	return 0;
}

static void simulated_close(void *catalog)
{
	struct database *database = catalog;

	if (database == NULL)
		return;
	assert(database->is_open);
	database->is_open = false;
}

const struct catalog_ops catalog_simulated_ops = {
	.name = "simulated",
	.open = simulated_open,
	.identify = simulated_identify,
	.write = simulated_write,
	.scan = simulated_scan,
	.clear = simulated_clear,
	.close = simulated_close,
};

void catalog_simulated_fail(const char *path, enum catalog_simulated_verb verb, unsigned nth,
			    int code)
{
	struct database *database = database_of(path);

	assert(verb < CATALOG_SIMULATED_VERBS && code < 0);
	database->fail_nth[verb] = nth;
	database->fail_code[verb] = code;
}

unsigned catalog_simulated_left(const char *path, enum catalog_simulated_verb verb)
{
	assert(verb < CATALOG_SIMULATED_VERBS);
	return database_of(path)->fail_nth[verb];
}

void catalog_simulated_settle(const char *path)
{
	struct database *database = database_of(path);

	rows_copy(&database->settled, &database->now);
}

void catalog_simulated_power_cut(const char *path)
{
	struct database *database = database_of(path);

	rows_copy(&database->now, &database->settled);
}

void catalog_simulated_replace(const char *path)
{
	struct database *database = database_of(path);

	rows_empty(&database->now);
	identity_renew(&database->now);
}

uint64_t catalog_simulated_records(const char *path)
{
	return database_of(path)->now.count;
}

uint64_t catalog_simulated_writes(const char *path)
{
	return database_of(path)->writes;
}

void catalog_simulated_forget_all(void)
{
	for (unsigned n = 0; n < DATABASES_MAX && databases[n] != NULL; n++) {
		assert(!databases[n]->is_open);
		rows_empty(&databases[n]->now);
		rows_empty(&databases[n]->settled);
		free(databases[n]);
		databases[n] = NULL;
	}
	ids_given = 0;
}
