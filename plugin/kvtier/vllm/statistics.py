"""What the connector counts, and how vLLM shows it: one table for /metrics, the log and the docs."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import (KVConnectorPromMetrics,
                                                                  KVConnectorStats)

PREFIX = 'kvtier_connector_'
COUNTER, GAUGE = 'counter', 'gauge'

# name (without PREFIX), kind, what it says
TABLE = (
    ('enabled', GAUGE, '1: blocks are looked up and stored; 0: the log says why not'),
    ('lookups_total', COUNTER, 'Lookups sent to kvtierd'),
    ('lookup_failures_total', COUNTER, 'Lookups without an answer within lookup_ms: misses'),
    ('lookup_seconds_total', COUNTER, 'Time that the scheduler spent in lookups'),
    ('queried_tokens_total', COUNTER, 'Tokens asked for, beyond what the engine had itself'),
    ('hit_tokens_total', COUNTER, 'Tokens offered to the scheduler as loadable'),
    ('declined_tokens_total', COUNTER, 'Tokens that are there, but sooner computed than loaded'),
    ('loads_total', COUNTER, 'Loads begun (one a request and rank)'),
    ('loaded_blocks_total', COUNTER, 'Blocks loaded and proven'),
    ('loaded_bytes_total', COUNTER, 'Bytes of them'),
    ('load_seconds_total', COUNTER, 'From a load\'s begin to its end, summed over loads'),
    ('load_failed_blocks_total', COUNTER, 'Blocks promised but not loaded: they are recomputed'),
    ('stored_blocks_total', COUNTER, 'Blocks that are in kvtier after a store, new or already there'),
    ('stored_bytes_total', COUNTER, 'Bytes of them'),
    ('store_failed_blocks_total', COUNTER, 'Blocks that could not be stored: a later miss'),
    ('flushes_total', COUNTER, 'Stores waited for because the engine wanted their blocks back'),
    ('flush_cancels_total', COUNTER, 'Of them, cancelled after flush_ms'),
    ('step_seconds_total', COUNTER, 'Time in the connector on the thread of the engine\'s steps'),
    ('refused_requests_total', COUNTER, 'Requests neither loaded nor stored, as their hash does '
     'not cover their content'),
)
NAMES = tuple(name for name, _, _ in TABLE)
_GAUGES = frozenset(name for name, kind, _ in TABLE if kind == GAUGE)


@dataclass
class ConnectorStats(KVConnectorStats):
    """Counts since the last step that reported; `data` has only what is not zero."""

    def add(self, name: str, value: float) -> None:
        self.data[name] = self.data.get(name, 0) + value

    def reset(self) -> None:
        self.data = {}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        for name, value in other.data.items():
            if name in _GAUGES:
                self.data[name] = value
            else:
                self.add(name, value)
        return self

    def reduce(self) -> dict[str, int | float]:
        return {name: round(self.data[name], 6) for name in NAMES if name in self.data}

    def is_empty(self) -> bool:
        return not self.data


class ConnectorMetrics(KVConnectorPromMetrics):
    """The same on vLLM's /metrics, labelled as vLLM labels its own."""

    def __init__(self, vllm_config: Any, metric_types: Any, labelnames: list[str],
                 per_engine_labelvalues: dict[int, list[object]]):
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        self._metrics: dict[str, dict[int, Any]] = {}
        for name, kind, about in TABLE:
            make = self._gauge_cls if kind == GAUGE else self._counter_cls
            metric = make(name=PREFIX + name, documentation=about, labelnames=labelnames)
            self._metrics[name] = {engine: metric.labels(*values)
                                   for engine, values in per_engine_labelvalues.items()}

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        for name, value in transfer_stats_data.items():
            if name in _GAUGES:
                self._metrics[name][engine_idx].set(value)
            elif name in self._metrics:
                self._metrics[name][engine_idx].inc(value)


def markdown() -> str:
    """The table for docs/VLLM.md."""
    lines = ['| metric | what it says |', '| --- | --- |']
    lines += [f'| `{PREFIX}{name}` | {about} |' for name, _, about in TABLE]
    return '\n'.join(lines) + '\n'
