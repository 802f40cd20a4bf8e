/* bench/micro_cipher.c: what enciphering costs: a slot's cipher beside memcpy, by one thread. */
#include "bench/micro.h"

#include "transfer/slot_cipher.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* More than the CPU's caches hold, as a store's blocks are. */
#define SAMPLE_BYTES (UINT64_C(128) << 20)
#define WARM_UP_PAIRS 1u

struct sample {
	struct slot_cipher *cipher;
	struct slot_key key;
	uint8_t life[SLOT_LIFE_BYTES];
	uint64_t nonces;
	uint64_t slot_bytes, slots;
	uint8_t *clear, *enciphered;
};

static struct slot_header *slot_at(const struct sample *sample, uint8_t *memory, uint64_t slot)
{
	return (struct slot_header *)(memory + slot * sample->slot_bytes);
}

static void slots_make(struct sample *sample, uint64_t payload_bytes)
{
	memset(sample->clear, 0x5c, SAMPLE_BYTES);
	memset(sample->enciphered, 1, SAMPLE_BYTES);
	for (uint64_t i = 0; i < sample->slots; i++) {
		struct slot_header *header = slot_at(sample, sample->clear, i);

		slot_header_clear(header);
		header->identity.payload_bytes = payload_bytes;
		header->identity.segments_count = 1;
		slot_identity_seal(header);
	}
}

/* GB/s of slots. */
static double rate(const struct sample *sample, double began)
{
	return (double)(sample->slots * sample->slot_bytes) / (micro_now() - began) / 1e9;
}

static double copy_run(struct sample *sample)
{
	double began = micro_now();

	for (uint64_t i = 0; i < sample->slots; i++)
		memcpy(slot_at(sample, sample->enciphered, i), slot_at(sample, sample->clear, i),
		       sample->slot_bytes);
	return rate(sample, began);
}

static double encipher_run(struct sample *sample)
{
	struct slot_address address = { .offset = 0 };
	double began = micro_now();

	for (uint64_t i = 0; i < sample->slots; i++) {
		struct slot_nonce nonce = slot_nonce_make(sample->life, sample->nonces++);

		slot_encipher(sample->cipher, &sample->key, &nonce, &address,
			      slot_at(sample, sample->clear, i),
			      slot_at(sample, sample->enciphered, i));
	}
	return rate(sample, began);
}

static double decipher_run(struct sample *sample, int *out_result)
{
	double began = micro_now();

	for (uint64_t i = 0; i < sample->slots; i++)
		if (slot_decipher(sample->cipher, &sample->key,
				  slot_at(sample, sample->enciphered, i)) != SLOT_GOOD)
			*out_result = -EIO;
	return rate(sample, began);
}

static int pairs_run(struct micro *micro, struct sample *sample, const char *size_name,
		     struct error *error)
{
	struct measure_pairs seals = { 0 }, opens = { 0 };
	char name[MEASURE_NAME_BYTES];
	int result = 0;

	for (uint64_t i = 0; i < micro->pairs + WARM_UP_PAIRS; i++) {
		double copied = copy_run(sample);
		double sealed = encipher_run(sample);
		double opened = decipher_run(sample, &result);

		if (i < WARM_UP_PAIRS)
			continue;
		measure_pairs_add(&seals, sealed, copied);
		measure_pairs_add(&opens, opened, copied);
	}
	if (result < 0)
		return error_set(error, result, "a slot did not come back as it was");
	snprintf(name, sizeof(name), "encipher_%s", size_name);
	measures_add_pairs(&micro->measures, name, &seals, "GB/s", MEASURE_HIGHER);
	snprintf(name, sizeof(name), "decipher_%s", size_name);
	measures_add_pairs(&micro->measures, name, &opens, "GB/s", MEASURE_HIGHER);
	return 0;
}

static int size_run(struct micro *micro, uint64_t payload_bytes, const char *size_name,
		    struct error *error)
{
	struct sample sample = { .slot_bytes = slot_bytes_for(payload_bytes) };
	int result = slot_cipher_create(&sample.cipher, error);

	sample.slots = SAMPLE_BYTES / sample.slot_bytes;
	sample.clear = aligned_alloc(SLOT_ALIGN_BYTES, SAMPLE_BYTES);
	sample.enciphered = aligned_alloc(SLOT_ALIGN_BYTES, SAMPLE_BYTES);
	memset(sample.key.bytes, 3, sizeof(sample.key.bytes));
	slot_key_identify(&sample.key);
	if (result == 0 && (sample.clear == NULL || sample.enciphered == NULL))
		result = error_set(error, -ENOMEM, "no memory for the slots");
	if (result == 0) {
		slots_make(&sample, payload_bytes);
		result = pairs_run(micro, &sample, size_name, error);
	}
	slot_cipher_destroy(sample.cipher);
	free(sample.clear);
	free(sample.enciphered);
	return result;
}

int micro_cipher(struct micro *micro, struct error *error)
{
	int result = size_run(micro, UINT64_C(1) << 20, "1m", error);

	return result < 0 ? result : size_run(micro, UINT64_C(1) << 16, "64k", error);
}
