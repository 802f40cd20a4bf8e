/* tests/proto/test_ticket.c: a ticket is read as it was written, and nothing else is. */
#include "proto/ticket.h"

#include <errno.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const uint8_t secrets[2][TICKET_SECRET_BYTES] = { { 1, 2, 3 }, { 4, 5, 6 } };
static const uint8_t others[1][TICKET_SECRET_BYTES] = { { 1, 2, 4 } };

static struct ticket sample(void)
{
	struct ticket ticket = { .boot_id = 77, .number = 5, .expires_us = 123456789,
				 .bytes = UINT64_C(1) << 40, .blocks_count = 16384,
				 .tenant = "default", .address = "[fd00::1]:9470" };

	memset(ticket.node, 0xfb, sizeof(ticket.node));
	memset(ticket.fingerprint, 0xff, sizeof(ticket.fingerprint));
	return ticket;
}

static void write_sample(unsigned secret, char text[TICKET_TEXT_BYTES])
{
	struct ticket ticket = sample();

	assert_int_equal(ticket_write(&ticket, secrets[secret], text), 0);
	assert_int_equal(strlen(text), TICKET_TEXT_BYTES - 1);
}

static int read_text(const char *text)
{
	struct ticket ticket;

	return ticket_read(text, strlen(text), secrets, 2, &ticket);
}

static void what_was_written_is_read(void **unused)
{
	char text[TICKET_TEXT_BYTES];
	struct ticket ticket, expected = sample();

	(void)unused;
	for (unsigned i = 0; i < 2; i++) {
		write_sample(i, text);
		/* It goes through URLs, headers and JSON unchanged. */
		assert_int_equal(strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
					      "0123456789-_"),
				 TICKET_TEXT_BYTES - 1);
		memset(&ticket, 0, sizeof(ticket));
		assert_int_equal(ticket_read(text, strlen(text), secrets, 2, &ticket), 0);
		assert_memory_equal(&ticket, &expected, sizeof(ticket));
	}
}

static void no_letter_can_be_another(void **unused)
{
	char text[TICKET_TEXT_BYTES], letter;

	(void)unused;
	write_sample(0, text);
	for (size_t i = 0; i < TICKET_TEXT_BYTES - 1; i++) {
		letter = text[i];
		for (unsigned other = 1; other < 256; other++) {
			text[i] = (char)other;
			if (text[i] != letter)
				assert_true(read_text(text) < 0);
		}
		text[i] = letter;
	}
	assert_int_equal(read_text(text), 0);
}

static void neither_shorter_nor_longer(void **unused)
{
	char text[TICKET_TEXT_BYTES + 8];
	struct ticket ticket;

	(void)unused;
	write_sample(0, text);
	for (size_t bytes = 0; bytes < TICKET_TEXT_BYTES - 1; bytes++)
		assert_int_equal(ticket_read(text, bytes, secrets, 2, &ticket), -EBADMSG);
	strcat(text, "A");
	assert_int_equal(read_text(text), -EBADMSG);
	strcat(text, "AAA");
	assert_int_equal(read_text(text), -EBADMSG);
	assert_int_equal(read_text(""), -EBADMSG);
}

static void only_who_knows_the_secret_makes_one(void **unused)
{
	char text[TICKET_TEXT_BYTES];
	struct ticket ticket = sample();

	(void)unused;
	assert_int_equal(ticket_write(&ticket, others[0], text), 0);
	assert_int_equal(read_text(text), -EBADMSG);
	write_sample(0, text);
	assert_int_equal(ticket_read(text, strlen(text), others, 1, &ticket), -EBADMSG);
	assert_int_equal(ticket_read(text, strlen(text), secrets, 0, &ticket), -EBADMSG);
}

static void another_version_is_told_apart(void **unused)
{
	char text[TICKET_TEXT_BYTES];

	(void)unused;
	write_sample(0, text);
	assert_int_equal(text[0], 'A');
	assert_int_equal(text[1] >= 'Q' && text[1] <= 'f', 1); /* version 1 */
	text[0] = 'B';
	assert_int_equal(read_text(text), -EPROTONOSUPPORT);
}

static void names_without_an_end_are_not_written(void **unused)
{
	char text[TICKET_TEXT_BYTES];
	struct ticket ticket = sample();

	(void)unused;
	memset(ticket.tenant, 'a', sizeof(ticket.tenant));
	assert_int_equal(ticket_write(&ticket, secrets[0], text), -EINVAL);
	ticket = sample();
	memset(ticket.address, 'a', sizeof(ticket.address));
	assert_int_equal(ticket_write(&ticket, secrets[0], text), -EINVAL);
	ticket = sample();
	ticket.tenant[20] = 'x';
	assert_int_equal(ticket_write(&ticket, secrets[0], text), -EINVAL);
	ticket = sample();
	ticket.reserved = 1;
	assert_int_equal(ticket_write(&ticket, secrets[0], text), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_written_is_read),
		cmocka_unit_test(no_letter_can_be_another),
		cmocka_unit_test(neither_shorter_nor_longer),
		cmocka_unit_test(only_who_knows_the_secret_makes_one),
		cmocka_unit_test(another_version_is_told_apart),
		cmocka_unit_test(names_without_an_end_are_not_written),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
