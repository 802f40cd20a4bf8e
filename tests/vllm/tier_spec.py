"""vLLM's tiered offloading on a CPU: its own spec, with a worker that copies by itself.

The stock spec refuses CPUs, as its worker copies with CUDA. Everything else here is vLLM's.
"""
from __future__ import annotations

import inspect
import time
from typing import Any

from vllm.v1.kv_offload.base import OffloadingWorker, TransferResult
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

from kvtier.vllm.tier import KvtierOffloadingConnector, KvtierTier


class CopyingWorker(OffloadingWorker):
    """Copies between the engine's blocks and the rows at once, on the caller's thread."""

    def __init__(self, kv_caches: Any, region: SharedOffloadRegion, blocks_per_chunk: int):
        self._caches = kv_caches
        self._region = region
        self._blocks_per_chunk = blocks_per_chunk
        self._views = [region.create_next_worker_view(tensor.page_size_bytes * blocks_per_chunk)
                       for tensor in kv_caches.tensors]
        self._finished: list[TransferResult] = []

    def submit_store(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        return self._copy(job_id, src_spec, dst_spec, is_store=True)

    def submit_load(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        return self._copy(job_id, dst_spec, src_spec, is_store=False)

    def _copy(self, job_id: int, engine: Any, primary: Any, is_store: bool) -> bool:
        began = time.monotonic()
        rows = getattr(primary, 'chunk_ids', None)
        rows = primary.block_ids if rows is None else rows
        first_block, first_row, copied = 0, 0, 0
        for group, count in enumerate(engine.group_sizes):
            if count == 0:
                continue
            inside = engine.block_indices[group] % self._blocks_per_chunk
            for number in range(count):
                block = int(engine.block_ids[first_block + number])
                chunk, place = divmod(inside + number, self._blocks_per_chunk)
                copied += self._copy_block(group, block, int(rows[first_row + chunk]), place,
                                           is_store)
            first_block += count
            first_row += (inside + count - 1) // self._blocks_per_chunk + 1
        self._finished.append(TransferResult(job_id=job_id, success=True, transfer_size=copied,
                                             transfer_time=time.monotonic() - began))
        return True

    def _copy_block(self, group: int, block: int, row: int, place: int, is_store: bool) -> int:
        copied = 0
        for reference in self._caches.group_data_refs[group]:
            tensor = self._caches.tensors[reference.tensor_idx]
            size = tensor.page_size_bytes
            page = self._views[reference.tensor_idx][row, place * size:(place + 1) * size]
            if is_store:
                page.copy_(tensor.tensor[block])
            else:
                tensor.tensor[block].copy_(page)
            copied += size
        return copied

    def get_finished(self) -> list[TransferResult]:
        finished, self._finished = self._finished, []
        return finished

    def wait(self, job_ids: set[int]) -> None:
        """Nothing is ever under way."""

    def shutdown(self) -> None:
        self._views.clear()
        self._region.cleanup()


class CopyingTieringSpec(TieringOffloadingSpec):
    """The stock spec but for its worker."""

    def get_worker(self, kv_caches: Any) -> OffloadingWorker:
        if not self._worker:
            self._worker = CopyingWorker(kv_caches, self._region(), self.blocks_per_chunk)
        return self._worker

    def _region(self) -> SharedOffloadRegion:
        """Names of the counts and sizes have changed between versions."""
        count = getattr(self, 'num_chunks', None)
        count = self.num_blocks if count is None else count
        values = {'engine_id': self._engine_id, 'rank': self.config.parallel.rank,
                  'num_chunks': count, 'num_blocks': count,
                  'kv_bytes_per_chunk': self.kv_bytes_per_chunk,
                  'kv_bytes_per_block': self.kv_bytes_per_chunk,
                  'cpu_page_size': self.cpu_page_size_per_worker}
        wanted = inspect.signature(SharedOffloadRegion).parameters
        return SharedOffloadRegion(**{name: value for name, value in values.items()
                                      if name in wanted})


class QuietOffloadingConnector(KvtierOffloadingConnector):
    """Without its statistics: engine_process.py adds up plain numbers, and these are nested."""

    def get_kv_connector_stats(self) -> None:
        return None


class FailingTier(KvtierTier):
    """Promises what is there, and never delivers it."""

    def _complete(self, completion: Any) -> None:
        part = self._parts.get(completion.job)
        if part is not None and part.job.is_load:
            part.is_counted = True      # so that none of its chunks counts as good
        super()._complete(completion)
