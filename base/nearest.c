/* base/nearest.c: edit distance with swapped neighbours, over short words. */
#include "base/nearest.h"

#include <ctype.h>
#include <string.h>

#define CHARACTERS_MAX NEAREST_WORD_CHARACTERS_MAX

static int folded(char character)
{
	return character == '-' ? '_' : tolower((unsigned char)character);
}

static unsigned least(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

/* The number of mistakes between two words; the rows of the table are kept for the last three
 * prefixes of `a`. */
static unsigned distance(const char *a, unsigned a_length, const char *b, unsigned b_length)
{
	unsigned rows[3][CHARACTERS_MAX + 1];

	for (unsigned j = 0; j <= b_length; j++)
		rows[0][j] = j;
	for (unsigned i = 1; i <= a_length; i++) {
		unsigned *row = rows[i % 3];
		const unsigned *above = rows[(i + 2) % 3];
		const unsigned *two_above = rows[(i + 1) % 3];

		row[0] = i;
		for (unsigned j = 1; j <= b_length; j++) {
			int last_a = folded(a[i - 1]);
			int last_b = folded(b[j - 1]);

			row[j] = least(above[j - 1] + (last_a != last_b),
				       least(above[j], row[j - 1]) + 1);
			if (i > 1 && j > 1 && last_a == folded(b[j - 2]) &&
			    folded(a[i - 2]) == last_b)
				row[j] = least(row[j], two_above[j - 2] + 1);
		}
	}
	return rows[a_length % 3][b_length];
}

const char *nearest_word(const char *word, const char *const *words, unsigned count)
{
	unsigned word_length = (unsigned)strnlen(word, CHARACTERS_MAX);
	const char *nearest = NULL;
	unsigned nearest_distance = CHARACTERS_MAX + 1;

	for (unsigned i = 0; i < count; i++) {
		unsigned length = (unsigned)strnlen(words[i], CHARACTERS_MAX);
		unsigned longer = length > word_length ? length : word_length;
		unsigned mistakes = distance(word, word_length, words[i], length);

		if (mistakes * 2 <= longer && mistakes < nearest_distance) {
			nearest = words[i];
			nearest_distance = mistakes;
		}
	}
	return nearest;
}
