/* client/cli_doctor_numa.c: on which NUMA nodes the tenants' memory lies. */
#include "client/cli_doctor.h"

#include <string.h>

#define NEAR_SHARE_MIN 0.9

/* Says what is wrong with where a tenant's memory lies; false: nothing is. */
static bool is_far(struct doctor *doctor, const json_t *tenant)
{
	const json_t *numa = cli_get(tenant, "cpu_numa");
	const char *asked = cli_string(numa, "asked"), *reason = cli_string(numa, "reason");
	double near = cli_number(numa, "near_pages"), looked = cli_number(numa, "looked_pages");

	if (asked[0] == '\0')
		return false;
	if (reason[0] != '\0') {
		finding_add(doctor, "numa", FINDING_WARN,
			    "put that right, or start kvtierd by numactl --preferred=NODE or in a cpuset, and set numa: off",
			    "memory of tenant %s is not placed on NUMA node %s: %s",
			    cli_string(tenant, "name"), asked, reason);
		return true;
	}
	if (near >= NEAR_SHARE_MIN * looked)
		return false;
	finding_add(doctor, "numa", FINDING_WARN,
		    "make room on that node, remove a cpu_file whose pages lie elsewhere, and restart kvtierd",
		    "of tenant %s's memory %.0f %% lies on NUMA node %s, the rest elsewhere (%s)",
		    cli_string(tenant, "name"), looked > 0 ? 100 * near / looked : 0.0, asked,
		    cli_string(numa, "found"));
	return true;
}

void check_numa(struct doctor *doctor)
{
	const json_t *tenants = cli_get(doctor->stats, "tenants");
	char nodes[64] = "0";
	bool is_placed = false, has_far = false;
	size_t i;
	json_t *tenant;

	(void)doctor_read("/sys/devices/system/node/online", nodes, sizeof(nodes));
	json_array_foreach(tenants, i, tenant)
	{
		is_placed |= cli_string(cli_get(tenant, "cpu_numa"), "asked")[0] != '\0';
		has_far |= is_far(doctor, tenant);
	}
	if (has_far)
		return;
	if (strpbrk(nodes, ",-") == NULL)
		finding_add(doctor, "numa", FINDING_OK, NULL, "one NUMA node");
	else if (is_placed)
		finding_add(doctor, "numa", FINDING_OK, NULL,
			    "NUMA nodes %s; the tenants' memory lies on those that were asked for",
			    nodes);
	else
		finding_add(doctor, "numa", FINDING_WARN,
			    "set numa to the nodes of the engines; with GPUs, auto does so",
			    "NUMA nodes %s, and the tenants' memory lies wherever the kernel takes it",
			    nodes);
}
