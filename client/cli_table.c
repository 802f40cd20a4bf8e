/* client/cli_table.c: the commands and options: one row each. All else is made from them. */
#include "client/cli.h"

#include <limits.h>
#include <string.h>

const struct cli_command cli_commands[] = {
	{ "status", "", "is all well, and what does the daemon hold",
	  "First what is wrong and what to do about it, then how full each tier is, what each tenant has, and who is connected. "
	  "With -o json everything that the daemon counts.",
	  0, 0, 0, NULL, CLI_DOOR_ANY, cli_status },
	{ "top", "[--once]", "a live screen: tiers, tenants, rates, slow calls",
	  "Refreshed each second until q is pressed. --once prints one screen, measured over a second, and stops.",
	  CLI_ONCE, 0, 0, NULL, CLI_DOOR_ANY, cli_top },
	{ "peers", "", "the other nodes: who is connected, and why others are not",
	  "Those that the setting peers names, and those that connected to this one: since when, by which transport, the time "
	  "there and back, and bytes of blocks since then. What to look at first when a fetch from another node finds nothing.",
	  0, 0, 0, NULL, CLI_DOOR_ADMIN, cli_peers },
	{ "spaces", "[--tenant NAME]", "the spaces: bytes and blocks by tier, who used them last",
	  "A space is what makes blocks interchangeable: model, weights, layout and adapter together. Engines are told apart by "
	  "the names that they gave.",
	  CLI_TENANT, 0, 0, NULL, CLI_DOOR_ANY, cli_spaces },
	{ "ls", "--space FINGERPRINT [--tenant NAME] [--limit N] [HASH]", "the blocks of a space",
	  "All, or those whose hashes begin with these 8 digits or more: hash, group, place in its prefix, tokens, bytes, tiers, "
	  "readers that hold it now, and age. 100 blocks unless --limit says how many.",
	  CLI_SPACE | CLI_TENANT | CLI_LIMIT, 0, 1, NULL, CLI_DOOR_ANY, cli_ls },
	{ "stat", "HASH [--space FINGERPRINT] [--group N] [--tenant NAME]",
	  "everything about one block",
	  "In each space that has it, or in the one named: where its shards lie, who holds them, and why a lookup would or would "
	  "not hit it. The first 8 digits of HASH or more are enough where no other block that is here has them.",
	  CLI_SPACE | CLI_GROUP | CLI_TENANT, 1, 1, NULL, CLI_DOOR_ANY, cli_stat },
	{ "explain", "--space FINGERPRINT [--group N] HASH... | --request TAG",
	  "why each block hit or missed",
	  "For each block hash (64 hexadecimal digits, or the first 8 or more) of the space: in which tier it is, or why it is not "
	  "there and since when. With --request, what became of the lookups, loads and stores that an engine tagged so, and "
	  "what it means; requests lists the tags.",
	  CLI_SPACE | CLI_GROUP | CLI_REQUEST, 0, (int)FRAME_KEYS_MAX, NULL, CLI_DOOR_TENANT,
	  cli_explain },
	{ "requests", "[--tenant NAME] [--limit N]", "the last requests of engines: found, loaded, stored",
	  "The newest first, of the last 4,096 that carry a tag (vLLM's do: the W3C trace id, or a digest of the request's name). 20 "
	  "unless --limit says how many. explain --request says all about one.",
	  CLI_TENANT | CLI_LIMIT, 0, 0, NULL, CLI_DOOR_ANY, cli_requests },
	{ "bypass", "on|off|observe [--tenant NAME] [--space FINGERPRINT]",
	  "turns the cache off, on, or into an observer",
	  "on: every lookup misses and every store is refused; observe: stores and lookups are done, but lookups answer a "
	  "miss; off: the cache serves. For everything that the socket may name, one tenant, or one space.",
	  CLI_TENANT | CLI_SPACE, 1, 1, "on off observe", CLI_DOOR_TENANT, cli_bypass },
	{ "pin", "--space FINGERPRINT [--for DURATION] [--group N] [HASH...]",
	  "keeps blocks, or all of a space, for a time",
	  "They are not evicted until then, also when no engine is there; a restart of the daemon ends it. An hour unless --for "
	  "says how long, 7d at most. At most half of a tier can be kept. status shows what is.",
	  CLI_SPACE | CLI_FOR | CLI_GROUP | CLI_TENANT, 0, (int)FRAME_KEYS_MAX, NULL,
	  CLI_DOOR_TENANT, cli_pin },
	{ "unpin", "--space FINGERPRINT [--group N] [HASH...]", "ends what pin began",
	  "For the blocks that are named, or for all of the space.", CLI_SPACE | CLI_GROUP | CLI_TENANT,
	  0, (int)FRAME_KEYS_MAX, NULL, CLI_DOOR_TENANT, cli_unpin },
	{ "forget", "--space FINGERPRINT | --all", "makes stored blocks unreachable for ever",
	  "Of one space, or of the whole tenant. Durable when the command has ended; the bytes stay until their place is used "
	  "again: purge overwrites them.",
	  CLI_SPACE | CLI_ALL, 0, 0, NULL, CLI_DOOR_TENANT, cli_forget },
	{ "purge", "--space FINGERPRINT [--tenant NAME] | --tenant NAME | --all [--yes]",
	  "forgets, and overwrites the bytes",
	  "As forget; then the bytes are overwritten with zeros in memory and on nvme, the catalogue's records are deleted, and a "
	  "listing proves that nothing is left. Blocks that an engine reads at this moment are overwritten when it lets go. What "
	  "was evicted or forgotten before is not touched. Asks first on a terminal, unless --yes is given. With -o json a line "
	  "each look, \"done\": false until the last.",
	  CLI_SPACE | CLI_TENANT | CLI_ALL | CLI_YES, 0, 0, NULL, CLI_DOOR_TENANT, cli_purge },
	{ "drain", "[--off]", "before the node is stopped: writes everything down",
	  "Takes no new blocks, writes to nvme what is in memory only, and ends when the daemon may be stopped without loss. --off "
	  "takes new blocks again. With -o json a line each look, \"done\": false until the last.",
	  CLI_OFF, 0, 0, NULL, CLI_DOOR_ADMIN, cli_drain },
	{ "reload", "", "reads the daemon's configuration again",
	  "Waits until it is in force, and says what changed and what needs a restart. A wrong file changes nothing.",
	  0, 0, 0, NULL, CLI_DOOR_ADMIN, cli_reload },
	{ "config", "print [FILE] | check FILE", "the settings in force, or a file checked",
	  "print: each setting of the running daemon with where its value came from, or of FILE. check: says what is wrong with "
	  "FILE. With FILE, kvtierd is run, found beside this program or in PATH.",
	  0, 1, 2, "print check", CLI_DOOR_ADMIN, cli_config },
	{ "doctor", "", "checks this machine for what kvtier needs",
	  "Each line says ok, warn or fail, and what to do about it. Exit status 1 if anything failed.",
	  0, 0, 0, NULL, CLI_DOOR_ANY, cli_doctor },
	{ "verify", "[--tier cpu|nvme] [--rate MIB] | --config FILE [--tier cpu|nvme] [-o json]",
	  "checks every block of a running or stopped kvtierd",
	  "The running daemon checks every block that it would serve, in all tiers, beside its load and at most at --rate; what is "
	  "damaged it drops, or writes again from memory. Ctrl-C ends it. With --config it runs kvtierd --verify: superblocks, "
	  "tables, headers and checksums of all slots of a stopped or running kvtierd, without a lock or a changed byte; memory "
	  "without a cpu_file only the daemon itself can check. With -o json a line each look. Exit status 0 all good, 1 damage "
	  "found, 2 wrong usage, 3 not all could be read.",
	  CLI_TIER | CLI_RATE, 0, 0, NULL, CLI_DOOR_ADMIN, cli_verify },
	{ "completion", "bash|zsh|fish", "prints the completion of a shell",
	  "For bash: kvtier completion bash > /etc/bash_completion.d/kvtier", 0, 1, 1,
	  "bash zsh fish", CLI_DOOR_NONE, cli_completion },
	{ "version", "", "what this command is built with", "Prints versions and built-in parts.",
	  0, 0, 0, NULL, CLI_DOOR_NONE, cli_version },
	{ "help", "[COMMAND]", "what a command does, and its options",
	  "Without COMMAND, all of them in short.", 0, 0, 1, NULL, CLI_DOOR_NONE, cli_help },
};
const unsigned cli_commands_count = sizeof(cli_commands) / sizeof(cli_commands[0]);
_Static_assert(sizeof(cli_commands) / sizeof(cli_commands[0]) <= CLI_COMMANDS_MAX, "names fit");

