/*
 * base/nearest.h: the known word that a mistyped one most likely meant, for messages.
 * Runs on: any thread.
 */
#ifndef KVTIER_BASE_NEAREST_H
#define KVTIER_BASE_NEAREST_H

/* Longer words are compared by their first characters. */
#define NEAREST_WORD_CHARACTERS_MAX 64

/*
 * The one of `words` with the fewest typing mistakes (a missing, extra, wrong or swapped character)
 * from `word`; the first of equals. NULL when none is near, that is, when more than half of the
 * longer word is wrong. Letter case does not count, and '-' and '_' are the same. Borrowed from
 * `words`.
 */
const char *nearest_word(const char *word, const char *const *words, unsigned count);

#endif
