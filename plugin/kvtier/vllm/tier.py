"""KvtierTier: kvtier as a secondary tier of vLLM's own tiered offloading (TieringOffloadingSpec).

vLLM copies chunks between the accelerator and its primary tier, rows of memory of its own; this
tier hands rows to kvtierd and takes them back. It runs in the scheduler's process, one client with
both roles. What vLLM's interface demands of it: a hit whose load failed must be a miss from then
on, as vLLM asks again until it is told otherwise, and no row may be touched once its job is over.
"""
from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from typing import Any

import numpy
from vllm.distributed.kv_transfer.kv_connector.v1 import offloading_connector
from vllm.logger import init_logger

try:
    from vllm.v1.kv_offload.base import Locality, LookupResult, Medium, RequestOffloadingContext
    from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager
except ImportError as error:
    raise ImportError('this vLLM is too old for KvtierTier: 0.29 or newer is right; with an older '
                      'one use the connector KvtierConnector') from error

from kvtier import library
from kvtier.library import HASH_BYTES
from kvtier.vllm import compat
from kvtier.vllm.identity import Refused
from kvtier.vllm.link import Link, options_of
from kvtier.vllm.requests import tag_of
from kvtier.vllm.tier_identity import identity_for, settings_of
from kvtier.vllm.tier_memory import (KEY_BYTES, Asking, Chain, Failures, Job, Lease, Part,
                                     group_of)
from kvtier.vllm.versions import WeightsVersion

logger = init_logger('vllm.kvtier')

GROUPS_MAX = 16
ENGINE_NAME_MAX = 63
_RESULT_FIELDS = frozenset(own.name for own in dataclasses.fields(JobResult))


class KvtierOffloadingConnector(offloading_connector.OffloadingConnector):
    """vLLM's own OffloadingConnector; only that the tiers it makes can see whose they are."""

    def __init__(self, vllm_config: Any, *arguments: Any, **named: Any):
        from vllm.config import set_current_vllm_config
        with set_current_vllm_config(vllm_config):
            super().__init__(vllm_config, *arguments, **named)


def _address_of(view: memoryview) -> int:
    """No array is left behind: it would keep vLLM's memory mapped for ever."""
    if not view.c_contiguous or view.ndim != 2 or view.itemsize != 1:
        raise Refused('the primary tier\'s memory is not rows of bytes', 'report it with the '
                      'versions of vLLM and kvtier')
    return int(numpy.asarray(view).ctypes.data)


