/* daemon/page.c: takes daemon/page.html into the program, and says what it may load. */
#include "daemon/page.h"

#include "base/crypto.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define DIGEST_TEXT_BYTES 48 /* 44 letters and a NUL */

__asm__(".section .rodata\n"
	".type page_html, @object\n"
	"page_html:\n"
	".incbin \"daemon/page.html\"\n"
	".byte 0\n"
	".size page_html, . - page_html\n"
	".previous\n");
extern const char page_html[] __attribute__((visibility("hidden")));

void page_write(struct text *text)
{
	text_add(text, page_html);
}

/* Of what stands between the first `open` and the `close` behind it. */
static void digest_write(const char *open, const char *close, char out[DIGEST_TEXT_BYTES])
{
	struct digest *digest = digest_begin();
	uint8_t bytes[CRYPTO_DIGEST_BYTES];
	const char *start = strstr(page_html, open), *end;

	assert(start != NULL);
	start += strlen(open);
	end = strstr(start, close);
	assert(end != NULL);
	digest_put(digest, start, (size_t)(end - start));
	digest_end(digest, bytes);
	crypto_base64(bytes, sizeof(bytes), out);
}

const char *page_policy(void)
{
	static char policy[512];
	char script[DIGEST_TEXT_BYTES], style[DIGEST_TEXT_BYTES];

	if (policy[0] != '\0')
		return policy;
	digest_write("<script>", "</script>", script);
	digest_write("<style>", "</style>", style);
	snprintf(policy, sizeof(policy),
		 "default-src 'none'; script-src 'sha256-%s'; style-src 'sha256-%s'; "
		 "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
		 "frame-ancestors 'none'; require-trusted-types-for 'script'",
		 script, style);
	return policy;
}
