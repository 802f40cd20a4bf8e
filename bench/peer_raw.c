/* bench/peer_raw.c: the ceilings: a pair of sockets, and UCX's active messages with rendezvous,
 * with nothing of ours around them and no checksum. */
#include "bench/peer_flow.h"

#include "bench/micro.h"
#include "transfer/peer/ucx_parts.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- sockets, with the options that ours have ---- */

static int tcp_open(const struct flow_end *end, struct sockaddr_in *address)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	*address = (struct sockaddr_in){ .sin_family = AF_INET };
	if (inet_pton(AF_INET, end->host, &address->sin_addr) != 1)
		return -1;
	if (fd >= 0)
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return fd;
}

int flow_tcp_connect(struct flow_end *end)
{
	struct sockaddr_in address;
	int fd = tcp_open(end, &address);

	if (fd < 0 || flow_hear(end, &address.sin_port, sizeof(address.sin_port)) < 0 ||
	    connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return error_set(&end->error, -ENOTCONN, "no connection");
	return fd;
}

int flow_tcp_accept(struct flow_end *end)
{
	struct sockaddr_in address;
	socklen_t bytes = sizeof(address);
	int listener = tcp_open(end, &address);

	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(listener, 1) < 0 ||
	    getsockname(listener, (struct sockaddr *)&address, &bytes) < 0 ||
	    flow_say(end, &address.sin_port, sizeof(address.sin_port)) < 0)
		return error_set(&end->error, -errno, "cannot listen on %s", end->host);
	int fd = accept(listener, NULL, NULL);
	if (fd < 0)
		return error_set(&end->error, -errno, "nobody connects");
	return fd;
}

static int raw_tcp_give(struct flow_end *end)
{
	int fd = flow_tcp_connect(end);

	if (fd < 0)
		return fd;
	flow_begin(end);
	double began = flow_cpu_seconds();
	for (uint32_t i = 0; i < end->count; i++)
		for (size_t done = 0; done < end->bytes;) {
			ssize_t sent = send(fd, flow_slot(end, i) + done, end->bytes - done,
					    MSG_NOSIGNAL);

			if (sent <= 0)
				return error_set(&end->error, -EPIPE, "sending failed");
			done += (size_t)sent;
		}
	end->result.sender_cpu_seconds = flow_cpu_seconds() - began;
	return 0;
}

static int raw_tcp_take(struct flow_end *end)
{
	int fd = flow_tcp_accept(end);

	if (fd < 0)
		return fd;
	flow_begin(end);
	double began = micro_now();
	for (uint32_t i = 0; i < end->count; i++)
		if (recv(fd, flow_slot(end, i), end->bytes, MSG_WAITALL) != (ssize_t)end->bytes)
			return error_set(&end->error, -EPIPE, "receiving failed");
	end->result.seconds = micro_now() - began;
	end->result.bytes = (double)end->bytes * end->count;
	return 0;
}

const struct flow flow_raw_tcp = { .name = "a pair of sockets", .give = raw_tcp_give,
				   .take = raw_tcp_take };

/* ---- UCX ---- */

#if HAVE_UCX

#define MESSAGE_ID 7u

struct raw_ucx {
	struct flow_end *end;
	const struct ucx_calls *calls;
	ucp_context_h context;
	ucp_worker_h worker;
	int fd;
	uint32_t done, under_way;
	bool has_failed;
};

/* As the peer process has it. */
static int raw_open(struct raw_ucx *raw, struct flow_end *end)
{
	const ucp_params_t params = { .field_mask = UCP_PARAM_FIELD_FEATURES,
				      .features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP };
	const ucp_worker_params_t worker_params = { 0 };
	ucp_config_t *config;

	raw->end = end;
	(void)setenv("UCX_TLS", "^sm", 0);
	int result = ucx_library_open(&raw->calls, &end->error);
	if (result < 0)
		return result;
	if (raw->calls->ucp_config_read(NULL, NULL, &config) != UCS_OK ||
	    raw->calls->ucp_init_version(UCP_API_MAJOR, UCP_API_MINOR, &params, config,
					 &raw->context) != UCS_OK ||
	    raw->calls->ucp_worker_create(raw->context, &worker_params, &raw->worker) != UCS_OK ||
	    raw->calls->ucp_worker_get_efd(raw->worker, &raw->fd) != UCS_OK)
		return error_set(&end->error, -EIO, "UCX does not start");
	raw->calls->ucp_config_release(config);
	return 0;
}

static void raw_step(struct raw_ucx *raw)
{
	struct pollfd fd = { .fd = raw->fd, .events = POLLIN };

	if (raw->calls->ucp_worker_progress(raw->worker) == 0 &&
	    raw->calls->ucp_worker_arm(raw->worker) == UCS_OK)
		(void)poll(&fd, 1, 10);
}

static void raw_received(void *request, ucs_status_t status, size_t bytes, void *user_data)
{
	struct raw_ucx *raw = user_data;

	raw->calls->ucp_request_free(request);
	raw->has_failed = raw->has_failed || status != UCS_OK || bytes != raw->end->bytes;
	raw->done++;
}

