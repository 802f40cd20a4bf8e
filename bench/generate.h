/*
 * bench/generate.h: synthetic workloads from a seed, fitted to public traces of chat and of coding
 * agents; written as Mooncake JSONL with a chat_id. The same options give the same bytes. Runs on:
 * one thread.
 */
#ifndef KVTIER_BENCH_GENERATE_H
#define KVTIER_BENCH_GENERATE_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#define GENERATE_REQUESTS_MAX 10000000u

struct generate_options {
	bool has_chat, has_agentic;
	uint64_t requests;
	uint64_t seed;
	uint64_t block_tokens;
	uint64_t users;   /* concurrent agentic sessions */
	double chats_s;   /* chat sessions that begin a second */
	const char *path; /* .gz: compressed; "-": stdout */
};

must_check int generate_write(const struct generate_options *options, struct error *error);

#endif
