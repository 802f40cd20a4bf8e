/* tests/sim/model.c: what may be returned. */
#include "tests/sim/model.h"

#include <assert.h>
#include <string.h>

struct model model;

static uint64_t mix(uint64_t value)
{
	value += UINT64_C(0x9e3779b97f4a7c15);
	value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
	return value ^ (value >> 31);
}

void model_start(void)
{
	model.count = 0;
	model.moment = 1;
	model.served = model.missed = model.stored = 0;
	memset(model.bypassed, 0, sizeof(model.bypassed));
	model.bypassed_all = model.drained = 0;
}

uint64_t model_now(void)
{
	return ++model.moment;
}

uint32_t model_store(const struct identity *identity, const struct stretch *at)
{
	if (model.count == VERSIONS_MAX)
		return 0;
	model.versions[model.count++] = (struct version){ .identity = *identity, .at = *at };
	return model.count;
}

void model_stored(uint32_t version)
{
	assert(version >= 1 && version <= model.count);
	model.versions[version - 1].ended = model_now();
}

static bool is_same(const struct identity *a, const struct identity *b)
{
	return a->tenant == b->tenant && a->model == b->model && a->adapter == b->adapter;
}

void model_forgot(const struct identity *identity, bool is_of_tenant, uint64_t began)
{
	uint64_t now = model_now();

	for (uint32_t i = 0; i < model.count; i++) {
		struct version *version = &model.versions[i];

		if (version->ended == 0 || version->ended > began || version->forgotten != 0)
			continue;
		if (is_of_tenant ? version->identity.tenant == identity->tenant
				 : is_same(&version->identity, identity))
			version->forgotten = now;
	}
}

static bool covers(const struct version *version, const struct stretch *at)
{
	return version->at.chain == at->chain && version->at.group == at->group &&
	       version->at.shard == at->shard && version->at.first <= at->first &&
	       at->first < version->at.first + version->at.count;
}

const char *model_refuses(uint32_t number, const struct identity *identity,
			  const struct stretch *at, uint64_t began)
{
	const struct version *version = &model.versions[number - 1];

	if (number < 1 || number > model.count)
		return "nobody ever stored these bytes";
	if (version->identity.tenant != identity->tenant)
		return "they are another tenant's";
	if (!is_same(&version->identity, identity))
		return "they are of another model or adapter";
	if (!covers(version, at))
		return "they are of another block";
	if (version->forgotten != 0 && version->forgotten <= began)
		return "they had been forgotten";
	return NULL;
}

bool model_may_have(const struct identity *identity, const struct stretch *at, uint64_t began)
{
	for (uint32_t i = model.count; i > 0; i--) {
		const struct version *version = &model.versions[i - 1];

		if (covers(version, at) && is_same(&version->identity, identity) &&
		    (version->forgotten == 0 || version->forgotten > began))
			return true;
	}
	return false;
}

void model_hash(unsigned chain, unsigned position, uint8_t out_hash[FRAME_HASH_BYTES])
{
	for (unsigned i = 0; i < FRAME_HASH_BYTES / sizeof(uint64_t); i++) {
		uint64_t word = mix(((uint64_t)chain << 32 | position) * 4 + i + 1);

		memcpy(out_hash + i * sizeof(word), &word, sizeof(word));
	}
}

static uint64_t payload_word(const struct stretch *at, uint64_t first_word, unsigned position)
{
	return mix(first_word ^ (uint64_t)position << 48 ^ (uint64_t)at->group << 40);
}

static uint64_t payload_next(uint64_t word)
{
	return word * UINT64_C(6364136223846793005) + 1442695040888963407u;
}

void model_payload(uint32_t number, unsigned position, uint8_t *target, uint64_t bytes)
{
	const struct version *version = &model.versions[number - 1];
	uint64_t word = (uint64_t)number << 16 | version->at.shard;
	uint64_t state = payload_word(&version->at, word, position);

	for (uint64_t at = 0; at < bytes; at += sizeof(word)) {
		memcpy(target + at, &word, bytes - at < sizeof(word) ? bytes - at : sizeof(word));
		word = state = payload_next(state);
	}
}

uint32_t model_version_of(const uint8_t *payload)
{
	uint64_t word;

	memcpy(&word, payload, sizeof(word));
	return word >> 16 <= model.count ? (uint32_t)(word >> 16) : 0;
}

bool model_is_payload(const uint8_t *bytes)
{
	uint32_t number = model_version_of(bytes);
	const struct stretch *at;
	uint64_t words[2];

	if (number == 0)
		return false;
	at = &model.versions[number - 1].at;
	memcpy(words, bytes, sizeof(words));
	if ((words[0] & 0xffff) != at->shard)
		return false;
	for (unsigned i = at->first; i < at->first + (unsigned)at->count; i++)
		if (words[1] == payload_next(payload_word(at, words[0], i)))
			return true;
	return false;
}
