/* tests/transfer/certificates.c: see certificates.h. */
#include "tests/transfer/certificates.h"

#include <assert.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>

static long serials;

static void pem_take(BIO *bio, char *out)
{
	char *bytes;
	long count = BIO_get_mem_data(bio, &bytes);

	assert(count > 0 && count < PEM_BYTES);
	memcpy(out, bytes, (size_t)count);
	out[count] = 0;
	BIO_free(bio);
}

static void extension_add(X509 *certificate, int kind, const char *value)
{
	X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, kind, value);

	assert(extension != NULL);
	X509_add_ext(certificate, extension, -1);
	X509_EXTENSION_free(extension);
}

static void issue(X509 *certificate, EVP_PKEY *own_key, const struct test_certificate *issuer)
{
	EVP_PKEY *key = own_key;
	X509 *parent = certificate;

	if (issuer != NULL) {
		BIO *bio = BIO_new_mem_buf(issuer->certificate, -1);
		parent = PEM_read_bio_X509(bio, NULL, NULL, NULL);
		BIO_free(bio);
		bio = BIO_new_mem_buf(issuer->key, -1);
		key = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
		BIO_free(bio);
	}
	X509_set_issuer_name(certificate, X509_get_subject_name(parent));
	int length = X509_sign(certificate, key, EVP_sha256());
	assert(length > 0);
	if (issuer != NULL) {
		X509_free(parent);
		EVP_PKEY_free(key);
	}
}

void certificate_make(struct test_certificate *out, const struct test_certificate *issuer,
		      const char *name, bool is_over)
{
	X509 *certificate = X509_new();
	EVP_PKEY *key = EVP_EC_gen("P-256");
	char alternative[128];

	assert(certificate != NULL && key != NULL);
	X509_set_version(certificate, X509_VERSION_3);
	ASN1_INTEGER_set(X509_get_serialNumber(certificate), ++serials);
	X509_gmtime_adj(X509_getm_notBefore(certificate), -172800);
	X509_gmtime_adj(X509_getm_notAfter(certificate), is_over ? -86400 : 86400);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC,
				   (const unsigned char *)name, -1, -1, 0);
	X509_set_pubkey(certificate, key);
	if (issuer == NULL) {
		extension_add(certificate, NID_basic_constraints, "critical,CA:TRUE");
	} else {
		snprintf(alternative, sizeof(alternative), "DNS:%s", name);
		extension_add(certificate, NID_subject_alt_name, alternative);
	}
	issue(certificate, key, issuer);
	BIO *bio = BIO_new(BIO_s_mem());
	PEM_write_bio_X509(bio, certificate);
	pem_take(bio, out->certificate);
	bio = BIO_new(BIO_s_mem());
	PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL);
	pem_take(bio, out->key);
	X509_free(certificate);
	EVP_PKEY_free(key);
}
