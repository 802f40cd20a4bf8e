/* client/cli_screen.c: lines for a terminal: cut to its width, coloured where that helps, and
 * harmless whatever a daemon says. */
#include "client/cli.h"

#include <stdarg.h>
#include <string.h>

#define LINE_BYTES 1024

static const char *const colour_codes[] = {
	[CLI_PLAIN] = "", [CLI_BOLD] = "\033[1m", [CLI_GREEN] = "\033[32m",
	[CLI_YELLOW] = "\033[33m", [CLI_RED] = "\033[31m",
};

void cli_line(struct cli *cli, enum cli_colour colour, const char *format, ...)
{
	char text[LINE_BYTES];
	const char *code = cli->has_colours ? colour_codes[colour] : "";
	va_list arguments;

	if (cli->rows > 0 && cli->rows_printed + 1 >= cli->rows)
		return;
	cli->rows_printed++;
	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	for (char *byte = text; *byte != 0; byte++)
		if ((unsigned char)*byte < 0x20 || (unsigned char)*byte >= 0x7f)
			*byte = '?';
	if (cli->is_cut && (int)strlen(text) > cli->columns)
		text[cli->columns] = 0;
	fprintf(cli->out, "%s%s%s%s\n", code, text, code[0] != 0 ? "\033[0m" : "",
		cli->is_live ? "\033[K" : "");
}

void cli_words(struct cli *cli, enum cli_colour colour, const char *indent, const char *text)
{
	cli_words_behind(cli, colour, indent, indent, text);
}

void cli_words_behind(struct cli *cli, enum cli_colour colour, const char *first,
		      const char *indent, const char *text)
{
	int width = cli->columns - (int)strlen(indent) - 1;

	while (*text != 0) {
		int bytes = (int)strlen(text);

		if (bytes > width)
			for (bytes = width; bytes > 0 && text[bytes] != ' '; bytes--)
				;
		if (bytes == 0)
			bytes = width;
		cli_line(cli, colour, "%s%.*s", first, bytes, text);
		first = indent;
		text += bytes;
		text += strspn(text, " ");
	}
}
