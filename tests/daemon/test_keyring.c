/* tests/daemon/test_keyring.c: key files, good and bad, and what follows from them; the settings of
 * encryption; and the buffers that enciphered blocks wait in. */
#include "daemon/bounce.h"
#include "daemon/keyring.h"
#include "daemon/settings.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define ONES "1111111111111111111111111111111111111111111111111111111111111111"
#define TWOS "2222222222222222222222222222222222222222222222222222222222222222"

static char path[64];
static struct error error;
static struct keyring keyring;

static int file_make(void **unused)
{
	(void)unused;
	strcpy(path, "/tmp/kvtier-keys-XXXXXX");
	int fd = mkstemp(path);
	if (fd >= 0)
		close(fd);
	return fd >= 0 ? 0 : -1;
}

static int file_remove(void **unused)
{
	(void)unused;
	return unlink(path);
}

static int read_text(const char *text, const char *tenant)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	fputs(text, file);
	fclose(file);
	memset(&keyring, 0, sizeof(keyring));
	memset(&error, 0, sizeof(error));
	return keyring_read(&keyring, path, tenant, &error);
}

static void assert_refused(const char *text, const char *words)
{
	assert_true(read_text(text, "t") < 0);
	if (strstr(error.text, words) == NULL)
		fail_msg("'%s' is not in '%s'", words, error.text);
	assert_null(strstr(error.text, "1111"));
}

static void the_first_key_writes_and_all_are_found(void **unused)
{
	(void)unused;
	assert_int_equal(read_text("# ours\n\n  new-1:" ONES "  \r\n\told.0:" TWOS, "t"), 0);
	assert_int_equal(keyring.count, 2);
	assert_string_equal(keyring.names[0], "new-1");
	assert_string_equal(keyring.names[1], "old.0");
	assert_ptr_equal(keyring_newest(&keyring), &keyring.keys[0]);
	assert_ptr_equal(keyring_find(&keyring, keyring.keys[1].id), &keyring.keys[1]);
	assert_null(keyring_find(&keyring, 0));
	assert_null(keyring_find(&keyring, keyring.keys[0].id ^ keyring.keys[1].id ^ 1));
	for (unsigned i = 0; i < sizeof(keyring.file); i++)
		assert_int_equal(keyring.file[i], 0);
}

static void a_key_is_another_for_another_tenant_name_or_bytes(void **unused)
{
	static const char *const texts[] = { "a:" ONES, "b:" ONES, "a:" TWOS };
	uint32_t ids[4];

	(void)unused;
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(read_text(texts[i], "t"), 0);
		ids[i] = keyring.keys[0].id;
	}
	assert_int_equal(read_text(texts[0], "u"), 0);
	ids[3] = keyring.keys[0].id;
	for (unsigned i = 0; i < 4; i++)
		for (unsigned j = 0; j < i; j++)
			assert_int_not_equal(ids[i], ids[j]);
	assert_int_equal(read_text(texts[0], "t"), 0);
	assert_int_equal(keyring.keys[0].id, ids[0]);
}

static void wrong_lines_are_named_by_number_and_never_quoted(void **unused)
{
	char many[20 * 80] = "";

	(void)unused;
	assert_refused("", "has no key");
	assert_refused("# nothing\n\n", "has no key");
	assert_refused("a:" ONES "\nnonsense\n", ":2: not ID:HEX64");
	assert_refused(ONES "\n", ":1: not ID:HEX64");
	assert_refused(":" ONES "\n", ":1: not ID:HEX64");
	assert_refused("a b:" ONES "\n", ":1: not ID:HEX64");
	assert_refused("\n\na:1111\n", ":3: behind ID: a key is 64 hexadecimal digits");
	assert_refused("a:" ONES "11\n", ":1: behind ID");
	assert_refused("a:g" ONES "\n", ":1: behind ID");
	assert_refused("a: " ONES "\n", ":1: behind ID");
	assert_refused("a:" ONES "\na:" TWOS "\n", ":2: this ID stands above already");
	assert_refused("a12345678901234567890123456789012:" ONES "\n", ":1: the ID is longer");
	for (unsigned i = 0; i < 17; i++)
		snprintf(many + strlen(many), sizeof(many) - strlen(many), "k%u:" ONES "\n", i);
	assert_refused(many, ":17: more than 16 keys");
}

