"""The connector in the scheduler's process: what to load, what to store, and what came of it.

Runs on the scheduler's thread only. Nothing here waits but a lookup (bounded by lookup_ms) and
hints at a request's end (bounded by the same); a daemon that does not answer is asked less and
less often, by libkvtier.
"""
from __future__ import annotations

import time
from typing import Any

import numpy
from vllm.logger import init_logger

from kvtier import library
from kvtier.settings import Settings
from kvtier.vllm import compat
from kvtier.vllm.cost import PrefillCost, StepClock
from kvtier.vllm.handoff import Handoffs, source_of, wants_ticket
from kvtier.vllm.hints import hints_at_end, send_hint
from kvtier.vllm.identity import AdapterDigests, Refused, request_refusal
from kvtier.vllm.ledger import Names
from kvtier.vllm.link import Link, options_of
from kvtier.vllm.messages import Blocks, Load, Registration, StepMetadata, WorkerReport
from kvtier.vllm.offers import Offers
from kvtier.vllm.requests import (Answer, BlockNames, ControlError, Controls, Tracked, UnderWay,
                                  controls_of, tag_of)
from kvtier.vllm.statistics import ConnectorStats, taken
from kvtier.vllm.versions import WeightsVersion

logger = init_logger('vllm.kvtier')

LOAD_SECONDS_MIN = 0.25   # a load's deadline is never shorter
ESTIMATE_TIMES = 4        # ... nor shorter than this many times its estimate
NOT_LOADED = (0, False)


