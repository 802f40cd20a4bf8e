/* daemon/settings_shells.c: completions of kvtierd for bash, zsh and fish, from the table. */
#include "daemon/settings_describe.h"

#include <string.h>

void settings_describe_bash(FILE *file)
{
	fputs("# bash completion of kvtierd; made by `kvtierd --describe completion`\n_kvtierd()\n{\n"
	      "\tlocal word=\"${COMP_WORDS[COMP_CWORD]}\" previous=\"${COMP_WORDS[COMP_CWORD-1]}\"\n\tlocal key\n"
	      "\tif [ \"$word\" = = ]; then word=; key=$previous; previous=value\n"
	      "\telif [ \"$previous\" = = ]; then key=\"${COMP_WORDS[COMP_CWORD-2]}\"; previous=value; fi\n"
	      "\tcase \"$previous\" in\n",
	      file);
	fputs("\t--config) COMPREPLY=($(compgen -f -- \"$word\")); return ;;\n"
	      "\t--describe) COMPREPLY=($(compgen -W '" SETTINGS_FORMS "' -- \"$word\")); return ;;\n"
	      "\t--set) COMPREPLY=($(compgen -S = -W '",
	      file);
	for (unsigned i = 0; i < settings_rows_count; i++)
		fprintf(file, "%s%s", i == 0 ? "" : " ", settings_rows[i].name);
	for (unsigned l = 0; l < settings_lists_count; l++)
		for (unsigned i = 0; i < settings_lists[l].rows_count; i++)
			fprintf(file, " %s.0.%s", settings_lists[l].name,
				settings_lists[l].rows[i].name);
	fputs("' -- \"$word\")); compopt -o nospace 2>/dev/null; return ;;\n\tvalue)\n\t\tcase \"$key\" in\n",
	      file);
	for (unsigned i = 0; i < settings_rows_count; i++)
		if (settings_rows[i].type == SETTING_CHOICE)
			fprintf(file, "\t\t%s) COMPREPLY=($(compgen -W '%s' -- \"$word\")) ;;\n",
				settings_rows[i].name, settings_rows[i].choices);
	fputs("\t\tesac\n\t\treturn ;;\n\tesac\n\tCOMPREPLY=($(compgen -W '", file);
	for (unsigned i = 0; i < settings_flags_count; i++)
		fprintf(file, "%s%s", i == 0 ? "" : " ", settings_flags[i].name);
	fputs("' -- \"$word\"))\n}\ncomplete -F _kvtierd kvtierd\n", file);
}

/* Inside single quotes, of shells that know '' or \' there. */
static void print_quoted(const char *text, const char *escaped_quote, FILE *file)
{
	for (; *text != '\0'; text++) {
		if (*text == '\'')
			fputs(escaped_quote, file);
		else if (*text != ':' && *text != '[' && *text != ']')
			fputc(*text, file);
	}
}

/* log_level=, tenants.0.cpu_bytes=: one word each. */
static void print_keys(FILE *file)
{
	for (unsigned i = 0; i < settings_rows_count; i++)
		fprintf(file, "%s%s=", i == 0 ? "" : " ", settings_rows[i].name);
	for (unsigned l = 0; l < settings_lists_count; l++)
		for (unsigned i = 0; i < settings_lists[l].rows_count; i++)
			fprintf(file, " %s.0.%s=", settings_lists[l].name,
				settings_lists[l].rows[i].name);
}

void settings_describe_zsh(FILE *file)
{
	fputs("#compdef kvtierd\n# zsh completion of kvtierd; made by kvtierd --describe zsh\n_arguments", file);
	for (unsigned i = 0; i < settings_flags_count; i++) {
		const struct settings_flag *flag = &settings_flags[i];

		fprintf(file, " \\\n\t'%s%s[", strcmp(flag->name, "--set") == 0 ? "*" : "",
			flag->name);
		print_quoted(flag->help, "'\\''", file);
		fputc(']', file);
		if (strcmp(flag->name, "--config") == 0)
			fputs(":file:_files", file);
		else if (strcmp(flag->name, "--describe") == 0)
			fputs(":form:(" SETTINGS_FORMS ")", file);
		else if (strcmp(flag->name, "--set") == 0) {
			fputs(":setting:(", file);
			print_keys(file);
			fputc(')', file);
		}
		fputc('\'', file);
	}
	fputc('\n', file);
}

void settings_describe_fish(FILE *file)
{
	fputs("# fish completion of kvtierd; made by kvtierd --describe fish\ncomplete -c kvtierd -f\n", file);
	for (unsigned i = 0; i < settings_flags_count; i++) {
		const struct settings_flag *flag = &settings_flags[i];

		fprintf(file, "complete -c kvtierd -l %s -d '", flag->name + 2);
		print_quoted(flag->help, "\\'", file);
		fputc('\'', file);
		if (strcmp(flag->name, "--config") == 0)
			fputs(" -r -F", file);
		else if (strcmp(flag->name, "--describe") == 0)
			fputs(" -x -a '" SETTINGS_FORMS "'", file);
		else if (strcmp(flag->name, "--set") == 0) {
			fputs(" -x -a '", file);
			print_keys(file);
			fputc('\'', file);
		}
		fputc('\n', file);
	}
}
