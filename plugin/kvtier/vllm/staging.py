"""Host memory through which blocks go whose tensors lie on a device, and the copies in between.

libkvtier reads and writes host memory. So an area of it, bounded and pinned where the device wants
that, is divided into buffers of a few blocks each; a buffer's rows are payloads, and libkvtier takes
them for the engine's blocks. Copies run on streams of their own, behind what the engine's stream has
been given before; on the CPU they are over when they have been asked for.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import Any

import numpy
import torch

from kvtier import library
from kvtier.vllm.layout import Group, Layout
from kvtier.vllm.specs import refuse

ALIGNMENT = 4096
PIECE_BYTES = 4 << 20    # the engine's own small copies wait for no more than one such piece
BUFFERS_LEAST = 4        # in each direction, where the area is large enough

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
LOAD, STORE = 0, 1


@dataclass
class Buffer:
    """Rows of the area that are one piece's until give()."""
    group: int
    direction: int
    first_row: int           # in the group's rows: what libkvtier takes for a block's number
    rows: torch.Tensor       # (blocks, integers of a payload), host memory
    numbers: torch.Tensor    # (blocks), host memory: which of the engine's blocks


class _Strips:
    """One group's planes as tensors of integers: (blocks, planes at one distance, integers)."""

    def __init__(self, group: Group, storages: Sequence[Any], device: torch.device):
        self.width = gcd(8, *(value for plane in group.planes for value in plane))
        self.row = group.payload_bytes // self.width
        self.views: list[tuple[int, torch.Tensor]] = []   # where it begins in a row
        begin = 0
        for address, stride, count, planes, distance in _boxes(group.planes):
            storage = next(own for own in storages
                           if own.data_ptr() <= address < own.data_ptr() + own.nbytes())
            whole = torch.empty(0, dtype=_INTEGERS[self.width], device=device)
            whole.set_(storage, (address - storage.data_ptr()) // self.width,
                       (group.blocks_count, planes, count // self.width),
                       (stride // self.width, distance // self.width, 1))
            self.views.append((begin // self.width, whole))
            begin += planes * count

    def _part(self, rows: torch.Tensor, begin: int, view: torch.Tensor) -> torch.Tensor:
        _, planes, count = view.shape
        return rows[:, begin:begin + planes * count].unflatten(1, (planes, count))

    def gather(self, rows: torch.Tensor, numbers: torch.Tensor) -> None:
        for begin, view in self.views:
            torch.index_select(view, 0, numbers, out=self._part(rows, begin, view))

    def scatter(self, rows: torch.Tensor, numbers: torch.Tensor) -> None:
        for begin, view in self.views:
            view.index_copy_(0, numbers, self._part(rows, begin, view))


def _boxes(planes: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int, int, int]]:
    """(address, stride, bytes, planes, distance): planes at one distance are one copy."""
    boxes: list[tuple[int, int, int, int, int]] = []
    for address, stride, count in planes:
        if boxes:
            first, last_stride, last_count, many, distance = boxes[-1]
            step = (address - first) // many
            if (stride, count) == (last_stride, last_count) and step > 0 and \
                    address == first + many * step and (many == 1 or step == distance):
                boxes[-1] = (first, stride, count, many + 1, step)
                continue
        boxes.append((address, stride, count, 1, count))
    return boxes


class Lane:
    """Copies in one direction: a stream, and what they need of the device's memory."""

    def __init__(self, device: torch.device, module: Any):
        """module: torch.cuda or one like it; None: the CPU, where a copy is over at once."""
        self.bounces = module is not None
        self._device = device
        self._module = module
        self._stream: Any = None if module is None else module.Stream(device=device)
        self._memory: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def run(self, copy: Callable[[], None]) -> Any:
        """The copy, behind all that the engine's stream has been given; is_over() of the result."""
        if self._module is None:
            copy()
            return None
        before = self._module.Event()
        before.record(self._module.current_stream(self._device))
        self._stream.wait_event(before)
        with self._module.stream(self._stream):
            copy()
            after = self._module.Event()
            after.record(self._stream)
        return after

    def bounce(self, buffer: Buffer, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(rows, numbers) on the device for `count` blocks. One a group: copies follow each other."""
        if not self.bounces:
            return buffer.rows[:count], buffer.numbers[:count]
        if buffer.group not in self._memory:
            self._memory[buffer.group] = (torch.empty_like(buffer.rows, device=self._device),
                                          torch.empty_like(buffer.numbers, device=self._device))
        rows, numbers = (own[:count] for own in self._memory[buffer.group])
        numbers.copy_(buffer.numbers[:count], non_blocking=True)
        return rows, numbers


def is_over(event: Any) -> bool:
    return event is None or event.query()


class Area:
    """The staging area of a worker, and who has which of its buffers."""

    def __init__(self, layout: Layout, bytes_max: int, module: Any):
        device = torch.device(layout.device)
        row_bytes = sum(group.payload_bytes for group in layout.groups)
        spare = ALIGNMENT * len(layout.groups)
        rows = (bytes_max - spare) // row_bytes
        if rows < 2:
            refuse(f'staging_bytes is {bytes_max}, too little for two blocks of each KV cache group '
                   f'({row_bytes} bytes)', f'set staging_bytes to {2 * row_bytes + spare} or more; '
                   f'{16 * row_bytes + spare} would be good')
        self._layout = layout
        self._is_pinned = device.type != 'cpu'
        self._strips = [_Strips(group, layout.storages, device) for group in layout.groups]
        self._lanes = {direction: Lane(device, module) for direction in (LOAD, STORE)}
        self._free: dict[tuple[int, int], list[Buffer]] = {}
        # One allocation: torch rounds each pinned one up to a power of two.
        self._memory = torch.empty(bytes_max, dtype=torch.uint8, pin_memory=self._is_pinned)
        self._rows: list[torch.Tensor] = []      # of each group
        self.blocks_per_piece: list[int] = []
        begin = 0
        for number, group in enumerate(layout.groups):
            self._divide(number, rows, begin)
            begin += -(-rows * group.payload_bytes // ALIGNMENT) * ALIGNMENT

    def _divide(self, number: int, rows: int, begin: int) -> None:
        """Half of a group's buffers are for loads, half for stores: neither waits for the other."""
        payload, half = self._layout.groups[number].payload_bytes, rows // 2
        each = max(1, min(PIECE_BYTES // payload, half // BUFFERS_LEAST))
        count = half // each
        strips = self._strips[number]
        end = begin + 2 * count * each * payload
        memory = self._memory[begin:end].view(_INTEGERS[strips.width]).view(-1, strips.row)
        numbers = torch.empty((2 * count, each), dtype=torch.int64, pin_memory=self._is_pinned)
        self._rows.append(memory)
        self.blocks_per_piece.append(each)
        for direction in (LOAD, STORE):
            at = range(direction * count, (direction + 1) * count)
            self._free[number, direction] = [
                Buffer(number, direction, i * each, memory[i * each:(i + 1) * each], numbers[i])
                for i in at]

    def options(self, options: library.Options) -> library.Options:
        """The same client, but its blocks are the area's rows."""
        groups = [replace(group, blocks_count=len(rows),
                          planes=[(rows.data_ptr(), group.payload_bytes, group.payload_bytes)])
                  for group, rows in zip(options.groups, self._rows, strict=True)]
        return replace(options, groups=groups)

    def take(self, group: int, direction: int) -> Buffer | None:
        free = self._free[group, direction]
        return free.pop() if free else None

    def give(self, buffer: Buffer) -> None:
        self._free[buffer.group, buffer.direction].append(buffer)

    def copy_in(self, buffer: Buffer, blocks: numpy.ndarray) -> Any:
        """The engine's blocks into the buffer's first rows; what is_over() is asked about."""
        count = len(blocks)
        buffer.numbers[:count] = torch.from_numpy(blocks.astype(numpy.int64))
        lane, strips = self._lanes[STORE], self._strips[buffer.group]

        def copy() -> None:
            rows, numbers = lane.bounce(buffer, count)
            strips.gather(rows, numbers)
            if lane.bounces:
                buffer.rows[:count].copy_(rows, non_blocking=True)
        return lane.run(copy)

    def copy_out(self, buffer: Buffer, rows: numpy.ndarray, blocks: numpy.ndarray) -> Any:
        """These rows of the buffer into the engine's blocks."""
        count = len(blocks)
        buffer.numbers[:count] = torch.from_numpy(blocks.astype(numpy.int64))
        lane, strips = self._lanes[LOAD], self._strips[buffer.group]
        if count and int(rows[-1]) != count - 1:
            # Some did not arrive: those that did move up. Nobody reads this memory now.
            buffer.rows[:count] = buffer.rows[torch.from_numpy(rows)]

        def copy() -> None:
            bounced, numbers = lane.bounce(buffer, count)
            if lane.bounces:
                bounced.copy_(buffer.rows[:count], non_blocking=True)
            strips.scatter(bounced, numbers)
        return lane.run(copy)


def module_of(device: str) -> Any:
    """torch's module for a device's streams and events; None for the CPU."""
    kind = torch.device(device).type
    if kind == 'cpu':
        return None
    module = getattr(torch, kind, None)
    if not all(hasattr(module, name) for name in ('Stream', 'Event', 'current_stream', 'stream')):
        refuse(f'torch has no streams for the device {device}')
    return module
