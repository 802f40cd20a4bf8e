"""Which blocks of which requests a step offers to the store. The scheduler's thread only."""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy

from kvtier.settings import Settings
from kvtier.vllm.ledger import Names, Stores
from kvtier.vllm.messages import Blocks, Store
from kvtier.vllm.requests import BlockNames, Tracked


class Offers:
    """Follows block tables, and offers each block once, when a step has completed it."""

    def __init__(self, settings: Settings, names: BlockNames, memory: Names, blocks_count: int,
                 is_hashed_late: bool):
        """is_hashed_late: tokens of a step are known for sure a step later (speculation, async)."""
        self.windows = [0] * len(names.tokens_per_block)
        self._settings = settings
        self._names = names
        self._groups = names.tokens_per_block
        self._memory = memory
        self._stores = Stores(blocks_count)
        self._owners: dict[int, tuple[Tracked, Blocks]] = {}
        self._is_hashed_late = is_hashed_late
        self._number = 0

    def follow(self, output: Any, requests: dict[str, Tracked]) -> list[int]:
        """Keeps each request's block table; what of it is freshly allocated in this step."""
        fresh_blocks: list[int] = []
        for new in output.scheduled_new_reqs:
            tracked = requests.get(new.req_id)
            if tracked is not None:
                fresh_blocks += self._set_blocks(tracked, new.block_ids, new.num_computed_tokens)
        cached = output.scheduled_cached_reqs
        resumed = getattr(cached, 'resumed_req_ids', ())
        for i, request_id in enumerate(cached.req_ids):
            tracked, fresh = requests.get(request_id), cached.new_block_ids[i]
            if tracked is None or fresh is None:
                continue
            if request_id in resumed or not tracked.blocks:
                fresh_blocks += self._set_blocks(tracked, fresh, cached.num_computed_tokens[i])
                continue
            for own, ids in zip(tracked.blocks, fresh):
                own.extend(ids)
                fresh_blocks += ids
        return fresh_blocks

    def _set_blocks(self, tracked: Tracked, block_ids: Iterable[list[int]],
                    computed_tokens: int) -> list[int]:
        tracked.blocks = [list(ids) for ids in block_ids]
        return [block for ids, size in zip(tracked.blocks, self._groups)
                for block in ids[computed_tokens // size:]]

    def reading(self, engine_blocks: list[int]) -> list[int]:
        """Stores under way that read any of these blocks."""
        return self._stores.reading(engine_blocks)

    def is_stored(self, tracked: Tracked, tokens: int) -> bool:
        """Whether the request's first `tokens` tokens are known to be in kvtier."""
        if tokens == 0:
            return True
        position = tokens // self._groups[0]
        return self._memory.is_tail(
            self._names.hashes(tracked.request, 0, position - 1, position))

    def below_failed(self, tracked: Tracked, first: int, limit: int, multiple: int,
                     now: float) -> int:
        """The limit (tokens, as `first`) lowered to the first block that failed and was not stored
        again since, and to a multiple of `multiple`."""
        if not self._memory.has_failed():
            return limit
        for group, size in enumerate(self._groups):
            names = self._names.each(tracked.request, group, first // size, limit // size)
            limit = min(limit, (first // size + self._memory.first_failed(names, now)) * size)
        return limit - limit % multiple

    def take(self, tracked: Tracked, count: int) -> list[Store]:
        """Stores of what is complete once this step has computed `count` tokens of the request."""
        request = tracked.request
        known = request.num_tokens - 1 if self._is_hashed_late else request.num_tokens
        tokens = min(request.num_computed_tokens + count, known)
        if not self._settings.store_generated:
            tokens = min(tokens, request.num_prompt_tokens)
        stores: list[Store] = []
        for group, size in enumerate(self._groups):
            end = min(tokens // size, self._names.known(request, group),
                      len(tracked.blocks[group]))
            first = tracked.offered[group]
            if end <= first:
                continue
            if first == 0 and tracked.local_tokens \
                    and self.is_stored(tracked, tracked.local_tokens):
                first = min(end, tracked.local_tokens // size)
            tracked.offered[group] = end
            for run in self._runs(tracked, group, first, end):
                stores.append(self._store(tracked, group, *run))
        return stores

    def _runs(self, tracked: Tracked, group: int, first: int,
              end: int) -> Iterable[tuple[int, int]]:
        """[first, end) without what a window has left behind: those blocks are others' by now."""
        window = self.windows[group]
        if window:
            computed = tracked.request.num_computed_tokens
            first = max(first, (computed - window) // self._groups[group])
        begin = first
        for position in range(first, end) if window else ():
            if tracked.blocks[group][position] == 0:
                if position > begin:
                    yield begin, position
                begin = position + 1
        if end > begin:
            yield begin, end

    def _store(self, tracked: Tracked, group: int, first: int, end: int) -> Store:
        request = tracked.request
        ids = numpy.array(tracked.blocks[group][first:end], dtype='<u4')
        routes = None
        if group == 0 and getattr(request, 'prompt_embeds', None) is None:
            routes = self._names.route_keys(tracked, end)[first:].astype('<u8').tobytes()
        self._number += 1
        part = Blocks(group, first, self._names.hashes(request, group, first, end), ids.tobytes(),
                      self._names.parent(request, group, first), routes)
        store = Store(self._number, part, int(self._settings.store_ms * 1000), tracked.adapter,
                      tracked.tag)
        self._stores.begin(store)
        self._owners[store.number] = tracked, part
        return store

    def offer_again(self, number: int) -> None:
        """The step that a store belongs to is computed again, or its other requests go on."""
        tracked, part = self._owners.get(number, (None, None))
        if tracked is not None and part is not None:
            tracked.offered[part.group] = min(tracked.offered[part.group], part.first_position)

    def over(self, number: int, ranks: int, world: int, failed: bool) -> None:
        """`ranks` more ranks do not read the store's blocks any more."""
        stored = self._stores.over(number, ranks, world, failed)
        if not self._stores.has(number):
            self._owners.pop(number, None)
        if stored is not None:
            self._memory.stored(stored)
