/* base/copy.c: host copies in the way that was measured to be the fastest. */
#include "base/copy.h"
#include "base/checksum.h"
#include "base/clock.h"
#include "base/cpu.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Fits the second cache of every CPU we know, and is long enough that memcpy reaches its speed. */
#define CHUNK_BYTES_DEFAULT (64u << 10)
/* Below this a reader likely wants the target soon, and the fence costs more than the cache. */
#define NON_TEMPORAL_BYTES_MIN (64u << 10)

#define CALIBRATE_US_MAX 30000u
#define CALIBRATE_ROUNDS_MAX 4
/* Of source and of target. The first half of each run fills the caches with what that way leaves
 * there, so that the second half pays for its own lines on their way to memory, not for another's.
 */
#define CALIBRATE_BYTES (32u << 20)
#define CALIBRATE_BLOCK_BYTES_MIN (64u << 10)
#define CALIBRATE_BLOCK_BYTES_MAX (CALIBRATE_BYTES / 4)

/* A choice in one word, so that any thread may read it while a test sets it. */
#define PACKED(copy, checksum, checked_copy, chunk_bytes) \
	((uint64_t)(copy) | (uint64_t)(checksum) << 8 | (uint64_t)(checked_copy) << 16 | \
	 (uint64_t)(chunk_bytes) << 32)

#define STAGING_BYTES 16384u   /* stays in the nearest cache, with as much again of the source */

static _Atomic uint64_t chosen = PACKED(COPY_MEMCPY, CHECKSUM_PER_CHUNK, COPY_MEMCPY,
					CHUNK_BYTES_DEFAULT);

const char *copy_way_name(enum copy_way way)
{
	static const char *const names[COPY_WAYS] = {
		[COPY_MEMCPY] = "memcpy",
		[COPY_NON_TEMPORAL] = "non-temporal",
	};

	assert((unsigned)way < COPY_WAYS);
	return names[way];
}

struct copy_choice copy_choice_get(void)
{
	uint64_t packed = atomic_load_explicit(&chosen, memory_order_relaxed);

	return (struct copy_choice) {
		.copy = (enum copy_way)(packed & 0xff),
		.checksum = (enum checksum_way)((packed >> 8) & 0xff),
		.checked_copy = (enum copy_way)((packed >> 16) & 0xff),
		.chunk_bytes = (uint32_t)(packed >> 32),
	};
}

void copy_choice_set(struct copy_choice choice)
{
	assert((unsigned)choice.copy < COPY_WAYS && (unsigned)choice.checked_copy < COPY_WAYS);
	assert((unsigned)choice.checksum < CHECKSUM_WAYS);
	assert(choice.chunk_bytes >= COPY_CHUNK_BYTES_MIN &&
	       choice.chunk_bytes <= COPY_CHUNK_BYTES_MAX);
	atomic_store_explicit(&chosen, PACKED(choice.copy, choice.checksum, choice.checked_copy,
					      choice.chunk_bytes), memory_order_relaxed);
}

#if defined(__x86_64__)
/* Of whole cache lines, to an aligned target. */
typedef void line_function(uint8_t *target, const uint8_t *source, size_t bytes);

static void lines_sse2(uint8_t *target, const uint8_t *source, size_t bytes)
{
	for (size_t done = 0; done < bytes; done += 64) {
		const __m128i *from = (const __m128i *)(source + done);
		__m128i *to = (__m128i *)(target + done);
		__m128i first = _mm_loadu_si128(from);
		__m128i second = _mm_loadu_si128(from + 1);
		__m128i third = _mm_loadu_si128(from + 2);
		__m128i fourth = _mm_loadu_si128(from + 3);

		_mm_stream_si128(to, first);
		_mm_stream_si128(to + 1, second);
		_mm_stream_si128(to + 2, third);
		_mm_stream_si128(to + 3, fourth);
	}
}

__attribute__((target("avx512f")))
static void lines_avx512(uint8_t *target, const uint8_t *source, size_t bytes)
{
	size_t done = 0;

	for (; bytes - done >= 256; done += 256) {
		__m512i first = _mm512_loadu_si512(source + done);
		__m512i second = _mm512_loadu_si512(source + done + 64);
		__m512i third = _mm512_loadu_si512(source + done + 128);
		__m512i fourth = _mm512_loadu_si512(source + done + 192);

		_mm512_stream_si512((void *)(target + done), first);
		_mm512_stream_si512((void *)(target + done + 64), second);
		_mm512_stream_si512((void *)(target + done + 128), third);
		_mm512_stream_si512((void *)(target + done + 192), fourth);
	}
	for (; done < bytes; done += 64)
		_mm512_stream_si512((void *)(target + done), _mm512_loadu_si512(source + done));
}

static line_function *lines_choose(void)
{
	static _Atomic(line_function *) lines_chosen;
	line_function *lines = atomic_load_explicit(&lines_chosen, memory_order_relaxed);

	/* Threads that come at the same time choose the same. */
	if (lines == NULL) {
		bool wide = cpu_level_bound() >= CPU_AVX512 && __builtin_cpu_supports("avx512f");

		lines = wide ? lines_avx512 : lines_sse2;
		atomic_store_explicit(&lines_chosen, lines, memory_order_relaxed);
	}
	return lines;
}