class SchedulerSide:
    """One an engine. `enabled` says whether it does anything; the reason was logged."""

    def __init__(self, vllm_config: Any, kv_cache_config: Any, settings: Settings, engine: str):
        self._settings = settings
        self._engine = engine
        self._multiple, hash_size = compat.block_sizes(vllm_config, kv_cache_config)
        self._groups = [group.kv_cache_spec.block_size
                        for group in kv_cache_config.kv_cache_groups]
        self._names = BlockNames(self._groups, hash_size)
        self._link: Link | None = None
        self._registration: Registration | None = None
        self._weights = WeightsVersion(settings)
        self._adapters = AdapterDigests()
        self._requests: dict[str, Tracked] = {}
        self.block_pool: Any = None    # the engine's, where it has told
        self._loads: dict[int, UnderWay] = {}
        self._memory = Names()
        self._is_planned_ahead = compat.is_planned_ahead(vllm_config)
        self._offers = Offers(settings, self._names, self._memory, kv_cache_config.num_blocks,
                              self._is_planned_ahead)
        self._handoffs = Handoffs(engine, settings)
        self._number = 0
        self._new_loads: list[Load] = []
        self._overwritten: list[int] = []
        self._was_connected = False
        self._checked_hashes = False
        self.cost = PrefillCost()
        self._clock = StepClock(self.cost)
        self.stats = ConnectorStats()
        self._enabled_told: int | None = None

    # ---- registration ----

    def register(self, registration: Registration) -> None:
        """What the workers found; once, before the first request."""
        self._registration = registration
        if registration.refusal:
            return
        groups = [library.Group(kind, tokens, payload, window, segments)
                  for kind, tokens, payload, window, segments in registration.groups]
        self._offers.windows = [group.window_tokens if group.kind == 'window' else 0
                                for group in groups]
        self._weights.text = registration.identity.get('weights_version', '')
        self._link = Link('scheduler', options_of(
            self._engine, library.SCHEDULER, registration.identity, groups, self._settings.socket,
            world=registration.world), must=self._settings.on_refusal == 'fail')

    def _client(self) -> library.Client | None:
        """The client when lookups and stores make sense now."""
        if self._link is None:
            self._tell_of_silence()
            return None
        if not self._hashes_are_shared():
            return None
        connected = self._link.is_connected()
        if connected != self._was_connected:
            # What the daemon knew may be gone with it.
            self._memory.forget_tails()
            self._was_connected = connected
        return self._link.client if connected else None

    def _tell_of_silence(self) -> None:
        if self._registration is None:
            self._registration = Registration({}, [], 1, 'the workers said nothing', '')
            logger.error('kvtier: the workers did not say what their KV cache is, so this vLLM '
                         'version does not pass it on. Serving without kvtier. Fix: use a version '
                         'that docs/VLLM.md names.')

    def _hashes_are_shared(self) -> bool:
        """Whether the engine's hashes are those that other processes compute."""
        if self._checked_hashes:
            return self._registration is not None and not self._registration.refusal
        own = compat.none_hash()
        if own is None or self._registration is None:
            return False
        self._checked_hashes = True
        if self._registration.refusal == '' and own.hex() != self._registration.identity.get(
                'hash_seed'):
            self._registration.refusal = 'block hashes are random in each process'
            logger.error('kvtier: block hashes are random in each process, so nothing could be '
                         'shared. Serving without it. Fix: set PYTHONHASHSEED=0 for every engine.')
        return self._registration.refusal == ''

    # ---- a request's way through the scheduler ----

    def on_new_request(self, request: Any) -> None:
        self._track(request)

    def _track(self, request: Any) -> Tracked:
        tracked = self._requests.get(request.request_id)
        if tracked is not None:
            return tracked
        tracked = Tracked(request, tag_of(request.request_id, getattr(request, 'trace_headers', None)),
                          Controls())
        tracked.offered = [0] * len(self._groups)
        try:
            tracked.controls = controls_of(request)
        except ControlError as error:
            logger.warning('kvtier: request %s: %s; ignored', request.request_id, error)
        tracked.source, wrong = source_of(request)
        if wrong:
            logger.warning('kvtier: request %s: %s; ignored', request.request_id, wrong)
        try:
            why = request_refusal(request, self._settings.media_ids_are_content)
            if why is None and getattr(request, 'lora_request', None) is not None:
                tracked.adapter = self._adapters.digest(request.lora_request)
        except Refused as refused:
            why = refused.reason
        if why is not None:
            tracked.is_refused = True
            self.stats.add('refused_requests_total', 1)
            logger.debug('kvtier: request %s is neither loaded nor stored: %s',
                         request.request_id, why)
        self._requests[request.request_id] = tracked
        return tracked

    def matched_tokens(self, request: Any, local_tokens: int) -> tuple[int | None, bool]:
        """How many tokens beyond local_tokens can be loaded, and whether between steps."""
        tracked = self._track(request)
        tracked.local_tokens = local_tokens
        now = time.monotonic()
        answer = tracked.answer
        if answer is not None and answer.local_tokens == local_tokens and now < answer.until:
            return answer.tokens, answer.is_async
        self._drop_answer(tracked)
        if local_tokens > 0 and not self._offers.is_stored(tracked, local_tokens):
            self._hint(tracked, library.HINT_TOUCH, local_tokens)
        if (not self._settings.load or tracked.is_refused or not tracked.may_load
                or getattr(request, 'skip_reading_prefix_cache', False)):
            return NOT_LOADED
        client = self._client()
        limit = self._limit(tracked, local_tokens)
        if client is None or limit - local_tokens < max(1, self._settings.load_tokens_min):
            return NOT_LOADED
        is_pending, tracked.answer = self._take_over(client, tracked, local_tokens, limit, now)
        if is_pending:
            return None, False
        if tracked.answer is None:
            tracked.answer = self._look_up(client, tracked, local_tokens, limit, now)
        if tracked.answer is None:
            return NOT_LOADED
        tracked.is_async = tracked.answer.is_async
        return tracked.answer.tokens, tracked.answer.is_async

    def _limit(self, tracked: Tracked, local_tokens: int) -> int:
        """Tokens up to which loading makes sense: whole blocks, and one token left to compute."""
        request = tracked.request
        limit = request.num_tokens - 1
        if tracked.controls.max_load_tokens is not None:
            limit = min(limit, local_tokens + tracked.controls.max_load_tokens)
        limit = min(limit, library.LOOKUP_KEYS_MAX // len(self._groups) * min(self._groups))
        limit -= limit % self._multiple
        for group, size in enumerate(self._groups):
            limit = min(limit, self._names.known(request, group) * size)
        return limit - limit % self._multiple

    def _cost(self) -> tuple[float, float, float]:
        always = self._settings.load_or_recompute == 'always'
        return (0.0, 0.0, 0.0) if always else self.cost.coefficients()

    def _take_over(self, client: library.Client, tracked: Tracked, local_tokens: int, limit: int,
                   now: float) -> tuple[bool, Answer | None]:
        """What another node hands over: (True, None): it is not known yet; (False, None): nothing."""
        space = self._link.space_of(tracked.adapter) if self._link is not None else None
        if tracked.source is not None and space is not None:
            known = self._offers.below_failed(tracked, local_tokens, limit, self._multiple, now)
            sections = self._names.sections(tracked.request, local_tokens, known)
            if self._handoffs.begin(client, tracked, sections, space=space, cost=self._cost(),
                                    now=now, lease_us=int(self._settings.lease_ms * 1000)):
                self.stats.add('fetches_total', 1)
        is_pending, found = self._handoffs.found(client, tracked, local_tokens, now)
        if found is None:
            return is_pending, None
        answer = self._answer(client, found, local_tokens, limit, now)
        if answer.tokens == 0:
            self._handoffs.end(client, tracked)
        else:
            answer.is_async = True
            answer.load_us_max = self._handoffs.load_us_max(tracked, now)
        return False, answer

    def _look_up(self, client: library.Client, tracked: Tracked, local_tokens: int, limit: int,
                 now: float) -> Answer | None:
        space = self._link.space_of(tracked.adapter) if self._link is not None else None
        if space is None:
            return None
        limit = self._offers.below_failed(tracked, local_tokens, limit, self._multiple, now)
        sections = self._names.sections(tracked.request, local_tokens, limit)
        if not sections[0][2]:
            return None
        result, found = client.lookup(
            sections, int(self._settings.lookup_ms * 1000), space=space, tag=tracked.tag,
            lease_us=int(self._settings.lease_ms * 1000), cost=self._cost())
        seconds = time.monotonic() - now
        self.stats.add('lookups_total', 1)
        self.stats.add('lookup_seconds_total', seconds)
        self.stats.add('queried_tokens_total', tracked.request.num_tokens - local_tokens)
        if result < 0:
            self.stats.add('lookup_failures_total', 1)
            return None
        return self._answer(client, found, local_tokens, limit, now)

    def _answer(self, client: library.Client, found: library.Found, local_tokens: int, limit: int,
                now: float) -> Answer:
        worth = found.usable_tokens
        if self._settings.load_or_recompute == 'auto':
            worth = min(worth, found.worth_tokens)
        worth = min(worth, limit)
        tokens = max(0, worth - worth % self._multiple - local_tokens)
        if tokens < max(1, self._settings.load_tokens_min):
            tokens = 0
        self.stats.add('hit_tokens_total', tokens)
        if found.usable_tokens > local_tokens + tokens:
            self.stats.add('declined_tokens_total', found.usable_tokens - local_tokens - tokens)
        if tokens == 0:
            if found.lease:
                client.lease_release(found.lease)
            return Answer(0, 0, False, 0, now)   # asked again when the scheduler asks again
        return Answer(local_tokens, tokens, self._loads_async(found.restore_us), found.lease,
                      now + self._settings.lease_ms / 2000, found)

    def _loads_async(self, restore_us: int) -> bool:
        if len(self._groups) > 1:
            return True    # a step's failed blocks could not be reported
        if self._registration is not None and self._registration.world > 1:
            return True    # what one rank lost would spoil what the others store in the step
        if self._is_planned_ahead:
            return True    # the next step is on its way before a loss in this one is known
        if self._settings.load_mode != 'auto':
            return self._settings.load_mode == 'async'
        bound = min(self._settings.sync_load_ms / 1000, self._clock.seconds)
        return restore_us * 1e-6 > bound

    def _drop_answer(self, tracked: Tracked) -> None:
        answer, tracked.answer = tracked.answer, None
        if answer is not None and answer.lease and self._link is not None \
                and self._link.client is not None:
            self._link.client.lease_release(answer.lease)

    def allocated(self, request: Any, block_ids: tuple[list[int], ...], tokens: int) -> None:
        """The scheduler has blocks for `tokens` loaded tokens; 0: none are to be loaded."""
        tracked = self._track(request)
        answer = tracked.answer
        if tokens == 0 or answer is None:
            if tokens == 0 and answer is not None and tracked.load is None:
                self._drop_answer(tracked)
            return
        tracked.answer = None
        begin, end = answer.local_tokens, answer.local_tokens + tokens
        parts = []
        for group, size in enumerate(self._groups):
            part = self._names.to_load(request, group, begin // size, end // size,
                                       block_ids[group])
            if part is not None:
                parts.append(part)
                self._overwritten.extend(numpy.frombuffer(part.engine_blocks, '<u4').tolist())
        self._number += 1
        found = answer.found
        load = Load(self._number, request.request_id, parts, answer.is_async,
                    self._load_us_max(answer), answer.lease, tracked.adapter, tracked.tag)
        tracked.load, tracked.load_from, tracked.loaded_tokens = load.number, begin, tokens
        if found is not None:
            tracked.cpu_tokens = min(tokens, found.tier_tokens[0])
            tracked.peer_tokens = min(tokens - tracked.cpu_tokens, found.tier_tokens[2])
            tracked.nvme_tokens = tokens - tracked.cpu_tokens - tracked.peer_tokens
            self.stats.add('peer_tokens_total', tracked.peer_tokens)
        self._loads[load.number] = UnderWay(tracked, load)
        self._new_loads.append(load)
        # What the engine had itself is offered, unless it is known to be there; what is loaded is.
        is_stored = self._offers.is_stored(tracked, begin)
        for group, size in enumerate(self._groups):
            tracked.offered[group] = max(tracked.offered[group], end // size if is_stored else 0)

    def _load_us_max(self, answer: Answer) -> int:
        """Its deadline: what was worth its estimate is not worth many times of it."""
        if answer.load_us_max > 0:
            return answer.load_us_max
        bound_ms = self._settings.load_ms if answer.is_async else self._settings.sync_load_ms
        if self._settings.load_or_recompute == 'auto':
            estimate = answer.found.restore_us * 1e-6 if answer.found is not None else 0.0
            bound_ms = min(bound_ms, 1e3 * max(LOAD_SECONDS_MIN, ESTIMATE_TIMES * estimate))
        return int(bound_ms * 1000)

    # ---- a step ----

    def step(self, output: Any) -> StepMetadata:
        """What the workers do in the step that `output` describes."""
        began = time.monotonic()
        self._overwritten += self._offers.follow(output, self._requests)
        self._overwritten += compat.overwritten_blocks(output)
        chunks: list[tuple[int, int]] = []
        metadata = StepMetadata(
            loads=self._new_loads, flush=self._offers.reading(self._overwritten),
            weights_version=self._weights.text, generation=self._weights.generation,
            is_idle=output.total_num_scheduled_tokens == 0)
        can_store = self._settings.store and self._client() is not None
        for request_id, count in output.num_scheduled_tokens.items():
            tracked = self._requests.get(request_id)
            if tracked is None:
                continue
            chunks.append((tracked.request.num_computed_tokens, count))
            if can_store and tracked.controls.store and not tracked.is_refused and tracked.blocks:
                metadata.stores += self._offers.take(tracked, count)
        self._new_loads, self._overwritten = [], []
        self._clock.step(began, chunks)
        return metadata

    def lose(self, request: Any, block_ids: tuple[list[int], ...]) -> None:
        """After a fault of our own: the request waits for a load that will not be. The workers say
        that it was lost, so that the engine computes."""
        tracked = self._requests.get(request.request_id)
        parts = [Blocks(group, 0, bytes(library.HASH_BYTES * len(ids)),
                        numpy.array(ids, dtype='<u4').tobytes())
                 for group, ids in enumerate(block_ids) if ids]
        self._new_loads = [load for load in self._new_loads
                           if load.request_id != request.request_id]
        self._number += 1
        self._new_loads.append(Load(self._number, request.request_id, parts,
                                    tracked is None or tracked.is_async, 0))

    def last_step(self) -> StepMetadata:
        """What the workers still have to hear after a fault of our own."""
        loads, self._new_loads = self._new_loads, []
        return StepMetadata(loads=loads, is_over=True)

    # ---- what came of it ----

    def report(self, report: WorkerReport, world: int) -> None:
        for number in report.stores_again:
            self._offers.offer_again(number)
        for number, ranks in report.stores_over.items():
            self._offers.over(number, ranks, world, number in report.stores_failed)
        for number, lost in report.loads_failed.items():
            self._load_failed(number, lost)
        for number, ranks in report.loads_over.items():
            self._load_over(number, ranks, world, report.load_seconds.get(number, 0.0))

    def _load_over(self, number: int, ranks: int, world: int, seconds: float) -> None:
        """`ranks` more ranks have their part; the lease is theirs until all have."""
        under_way = self._loads.get(number)
        if under_way is None:
            return
        under_way.ranks_over += ranks
        under_way.seconds = max(under_way.seconds, seconds)
        if under_way.ranks_over < world:
            return
        del self._loads[number]
        tracked, load = under_way.tracked, under_way.load
        tracked.load = None
        tracked.restore_seconds += under_way.seconds
        if not under_way.has_failed:
            self._memory.loaded(load.parts)
        self._handoffs.end(self._link.client if self._link is not None else None, tracked)
        if load.lease and self._link is not None and self._link.client is not None:
            self._link.client.lease_release(load.lease)

    def _load_failed(self, number: int, lost: list[int]) -> None:
        """lost: group and position of each lost block, one behind the other."""
        under_way = self._loads.get(number)
        if under_way is None:
            return
        under_way.has_failed = True
        tracked, load = under_way.tracked, under_way.load
        # This request computes the rest: a load that fails for ever must not be tried for ever.
        tracked.may_load = False
        parts = {part.group: part for part in load.parts}
        for group, position in zip(lost[::2], lost[1::2]):
            self._memory.failed(parts[group], position)
            tracked.offered[group] = min(tracked.offered[group], position)
        if not load.is_async:
            self._unname({block for part in load.parts for block in part.lost(lost)})

    def _unname(self, lost_blocks: set[int]) -> None:
        """The engine already finds blocks of a load within a step by their hashes, and what the
        step wrote behind them. It recomputes them, but not if it preempts their request first."""
        if self.block_pool is None:
            return
        for tracked in self._requests.values():
            for ids in tracked.blocks:
                first = next((i for i, block in enumerate(ids) if block in lost_blocks), len(ids))
                self.block_pool.evict_blocks({block for block in ids[first:] if block != 0})

    def finished(self, request: Any, block_ids: tuple[list[int], ...]) -> dict[str, Any] | None:
        """The request's end: its hints, one line for whoever wants to know, and kv_transfer_params
        for the engine that goes on with it, if one is to."""
        tracked = self._requests.pop(request.request_id, None)
        if tracked is None:
            return None
        self._drop_answer(tracked)
        self._handoffs.end(self._link.client if self._link is not None else None, tracked)
        for hint, retain_us in hints_at_end(tracked.controls):
            self._hint(tracked, hint, request.num_tokens, retain_us)
        if not self._requests:
            self._clock.idle()
        logger.debug(
            'kvtier: request %s (tag %s): %d tokens, %d from the engine\'s own cache, %d from '
            'kvtier (%d cpu, %d nvme) in %.1f ms, instead of about %.1f ms of prefill; %d blocks '
            'offered', request.request_id, tracked.tag.hex(), request.num_tokens,
            tracked.local_tokens, tracked.loaded_tokens, tracked.cpu_tokens, tracked.nvme_tokens,
            tracked.restore_seconds * 1e3,
            self.cost.seconds(tracked.load_from, tracked.loaded_tokens) * 1e3,
            sum(tracked.offered))
        return self._hand_over(tracked, block_ids)

    def _hand_over(self, tracked: Tracked,
                   block_ids: tuple[list[int], ...]) -> dict[str, Any] | None:
        """What was offered to the store is promised: it is there, or will be in a moment."""
        if not wants_ticket(tracked.request) or tracked.is_refused or compat.was_aborted(tracked.request):
            return None
        client = self._client()
        space = self._link.space_of(tracked.adapter) if self._link is not None else None
        if client is None or space is None or self._registration is None:
            return None
        sections = [(group, 0, self._names.hashes(tracked.request, group, 0, offered))
                    for group, offered in enumerate(tracked.offered)]
        answer = self._handoffs.answer(client, tracked.request, sections, space, block_ids,
                                       self._registration.world)
        if answer is not None:
            self.stats.add('tickets_total', 1)
        return answer

    def _hint(self, tracked: Tracked, hint: int, tokens: int, retain_us: int = 0) -> None:
        client = self._client()
        space = self._link.space_of(tracked.adapter) if self._link is not None else None
        if client is not None and space is not None and not tracked.is_refused:
            send_hint(client, self._names, tracked, hint, tokens, space=space, retain_us=retain_us,
                      wait_us=int(self._settings.lookup_ms * 1000))

    def hit_split(self, request: Any, tokens: int) -> tuple[int, int, int]:
        """(from cpu, from nvme, from another node) of the tokens that the request loads."""
        tracked = self._requests.get(request.request_id)
        if tracked is None:
            return tokens, 0, 0
        cpu = min(tokens, tracked.cpu_tokens)
        peer = min(tokens - cpu, tracked.peer_tokens)
        return cpu, tokens - cpu - peer, peer

    def reset(self) -> bool:
        """The weights were changed in place: from now on another space, with nothing in it."""
        self._weights.renew()
        for tracked in self._requests.values():
            self._drop_answer(tracked)
            self._handoffs.end(self._link.client if self._link is not None else None, tracked)
            tracked.source = None
            tracked.offered = [0] * len(self._groups)
        self._memory.forget()
        if self._link is not None:
            self._link.reopen(self._weights.text)
        logger.info('kvtier: the cache was reset; weights version is now %s', self._weights.text)
        return True

    def take_stats(self, is_over: bool = False) -> ConnectorStats | None:
        enabled = int(not is_over and self._link is not None and self._was_connected
                      and self._registration is not None and not self._registration.refusal)
        if self._enabled_told != enabled:
            self.stats.data['enabled'] = self._enabled_told = enabled
        told, self.stats = taken(self.stats, self._link)
        return told

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
