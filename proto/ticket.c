/* proto/ticket.c: see ticket.h. */
#include "proto/ticket.h"

#include "base/crypto.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#define VERSION 1u
#define LABEL "kvtier ticket 1"

struct wire {
	uint8_t version;
	uint8_t fields[sizeof(struct ticket)];
	uint8_t mac[32];
};

static_assert(sizeof(struct ticket) == 264, "as it is signed: no padding");
static_assert(sizeof(struct wire) % 3 == 0, "base64 without padding, so each text has one reading");
static_assert(sizeof(struct wire) / 3 * 4 + 1 == TICKET_TEXT_BYTES, "its text");

static void mac_of(const struct wire *wire, const uint8_t secret[TICKET_SECRET_BYTES],
		   uint8_t out_mac[32])
{
	crypto_derive((struct crypto_bytes){ secret, TICKET_SECRET_BYTES },
		      (struct crypto_bytes){ LABEL, sizeof(LABEL) - 1 },
		      (struct crypto_bytes){ wire, offsetof(struct wire, mac) }, out_mac, 32);
}

static bool ends_in_zeros(const char *name, size_t bytes)
{
	const char *end = memchr(name, 0, bytes);

	if (end == NULL)
		return false;
	for (; end < name + bytes; end++)
		if (*end != 0)
			return false;
	return true;
}

static bool is_right(const struct ticket *ticket)
{
	return ticket->reserved == 0 && ends_in_zeros(ticket->tenant, sizeof(ticket->tenant)) &&
	       ends_in_zeros(ticket->address, sizeof(ticket->address));
}

int ticket_write(const struct ticket *ticket, const uint8_t secret[TICKET_SECRET_BYTES],
		 char out_text[TICKET_TEXT_BYTES])
{
	struct wire wire = { .version = VERSION };

	if (!is_right(ticket))
		return -EINVAL;
	memcpy(wire.fields, ticket, sizeof(wire.fields));
	mac_of(&wire, secret, wire.mac);
	crypto_base64(&wire, sizeof(wire), out_text);
	for (char *letter = out_text; *letter != 0; letter++)
		*letter = *letter == '+' ? '-' : *letter == '/' ? '_' : *letter;
	return 0;
}

/* One base64url letter's six bits, or -1. */
static int letter_bits(char letter)
{
	if (letter >= 'A' && letter <= 'Z')
		return letter - 'A';
	if (letter >= 'a' && letter <= 'z')
		return letter - 'a' + 26;
	if (letter >= '0' && letter <= '9')
		return letter - '0' + 52;
	return letter == '-' ? 62 : letter == '_' ? 63 : -1;
}

static bool text_read(const char *text, size_t bytes, void *out_bytes)
{
	uint8_t *out = out_bytes;

	if (bytes != TICKET_TEXT_BYTES - 1)
		return false;
	for (size_t i = 0; i < bytes; i += 4) {
		uint32_t word = 0;

		for (size_t j = 0; j < 4; j++) {
			int bits = letter_bits(text[i + j]);

			if (bits < 0)
				return false;
			word = word << 6 | (uint32_t)bits;
		}
		*out++ = (uint8_t)(word >> 16);
		*out++ = (uint8_t)(word >> 8);
		*out++ = (uint8_t)word;
	}
	return true;
}

int ticket_read(const char *text, size_t bytes, const uint8_t (*secrets)[TICKET_SECRET_BYTES],
		unsigned secrets_count, struct ticket *out_ticket)
{
	struct wire wire;
	bool is_ours = false;

	if (!text_read(text, bytes, &wire))
		return -EBADMSG;
	if (wire.version != VERSION)
		return -EPROTONOSUPPORT;
	for (unsigned i = 0; i < secrets_count; i++) {
		uint8_t mac[32];

		mac_of(&wire, secrets[i], mac);
		is_ours = crypto_equal(mac, wire.mac, sizeof(mac)) || is_ours;
	}
	if (!is_ours)
		return -EBADMSG;
	memcpy(out_ticket, wire.fields, sizeof(*out_ticket));
	return is_right(out_ticket) ? 0 : -EBADMSG;
}
