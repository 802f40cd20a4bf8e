/*
 * bench/commands.h: the commands of kvtier-bench; main.c has the table. Each takes what stands
 * behind its name, and returns the exit status: one of those below.
 */
#ifndef KVTIER_BENCH_COMMANDS_H
#define KVTIER_BENCH_COMMANDS_H

enum {
	EXIT_FINE = 0,
	EXIT_FOUND = 1,   /* it ran, and what it found is bad: wrong blocks, hits that differ */
	EXIT_REFUSED = 2, /* it could not run; the reason is on stderr */
	EXIT_SKIPPED = 77 /* there is nothing here that it could run on; what, is on stderr */
};

int replay_command(int argc, char **argv);
int generate_command(int argc, char **argv);
int micro_command(int argc, char **argv);
int gpu_command(int argc, char **argv);
int peer_command(int argc, char **argv);

#endif
