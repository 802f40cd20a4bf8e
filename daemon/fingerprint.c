/* daemon/fingerprint.c: tagged, length-prefixed digests, so that no two lists of fields give the
 * same bytes. */
#include "daemon/fingerprint.h"

#include "base/crypto.h"

#include <string.h>

#define TAG_DOMAIN 0u
#define TAG_TENANT 1u
#define TAG_WORLD  2u
#define TAG_GROUP  3u
#define TAG_FIELD  256u     /* + the field's id */
#define TAG_BASE   4u
#define TAG_ADAPTER 5u

static void put(struct digest *digest, uint32_t tag, const void *bytes, uint32_t bytes_count)
{
	uint32_t head[2] = { tag, bytes_count };

	digest_put(digest, head, sizeof(head));
	digest_put(digest, bytes, bytes_count);
}

static struct digest *begin(const char *domain)
{
	struct digest *digest = digest_begin();

	put(digest, TAG_DOMAIN, domain, (uint32_t)strlen(domain));
	return digest;
}

static void end(struct digest *digest, uint8_t out_bytes[16])
{
	uint8_t whole[CRYPTO_DIGEST_BYTES];

	digest_end(digest, whole);
	memcpy(out_bytes, whole, 16);
}

void fingerprint_tenant(const char *name, uint8_t out_digest[16])
{
	struct digest *digest = begin("kvtier/tenant/1");

	put(digest, TAG_TENANT, name, (uint32_t)strlen(name));
	end(digest, out_digest);
}

void fingerprint_space(const char *tenant, const struct frame_register *frame,
		       uint8_t out_fingerprint[16])
{
	struct digest *digest = begin("kvtier/space/1");
	const struct frame_group *groups = frame_register_groups(frame);
	const uint8_t *fields = frame_register_fields(frame);
	uint32_t world = frame->world;

	put(digest, TAG_TENANT, tenant, (uint32_t)strlen(tenant));
	put(digest, TAG_WORLD, &world, sizeof(world));
	for (unsigned i = 0; i < frame->groups_count; i++)
		put(digest, TAG_GROUP, &groups[i], sizeof(groups[i]));
	for (uint32_t at = 0; at < frame->fields_bytes;) {
		uint16_t head[2];

		memcpy(head, fields + at, sizeof(head));
		if (head[1] > 0)
			put(digest, TAG_FIELD + head[0], fields + at + sizeof(head), head[1]);
		at += (uint32_t)sizeof(head) + head[1];
	}
	end(digest, out_fingerprint);
}

void fingerprint_adapter(const uint8_t base[16], const uint8_t adapter[32],
			 uint8_t out_fingerprint[16])
{
	struct digest *digest = begin("kvtier/adapter/1");

	put(digest, TAG_BASE, base, 16);
	put(digest, TAG_ADAPTER, adapter, 32);
	end(digest, out_fingerprint);
}
