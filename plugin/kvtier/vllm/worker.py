"""The connector in a worker: the engine's KV cache registered, blocks loaded and stored.

Runs on the thread of the engine's steps. libkvtier's copy thread moves the bytes, from and to a
staging area where the KV cache lies on a device; here a run of blocks is one call. Waits: a synchronous load (load's deadline, at most sync_load_ms), a flush
(flush_ms, then until our own copy of a block is over), an idle step with loads under way
(IDLE_WAIT_US).
"""
from __future__ import annotations

import errno
import time
from dataclasses import dataclass, field
from typing import Any

import numpy
from vllm.logger import init_logger

from kvtier import library
from kvtier.settings import Settings
from kvtier.vllm import compat
from kvtier.vllm.identity import Refused, identity_of
from kvtier.vllm.layout import Layout, layout_of
from kvtier.vllm.link import Link, options_of
from kvtier.vllm.messages import Blocks, Load, Registration, StepMetadata, Store, WorkerReport
from kvtier.vllm.statistics import ConnectorStats, taken
from kvtier.vllm.transfer import transfer_of
from kvtier.vllm.versions import WeightsVersion

logger = init_logger('vllm.kvtier')

IDLE_WAIT_US = 1000
WAIT_SLICE_US = 2000
CLOSE_SECONDS = 1.0
WAITING_MAX = 4096       # transfers that wait for a free job of the library


@dataclass
class LoadState:
    """A load until each of its jobs is quiescent."""
    load: Load
    began: float
    jobs: int = 0
    lost: list[int] = field(default_factory=list)        # group, position, one behind the other
    lost_blocks: list[int] = field(default_factory=list)
    generation: int = 0


@dataclass
class StoreState:
    store: Store
    has_failed: bool = False


@dataclass
class Job:
    """One job of the library."""
    owner: LoadState | StoreState
    part: Blocks
    is_reported: bool = False
    is_quiet: bool = False       # the engine's blocks are not touched any more