static void a_file_that_others_may_read_is_refused_with_the_remedy(void **unused)
{
	static const mode_t modes[] = { 0604, 0644, 0660, 0610, 0620, 0444, 0402 };

	(void)unused;
	assert_int_equal(read_text("a:" ONES "\n", "t"), 0);
	for (unsigned i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		assert_int_equal(chmod(path, modes[i]), 0);
		assert_int_equal(keyring_check(path, &error), -EACCES);
		assert_non_null(strstr(error.text, "chmod 600"));
	}
	assert_int_equal(chmod(path, 0400), 0);
	assert_int_equal(keyring_check(path, &error), 0);
}

static void a_group_of_ours_may_read_the_file_and_no_other(void **unused)
{
	(void)unused;
	assert_int_equal(read_text("a:" ONES "\n", "t"), 0);
	assert_int_equal(chmod(path, 0440), 0);
	assert_int_equal(chown(path, (uid_t)-1, getegid()), 0);
	assert_int_equal(keyring_check(path, &error), 0);
	if (geteuid() != 0) {
		print_message("SKIP another group's file: only root can give a file to it\n");
		skip();
	}
	assert_int_equal(chown(path, 0, 12345), 0);
	assert_int_equal(keyring_check(path, &error), -EACCES);
	assert_non_null(strstr(error.text, "group 12345, none of ours"));
	assert_int_equal(chown(path, 0, 0), 0);
}

/* A folder in /tmp, and a key file in it. */
static void where_its_group_may_write_a_file_is_its_owners_alone(void **unused)
{
	char folder[] = "/tmp/kvtier-folder-XXXXXX", file[64];

	(void)unused;
	assert_int_equal(read_text("a:" ONES "\n", "t"), 0);
	assert_non_null(mkdtemp(folder));
	snprintf(file, sizeof(file), "%s/keys", folder);
	assert_int_equal(rename(path, file), 0);
	assert_int_equal(chmod(folder, 0770), 0);
	assert_int_equal(chmod(file, 0600), 0);
	assert_int_equal(keyring_check(file, &error), 0);
	assert_int_equal(chmod(file, 0440), 0);
	assert_int_equal(keyring_check(file, &error), -EPERM);
	assert_non_null(strstr(error.text, "its group may write in"));
	assert_int_equal(chmod(folder, 03777), 0);
	assert_int_equal(keyring_check(file, &error), 0);
	assert_int_equal(chmod(folder, 0777), 0);
	assert_int_equal(keyring_check(file, &error), -EPERM);
	assert_non_null(strstr(error.text, "everybody may write in"));
	assert_int_equal(rename(file, path), 0);
	assert_int_equal(rmdir(folder), 0);
}

static void links_are_followed_one_by_one_and_not_for_ever(void **unused)
{
	char folder[] = "/tmp/kvtier-folder-XXXXXX", link[64], open_folder[64], planted[64];

	(void)unused;
	assert_int_equal(read_text("a:" ONES "\n", "t"), 0);
	assert_non_null(mkdtemp(folder));
	snprintf(link, sizeof(link), "%s/keys", folder);
	snprintf(open_folder, sizeof(open_folder), "%s/open", folder);
	snprintf(planted, sizeof(planted), "%s/open/planted", folder);
	/* A link that leads through a folder where everybody may change what it leads to. */
	assert_int_equal(mkdir(open_folder, 0700), 0);
	assert_int_equal(symlink(path, planted), 0);   /* absolute; the next one is not */
	assert_int_equal(symlink("open/planted", link), 0);
	assert_int_equal(keyring_check(link, &error), 0);
	assert_int_equal(chmod(open_folder, 0777), 0);
	assert_int_equal(keyring_check(link, &error), -EPERM);
	assert_non_null(strstr(error.text, open_folder));
	assert_int_equal(unlink(planted), 0);
	assert_int_equal(rmdir(open_folder), 0);
	assert_int_equal(keyring_check(link, &error), -ENOENT);
	assert_int_equal(unlink(link), 0);
	assert_int_equal(symlink(link, link), 0);
	assert_int_equal(keyring_check(link, &error), -ELOOP);
	assert_int_equal(unlink(link), 0);
	assert_int_equal(rmdir(folder), 0);
}

