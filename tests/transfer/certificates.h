/* tests/transfer/certificates.h: certificates for tests, made on the spot. */
#ifndef KVTIER_TESTS_TRANSFER_CERTIFICATES_H
#define KVTIER_TESTS_TRANSFER_CERTIFICATES_H

#include <stdbool.h>

#define PEM_BYTES 4096

struct test_certificate {
	char certificate[PEM_BYTES], key[PEM_BYTES];
};

/* By `issuer` (NULL: by itself, a CA's), with this name; `is_over`: valid until yesterday. */
void certificate_make(struct test_certificate *out, const struct test_certificate *issuer,
		      const char *name, bool is_over);

#endif
