/*
 * proto/ticket.h: what one kvtierd promises to whoever brings it back: these blocks, from here,
 * to one other node, once, until then. An opaque text for engines and proxies.
 *
 * The text is base64url (RFC 4648, no padding) of a version's byte, the fields, and a MAC over
 * both: HKDF-SHA256 under the cluster's secret with a label of its own, so nobody without the
 * secret can make one, change one, or take another proof of the cluster for one. What of the
 * promise is still open only the issuer knows.
 */
#ifndef KVTIER_PROTO_TICKET_H
#define KVTIER_PROTO_TICKET_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

#define TICKET_SECRET_BYTES 32u
#define TICKET_TEXT_BYTES 397u  /* with its NUL; always so long */
#define TICKET_NODE_BYTES 16u
#define TICKET_SPACE_BYTES 16u
#define TICKET_TENANT_BYTES 64u
#define TICKET_ADDRESS_BYTES 128u

/* Little-endian, as it is signed. Names end in a NUL inside and are zero behind it. */
struct ticket {
	uint64_t boot_id;           /* of the issuer: it ends with that life */
	uint64_t number;            /* of the issuer */
	uint64_t expires_us;        /* by the issuer's own clock: nobody else can judge it */
	uint64_t bytes;             /* of all blocks and shards, at most */
	uint8_t node[TICKET_NODE_BYTES];
	uint8_t fingerprint[TICKET_SPACE_BYTES]; /* of the space */
	uint32_t blocks_count;
	uint32_t reserved;
	char tenant[TICKET_TENANT_BYTES];
	char address[TICKET_ADDRESS_BYTES]; /* "host:port" at which the issuer is reached */
};

/* -EINVAL: a name that does not end, or a reserved field that is not zero. */
must_check int ticket_write(const struct ticket *ticket, const uint8_t secret[TICKET_SECRET_BYTES],
			    char out_text[TICKET_TEXT_BYTES]);
/*
 * Only a text that ticket_write() made with one of these secrets is read. -EBADMSG: any other;
 * -EPROTONOSUPPORT: of another version (which is not believed either). `bytes` without a NUL.
 */
must_check int ticket_read(const char *text, size_t bytes,
			   const uint8_t (*secrets)[TICKET_SECRET_BYTES], unsigned secrets_count,
			   struct ticket *out_ticket);

#endif
