/* base/error.h: a failure as a negative errno and a sentence for a person. */
#ifndef KVTIER_BASE_ERROR_H
#define KVTIER_BASE_ERROR_H

#define must_check __attribute__((warn_unused_result))

struct error {
	int code;        /* 0, or a negative errno */
	char text[240];
};

/* Words a failure and returns its code: return error_set(error, -ENODEV, "no GPU at %s", bus_id);
 * `error` may be NULL when nobody reads the words. */
__attribute__((format(printf, 3, 4)))
int error_set(struct error *error, int code, const char *format, ...);

/* What a person can do about a failure of the system, to end a sentence with: " (make room, or set
 * fewer bytes)"; "" where there is nothing to say. `code` is a negative errno. */
const char *error_advice(int code);

#endif
