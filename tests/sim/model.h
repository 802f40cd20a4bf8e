/*
 * tests/sim/model.h: what may be returned. Every store that was ever begun is a *version* of its
 * keys, under one identity (tenant, model, adapter), group and shard. A version may be found and
 * loaded for as long as no FORGET that counts for it was answered before the question was asked.
 */
#ifndef KVTIER_TESTS_SIM_MODEL_H
#define KVTIER_TESTS_SIM_MODEL_H

#include "proto/frames.h"

#include <stdbool.h>
#include <stdint.h>

#define VERSIONS_MAX 4096u
#define TENANTS_MAX 4u

/* Whose bytes; equal ones are interchangeable. */
struct identity {
	uint16_t tenant, model, adapter;
};

/* Where in a chain. */
struct stretch {
	uint16_t chain, group, shard;
	uint16_t first, count; /* positions */
};

struct version {
	struct identity identity;
	struct stretch at;
	uint64_t ended;     /* moment; 0: not yet, or never */
	uint64_t forgotten; /* moment; 0: not */
};

struct model {
	struct version versions[VERSIONS_MAX];
	uint32_t count;
	uint64_t moment; /* raised by everything that happens */
	uint64_t served, missed, stored;
	/* BYPASS on was answered then, and nothing else was said since; 0: not known to be on. */
	uint64_t bypassed[TENANTS_MAX];
	uint64_t bypassed_all; /* the same of the settings in force */
	uint64_t drained;      /* the same of DRAIN */
};

extern struct model model;

void model_start(void);
uint64_t model_now(void);
/* 0: no more room. The version's number begins with 1. */
uint32_t model_store(const struct identity *identity, const struct stretch *at);
void model_stored(uint32_t version);
/* A FORGET that was asked at the moment `began` and has been answered; of the whole tenant, or
 * of one identity. */
void model_forgot(const struct identity *identity, bool is_of_tenant, uint64_t began);
/* NULL, or why `version` of the key must not have been loaded by what began then. */
const char *model_refuses(uint32_t version, const struct identity *identity,
			  const struct stretch *at, uint64_t began);
/* Whether some version of the key at `at->first` may be there. */
bool model_may_have(const struct identity *identity, const struct stretch *at, uint64_t began);

/* Prints what is wrong, and ends this process. */
_Noreturn void sim_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* With --verbose: a line of the history. */
void sim_tell(const char *format, ...) __attribute__((format(printf, 1, 2)));

void model_hash(unsigned chain, unsigned position, uint8_t out_hash[FRAME_HASH_BYTES]);
/* The bytes of a version's block. */
void model_payload(uint32_t version, unsigned position, uint8_t *target, uint64_t bytes);
/* Which version the bytes say they are; 0: none. */
uint32_t model_version_of(const uint8_t *payload);
/* Whether the 16 bytes there begin a block of some version. */
bool model_is_payload(const uint8_t *bytes);

#endif
