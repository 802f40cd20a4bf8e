/* tests/nth/nth.c: see nth.h. */
#include "tests/nth/nth.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/vfs.h>
#include <unistd.h>

enum way {
	WAY_ENOMEM = 1,
	WAY_EIO = 2,
	WAY_ENOSPC = 4,
	WAY_EROFS = 8,
	WAY_EINTR = 16,
	WAY_EAGAIN = 32,
	WAY_EMFILE = 64,
	WAY_ECONNRESET = 128,
	WAY_SHORT = 256
};

#define BOOKED_MAX (1u << 16)
#define REPORT_PATH "build/tests/nth.json"
#define REPORT_BYTES_MAX (1 << 16)

static struct nth_plan plan;
static unsigned plan_way;
static _Atomic bool is_armed;
static _Atomic uint64_t seen, hits;
static _Atomic(const char *) failed_call = "";

/* What malloc() and its kin gave to our code: an open hash table. */
static pthread_mutex_t books_lock = PTHREAD_MUTEX_INITIALIZER;
static void *booked[BOOKED_MAX];
static uint64_t booked_count;

static unsigned way_of(const struct nth_plan *of)
{
	static const struct {
		int errno_value;
		unsigned way;
	} ways[] = {
		{ ENOMEM, WAY_ENOMEM }, { EIO, WAY_EIO },       { ENOSPC, WAY_ENOSPC },
		{ EROFS, WAY_EROFS },   { EINTR, WAY_EINTR },   { EAGAIN, WAY_EAGAIN },
		{ EMFILE, WAY_EMFILE }, { ECONNRESET, WAY_ECONNRESET },
	};

	if (of->is_short)
		return WAY_SHORT;
	for (unsigned i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
		if (ways[i].errno_value == of->errno_value)
			return ways[i].way;
	fprintf(stderr, "no call fails with %d\n", of->errno_value);
	abort();
}

/* An assert of ours: which failure it was that nobody had thought of. */
static void on_abort(int signal_number)
{
	char text[160];
	int bytes = snprintf(text, sizeof(text),
			     "nth: class %u errno %d short %d nth %llu count %llu: first failed: %s\n",
			     plan.classes, plan.errno_value, plan.is_short,
			     (unsigned long long)plan.nth, (unsigned long long)plan.count,
			     nth_failed_call());

	(void)signal_number;
	(void)!write(STDERR_FILENO, text, (size_t)bytes);
}

void nth_arm(const struct nth_plan *new_plan)
{
	signal(SIGABRT, on_abort);
	atomic_store(&is_armed, false);
	plan = *new_plan;
	plan_way = way_of(new_plan);
	atomic_store(&seen, 0);
	atomic_store(&hits, 0);
	atomic_store(&failed_call, "");
	atomic_store(&is_armed, true);
}

void nth_disarm(void)
{
	atomic_store(&is_armed, false);
}

void nth_pause(void)
{
	atomic_store(&is_armed, false);
}

void nth_resume(void)
{
	atomic_store(&is_armed, true);
}

uint64_t nth_seen(void)
{
	return atomic_load(&seen);
}

uint64_t nth_hits(void)
{
	return atomic_load(&hits);
}

const char *nth_failed_call(void)
{
	return atomic_load(&failed_call);
}

/* Counts the call. True: it must fail, and errno says how. */
static bool call_fails(const char *name, unsigned class, unsigned ways)
{
	uint64_t number;

	if (!atomic_load(&is_armed) || (plan.classes & class) == 0 || (ways & plan_way) == 0)
		return false;
	number = atomic_fetch_add(&seen, 1) + 1;
	if (plan.nth == 0 || number < plan.nth || number - plan.nth >= plan.count)
		return false;
	if (atomic_fetch_add(&hits, 1) == 0)
		atomic_store(&failed_call, name);
	errno = plan.errno_value;
	return true;
}

/* ---- books ---- */

static unsigned place_of(const void *memory)
{
	return (unsigned)(((uintptr_t)memory >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 48);
}

static void book(void *memory)
{
	unsigned place = place_of(memory);

	if (memory == NULL)
		return;
	pthread_mutex_lock(&books_lock);
	if (booked_count >= BOOKED_MAX / 2)
		abort();
	while (booked[place] != NULL)
		place = (place + 1) % BOOKED_MAX;
	booked[place] = memory;
	booked_count++;
	pthread_mutex_unlock(&books_lock);
}

/* What a library allocated for us stands in no book. */
static void unbook(const void *memory)
{
	unsigned place = place_of(memory);

	if (memory == NULL)
		return;
	pthread_mutex_lock(&books_lock);
	while (booked[place] != NULL && booked[place] != memory)
		place = (place + 1) % BOOKED_MAX;
	if (booked[place] != NULL) {
		booked[place] = NULL;
		booked_count--;
		/* What stands behind may belong further to the front. */
		for (unsigned next = (place + 1) % BOOKED_MAX; booked[next] != NULL;
		     next = (next + 1) % BOOKED_MAX) {
			void *moved = booked[next];
			unsigned home = place_of(moved);

			booked[next] = NULL;
			while (booked[home] != NULL)
				home = (home + 1) % BOOKED_MAX;
			booked[home] = moved;
		}
	}
	pthread_mutex_unlock(&books_lock);
}

static unsigned descriptors_count(void)
{
	DIR *folder = opendir("/proc/self/fd");
	unsigned count = 0;

	while (folder != NULL && readdir(folder) != NULL)
		count++;
	closedir(folder);
	return count;
}

static unsigned mappings_count(void)
{
	FILE *file = fopen("/proc/self/maps", "r");
	char line[512], protection[8];
	unsigned count = 0;

	while (file != NULL && fgets(line, sizeof(line), file) != NULL)
		count += sscanf(line, "%*s %7s", protection) == 1 && protection[3] == 's';
	fclose(file);
	return count;
}

struct nth_books nth_books(void)
{
	return (struct nth_books){ booked_count, descriptors_count(), mappings_count() };
}

void nth_assert_nothing_is_left(const struct nth_books *before)
{
	struct nth_books now = nth_books();

	if (memcmp(&now, before, sizeof(now)) == 0)
		return;
	fprintf(stderr,
		"left behind after %s failed (call %llu): %lld allocations, %d descriptors, %d mappings\n",
		nth_failed_call(), (unsigned long long)plan.nth,
		(long long)(now.allocations - before->allocations),
		(int)(now.descriptors - before->descriptors),
		(int)(now.mappings - before->mappings));
	abort();
}

/* ---- what our code calls ---- */

#define CALL(failed, type, name, class, ways, parameters, arguments)                               \
	type nth_##name parameters;                                                              \
	type nth_##name parameters                                                               \
	{                                                                                          \
		return call_fails(#name, class, ways) ? (failed) : name arguments;                 \
	}
#include "tests/nth/calls.inc"
#undef CALL

/* These keep books, too. */

#define ALLOCATES(type, name, parameters, arguments)                                               \
	type nth_##name parameters;                                                                \
	type nth_##name parameters                                                                 \
	{                                                                                          \
		type memory = call_fails(#name, NTH_ALLOCATION, WAY_ENOMEM) ? NULL :               \
								       name arguments;     \
		book(memory);                                                                      \
		return memory;                                                                     \
	}

ALLOCATES(void *, malloc, (size_t bytes), (bytes))
ALLOCATES(void *, calloc, (size_t count, size_t bytes), (count, bytes))
ALLOCATES(void *, aligned_alloc, (size_t align, size_t bytes), (align, bytes))
ALLOCATES(char *, strdup, (const char *text), (text))

void *nth_realloc(void *old, size_t bytes);
void *nth_realloc(void *old, size_t bytes)
{
	void *memory;

	if (call_fails("realloc", NTH_ALLOCATION, WAY_ENOMEM))
		return NULL;
	unbook(old);
	memory = realloc(old, bytes);
	book(memory);
	return memory;
}

void nth_free(void *memory);
void nth_free(void *memory)
{
	unbook(memory);
	free(memory);
}

/* These take one argument more, or not. */

#define MAKES_FILE (WAY_EIO | WAY_ENOSPC | WAY_EROFS | WAY_EMFILE | WAY_ENOMEM | WAY_EINTR)

int nth_open(const char *path, int flags, ...);
int nth_open(const char *path, int flags, ...)
{
	va_list arguments;
	mode_t mode = 0;

	va_start(arguments, flags);
	if (flags & O_CREAT)
		mode = va_arg(arguments, mode_t);
	va_end(arguments);
	return call_fails("open", NTH_FILE, MAKES_FILE) ? -1 : open(path, flags, mode);
}

int nth_openat(int folder, const char *path, int flags, ...);
int nth_openat(int folder, const char *path, int flags, ...)
{
	va_list arguments;
	mode_t mode = 0;

	va_start(arguments, flags);
	if (flags & O_CREAT)
		mode = va_arg(arguments, mode_t);
	va_end(arguments);
	return call_fails("openat", NTH_FILE, MAKES_FILE) ? -1 : openat(folder, path, flags, mode);
}

int nth_fcntl(int fd, int command, ...);
int nth_fcntl(int fd, int command, ...)
{
	va_list arguments;
	long argument;

	va_start(arguments, command);
	argument = va_arg(arguments, long);
	va_end(arguments);
	if (call_fails("fcntl", NTH_EVENT, WAY_EMFILE | WAY_ENOMEM))
		return -1;
	return fcntl(fd, command, argument);
}

/* These may be of a file or of an event, and may do half. */

static bool is_file(int fd)
{
	struct stat status;

	return fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
}

#define READS_FILE (WAY_EIO | WAY_EINTR | WAY_ENOMEM | WAY_SHORT)
#define WRITES_FILE (READS_FILE | WAY_ENOSPC | WAY_EROFS)

/* *bytes is what is left to do. True: nothing, it failed. */
static bool transfer_fails(const char *name, int fd, unsigned file_ways, unsigned event_ways,
			   size_t *bytes)
{
	bool of_file = is_file(fd);

	if (!call_fails(name, of_file ? NTH_FILE : NTH_EVENT, of_file ? file_ways : event_ways))
		return false;
	if (!plan.is_short)
		return true;
	*bytes = (*bytes + 1) / 2;
	return false;
}

/* A wake-up that is not sent is none that a kernel would lose, so an event is always written. */
#define TRANSFERS(name, file_ways, event_ways, parameters, arguments)                              \
	ssize_t nth_##name parameters;                                                             \
	ssize_t nth_##name parameters                                                              \
	{                                                                                          \
		return transfer_fails(#name, fd, file_ways, event_ways, &bytes) ? -1 :             \
										  name arguments;  \
	}

TRANSFERS(read, READS_FILE, WAY_EINTR | WAY_EAGAIN, (int fd, void *to, size_t bytes),
	  (fd, to, bytes))
TRANSFERS(write, WRITES_FILE, 0, (int fd, const void *from, size_t bytes), (fd, from, bytes))
TRANSFERS(pread, READS_FILE, 0, (int fd, void *to, size_t bytes, off_t at), (fd, to, bytes, at))
TRANSFERS(pwrite, WRITES_FILE, 0, (int fd, const void *from, size_t bytes, off_t at),
	  (fd, from, bytes, at))

/* ---- what is said ---- */

uint64_t nth_stride(uint64_t total, uint64_t sample)
{
	const char *ci = getenv("CI");

	if ((ci != NULL && strcmp(ci, "true") == 0) || total <= sample)
		return 1;
	return (total + sample - 1) / sample;
}

/* One line a report, so that a program replaces its own and leaves those of others. */
static void report_merge(FILE *file, const char *before, const char *key, const char *line)
{
	char *copy = strdup(before), *rest = copy, *one;

	fprintf(file, "{\n");
	while ((one = strsep(&rest, "\n")) != NULL)
		if (one[0] == ' ' && strncmp(one, key, strlen(key)) != 0)
			fprintf(file, "%.*s,\n", (int)strcspn(one, "}") + 1, one);
	fprintf(file, "%s\n}\n", line);
	free(copy);
}

void nth_report(const char *what, uint64_t covered, uint64_t total)
{
	char *before = calloc(1, REPORT_BYTES_MAX), key[160], line[256];
	FILE *file;
	int fd;

	printf("%s: %llu / %llu failed in turn\n", what, (unsigned long long)covered,
	       (unsigned long long)total);
	snprintf(key, sizeof(key), " \"%s\":", what);
	snprintf(line, sizeof(line), "%s {\"covered\": %llu, \"total\": %llu}", key,
		 (unsigned long long)covered, (unsigned long long)total);
	(void)!mkdir("build", 0777);
	(void)!mkdir("build/tests", 0777);
	fd = open(REPORT_PATH, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (fd >= 0 && before != NULL && flock(fd, LOCK_EX) == 0 &&
	    read(fd, before, REPORT_BYTES_MAX - 1) >= 0 && ftruncate(fd, 0) == 0 &&
	    lseek(fd, 0, SEEK_SET) == 0 && (file = fdopen(fd, "w")) != NULL) {
		report_merge(file, before, key, line);
		fclose(file);
	} else if (fd >= 0) {
		close(fd);
	}
	free(before);
}