static void copy_non_temporal(uint8_t *target, const uint8_t *source, size_t bytes)
{
	size_t head = -(uintptr_t)target & 63;
	size_t body;

	assert(bytes >= 64);
	memcpy(target, source, head);
	body = (bytes - head) & ~(size_t)63;
	lines_choose()(target + head, source + head, body);
	/* These stores are weakly ordered: without the fence they could pass the store that says
	 * "copied". */
	_mm_sfence();
	memcpy(target + head + body, source + head + body, bytes - head - body);
}
#else
static void copy_non_temporal(uint8_t *target, const uint8_t *source, size_t bytes)
{
	memcpy(target, source, bytes);
}
#endif

static inline void copy_by(enum copy_way way, uint8_t *target, const uint8_t *source, size_t bytes)
{
	assert(target + bytes <= source || source + bytes <= target);
	if (way == COPY_NON_TEMPORAL && bytes >= NON_TEMPORAL_BYTES_MIN)
		copy_non_temporal(target, source, bytes);
	else
		memcpy(target, source, bytes);
}

static size_t chunk_of(const struct copy_choice *choice, size_t bytes)
{
	return choice->checksum == CHECKSUM_AFTER || choice->chunk_bytes > bytes ? bytes :
	       choice->chunk_bytes;
}

void copy_bytes(void *target, const void *source, size_t bytes)
{
	uint64_t packed;

	if (bytes == 0)
		return;   /* memcpy() wants real pointers even then */
	packed = atomic_load_explicit(&chosen, memory_order_relaxed);
	copy_by((enum copy_way)(packed & 0xff), target, source, bytes);
}

static uint32_t checked_copy_more(const struct copy_choice *choice, uint32_t crc, uint8_t *target,
				  const uint8_t *source, size_t bytes)
{
	size_t chunk = chunk_of(choice, bytes);

	for (size_t first = 0; first < bytes; first += chunk) {
		size_t piece = chunk < bytes - first ? chunk : bytes - first;

		copy_by(choice->checked_copy, target + first, source + first, piece);
		crc = crc32c_more(crc, target + first, piece);
	}
	return crc;
}

uint32_t copy_with_checksum_more(uint32_t crc, void *target, const void *source, size_t bytes)
{
	struct copy_choice choice = copy_choice_get();

	return checked_copy_more(&choice, crc, target, source, bytes);
}

/* Takes the bytes from `first` to `end` of a block, which lie at `piece`, into the checksums of
 * their segments. */
static void checksums_go_on(const uint8_t *piece, size_t first, size_t end, size_t segment_bytes,
			    uint32_t *crcs)
{
	size_t segment = first / segment_bytes;
	size_t segment_end = (segment + 1) * segment_bytes;

	if (first % segment_bytes == 0)
		crcs[segment] = 0;
	while (first < end) {
		size_t stop = segment_end < end ? segment_end : end;

		crcs[segment] = crc32c_more(crcs[segment], piece, stop - first);
		piece += stop - first;
		first = stop;
		segment_end += segment_bytes;
		segment++;
		if (first < end)
			crcs[segment] = 0;
	}
}

void copy_with_checksums(void *target, const void *source, size_t bytes, size_t segment_bytes,
			 uint32_t *out_crcs)
{
	struct copy_choice choice = copy_choice_get();
	size_t chunk = chunk_of(&choice, bytes);
	uint8_t *to = target;
	const uint8_t *from = source;

	assert(segment_bytes > 0);
	/* Larger than the block would overflow the segments' ends, and means the same. */
	if (segment_bytes > bytes)
		segment_bytes = bytes;
	for (size_t first = 0; first < bytes; first += chunk) {
		size_t piece = chunk < bytes - first ? chunk : bytes - first;

		copy_by(choice.checked_copy, to + first, from + first, piece);
		checksums_go_on(to + first, first, first + piece, segment_bytes, out_crcs);
	}
}

void copy_away_with_checksums(void *target, const void *source, size_t bytes, size_t segment_bytes,
			      uint32_t *out_crcs)
{
	static _Thread_local _Alignas(64) uint8_t staging[STAGING_BYTES];
	uint8_t *to = target;
	const uint8_t *from = source;

	assert(segment_bytes > 0);
	if (segment_bytes > bytes)
		segment_bytes = bytes;
	for (size_t first = 0; first < bytes; first += STAGING_BYTES) {
		size_t piece = bytes - first < STAGING_BYTES ? bytes - first : STAGING_BYTES;

		memcpy(staging, from + first, piece);
		checksums_go_on(staging, first, first + piece, segment_bytes, out_crcs);
		if (piece >= 64)
			copy_non_temporal(to + first, staging, piece);
		else
			memcpy(to + first, staging, piece);
	}
}

