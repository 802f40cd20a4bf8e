/* transfer/peer/ucx_link.c: messages of UCX's links: who they are of, where they go, and that each
 * ends once. */
#include "transfer/peer/ucx_link.h"

#if HAVE_UCX

#include "base/checksum.h"
#include "base/crypto.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(struct ucx_head) <= sizeof(((struct transport_send *)0)->room),
	       "a head fits into the room of a send");

static int code_of(ucs_status_t status)
{
	switch (status) {
	case UCS_OK:
		return 0;
	case UCS_ERR_CANCELED:
		return -ECANCELED;
	case UCS_ERR_NO_MEMORY:
		return -ENOMEM;
	case UCS_ERR_CONNECTION_RESET:
	case UCS_ERR_NOT_CONNECTED:
	case UCS_ERR_REJECTED:
		return -ECONNRESET;
	case UCS_ERR_ENDPOINT_TIMEOUT:
	case UCS_ERR_TIMED_OUT:
		return -ETIMEDOUT;
	default:
		return -EIO;
	}
}

void ucx_link_fail(struct transport_link *link, int result, const char *reason)
{
	if (link->state == LINK_CLOSING)
		return;
	link->state = LINK_CLOSING;
	link->result = result;
	snprintf(link->reason, sizeof(link->reason), "%s", reason);
	link->transport->has_dirty = true;
}

static void fail_status(struct transport_link *link, ucs_status_t status, const char *what)
{
	char reason[TRANSPORT_REASON_BYTES];

	snprintf(reason, sizeof(reason), "%s: %s", what,
		 link->transport->calls->ucs_status_string(status));
	ucx_link_fail(link, code_of(status), reason);
}

bool ucx_link_is_busy(const struct transport_link *link)
{
	return link->state != LINK_JOINED || !list_is_empty(&link->sends) ||
	       link->under_way > 0 || link->receives_count > 0;
}

bool ucx_address_is_whole(const struct ucx_address *address, uint32_t bytes)
{
	const uint32_t before = offsetof(struct ucx_address, bytes);

	return bytes > before && bytes <= sizeof(*address) &&
	       address->magic == UCX_ADDRESS_MAGIC &&
	       address->checksum == crc32c(address->bytes, bytes - before);
}

/* ---- out ---- */

static void head_fill(const struct transport_link *link, struct ucx_head *head, enum ucx_kind kind)
{
	*head = (struct ucx_head){
		.magic = UCX_MAGIC,
		.kind = (uint16_t)kind,
		.to = link->their_number,
		.from = link->number,
	};
	memcpy(head->token, link->token, TRANSPORT_TOKEN_BYTES);
}

static void greeting_sent(void *request, ucs_status_t status, void *user_data)
{
	struct transport_link *link = user_data;

	link->transport->calls->ucp_request_free(request);
	link->under_way--;
	if (status != UCS_OK)
		fail_status(link, status, "the data connection");
}

static void failed(void *argument, ucp_ep_h endpoint, ucs_status_t status)
{
	(void)endpoint;
	fail_status(argument, status, "the data connection");
}

/* "lane[0]:  2:tcp/eth0.0 md[1] ...": what UCX says of an endpoint, for people. */
static void lanes_note(struct transport_link *link)
{
	struct transport *transport = link->transport;
	char *text = NULL, *at;
	size_t bytes, length = 0;
	FILE *stream = open_memstream(&text, &bytes);

	if (stream == NULL)
		return;
	transport->calls->ucp_ep_print_info(link->endpoint, stream);
	if (fclose(stream) != 0 || text == NULL) {
		free(text);
		return;
	}
	transport->lanes[0] = '\0';
	for (at = strstr(text, "lane["); at != NULL; at = strstr(at + 1, "lane[")) {
		char name[48];

		if (sscanf(at, "lane[%*u]: %*u:%47[^. \n]", name) == 1 &&
		    strstr(transport->lanes, name) == NULL && length < sizeof(transport->lanes))
			length += (size_t)snprintf(transport->lanes + length,
						   sizeof(transport->lanes) - length, " %s", name);
	}
	free(text);
}