static ucs_status_t raw_message(void *user_data, const void *header, size_t header_bytes,
				void *data, size_t bytes, const ucp_am_recv_param_t *param)
{
	struct raw_ucx *raw = user_data;
	const ucp_request_param_t options = {
		.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
				UCP_OP_ATTR_FLAG_NO_IMM_CMPL,
		.cb.recv_am = raw_received,
		.user_data = raw,
	};

	(void)header;
	(void)header_bytes;
	if ((param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) == 0) {
		memcpy(flow_slot(raw->end, raw->done++), data, bytes);
		return UCS_OK;
	}
	ucs_status_ptr_t request = raw->calls->ucp_am_recv_data_nbx(
		raw->worker, data, flow_slot(raw->end, raw->done), bytes, &options);
	raw->has_failed = raw->has_failed || UCS_PTR_IS_ERR(request);
	return UCS_INPROGRESS;
}

static int raw_ucx_take(struct flow_end *end)
{
	struct raw_ucx raw = { 0 };
	const ucp_am_handler_param_t handler = {
		.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
			      UCP_AM_HANDLER_PARAM_FIELD_FLAGS | UCP_AM_HANDLER_PARAM_FIELD_ARG,
		.id = MESSAGE_ID,
		.flags = UCP_AM_FLAG_WHOLE_MSG,
		.cb = raw_message,
		.arg = &raw,
	};
	ucp_address_t *address;
	size_t bytes;
	int result = raw_open(&raw, end);

	if (result < 0)
		return result;
	if (raw.calls->ucp_worker_set_am_recv_handler(raw.worker, &handler) != UCS_OK ||
	    raw.calls->ucp_worker_get_address(raw.worker, &address, &bytes) != UCS_OK ||
	    flow_say(end, &bytes, sizeof(bytes)) < 0 || flow_say(end, address, bytes) < 0)
		return error_set(&end->error, -EIO, "UCX has no address");
	flow_begin(end);
	double began = micro_now();
	while (raw.done < end->count && !raw.has_failed)
		raw_step(&raw);
	end->result.seconds = micro_now() - began;
	end->result.bytes = (double)end->bytes * end->count;
	(void)!flow_say(end, "e", 1);
	return raw.has_failed ? error_set(&end->error, -EIO, "UCX: receiving failed") : 0;
}

static void raw_sent(void *request, ucs_status_t status, void *user_data)
{
	struct raw_ucx *raw = user_data;

	raw->calls->ucp_request_free(request);
	raw->has_failed = raw->has_failed || status != UCS_OK;
	raw->under_way--;
}

static void raw_send(struct raw_ucx *raw, ucp_ep_h endpoint, uint64_t number)
{
	const ucp_request_param_t options = {
		.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
				UCP_OP_ATTR_FIELD_FLAGS,
		.flags = UCP_AM_SEND_FLAG_RNDV,
		.cb.send = raw_sent,
		.user_data = raw,
	};
	static uint8_t head[TRANSPORT_HEAD_BYTES];
	ucs_status_ptr_t request = raw->calls->ucp_am_send_nbx(
		endpoint, MESSAGE_ID, head, sizeof(head), flow_slot(raw->end, number),
		raw->end->bytes, &options);

	raw->has_failed = raw->has_failed || UCS_PTR_IS_ERR(request);
	raw->under_way += UCS_PTR_IS_PTR(request);
}

static int raw_ucx_give(struct flow_end *end)
{
	static uint8_t address[TRANSPORT_ADDRESS_BYTES_MAX];
	const ucp_ep_params_t params = {
		.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS |
			      UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE,
		.err_mode = end->is_guarded ? UCP_ERR_HANDLING_MODE_PEER
					    : UCP_ERR_HANDLING_MODE_NONE,
		.address = (ucp_address_t *)address,
	};
	struct raw_ucx raw = { 0 };
	ucp_ep_h endpoint;
	size_t bytes;
	int result = raw_open(&raw, end);

	if (result < 0)
		return result;
	if (flow_hear(end, &bytes, sizeof(bytes)) < 0 || bytes > sizeof(address) ||
	    flow_hear(end, address, bytes) < 0 ||
	    raw.calls->ucp_ep_create(raw.worker, &params, &endpoint) != UCS_OK)
		return error_set(&end->error, -ENOTCONN, "UCX: no endpoint");
	flow_begin(end);
	double began = flow_cpu_seconds();
	for (uint32_t i = 0; i < end->count && !raw.has_failed; i++) {
		while (raw.under_way >= FLOW_UNDER_WAY && !raw.has_failed)
			raw_step(&raw);
		raw_send(&raw, endpoint, i);
	}
	while (raw.under_way > 0 && !raw.has_failed)
		raw_step(&raw);
	end->result.sender_cpu_seconds = flow_cpu_seconds() - began;
	char word;
	(void)!flow_hear(end, &word, 1);
	return raw.has_failed ? error_set(&end->error, -EIO, "UCX: sending failed") : 0;
}

#else

static int raw_ucx_give(struct flow_end *end)
{
	return error_set(&end->error, -ENOSYS, "built without UCX");
}

static int raw_ucx_take(struct flow_end *end)
{
	return error_set(&end->error, -ENOSYS, "built without UCX");
}

#endif

const struct flow flow_raw_ucx = { .name = "UCX's active messages", .give = raw_ucx_give,
				   .take = raw_ucx_take, .is_guarded = true };
const struct flow flow_raw_ucx_unguarded = { .name = "UCX's active messages, unguarded",
					     .give = raw_ucx_give, .take = raw_ucx_take };
