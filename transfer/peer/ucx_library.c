/* transfer/peer/ucx_library.c: libucp.so.0, opened at run time, and kept quiet. */
#include "transfer/peer/ucx_parts.h"

#if HAVE_UCX

#include "base/log.h"

#include <ucs/debug/log_def.h>

#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIBRARY "libucp.so.0"

static const struct {
	const char *symbol;
	size_t offset;
} rows[] = {
#define UCX_ROW(name) { #name, offsetof(struct ucx_calls, name) },
	UCX_CALLS(UCX_ROW)
#undef UCX_ROW
};

/* UCX's own settings, which it reads when it is loaded. What the environment says wins, but for
 * what would take our signals or stop the process. */
static void environment_prepare(void)
{
	(void)setenv("UCX_ERROR_SIGNALS", "", 1);
	(void)setenv("UCX_HANDLE_ERRORS", "none", 1);
	(void)setenv("UCX_VFS_ENABLE", "n", 0);      /* a thread that shows UCX's state as files */
	(void)setenv("UCX_WARN_UNUSED_ENV_VARS", "n", 0);
	/* How long a link may hang is ours to say. */
	(void)setenv("UCX_KEEPALIVE_INTERVAL", "inf", 0);
	(void)setenv("UCX_LOG_LEVEL", "warn", 0);
}

static ucs_log_func_rc_t log_take(const char *file, unsigned line, const char *function,
				  ucs_log_level_t level,
				  const ucs_log_component_config_t *component,
				  const char *message, va_list arguments)
{
	char text[LOG_LINE_BYTES_MAX / 2];

	(void)file;
	(void)line;
	(void)function;
	(void)component;
	if (level <= UCS_LOG_LEVEL_WARN) {
		vsnprintf(text, sizeof(text), message, arguments);
		for (char *c = text; *c != '\0'; c++)
			if (*c == '"' || *c == '\n')
				*c = '\'';
		log_line(LOG_DEBUG, "ucx", "text=\"%s\"", text);
	}
	return UCS_LOG_FUNC_RC_STOP;
}

static int calls_find(void *library, struct ucx_calls *calls, struct error *error)
{
	void (*push_handler)(ucs_log_func_t handler);
	void *function;
	unsigned major, minor, release;

	for (size_t n = 0; n < sizeof(rows) / sizeof(rows[0]); n++) {
		function = dlsym(library, rows[n].symbol);
		if (function == NULL)
			return error_set(error, -ENOSYS,
					 LIBRARY " has no %s: too old, 1.%u is needed",
					 rows[n].symbol, UCX_MINOR_MIN);
		/* A copy, as ISO C has no conversion from an object's to a function's address. */
		memcpy((char *)calls + rows[n].offset, &function, sizeof(function));
	}
	calls->ucp_get_version(&major, &minor, &release);
	if (major != UCX_MAJOR || minor < UCX_MINOR_MIN)
		return error_set(error, -ENOSYS,
				 LIBRARY " is UCX %u.%u.%u; %u.%u or newer is needed",
				 major, minor, release, UCX_MAJOR, UCX_MINOR_MIN);
	function = dlsym(library, "ucs_log_push_handler");
	memcpy(&push_handler, &function, sizeof(function));
	if (push_handler != NULL)
		push_handler(log_take);
	return 0;
}

int ucx_library_open(const struct ucx_calls **out_calls, struct error *error)
{
	static struct ucx_calls calls;
	static bool is_open;

	if (!is_open) {
		environment_prepare();
		void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
		if (library == NULL)
			return error_set(error, -ENOSYS, "UCX is not here: %s (install libucx0)",
					 dlerror());
		int result = calls_find(library, &calls, error);
		if (result < 0)
			return result;
		is_open = true;
	}
	*out_calls = &calls;
	return 0;
}

#endif
