"""Instead of a model: KV that follows from all tokens before it, laid out as vLLM does.

Needs torch and vllm; harness.py says what happens where they are missing.
"""
from __future__ import annotations

import hashlib
import json
import os
import struct

import numpy
import torch
from vllm.v1.kv_cache_interface import (FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec,
                                        KVCacheTensor)

BLOCK = 16          # tokens
LAYERS, HEADS, HEAD_SIZE = 2, 2, 8
LAYER_NAMES = [f'model.layers.{layer}.self_attn.attn' for layer in range(LAYERS)]
VOCABULARY = 4096
LENGTH_MAX = 1024
ROW = LAYERS * HEADS * 2 * HEAD_SIZE        # four-byte elements of one token's KV
PAYLOAD_BYTES = BLOCK * ROW * 4
IS_NEW_LAYOUT = 'layers' in KVCacheTensor.__annotations__


def model_folder(parent: str) -> str:
    """A model of which only config and (tiny) weights are there; nothing ever loads it."""
    folder = os.path.join(parent, 'model')
    os.makedirs(folder)
    config = {'architectures': ['LlamaForCausalLM'], 'model_type': 'llama', 'hidden_act': 'silu',
              'num_hidden_layers': LAYERS, 'hidden_size': 32, 'intermediate_size': 64,
              'num_attention_heads': HEADS, 'num_key_value_heads': HEADS, 'head_dim': 16,
              'vocab_size': VOCABULARY, 'max_position_embeddings': LENGTH_MAX,
              'rms_norm_eps': 1e-5, 'torch_dtype': 'float32'}
    with open(os.path.join(folder, 'config.json'), 'w', encoding='utf-8') as file:
        json.dump(config, file)
    header = b'{"weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    with open(os.path.join(folder, 'model.safetensors'), 'wb') as file:
        file.write(struct.pack('<Q', len(header)) + header + bytes(4))
    return folder


def adapter_folder(parent: str, name: str) -> str:
    """A LoRA adapter whose content follows from its name."""
    folder = os.path.join(parent, name)
    os.makedirs(folder)
    with open(os.path.join(folder, 'adapter_config.json'), 'w', encoding='utf-8') as file:
        json.dump({'r': 1, 'lora_alpha': 1, 'target_modules': ['q_proj'], 'name': name}, file)
    header = b'{"weight":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}'
    with open(os.path.join(folder, 'adapter_model.safetensors'), 'wb') as file:
        file.write(struct.pack('<Q', len(header)) + header + name.encode().ljust(8)[:8])
    return folder


def prompt(seed: int, tokens: int) -> list[int]:
    """Token ids; the same for the same arguments, and a longer prompt begins like a shorter one."""
    return [int.from_bytes(hashlib.blake2b(f'{seed} {i}'.encode(), digest_size=4).digest(),
                           'little') % VOCABULARY for i in range(tokens)]


class Chain:
    """What the model makes of one request's tokens: a state a token, and bytes of each state."""

    def __init__(self, seed: str):
        self._seed = seed.encode()
        self.tokens: list[int] = []
        self._states: list[bytes] = []

    def extend(self, tokens: list[int]) -> None:
        """`tokens`: all of them; those known already must be the same."""
        assert tokens[:len(self.tokens)] == self.tokens, 'a request\'s tokens have changed'
        for token in tokens[len(self.tokens):]:
            before = self._states[-1] if self._states else self._seed
            self._states.append(hashlib.blake2b(before + token.to_bytes(4, 'little'),
                                                digest_size=16).digest())
            self.tokens.append(token)

    def rows(self, first: int, end: int) -> numpy.ndarray:
        """KV of tokens [first, end), as (tokens, layers, heads, 2 * head size)."""
        data = b''.join(hashlib.shake_128(state).digest(ROW * 4)
                        for state in self._states[first:end])
        return numpy.frombuffer(data, numpy.int32).reshape(-1, LAYERS, HEADS, 2 * HEAD_SIZE)

    def next_token(self, position: int) -> int:
        """What is sampled behind the token at `position`."""
        return int.from_bytes(self._states[position][:4], 'little') % VOCABULARY


def cold_tokens(tokens: list[int], count: int, seed: str = '') -> list[int]:
    """What an engine generates that has no cache at all."""
    chain = Chain(seed)
    out: list[int] = []
    for _ in range(count):
        chain.extend(tokens + out)
        out.append(chain.next_token(len(tokens) + len(out) - 1))
    return out


class Cache:
    """The KV cache as this vLLM version lays it out, and its bytes as integers."""

    def __init__(self, blocks: int):
        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=HEADS, head_size=HEAD_SIZE,
                                 dtype=torch.float32)
        names = list(LAYER_NAMES)
        page = spec.page_size_bytes
        if IS_NEW_LAYOUT:
            size = page * blocks * LAYERS
            tensors = [KVCacheTensor(size=size, layers=names, layer_stride=page * blocks,
                                     block_stride=page)]
            storage = torch.zeros(size // 4, dtype=torch.float32)
            views = storage.view(LAYERS, blocks, HEADS, BLOCK, 2 * HEAD_SIZE)
        else:
            tensors = [KVCacheTensor(size=page * blocks, shared_by=[name]) for name in names]
            views = [torch.zeros(2, blocks, HEADS, BLOCK, HEAD_SIZE) for _ in names]
        self.tensors = dict(zip(names, views))
        self.numbers = [view.view(torch.int32).numpy() for view in self.tensors.values()]
        self.config = KVCacheConfig(num_blocks=blocks, kv_cache_tensors=tensors,
                                    kv_cache_groups=[KVCacheGroupSpec(names, spec)])

    def read(self, block: int) -> numpy.ndarray:
        """The rows of a block's tokens."""
        layers = []
        for numbers in self.numbers:
            layer = numbers[block] if IS_NEW_LAYOUT else numpy.concatenate(numbers[:, block],
                                                                           axis=-1)
            layers.append(layer)
        return numpy.stack(layers).transpose(2, 0, 1, 3)

    def write(self, block: int, offset: int, rows: numpy.ndarray) -> None:
        """Rows of consecutive tokens of one block."""
        for layer, numbers in enumerate(self.numbers):
            own = rows[:, layer].transpose(1, 0, 2)
            end = offset + len(rows)
            if IS_NEW_LAYOUT:
                numbers[block, :, offset:end] = own
            else:
                numbers[0, block, :, offset:end] = own[..., :HEAD_SIZE]
                numbers[1, block, :, offset:end] = own[..., HEAD_SIZE:]


def payload_of(rows: numpy.ndarray) -> bytes:
    """What is stored of a block with these rows: layer by layer, as it lies in memory."""
    layers = rows.transpose(1, 2, 0, 3)
    if IS_NEW_LAYOUT:
        return layers.tobytes()
    return b''.join(half.tobytes() for layer in layers
                    for half in (layer[..., :HEAD_SIZE], layer[..., HEAD_SIZE:]))
