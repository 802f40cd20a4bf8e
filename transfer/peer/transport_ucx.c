/* transfer/peer/transport_ucx.c: the UCX transport: one worker, an endpoint a link. */
#include "transfer/peer/ucx_link.h"

#include <errno.h>

#if HAVE_UCX

#include "base/checksum.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROGRESSES_A_STEP 64

/* ---- life ---- */

static int status_set(const struct transport *transport, ucs_status_t status, const char *what,
		      struct error *error)
{
	return error_set(error, status == UCS_ERR_NO_MEMORY ? -ENOMEM : -EIO, "UCX: %s: %s", what,
			 transport->calls->ucs_status_string(status));
}

static void ucx_destroy(struct transport *transport)
{
	if (transport == NULL)
		return;
	assert(list_is_empty(&transport->links));
	for (unsigned i = 0; i < transport->regions_count; i++)
		(void)transport->calls->ucp_mem_unmap(transport->context, transport->regions[i]);
	if (transport->worker != NULL)
		transport->calls->ucp_worker_destroy(transport->worker);
	if (transport->context != NULL)
		transport->calls->ucp_cleanup(transport->context);
	free(transport);
}

static int context_open(struct transport *transport, struct error *error)
{
	const ucp_params_t params = {
		.field_mask = UCP_PARAM_FIELD_FEATURES,
		.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP,
	};
	const ucp_worker_params_t worker_params = {
		.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
		.thread_mode = UCS_THREAD_MODE_SINGLE,
	};
	const struct ucx_calls *calls = transport->calls;
	ucp_config_t *config;
	ucs_status_t status = calls->ucp_config_read(NULL, NULL, &config);

	if (status != UCS_OK)
		return status_set(transport, status, "reading its settings", error);
	status = calls->ucp_init_version(UCP_API_MAJOR, UCP_API_MINOR, &params, config,
					 &transport->context);
	calls->ucp_config_release(config);
	if (status != UCS_OK) {
		transport->context = NULL;
		return status_set(transport, status, "starting", error);
	}
	status = calls->ucp_worker_create(transport->context, &worker_params, &transport->worker);
	if (status != UCS_OK) {
		transport->worker = NULL;
		return status_set(transport, status, "making a worker", error);
	}
	status = calls->ucp_worker_get_efd(transport->worker, &transport->fd);
	return status == UCS_OK ? 0
				: status_set(transport, status, "a descriptor to wait on", error);
}

static int worker_prepare(struct transport *transport, struct error *error)
{
	const struct ucx_calls *calls = transport->calls;
	const ucp_am_handler_param_t handler = {
		.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
			      UCP_AM_HANDLER_PARAM_FIELD_FLAGS | UCP_AM_HANDLER_PARAM_FIELD_ARG,
		.id = UCX_MESSAGE,
		.flags = UCP_AM_FLAG_WHOLE_MSG,
		.cb = ucx_message_take,
		.arg = transport,
	};
	ucp_worker_attr_t limits = { .field_mask = UCP_WORKER_ATTR_FIELD_MAX_AM_HEADER };
	ucp_address_t *address;
	size_t bytes;
	ucs_status_t status = calls->ucp_worker_set_am_recv_handler(transport->worker, &handler);

	if (status == UCS_OK)
		status = calls->ucp_worker_query(transport->worker, &limits);
	if (status == UCS_OK && limits.max_am_header < sizeof(struct ucx_head))
		return error_set(error, -ENOTSUP, "UCX: heads of messages are at most %zu bytes",
				 limits.max_am_header);
	if (status == UCS_OK)
		status = calls->ucp_worker_get_address(transport->worker, &address, &bytes);
	if (status != UCS_OK)
		return status_set(transport, status, "preparing the worker", error);
	bool fits = bytes <= sizeof(transport->address.bytes);
	if (fits) {
		memcpy(transport->address.bytes, address, bytes);
		transport->address.magic = UCX_ADDRESS_MAGIC;
		transport->address.checksum = crc32c(address, bytes);
		transport->address_bytes =
			(uint32_t)(offsetof(struct ucx_address, bytes) + bytes);
	}
	calls->ucp_worker_release_address(transport->worker, address);
	return fits ? 0
		    : error_set(error, -E2BIG,
				"UCX: this node's address has %zu bytes, %zu fit: name fewer"
				" devices in UCX_NET_DEVICES",
				bytes, sizeof(transport->address.bytes));
}

