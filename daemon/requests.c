/* daemon/requests.c: finds a request by its tag, and notes what became of it. */
#include "daemon/requests_parts.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(REQUESTS_MAX < REQUEST_NONE, "places are named by 16 bits");
_Static_assert((REQUEST_BUCKETS & (REQUEST_BUCKETS - 1)) == 0, "buckets are chosen by a mask");

static bool tag_is_none(const uint8_t tag[FRAME_TAG_BYTES])
{
	static const uint8_t none[FRAME_TAG_BYTES];

	return memcmp(tag, none, FRAME_TAG_BYTES) == 0;
}

/* Tags are the clients' to choose: without the key nobody can choose many of one bucket. */
static uint16_t *bucket_of(struct requests *requests, const uint8_t tag[FRAME_TAG_BYTES])
{
	uint64_t halves[2], mixed;

	memcpy(halves, tag, sizeof(halves));
	mixed = (halves[0] ^ requests->key[0]) * UINT64_C(0x9e3779b97f4a7c15);
	mixed = (mixed ^ mixed >> 32 ^ halves[1] ^ requests->key[1]) * UINT64_C(0xd6e8feb86659fd93);
	mixed = (mixed ^ mixed >> 32) * UINT64_C(0xd6e8feb86659fd93);
	return &requests->buckets[mixed >> 32 & (REQUEST_BUCKETS - 1)];
}

struct request *requests_at(struct requests *requests, uint64_t number)
{
	struct request *request = &requests->requests[number % REQUESTS_MAX];

	return number != 0 && request->number == number ? request : NULL;
}

struct request *requests_find(struct requests *requests, const struct tenant *tenant,
			      const uint8_t tag[FRAME_TAG_BYTES])
{
	for (uint16_t place = *bucket_of(requests, tag); place != REQUEST_NONE;
	     place = requests->requests[place].next) {
		struct request *request = &requests->requests[place];

		if (request->tenant == tenant && memcmp(request->tag, tag, FRAME_TAG_BYTES) == 0)
			return request;
	}
	return NULL;
}

static void forget(struct requests *requests, struct request *request)
{
	uint16_t place = (uint16_t)(request - requests->requests);
	uint16_t *link = bucket_of(requests, request->tag);

	while (*link != place) {
		assert(*link != REQUEST_NONE);
		link = &requests->requests[*link].next;
	}
	*link = request->next;
	request->number = 0;
}

/* NULL: the frame has no tag. */
static struct request *request_of(struct session *session, const uint8_t tag[FRAME_TAG_BYTES])
{
	struct daemon *daemon = session->daemon;
	struct requests *requests = daemon->requests;
	struct request *request;
	uint16_t *bucket;

	if (tag_is_none(tag))
		return NULL;
	request = requests_find(requests, session->tenant, tag);
	if (request != NULL) {
		request->changed_us = daemon->now_us;
		return request;
	}
	request = &requests->requests[++requests->last % REQUESTS_MAX];
	if (request->number != 0)
		forget(requests, request);
	memset(request, 0, sizeof(*request));
	request->number = requests->last;
	memcpy(request->tag, tag, FRAME_TAG_BYTES);
	request->tenant = session->tenant;
	memcpy(request->engine, session->engine->name, FRAME_NAME_BYTES);
	request->began_us = request->changed_us = daemon->now_us;
	request->began_wall_us = clock_wall_us(daemon->clock);
	bucket = bucket_of(requests, tag);
	request->next = *bucket;
	*bucket = (uint16_t)(request - requests->requests);
	return request;
}

void requests_looked(struct session *session, const uint8_t tag[FRAME_TAG_BYTES],
		     const struct request_looked *looked)
{
	struct request *request = request_of(session, tag);

	if (request == NULL)
		return;
	request->lookups++;
	request->lookups_refused += looked->result < 0;
	request->looked = *looked;
	if (looked->missing != NULL) {
		memcpy(request->missing_hash, looked->missing, BLOCK_HASH_BYTES);
		request->looked.missing = request->missing_hash;
	}
	if (cache_space_is_known(session->daemon->cache, looked->space))
		memcpy(request->fingerprint,
		       cache_space_fingerprint(session->daemon->cache, looked->space),
		       SPACE_ID_BYTES);
}

uint64_t requests_begin(struct session *session, const uint8_t tag[FRAME_TAG_BYTES],
			      bool is_store, unsigned blocks)
{
	struct request *request = request_of(session, tag);
	struct request_transfers *transfers;

	if (request == NULL)
		return 0;
	transfers = is_store ? &request->stores : &request->loads;
	transfers->batches++;
	transfers->blocks += blocks;
	return request->number;
}

void requests_admitted(struct daemon *daemon, uint64_t number,
		       enum cache_admission admission, unsigned blocks)
{
	struct request *request = requests_at(daemon->requests, number);

	assert(admission <= CACHE_ADMISSIONS);
	if (request != NULL)
		request->admitted[admission] += blocks;
}

void requests_ended(struct daemon *daemon, uint64_t number, bool is_store,
		    enum request_outcome outcome, unsigned blocks)
{
	struct request *request = requests_at(daemon->requests, number);

	assert(outcome < REQUEST_OUTCOMES);
	if (request != NULL)
		(is_store ? &request->stores : &request->loads)->outcomes[outcome] += blocks;
}

void requests_over(struct daemon *daemon, uint64_t number, bool is_store, uint64_t took_us)
{
	struct request *request = requests_at(daemon->requests, number);
	struct request_transfers *transfers;

	if (request == NULL)
		return;
	request->changed_us = daemon->now_us;
	transfers = is_store ? &request->stores : &request->loads;
	if (took_us > transfers->took_us_max)
		transfers->took_us_max = took_us;
}

int requests_create(struct daemon *daemon, struct error *error)
{
	daemon->requests = calloc(1, sizeof(*daemon->requests));
	if (daemon->requests == NULL)
		return error_set(error, -ENOMEM, "no memory for %u requests%s", REQUESTS_MAX,
				 error_advice(-ENOMEM));
	daemon->requests->key[0] = random_next(&daemon->random);
	daemon->requests->key[1] = random_next(&daemon->random);
	memset(daemon->requests->buckets, 0xff, sizeof(daemon->requests->buckets));
	return 0;
}

void requests_destroy(struct daemon *daemon)
{
	free(daemon->requests);
	daemon->requests = NULL;
}
