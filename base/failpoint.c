/* base/failpoint.c: reads which failpoint is armed, counts passes, and acts. */
#include "base/failpoint.h"

#include <errno.h>
#include <stdlib.h>

#define VARIABLE "KVTIER_FAILPOINT"
#define ONCE_VARIABLE "KVTIER_FAILPOINT_ONCE"

#if KVTIER_FAILPOINTS
#include "base/nearest.h"

#include <assert.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#define NAME_BYTES_MAX 64
#define NTH_MAX 1000000000ul

enum failpoint_action { ACTION_KILL, ACTION_ERROR, ACTION_STOP, ACTION_HANG, ACTIONS };

static const char *const names[] = {
#define FAILPOINT_NAME(name, help) #name,
	FAILPOINT_TABLE(FAILPOINT_NAME)
#undef FAILPOINT_NAME
};

static const char *const action_names[ACTIONS] = {
	[ACTION_KILL] = "kill",
	[ACTION_ERROR] = "error",
	[ACTION_STOP] = "stop",
	[ACTION_HANG] = "hang",
};

_Atomic int failpoint_armed = FAILPOINTS;
static _Atomic unsigned long passes_left;
static _Atomic bool was_hit;
static enum failpoint_action armed_action;

/* The place of `word` among `words`, or `count`. */
static unsigned word_find(const char *word, const char *const *words, unsigned count)
{
	unsigned i = 0;

	while (i < count && strcmp(words[i], word) != 0)
		i++;
	return i;
}

static int name_parse(const char *name, struct error *error)
{
	unsigned point = word_find(name, names, FAILPOINTS);
	const char *nearest;

	if (point < FAILPOINTS)
		return (int)point;
	nearest = nearest_word(name, names, FAILPOINTS);
	if (nearest == NULL)
		return error_set(error, -EINVAL,
				 "no failpoint \"%s\"; --list-failpoints prints them all", name);
	return error_set(error, -EINVAL, "no failpoint \"%s\"; nearest is %s", name, nearest);
}

static int action_parse(const char *text, struct error *error)
{
	unsigned action = word_find(text, action_names, ACTIONS);

	if (action == ACTIONS)
		return error_set(error, -EINVAL,
				 "failpoint action \"%.32s\" is none of kill, error, stop, hang", text);
	return (int)action;
}

static int nth_parse(const char *text, unsigned long *out_nth, struct error *error)
{
	char *end;
	unsigned long nth;

	errno = 0;
	nth = strtoul(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || nth < 1 ||
	    nth > NTH_MAX)
		return error_set(error, -EINVAL,
				 "failpoint pass \"%.32s\" is not a number from 1 to %lu", text,
				 NTH_MAX);
	*out_nth = nth;
	return 0;
}

int failpoint_arm(const char *text, struct error *error)
{
	char name[NAME_BYTES_MAX + 1];
	const char *equals = strchr(text, '=');
	unsigned long nth = 1;
	char *colon;
	int point;
	int action;
	int result;

	if (equals == NULL || equals == text || equals - text > NAME_BYTES_MAX)
		return error_set(error, -EINVAL,
				 "failpoint \"%.64s\" does not read name[:nth]=kill|error|stop|hang",
				 text);
	memcpy(name, text, (size_t)(equals - text));
	name[equals - text] = '\0';
	colon = strchr(name, ':');
	if (colon != NULL) {
		*colon = '\0';
		result = nth_parse(colon + 1, &nth, error);
		if (result < 0)
			return result;
	}
	point = name_parse(name, error);
	if (point < 0)
		return point;
	action = action_parse(equals + 1, error);
	if (action < 0)
		return action;
	armed_action = (enum failpoint_action)action;
	atomic_store(&was_hit, false);
	atomic_store(&passes_left, nth);
	atomic_store(&failpoint_armed, point);
	return 0;
}

int failpoint_arm_from_environment(struct error *error)
{
	const char *text = getenv(VARIABLE);

	if (text == NULL || text[0] == '\0')
		return 0;
	return failpoint_arm(text, error);
}

/* Whether no other process was first. Where that cannot be told nothing happens: a test that waits
 * for it fails. */
static bool is_first(void)
{
	const char *path = getenv(ONCE_VARIABLE);
	int fd;

	if (path == NULL || path[0] == '\0')
		return true;
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

bool failpoint_pass(enum failpoint point)
{
	unsigned long left = atomic_load(&passes_left);

	assert(point < FAILPOINTS);
	/* It acts once: threads that pass at the same time each take another number. */
	do {
		if (left == 0)
			return false;
	} while (!atomic_compare_exchange_weak(&passes_left, &left, left - 1));
	if (left > 1 || !is_first())
		return false;
	atomic_store(&was_hit, true);
	/* The others leave no trace of their own that a test could wait for. */
	if (armed_action != ACTION_KILL)
		dprintf(STDERR_FILENO, "failpoint %s: %s\n", names[point], action_names[armed_action]);
	if (armed_action == ACTION_KILL)
		kill(getpid(), SIGKILL);
	if (armed_action == ACTION_STOP)
		kill(getpid(), SIGSTOP);
	while (armed_action == ACTION_HANG)
		pause();
	return armed_action == ACTION_ERROR;
}

bool failpoint_was_hit(void)
{
	return atomic_load(&was_hit);
}

void failpoint_disarm(void)
{
	atomic_store(&failpoint_armed, FAILPOINTS);
}

void failpoint_list(FILE *file)
{
#define FAILPOINT_PRINT(name, help) fprintf(file, "%-22s %s\n", #name, help);
	FAILPOINT_TABLE(FAILPOINT_PRINT)
#undef FAILPOINT_PRINT
}

#else

int failpoint_arm_from_environment(struct error *error)
{
	const char *text = getenv(VARIABLE);

	if (text == NULL || text[0] == '\0')
		return 0;
	return error_set(error, -ENOTSUP, VARIABLE "=%.64s is set, but this build has no failpoints"
			 " (make FAILPOINTS=1 builds them in)", text);
}

void failpoint_list(FILE *file)
{
	(void)file;
}

#endif