class WorkerSide:
    """One a worker process."""

    def __init__(self, vllm_config: Any, kv_cache_config: Any, settings: Settings, engine: str):
        self._vllm_config = vllm_config
        self._kv_cache_config = kv_cache_config
        self._settings = settings
        self._engine = engine
        self._weights = WeightsVersion(settings)
        self._link: Link | None = None
        self._payload_bytes: list[int] = []
        self.registration: Registration | None = None
        self._generation = 0
        self._jobs: dict[int, Job] = {}
        self._loads: dict[int, LoadState] = {}
        self._stores: dict[int, int] = {}            # number -> the library's job
        self._waiting: list[tuple[LoadState | StoreState, Blocks]] = []
        self._pending_stores: list[Store] = []
        self._step_is_spoilt = False
        self._done_requests: set[str] = set()
        self._failed_requests: set[str] = set()
        self._lost_blocks: set[int] = set()
        self._report = WorkerReport()
        self._is_idle = False
        self.stats = ConnectorStats()

    # ---- registration ----

    def register(self, kv_caches: dict[str, Any]) -> None:
        """The engine's KV cache is there: what it is, whether we read it right, and who we are."""
        try:
            self._register(kv_caches)
        except Refused as refused:
            if self._settings.on_refusal == 'fail':
                raise RuntimeError(f'kvtier: {refused.reason}; {refused.remedy} (on_refusal is '
                                   '"fail")') from refused
            logger.error('kvtier: %s. Serving without it. Fix: %s', refused.reason, refused.remedy)
            self.registration = Registration({}, [], 1, refused.reason, refused.remedy)
        except Exception as error:
            if self._settings.on_refusal == 'fail':
                raise
            logger.exception('kvtier: a fault of the connector. Serving without it. Fix: report it '
                             'with these lines.')
            self.registration = Registration({}, [], 1, f'a fault: {error}', '')

    def _register(self, kv_caches: dict[str, Any]) -> None:
        import vllm
        compat.check_version(vllm.__version__, self._settings.unknown_version)
        identity = identity_of(self._vllm_config, self._weights.text)
        layout = layout_of(self._kv_cache_config, kv_caches, self._vllm_config)
        if len(layout.groups) > 1 and not compat.HAS_FAILED_RECEIVES:
            raise Refused('this vLLM version cannot report a failed load of a model with several '
                          'KV cache groups', 'use vLLM 0.32 or newer for this model')
        _check_groups(layout, self._kv_cache_config)
        identity['layout'] = layout.text
        parallel = self._vllm_config.parallel_config
        shard, world = _shard_of(parallel)
        groups = [library.Group(group.kind, group.tokens_per_block, group.payload_bytes,
                                group.window_tokens, group.segments_count, group.blocks_count,
                                group.planes) for group in layout.groups]
        options = options_of(self._engine, library.WORKER, identity, groups,
                             self._settings.socket, shard, world)
        transfer = transfer_of(layout, kv_caches, self._kv_cache_config, options, self._settings)
        self.stats.add('staging_bytes', transfer.staging_bytes)
        self.stats.add('pull', int(transfer.is_pull))
        link = Link('worker', options, self._settings.on_refusal == 'fail', transfer.open)
        self._link = link
        self._payload_bytes = [group.payload_bytes for group in groups]
        self.registration = Registration(identity, [
            (group.kind, group.tokens_per_block, group.payload_bytes, group.window_tokens,
             group.segments_count) for group in groups], world)

    def stop(self, metadata: StepMetadata | None) -> None:
        """After a fault of our own: nobody touches the engine's memory any more, and whatever was
        promised, also in this step, is lost and said to be. The engine computes, and lives."""
        if self._link is not None:
            self._link.close()     # waits for our own copies
            self._link = None
        stores = [*self._stores, *(owner.store.number for owner, _ in self._waiting
                                   if isinstance(owner, StoreState))]
        self._jobs, self._stores, self._waiting = {}, {}, []
        pending, self._pending_stores = self._pending_stores, []
        stores += [store.number for store in pending]
        loads = [state.load for state in self._loads.values()]
        if metadata is not None:
            stores += [store.number for store in metadata.stores]
            loads += [load for load in metadata.loads if load.number not in self._loads]
        self._loads = {}
        for number in stores:
            self._report.stores_over[number] = 1
            self._report.stores_failed.add(number)
        for load in loads:
            state = LoadState(load, time.monotonic(), jobs=1)
            self._loads[load.number] = state
            for part in load.parts:
                self._lose(state, part, None)
            self._end_part(state)

    # ---- a step ----

    def flush(self, metadata: StepMetadata) -> None:
        """Before this step overwrites blocks: the stores that still read them end."""
        jobs = [self._stores[number] for number in metadata.flush if number in self._stores]
        self._drop_waiting(set(metadata.flush))
        if not jobs or self._link is None or self._link.client is None:
            return
        self.stats.add('flushes_total', len(jobs))
        end = time.monotonic() + self._settings.flush_ms / 1000
        while self._any_open(jobs) and time.monotonic() < end:
            self._wait(end)
        left = [job for job in jobs if self._any_open([job])]
        if left:
            self.stats.add('flush_cancels_total', len(left))
            for job in left:
                self._link.client.cancel(job)
        while self._any_open(jobs):
            self._link.client.wait(WAIT_SLICE_US)
            self._poll()

    def _any_open(self, jobs: list[int]) -> bool:
        return any(job in self._jobs and not self._jobs[job].is_quiet for job in jobs)

    def _wait(self, end: float) -> None:
        """Until something has completed, or `end`."""
        assert self._link is not None and self._link.client is not None
        left_us = int(max(0.0, end - time.monotonic()) * 1e6)
        self._link.client.wait(min(left_us, WAIT_SLICE_US))
        self._poll()

    def begin(self, metadata: StepMetadata) -> None:
        """The step's loads are begun, before its forward; the synchronous ones are waited for."""
        self._is_idle = metadata.is_idle
        if metadata.is_over:
            self.stop(metadata)
            return
        if metadata.generation != self._generation:
            self._generation = metadata.generation
            self._change_weights(metadata.weights_version)
        waited = []
        for load in metadata.loads:
            state = LoadState(load, time.monotonic(), generation=self._generation)
            self._loads[load.number] = state
            self.stats.add('loads_total', 1)
            state.jobs = len(load.parts)
            for part in load.parts:
                self._begin_load(state, part)
            if not load.is_async:
                waited.append(state)
        self._pending_stores = metadata.stores
        for state in waited:
            self._wait_for_load(state)
        self._step_is_spoilt = any(state.lost for state in waited)

    def _change_weights(self, version: str) -> None:
        """Nothing that is under way may count for the new weights."""
        self._weights.text = version
        if self._link is None:
            return
        client = self._link.client
        if client is not None:
            for number in list(self._jobs):
                client.cancel(number)
            while self._jobs:
                client.wait(WAIT_SLICE_US)
                self._poll()
        for owner, part in self._waiting:
            self._part_over(owner, part)
        self._waiting = []
        # Also where there is no client: one that is refused now must not come back as the old.
        self._link.reopen(version)

    def _begin_load(self, state: LoadState, part: Blocks) -> None:
        link = self._link
        space = link.space_of(state.load.adapter) if link is not None and link.client else None
        if link is None or link.client is None or space is None:
            self._part_over(state, part)
            return
        blocks = library.block_array(part.hashes, numpy.frombuffer(part.engine_blocks, '<u4'))
        result, job = link.client.load(
            blocks, space=space, group=part.group, first_position=part.first_position,
            lease=state.load.lease, deadline_us=state.load.deadline_us, tag=state.load.tag)
        self._begun(result, job, state, part)

    def _begun(self, result: int, job: int, owner: LoadState | StoreState, part: Blocks) -> None:
        if result == 0:
            self._jobs[job] = Job(owner, part)
            if isinstance(owner, StoreState):
                self._stores[owner.store.number] = job
        elif result == -errno.EAGAIN and len(self._waiting) < WAITING_MAX:
            self._waiting.append((owner, part))
        else:
            self._part_over(owner, part)

    def _wait_for_load(self, state: LoadState) -> None:
        """A synchronous load: over when this returns, with what did not arrive reported."""
        end = state.began + state.load.deadline_us * 1e-6
        while state.jobs > 0 and time.monotonic() < end:
            self._wait(end)
        if state.jobs == 0:
            return
        assert self._link is not None and self._link.client is not None
        for owner, part in [entry for entry in self._waiting if entry[0] is state]:
            self._waiting.remove((owner, part))
            self._part_over(owner, part)
        for number in [number for number, job in self._jobs.items() if job.owner is state]:
            self._link.client.cancel(number)
        while state.jobs > 0:
            self._link.client.wait(WAIT_SLICE_US)
            self._poll()

    def store(self) -> None:
        """After the step's forward: its stores are begun. Nobody waits for them here."""
        stores, self._pending_stores = self._pending_stores, []
        for store in stores:
            state = StoreState(store)
            if self._step_is_spoilt:
                # The forward has read blocks that did not arrive, and other requests of the step
                # may share them: what it wrote is computed again, and offered again then.
                self._report.stores_again.add(store.number)
                self._part_over(state, store.part)
            else:
                self._begin_store(state, store.part)

    def _begin_store(self, state: StoreState, part: Blocks) -> None:
        link = self._link
        space = link.space_of(state.store.adapter) if link is not None and link.client else None
        if link is None or link.client is None or space is None:
            self._part_over(state, part)
            return
        routes = None if part.route_keys is None else numpy.frombuffer(part.route_keys, '<u8')
        blocks = library.block_array(part.hashes, numpy.frombuffer(part.engine_blocks, '<u4'),
                                     routes)
        result, job = link.client.store(
            blocks, space=space, group=part.group, first_position=part.first_position,
            parent=part.parent, deadline_us=state.store.deadline_us, tag=state.store.tag)
        self._begun(result, job, state, part)

    # ---- completions ----

    def _poll(self) -> None:
        if self._link is None or self._link.client is None:
            return
        while True:
            completions = self._link.client.poll()
            for completion in completions:
                self._completed(completion)
            if not completions:
                break
        if self._waiting and len(self._jobs) < 64:
            waiting, self._waiting = self._waiting, []
            for owner, part in waiting:
                if isinstance(owner, LoadState):
                    self._begin_load(owner, part)
                else:
                    self._begin_store(owner, part)

    def _completed(self, completion: library.Completion) -> None:
        job = self._jobs.get(completion.job)
        if job is None:
            return
        if completion.state != library.UNDECIDED and not job.is_reported:
            job.is_reported = True
            self._count(job, completion)
        job.is_quiet = job.is_quiet or completion.quiesced
        if job.is_reported and job.is_quiet:
            del self._jobs[completion.job]
            self._end_part(job.owner)

    def _count(self, job: Job, completion: library.Completion) -> None:
        owner, good = job.owner, completion.good_count
        size = self._payload_bytes[job.part.group]
        bad = len(job.part.hashes) // library.HASH_BYTES - good
        if isinstance(owner, StoreState):
            self.stats.add('stored_blocks_total', good)
            self.stats.add('stored_bytes_total', good * size)
            if bad:
                owner.has_failed = True
                self.stats.add('store_failed_blocks_total', bad)
            return
        self.stats.add('loaded_blocks_total', good)
        self.stats.add('loaded_bytes_total', good * size)
        if owner.generation != self._generation:
            self._lose(owner, job.part, None)
        elif bad:
            self._lose(owner, job.part, completion.results)

    def _lose(self, state: LoadState, part: Blocks, results: list[int] | None) -> None:
        """Blocks of a load that did not arrive; results None or empty: none did."""
        ids = numpy.frombuffer(part.engine_blocks, '<u4')
        lost = numpy.arange(len(ids)) if not results else numpy.flatnonzero(results)
        for index in lost.tolist():
            state.lost += (part.group, part.first_position + index)
            state.lost_blocks.append(int(ids[index]))

    def _part_over(self, owner: LoadState | StoreState, part: Blocks) -> None:
        """A part that never became a job."""
        if isinstance(owner, LoadState):
            self._lose(owner, part, None)
        else:
            owner.has_failed = True
            self.stats.add('store_failed_blocks_total', len(part.hashes) // library.HASH_BYTES)
        self._end_part(owner)

    def _drop_waiting(self, numbers: set[int]) -> None:
        """Stores that have not become a job yet, and never will."""
        for owner, part in self._waiting[:] if numbers else ():
            if isinstance(owner, StoreState) and owner.store.number in numbers:
                self._waiting.remove((owner, part))
                self._part_over(owner, part)

    def _end_part(self, owner: LoadState | StoreState) -> None:
        if isinstance(owner, StoreState):
            number = owner.store.number
            self._stores.pop(number, None)
            self._report.stores_over[number] = 1
            if owner.has_failed:
                self._report.stores_failed.add(number)
            return
        owner.jobs -= 1
        if owner.jobs > 0:
            return
        load, seconds = owner.load, time.monotonic() - owner.began
        del self._loads[load.number]
        self.stats.add('load_seconds_total', seconds)
        self._report.loads_over[load.number] = 1
        self._report.load_seconds[load.number] = seconds
        if owner.lost:
            self._report.loads_failed[load.number] = owner.lost
            self.stats.add('load_failed_blocks_total', len(owner.lost_blocks))
            if len(self._payload_bytes) > 1:
                self._failed_requests.add(load.request_id)
            else:
                self._lost_blocks.update(owner.lost_blocks)
        if load.is_async:
            self._done_requests.add(load.request_id)

    def finished(self, finished_requests: set[str]) -> tuple[set[str], set[str]]:
        """(requests whose asynchronous load is over, those of them that must start again)."""
        if finished_requests and self._loads:
            self._abandon(finished_requests)
        if self._jobs or self._waiting:
            self._poll()
            if self._is_idle and self._loads and not self._done_requests and \
                    self._link is not None and self._link.client is not None:
                self._link.client.wait(IDLE_WAIT_US)
                self._poll()
        return self.take_ended()

    def take_ended(self) -> tuple[set[str], set[str]]:
        """finished(), of what is known already."""
        done, self._done_requests = self._done_requests, set()
        failed, self._failed_requests = self._failed_requests, set()
        return done, failed

    def _abandon(self, requests: set[str]) -> None:
        """Loads of aborted requests are cut short; they end like the others."""
        for number, job in list(self._jobs.items()):
            if isinstance(job.owner, LoadState) and job.owner.load.request_id in requests:
                assert self._link is not None and self._link.client is not None
                self._link.client.cancel(number)

    def take_lost_blocks(self) -> set[int]:
        lost, self._lost_blocks = self._lost_blocks, set()
        return lost

    def take_report(self) -> WorkerReport | None:
        if self._report.is_empty():
            return None
        report, self._report = self._report, WorkerReport()
        return report

    def take_stats(self) -> ConnectorStats | None:
        if self._link is not None:
            self._link.is_connected()
        told, self.stats = taken(self.stats, self._link)
        return told

    def close(self) -> None:
        """Stores under way get a moment to end: what they hold is what the next engine wants."""
        end = time.monotonic() + CLOSE_SECONDS
        while self._jobs and time.monotonic() < end:
            self._wait(end)
        if self._link is not None:
            self._link.close()


def _check_groups(layout: Layout, kv_cache_config: Any) -> None:
    """The scheduler counts groups, and tokens of a block, as the engine's configuration does."""
    groups = kv_cache_config.kv_cache_groups
    if [group.number for group in layout.groups] != list(range(len(groups))):
        raise Refused('some of the model\'s KV cache groups take no part in KV transfer',
                      'models with such groups are not served yet')
    for own, group in zip(layout.groups, groups):
        if own.tokens_per_block != group.kv_cache_spec.block_size:
            raise Refused(f'a block spans {own.tokens_per_block} tokens over the ranks, and '
                          f'{group.kv_cache_spec.block_size} on each',
                          'run without decode context parallelism; it is not served yet')
        if own.kind == 'state':
            raise Refused('the model keeps recurrent state (Mamba, linear attention)',
                          'such models are not served yet')


def _shard_of(parallel: Any) -> tuple[int, int]:
    """(this rank's part of each block, parts): tensor and pipeline ranks; replicas are no parts."""
    tensor, pipeline = parallel.tensor_parallel_size, parallel.pipeline_parallel_size
    world = tensor * pipeline
    return parallel.rank % world, world
