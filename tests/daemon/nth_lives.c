/* tests/daemon/nth_lives.c: see nth_lives.h. */
#include "tests/daemon/nth_lives.h"

#include "tests/daemon/rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#define BLOCKS 6u
#define UNTIL_NEVER 1000000u
#define SAMPLE 12u /* of each way to fail, where CI is not told to try them all */

static const struct rig_blocks first = { .first = 1, .count = BLOCKS, .version = 1 };
static const struct rig_blocks second = { .first = 101, .count = BLOCKS, .version = 2 };

/* HELLO to CANARY, where each step may be refused; NULL: one was. */
static struct rig_client *client_try(struct rig *rig)
{
	struct rig_client *client = rig_client_open(rig, NULL);
	int result = rig_client_connect(client, FRAME_CONTROL);

	if (result == 0)
		result = rig_client_say_register(client);
	if (result == 0)
		result = rig_client_connect(client, FRAME_DATA);
	if (result == 0)
		result = rig_client_attach(client);
	if (result == 0)
		return client;
	rig_client_close(client);
	return NULL;
}

/* One who comes by the real socket, says nothing, and leaves. */
static void knock(struct rig *rig, const char *path, int type)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	static const char request[] = "GET /readyz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n";
	int fd = socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/run/%s", rig->folder,
		 path);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0) {
		(void)!write(fd, request, sizeof(request) - 1);
		for (unsigned i = 0; i < 20; i++) {
			rig_step(rig);
			daemon_wait(rig->daemon, 0);
			clock_advance(&rig->clock, RIG_SECOND / 10);
		}
	}
	close(fd);
}

/* What an engine does in its life, as far as it is let. */
static void work(struct rig *rig)
{
	struct rig_keys keys = { .first = 1, .count = BLOCKS };
	struct rig_client *client = client_try(rig);

	knock(rig, "http.sock", SOCK_STREAM);
	knock(rig, "t/tenant-0/kv.sock", SOCK_SEQPACKET);
	if (client == NULL)
		return;
	(void)rig_store(client, &first);
	rig_settle(rig);
	struct rig_found found = rig_lookup(client, &keys, 1, RIG_SECOND);
	(void)rig_load(client, &first);
	if (found.result == 0)
		rig_lease_release(client, found.lease);
	rig_drop_cpu(client, 0, 1, BLOCKS);
	(void)rig_load(client, &first);
	(void)rig_forget(client, client->space);
	(void)rig_store(client, &second);
	rig_settle(rig);
	rig_client_close(client);
	rig_settle(rig);
}

/* Nothing fails any more: new blocks come and go, and whatever else is there is right. */
static void serves_as_ever(struct rig *rig, uint64_t first_key)
{
	struct rig_blocks blocks = { .first = first_key, .count = BLOCKS, .version = 3 };
	struct rig_client *client;

	rig->is_forgiving = false;
	rig_pass_time(rig, 40 * RIG_SECOND); /* leases and deadlines of before */
	client = rig_register(rig, NULL);
	(void)rig_load(client, &first);
	(void)rig_load(client, &second);
	assert_int_equal(rig_store(client, &blocks), BLOCKS);
	rig_settle(rig);
	assert_int_equal(rig_load(client, &blocks), BLOCKS);
	rig_client_close(client);
	rig_settle(rig);
	rig_assert_idle(rig);
	rig->is_forgiving = true;
}

static void restore(struct rig *rig)
{
	for (unsigned i = 0; rig->daemon->phase == DAEMON_RESTORING; i++) {
		assert_true(i < RIG_PASSES_MAX);
		if (!rig_step(rig))
			clock_advance(&rig->clock, 10000);
	}
}

/* A life that may be refused, but only with a sentence. */
static bool life_try(struct rig *rig)
{
	struct error error = { 0 };
	int result = rig_try_start(rig, &error);

	if (result < 0) {
		if (error.code >= 0 || strlen(error.text) < 10 || rig->daemon != NULL)
			fail_msg("after %s failed: %d \"%s\"", nth_failed_call(), error.code,
				 error.text);
		return false;
	}
	restore(rig);
	work(rig);
	return true;
}

/* What fails: our own calls by nth.h, or what stands below the seams for disks and catalogue. */
struct trouble {
	enum { CALLS, DISKS, CATALOG } of;
	struct nth_plan plan;
	enum block_fault fault;             /* DISKS */
	enum catalog_simulated_verb verb;   /* CATALOG */
};

