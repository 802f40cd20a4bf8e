/* transfer/peer/channel_tls.c: TLS 1.3 of a channel, by OpenSSL, straight on its socket. */
#include "transfer/peer/channel_parts.h"

#include <assert.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORTER_LABEL "EXPORTER-kvtier-peer-1"

struct channel_tls {
	SSL_CTX *context;
};

/* The newest complaint of OpenSSL, in its words. */
static int complain(struct error *error, int code, const char *what)
{
	unsigned long number = ERR_peek_last_error();
	const char *reason = number != 0 ? ERR_reason_error_string(number) : NULL;

	ERR_clear_error();
	return error_set(error, code, "%s: %s", what, reason != NULL ? reason : "no reason given");
}

static int ca_add(SSL_CTX *context, const char *pem, struct error *error)
{
	BIO *bio = BIO_new_mem_buf(pem, -1);
	X509_STORE *store = SSL_CTX_get_cert_store(context);
	unsigned count = 0;
	X509 *certificate;

	if (bio == NULL)
		return error_set(error, -ENOMEM, "peer_tls_ca: no memory");
	while ((certificate = PEM_read_bio_X509(bio, NULL, NULL, NULL)) != NULL) {
		count += X509_STORE_add_cert(store, certificate) == 1;
		X509_free(certificate);
	}
	BIO_free(bio);
	if (count == 0)
		return complain(error, -EINVAL, "peer_tls_ca: no certificate in it");
	ERR_clear_error();   /* of the end of the file */
	return 0;
}

static int chain_add(SSL_CTX *context, const char *pem, struct error *error)
{
	BIO *bio = BIO_new_mem_buf(pem, -1);
	X509 *certificate = bio != NULL ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
	int result = 0;

	if (certificate == NULL || SSL_CTX_use_certificate(context, certificate) != 1)
		result = complain(error, -EINVAL, "peer_tls_certificate: no certificate in it");
	X509_free(certificate);
	while (result == 0 && (certificate = PEM_read_bio_X509(bio, NULL, NULL, NULL)) != NULL)
		if (SSL_CTX_add0_chain_cert(context, certificate) != 1) {
			X509_free(certificate);
			result = complain(error, -EINVAL, "peer_tls_certificate: its chain");
		}
	BIO_free(bio);
	ERR_clear_error();
	return result;
}

static int key_add(SSL_CTX *context, const char *pem, struct error *error)
{
	BIO *bio = BIO_new_mem_buf(pem, -1);
	/* A key that is enciphered cannot be asked about here. */
	EVP_PKEY *key = bio != NULL ? PEM_read_bio_PrivateKey(bio, NULL, NULL, (void *)"") : NULL;
	int result = 0;

	if (key == NULL || SSL_CTX_use_PrivateKey(context, key) != 1)
		result = complain(error, -EINVAL, "peer_tls_key: no private key of peer_tls_certificate in it");
	EVP_PKEY_free(key);
	BIO_free(bio);
	return result;
}