void ucx_link_greet(struct transport_link *link, enum ucx_kind kind)
{
	struct transport *transport = link->transport;
	const ucp_ep_params_t params = {
		.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS |
			      UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER,
		.address = (const ucp_address_t *)link->theirs.bytes,
		.err_mode = UCP_ERR_HANDLING_MODE_PEER,
		.err_handler = { .cb = failed, .arg = link },
	};
	const ucp_request_param_t options = {
		.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
				UCP_OP_ATTR_FIELD_FLAGS,
		.flags = UCP_AM_SEND_FLAG_EAGER,
		.cb.send = greeting_sent,
		.user_data = link,
	};
	ucs_status_t status = transport->calls->ucp_ep_create(transport->worker, &params,
							      &link->endpoint);

	if (status != UCS_OK) {
		link->endpoint = NULL;
		fail_status(link, status, "the data connection");
		return;
	}
	lanes_note(link);
	head_fill(link, &link->greeting, kind);
	ucs_status_ptr_t request = transport->calls->ucp_am_send_nbx(
		link->endpoint, UCX_MESSAGE, &link->greeting, sizeof(link->greeting),
		&transport->address, transport->address_bytes, &options);
	if (UCS_PTR_IS_ERR(request))
		fail_status(link, UCS_PTR_STATUS(request), "the data connection");
	else if (request != NULL)
		link->under_way++;
}

static void sent(void *request, ucs_status_t status, void *user_data)
{
	struct transport_send *send = user_data;
	struct transport_link *link = send->to;

	link->transport->calls->ucp_request_free(request);
	link->under_way--;
	link->moved_us = link->transport->now_us;
	if (status != UCS_OK)
		fail_status(link, status, "sending");
	send->done(send, status == UCS_OK ? 0 : link->result);
}

static void send_give(struct transport_link *link, struct transport_send *send)
{
	struct transport *transport = link->transport;
	struct ucx_head *head = (struct ucx_head *)send->room;
	const ucp_request_param_t options = {
		.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
				UCP_OP_ATTR_FIELD_FLAGS,
		.flags = send->bytes > UCX_EAGER_BYTES_MAX ? UCP_AM_SEND_FLAG_RNDV
							   : UCP_AM_SEND_FLAG_EAGER,
		.cb.send = sent,
		.user_data = send,
	};

	head_fill(link, head, UCX_DATA);
	memcpy(head->head, send->head, TRANSPORT_HEAD_BYTES);
	ucs_status_ptr_t request = transport->calls->ucp_am_send_nbx(
		link->endpoint, UCX_MESSAGE, head, sizeof(*head), send->payload, send->bytes,
		&options);
	if (UCS_PTR_IS_PTR(request)) {
		link->under_way++;
		return;
	}
	if (UCS_PTR_IS_ERR(request))
		fail_status(link, UCS_PTR_STATUS(request), "sending");
	link->moved_us = transport->now_us;
	send->done(send, request == NULL ? 0 : link->result);
}

/* ---- in ---- */

static void receive_end(struct ucx_receive *receive, int result)
{
	struct transport_link *link = receive->link;

	receive->link = NULL;
	link->receives_count--;
	link->moved_us = link->transport->now_us;
	link->events->arrived(link->owner, receive->head, receive->bytes, receive->memory, result);
}

static void received(void *request, ucs_status_t status, size_t bytes, void *user_data)
{
	struct ucx_receive *receive = user_data;
	struct transport_link *link = receive->link;

	link->transport->calls->ucp_request_free(request);
	if (status == UCS_OK && bytes != receive->bytes)
		status = UCS_ERR_MESSAGE_TRUNCATED;
	if (status != UCS_OK)
		fail_status(link, status, "receiving");
	receive_end(receive, status == UCS_OK ? 0 : link->result);
}