/* UCX reads it when it makes a worker, and knows no other way. */
static void ports_set(const struct transport_config *config)
{
	char range[24];

	if (config->port_min == 0)
		return;
	snprintf(range, sizeof(range), "%u-%u", config->port_min,
		 config->port_max > config->port_min ? config->port_max : config->port_min);
	(void)setenv("UCX_TCP_PORT_RANGE", range, 1);
}

static int ucx_create(struct transport **out_transport, const struct transport_config *config,
		      struct error *error)
{
	const struct ucx_calls *calls;
	int result = ucx_library_open(&calls, error);
	struct transport *transport = result == 0 ? calloc(1, sizeof(*transport)) : NULL;

	if (result < 0)
		return result;
	if (transport == NULL)
		return error_set(error, -ENOMEM, "no memory for a transport");
	transport->config = *config;
	transport->calls = calls;
	transport->now_us = clock_now_us(config->clock);
	list_init(&transport->links);
	ports_set(config);
	result = context_open(transport, error);
	if (result == 0)
		result = worker_prepare(transport, error);
	if (result < 0) {
		ucx_destroy(transport);
		return result;
	}
	*out_transport = transport;
	return 0;
}

static int ucx_region(struct transport *transport, void *start, uint64_t bytes, struct error *error)
{
	const ucp_mem_map_params_t params = {
		.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH,
		.address = start,
		.length = bytes,
	};

	if (transport->regions_count == TRANSPORT_REGIONS_MAX)
		return error_set(error, -EAGAIN, "UCX: at most %u regions", TRANSPORT_REGIONS_MAX);
	ucs_status_t status = transport->calls->ucp_mem_map(
		transport->context, &params, &transport->regions[transport->regions_count]);
	if (status != UCS_OK)
		return status_set(transport, status, "registering memory", error);
	transport->regions_count++;
	return 0;
}

static uint32_t ucx_address(struct transport *transport, const char *host, uint8_t *out_bytes)
{
	(void)host;   /* UCX names all of this node's devices */
	memcpy(out_bytes, &transport->address, transport->address_bytes);
	return transport->address_bytes;
}

/* ---- links ---- */

static struct transport_link *link_new(struct transport *transport, const uint8_t *token,
				       const struct transport_events *events, void *owner)
{
	uint16_t number = 0;

	while (number < TRANSPORT_LINKS_MAX && transport->by_number[number] != NULL)
		number++;
	struct transport_link *link =
		number < TRANSPORT_LINKS_MAX ? calloc(1, sizeof(*link)) : NULL;
	if (link == NULL)
		return NULL;
	link->transport = transport;
	link->events = events;
	link->owner = owner;
	link->number = number;
	memcpy(link->token, token, TRANSPORT_TOKEN_BYTES);
	link->moved_us = clock_now_us(transport->config.clock);
	list_init(&link->sends);
	list_append(&transport->links, &link->link);
	transport->by_number[number] = link;
	return link;
}

static int ucx_connect(struct transport *transport, const uint8_t *address, uint32_t address_bytes,
		       const uint8_t token[TRANSPORT_TOKEN_BYTES],
		       const struct transport_events *events, void *owner,
		       struct transport_link **out_link, struct error *error)
{
	struct ucx_address theirs = { 0 };

	if (address_bytes <= sizeof(theirs))
		memcpy(&theirs, address, address_bytes);
	if (!ucx_address_is_whole(&theirs, address_bytes))
		return error_set(error, -EINVAL, "not an address of ucx");
	struct transport_link *link = link_new(transport, token, events, owner);
	if (link == NULL)
		return error_set(error, -EAGAIN, "too many links");
	link->state = LINK_NAMING;
	link->theirs = theirs;
	ucx_link_greet(link, UCX_JOIN);
	*out_link = link;
	return 0;
}