int channel_tls_create(struct channel_tls **out_tls, const char *ca, const char *certificate,
		       const char *key, struct error *error)
{
	struct channel_tls *tls = calloc(1, sizeof(*tls));
	int result = 0;

	if (tls != NULL)
		tls->context = SSL_CTX_new(TLS_method());
	if (tls == NULL || tls->context == NULL) {
		channel_tls_destroy(tls);
		return error_set(error, -ENOMEM, "no memory for TLS");
	}
	SSL_CTX_set_min_proto_version(tls->context, TLS1_3_VERSION);
	SSL_CTX_set_verify(tls->context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	SSL_CTX_set_session_cache_mode(tls->context, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_num_tickets(tls->context, 0);
	SSL_CTX_set_mode(tls->context,
			 SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	result = ca_add(tls->context, ca, error);
	if (result == 0)
		result = chain_add(tls->context, certificate, error);
	if (result == 0)
		result = key_add(tls->context, key, error);
	if (result == 0 && SSL_CTX_check_private_key(tls->context) != 1)
		result = complain(error, -EINVAL, "peer_tls_key: not the key of peer_tls_certificate");
	if (result < 0) {
		channel_tls_destroy(tls);
		return result;
	}
	*out_tls = tls;
	return 0;
}

void channel_tls_destroy(struct channel_tls *tls)
{
	if (tls == NULL)
		return;
	SSL_CTX_free(tls->context);
	free(tls);
}

/* ---- of one connection ---- */

static ssize_t outcome(struct channel *channel, int result)
{
	switch (SSL_get_error(channel->session, result)) {
	case SSL_ERROR_WANT_WRITE:
		channel->is_hungry = true;
		return -EAGAIN;
	case SSL_ERROR_WANT_READ:
		return -EAGAIN;
	case SSL_ERROR_ZERO_RETURN:
		return 0;
	case SSL_ERROR_SYSCALL:
		ERR_clear_error();
		return errno != 0 ? -errno : -ECONNRESET;
	default:
		snprintf(channel->fault, sizeof(channel->fault), "TLS: %s",
			 ERR_reason_error_string(ERR_peek_last_error()));
		ERR_clear_error();
		return -EPROTO;
	}
}

static ssize_t tls_read(struct channel *channel, void *target, size_t bytes)
{
	errno = 0;
	int result = SSL_read(channel->session, target, (int)bytes);
	return result > 0 ? result : outcome(channel, result);
}

static ssize_t tls_write(struct channel *channel, const void *source, size_t bytes)
{
	errno = 0;
	int result = SSL_write(channel->session, source, (int)bytes);
	return result > 0 ? result : outcome(channel, result);
}

static int tls_handshake(struct channel *channel, struct error *error)
{
	errno = 0;
	int result = SSL_do_handshake(channel->session);
	long verdict = SSL_get_verify_result(channel->session);

	if (result == 1)
		return 1;
	int failure = SSL_get_error(channel->session, result);
	if (failure == SSL_ERROR_WANT_READ || failure == SSL_ERROR_WANT_WRITE) {
		channel->is_hungry = failure == SSL_ERROR_WANT_WRITE;
		return 0;
	}
	if (verdict != X509_V_OK) {
		ERR_clear_error();
		return error_set(error, -EPERM, "TLS: the other node's certificate: %s",
				 X509_verify_cert_error_string(verdict));
	}
	if (failure == SSL_ERROR_SYSCALL || failure == SSL_ERROR_ZERO_RETURN) {
		ERR_clear_error();
		return error_set(error, -ECONNRESET,
				 "TLS: the other node closed it: it may speak without TLS, or does not "
				 "take our certificate");
	}
	return complain(error, -EPROTO, "TLS");
}

static void tls_exporter(const struct channel *channel, uint8_t out_bytes[CHANNEL_EXPORTER_BYTES])
{
	int result = SSL_export_keying_material(channel->session, out_bytes, CHANNEL_EXPORTER_BYTES,
						EXPORTER_LABEL, sizeof(EXPORTER_LABEL) - 1, NULL,
						0, 0);

	assert(result == 1);
}

static void tls_destroy(struct channel *channel)
{
	SSL_free(channel->session);   /* NULL is allowed; the socket is ours */
}

const struct channel_io channel_io_tls = {
	.read = tls_read,
	.write = tls_write,
	.handshake = tls_handshake,
	.exporter = tls_exporter,
	.destroy = tls_destroy,
};

int channel_tls_begin(struct channel *channel, struct error *error)
{
	const struct channel_config *config = &channel->config;
	SSL *session = SSL_new(config->tls->context);

	channel->session = session;
	if (session == NULL || SSL_set_fd(session, channel->fd) != 1)
		return error_set(error, -ENOMEM, "no memory for a TLS connection");
	if (config->tls_name != NULL && SSL_set1_host(session, config->tls_name) != 1)
		return error_set(error, -EINVAL, "TLS: \"%s\" cannot be a certificate's name",
				 config->tls_name);
	if (config->is_connecting)
		SSL_set_connect_state(session);
	else
		SSL_set_accept_state(session);
	return 0;
}