static ucs_status_t receive_begin(struct transport_link *link, struct ucx_receive *receive,
				  void *description)
{
	struct transport *transport = link->transport;
	const ucp_request_param_t options = {
		.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
				UCP_OP_ATTR_FLAG_NO_IMM_CMPL,
		.cb.recv_am = received,
		.user_data = receive,
	};
	ucs_status_ptr_t request = transport->calls->ucp_am_recv_data_nbx(
		transport->worker, description, receive->memory, receive->bytes, &options);

	if (UCS_PTR_IS_PTR(request))
		return UCS_INPROGRESS;
	if (UCS_PTR_IS_ERR(request))
		fail_status(link, UCS_PTR_STATUS(request), "receiving");
	receive_end(receive, request == NULL ? 0 : link->result);
	return UCS_INPROGRESS;   /* the description is UCX's again in any case */
}

static ucs_status_t data_take(struct transport_link *link, const struct ucx_head *head, void *data,
			      uint32_t bytes, bool is_rendezvous)
{
	struct ucx_receive *receive = link->receives;

	while (receive < link->receives + UCX_RECEIVES_MAX && receive->link != NULL)
		receive++;
	if (receive == link->receives + UCX_RECEIVES_MAX) {
		ucx_link_fail(link, -EPROTO, "the other node sends more at once than it may");
		return UCS_OK;
	}
	*receive = (struct ucx_receive){ .link = link, .bytes = bytes };
	memcpy(receive->head, head->head, TRANSPORT_HEAD_BYTES);
	link->receives_count++;
	link->moved_us = link->transport->now_us;
	receive->memory = link->events->arriving(link->owner, receive->head, bytes);
	if (receive->memory != NULL && is_rendezvous)
		return receive_begin(link, receive, data);
	if (receive->memory != NULL && bytes > 0)
		memcpy(receive->memory, data, bytes);
	receive_end(receive, 0);
	return UCS_OK;   /* of what nobody wants no byte is sent to us */
}

/* Somebody names a token. */
static void join_take(struct transport *transport, const struct ucx_head *head, const void *data,
		      size_t bytes)
{
	struct list_node *node = list_first(&transport->links);

	for (; node != NULL; node = list_after(&transport->links, node)) {
		struct transport_link *link = list_item(node, struct transport_link, link);

		if (link->state != LINK_EXPECTING || bytes > sizeof(link->theirs) ||
		    !crypto_equal(link->token, head->token, TRANSPORT_TOKEN_BYTES))
			continue;
		memcpy(&link->theirs, data, bytes);
		if (!ucx_address_is_whole(&link->theirs, (uint32_t)bytes))
			return;
		link->their_number = head->from;
		link->moved_us = transport->now_us;
		link->state = LINK_ANSWERING;   /* no endpoint is made inside of UCX's call */
		return;
	}
}

/* The other node has closed it. */
static void bye_take(struct transport *transport, const struct ucx_head *head)
{
	struct list_node *node = list_first(&transport->links);

	for (; node != NULL; node = list_after(&transport->links, node)) {
		struct transport_link *link = list_item(node, struct transport_link, link);

		if (link->state != LINK_EXPECTING &&
		    crypto_equal(link->token, head->token, TRANSPORT_TOKEN_BYTES))
			ucx_link_fail(link, -ECONNRESET,
				      "the other node closed the data connection");
	}
}

static void joined(struct transport_link *link, uint16_t their_number)
{
	link->their_number = their_number;
	link->state = LINK_JOINED;
	link->moved_us = link->transport->now_us;
	link->events->up(link->owner);
}