static void trouble_begin(struct rig *rig, const struct trouble *trouble)
{
	const struct nth_plan *plan = &trouble->plan;

	if (trouble->of == CALLS) {
		nth_arm(plan);
	} else if (trouble->of == DISKS) {
		rig->fault.errno_value = -plan->errno_value;
		block_io_fault_arm(&rig->fault, trouble->fault, BLOCK_FAULT_ALL,
				   plan->nth == 0 ? UINT64_MAX / 2 : plan->nth, plan->count);
	} else {
		catalog_simulated_fail(rig_catalog_path(rig), trouble->verb,
				       plan->nth == 0 ? UNTIL_NEVER : (unsigned)plan->nth,
				       -plan->errno_value);
	}
}

static void trouble_pause(struct rig *rig)
{
	nth_pause();
	rig->fault.fault = BLOCK_FAULT_NONE;
}

static void trouble_resume(struct rig *rig, const struct trouble *trouble)
{
	if (trouble->of == CALLS)
		nth_resume();
	else if (trouble->of == DISKS)
		rig->fault.fault = trouble->fault;
}

/* How many calls were counted. *out_was_hit: one of them failed. */
static uint64_t trouble_end(struct rig *rig, const struct trouble *trouble, bool *out_was_hit)
{
	uint64_t seen = nth_seen();
	unsigned left;

	trouble_pause(rig);
	*out_was_hit = nth_hits() > 0;
	if (trouble->of == DISKS) {
		seen = rig->fault.seen;
		*out_was_hit = rig->fault.hits > 0;
	} else if (trouble->of == CATALOG) {
		left = catalog_simulated_left(rig_catalog_path(rig), trouble->verb);
		seen = UNTIL_NEVER - left;
		*out_was_hit = left == 0;
		catalog_simulated_fail(rig_catalog_path(rig), trouble->verb, 0, -EIO);
	}
	return seen;
}

/* Two lives, the second upon what the first has left. Returns how many calls could have failed. */
static uint64_t lives(const struct trouble *trouble, bool *out_was_hit)
{
	struct rig_config config = { .has_cpu_file = true, .cpu_units = 1, .nvme_units = 2 };
	struct rig rig;
	struct nth_books before;
	uint64_t seen;

	rig_prepare(&rig, &config);
	rig.is_forgiving = true;
	before = nth_books();
	trouble_begin(&rig, trouble);
	for (unsigned life = 0; life < 2; life++) {
		if (life_try(&rig)) {
			trouble_pause(&rig);
			serves_as_ever(&rig, 201 + 100 * life);
			/* What fails for good would keep the end from coming. */
			if (trouble->plan.count == 1)
				trouble_resume(&rig, trouble);
			rig_stop(&rig);
		}
		trouble_resume(&rig, trouble);
	}
	seen = trouble_end(&rig, trouble, out_was_hit);
	rig_start(&rig);
	serves_as_ever(&rig, 401);
	rig_stop(&rig);
	/* What stands for its disk. */
	catalog_simulated_forget_all();
	nth_assert_nothing_is_left(&before);
	rig_finish(&rig);
	return seen;
}

static void fail_in_turn(struct trouble *trouble, struct nth_sums *sums)
{
	bool was_hit;
	uint64_t total, stride;

	trouble->plan.nth = 0;
	total = lives(trouble, &was_hit);
	assert_false(was_hit);
	stride = nth_stride(total, SAMPLE);
	for (trouble->plan.nth = 1; trouble->plan.nth <= total; trouble->plan.nth += stride) {
		(void)lives(trouble, &was_hit);
		sums->covered += was_hit;
	}
	sums->total += total;
}

void nth_lives_calls_fail(const struct nth_plan *plan, struct nth_sums *sums)
{
	struct trouble trouble = { .of = CALLS, .plan = *plan };

	fail_in_turn(&trouble, sums);
}

void nth_lives_fail_by(unsigned classes, int errno_value, uint64_t count, struct nth_sums *sums)
{
	struct nth_plan plan = { .classes = classes, .errno_value = errno_value, .count = 1 };

	nth_lives_calls_fail(&plan, sums);
	plan.count = count;
	nth_lives_calls_fail(&plan, sums);
}

void nth_lives_disks_fail(enum block_fault fault, int errno_value, struct nth_sums *sums)
{
	struct trouble trouble = { .of = DISKS,
				   .fault = fault,
				   .plan = { .errno_value = errno_value, .count = 1 } };

	fail_in_turn(&trouble, sums);
	trouble.plan.count = UINT64_MAX;
	fail_in_turn(&trouble, sums);
}

void nth_lives_catalog_fails(int errno_value, struct nth_sums *sums)
{
	struct trouble trouble = { .of = CATALOG,
				   .plan = { .errno_value = errno_value, .count = 1 } };

	for (trouble.verb = 0; trouble.verb < CATALOG_SIMULATED_VERBS; trouble.verb++)
		fail_in_turn(&trouble, sums);
}
