/* tests/fuzz/fuzz_keyring.c: any text as a key file: refused with words that quote none of it, or
 * keys that are told apart. */
#include "daemon/keyring.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
	static struct keyring keyring;
	struct error error = { 0 };
	/* In memory of its own, so that a byte too far is noticed. */
	char *text = malloc(count + 1);

	if (text == NULL)
		return 0;
	memcpy(text, bytes, count);
	text[count] = '\0';
	memset(&keyring, 0, sizeof(keyring));
	if (keyring_read_text(&keyring, text, "keys", "tenant", &error) < 0) {
		assert(error.code < 0 && strncmp(error.text, "keys:", 5) == 0);
	} else {
		assert(keyring.count >= 1 && keyring.count <= KEYRING_KEYS_MAX);
		for (unsigned i = 0; i < keyring.count; i++) {
			assert(keyring.names[i][0] != '\0' && keyring.keys[i].id != 0);
			assert(keyring_find(&keyring, keyring.keys[i].id) == &keyring.keys[i]);
		}
	}
	free(text);
	return 0;
}
