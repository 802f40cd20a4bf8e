/* tests/sim/catalog.c: the simulated catalogue, outside of the daemon's process: it outlives it. */
#include "tests/sim/node.h"
#include "tiers/nvme/catalog_simulated.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define CATALOGS_MAX 8u
#define SETTLE_PERMILLE 300u

static struct {
	char path[64];
	void *opened;
} catalogs[CATALOGS_MAX];
static unsigned catalogs_count, fault_permille;

void catalogs_start(void)
{
	for (unsigned i = 0; i < catalogs_count; i++)
		catalog_simulated_ops.close(catalogs[i].opened);
	memset(catalogs, 0, sizeof(catalogs));
	catalogs_count = 0;
	fault_permille = 0;
	catalog_simulated_forget_all();
}

void catalogs_set_fault(unsigned permille)
{
	fault_permille = permille;
}

static unsigned place_of(const char *path)
{
	unsigned n = 0;

	while (n < catalogs_count && strcmp(catalogs[n].path, path) != 0)
		n++;
	assert(n < CATALOGS_MAX && strlen(path) < sizeof(catalogs[0].path));
	if (n == catalogs_count)
		strcpy(catalogs[catalogs_count++].path, path);
	return n;
}

void catalog_kill(const char *path, bool is_power_cut)
{
	unsigned place = place_of(path);

	catalog_simulated_ops.close(catalogs[place].opened);
	catalogs[place].opened = NULL;
	if (is_power_cut)
		catalog_simulated_power_cut(path);
}

void catalog_replace(const char *path)
{
	catalog_simulated_replace(path);
}

static int failed(struct error *error)
{
	return kernel_chance(fault_permille) ? error_set(error, -EIO, "the catalogue fails") : 0;
}

static int node_catalog_open(void **out_catalog, const char *path, struct error *error)
{
	struct process *process = kernel_leave_process();
	int result = failed(error);

	if (result == 0)
		result = catalog_simulated_ops.open(out_catalog, path, error);
	if (result == 0)
		catalogs[place_of(path)].opened = *out_catalog;
	kernel_enter_process(process);
	return result;
}

static void node_catalog_identify(void *catalog, struct catalog_identity *out_identity)
{
	catalog_simulated_ops.identify(catalog, out_identity);
}

static unsigned place_of_opened(const void *catalog)
{
	unsigned n = 0;

	while (catalogs[n].opened != catalog)
		n++;
	assert(n < catalogs_count);
	return n;
}

static int node_catalog_write(void *catalog, const struct catalog_message *messages,
			      unsigned count, struct error *error)
{
	struct process *process = kernel_leave_process();
	int result = failed(error);

	if (result == 0)
		result = catalog_simulated_ops.write(catalog, messages, count, error);
	if (result == 0 && kernel_chance(SETTLE_PERMILLE))
		catalog_simulated_settle(catalogs[place_of_opened(catalog)].path);
	kernel_enter_process(process);
	return result;
}

static int node_catalog_scan(void *catalog, struct catalog_scan *scan, struct error *error)
{
	int result = failed(error);

	return result < 0 ? result : catalog_simulated_ops.scan(catalog, scan, error);
}

static int node_catalog_clear(void *catalog, struct error *error)
{
	struct process *process = kernel_leave_process();
	int result = failed(error);

	if (result == 0)
		result = catalog_simulated_ops.clear(catalog, error);
	kernel_enter_process(process);
	return result;
}

static void node_catalog_close(void *catalog)
{
	struct process *process = kernel_leave_process();

	for (unsigned n = 0; n < catalogs_count; n++)
		if (catalogs[n].opened == catalog)
			catalogs[n].opened = NULL;
	catalog_simulated_ops.close(catalog);
	kernel_enter_process(process);
}

const struct catalog_ops node_catalog_ops = {
	.name = "simulated",
	.open = node_catalog_open,
	.identify = node_catalog_identify,
	.write = node_catalog_write,
	.scan = node_catalog_scan,
	.clear = node_catalog_clear,
	.close = node_catalog_close,
};
