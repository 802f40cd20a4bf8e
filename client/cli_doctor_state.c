/* client/cli_doctor_state.c: what the running daemon says of itself: its sandbox, its keys, and the
 * parts that its blocks go through. */
#include "client/cli_doctor.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define KEY_FILE_ENDING ".key_file"

/* ---- sandbox ---- */

void check_sandbox(struct doctor *doctor)
{
	const json_t *sandbox = cli_get(doctor->stats, "sandbox");
	const char *missing = cli_string(sandbox, "missing"), *mode = cli_string(sandbox, "mode");

	if (sandbox == NULL)
		return; /* an older daemon */
	if (strcmp(mode, "off") == 0)
		finding_add(doctor, "sandbox", FINDING_WARN,
			    "set sandbox: auto and restart kvtierd: taken over, it could do all that its user can",
			    "it is turned off (sandbox: off)");
	else if (missing[0] != 0)
		finding_add(doctor, "sandbox", FINDING_WARN,
			    "the rest of it holds; a kernel with Landlock (CONFIG_SECURITY_LANDLOCK, lsm=landlock) and a "
			    "release build with libseccomp give all of it: kvtierd --version says what there is",
			    "not to be had here: %s", missing);
	else
		finding_add(doctor, "sandbox", FINDING_OK, NULL,
			    "no new privileges, %s, seccomp %s, Landlock %.0f",
			    json_is_true(cli_get(sandbox, "no_capabilities")) ? "no capabilities"
									      : "some capabilities",
			    json_is_true(cli_get(sandbox, "seccomp")) ? "on" : "off",
			    cli_number(sandbox, "landlock"));
}

/* ---- encryption ---- */

/* What the next start or reload would say of it. */
static void check_key_file(struct doctor *doctor, const char *path)
{
	const json_t *tenant = json_array_get(cli_get(doctor->stats, "tenants"), 0);
	time_t read = (time_t)cli_number(tenant, "keys_read_unix_seconds");
	struct stat status;

	if (stat(path, &status) < 0 && (errno == EACCES || errno == EPERM))
		return; /* the daemon may see what this user does not */
	if (stat(path, &status) < 0)
		finding_add(doctor, "encryption", FINDING_FAIL,
			    "put it back before the next start, which is refused without it; blocks of lost keys are lost",
			    "the key file %s: %s", path, strerror(errno));
	/* A group may read it; whether it is the daemon's only the daemon can tell. */
	else if ((status.st_mode & 037) != 0)
		finding_add(doctor, "encryption", FINDING_FAIL,
			    "chmod 600 it (440 for a group of the daemon's); the next start is refused until then, and who read it can "
			    "read the disk: rotate",
			    "others may read the key file %s", path);
	else if (status.st_mtime > read)
		finding_add(doctor, "encryption", FINDING_WARN,
			    "kvtier reload: what was read before counts until then",
			    "the key file %s was changed since the daemon read it", path);
}

/* Only the admin socket tells where they are. */
static void check_key_files(struct doctor *doctor)
{
	struct cli asking = *doctor->cli;
	struct frame_operate frame;
	json_t *answer = NULL, *row;
	size_t i;

	asking.error = fopen("/dev/null", "we");
	if (asking.error == NULL)
		return;
	cli_operate_start(&asking, &frame, FRAME_OPERATE_CONFIG);
	if (cli_operate(&asking, &frame, &answer) == CLI_DONE)
		json_array_foreach(cli_get(answer, "settings"), i, row)
		{
			const char *key = cli_string(row, "key"), *path = cli_string(row, "value");
			const char *dot = strrchr(key, '.');

			if (dot != NULL && strcmp(dot, KEY_FILE_ENDING) == 0 && path[0] == '/')
				check_key_file(doctor, path);
		}
	json_decref(answer);
	fclose(asking.error);
}

static void check_keys_missing(struct doctor *doctor, const json_t *tenant)
{
	const char *name = cli_string(tenant, "name");
	bool is_ephemeral = strcmp(cli_string(tenant, "encryption"), "ephemeral") == 0;
	double missing = cli_number(tenant, "key_missing_blocks");
	double in_clear = cli_number(tenant, "in_clear_blocks");

	if (missing > 0 && !is_ephemeral)
		finding_add(doctor, "encryption", FINDING_WARN,
			    "they are misses for good; an old key stays in its key_file, as a later line, for as "
			    "long as its blocks matter",
			    "%.0f blocks of tenant %.64s are enciphered with a key that is not there", missing,
			    name);
	if (in_clear > 0)
		finding_add(doctor, "encryption", FINDING_WARN,
			    "they are misses, and their bytes stay until their place is used again",
			    "%.0f blocks of tenant %.64s are on nvme in the clear", in_clear, name);
}

void check_encryption(struct doctor *doctor)
{
	const json_t *tenants = cli_get(doctor->stats, "tenants");
	const char *mode = cli_string(json_array_get(tenants, 0), "encryption");
	size_t i;
	json_t *tenant;

	if (mode[0] == 0 || json_array_size(cli_get(doctor->stats, "nvme")) == 0)
		return;
	if (strcmp(mode, "off") == 0)
		finding_add(doctor, "encryption", FINDING_OK, NULL,
			    "off: blocks lie on nvme in the clear (encryption: key_file or ephemeral)");
	else
		finding_add(doctor, "encryption", FINDING_OK, NULL, "%s",
			    strcmp(mode, "ephemeral") == 0
				    ? "ephemeral: a key of this life alone, so a restart finds nothing on nvme"
				    : "by the tenants' key files");
	json_array_foreach(tenants, i, tenant)
	{
		check_keys_missing(doctor, tenant);
	}
	if (strcmp(mode, "key_file") == 0)
		check_key_files(doctor);
}

/* ---- parts ---- */

void check_parts(struct doctor *doctor)
{
	const char *state = cli_string(doctor->stats, "state");
	unsigned good = 0, unasked = 0;
	size_t i;
	json_t *part;

	if (doctor->stats == NULL)
		return;
	if (strcmp(state, "serving") != 0)
		finding_add(doctor, "ready",
			    strcmp(state, "restoring") == 0 ? FINDING_WARN : FINDING_FAIL,
			    strcmp(state, "restoring") == 0
				    ? "wait: it finds again what was stored before it started"
				    : "engines compute meanwhile; look at its log, and restart it if that goes on",
			    "kvtierd is not ready: %s", state);
	json_array_foreach(cli_get(doctor->stats, "parts"), i, part)
	{
		const char *name = cli_string(part, "name"), *how = cli_string(part, "state");

		good += strcmp(how, "ok") == 0;
		unasked += strcmp(how, "unasked") == 0;
		if (strcmp(how, "failed") == 0 || strcmp(how, "late") == 0)
			finding_add(doctor, "part", FINDING_FAIL,
				    "look for it in kvtierd's log and in dmesg; if it goes on, restart kvtierd",
				    strcmp(how, "late") == 0 ? "%s does not answer" : "%s gives wrong answers",
				    name);
	}
	if (good > 0)
		finding_add(doctor, "part", FINDING_OK, NULL, "%u of %zu parts have answered a canary",
			    good, json_array_size(cli_get(doctor->stats, "parts")));
	else if (unasked > 0)
		finding_add(doctor, "part", FINDING_OK, NULL,
			    "its parts have not been asked for a sign of life yet; that takes seconds");
}
