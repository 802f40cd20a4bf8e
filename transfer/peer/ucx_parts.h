/*
 * transfer/peer/ucx_parts.h: UCX's calls that the UCX transport makes, looked up in libucp.so.0
 * when a transport is made: a program starts without it. Types are those of UCX's own header,
 * so a build without that header has no UCX (HAVE_UCX=0). For the files of that transport alone.
 */
#ifndef KVTIER_TRANSFER_PEER_UCX_PARTS_H
#define KVTIER_TRANSFER_PEER_UCX_PARTS_H

#include "base/error.h"

#if HAVE_UCX
#include <ucp/api/ucp.h>

#define UCX_MAJOR 1u
#define UCX_MINOR_MIN 13u   /* the oldest that this was tried with */

/* All are needed; each has the type that the header gives it. */
#define UCX_CALLS(call)                                                                            \
	call(ucp_get_version)                                                                      \
	call(ucp_get_version_string)                                                               \
	call(ucp_config_read)                                                                      \
	call(ucp_config_release)                                                                   \
	call(ucp_init_version)                                                                     \
	call(ucp_cleanup)                                                                          \
	call(ucp_worker_create)                                                                    \
	call(ucp_worker_destroy)                                                                   \
	call(ucp_worker_query)                                                                     \
	call(ucp_worker_get_address)                                                               \
	call(ucp_worker_release_address)                                                           \
	call(ucp_worker_get_efd)                                                                   \
	call(ucp_worker_arm)                                                                       \
	call(ucp_worker_progress)                                                                  \
	call(ucp_worker_set_am_recv_handler)                                                       \
	call(ucp_ep_create)                                                                        \
	call(ucp_ep_close_nbx)                                                                     \
	call(ucp_ep_print_info)                                                                    \
	call(ucp_am_send_nbx)                                                                      \
	call(ucp_am_recv_data_nbx)                                                                 \
	call(ucp_request_check_status)                                                             \
	call(ucp_request_free)                                                                     \
	call(ucp_mem_map)                                                                          \
	call(ucp_mem_unmap)                                                                        \
	call(ucs_status_string)

struct ucx_calls {
#define UCX_FIELD(name) __typeof__(name) *name;
	UCX_CALLS(UCX_FIELD)
#undef UCX_FIELD
};

/* Opens the library, once in a process: it cannot be unloaded, as it has threads and hooks.
 * -ENOSYS: it is not here, or too old. UCX is told to leave signals and our process's end to us,
 * and to log where we do. */
int ucx_library_open(const struct ucx_calls **out_calls, struct error *error);

#endif
#endif
