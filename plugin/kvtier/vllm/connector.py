"""KvtierConnector: kvtier behind vLLM's KV connector interface (KVConnectorBase_V1).

One object in the scheduler's process, one in each worker; this file only says which of our two
sides answers which of vLLM's calls, on every supported version.
"""
from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (KVConnectorBase_V1,
                                                               KVConnectorMetadata,
                                                               KVConnectorRole, SupportsHMA)
from vllm.logger import init_logger

from kvtier.settings import Settings
from kvtier.vllm import compat
from kvtier.vllm.messages import Registration, StepMetadata, WorkerReport
from kvtier.vllm.scheduler import SchedulerSide
from kvtier.vllm.statistics import ConnectorMetrics, ConnectorStats
from kvtier.vllm.worker import WorkerSide

logger = init_logger('vllm.kvtier')

ENGINE_NAME_MAX = 63


class KvtierConnector(KVConnectorBase_V1, SupportsHMA):
    """See docs/VLLM.md for how to use it and what it promises."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any = None):
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        transfer = vllm_config.kv_transfer_config
        settings = Settings(transfer.kv_connector_extra_config or {})
        engine = (settings.engine or transfer.engine_id or 'vllm')[:ENGINE_NAME_MAX]
        self._scheduler: SchedulerSide | None = None
        self._worker: WorkerSide | None = None
        self._is_over = False      # a fault of the scheduler's side
        self._world = (vllm_config.parallel_config.tensor_parallel_size
                       * vllm_config.parallel_config.pipeline_parallel_size)
        if role == KVConnectorRole.SCHEDULER:
            self._scheduler = SchedulerSide(vllm_config, kv_cache_config, settings, engine)
            _warn_of_policy(transfer, settings)
        else:
            self._worker = WorkerSide(vllm_config, kv_cache_config, settings, engine)

    @property
    def requires_kv_delivery(self) -> bool:
        """A cache: what could not be stored is a later miss."""
        return False

    @classmethod
    def get_required_kvcache_layout(cls, vllm_config: Any) -> str | None:
        """Not required, in spite of its name: asked for."""
        settings = Settings(vllm_config.kv_transfer_config.kv_connector_extra_config or {})
        return compat.contiguous_layout() if settings.contiguous_blocks else None

    # ---- the scheduler's side ----

    def set_xfer_handshake_metadata(self, metadata: dict[int, Any]) -> None:
        self._take_registrations(metadata.values())

    def set_xfer_handshake_metadata_pp_aware(self, metadata: dict[tuple[int, int], Any]) -> None:
        self._take_registrations(metadata.values())

    def _take_registrations(self, registrations: Iterable[Any]) -> None:
        assert self._scheduler is not None
        own = [one for one in registrations if isinstance(one, Registration)]
        refused = [one for one in own if one.refusal]
        if own:
            self._scheduler.register((refused or own)[0])

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        assert self._scheduler is not None
        self._scheduler.block_pool = gpu_block_pool

    def _guarded(self, otherwise: Any, call: Any, *arguments: Any) -> Any:
        """A fault of ours costs the cache, not the engine: from then on everything is a miss."""
        assert self._scheduler is not None
        if self._is_over:
            return otherwise
        began = time.monotonic()
        try:
            return call(*arguments)
        except Exception:
            self._is_over = True
            logger.exception('kvtier: a fault of the connector. Serving without kvtier from now '
                             'on. Fix: report it with these lines.')
            return otherwise
        finally:
            self._scheduler.stats.add('step_seconds_total', time.monotonic() - began)

    def on_new_request(self, request: Any) -> None:
        assert self._scheduler is not None
        self._guarded(None, self._scheduler.on_new_request, request)

    def get_num_new_matched_tokens(self, request: Any,
                                   num_computed_tokens: int) -> tuple[int | None, bool]:
        assert self._scheduler is not None
        return self._guarded((0, False), self._scheduler.matched_tokens, request,
                             num_computed_tokens)

    def update_state_after_alloc(self, request: Any, blocks: Any,
                                 num_external_tokens: int) -> None:
        assert self._scheduler is not None
        ids = blocks.get_block_ids()
        self._guarded(None, self._scheduler.allocated, request, ids, num_external_tokens)
        if self._is_over and num_external_tokens > 0:
            self._scheduler.lose(request, ids)

    def get_external_cache_hit_sources(self, request: Any, num_external_tokens: int) -> Any:
        assert self._scheduler is not None
        split = self._guarded((num_external_tokens, 0, 0), self._scheduler.hit_split, request,
                              num_external_tokens)
        return compat.hit_sources(*split) or {}

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        assert self._scheduler is not None
        metadata = self._guarded(None, self._scheduler.step, scheduler_output)
        return self._scheduler.last_step() if metadata is None else metadata

    def update_connector_output(self, connector_output: Any) -> None:
        assert self._scheduler is not None
        report = connector_output.kv_connector_worker_meta
        if isinstance(report, WorkerReport):
            self._guarded(None, self._scheduler.report, report, self._world)

    def request_finished(self, request: Any,
                         block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        return self.request_finished_all_groups(request, (block_ids,))

    def request_finished_all_groups(
            self, request: Any,
            block_ids: tuple[list[int], ...]) -> tuple[bool, dict[str, Any] | None]:
        """The blocks are free at once: a store that still reads one is flushed before its reuse."""
        assert self._scheduler is not None
        return False, self._guarded(None, self._scheduler.finished, request, block_ids)

    def reset_cache(self) -> bool:
        assert self._scheduler is not None
        return self._guarded(True, self._scheduler.reset)

    # ---- the worker's side ----

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        assert self._worker is not None
        self._worker.register(kv_caches)

    def get_handshake_metadata(self) -> Registration | None:
        return self._worker.registration if self._worker is not None else None

    def handle_preemptions(self, kv_connector_metadata: KVConnectorMetadata) -> None:
        assert self._worker is not None
        if isinstance(kv_connector_metadata, StepMetadata):
            self._shielded(self._worker.flush, kv_connector_metadata)

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        """Before the forward. Loads begin here, not in start_load_kv, which may come after it."""
        super().bind_connector_metadata(connector_metadata)
        if self._worker is not None and isinstance(connector_metadata, StepMetadata):
            self._shielded(self._worker.flush, connector_metadata)
            self._shielded(self._worker.begin, connector_metadata)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        return None

    def wait_for_layer_load(self, layer_name: str) -> None:
        return None

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any,
                      **kwargs: Any) -> None:
        return None

    def wait_for_save(self) -> None:
        assert self._worker is not None
        self._shielded(self._worker.store)

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        assert self._worker is not None
        done, _ = self._finished(finished_req_ids)
        return None, done or None

    def get_transfer_results(self, finished_req_ids: set[str]) -> Any:
        assert self._worker is not None
        done, failed = self._finished(finished_req_ids)
        return compat.transfer_results(done, failed)

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self._worker.take_lost_blocks() if self._worker is not None else set()

    def build_connector_worker_meta(self) -> WorkerReport | None:
        return self._worker.take_report() if self._worker is not None else None

    def _finished(self, requests: set[str]) -> tuple[set[str], set[str]]:
        assert self._worker is not None
        result = self._shielded(self._worker.finished, requests)
        return self._worker.take_ended() if result is None else result

    def _shielded(self, call: Any, *arguments: Any) -> Any:
        """A fault of ours ends all transfers; what was promised is said to be lost."""
        assert self._worker is not None
        began = time.monotonic()
        try:
            return call(*arguments)
        except Exception:
            logger.exception('kvtier: a fault of the connector\'s worker. Serving without kvtier '
                             'from now on. Fix: report it with these lines.')
            step = next((own for own in arguments if isinstance(own, StepMetadata)), None)
            self._worker.stop(step)
            return None
        finally:
            self._worker.stats.add('step_seconds_total', time.monotonic() - began)

    # ---- both ----

    def get_kv_connector_stats(self) -> ConnectorStats | None:
        if self._scheduler is not None:
            return self._scheduler.take_stats(self._is_over)
        return self._worker.take_stats() if self._worker is not None else None

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> ConnectorStats:
        return ConnectorStats(data=data) if data is not None else ConnectorStats()

    @classmethod
    def build_prom_metrics(cls, vllm_config: Any, metric_types: Any, labelnames: list[str],
                           per_engine_labelvalues: dict[int, list[object]]) -> ConnectorMetrics:
        return ConnectorMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)

    def shutdown(self) -> None:
        for side in (self._worker, self._scheduler):
            if side is not None:
                side.close()


def _warn_of_policy(transfer: Any, settings: Settings) -> None:
    if settings.load and getattr(transfer, 'kv_load_failure_policy', 'recompute') != 'recompute':
        logger.warning('kvtier: kv_load_failure_policy is "fail": a block that cannot be loaded '
                       'ends its request with an error instead of being recomputed. Fix: add '
                       '"kv_load_failure_policy": "recompute" to --kv-transfer-config.')
