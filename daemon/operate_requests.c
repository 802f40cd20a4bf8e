/* daemon/operate_requests.c: REQUESTS: what became of the requests with a tag, or of the last. */
#include "daemon/operate.h"
#include "daemon/requests_parts.h"
#include "daemon/server.h"

#include <errno.h>
#include <string.h>

/* A request is at most so long in JSON, and so much stands behind the last. */
#define REQUEST_BYTES_MAX 2560u

static const char *const tier_names[TIERS] = { "cpu", "nvme" };

/* What a lookup was answered as, when not by what it found. */
static const char *looked_words(int result)
{
	switch (result) {
	case 0:
		return "answered";
	case -ENOENT:
		return "the bypass was on";
	case -EAGAIN:
		return "not all ranks of the engine were there yet";
	case -EBUSY:
		return "too many long lookups at once";
	default:
		return strerror(-result);
	}
}

static void looked_write(struct daemon *daemon, const struct request *request,
			 struct json_text *json)
{
	const struct request_looked *looked = &request->looked;

	json_text_object_begin(json, "lookup");
	json_text_unsigned(json, "times", request->lookups);
	json_text_unsigned(json, "refused_times", request->lookups_refused);
	json_text_string(json, "last", looked_words(looked->result));
	json_text_unsigned(json, "keys", looked->keys);
	for (unsigned tier = 0; tier < TIERS; tier++)
		json_text_unsigned(json, tier_names[tier], looked->found[tier]);
	json_text_unsigned(json, "asked_tokens", looked->asked_tokens);
	json_text_unsigned(json, "usable_tokens", looked->usable_tokens);
	json_text_unsigned(json, "worth_tokens", looked->worth_tokens);
	json_text_string(json, "lease", looked->has_lease     ? "granted"
					: looked->wants_lease ? "refused"
							      : "not wanted");
	if (looked->missing != NULL) {
		struct frame_explained_item item = { .reason = FRAME_REASON_NEVER_STORED };
		bool is_here = cache_space_is_known(daemon->cache, looked->space) &&
			       memcmp(cache_space_fingerprint(daemon->cache, looked->space),
				      request->fingerprint, SPACE_ID_BYTES) == 0;

		if (is_here)
			explain_key(daemon, looked->space, looked->missing_group, looked->missing,
				    &item);
		json_text_hex(json, "first_missing", looked->missing, BLOCK_HASH_BYTES);
		json_text_string(json, "first_missing_now",
				 is_here ? frame_reason_name(item.reason) : "no-such-space");
	}
	json_text_object_end(json);
}

static void transfers_write(const struct request_transfers *transfers, const char *name,
			    const char *done, struct json_text *json)
{
	const char *const names[REQUEST_OUTCOMES] = { done,	   "missed",  "expired",
						      "cancelled", "damaged", "failed" };

	json_text_object_begin(json, name);
	json_text_unsigned(json, "batches", transfers->batches);
	json_text_unsigned(json, "blocks", transfers->blocks);
	for (unsigned i = 0; i < REQUEST_OUTCOMES; i++)
		json_text_unsigned(json, names[i], transfers->outcomes[i]);
	json_text_unsigned(json, "longest_us", transfers->took_us_max);
	json_text_object_end(json);
}

static void admitted_write(const struct request *request, struct json_text *json)
{
	static const char *const names[CACHE_ADMISSIONS + 1] = {
		[CACHE_ADMITTED] = "wanted",
		[CACHE_PRESENT] = "present",
		[CACHE_ATTACHED] = "stored_by_another",
		[CACHE_REFUSED_PARENT] = "refused_parent",
		[CACHE_REFUSED_FULL] = "refused_full",
		[CACHE_REFUSED_SIZE] = "refused_size",
		[CACHE_ADMISSIONS] = "refused_busy",
	};

	json_text_object_begin(json, "store_answers");
	for (unsigned i = 0; i <= CACHE_ADMISSIONS; i++)
		json_text_unsigned(json, names[i], request->admitted[i]);
	json_text_object_end(json);
}

static void request_write(struct daemon *daemon, const struct request *request,
			  struct json_text *json)
{
	json_text_object_begin(json, NULL);
	json_text_hex(json, "trace", request->tag, FRAME_TAG_BYTES);
	json_text_string(json, "tenant", request->tenant->name);
	json_text_string(json, "engine", request->engine);
	json_text_hex(json, "space", request->fingerprint, SPACE_ID_BYTES);
	json_text_unsigned(json, "began_unix_us", request->began_wall_us);
	json_text_unsigned(json, "ago_us", daemon->now_us - request->began_us);
	json_text_unsigned(json, "lasted_us", request->changed_us - request->began_us);
	looked_write(daemon, request, json);
	transfers_write(&request->loads, "loads", "delivered", json);
	transfers_write(&request->stores, "stores", "stored", json);
	admitted_write(request, json);
	json_text_object_end(json);
}

/* The newest first, from `number` on; returns where the next page begins, 0: there is none. */
static uint64_t page_write(const struct operation *operation, uint64_t number,
				 struct json_text *json)
{
	static const uint8_t no_tag[FRAME_TAG_BYTES];
	struct daemon *daemon = operation->session->daemon;
	const uint8_t *tag = operation->frame->tag;
	bool is_any = memcmp(tag, no_tag, FRAME_TAG_BYTES) == 0;
	const struct request *request;

	for (; (request = requests_at(daemon->requests, number)) != NULL; number--) {
		if ((operation->tenant != NULL && request->tenant != operation->tenant) ||
		    (!is_any && memcmp(tag, request->tag, FRAME_TAG_BYTES) != 0))
			continue;
		if (json->bytes + REQUEST_BYTES_MAX > json->bytes_max)
			return number;
		request_write(daemon, request, json);
	}
	return 0;
}

void operate_requests(const struct operation *operation)
{
	struct daemon *daemon = operation->session->daemon;
	uint64_t number = operation->frame->cursor, next;
	struct json_text json;

	if (number == 0 || number > daemon->requests->last)
		number = daemon->requests->last;
	operate_answer_begin(daemon, &json);
	json_text_object_begin(&json, NULL);
	json_text_array_begin(&json, "requests");
	next = page_write(operation, number, &json);
	json_text_array_end(&json);
	json_text_unsigned(&json, "next", next);
	json_text_object_end(&json);
	operate_answer_end(operation->session, operation->frame->header.request, &json);
}
