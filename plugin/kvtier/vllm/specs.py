"""What the engine's KV cache specs say about their blocks: kind, tokens, window, bytes, meaning.

Specs are known by the names of their classes, and attributes are probed, so that one code serves
all versions and nothing here imports vLLM. What is not known is refused.
"""
from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
from collections.abc import Sequence
from enum import Enum
from math import gcd, prod
from typing import Any, NoReturn

import torch

from kvtier.vllm.identity import Refused

TEXT_BYTES_MAX = 900

KINDS = {
    'FullAttentionSpec': 'full', 'MLAAttentionSpec': 'full', 'TQFullAttentionSpec': 'full',
    'SlidingWindowSpec': 'window', 'SlidingWindowMLASpec': 'window',
    'ChunkedLocalAttentionSpec': 'window', 'MambaSpec': 'state',
}
_WITHOUT_PAGES = ('EncoderOnlyAttentionSpec',)
# Why blocks of a kind must not be shared, though there are pages.
_NOT_SHARED = {
    'CrossAttentionSpec': 'encoder states are not named by the hashes of decoder tokens',
    'RSWASpec': 'what its blocks hold depends on where the prompt ended',
    'SinkFullAttentionSpec': 'its sink blocks belong to no request',
    'HiddenStateCacheSpec': 'it holds hidden states for another connector',
    'CircularBufferSpec': 'it holds what is being compressed, not finished blocks',
}
# What of a spec says how bytes of a page are to be read; strides and padding are not among them.
_FIELDS = (
    'block_size', 'num_kv_heads', 'head_size', 'head_size_v', 'dtype', 'kv_quant_mode',
    'cache_dtype_str', 'num_head_slots', 'state_content_bytes', 'tokens_per_state',
    'compress_ratio', 'model_version', 'tq_slot_size', 'cache_role', 'shapes', 'dtypes',
    'mamba_type',
)
_REPORT = 'serve this model without kvtier, and report its KV cache layout'


def refuse(reason: str, remedy: str = _REPORT) -> NoReturn:
    raise Refused(reason, remedy)


def is_left_out(config_group: Any) -> bool:
    specs = layer_specs(config_group)
    if all(type(spec).__name__ in _WITHOUT_PAGES for spec in specs.values()):
        return True
    return not getattr(config_group, 'enable_kv_transfer', True)


def layer_specs(config_group: Any) -> dict[str, Any]:
    """The spec of each layer of a group, in the group's order."""
    spec = config_group.kv_cache_spec
    by_layer = getattr(spec, 'kv_cache_specs', None)
    if by_layer is None:
        return {name: spec for name in config_group.layer_names}
    missing = [name for name in config_group.layer_names if name not in by_layer]
    # A layer that reads another one's blocks has no spec of its own.
    fallback = next(iter(by_layer.values()))
    return {name: fallback if name in missing else by_layer[name]
            for name in config_group.layer_names}


def kind_of(name: str, spec: Any, vllm_config: Any) -> tuple[str, int, int]:
    """Kind, tokens per block and window of one layer's spec, or Refused."""
    known_as = type(spec).__name__
    if known_as in _NOT_SHARED:
        refuse(f'layer {name} has a {known_as}: {_NOT_SHARED[known_as]}')
    if known_as not in KINDS:
        refuse(f'layer {name} has a {known_as}, which is not known here')
    if getattr(spec, 'non_causal', False):
        refuse(f'layer {name} is not causal: its blocks depend on later tokens')
    if not getattr(spec, 'prefix_cacheable', True):
        refuse(f'layer {name} is not named by hashes of prefixes ({known_as})')
    kind = KINDS[known_as]
    tokens = spec.block_size * _context_ranks(name, kind, spec, vllm_config)
    window = 0
    if known_as == 'ChunkedLocalAttentionSpec':
        # Needed is the begun chunk, at most a chunk less one step between positions.
        window = spec.attention_chunk_size - gcd(spec.attention_chunk_size, tokens)
    elif kind == 'window':
        window = spec.sliding_window - 1 + getattr(spec, 'extra_retained_tokens', 0)
    elif kind == 'state':
        _check_state(name, spec, vllm_config)
    return kind, tokens, window


def _context_ranks(name: str, kind: str, spec: Any, vllm_config: Any) -> int:
    """Over how many ranks the tokens of one block are spread."""
    parallel = vllm_config.parallel_config
    if getattr(parallel, 'prefill_context_parallel_size', 1) > 1:
        refuse('prefill context parallelism is not understood here',
                'set prefill_context_parallel_size to 1')
    ranks = getattr(parallel, 'decode_context_parallel_size', 1)
    if ranks == 1 or not getattr(spec, 'dcp_sharded', True):
        return 1
    if kind != 'full':
        refuse(f'layer {name} spreads {kind} blocks over {ranks} ranks',
                'set decode_context_parallel_size to 1')
    return ranks


