"""Where the engine's KV blocks lie: what vLLM hands to register_kv_caches(), as groups of planes.

A block's payload is, layer by layer in the order of the KV cache group, the bytes of the block in
the order in which they lie in memory, without padding. What is not understood is refused. Shapes
and strides of the tensors are read and held against the specs and the configuration; versions are
not looked at.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any

import numpy
import torch

from kvtier.vllm import specs
from kvtier.vllm.canary import canary, fill_block, read_block
from kvtier.vllm.specs import refuse

__all__ = ['Group', 'Layout', 'Part', 'canary', 'fill_block', 'layout_of', 'read_block']

GROUPS_MAX = 16          # libkvtier's limits
PLANES_MAX = 4096
SEGMENTS_MAX = 256

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass
class Part:
    """One tensor of one layer, and which of its bytes are one block's."""

    layer: str
    number: int | None          # in the layer's list of tensors; None: the layer has just one
    block_dimension: int
    rows: int                   # of the block dimension in one block
    order: tuple[int, ...]      # the dimensions, outermost in memory first
    bytes: int                  # of one block
    dimensions: str             # for text: name and size, outermost first

    def tensor(self, kv_caches: Mapping[str, Any]) -> torch.Tensor:
        value = kv_caches[self.layer]
        return value if self.number is None else value[self.number]

    def view(self, kv_caches: Mapping[str, Any], block: int) -> torch.Tensor:
        """The block as integers, in the order of the payload; a view of the engine's tensor."""
        tensor = self.tensor(kv_caches)
        rows = tensor.narrow(self.block_dimension, block * self.rows, self.rows)
        return rows.permute(self.order).view(_INTEGERS[tensor.element_size()])


@dataclass
class Group:
    """libkvtier's description of a group; what has a default is for the plugin itself."""

    kind: str                   # 'full', 'window' or 'state'
    tokens_per_block: int
    window_tokens: int          # window: how many tokens before a position must be there
    segments_count: int
    blocks_count: int
    planes: list[tuple[int, int, int]]   # address, stride, bytes
    payload_bytes: int
    number: int = 0             # in kv_cache_config.kv_cache_groups
    layers: list[str] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)   # what each layer's bytes mean


@dataclass
class Layout:
    groups: list[Group]
    text: str                   # equal texts: payloads that can take each other's place
    device: str
    storages: list[Any]         # kept alive, as the planes are addresses into them


def layout_of(kv_cache_config: Any, kv_caches: Mapping[str, Any], vllm_config: Any) -> Layout:
    """The layout of the tensors that register_kv_caches() was given.

    A group that holds no pages, or that the engine itself keeps out of KV transfer, is left out:
    Group.number says which of the engine's groups one is. Raises Refused for all else that is not
    fully understood, and where tensors and configuration disagree.
    """
    if getattr(kv_cache_config, 'hisparse_host_num_blocks', None) is not None:
        refuse('HiSparse keeps blocks in a pool of its own', 'switch HiSparse off')
    if kv_cache_config.num_blocks < 1:
        refuse(f'the KV cache has {kv_cache_config.num_blocks} blocks')
    placements = _placements(kv_cache_config)
    left_out: set[str] = set()
    groups = []
    for number, config_group in enumerate(kv_cache_config.kv_cache_groups):
        if specs.is_left_out(config_group):
            left_out.update(config_group.layer_names)
            continue
        reader = _GroupReader(kv_cache_config, kv_caches, vllm_config, placements)
        groups.append(reader.read(number, config_group))
    if not 1 <= len(groups) <= GROUPS_MAX:
        refuse(f'there are {len(groups)} KV cache groups to share, 1 to {GROUPS_MAX} are right')
    _check_nothing_forgotten(groups, kv_caches, left_out)
    _check_overlaps(groups)
    tensors = [part.tensor(kv_caches) for group in groups for part in group.parts]
    devices = sorted({str(tensor.device) for tensor in tensors})
    if len(devices) != 1:
        refuse(f'the KV cache lies on several devices: {", ".join(devices)}')
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage()
                for tensor in tensors}
    return Layout(groups, _text(groups, torch.device(devices[0]).type), devices[0],
                  list(storages.values()))


def _placements(kv_cache_config: Any) -> dict[str, tuple[Any, int]]:
    """Layer name -> its KVCacheTensor, and its number among that one's layers."""
    placements: dict[str, tuple[Any, int]] = {}
    for tensor in kv_cache_config.kv_cache_tensors:
        names = tensor.layers if hasattr(tensor, 'layers') else tensor.shared_by
        for index, name in enumerate(names):
            if name in placements:
                refuse(f'layer {name} lies in two KV cache tensors')
            placements[name] = (tensor, index)
    return placements


