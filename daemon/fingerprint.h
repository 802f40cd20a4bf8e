/*
 * daemon/fingerprint.h: SHA-256 digests that name tenants and spaces. The only user of OpenSSL's
 * digests. Pure; any thread.
 */
#ifndef KVTIER_DAEMON_FINGERPRINT_H
#define KVTIER_DAEMON_FINGERPRINT_H

#include "proto/frames.h"

#include <stddef.h>
#include <stdint.h>

/* The first 16 bytes of SHA-256("kvtier/tenant/1" name). */
void fingerprint_tenant(const char *name, uint8_t out_digest[16]);
/*
 * The first 16 bytes of SHA-256 over tagged, length-prefixed values (u32 tag, u32 bytes, bytes):
 * "kvtier/space/1", tenant, world, each group's kind, tokens per block, payload bytes, segments,
 * window, then the typed fields of the registration in ascending order of their ids. Empty fields
 * are as absent.
 */
void fingerprint_space(const char *tenant, const struct frame_register *frame,
		       uint8_t out_fingerprint[16]);
/* The space of requests that use an adapter: of "kvtier/adapter/1", the base space and the
 * adapter's digest. */
void fingerprint_adapter(const uint8_t base[16], const uint8_t adapter[32],
			 uint8_t out_fingerprint[16]);

#endif
