"""Which of the engine's blocks a store still reads, which hashes are known to be stored, and which
failed to load. The scheduler's thread only."""
from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from kvtier.library import HASH_BYTES
from kvtier.vllm.messages import Blocks, Store

FAILED_MAX = 65536
FAILED_SECONDS = 60.0
TAILS_MAX = 65536
TAIL_SECONDS = 60.0


@dataclass
class _Open:
    """A store that some rank has not reported as over."""
    part: Blocks
    engine_blocks: numpy.ndarray
    ranks_over: int = 0
    has_failed: bool = False


class Stores:
    """Stores under way. A block is free for reuse only when none of them reads it."""

    def __init__(self, blocks_count: int):
        self._open: dict[int, _Open] = {}
        self._readers = numpy.zeros(blocks_count + 1, dtype=numpy.uint16)

    def begin(self, store: Store) -> None:
        ids = numpy.frombuffer(store.part.engine_blocks, dtype='<u4')
        self._open[store.number] = _Open(store.part, ids)
        self._readers[ids] += 1

    def over(self, number: int, ranks: int, world: int, failed: bool) -> Blocks | None:
        """`ranks` more ranks are done. The store's blocks when all are and none of it failed."""
        entry = self._open.get(number)
        if entry is None:
            return None
        entry.ranks_over += ranks
        entry.has_failed |= failed
        if entry.ranks_over < world:
            return None
        del self._open[number]
        self._readers[entry.engine_blocks] -= 1
        return None if entry.has_failed else entry.part

    def reading(self, engine_blocks: Sequence[int]) -> list[int]:
        """Numbers of the stores that read any of these blocks."""
        if not self._open or not engine_blocks:
            return []
        ids = numpy.array(engine_blocks)
        ids = ids[(ids > 0) & (ids < len(self._readers))]
        ids = ids[self._readers[ids] > 0]
        if len(ids) == 0:
            return []
        return [number for number, entry in self._open.items()
                if numpy.isin(entry.engine_blocks, ids).any()]

    def has(self, number: int) -> bool:
        return number in self._open

    def __len__(self) -> int:
        return len(self._open)


class Names:
    """Bounded memory of hashes: the last of each stored run, and those whose load failed."""

    def __init__(self) -> None:
        self._tails: dict[bytes, float] = {}
        self._failed: dict[bytes, float] = {}

    def stored(self, part: Blocks) -> None:
        """All blocks of a run are in kvtier now: none of them is a failure any more."""
        self._end_with(part)
        if self._failed:
            for at in range(0, len(part.hashes), HASH_BYTES):
                self._failed.pop(part.hashes[at:at + HASH_BYTES], None)

    def _end_with(self, part: Blocks) -> None:
        if part.group == 0:
            name = part.hashes[-HASH_BYTES:]
            self._tails.pop(name, None)
            self._tails[name] = time.monotonic() + TAIL_SECONDS
            while len(self._tails) > TAILS_MAX:
                del self._tails[next(iter(self._tails))]

    def loaded(self, parts: Sequence[Blocks]) -> None:
        """All of a load has arrived: what it ends with need not be offered again."""
        for part in parts:
            self._end_with(part)

    def failed(self, part: Blocks, position: int) -> None:
        """The load of one block failed: not offered again until it was stored, or for a while."""
        at = (position - part.first_position) * HASH_BYTES
        name = part.hashes[at:at + HASH_BYTES]
        self._failed[name] = time.monotonic() + FAILED_SECONDS
        self._tails.pop(name, None)
        while len(self._failed) > FAILED_MAX:
            del self._failed[next(iter(self._failed))]

    def is_tail(self, name: bytes) -> bool:
        """Whether a stored run ended with this block lately: then its whole prefix was there.

        Not for ever: what the engine hits in its own cache is looked up nowhere, so the daemon must
        hear now and then that it is in use, and gets again what it has dropped meanwhile.
        """
        return time.monotonic() < self._tails.get(name, 0.0)

    def has_failed(self) -> bool:
        return bool(self._failed)

    def first_failed(self, names: Sequence[bytes], now: float) -> int:
        """Index of the first of the hashes that failed lately; their number when none did."""
        if self._failed.keys().isdisjoint(names):
            return len(names)
        for index, name in enumerate(names):
            until = self._failed.get(name)
            if until is None:
                continue
            if now < until:
                return index
            del self._failed[name]
        return len(names)

    def forget_tails(self) -> None:
        self._tails.clear()

    def forget(self) -> None:
        self._tails.clear()
        self._failed.clear()
