/*
 * base/checksum.c: CRC32C by carry-less multiplication, by the CPU's crc instruction, or by tables.
 *
 * Bits are reflected: in a register of n bits, bit i is the coefficient of x^(n-1-i), so the byte
 * that comes first in memory has the highest powers. All constants are powers of x modulo the
 * polynomial.
 */
#include "base/checksum.h"
#include "base/cpu.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

#define POLYNOMIAL 0x82F63B78u     /* x^32 left out, reflected */
#define ONE 0x80000000u            /* the polynomial 1, reflected */
#define STREAM_LONG_BYTES 4096     /* of each of three interleaved streams */
#define STREAM_SHORT_BYTES 256

/* These take and give the running remainder, without the inversions at the start and at the end. */
typedef uint32_t crc_function(uint32_t crc, const uint8_t *memory, size_t bytes);

struct way {
	const char *name;
	enum cpu_level level;   /* what KVTIER_CPU must allow */
	crc_function *run;
	bool (*is_here)(void);
};

/* What moves a 128-bit register ahead in the message: a factor for each of its halves. */
struct fold {
	uint64_t first;
	uint64_t second;
};

struct stream_shift {
	uint32_t one;   /* moves a remainder ahead by one stream */
	uint32_t two;
};

static uint32_t table[8][256];
static struct fold fold_2048, fold_512, fold_128;
static struct stream_shift shift_long, shift_short;
static pthread_once_t constants_once = PTHREAD_ONCE_INIT;

static uint32_t times_x(uint32_t value)
{
	return (value >> 1) ^ ((value & 1) != 0 ? POLYNOMIAL : 0);
}

/* x^power modulo the polynomial; powers are small here. */
static uint32_t power_of_x(unsigned power)
{
	uint32_t value = ONE;

	while (power-- > 0)
		value = times_x(value);
	return value;
}

/*
 * The low half of a register stands 64 bits before the high one. The product of two reflected
 * 64-bit numbers comes out one bit too low, hence the powers less one.
 */
static struct fold fold_make(unsigned bits)
{
	return (struct fold) {
		.first = (uint64_t)power_of_x(bits + 64 - 1) << 32,
		.second = (uint64_t)power_of_x(bits - 1) << 32,
	};
}

/* On x86 the shifted remainder goes through a crc instruction, which multiplies by x^32, and one
 * bit as above. */
static struct stream_shift shift_make(unsigned stream_bytes)
{
#if defined(__x86_64__)
	const unsigned extra = 33;
#else
	const unsigned extra = 0;
#endif
	return (struct stream_shift) {
		.one = power_of_x(stream_bytes * 8 - extra),
		.two = power_of_x(stream_bytes * 16 - extra),
	};
}

static void constants_make(void)
{
	for (unsigned byte = 0; byte < 256; byte++) {
		uint32_t value = byte;

		for (unsigned bit = 0; bit < 8; bit++)
			value = times_x(value);
		table[0][byte] = value;
	}
	for (unsigned byte = 0; byte < 256; byte++) {
		for (unsigned i = 1; i < 8; i++) {
			uint32_t before = table[i - 1][byte];

			table[i][byte] = (before >> 8) ^ table[0][before & 0xff];
		}
	}
	fold_2048 = fold_make(2048);
	fold_512 = fold_make(512);
	fold_128 = fold_make(128);
	shift_long = shift_make(STREAM_LONG_BYTES);
	shift_short = shift_make(STREAM_SHORT_BYTES);
}

static uint64_t load_u64(const uint8_t *memory)
{
	uint64_t value;

	memcpy(&value, memory, sizeof(value));
	return value;
}

static bool always_here(void)
{
	return true;
}

static uint32_t crc_table(uint32_t crc, const uint8_t *memory, size_t bytes)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	for (; bytes >= 8; bytes -= 8, memory += 8) {
		uint64_t value = load_u64(memory) ^ crc;

		crc = table[7][value & 0xff] ^ table[6][(value >> 8) & 0xff] ^
		      table[5][(value >> 16) & 0xff] ^ table[4][(value >> 24) & 0xff] ^
		      table[3][(value >> 32) & 0xff] ^ table[2][(value >> 40) & 0xff] ^
		      table[1][(value >> 48) & 0xff] ^ table[0][value >> 56];
	}
#endif
	while (bytes-- > 0)
		crc = (crc >> 8) ^ table[0][(crc ^ *memory++) & 0xff];
	return crc;
}

#if defined(__x86_64__)
#define SSE42 __attribute__((target("sse4.2,pclmul")))
#define AVX512 __attribute__((target("sse4.2,pclmul,avx512f,avx512vl,vpclmulqdq")))

static bool sse42_is_here(void)
{
	return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
}

static bool avx512_is_here(void)
{
	return sse42_is_here() && __builtin_cpu_supports("avx512f") &&
	       __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("vpclmulqdq");
}