const struct cli_option_row cli_options[] = {
	{ "socket", 's', "PATH",
	  "the socket to ask (default: $KVTIER_SOCKET, else " CLIENT_SOCKET_DEFAULT
	  ", and admin.sock of the same daemon where that may be used)",
	  CLI_SOCKET, NULL },
	{ "output", 'o', "table|json|yaml",
	  "how to print (default: table; text is another word for it)", CLI_OUTPUT,
	  "table json yaml" },
	{ "timeout", 't', "SECONDS", "how long to wait for the daemon (default: 5)", CLI_TIMEOUT,
	  NULL },
	{ "space", 0, "FINGERPRINT", "a space: 32 hexadecimal digits, as spaces prints them, or the first 6 or more",
	  CLI_SPACE, NULL },
	{ "group", 0, "N", "a KV group of the space (default: 0)", CLI_GROUP, NULL },
	{ "tenant", 0, "NAME", "one tenant", CLI_TENANT, NULL },
	{ "all", 0, NULL, "everything that the socket may touch", CLI_ALL, NULL },
	{ "limit", 'n', "N", "how many at most", CLI_LIMIT, NULL },
	{ "for", 0, "DURATION", "how long, such as 90s, 30m, 8h or 7d (default: 1h)", CLI_FOR,
	  NULL },
	{ "request", 0, "TAG",
	  "a request's tag: 32 hexadecimal digits, as requests prints them, or the first 6 or more",
	  CLI_REQUEST, NULL },
	{ "tier", 0, "cpu|nvme", "one tier", CLI_TIER, "cpu nvme" },
	{ "rate", 0, "MIB", "how many MiB a second at most (default: 256)", CLI_RATE, NULL },
	{ "once", 0, NULL, "prints one screen and stops", CLI_ONCE, NULL },
	{ "off", 0, NULL, "ends it", CLI_OFF, NULL },
	{ "yes", 'y', NULL, "does not ask first", CLI_YES, NULL },
	{ "help", 'h', NULL, "prints help, of a command if one is named", CLI_HELP, NULL },
	{ "version", 'V', NULL, "the same as the command version", CLI_VERSION, NULL },
	{ "describe", 0, "man|markdown|bash|zsh|fish",
	  "prints the manual page, the manual or a completion", CLI_DESCRIBE,
	  "man markdown bash zsh fish" },
};
const unsigned cli_options_count = sizeof(cli_options) / sizeof(cli_options[0]);
_Static_assert(sizeof(cli_options) / sizeof(cli_options[0]) <= CLI_OPTIONS_MAX, "names fit");

const struct cli_command *cli_command_find(const char *name)
{
	for (unsigned i = 0; i < cli_commands_count; i++)
		if (strcmp(name, cli_commands[i].name) == 0)
			return &cli_commands[i];
	return NULL;
}
