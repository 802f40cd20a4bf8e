/*
 * transfer/job_words.h: memory that an inference engine's process shares with the process that
 * copies for it: how each learns, without asking the daemon, that the other leaves the engine's
 * blocks alone.
 *
 * A client gives each job a number (rising, from 1) and one of JOB_WORDS places. The copier counts
 * what is under way of the place's job. To end its wait a client writes the job's number to
 * `stopped` and then reads `moving`: 0 means that nothing of the job is under way and nothing of it
 * will be. The copier counts a block in `moving` and then reads `stopped`: a job that is stopped is
 * not begun. So one of the two sees the other (all accesses sequentially consistent). A copier that
 * has died counts no more: its exit, seen by a pidfd, proves the same.
 *
 * Each side believes only what costs itself: a client that writes nonsense harms its own blocks.
 */
#ifndef KVTIER_TRANSFER_JOB_WORDS_H
#define KVTIER_TRANSFER_JOB_WORDS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define JOB_WORDS 256u

struct job_word {
	_Alignas(64) _Atomic uint64_t stopped; /* the client's: jobs up to this number have ended */
	_Alignas(64) _Atomic uint64_t moving;  /* the copier's: blocks under way */
};

struct job_words {
	struct job_word words[JOB_WORDS];
};

/* The copier's: false: the job is stopped, and nothing is counted. */
static inline bool job_word_enter(struct job_word *word, uint64_t job)
{
	atomic_fetch_add(&word->moving, 1);
	if (atomic_load(&word->stopped) < job)
		return true;
	atomic_fetch_sub(&word->moving, 1);
	return false;
}

/* The copier's: a block that entered is not touched any more. */
static inline void job_word_leave(struct job_word *word)
{
	atomic_fetch_sub(&word->moving, 1);
}

static inline bool job_word_is_stopped(struct job_word *word, uint64_t job)
{
	return atomic_load(&word->stopped) >= job;
}

/* The client's: from now on no further block of the jobs up to this number is begun. */
static inline void job_word_stop(struct job_word *word, uint64_t job)
{
	if (atomic_load(&word->stopped) < job)
		atomic_store(&word->stopped, job);
}

/* The client's, after job_word_stop(). */
static inline bool job_word_is_quiet(struct job_word *word)
{
	return atomic_load(&word->moving) == 0;
}

#endif