SSE42 static uint32_t crc_one_stream(uint32_t crc, const uint8_t *memory, size_t bytes)
{
	uint64_t wide = crc;

	for (; bytes >= 8; bytes -= 8, memory += 8)
		wide = _mm_crc32_u64(wide, load_u64(memory));
	crc = (uint32_t)wide;
	while (bytes-- > 0)
		crc = _mm_crc32_u8(crc, *memory++);
	return crc;
}

SSE42 static inline uint64_t shifted(uint64_t crc, uint32_t shift)
{
	__m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)crc),
					       _mm_cvtsi64_si128(shift), 0);

	return _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
}

/* The instruction takes three cycles but one can start in each, so three streams run at once. */
SSE42 static inline uint32_t crc_three_streams(uint32_t crc, const uint8_t *memory,
					       size_t stream_bytes,
					       const struct stream_shift *shift)
{
	const uint8_t *end = memory + stream_bytes;
	uint64_t first = crc, second = 0, third = 0;

	for (; memory < end; memory += 16) {
		first = _mm_crc32_u64(first, load_u64(memory));
		second = _mm_crc32_u64(second, load_u64(memory + stream_bytes));
		third = _mm_crc32_u64(third, load_u64(memory + 2 * stream_bytes));
		first = _mm_crc32_u64(first, load_u64(memory + 8));
		second = _mm_crc32_u64(second, load_u64(memory + stream_bytes + 8));
		third = _mm_crc32_u64(third, load_u64(memory + 2 * stream_bytes + 8));
	}
	return (uint32_t)(shifted(first, shift->two) ^ shifted(second, shift->one) ^ third);
}

SSE42 static uint32_t crc_sse42(uint32_t crc, const uint8_t *memory, size_t bytes)
{
	for (; bytes >= 3 * STREAM_LONG_BYTES; bytes -= 3 * STREAM_LONG_BYTES) {
		crc = crc_three_streams(crc, memory, STREAM_LONG_BYTES, &shift_long);
		memory += 3 * STREAM_LONG_BYTES;
	}
	for (; bytes >= 3 * STREAM_SHORT_BYTES; bytes -= 3 * STREAM_SHORT_BYTES) {
		crc = crc_three_streams(crc, memory, STREAM_SHORT_BYTES, &shift_short);
		memory += 3 * STREAM_SHORT_BYTES;
	}
	return crc_one_stream(crc, memory, bytes);
}

/* `ahead` plus `value` moved ahead to its place. */
AVX512 static inline __m512i folded_512(__m512i value, __m512i factors, __m512i ahead)
{
	return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(value, factors, 0x00),
					 _mm512_clmulepi64_epi128(value, factors, 0x11), ahead,
					 0x96);
}

AVX512 static inline __m128i folded_128(__m128i value, __m128i factors, __m128i ahead)
{
	return _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(value, factors, 0x00),
					   _mm_clmulepi64_si128(value, factors, 0x11)), ahead);
}

AVX512 static inline __m128i factors_128(const struct fold *fold)
{
	return _mm_set_epi64x((long long)fold->second, (long long)fold->first);
}

/* Of at least 64 bytes; gives what stands for all of them but the last bytes % 16. */
AVX512 static __m128i fold_to_128(uint32_t crc, const uint8_t *memory, size_t bytes)
{
	const __m512i by_2048 = _mm512_broadcast_i32x4(factors_128(&fold_2048));
	const __m512i by_512 = _mm512_broadcast_i32x4(factors_128(&fold_512));
	const __m128i by_128 = factors_128(&fold_128);
	__m512i part = _mm512_xor_si512(_mm512_loadu_si512(memory),
					_mm512_zextsi128_si512(_mm_cvtsi32_si128((int)crc)));
	__m128i value;

	memory += 64;
	bytes -= 64;
	if (bytes >= 448) {
		__m512i part_1 = _mm512_loadu_si512(memory);
		__m512i part_2 = _mm512_loadu_si512(memory + 64);
		__m512i part_3 = _mm512_loadu_si512(memory + 128);

		memory += 192;
		bytes -= 192;
		for (; bytes >= 256; bytes -= 256, memory += 256) {
			part = folded_512(part, by_2048, _mm512_loadu_si512(memory));
			part_1 = folded_512(part_1, by_2048, _mm512_loadu_si512(memory + 64));
			part_2 = folded_512(part_2, by_2048, _mm512_loadu_si512(memory + 128));
			part_3 = folded_512(part_3, by_2048, _mm512_loadu_si512(memory + 192));
		}
		part = folded_512(part, by_512, part_1);
		part = folded_512(part, by_512, part_2);
		part = folded_512(part, by_512, part_3);
	}
	for (; bytes >= 64; bytes -= 64, memory += 64)
		part = folded_512(part, by_512, _mm512_loadu_si512(memory));
	value = _mm512_castsi512_si128(part);
	value = folded_128(value, by_128, _mm512_extracti32x4_epi32(part, 1));
	value = folded_128(value, by_128, _mm512_extracti32x4_epi32(part, 2));
	value = folded_128(value, by_128, _mm512_extracti32x4_epi32(part, 3));
	for (; bytes >= 16; bytes -= 16, memory += 16)
		value = folded_128(value, by_128, _mm_loadu_si128((const __m128i *)memory));
	return value;
}

