/* proto/http_authority.c: what may name a host, in Host and in an absolute target. */
#include "proto/http_parts.h"

#include <string.h>

#define PORT_MAX 65535u

static bool is_name_character(char letter)
{
	if ((letter >= '0' && letter <= '9') || (letter >= 'a' && letter <= 'z') ||
	    (letter >= 'A' && letter <= 'Z'))
		return true;
	/* No ',': it would be two hosts for who splits lists. */
	return letter != '\0' && strchr("-._~!$&'()*+;=", letter) != NULL;
}

/* As far as the end of "[...]"; 0: it is none. */
static size_t address_bytes(struct http_slice slice)
{
	size_t bytes = 1;
	unsigned colons = 0;

	for (; bytes < slice.bytes && slice.start[bytes] != ']'; bytes++) {
		char letter = slice.start[bytes];

		if (letter == ':')
			colons++;
		else if (letter != '.' && http_hexadecimal(letter) < 0)
			return 0;
	}
	return bytes < slice.bytes && colons >= 2 ? bytes + 1 : 0;
}

/* As far as ':' or the end; 0: not a name. */
static size_t name_bytes(struct http_slice slice)
{
	size_t bytes = 0;

	while (bytes < slice.bytes && slice.start[bytes] != ':') {
		if (slice.start[bytes] == '%') {
			if (slice.bytes - bytes < 3 ||
			    http_hexadecimal(slice.start[bytes + 1]) < 0 ||
			    http_hexadecimal(slice.start[bytes + 2]) < 0)
				return 0;
			bytes += 3;
		} else if (is_name_character(slice.start[bytes])) {
			bytes++;
		} else {
			return 0;
		}
	}
	return bytes;
}

bool http_is_authority(struct http_slice slice)
{
	size_t bytes = slice.bytes > 0 && slice.start[0] == '[' ? address_bytes(slice)
								: name_bytes(slice);
	unsigned port = 0;

	if (bytes == 0)
		return false;
	if (bytes == slice.bytes)
		return true;
	if (slice.start[bytes++] != ':')
		return false;
	for (; bytes < slice.bytes; bytes++) {
		if (slice.start[bytes] < '0' || slice.start[bytes] > '9')
			return false;
		port = port * 10 + (unsigned)(slice.start[bytes] - '0');
		if (port > PORT_MAX)
			return false;
	}
	return true;
}
