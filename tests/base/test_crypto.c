/* tests/base/test_crypto.c: our words give what the standards say. */
#include "base/crypto.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void from_hex(const char *hex, uint8_t *out_bytes)
{
	for (unsigned i = 0; hex[2 * i] != '\0'; i++) {
		char digits[3] = { hex[2 * i], hex[2 * i + 1], '\0' };

		out_bytes[i] = (uint8_t)strtoul(digits, NULL, 16);
	}
}

static void sha256_is_that_of_fips_180(void **unused)
{
	uint8_t wanted[CRYPTO_DIGEST_BYTES], got[CRYPTO_DIGEST_BYTES];
	struct digest *digest = digest_begin();

	(void)unused;
	from_hex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", wanted);
	digest_put(digest, "a", 1);
	digest_put(digest, "bc", 2);
	digest_end(digest, got);
	assert_memory_equal(got, wanted, sizeof(wanted));
}

/* RFC 5869, test case 1. */
static void keys_are_derived_as_rfc_5869_says(void **unused)
{
	uint8_t key[22], salt[13], info[10], wanted[42], got[42];

	(void)unused;
	memset(key, 0x0b, sizeof(key));
	from_hex("000102030405060708090a0b0c", salt);
	from_hex("f0f1f2f3f4f5f6f7f8f9", info);
	from_hex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
		 wanted);
	crypto_derive((struct crypto_bytes){ key, sizeof(key) },
		      (struct crypto_bytes){ salt, sizeof(salt) },
		      (struct crypto_bytes){ info, sizeof(info) }, got, sizeof(got));
	assert_memory_equal(got, wanted, sizeof(wanted));
}

/* McGrew and Viega, The Galois/Counter Mode of Operation, test case 16. */
struct sample {
	uint8_t key[32], iv[12], plain[60], authenticated[20], sealed[60], tag[16];
};

static void sample_fill(struct sample *sample)
{
	from_hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", sample->key);
	from_hex("cafebabefacedbaddecaf888", sample->iv);
	from_hex("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
		 "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39", sample->plain);
	from_hex("feedfacedeadbeeffeedfacedeadbeefabaddad2", sample->authenticated);
	from_hex("522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
		 "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662", sample->sealed);
	from_hex("76fc6ece0f4e1768cddf8853bb2d551b", sample->tag);
}

static bool sample_open(struct cipher *cipher, const struct sample *sample, uint8_t *out_plain)
{
	cipher_begin(cipher, false, sample->iv,
		     (struct crypto_bytes){ sample->authenticated, sizeof(sample->authenticated) });
	cipher_move(cipher, out_plain, sample->sealed, sizeof(sample->sealed));
	return cipher_end_open(cipher, sample->tag);
}

static void sealing_is_aes_256_gcm_in_place_and_in_pieces(void **unused)
{
	struct cipher *cipher = NULL;
	struct sample sample;
	struct error error;
	uint8_t memory[60], tag[CRYPTO_TAG_BYTES];

	(void)unused;
	sample_fill(&sample);
	assert_int_equal(cipher_create(&cipher, &error), 0);
	cipher_set_key(cipher, sample.key);
	for (unsigned round = 0; round < 3; round++) {
		memcpy(memory, sample.plain, sizeof(memory));
		cipher_begin(cipher, true, sample.iv,
			     (struct crypto_bytes){ sample.authenticated,
						    sizeof(sample.authenticated) });
		cipher_move(cipher, memory, memory, 16 * round);
		cipher_move(cipher, memory + 16 * round, memory + 16 * round,
			    sizeof(memory) - 16 * round);
		cipher_end_seal(cipher, tag);
		assert_memory_equal(memory, sample.sealed, sizeof(memory));
		assert_memory_equal(tag, sample.tag, sizeof(tag));
		assert_true(sample_open(cipher, &sample, memory));
		assert_memory_equal(memory, sample.plain, sizeof(memory));
	}
	cipher_destroy(cipher);
}

static void what_was_changed_does_not_open(void **unused)
{
	struct cipher *cipher = NULL;
	struct sample sample;
	struct error error;
	uint8_t memory[60];
	/* iv, ciphertext, authenticated bytes, tag, and the key */
	uint8_t *parts[] = { sample.iv, sample.sealed, sample.authenticated, sample.tag,
			     sample.key };

	(void)unused;
	sample_fill(&sample);
	assert_int_equal(cipher_create(&cipher, &error), 0);
	for (unsigned i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		cipher_set_key(cipher, sample.key);
		assert_true(sample_open(cipher, &sample, memory));
		parts[i][3] ^= 0x10;
		cipher_set_key(cipher, sample.key);
		assert_false(sample_open(cipher, &sample, memory));
		parts[i][3] ^= 0x10;
	}
	cipher_destroy(cipher);
	cipher_destroy(NULL);
}

static void memory_for_keys_is_zero_and_can_be_written(void **unused)
{
	struct error error;
	void *memory = NULL;

	(void)unused;
	assert_int_equal(crypto_memory_create(&memory, 5000, &error), 0);
	for (unsigned i = 0; i < 5000; i++)
		assert_int_equal(((uint8_t *)memory)[i], 0);
	memset(memory, 7, 5000);
	crypto_memory_destroy(memory, 5000);
	crypto_memory_destroy(NULL, 5000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sha256_is_that_of_fips_180),
		cmocka_unit_test(keys_are_derived_as_rfc_5869_says),
		cmocka_unit_test(sealing_is_aes_256_gcm_in_place_and_in_pieces),
		cmocka_unit_test(what_was_changed_does_not_open),
		cmocka_unit_test(memory_for_keys_is_zero_and_can_be_written),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
