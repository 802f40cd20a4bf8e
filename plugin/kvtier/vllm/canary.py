"""Proof at start that the library and the engine mean the same bytes by a block.

A block is written through the engine's own tensors and read through the library, then the other way
round. At start all blocks are free, so any will do; what it held is put back.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy
import torch

from kvtier.vllm.specs import refuse

if TYPE_CHECKING:
    from kvtier.vllm.layout import Layout

_SEED = 20_11
_REMEDY = 'serve without kvtier, and report the model, the KV cache layout and both versions'


def read_block(kv_caches: Mapping[str, Any], layout: Layout, group: int, block: int) -> bytes:
    """The payload of a block, through the engine's tensors. `group` counts layout.groups."""
    return b''.join(part.view(kv_caches, block).contiguous().cpu().numpy().tobytes()
                    for part in layout.groups[group].parts)


def write_block(kv_caches: Mapping[str, Any], layout: Layout, group: int, block: int,
                payload: bytes) -> None:
    """Gives a block this payload, through the engine's tensors."""
    begin = 0
    for part in layout.groups[group].parts:
        view = part.view(kv_caches, block)
        piece = numpy.frombuffer(payload[begin:begin + part.bytes], dtype=numpy.uint8).copy()
        view.copy_(torch.from_numpy(piece).view(view.dtype).reshape(view.shape))
        begin += part.bytes


def fill_block(kv_caches: Mapping[str, Any], layout: Layout, group: int, block: int,
               seed: int) -> bytes:
    """Writes a pattern, which differs by seed, into a block; returns the payload it has now."""
    pattern = numpy.random.default_rng(seed).bytes(layout.groups[group].payload_bytes)
    write_block(kv_caches, layout, group, block, pattern)
    return pattern


def canary(layout: Layout, kv_caches: Mapping[str, Any], kv_cache_config: Any,
           block_read: Callable[[int, int], bytes],
           block_write: Callable[[int, int, bytes], Any]) -> None:
    """Raises Refused where block_read(group, block) and block_write(group, block, payload) do not
    see what the engine's tensors show. For a moment when the engine uses no block."""
    for number, group in enumerate(layout.groups):
        if group.blocks_count != kv_cache_config.num_blocks:
            refuse(f'KV cache group {group.number} has {group.blocks_count} blocks, the engine '
                   f'{kv_cache_config.num_blocks}', _REMEDY)
        block = group.blocks_count - 1
        beside = max(0, block - 1)
        before = read_block(kv_caches, layout, number, block)
        untouched = read_block(kv_caches, layout, number, beside)
        try:
            pattern = fill_block(kv_caches, layout, number, block, _SEED + number)
            _compare(layout, number, pattern, block_read(number, block), 'reads')
            pattern = pattern[::-1]
            block_write(number, block, pattern)
            _compare(layout, number, pattern, read_block(kv_caches, layout, number, block),
                     'writes')
            if beside != block:
                _compare(layout, number, untouched,
                         read_block(kv_caches, layout, number, beside), 'writes beside it')
        finally:
            write_block(kv_caches, layout, number, block, before)


def _compare(layout: Layout, number: int, expected: bytes, found: bytes, what: str) -> None:
    if found == expected:
        return
    group = layout.groups[number]
    if len(found) != len(expected):
        refuse(f'libkvtier {what} {len(found)} bytes of a block of KV cache group {group.number}, '
               f'it has {len(expected)}', _REMEDY)
    differ = numpy.frombuffer(found, numpy.uint8) != numpy.frombuffer(expected, numpy.uint8)
    offset = first = int(differ.argmax())
    for part in group.parts:
        if offset < part.bytes:
            break
        offset -= part.bytes
    refuse(f'libkvtier {what} other bytes than the engine: KV cache group {group.number}, layer '
           f'{part.layer}, byte {offset} of it (byte {first} of the block)', _REMEDY)
