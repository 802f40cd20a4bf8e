/* tests/peer/fake_transport.h: a transport of plain sockets, as simple as one can be, which tests
 * can hold up, cut and lie with. Memory of both ends is copied by read() and write(). */
#ifndef KVTIER_TESTS_PEER_FAKE_TRANSPORT_H
#define KVTIER_TESTS_PEER_FAKE_TRANSPORT_H

#include "transfer/peer/transport.h"

#define FAKE_LINKS 64u

struct fake_faults {
	uint64_t bytes_left;  /* that all links together may still write; UINT64_MAX: no bound */
	bool refuses_links;   /* connect() and expect() fail */
	bool never_joins;     /* links are begun and never up */
};
extern struct fake_faults fake_faults;
extern const struct transport_ops fake_transport, fake_transport_other;

/* Writes a message into the link, behind what is being written, whatever it says. */
void fake_transport_inject(struct transport_link *link, const void *head, const void *payload,
			   uint32_t bytes);
/* The connection breaks. */
void fake_transport_cut(struct transport_link *link);
/* In this process, up, in no order; NULL behind the last. */
struct transport_link *fake_transport_links(unsigned nth);
void *fake_transport_owner(struct transport_link *link);

#endif