static int ucx_expect(struct transport *transport, const uint8_t token[TRANSPORT_TOKEN_BYTES],
		      const struct transport_events *events, void *owner,
		      struct transport_link **out_link, struct error *error)
{
	struct transport_link *link = link_new(transport, token, events, owner);

	if (link == NULL)
		return error_set(error, -EAGAIN, "too many links");
	link->state = LINK_EXPECTING;
	*out_link = link;
	return 0;
}

static void ucx_send(struct transport_link *link, struct transport_send *send)
{
	assert(send->bytes <= TRANSPORT_PAYLOAD_MAX);
	send->to = link;
	list_append(&link->sends, &send->link);
	link->transport->has_dirty = true;
}

static void ucx_close(struct transport_link *link, int result, const char *reason)
{
	link->is_bye_due = link->is_bye_due || link->state != LINK_CLOSING;
	ucx_link_fail(link, result, reason);
}

static void link_end(struct transport_link *link)
{
	struct transport *transport = link->transport;

	list_remove(&transport->links, &link->link);
	transport->by_number[link->number] = NULL;
	link->events->down(link->owner, link->result, link->reason);
	free(link);
}

/* ---- each pass ---- */

/* Who expects waits as long as its owner likes. */
static void late_look(struct transport_link *link, uint64_t now_us)
{
	if (link->state == LINK_CLOSING)
		return;
	if (link->state == LINK_EXPECTING || !ucx_link_is_busy(link))
		link->moved_us = now_us;
	else if (now_us >= link->moved_us + link->transport->config.idle_us_max)
		ucx_link_fail(link, -ETIMEDOUT, "nothing moves on the data connection");
}

static bool ucx_step(struct transport *transport, uint64_t now_us)
{
	bool did_work = transport->has_dirty;
	unsigned passes = 0;

	transport->now_us = now_us;
	transport->has_dirty = false;
	while (passes < PROGRESSES_A_STEP &&
	       transport->calls->ucp_worker_progress(transport->worker) != 0)
		passes++;
	for (struct list_node *node = list_first(&transport->links); node != NULL;) {
		struct transport_link *link = list_item(node, struct transport_link, link);

		late_look(link, now_us);
		bool is_over = ucx_link_step(link);
		node = list_after(&transport->links, node);
		if (is_over)
			link_end(link);
	}
	return did_work || passes > 0;
}

static int ucx_fd(struct transport *transport)
{
	return transport->fd;
}

static bool ucx_arm(struct transport *transport)
{
	return !transport->has_dirty &&
	       transport->calls->ucp_worker_arm(transport->worker) == UCS_OK;
}

static void ucx_describe(struct transport *transport, char *text, size_t bytes)
{
	snprintf(text, bytes, "ucx %s%s%s", transport->calls->ucp_get_version_string(),
		 transport->lanes[0] != '\0' ? ":" : "", transport->lanes);
}

const struct transport_ops transport_ucx = {
	.name = "ucx",
	.create = ucx_create,
	.destroy = ucx_destroy,
	.region = ucx_region,
	.address = ucx_address,
	.connect = ucx_connect,
	.expect = ucx_expect,
	.send = ucx_send,
	.close = ucx_close,
	.step = ucx_step,
	.fd = ucx_fd,
	.arm = ucx_arm,
	.describe = ucx_describe,
};

#else

static int ucx_create(struct transport **out_transport, const struct transport_config *config,
		      struct error *error)
{
	(void)out_transport;
	(void)config;
	return error_set(error, -ENOSYS,
			 "kvtier was built without UCX (libucx-dev 1.13 or newer was not there)");
}

/* Nothing else of it is called, as there is no transport. */
const struct transport_ops transport_ucx = { .name = "ucx", .create = ucx_create };

#endif
