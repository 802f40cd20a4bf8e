"""Specs, configurations and tensors as vLLM makes them; what layout_of() must find in them."""
import ctypes
import os
import random
import sys
import types
import unittest
from math import prod

PLUGIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'plugin')
try:
    import torch
except ImportError as missing:
    raise unittest.SkipTest(f'torch is not here: {missing}')

sys.path.insert(0, PLUGIN)
# The package's own __init__ imports all of vLLM, which takes half a minute; the layout does not.
package = types.ModuleType('kvtier.vllm')
package.__path__ = [os.path.join(PLUGIN, 'kvtier', 'vllm')]
sys.modules.setdefault('kvtier.vllm', package)
from kvtier.vllm import layout, specs      # noqa: E402
from kvtier.vllm.identity import Refused   # noqa: E402

BLOCKS = 5
LAYOUTS = {'LBHNC': (0, 1, 2, 3, 4), 'LBNHC': (0, 1, 3, 2, 4), 'LHBNC': (0, 2, 1, 3, 4),
           'BLHNC': (1, 0, 2, 3, 4), 'BLNHC': (1, 0, 3, 2, 4), 'BHLNC': (1, 2, 0, 3, 4)}


class Settings(types.SimpleNamespace):
    """Whatever has attributes: a spec, a configuration."""


def make_spec(kind='FullAttentionSpec', tokens=16, heads=2, size=8, dtype=torch.float32,
              padded=None, **more):
    """A spec of today's versions; `kind` is the name of its class."""
    page = tokens * heads * 2 * size * dtype.itemsize
    spec = type(kind, (Settings,), {})(
        block_size=tokens, num_kv_heads=heads, head_size=size, head_size_v=size, dtype=dtype,
        num_heads=heads, state_content_size_bytes=2 * size * dtype.itemsize,
        unpadded_page_size_bytes=page, real_page_size_bytes=page, page_size_padded=padded,
        page_size_bytes=padded or page)
    spec.__dict__.update(more)
    return spec


def make_state_spec(shapes=((3, 4), (2, 5)), dtypes=(torch.float32, torch.float32), padded=None,
                    mode='align', **more):
    page = sum(prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, dtypes))
    return type('MambaSpec', (Settings,), {})(
        block_size=16, shapes=shapes, dtypes=dtypes, page_size_padded=padded,
        page_size_bytes=padded or page, mamba_cache_mode=mode, **more)


def make_config(groups, tensors, blocks=BLOCKS):
    return Settings(num_blocks=blocks, kv_cache_tensors=tensors, kv_cache_groups=[
        Settings(layer_names=list(names), kv_cache_spec=spec) for names, spec in groups])


class Backend:
    pass


def engine(backend=Backend, cache=(), **parallel):
    """What layout_of() reads of vLLM's configuration."""
    layer = Settings(get_attn_backend=lambda: backend)
    context = type('Layers', (), {'get': lambda self, name: layer})()
    return Settings(
        compilation_config=Settings(static_forward_context=context),
        parallel_config=Settings(**parallel), model_config=Settings(dtype=torch.bfloat16),
        cache_config=Settings(block_size=16, cache_dtype='auto', **dict(cache)))


def layered(spec, names, order='LBHNC', blocks=BLOCKS, rows=1):
    """Today's tensors: one storage, [B, H, N, C] a layer. rows: kernel blocks of a block."""
    item, content = spec.dtype.itemsize, spec.state_content_size_bytes // spec.dtype.itemsize
    tokens = spec.unpadded_page_size_bytes // (spec.num_heads * content * item)
    shape = (len(names), blocks * rows, spec.num_heads, tokens // rows, content)
    permutation = LAYOUTS[order]
    storage = torch.zeros([shape[i] for i in permutation], dtype=spec.dtype)
    view = storage.permute([permutation.index(i) for i in range(5)])
    tensor = Settings(size=storage.numel() * item, layers=list(names), offset=0,
                      layer_stride=view.stride(0) * item, block_stride=view.stride(1) * rows * item)
    return [tensor], {name: view[i] for i, name in enumerate(names)}


def shared(spec, names_by_tensor, shape, order=None, blocks=BLOCKS):
    """Tensors of older versions: a storage for each list of layers, viewed alike by them all."""
    order = order or tuple(range(len(shape)))
    tensors, caches = [], {}
    for names in names_by_tensor:
        raw = torch.zeros(blocks * spec.page_size_bytes // spec.dtype.itemsize, dtype=spec.dtype)
        view = raw.view([shape[i] for i in order])
        view = view.permute([order.index(i) for i in range(len(shape))])
        tensors.append(Settings(size=blocks * spec.page_size_bytes, shared_by=list(names)))
        caches.update((name, view) for name in names)
    return tensors, caches


def scramble(caches, seed=7):
    for value in caches.values():
        for tensor in value if isinstance(value, list) else [value]:
            storage = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
            storage.copy_(torch.frombuffer(bytearray(random.Random(seed).randbytes(
                storage.numel())), dtype=torch.uint8))


def gather(group, block):
    return b''.join(ctypes.string_at(base + block * stride, count)
                    for base, stride, count in group.planes)


def oracle(group, caches, dimensions, block):
    """The block's bytes found the slow way: each element's place, in the order of the places."""
    payload = b''
    for name in group.layers:
        value = caches[name]
        for tensor in value if isinstance(value, list) else [value]:
            dimension, item = dimensions(tensor), tensor.element_size()
            raw = bytes(tensor.untyped_storage())
            places = torch.arange(len(raw) // item).as_strided(
                tensor.shape, tensor.stride(), tensor.storage_offset())
            rows = tensor.shape[dimension] // group.blocks_count
            block_places = places.narrow(dimension, block * rows, rows).flatten().sort().values
            payload += b''.join(raw[i * item:(i + 1) * item] for i in block_places.tolist())
    return payload


class Base(unittest.TestCase):
    def check(self, groups, tensors, caches, dimensions=lambda tensor: 0, blocks=BLOCKS, **how):
        """Planes and views agree with the oracle for each block; returns the layout."""
        config = make_config(groups, tensors, blocks)
        found = layout.layout_of(config, caches, engine(**how))
        scramble(caches)
        for number, group in enumerate(found.groups):
            for block in range(blocks):
                expected = oracle(group, caches, dimensions, block)
                self.assertEqual(gather(group, block), expected)
                self.assertEqual(layout.read_block(caches, found, number, block), expected)
            self.assertEqual(group.payload_bytes, sum(count for _, _, count in group.planes))
            self.assertEqual(group.payload_bytes % group.segments_count, 0)
        layout.canary(found, caches, config, *through_planes(found))
        self.assertLessEqual(len(found.text.encode()), specs.TEXT_BYTES_MAX)
        return found

    def refused(self, reason, groups, tensors, caches, remedy='', blocks=BLOCKS, **how):
        with self.assertRaises(Refused) as caught:
            layout.layout_of(make_config(groups, tensors, blocks), caches, engine(**how))
        self.assertRegex(caught.exception.reason, reason)
        self.assertIn(remedy, caught.exception.remedy)


def through_planes(found):
    """block_read and block_write as the library does them."""
    def block_write(number, block, payload):
        for base, stride, count in found.groups[number].planes:
            ctypes.memmove(base + block * stride, payload[:count], count)
            payload = payload[count:]
    return (lambda number, block: gather(found.groups[number], block)), block_write


def both(tensor):
    """The block dimension of a tensor with a dimension for keys and values."""
    return 1 if tensor.dim() == 5 and tensor.shape[0] == 2 else 0