ucs_status_t ucx_message_take(void *argument, const void *header, size_t header_bytes, void *data,
			      size_t bytes, const ucp_am_recv_param_t *param)
{
	struct transport *transport = argument;
	bool is_rendezvous = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0;
	struct ucx_head head;

	if (header_bytes != sizeof(head) || bytes > TRANSPORT_PAYLOAD_MAX)
		return UCS_OK;
	memcpy(&head, header, sizeof(head));
	if (head.magic != UCX_MAGIC || (is_rendezvous && head.kind != UCX_DATA))
		return UCS_OK;
	if (head.kind == UCX_JOIN) {
		join_take(transport, &head, data, bytes);
		return UCS_OK;
	}
	if (head.kind == UCX_BYE) {
		bye_take(transport, &head);
		return UCS_OK;
	}
	struct transport_link *link = head.to < TRANSPORT_LINKS_MAX ? transport->by_number[head.to]
								    : NULL;
	if (link == NULL || (link->state != LINK_NAMING && link->state != LINK_JOINED) ||
	    !crypto_equal(link->token, head.token, TRANSPORT_TOKEN_BYTES))
		return UCS_OK;
	/* Data may overtake ACCEPT, and says the same. */
	if (link->state == LINK_NAMING)
		joined(link, head.from);
	return head.kind == UCX_DATA && link->state == LINK_JOINED
		       ? data_take(link, &head, data, (uint32_t)bytes, is_rendezvous)
		       : UCS_OK;
}

/* ---- each pass ---- */

static void bye_sent(void *request, ucs_status_t status, void *user_data)
{
	struct transport_link *link = user_data;

	(void)status;
	link->transport->calls->ucp_request_free(request);
	link->under_way--;
	link->is_bye_under_way = false;
}

static void bye_send(struct transport_link *link)
{
	const ucp_request_param_t options = {
		.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
				UCP_OP_ATTR_FIELD_FLAGS,
		.flags = UCP_AM_SEND_FLAG_EAGER,
		.cb.send = bye_sent,
		.user_data = link,
	};

	head_fill(link, &link->bye, UCX_BYE);
	link->is_bye_due = false;
	link->bye_us = link->transport->now_us;
	link->is_bye_under_way = UCS_PTR_IS_PTR(link->transport->calls->ucp_am_send_nbx(
		link->endpoint, UCX_MESSAGE, &link->bye, sizeof(link->bye), NULL, 0, &options));
	link->under_way += link->is_bye_under_way;
}

/* UCX lets go of everything under way, by its callbacks, also when the other node is dead. */
static bool closing_step(struct transport_link *link)
{
	const struct ucx_calls *calls = link->transport->calls;
	const ucp_request_param_t by_force = { .op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS,
					       .flags = UCP_EP_CLOSE_FLAG_FORCE };
	struct list_node *node;

	link->transport->has_dirty = true;
	if (link->endpoint != NULL && link->is_bye_due)
		bye_send(link);
	if (link->is_bye_under_way && !link->is_endpoint_closing &&
	    link->transport->now_us < link->bye_us + UCX_BYE_US)
		return false;
	if (link->endpoint != NULL && !link->is_endpoint_closing) {
		link->is_endpoint_closing = true;
		link->close_request = calls->ucp_ep_close_nbx(link->endpoint, &by_force);
		if (UCS_PTR_IS_ERR(link->close_request))
			link->close_request = NULL;
	}
	if (link->close_request != NULL &&
	    calls->ucp_request_check_status(link->close_request) != UCS_INPROGRESS) {
		calls->ucp_request_free(link->close_request);
		link->close_request = NULL;
	}
	if (link->close_request != NULL || link->under_way > 0 || link->receives_count > 0)
		return false;
	while ((node = list_take_first(&link->sends)) != NULL) {
		struct transport_send *send = list_item(node, struct transport_send, link);

		send->done(send, link->result);
	}
	return true;
}

bool ucx_link_step(struct transport_link *link)
{
	struct list_node *node;

	if (link->state == LINK_ANSWERING) {
		ucx_link_greet(link, UCX_ACCEPT);
		if (link->state == LINK_ANSWERING)
			joined(link, link->their_number);
	}
	while (link->state == LINK_JOINED && link->under_way < UCX_SENDS_MAX &&
	       (node = list_take_first(&link->sends)) != NULL)
		send_give(link, list_item(node, struct transport_send, link));
	return link->state == LINK_CLOSING && closing_step(link);
}

#endif
