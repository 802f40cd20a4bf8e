"""What the scripted daemon keeps: groups, slots, batches, lookups; and a slot's proven header."""
from __future__ import annotations

import math
import os
import struct
import sys
from dataclasses import dataclass, field

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), 'system'))
import frames   # noqa: E402

HEADER_BYTES = 4096
SEGMENTS_MAX = 256
TIER_CPU, TIER_NVME = 0, 1
MAGIC = 0x31544f4c5354564b
KINDS = ('full', 'window', 'state')

IDENTITY = struct.Struct('<QII16sQHHI32s32sQQQII16s16sIHH')
ADDRESS = struct.Struct('<16sQII28sI')
IDENTITY_CRC, ADDRESS_CRC = 12, 60


@dataclass(frozen=True)
class Group:
    kind: str
    tokens_per_block: int
    payload_bytes: int
    segments_count: int
    window_tokens: int

    @property
    def slot_bytes(self) -> int:
        return HEADER_BYTES + -(-self.payload_bytes // 4096) * 4096


@dataclass
class Slot:
    offset: int
    generation: int
    group: Group
    tier: int = TIER_CPU


@dataclass
class Batch:
    """A STORE or LOAD whose events are not all sent."""
    number: int
    space: int
    group: int
    hashes: list[bytes]
    open: set[int]
    items: list[tuple] = field(default_factory=list)     # of a STORE: (route key, parent, position)


@dataclass
class Lookup:
    """What a test may want to know of a lookup."""
    space: int
    tag: bytes
    hashes: dict[int, list[bytes]]     # by group
    first: dict[int, int]
    lease_us: int
    cost: tuple[float, float, float]
    usable_tokens: int = 0
    lease: int = 0


def usable_tokens(groups: list[Group], first: dict[int, int],
                  present: dict[int, list[bool]]) -> int:
    """As client/kvtier.h says of kvtier_found: what every group can go on from. Blocks before a
    section's first are the engine's own."""
    step = math.lcm(*(group.tokens_per_block for group in groups))
    tokens = min((first.get(number, 0) + len(present.get(number, []))) * group.tokens_per_block
                 for number, group in enumerate(groups))
    tokens -= tokens % step

    def is_there(number: int, position: int) -> bool:
        index = position - first.get(number, 0)
        return index < 0 or present[number][index]

    def goes_on(number: int, group: Group) -> bool:
        end = tokens // group.tokens_per_block
        begin = 0
        if group.kind == 'window':
            begin = max(0, tokens - group.window_tokens) // group.tokens_per_block
        elif group.kind == 'state':
            begin = max(0, end - 1)
        return all(is_there(number, position) for position in range(begin, end))

    while tokens > 0 and not all(goes_on(number, group) for number, group in enumerate(groups)):
        tokens -= step
    return tokens


def _sealed(part: bytes, crc_at: int) -> bytes:
    """The part with the CRC32C of itself, taken with that field as zero."""
    return part[:crc_at] + struct.pack('<I', frames.crc32c(part)) + part[crc_at + 4:]


def slot_header(space: bytes, number: int, group: Group, name: bytes, crcs: tuple[int, ...],
                slot: Slot) -> bytes:
    """The first 4 KiB of a slot, as transfer/slot_header.h says; for shard 0 of one."""
    identity = IDENTITY.pack(MAGIC, 1, 0, space, 1, number, 0, group.tokens_per_block, name,
                             bytes(32), 0, group.payload_bytes, 0, group.segments_count, 0,
                             bytes(16), bytes(16), 0, 1, 0)
    identity += struct.pack(f'<{SEGMENTS_MAX}I', *crcs, *[0] * (SEGMENTS_MAX - len(crcs)))
    address = ADDRESS.pack(bytes(16), slot.offset, 0, slot.generation, bytes(28), 0)
    header = _sealed(identity, IDENTITY_CRC).ljust(2048, b'\0') + _sealed(address, ADDRESS_CRC)
    return header.ljust(HEADER_BYTES, b'\0')