static void a_file_of_another_user_is_refused(void **unused)
{
	(void)unused;
	if (geteuid() != 0) {
		print_message("SKIP a_file_of_another_user_is_refused: only root can give a file away\n");
		skip();
	}
	assert_int_equal(read_text("a:" ONES "\n", "t"), 0);
	assert_int_equal(chown(path, 12345, 12345), 0);
	assert_int_equal(keyring_check(path, &error), -EPERM);
	assert_non_null(strstr(error.text, "another user (12345)"));
	assert_int_equal(chown(path, 0, 0), 0);
	assert_int_equal(keyring_check(path, &error), 0);
}

static void what_is_no_small_regular_file_is_refused(void **unused)
{
	(void)unused;
	assert_int_equal(keyring_check("/nowhere/keys", &error), -ENOENT);
	assert_non_null(strstr(error.text, "/nowhere/keys"));
	assert_int_equal(keyring_check("/dev/zero", &error), -EINVAL);
	assert_int_equal(keyring_check("/tmp", &error), -EINVAL);
	assert_int_equal(truncate(path, KEYRING_FILE_BYTES_MAX + 1), 0);
	assert_int_equal(keyring_check(path, &error), -EFBIG);
	assert_int_equal(truncate(path, 100), 0);   /* zeros */
	assert_int_equal(keyring_check(path, &error), -EINVAL);
}

static void no_nonce_comes_twice_in_a_life_or_after_a_restart(void **unused)
{
	struct slot_nonce nonces[300];

	(void)unused;
	/* The same file, read by three lives. */
	for (unsigned i = 0; i < 300; i++) {
		if (i % 100 == 0)
			assert_int_equal(read_text("a:" ONES "\n", "t"), 0);
		nonces[i] = keyring_nonce(&keyring);
	}
	for (unsigned i = 0; i < 300; i++)
		for (unsigned j = 0; j < i; j++)
			assert_memory_not_equal(nonces[i].bytes, nonces[j].bytes,
						sizeof(nonces[i].bytes));
	/* What tells lives apart is as random as it can be. */
	assert_memory_not_equal(nonces[0].bytes, nonces[100].bytes, SLOT_LIFE_BYTES);
	assert_memory_not_equal(nonces[0].bytes, nonces[200].bytes, SLOT_LIFE_BYTES);
}

static void random_keys_are_others_each_time(void **unused)
{
	struct keyring first = { 0 }, second = { 0 };

	(void)unused;
	keyring_random(&first);
	keyring_random(&second);
	assert_int_equal(first.count, 1);
	assert_memory_not_equal(first.keys[0].bytes, second.keys[0].bytes, CRYPTO_KEY_BYTES);
	assert_int_not_equal(first.keys[0].id, second.keys[0].id);
	assert_memory_not_equal(first.life, second.life, SLOT_LIFE_BYTES);
}

/* ---- settings ---- */

static struct settings settings;

/* One tenant with nvme, and what is given as pairs of key and value; the result of finishing. */
static int finish(const char *const (*pairs)[2])
{
	int result;

	settings_default(&settings);
	result = settings_set(&settings, "tenants.0.cpu_bytes", "1GiB", "test", &error);
	if (result == 0)
		result = settings_set(&settings, "nvme.0.path", "/nowhere/nvme", "test", &error);
	if (result == 0)
		result = settings_set(&settings, "nvme.0.bytes", "1GiB", "test", &error);
	for (; result == 0 && (*pairs)[0] != NULL; pairs++)
		result = settings_set(&settings, (*pairs)[0], (*pairs)[1], "test", &error);
	return result == 0 ? settings_finish(&settings, &error) : result;
}

static void assert_not_finished(const char *const (*pairs)[2], const char *words)
{
	assert_true(finish(pairs) < 0);
	if (strstr(error.text, words) == NULL)
		fail_msg("'%s' is not in '%s'", words, error.text);
}

static void settings_name_the_key_file_that_is_missing_wrong_or_of_no_use(void **unused)
{
	const char *const useless[][2] = { { "tenants.0.key_file", path }, { NULL } };
	const char *const missing[][2] = { { "encryption", "key_file" }, { NULL } };
	const char *const given[][2] = { { "encryption", "key_file" },
					 { "tenants.0.key_file", path }, { NULL } };
	const char *const no_nvme[][2] = { { "encryption", "key_file" },
					   { "tenants.0.nvme_bytes", "0" }, { NULL } };

	(void)unused;
	assert_not_finished(useless, "tenants.0.key_file: is of no use with encryption: off");
	assert_not_finished(missing, "tenants.0.key_file: is required by encryption: key_file");
	assert_int_equal(read_text("nonsense\n", "t"), -EINVAL);
	assert_not_finished(given, ":1: not ID:HEX64");
	assert_int_equal(read_text("a:" ONES "\n", "t"), 0);
	assert_int_equal(finish(given), 0);
	assert_int_equal(chmod(path, 0644), 0);
	assert_not_finished(given, "chmod 600");
	assert_int_equal(chmod(path, 0600), 0);
	assert_int_equal(finish(no_nvme), 0);
}