class _GroupReader:
    """Reads one group: which tensors are its layers', and where their blocks lie."""

    def __init__(self, kv_cache_config: Any, kv_caches: Mapping[str, Any], vllm_config: Any,
                 placements: dict[str, tuple[Any, int]]):
        self.blocks_count = kv_cache_config.num_blocks
        self.kv_caches = kv_caches
        self.vllm_config = vllm_config
        self.placements = placements

    def read(self, number: int, config_group: Any) -> Group:
        if getattr(config_group, 'host_resident', False):
            refuse(f'KV cache group {number} lies in host memory of its own')
        by_layer = specs.layer_specs(config_group)
        kinds = {specs.kind_of(name, spec, self.vllm_config) for name, spec in by_layer.items()}
        if len(kinds) != 1:
            refuse(f'layers of KV cache group {number} differ in kind or size of blocks: '
                    f'{sorted(kinds)}')
        kind, tokens, window = kinds.pop()
        group = Group(kind, tokens, window, 1, self.blocks_count, [], 0, number)
        sizes = []
        for name, spec in by_layer.items():
            if self._reads_another_layer(group, name):
                continue
            parts = list(self._layer_parts(name, spec))
            group.layers.append(name)
            group.parts += parts
            sizes.append(self._check_page(name, spec, parts))
            group.texts.append(self._layer_text(name, spec, parts))
        group.planes = _merge(self._runs(group))
        if len(group.planes) > PLANES_MAX:
            refuse(f'a block of KV cache group {number} lies in {len(group.planes)} pieces, at '
                    f'most {PLANES_MAX} are right',
                    'set VLLM_KV_CACHE_LAYOUT to LBNHC or BLNHC (older versions: NHD)')
        group.payload_bytes = sum(sizes)
        group.segments_count = _segments(sizes)
        return group

    def _tensors(self, name: str) -> list[torch.Tensor]:
        value: Any = self.kv_caches.get(name)
        tensors = list(value) if isinstance(value, (list, tuple)) else [value]
        for tensor in tensors:
            if not isinstance(tensor, torch.Tensor) or tensor.data_ptr() == 0:
                refuse(f'layer {name} has no tensor of KV blocks in memory')
            if tensor.element_size() not in _INTEGERS:
                refuse(f'layer {name} has elements of {tensor.element_size()} bytes')
        return tensors

    def _reads_another_layer(self, group: Group, name: str) -> bool:
        """Whether the layer's tensors are those of a layer that has been counted."""
        if name in self.placements:
            return False
        mine = [_place(tensor) for tensor in self._tensors(name)]
        if all(place in [_place(part.tensor(self.kv_caches)) for part in group.parts]
               for place in mine):
            return True
        refuse(f'layer {name} is in no KV cache tensor of the configuration')

    def _layer_parts(self, name: str, spec: Any) -> Iterator[Part]:
        tensors = self._tensors(name)
        is_one = isinstance(self.kv_caches[name], torch.Tensor)
        for number, tensor in enumerate(tensors):
            names = self._dimension_names(name, spec, tensor)
            block = names.index('B')
            rows, rest = divmod(tensor.shape[block], self.blocks_count)
            if rest != 0 or rows == 0:
                refuse(f'layer {name} has {tensor.shape[block]} rows for {self.blocks_count} '
                        'blocks')
            sizes = [rows if i == block else size for i, size in enumerate(tensor.shape)]
            strides = tensor.stride()
            order = tuple(sorted(range(tensor.dim()), key=lambda i: (-strides[i], i)))
            part = Part(name, None if is_one else number, block, rows, order,
                        prod(sizes) * tensor.element_size(),
                        ' '.join(f'{names[i].replace("B", "R")}{sizes[i]}' for i in order
                                 if sizes[i] > 1))
            self._check_nested(name, tensor, sizes, order)
            self._check_placement(name, spec, tensor, part, number)
            yield part

    def _dimension_names(self, name: str, spec: Any, tensor: torch.Tensor) -> str:
        """A letter a dimension: Block, Kv (which of the two), Head, Number of a token, Content."""
        shape = tuple(tensor.shape)
        if hasattr(self.placements[name][0], 'layers'):
            if len(shape) != 4:
                refuse(f'layer {name} has shape {shape}, four dimensions are right')
            return 'BHNC'
        if specs.KINDS[type(spec).__name__] == 'state':
            return 'B' + 'CDEFGHI'[:len(shape) - 1]
        if len(shape) == 3:
            return 'BNC'
        if len(shape) == 4:
            return 'B' + self._heads_and_tokens(name, spec, tensor, 0, shape[1:3]) + 'C'
        if len(shape) != 5:
            refuse(f'layer {name} has shape {shape}, which is not known here')
        is_first = [shape[1 - i] == 2 and shape[i] % self.blocks_count == 0 for i in (0, 1)]
        if is_first[0] == is_first[1]:
            refuse(f'layer {name} has shape {shape}: which dimension counts its '
                    f'{self.blocks_count} blocks is not clear', 'use another number of blocks')
        block = 0 if is_first[0] else 1
        middle = self._heads_and_tokens(name, spec, tensor, block, shape[2:4])
        return ('BK' if block == 0 else 'KB') + middle + 'C'

    def _heads_and_tokens(self, name: str, spec: Any, tensor: torch.Tensor, block: int,
                          sizes: tuple[int, ...]) -> str:
        rows = max(1, tensor.shape[block] // self.blocks_count)
        right = (spec.num_kv_heads, getattr(spec, 'storage_block_size', spec.block_size) // rows)
        if sizes == right and sizes[0] == sizes[1] and sizes[0] > 1:
            if tensor.dim() == 4:
                refuse(f'layer {name} has as many heads as tokens in a block ({sizes[0]}), so '
                        'their order cannot be told', 'set another --block-size')
            return 'HN' if tensor.device.type == 'cpu' else 'NH'
        if sizes == right:
            return 'HN'
        if sizes == right[::-1]:
            return 'NH'
        refuse(f'layer {name} has shape {tuple(tensor.shape)}; its {right[0]} heads and '
                f'{right[1]} tokens of a block are not found there')

    def _check_nested(self, name: str, tensor: torch.Tensor, sizes: Sequence[int],
                      order: tuple[int, ...]) -> None:
        """No byte of a block is two elements."""
        reach = 1
        for i in reversed(order):
            if sizes[i] > 1 and tensor.stride(i) < reach:
                refuse(f'elements of layer {name} overlap: strides {tensor.stride()}, shape '
                        f'{tuple(tensor.shape)}')
            reach += (sizes[i] - 1) * tensor.stride(i)

    def _check_placement(self, name: str, spec: Any, tensor: torch.Tensor, part: Part,
                         number: int) -> None:
        """The tensor lies where the configuration's arithmetic says."""
        placed, index = self.placements[name]
        storage = tensor.untyped_storage()
        offset = tensor.data_ptr() - storage.data_ptr()
        stride = tensor.stride(part.block_dimension) * part.rows * tensor.element_size()
        if storage.nbytes() < placed.size:
            refuse(f'layer {name}: storage of {storage.nbytes()} bytes, {placed.size} configured')
        if hasattr(placed, 'layers'):
            wanted = placed.offset + index * placed.layer_stride
            if offset != wanted and number == 0:
                refuse(f'layer {name} begins at byte {offset}, configured is {wanted}')
        elif not getattr(placed, 'block_stride', 0):
            wanted = self.blocks_count * spec.page_size_bytes
            if placed.size != wanted:
                refuse(f'layer {name}: {placed.size} bytes are configured, {self.blocks_count} '
                        f'blocks of {spec.page_size_bytes} are {wanted}')
        wanted = getattr(placed, 'block_stride', 0) or stride
        if self.blocks_count > 1 and stride != wanted:
            refuse(f'layer {name}: its blocks are {stride} bytes apart, configured is {wanted}')

    def _check_page(self, name: str, spec: Any, parts: list[Part]) -> int:
        """The bytes of one block of the layer, which are those of the spec's page."""
        found = sum(part.bytes for part in parts)
        wanted = specs.page_bytes(spec)
        if found != wanted:
            refuse(f'a block of layer {name} has {found} bytes, its {type(spec).__name__} says '
                    f'{wanted}')
        return found

    def _layer_text(self, name: str, spec: Any, parts: list[Part]) -> str:
        inside = ', '.join(f'{part.dimensions} {part.tensor(self.kv_caches).dtype}'
                           for part in parts)
        backend = specs.backend_text(name, spec, self.vllm_config)
        return f'{specs.spec_text(spec)}; {inside}; {backend}'

    def _runs(self, group: Group) -> Iterator[tuple[int, int, int, int]]:
        """(storage, address, stride, bytes) of each contiguous run of a block, in its order."""
        for part in group.parts:
            tensor = part.tensor(self.kv_caches)
            element = tensor.element_size()
            sizes = [part.rows if i == part.block_dimension else tensor.shape[i]
                     for i in part.order]
            outer = [(size, tensor.stride(i) * element)
                     for size, i in zip(sizes, part.order) if size > 1]
            run = element
            while outer and outer[-1][1] == run:
                run *= outer.pop()[0]
            if prod(size for size, _ in outer) > PLANES_MAX:
                refuse(f'a block of layer {part.layer} lies in more than {PLANES_MAX} pieces '
                        f'(shape {tuple(tensor.shape)}, strides {tensor.stride()})')
            storage = tensor.untyped_storage()
            stride = tensor.stride(part.block_dimension) * part.rows * element
            for indices in product(*(range(size) for size, _ in outer)):
                address = tensor.data_ptr() + sum(
                    index * step for index, (_, step) in zip(indices, outer))
                last = address + (self.blocks_count - 1) * stride + run
                if not storage.data_ptr() <= address <= last <= \
                        storage.data_ptr() + storage.nbytes():
                    refuse(f'blocks of layer {part.layer} reach beyond their storage of '
                            f'{storage.nbytes()} bytes')
                yield storage.data_ptr(), address, stride, run


def _place(tensor: torch.Tensor) -> tuple:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def _merge(runs: Iterator[tuple[int, int, int, int]]) -> list[tuple[int, int, int]]:
    """Runs that follow each other in the payload and in memory become one plane."""
    merged: list[list[int]] = []
    for storage, address, stride, count in runs:
        last = merged[-1] if merged else None
        if last is not None and last[0] == storage and last[2] == stride and \
                last[1] + last[3] == address and last[3] + count <= stride:
            last[3] += count
        else:
            merged.append([storage, address, stride, count])
    return [(address, stride, count) for _, address, stride, count in merged]


def _segments(sizes: Sequence[int]) -> int:
    """One a layer where they are equal parts; else as many whole layers each as may be, else 1."""
    total = sum(sizes)
    if len(set(sizes)) != 1:
        return 1
    for count in range(min(len(sizes), SEGMENTS_MAX), 1, -1):
        if len(sizes) % count == 0 and total % count == 0:
            return count
    return 1


def _check_nothing_forgotten(groups: Sequence[Group], kv_caches: Mapping[str, Any],
                             left_out: set[str]) -> None:
    known = {_place(part.tensor(kv_caches)) for group in groups for part in group.parts}
    named = left_out.union(*(group.layers for group in groups))
    for name, value in kv_caches.items():
        tensors = value if isinstance(value, (list, tuple)) else [value]
        if name not in named and not all(_place(tensor) in known for tensor in tensors):
            refuse(f'layer {name} has KV blocks, but is in no KV cache group')


def _text(groups: Sequence[Group], device_type: str) -> str:
    names = specs.relative_names([name for group in groups for name in group.layers])
    texts = []
    for group in groups:
        layers = [f'{names[name]}: {text}' for name, text in zip(group.layers, group.texts)]
        texts.append(specs.group_text(
            f'{group.kind} {group.tokens_per_block}t {group.window_tokens}w', layers,
            group.texts[0] if len(set(group.texts)) == 1 else 'layers differ'))
    return specs.layout_text(device_type, texts)


def _check_overlaps(groups: Sequence[Group]) -> None:
    """No byte is two blocks'. Groups may share bytes, but only those of one and the same block."""
    rows = sorted((address, stride, count, number, group.blocks_count)
                  for number, group in enumerate(groups)
                  for address, stride, count in group.planes)
    table = numpy.array(rows, dtype=numpy.int64)
    address, stride, count, number, blocks = table.T
    ends = address + (blocks - 1) * stride + count
    for i in range(len(table)):
        if blocks[i] > 1 and count[i] > stride[i]:
            refuse(f'blocks of KV cache group {groups[number[i]].number} overlap: {count[i]} '
                    f'bytes every {stride[i]}')
        near = slice(i + 1, int(numpy.searchsorted(address, ends[i])))
        if _meets(table[i], table[near]).any():
            meeting = table[near][_meets(table[i], table[near])][0]
            refuse(f'blocks of KV cache groups {groups[number[i]].number} and '
                   f'{groups[int(meeting[3])].number} overlap')


def _meets(plane: numpy.ndarray, others: numpy.ndarray) -> numpy.ndarray:
    """Which other planes, none of them below, share bytes with a plane though they must not."""
    address, stride, count, number, blocks = (int(value) for value in plane)
    gap = others[:, 0] - address
    step = stride if blocks > 1 else count
    # Block x of the plane can meet blocks x - k and x - k - 1 of another one.
    over, k = gap % step, gap // step
    other_group = others[:, 3] != number
    first = (over < count) & (k < blocks) & ~(other_group & (k == 0))
    second = (step - over < others[:, 2]) & (k + 1 < blocks)
    return first | second | ((others[:, 1] != stride) & (blocks > 1))
