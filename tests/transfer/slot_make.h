/* tests/transfer/slot_make.h: good slots, to be damaged. Pure functions. */
#ifndef KVTIER_TESTS_TRANSFER_SLOT_MAKE_H
#define KVTIER_TESTS_TRANSFER_SLOT_MAKE_H

#include "transfer/slot_header.h"

#define PAYLOAD_BYTES 30001u /* leaves padding to check */
#define SEGMENTS 7u

/* A good slot of `seed`, at `offset` of the device, of PAYLOAD_BYTES. */
void slot_make(uint8_t *slot, uint64_t seed, const uint8_t *device, uint64_t offset);
/* Fills in the checksums of the segments. */
void segments_seal(struct slot_header *header);

#endif