static void the_buffers_hold_the_largest_block_there_can_be(void **unused)
{
	const char *const chosen[][2] = { { "encryption", "ephemeral" }, { NULL } };
	const char *const small[][2] = { { "encryption", "ephemeral" },
					 { "extent_bytes", "4MiB" }, { NULL } };
	const char *const too_small[][2] = { { "encryption", "ephemeral" },
					     { "encryption_buffer_bytes", "32MiB" }, { NULL } };
	const char *const off[][2] = { { "encryption_buffer_bytes", "64KiB" }, { NULL } };

	(void)unused;
	assert_int_equal(finish(chosen), 0);
	assert_int_equal(settings.encryption_buffer_bytes, 64 << 20);
	assert_int_equal(finish(small), 0);
	assert_int_equal(settings.encryption_buffer_bytes, 32 << 20);
	assert_not_finished(too_small, "encryption_buffer_bytes: less than the largest block");
	assert_int_equal(finish(off), 0);
}

/* ---- buffers ---- */

#define PAGE 4096u
#define TAKEN_MAX 32u

static struct bounce_pool pool;

static void buffers_never_overlap_in_whatever_order_they_come_back(void **unused)
{
	struct bounce *taken[TAKEN_MAX] = { NULL };
	uint64_t bytes[TAKEN_MAX];
	unsigned refused = 0, random = 12345;

	(void)unused;
	assert_int_equal(bounce_pool_open(&pool, 64 * PAGE, &error), 0);
	for (unsigned i = 0; i < 20000; i++) {
		unsigned at = (random = random * 1103515245u + 12345u) >> 16 & (TAKEN_MAX - 1);

		if (taken[at] != NULL) {
			for (uint64_t byte = 0; byte < bytes[at]; byte += PAGE)
				assert_int_equal(((uint8_t *)taken[at]->memory)[byte], at);
			bounce_give(&pool, taken[at]);
			taken[at] = NULL;
			continue;
		}
		bytes[at] = (1 + (random >> 8) % 9) * PAGE;
		taken[at] = bounce_take(&pool, bytes[at]);
		refused += taken[at] == NULL;
		if (taken[at] != NULL)
			memset(taken[at]->memory, (int)at, bytes[at]);
	}
	assert_true(refused > 100);
	for (unsigned i = 0; i < TAKEN_MAX; i++)
		if (taken[i] != NULL)
			bounce_give(&pool, taken[i]);
	/* All of it can be had at once, wherever the last one ended. */
	taken[0] = bounce_take(&pool, 64 * PAGE);
	assert_non_null(taken[0]);
	assert_null(bounce_take(&pool, PAGE));
	bounce_give(&pool, taken[0]);
	bounce_pool_close(&pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_first_key_writes_and_all_are_found),
		cmocka_unit_test(a_key_is_another_for_another_tenant_name_or_bytes),
		cmocka_unit_test(wrong_lines_are_named_by_number_and_never_quoted),
		cmocka_unit_test(a_file_that_others_may_read_is_refused_with_the_remedy),
		cmocka_unit_test(a_group_of_ours_may_read_the_file_and_no_other),
		cmocka_unit_test(where_its_group_may_write_a_file_is_its_owners_alone),
		cmocka_unit_test(links_are_followed_one_by_one_and_not_for_ever),
		cmocka_unit_test(a_file_of_another_user_is_refused),
		cmocka_unit_test(what_is_no_small_regular_file_is_refused),
		cmocka_unit_test(no_nonce_comes_twice_in_a_life_or_after_a_restart),
		cmocka_unit_test(random_keys_are_others_each_time),
		cmocka_unit_test(settings_name_the_key_file_that_is_missing_wrong_or_of_no_use),
		cmocka_unit_test(the_buffers_hold_the_largest_block_there_can_be),
		cmocka_unit_test(buffers_never_overlap_in_whatever_order_they_come_back),
	};

	return cmocka_run_group_tests(tests, file_make, file_remove);
}
