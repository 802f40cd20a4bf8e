/* base/error.c: words a failure. */
#include "base/error.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

int error_set(struct error *error, int code, const char *format, ...)
{
	va_list arguments;

	assert(code < 0);
	if (error == NULL)
		return code;
	error->code = code;
	va_start(arguments, format);
	vsnprintf(error->text, sizeof(error->text), format, arguments);
	va_end(arguments);
	return code;
}

const char *error_advice(int code)
{
	switch (code) {
	case -EACCES:
	case -EPERM:
		return " (give the user that kvtierd runs as the right to it)";
	case -ENOENT:
		return " (make its folder first, or set another path)";
	case -ENOTDIR:
		return " (a file stands where a folder is needed; set another path)";
	case -EISDIR:
		return " (a folder stands there; set another path)";
	case -ENOSPC:
	case -EDQUOT:
		return " (make room, or set fewer bytes)";
	case -EROFS:
		return " (mount it writable, or set another path)";
	case -EIO:
		return " (the disk fails: replace it, or set another path)";
	case -EFBIG:
		return " (raise the limit of file sizes: LimitFSIZE= of the service, or ulimit -f)";
	case -EMFILE:
		return " (raise the limit of open files: LimitNOFILE= of the service, or ulimit -n)";
	case -ENOMEM:
		return " (raise the memory limit, or set smaller sizes)";
	case -EAGAIN:
		return " (raise the limit of threads: TasksMax= of the service, or ulimit -u)";
	case -EADDRINUSE:
		return " (another program has this port: stop it, or set another)";
	case -EADDRNOTAVAIL:
		return " (this machine does not have that address: set one of its own)";
	default:
		return "";
	}
}