class KvtierTier(SecondaryTierManager):
    """See docs/VLLM.md, 'Tiered offloading'. The scheduler's thread only."""

    medium = Medium.STORAGE

    def __init__(self, offloading_spec: Any, primary_kv_view: memoryview, tier_type: str,
                 backpressure_detector: Any = None, **given: Any):
        more = () if backpressure_detector is None else (backpressure_detector,)
        super().__init__(offloading_spec, primary_kv_view, tier_type, *more)
        self.locality = Locality.LOCAL
        self._settings = settings_of(given)
        self._weights = WeightsVersion(self._settings)
        self._rows_count, self._row_bytes = (
            primary_kv_view.shape if primary_kv_view.shape and primary_kv_view.ndim == 2
            else (0, 0))
        chunk = offloading_spec.config.cache.blocks_per_chunk
        groups = offloading_spec.config.groups
        self._tokens_per_chunk = {getattr(group, 'group_id', index): group.tokens_per_block * chunk
                                  for index, group in enumerate(groups)}
        self._numbers = {group: index for index, group in enumerate(self._tokens_per_chunk)}
        self._requests: dict[str, Asking] = {}
        self._jobs: dict[int, Job] = {}
        self._parts: dict[int, Part] = {}
        self._finished: list[JobResult] = []
        self._failures = Failures()
        self._link: Link | None = None
        self._hash_seed: str | None = None
        self._told_of_hashes = False
        try:
            self._attach()
        except Refused as refused:
            if self._settings.on_refusal == 'fail':
                raise RuntimeError(f'kvtier: {refused.reason}; {refused.remedy} (on_refusal is '
                                   '"fail")') from refused
            logger.error('kvtier: %s. Serving without it. Fix: %s', refused.reason, refused.remedy)

    def _attach(self) -> None:
        import vllm
        compat.check_version(vllm.__version__, self._settings.unknown_version)
        if len(self._tokens_per_chunk) > GROUPS_MAX:
            raise Refused(f'the model has {len(self._tokens_per_chunk)} KV cache groups, at most '
                          f'{GROUPS_MAX} are served', 'serve this model without kvtier')
        view = self._primary_kv_view
        plane = (_address_of(view), self._row_bytes, self._row_bytes)
        # Chunks are looked up and loaded one by one, whatever vLLM does with them: to kvtier each
        # stands for itself, as states do.
        groups = [library.Group('state', tokens, self._row_bytes, blocks_count=self._rows_count,
                                planes=[plane]) for tokens in self._tokens_per_chunk.values()]
        config = self._offloading_spec.config
        identity = identity_for(self._offloading_spec, self._row_bytes, self._weights.text)
        self._hash_seed = identity.get('hash_seed')
        engine = self._settings.engine or f'tier-{config.engine_id}'
        self._link = Link('tier', options_of(
            engine[:ENGINE_NAME_MAX], library.SCHEDULER | library.WORKER, identity, groups,
            self._settings.socket), must=self._settings.on_refusal == 'fail')

    def _client(self) -> library.Client | None:
        """The client when there is something to be had from it now."""
        if self._link is None or not self._hashes_are_shared():
            return None
        return self._link.client if self._link.is_connected() else None

    def _hashes_are_shared(self) -> bool:
        """Whether the engine's hashes are those that other processes compute; asked once."""
        own = compat.none_hash()
        if self._hash_seed is None or own is None:
            return True
        if own.hex() == self._hash_seed:
            self._hash_seed = None
            return True
        logger.error('kvtier: block hashes are random in each process, so nothing could be '
                     'shared. Serving without it. Fix: set PYTHONHASHSEED=0 for every engine.')
        assert self._link is not None
        self._link.close()
        self._end_all()
        self._link = None
        return False

    # ---- lookups ----

    def on_new_request(self, req_context: Any) -> RequestOffloadingContext:
        return RequestOffloadingContext()

    def _asking(self, context: Any) -> Asking:
        asking = self._requests.get(context.req_id)
        if asking is None:
            asking = self._requests[context.req_id] = Asking(Chain(self._tokens_per_chunk))
        return asking

    def lookup(self, key: bytes, req_context: Any) -> LookupResult:
        """One lookup at kvtierd answers for all chunks of the request, while its lease holds."""
        client = self._client() if self._settings.load else None
        if client is None or not self._is_ours(key) or self._failures.has(key):
            return LookupResult.MISS
        asking = self._asking(req_context)
        answer = asking.answer(key)
        if answer is None:
            if not asking.chain.follow(req_context, key):
                asking.is_waiting = True
                return LookupResult.RETRY    # asked for with all others at the end of the step
            if key not in asking.chain.keys():
                return LookupResult.MISS     # its end lies inside another chunk
            self._look_up(client, asking, req_context.req_id)
            answer = asking.answer(key)
        return LookupResult.HIT if answer else LookupResult.MISS

    def _is_ours(self, key: bytes) -> bool:
        if len(key) == KEY_BYTES:
            return group_of(key) in self._numbers
        if not self._told_of_hashes:
            self._told_of_hashes = True
            logger.error('kvtier: block hashes have %d bytes, not %d, and may collide. Serving '
                         'without it. Fix: --prefix-caching-hash-algo sha256', len(key) - 4,
                         HASH_BYTES)
        return False

    def _look_up(self, client: library.Client, asking: Asking, request_id: str) -> None:
        """Asks for every chunk known of the request. A failure is a miss of all."""
        self._drop_answers(asking)
        runs, left = [], library.LOOKUP_KEYS_MAX
        for group, first, keys in asking.chain.runs():
            runs.append((group, first, keys[:left]))
            left -= len(keys[:left])
        sections = [(self._numbers[group], first, b''.join(key[:HASH_BYTES] for key in keys))
                    for group, first, keys in runs]
        # While the lease holds, what was present is; answers are believed for less than that.
        asking.until = time.monotonic() + self._settings.lease_ms / 2000
        result, found, presence = client.look_up_each(
            sections, int(self._settings.lookup_ms * 1000), tag=tag_of(request_id),
            lease_us=int(self._settings.lease_ms * 1000))
        if result == 0 and found.lease:
            asking.lease = Lease(found.lease)
        asking.answers = dict.fromkeys(asking.chain.keys(), False)
        at = 0
        for group, first, keys in runs:
            usable = found.usable_tokens // self._tokens_per_chunk[group] if result == 0 else 0
            for index, key in enumerate(keys):
                asking.answers[key] = presence[at + index] != 0 and first + index < usable
            at += len(keys)

    def _drop_answers(self, asking: Asking) -> None:
        lease = asking.lease
        asking.forget()
        self._release(lease)

    def _release(self, lease: Lease | None) -> None:
        if lease is None:
            return
        lease.users -= 1
        if lease.users == 0 and self._link is not None and self._link.client is not None:
            self._link.client.lease_release(lease.number)

    def on_schedule_end(self, context: Any) -> None:
        client = self._client()
        for request_id, asking in self._requests.items():
            asking.is_unread = False
            if asking.is_waiting and client is not None:
                self._look_up(client, asking, request_id)
                asking.is_waiting, asking.is_unread = False, True
        # Who runs, or has to begin again, asks anew: kvtier may have other chunks by then.
        for request_id in (*context.new_req_ids, *context.preempted_req_ids):
            if request_id in self._requests:
                self._drop_answers(self._requests[request_id])

    def on_request_finished(self, req_context: Any) -> None:
        asking = self._requests.pop(req_context.req_id, None)
        if asking is not None:
            self._drop_answers(asking)

    # ---- jobs ----

    def submit_store(self, job_metadata: Any) -> None:
        job = self._begin(job_metadata, is_load=False)
        client = self._client() if self._settings.store else None
        if client is not None:
            chain = self._asking(job_metadata.req_context).chain
            rows = self._rows_of(job_metadata)
            for key in rows:
                chain.follow(job_metadata.req_context, key)
            for keys in chain.neighbours(rows):
                self._take(job, keys, client.store(
                    _blocks(keys, rows), space=0, group=self._numbers[group_of(keys[0])],
                    first_position=chain.position(keys[0]), parent=chain.parent(keys[0]),
                    deadline_us=int(self._settings.store_ms * 1000),
                    tag=tag_of(job_metadata.req_context.req_id)))
        self._settle(job)

    def _rows_of(self, metadata: Any) -> dict[bytes, int]:
        """The job's chunks that kvtier can hold, and their rows, which were called blocks once."""
        rows = getattr(metadata, 'chunk_ids', None)
        rows = (metadata.block_ids if rows is None else rows).tolist()
        return {bytes(key): row for key, row in zip(metadata.keys, rows) if self._is_ours(key)}

    def submit_load(self, job_metadata: Any) -> None:
        job = self._begin(job_metadata, is_load=True)
        asking = self._requests.get(job_metadata.req_context.req_id)
        if asking is not None and asking.lease is not None:
            job.lease = asking.lease
            job.lease.users += 1
        client = self._client()
        rows = self._rows_of(job_metadata) if client is not None else {}
        for group, number in self._numbers.items():
            keys = [key for key in rows if group_of(key) == group]
            if keys and client is not None:
                self._take(job, keys, client.load(
                    _blocks(keys, rows), space=0, group=number, first_position=0,
                    lease=job.lease.number if job.lease is not None else 0,
                    deadline_us=int(self._settings.load_ms * 1000),
                    tag=tag_of(job_metadata.req_context.req_id)))
        self._settle(job)

    def _begin(self, metadata: Any, is_load: bool) -> Job:
        job = Job(metadata.job_id, is_load, metadata.keys, time.monotonic())
        self._jobs[job.number] = job
        return job

    def _take(self, job: Job, keys: list[bytes], begun: tuple[int, int]) -> None:
        result, number = begun
        if result == 0:
            self._parts[number] = Part(job, keys)
            job.open_parts += 1

    def _settle(self, job: Job) -> None:
        """Tells vLLM of a job that has no open part any more."""
        if job.open_parts > 0:
            return
        del self._jobs[job.number]
        good = set(job.good)
        failed = [bytes(key) for key in job.keys if bytes(key) not in good]
        if job.is_load:
            self._failures.add(failed)
            self._release(job.lease)
        else:
            self._failures.remove(good)
        result: dict[str, Any] = {'job_id': job.number, 'success': not failed,
                  'transfer_time': time.monotonic() - job.began,
                  'transfer_bytes': len(good) * self._row_bytes}
        if job.is_load and failed:
            result['successful_keys'] = [key for key in job.keys if bytes(key) in good]
        self._finished.append(JobResult(**{name: value for name, value in result.items()
                                           if name in _RESULT_FIELDS}))

    def _poll(self) -> None:
        client = self._link.client if self._link is not None else None
        while client is not None and self._parts:
            completions = client.poll()
            for completion in completions:
                self._complete(completion)
            if not completions:
                return

    def _complete(self, completion: library.Completion) -> None:
        part = self._parts.get(completion.job)
        if part is None:
            return
        if not part.is_counted:
            part.is_counted = True
            is_good = completion.good_count == completion.count
            results = completion.results or [0 if is_good else -1] * len(part.keys)
            part.job.good += [key for key, result in zip(part.keys, results) if result >= 0]
        if completion.quiesced:     # before, the row may not be used for something else
            del self._parts[completion.job]
            part.job.open_parts -= 1
            self._settle(part.job)

    def get_finished_jobs(self) -> Iterable[JobResult]:
        self._poll()
        finished, self._finished = self._finished, []
        return finished

    def has_pending_work(self) -> bool:
        return bool(self._jobs or self._finished)

    # ---- the end, and new weights ----

    def drain_jobs(self) -> None:
        """vLLM's cache is reset, as after a change of weights: from now on another space. Closing
        waits for this process's own copies only, and then no row is touched any more."""
        self._poll()
        self._weights.renew()
        self._failures.forget()
        for asking in self._requests.values():
            asking.forget()     # the lease ended with the client
        if self._link is not None:
            self._link.reopen(self._weights.text)
            logger.info('kvtier (tier): the cache was reset; weights version is now %s',
                        self._weights.text)
        self._end_all()

    def _end_all(self) -> None:
        """The client is closed: what was open has failed."""
        self._parts = {}
        for job in list(self._jobs.values()):
            job.open_parts, job.lease = 0, None
            self._settle(job)

    def shutdown(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
        self._end_all()
        self._primary_kv_view = memoryview(b'')


def _blocks(keys: list[bytes], rows: dict[bytes, int]) -> numpy.ndarray:
    return library.block_array(b''.join(key[:HASH_BYTES] for key in keys),
                               [rows[key] for key in keys])