AVX512 static uint32_t crc_avx512(uint32_t crc, const uint8_t *memory, size_t bytes)
{
	__m128i value;
	uint64_t wide;

	if (bytes < 64)
		return crc_one_stream(crc, memory, bytes);
	value = fold_to_128(crc, memory, bytes);
	wide = _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(value));
	wide = _mm_crc32_u64(wide, (uint64_t)_mm_extract_epi64(value, 1));
	return crc_one_stream((uint32_t)wide, memory + (bytes & ~(size_t)15), bytes & 15);
}
#endif

#if defined(__aarch64__)
#define HWCAP_CRC32_BIT (1ul << 7)

static bool arm64_crc_is_here(void)
{
	return (getauxval(AT_HWCAP) & HWCAP_CRC32_BIT) != 0;
}

/* Inline assembly, because compilers differ in where they offer the intrinsic without -march. */
static inline uint32_t arm64_crc_u64(uint32_t crc, uint64_t value)
{
	__asm__(".arch_extension crc\n\tcrc32cx %w0, %w0, %x1" : "+r"(crc) : "r"(value));
	return crc;
}

static inline uint32_t arm64_crc_u8(uint32_t crc, uint32_t value)
{
	__asm__(".arch_extension crc\n\tcrc32cb %w0, %w0, %w1" : "+r"(crc) : "r"(value));
	return crc;
}

/* The product modulo the polynomial; rare enough to go bit by bit. */
static uint32_t product(uint32_t a, uint32_t b)
{
	uint32_t sum = 0;

	for (uint32_t bit = ONE; bit != 0; bit >>= 1) {
		sum ^= (a & bit) != 0 ? b : 0;
		b = times_x(b);
	}
	return sum;
}

static uint32_t crc_arm64(uint32_t crc, const uint8_t *memory, size_t bytes)
{
	for (; bytes >= 3 * STREAM_LONG_BYTES; bytes -= 3 * STREAM_LONG_BYTES) {
		const uint8_t *end = memory + STREAM_LONG_BYTES;
		uint32_t second = 0, third = 0;

		for (; memory < end; memory += 8) {
			crc = arm64_crc_u64(crc, load_u64(memory));
			second = arm64_crc_u64(second, load_u64(memory + STREAM_LONG_BYTES));
			third = arm64_crc_u64(third, load_u64(memory + 2 * STREAM_LONG_BYTES));
		}
		crc = product(crc, shift_long.two) ^ product(second, shift_long.one) ^ third;
		memory += 2 * STREAM_LONG_BYTES;
	}
	for (; bytes >= 8; bytes -= 8, memory += 8)
		crc = arm64_crc_u64(crc, load_u64(memory));
	while (bytes-- > 0)
		crc = arm64_crc_u8(crc, *memory++);
	return crc;
}
#endif

/* The fastest first. */
static const struct way ways[] = {
#if defined(__x86_64__)
	{ "avx512-vpclmulqdq", CPU_AVX512, crc_avx512, avx512_is_here },
	{ "sse4.2-3way", CPU_SSE42, crc_sse42, sse42_is_here },
#elif defined(__aarch64__)
	{ "arm64-crc", CPU_SSE42, crc_arm64, arm64_crc_is_here },
#endif
	{ "table", CPU_BASELINE, crc_table, always_here },
};

#define WAYS_COUNT (sizeof(ways) / sizeof(ways[0]))

static _Atomic(const struct way *) chosen;

static const struct way *way_choose(void)
{
	enum cpu_level bound = cpu_level_bound();
	const struct way *way = ways;

	/* The last one is always there. */
	while (way->level > bound || !way->is_here())
		way++;
	assert(way < ways + WAYS_COUNT);
	return way;
}

static void way_start(void)
{
	constants_make();
	/* Release: who sees the choice sees the constants. */
	atomic_store_explicit(&chosen, way_choose(), memory_order_release);
}

/* Chosen by the first call, not by a constructor: another constructor may want a checksum. */
static inline const struct way *way_get(void)
{
	const struct way *way = atomic_load_explicit(&chosen, memory_order_acquire);

	if (__builtin_expect(way == NULL, 0)) {
		pthread_once(&constants_once, way_start);
		way = atomic_load_explicit(&chosen, memory_order_acquire);
	}
	return way;
}

uint32_t crc32c_more(uint32_t crc, const void *memory, size_t bytes)
{
	return ~way_get()->run(~crc, memory, bytes);
}

uint32_t crc32c(const void *memory, size_t bytes)
{
	return crc32c_more(0, memory, bytes);
}

const char *crc32c_way(void)
{
	return way_get()->name;
}

bool crc32c_way_set(const char *name)
{
	way_get();   /* the constants */
	for (size_t i = 0; i < WAYS_COUNT; i++) {
		if (strcmp(ways[i].name, name) == 0 && ways[i].is_here()) {
			atomic_store_explicit(&chosen, &ways[i], memory_order_release);
			return true;
		}
	}
	return false;
}