def _check_state(name: str, spec: Any, vllm_config: Any) -> None:
    """A state is worth keeping only where a request can go on from the end of its block."""
    cache = vllm_config.cache_config
    mode = getattr(spec, 'mamba_cache_mode', 'none')
    if mode not in ('all', 'align'):
        refuse(f'layer {name} keeps only the running state (mamba_cache_mode is {mode!r})',
                'enable prefix caching with --mamba-cache-mode align')
    if mode == 'all' and getattr(spec, 'num_speculative_blocks', 0) > 0:
        refuse(f'layer {name} keeps states of drafts that may be rejected in its blocks',
                'use --mamba-cache-mode align, or no speculative decoding')
    for option in ('use_replayssm', 'use_kda_recoverssm'):
        if getattr(cache, option, False):
            refuse(f'with {option} a block may hold an older state and what is to be replayed',
                    f'set {option} to false')


def page_bytes(spec: Any) -> int:
    """The bytes of a page that mean something."""
    if hasattr(spec, 'shapes'):
        return sum(prod(shape) * torch.empty((), dtype=dtype).element_size()
                   for shape, dtype in zip(spec.shapes, spec.dtypes))
    if hasattr(spec, 'unpadded_page_size_bytes'):
        return spec.unpadded_page_size_bytes
    if getattr(spec, 'page_size_padded', None) is None:
        return spec.page_size_bytes
    mode = getattr(spec, 'kv_quant_mode', None)
    scales = 2 * spec.block_size * spec.num_kv_heads * 4
    return spec.real_page_size_bytes + (
        scales if getattr(mode, 'is_per_token_head', False) else 0)


def backend_text(name: str, spec: Any, vllm_config: Any) -> str:
    """The layer's attention backend, and what else decides how it packs bytes inside a block."""
    layer = vllm_config.compilation_config.static_forward_context.get(name)
    if layer is None:
        refuse(f'which attention backend layer {name} uses cannot be found out')
    backend = layer.get_attn_backend()
    if backend.__name__ != 'CPUAttentionBackend':
        return backend.__name__
    # Keys are stored in an order that suits the processor's instructions.
    choose = getattr(sys.modules.get(backend.__module__), '_get_attn_isa', None)
    instructions = getattr(layer, 'isa', None)
    if instructions is None and choose is not None:
        cache = vllm_config.cache_config
        instructions = choose(vllm_config.model_config.dtype, cache.block_size, spec.head_size,
                              cache.cache_dtype)
    if instructions is None:
        refuse(f'in which order layer {name} keeps its keys on this processor is not known')
    return f'{backend.__name__} {instructions} {platform.machine()} {_version()}'


def _version() -> str:
    return getattr(sys.modules.get('vllm'), '__version__', 'unknown')


def spec_text(spec: Any) -> str:
    """What of a spec says how the bytes of a block are to be read."""
    shown = [type(spec).__name__]
    for key in _FIELDS:
        value = getattr(spec, key, None)
        if value is not None:
            value = value.name if isinstance(value, Enum) else value
            shown.append(f'{key}={value}')
    quantised = getattr(getattr(spec, 'kv_quant_mode', None), 'name', 'NONE') != 'NONE'
    opaque = ('shapes', 'state_content_bytes', 'cache_dtype_str', 'model_version')
    if quantised or any(getattr(spec, key, None) is not None for key in opaque):
        # Not just keys and values: a version may pack them differently than another.
        shown.append(f'vllm={_version()}')
    if hasattr(spec, 'shapes'):
        shown.append(f"conv={os.environ.get('VLLM_SSM_CONV_STATE_LAYOUT', 'SD')}")
    return ' '.join(shown)


def relative_names(names: Sequence[str]) -> dict[str, str]:
    """Names with their layer's number counted from the first here, so that pipeline ranks agree."""
    found = {name: re.fullmatch(r'(\D*)(\d+)(.*)', name) for name in names}
    first: dict[str, int] = {}
    for match in found.values():
        if match is not None:
            number = int(match[2])
            first[match[1]] = min(number, first.get(match[1], number))
    return {name: name if match is None else
            f'{match[1]}{int(match[2]) - first[match[1]]}{match[3]}'
            for name, match in found.items()}


def group_text(head: str, layers: Sequence[str], shown: str) -> str:
    digest = hashlib.sha256('\n'.join(layers).encode()).hexdigest()[:32]
    return f'{head} {len(layers)} layers ({shown}) {digest}'


def layout_text(device_type: str, groups: Sequence[str]) -> str:
    """One text of the groups' texts; at most TEXT_BYTES_MAX."""
    head = [f'kvtier-layout-1 {device_type}']
    if device_type == 'cuda' and torch.version.hip:
        shuffled = os.environ.get('VLLM_ROCM_SHUFFLE_KV_CACHE_LAYOUT', '0')
        head.append(f'hip shuffled={shuffled}')
    text = '; '.join([' '.join(head), *groups])
    if len(text.encode()) <= TEXT_BYTES_MAX:
        return text
    return f'{head[0]}; {len(groups)} groups, {hashlib.sha256(text.encode()).hexdigest()}'
