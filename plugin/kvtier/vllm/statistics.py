"""What the connector counts, and how vLLM shows it; the table is kvtier/tables.py."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import (KVConnectorPromMetrics,
                                                                  KVConnectorStats)

from kvtier.tables import GAUGE, METRIC_PREFIX, METRICS
from kvtier.vllm.link import Link

NAMES = tuple(name for name, _, _ in METRICS)
_GAUGES = frozenset(name for name, kind, _ in METRICS if kind == GAUGE)


def taken(stats: ConnectorStats, link: Link | None) -> tuple[ConnectorStats | None, ConnectorStats]:
    """(what is to be told now, what is counted on with), with the library's time in it."""
    seconds = link.take_seconds() if link is not None else 0.0
    if seconds > 0:
        stats.add('library_seconds_total', seconds)
    return (stats, ConnectorStats()) if stats.is_worth_telling() else (None, stats)


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

    def is_worth_telling(self) -> bool:
        """Whether more is known than that time went by: else it waits for a step with news."""
        return not self.data.keys() <= {'step_seconds_total'}


class ConnectorMetrics(KVConnectorPromMetrics):
    """The same on vLLM's /metrics, labelled as vLLM labels its own."""

    def __init__(self, vllm_config: Any, metric_types: Any, labelnames: list[str],
                 per_engine_labelvalues: dict[int, list[object]]):
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        self._metrics: dict[str, dict[int, Any]] = {}
        for name, kind, about in METRICS:
            make = self._gauge_cls if kind == GAUGE else self._counter_cls
            metric = make(name=METRIC_PREFIX + name, documentation=about, labelnames=labelnames)
            self._metrics[name] = {engine: metric.labels(*values)
                                   for engine, values in per_engine_labelvalues.items()}

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        for name, value in transfer_stats_data.items():
            if name in _GAUGES:
                self._metrics[name][engine_idx].set(value)
            elif name in self._metrics:
                self._metrics[name][engine_idx].inc(value)