struct calibration {
	uint8_t *source;
	uint8_t *target;
	size_t block_bytes;
	uint32_t crc;   /* wanted by nobody, but the compiler must not know */
};

/* What calibration compares. */
struct candidate {
	struct copy_choice choice;
	bool is_checked;   /* a copy with a checksum, else without */
	uint64_t us_min;
};

/* Copies block after block; the time of the second half. */
static uint64_t candidate_run_us(struct calibration *calibration, const struct candidate *candidate)
{
	size_t block_bytes = calibration->block_bytes;
	uint64_t half_us = 0;

	for (size_t first = 0; first + block_bytes <= CALIBRATE_BYTES; first += block_bytes) {
		uint8_t *target = calibration->target + first;
		const uint8_t *source = calibration->source + first;

		if (half_us == 0 && first >= CALIBRATE_BYTES / 2)
			half_us = clock_now_us(clock_real());
		if (candidate->is_checked)
			calibration->crc = checked_copy_more(&candidate->choice, calibration->crc,
							     target, source, block_bytes);
		else
			copy_by(candidate->choice.copy, target, source, block_bytes);
	}
	assert(half_us > 0);
	return clock_now_us(clock_real()) - half_us;
}

/* The fastest that is checked, or that is not. An earlier one, which is simpler, is left only for a
 * gain of a twentieth: less is noise. */
static const struct candidate *candidate_best(const struct candidate *candidates, unsigned count,
					      bool is_checked)
{
	const struct candidate *best = NULL;

	for (unsigned i = 0; i < count; i++) {
		const struct candidate *candidate = &candidates[i];

		if (candidate->is_checked == is_checked &&
		    (best == NULL || candidate->us_min * 20 < best->us_min * 19))
			best = candidate;
	}
	assert(best != NULL);
	return best;
}

static struct copy_choice calibrate(struct calibration *calibration, uint64_t end_us)
{
	const uint32_t some = CHUNK_BYTES_DEFAULT;
	const enum checksum_way per_chunk = CHECKSUM_PER_CHUNK;
	struct candidate candidates[] = {
		{ { COPY_MEMCPY, per_chunk, some, COPY_MEMCPY }, false, UINT64_MAX },
		{ { COPY_NON_TEMPORAL, per_chunk, some, COPY_MEMCPY }, false, UINT64_MAX },
		{ { COPY_MEMCPY, per_chunk, some, COPY_MEMCPY }, true, UINT64_MAX },
		{ { COPY_MEMCPY, per_chunk, 16u << 10, COPY_MEMCPY }, true, UINT64_MAX },
		{ { COPY_MEMCPY, per_chunk, 256u << 10, COPY_MEMCPY }, true, UINT64_MAX },
		{ { COPY_MEMCPY, CHECKSUM_AFTER, some, COPY_MEMCPY }, true, UINT64_MAX },
		/* By chunks each would wait for memory to read itself again: only AFTER. */
		{ { COPY_MEMCPY, CHECKSUM_AFTER, some, COPY_NON_TEMPORAL }, true, UINT64_MAX },
	};
	const unsigned count = sizeof(candidates) / sizeof(candidates[0]);
	struct copy_choice choice;
	unsigned rounds = 0;
	uint64_t start_us;
	uint64_t now_us;

	do {
		start_us = clock_now_us(clock_real());
		for (unsigned i = 0; i < count; i++) {
			uint64_t us = candidate_run_us(calibration, &candidates[i]);

			if (us < candidates[i].us_min)
				candidates[i].us_min = us;
		}
		now_us = clock_now_us(clock_real());
		/* Each is measured once, however slow the machine is; again if time is left. */
	} while (++rounds < CALIBRATE_ROUNDS_MAX && now_us + (now_us - start_us) <= end_us);
	choice = candidate_best(candidates, count, true)->choice;
	choice.copy = candidate_best(candidates, count, false)->choice.copy;
	return choice;
}

void copy_calibrate(size_t block_bytes)
{
	uint64_t end_us = clock_now_us(clock_real()) + CALIBRATE_US_MAX;
	struct calibration calibration = { .block_bytes = block_bytes };
	uint8_t *memory = mmap(NULL, 2 * (size_t)CALIBRATE_BYTES, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return;
	if (calibration.block_bytes < CALIBRATE_BLOCK_BYTES_MIN)
		calibration.block_bytes = CALIBRATE_BLOCK_BYTES_MIN;
	if (calibration.block_bytes > CALIBRATE_BLOCK_BYTES_MAX)
		calibration.block_bytes = CALIBRATE_BLOCK_BYTES_MAX;
	/* Blocks lie in huge pages where there are any; a refusal only makes this less exact. */
	(void)madvise(memory, 2 * (size_t)CALIBRATE_BYTES, MADV_HUGEPAGE);
	memset(memory, 1, 2 * (size_t)CALIBRATE_BYTES);
	calibration.source = memory;
	calibration.target = memory + CALIBRATE_BYTES;
	copy_choice_set(calibrate(&calibration, end_us));
	munmap(memory, 2 * (size_t)CALIBRATE_BYTES);
}
