"""The engine's device memory lent to kvtierd, which copies blocks itself: nothing is done here but
to say when: a word in the engine's memory is raised by its stream, and copies wait for it.
"""
from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy
import torch

from kvtier import library
from kvtier.device import DeviceError, Driver, regions_of
from kvtier.vllm.canary import fill_block, read_block, write_block
from kvtier.vllm.layout import Layout

CONNECT_US = 5_000_000     # at start: kvtierd may still be pinning its memory for the GPU
PROOF_US = 2_000_000
WORD_BYTES = 8
_SEED = 20_12


class Lending:
    """What is lent, and the word. DeviceError: this memory cannot be lent."""

    def __init__(self, layout: Layout, driver: Driver, stream_of: Any):
        """stream_of(): the engine's stream now, as the driver knows it."""
        device = torch.device(layout.device)
        self._driver, self._stream_of = driver, stream_of
        self._word = torch.zeros(1, dtype=torch.int64, device=device)   # never freed: it is lent
        self._value = 0
        spans = [(storage.data_ptr(), storage.nbytes()) for storage in layout.storages]
        spans.append((self._word.data_ptr(), WORD_BYTES))
        self.device = library.Device(driver.bus_id(device.index or 0), regions_of(driver, spans),
                                     self._word.data_ptr())

    def gate(self) -> int:
        """The word's value when the engine's stream has done all that it has been given."""
        self._value += 1
        self._driver.raise_word(self._stream_of(), self._word.data_ptr(), self._value)
        return self._value


def lending_of(layout: Layout) -> Lending:
    """Of a KV cache on a GPU."""
    device = torch.device(layout.device)
    if device.type != 'cuda':
        raise DeviceError(f'memory of {device.type} cannot be lent')
    if torch.version.hip:
        raise DeviceError('streams of AMD\'s GPUs raise no words that another process sees')
    return Lending(layout, Driver('cuda'),
                   lambda: torch.cuda.current_stream(device).cuda_stream)


class Client(library.Client):
    """A client whose blocks lie in lent memory. Each transfer waits for what the engine's stream
    has been given: a store for what computes its blocks, a load for who still reads them."""

    def __init__(self, options: library.Options, lending: Lending):
        super().__init__(replace(options, device=lending.device))
        self._lending = lending

    def store(self, blocks: Any, **arguments: Any) -> tuple[int, int]:
        return super().store(blocks, gate_value=self._lending.gate(), **arguments)

    def load(self, blocks: Any, **arguments: Any) -> tuple[int, int]:
        return super().load(blocks, gate_value=self._lending.gate(), **arguments)


def prove(client: Any, layout: Layout, kv_caches: Mapping[str, Any]) -> None:
    """Raises DeviceError unless kvtierd reads and writes the bytes that the engine's tensors show:
    the first and the last block of each group, stored under keys of nobody and loaded back."""
    result, why = client.connect(CONNECT_US)
    if result < 0:
        raise DeviceError(why or library.error_text(result))
    for number, group in enumerate(layout.groups):
        for block in sorted({0, group.blocks_count - 1}):
            before = read_block(kv_caches, layout, number, block)
            try:
                _prove_block(client, layout, kv_caches, number, block)
            finally:
                write_block(kv_caches, layout, number, block, before)


def _prove_block(client: Any, layout: Layout, kv_caches: Mapping[str, Any], number: int,
                 block: int) -> None:
    where = f'block {block} of KV cache group {layout.groups[number].number}'
    key = library.block_array(os.urandom(library.HASH_BYTES), numpy.array([block]))
    how = {'space': 0, 'group': number, 'first_position': 0, 'deadline_us': PROOF_US}
    pattern = fill_block(kv_caches, layout, number, block, _SEED + block)
    _finish(client, client.store(key, parent=None, **how), f'store {where}')
    write_block(kv_caches, layout, number, block, bytes(len(pattern)))
    _finish(client, client.load(key, lease=0, **how), f'load {where}')
    if read_block(kv_caches, layout, number, block) != pattern:
        raise DeviceError(f'kvtierd and the engine do not mean the same bytes by {where}')


def _finish(client: Any, begun: tuple[int, int], what: str) -> None:
    """Until nothing touches the block any more."""
    result, job = begun
    if result < 0:
        raise DeviceError(f'kvtierd cannot {what}: {library.error_text(result)}')
    end, good, is_quiet = time.monotonic() + 2 * PROOF_US * 1e-6, 0, False
    while not is_quiet:
        if time.monotonic() >= end:
            raise DeviceError(f'kvtierd does not {what} in time')
        client.wait(PROOF_US // 10)
        for completion in client.poll():
            if completion.job == job:
                good, is_quiet = completion.good_count, completion.quiesced
    if good != 1:
        raise DeviceError(f'kvtierd did not {what}')
