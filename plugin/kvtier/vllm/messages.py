"""What the scheduler's side and the workers' side of the connector tell each other in a step."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (KVConnectorHandshakeMetadata,
                                                               KVConnectorMetadata,
                                                               KVConnectorWorkerMetadata)


@dataclass
class Blocks:
    """Consecutive blocks of one group of a request; one item a block in each of the strings."""
    group: int
    first_position: int
    hashes: bytes                # 32 bytes each
    engine_blocks: bytes         # little-endian u32 each
    parent: bytes | None = None  # stores: the hash before the first
    route_keys: bytes | None = None   # stores: little-endian u64 each

    def lost(self, pairs: list[int]) -> list[int]:
        """Engine blocks of those pairs (group and position, one behind the other) that are here."""
        ids = memoryview(self.engine_blocks).cast('I')
        return [ids[position - self.first_position]
                for group, position in zip(pairs[::2], pairs[1::2]) if group == self.group]


@dataclass
class Load:
    """One request's load; over when every part is, on every rank."""
    number: int
    request_id: str
    parts: list[Blocks]
    is_async: bool
    deadline_us: int
    lease: int = 0
    adapter: bytes | None = None
    tag: bytes | None = None


@dataclass
class Store:
    """One run of blocks to be stored once this step's forward has written them."""
    number: int
    part: Blocks
    deadline_us: int
    adapter: bytes | None = None
    tag: bytes | None = None


@dataclass
class StepMetadata(KVConnectorMetadata):
    """Scheduler to workers, each step."""
    loads: list[Load] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)
    flush: list[int] = field(default_factory=list)    # stores whose blocks this step overwrites
    weights_version: str = ''
    generation: int = 0          # raised when the weights were changed in place
    is_idle: bool = False        # no token is computed in this step
    is_over: bool = False        # the scheduler's side has failed: nothing may be moved any more


@dataclass
class WorkerReport(KVConnectorWorkerMetadata):
    """Workers to scheduler. Numbers are those of Load and Store; ranks are counted."""
    stores_over: dict[int, int] = field(default_factory=dict)     # number -> ranks
    stores_failed: set[int] = field(default_factory=set)          # some block is not in the cache
    stores_again: set[int] = field(default_factory=set)           # ... but may be offered again
    loads_failed: dict[int, list[int]] = field(default_factory=dict)  # first lost token, by number
    loads_over: dict[int, int] = field(default_factory=dict)      # number -> ranks
    load_seconds: dict[int, float] = field(default_factory=dict)  # of the slowest rank, by number

    def aggregate(self, other: KVConnectorWorkerMetadata) -> KVConnectorWorkerMetadata:
        assert isinstance(other, WorkerReport)
        for number, ranks in other.stores_over.items():
            self.stores_over[number] = self.stores_over.get(number, 0) + ranks
        self.stores_failed |= other.stores_failed
        self.stores_again |= other.stores_again
        for number, lost in other.loads_failed.items():
            self.loads_failed.setdefault(number, []).extend(lost)
        for number, ranks in other.loads_over.items():
            self.loads_over[number] = self.loads_over.get(number, 0) + ranks
        for number, seconds in other.load_seconds.items():
            self.load_seconds[number] = max(seconds, self.load_seconds.get(number, 0.0))
        return self

    def is_empty(self) -> bool:
        return not (self.stores_over or self.loads_over or self.loads_failed)


@dataclass
class Registration(KVConnectorHandshakeMetadata):
    """What a worker found when the engine gave it the KV cache: the scheduler registers the same.

    groups: (kind, tokens per block, payload bytes, window tokens, segments) each.
    refusal: why this engine goes without kvtier; '' when it does not.
    """
    identity: dict[str, str]
    groups: list[tuple[str, int, int, int, int]]
    world: int = 1
    refusal: str = ''
    remedy: str = ''
    extra: dict[str, Any] = field(default_factory=dict)
