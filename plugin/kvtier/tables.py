"""Tables that code, docs and tests share: metrics, supported versions, request controls."""
from __future__ import annotations

METRIC_PREFIX = 'kvtier_connector_'
COUNTER, GAUGE = 'counter', 'gauge'

# name (without METRIC_PREFIX), kind, what it says
METRICS = (
    ('enabled', GAUGE, '1: blocks are looked up and stored; 0: the log says why not'),
    ('pull', GAUGE, '1: kvtierd copies blocks from and to the GPU itself'),
    ('staging_bytes', GAUGE, 'Host memory of each rank through which blocks are copied; 0: they '
     'are not'),
    ('lookups_total', COUNTER, 'Lookups sent to kvtierd'),
    ('lookup_failures_total', COUNTER, 'Lookups without an answer within `lookup_ms`: misses'),
    ('lookup_seconds_total', COUNTER, 'Time that the scheduler spent in lookups'),
    ('queried_tokens_total', COUNTER, 'Tokens asked for, beyond what the engine had itself'),
    ('hit_tokens_total', COUNTER, 'Tokens offered to the scheduler as loadable'),
    ('declined_tokens_total', COUNTER, 'Tokens that are there, but sooner computed than loaded'),
    ('fetches_total', COUNTER, 'Requests whose blocks another node was asked for'),
    ('peer_tokens_total', COUNTER, 'Tokens of loads that were on their way from another node'),
    ('tickets_total', COUNTER, 'Requests whose blocks were promised to another node'),
    ('loads_total', COUNTER, 'Loads begun (one a request and rank)'),
    ('loaded_blocks_total', COUNTER, 'Blocks loaded and proven'),
    ('loaded_bytes_total', COUNTER, 'Bytes of them'),
    ('load_seconds_total', COUNTER, 'From a load\'s begin to its end, summed over loads'),
    ('load_failed_blocks_total', COUNTER, 'Blocks promised but not loaded: they are recomputed'),
    ('stored_blocks_total', COUNTER,
     'Blocks that are in kvtier after a store, new or already there'),
    ('stored_bytes_total', COUNTER, 'Bytes of them'),
    ('store_failed_blocks_total', COUNTER, 'Blocks that could not be stored: a later miss'),
    ('flushes_total', COUNTER, 'Stores waited for because the engine wanted their blocks back'),
    ('flush_cancels_total', COUNTER, 'Of them, cancelled after `flush_ms`'),
    ('step_seconds_total', COUNTER, 'Time in the connector on the threads of the engine\'s steps'),
    ('library_seconds_total', COUNTER, 'Of them, in libkvtier: lookups, transfers begun and asked '
     'for, synchronous loads waited for'),
    ('refused_requests_total', COUNTER, 'Requests neither loaded nor stored, as their hash does '
     'not cover their content'),
)

# version, how it was tried
VERSIONS = (
    ('0.22.1', 'the suite, shortened, with the real engine on a CPU; models with one KV cache '
     'group; needs `PYTHONHASHSEED`'),
    ('0.29.0', 'the suite, shortened, with the real engine on a CPU; models with one KV cache '
     'group'),
    ('0.32.0', 'the whole suite with the real engine on a CPU, hybrid models too'),
    ('0.33.0', 'imported and type-checked against its sources; it has no CPU build to run'),
)
MINOR_LEAST, MINOR_MOST = 22, 33

# name in kv_transfer_params["kvtier"], what is right, what it does
CONTROLS = (
    ('store', 'true, false', 'false: nothing of this request is stored'),
    ('max_load_tokens', 'a number', 'At most so many tokens are loaded; 0: none'),
    ('retain_seconds', 'a number', 'At its end its blocks are protected for so long, within the '
     'tenant\'s limits'),
    ('end_of_session', 'true, false', 'true: nobody will continue this prompt; its blocks may go '
     'first'),
)


def metrics_markdown() -> str:
    lines = ['| metric | what it says |', '| --- | --- |']
    lines += [f'| `{METRIC_PREFIX}{name}` | {about} |' for name, _, about in METRICS]
    return '\n'.join(lines) + '\n'


def versions_markdown() -> str:
    lines = ['| vLLM | tried with |', '| --- | --- |']
    lines += [f'| {version} | {how} |' for version, how in VERSIONS]
    return '\n'.join(lines) + '\n'


def controls_markdown() -> str:
    lines = ['| control | right is | what it does |', '| --- | --- | --- |']
    lines += [f'| `{name}` | {right} | {about} |' for name, right, about in CONTROLS]
    return '\n'.join(lines) + '\n'
