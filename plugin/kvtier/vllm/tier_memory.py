"""What KvtierTier remembers: of requests, of jobs under way, and of loads that failed."""
from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from kvtier.library import HASH_BYTES

KEY_BYTES = HASH_BYTES + 4          # and the group's number, big-endian
FAILED_MAX = 65536
FAILED_SECONDS = 60.0               # then a hit is believed again: the daemon may be another one


def group_of(key: bytes) -> int:
    """vLLM's number of the group that the chunk belongs to."""
    return int.from_bytes(key[HASH_BYTES:], 'big')


class Chain:
    """The chunks of one request: where in it each stands.

    Newer vLLM tells the places of all chunks before it asks for the first; else a chunk's place is
    the order in which it was first seen. Chunks that end inside another are left out."""

    def __init__(self, tokens_per_chunk: dict[int, int]):
        self._tokens_per_chunk = tokens_per_chunk
        self._taken = 0
        self._positions: dict[bytes, int] = {}
        self._keys: dict[int, dict[int, bytes]] = {group: {} for group in tokens_per_chunk}

    def follow(self, context: Any, key: bytes) -> bool:
        """Takes what became known; False: this vLLM tells nothing but the key itself."""
        known = getattr(context, '_offload_key_positions', None)
        if known is None:
            if key not in self._positions and self._is_ours(key):
                self._add(key, len(self._keys[group_of(key)]))
            return False
        for name, end in islice(known.items(), self._taken, None):
            if self._is_ours(name):
                size = self._tokens_per_chunk[group_of(name)]
                if end % size == 0:
                    self._add(bytes(name), end // size - 1)
        self._taken = len(known)
        return True

    def _is_ours(self, key: bytes) -> bool:
        return len(key) == KEY_BYTES and group_of(key) in self._tokens_per_chunk

    def _add(self, key: bytes, position: int) -> None:
        self._positions[key] = position
        self._keys[group_of(key)][position] = key

    def position(self, key: bytes) -> int:
        """Of a chunk that has a place."""
        return self._positions[key]

    def keys(self) -> Iterable[bytes]:
        return self._positions.keys()

    def parent(self, key: bytes) -> bytes | None:
        """Hash of the chunk before this one."""
        before = self._keys[group_of(key)].get(self._positions[key] - 1)
        return None if before is None else before[:HASH_BYTES]

    def runs(self) -> Iterator[tuple[int, int, list[bytes]]]:
        """(group, first position, keys) of the chunks from the first known one on, without gaps."""
        for group, keys in self._keys.items():
            first = min(keys, default=0)
            run: list[bytes] = []
            while first + len(run) in keys:
                run.append(keys[first + len(run)])
            if run:
                yield group, first, run

    def neighbours(self, rows: dict[bytes, int]) -> Iterator[list[bytes]]:
        """The chunks of `rows` as runs of neighbours; what has no place is left out."""
        placed = sorted((group_of(key), self._positions[key], key) for key in rows
                        if key in self._positions)
        run: list[bytes] = []
        for index, (group, position, key) in enumerate(placed):
            if run and (group, position - 1) != placed[index - 1][:2]:
                yield run
                run = []
            run.append(key)
        if run:
            yield run


@dataclass
class Lease:
    """Held by the answers of a lookup and by each load that follows them."""
    number: int
    users: int = 1


@dataclass
class Asking:
    """One request: its chunks, and what the last lookup said of them."""
    chain: Chain
    answers: dict[bytes, bool] = field(default_factory=dict)
    lease: Lease | None = None
    until: float = 0.0              # the answers hold
    is_waiting: bool = False        # chunks were asked for that no lookup has covered yet
    is_unread: bool = False         # the answers came at a step's end: they hold in the next one

    def answer(self, key: bytes) -> bool | None:
        """None: not known, or not any more."""
        if self.is_unread or time.monotonic() < self.until:
            return self.answers.get(key)
        return None

    def forget(self) -> None:
        self.answers, self.until, self.is_unread, self.lease = {}, 0.0, False, None


@dataclass
class Job:
    """One of vLLM's jobs; over when none of its parts is open, so that its rows are quiet."""
    number: int
    is_load: bool
    keys: Collection[bytes]
    began: float
    lease: Lease | None = None
    open_parts: int = 0
    good: list[bytes] = field(default_factory=list)


@dataclass
class Part:
    """One job of libkvtier."""
    job: Job
    keys: list[bytes]
    is_counted: bool = False


class Failures:
    """Chunks that were promised and not delivered: no hits until they are stored again."""

    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}

    def add(self, keys: Iterable[bytes]) -> None:
        until = time.monotonic() + FAILED_SECONDS
        for key in keys:
            self._until[key] = until
        while len(self._until) > FAILED_MAX:
            del self._until[next(iter(self._until))]

    def remove(self, keys: Iterable[bytes]) -> None:
        if self._until:
            for key in keys:
                self._until.pop(key, None)

    def has(self, key: bytes) -> bool:
        until = self._until.get(key)
        if until is None:
            return False
        if time.monotonic() < until:
            return True
        del self._until[key]
        return False

    def forget(self) -> None:
        self._until.clear()
