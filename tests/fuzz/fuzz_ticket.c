/* tests/fuzz/fuzz_ticket.c: any bytes as a ticket's text, and any fields under a good signature. */
#include "proto/ticket.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes);

static const uint8_t secrets[1][TICKET_SECRET_BYTES] = { { 3, 1, 4 } };

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes)
{
	struct ticket ticket = { 0 }, again;
	char text[TICKET_TEXT_BYTES];
	char *copy = malloc(bytes > 0 ? bytes : 1);

	if (copy == NULL)
		return 0;
	memcpy(copy, input, bytes);
	/* Nobody guesses a MAC of 32 bytes. */
	if (ticket_read(copy, bytes, secrets, 1, &again) == 0 &&
	    (ticket_write(&again, secrets[0], text) != 0 || memcmp(text, copy, bytes) != 0))
		abort();
	free(copy);
	memcpy(&ticket, input, bytes < sizeof(ticket) ? bytes : sizeof(ticket));
	if (ticket_write(&ticket, secrets[0], text) == 0 &&
	    (ticket_read(text, strlen(text), secrets, 1, &again) != 0 ||
	     memcmp(&ticket, &again, sizeof(ticket)) != 0))
		abort();
	return 0;
}
