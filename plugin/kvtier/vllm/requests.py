"""What the scheduler's side remembers of a request, and the names of its blocks."""
from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy

from kvtier import library
from kvtier.library import Found
from kvtier.tables import CONTROLS
from kvtier.trace import trace_id
from kvtier.vllm.messages import Blocks, Load

CONTROL_NAMES = tuple(name for name, _, _ in CONTROLS)


class ControlError(ValueError):
    """kv_transfer_params['kvtier'] is not right; the text says what would be."""


@dataclass
class Controls:
    """What a request asks for, in kv_transfer_params: {"kvtier": {...}}."""
    store: bool = True
    max_load_tokens: int | None = None
    retain_seconds: float = 0.0
    end_of_session: bool = False


def controls_of(request: Any) -> Controls:
    params = getattr(request, 'kv_transfer_params', None) or {}
    given = params.get('kvtier') if isinstance(params, dict) else None
    if given is None:
        return Controls()
    if not isinstance(given, dict):
        raise ControlError(f'kv_transfer_params: kvtier is {given!r}; right is an object')
    unknown = sorted(set(given) - set(CONTROL_NAMES))
    if unknown:
        raise ControlError(f'kv_transfer_params: kvtier has {unknown[0]!r}; known are '
                           + ', '.join(CONTROL_NAMES))
    controls = Controls()
    for name in ('store', 'end_of_session'):
        value = given.get(name, getattr(controls, name))
        if not isinstance(value, bool):
            raise ControlError(f'kv_transfer_params: kvtier.{name} is {value!r}; right is a bool')
        setattr(controls, name, value)
    for name in ('max_load_tokens', 'retain_seconds'):
        value = given.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
            raise ControlError(f'kv_transfer_params: kvtier.{name} is {value!r}; right is a '
                               'number, 0 or more')
        setattr(controls, name, int(value) if name == 'max_load_tokens' else float(value))
    return controls


@dataclass
class Answer:
    """What a lookup said, kept until the request is scheduled or the lease is half over."""
    local_tokens: int
    tokens: int             # loadable beyond local_tokens
    is_async: bool
    lease: int
    until: float
    found: Found | None = None
    load_us_max: int = 0    # its load's deadline; 0: by the settings


@dataclass
class Handed:
    """Blocks that another node hands over."""
    fetch: library.Fetch
    local_tokens: int       # it brings what is behind these
    until: float            # the daemon gives up then
    answer_until: float     # the other node is to have said by then what it gives
    is_stream_of_peer: bool # the other node computes at this moment
    was_asked: bool = False


@dataclass
class Tracked:
    """One request, from its arrival to its end. The scheduler's thread only."""
    request: Any
    tag: bytes
    controls: Controls
    adapter: bytes | None = None
    source: library.Source | None = None    # where its blocks are, until that was asked
    handed: Handed | None = None
    is_refused: bool = False     # its hashes do not cover its content
    may_load: bool = True        # False for good once a load has failed
    answer: Answer | None = None
    load: int | None = None      # number of the load under way
    is_async: bool = False       # what the last answer said
    load_from: int = 0           # tokens before it
    local_tokens: int = 0
    loaded_tokens: int = 0
    cpu_tokens: int = 0
    nvme_tokens: int = 0
    peer_tokens: int = 0
    restore_seconds: float = 0.0
    blocks: list[list[int]] = field(default_factory=list)    # of each group
    offered: list[int] = field(default_factory=list)         # blocks of each group, to the store
    route_keys: numpy.ndarray = field(                       # of the blocks offered so far
        default_factory=lambda: numpy.empty(0, dtype=numpy.uint64))


@dataclass
class UnderWay:
    """A load until every rank has reported its end."""
    tracked: Tracked
    load: Load
    ranks_over: int = 0
    seconds: float = 0.0
    has_failed: bool = False


def tag_of(request_id: str, trace_headers: Any = None) -> bytes:
    """The 16 bytes that the request carries through every call: its W3C trace id where vLLM gives it,
    which it does when it traces itself (--otlp-traces-endpoint), else a digest of its id."""
    trace = trace_id(trace_headers)
    return trace if trace is not None else hashlib.blake2b(request_id.encode(), digest_size=library.TAG_BYTES).digest()


class BlockNames:
    """Hashes and route keys of a request's blocks, group by group."""

    def __init__(self, tokens_per_block: list[int], tokens_per_hash: int):
        self.tokens_per_block = tokens_per_block
        self._hashes_per_block = [tokens // tokens_per_hash for tokens in tokens_per_block]
        self._tokens_per_hash = tokens_per_hash

    def known(self, request: Any, group: int) -> int:
        """Blocks of the group whose hash the engine has computed."""
        return len(request.block_hashes) // self._hashes_per_block[group]

    def hashes(self, request: Any, group: int, first: int, end: int) -> bytes:
        """Of blocks [first, end), 32 bytes each. A coarser block goes by its last hash."""
        step = self._hashes_per_block[group]
        return b''.join(request.block_hashes[first * step + step - 1:end * step:step])

    def each(self, request: Any, group: int, first: int, end: int) -> list[bytes]:
        step = self._hashes_per_block[group]
        return request.block_hashes[first * step + step - 1:end * step:step]

    def sections(self, request: Any, first: int, end: int) -> list[tuple[int, int, bytes]]:
        """Of each group the first position and the hashes of tokens [first, end)."""
        return [(group, first // size, self.hashes(request, group, first // size, end // size))
                for group, size in enumerate(self.tokens_per_block)]

    def to_load(self, request: Any, group: int, first: int, end: int,
                engine_blocks: list[int]) -> Blocks | None:
        """Blocks [first, end) and where the engine wants them; None: it wants none of them."""
        # Blocks before a window are not there (0): they hold nothing that is looked at again.
        while first < end and engine_blocks[first] == 0:
            first += 1
        if first == end:
            return None
        return Blocks(group, first, self.hashes(request, group, first, end),
                      numpy.array(engine_blocks[first:end], dtype='<u4').tobytes())

    def parent(self, request: Any, group: int, first: int) -> bytes | None:
        return None if first == 0 else self.hashes(request, group, first - 1, first)

    def route_keys(self, tracked: Tracked, end: int) -> numpy.ndarray:
        """Of blocks [0, end) of the first group; computed once, one call for what is new."""
        request, size, known = tracked.request, self.tokens_per_block[0], tracked.route_keys
        done = len(known)
        if end > done:
            tokens = numpy.array(request.all_token_ids[done * size:end * size], dtype=numpy.uint32)
            parent = size if done == 0 else int(known[done - 1])
            fresh = library.route_keys(parent, tokens, size, _extras(request, size, done, end))
            known = tracked.route_keys = numpy.concatenate((known, fresh))
        return known[:end]


def _extras(request: Any, size: int, first: int, end: int) -> list[list[bytes]] | None:
    """Adapter name (each block), cache salt (the first), media ids (where they lie)."""
    adapter = getattr(request, 'lora_request', None)
    salt = getattr(request, 'cache_salt', None)
    media = getattr(request, 'mm_features', None) or ()
    if adapter is None and not salt and not media:
        return None
    extras: list[list[bytes]] = [[] for _ in range(first, end)]
    if adapter is not None:
        name = adapter.lora_name.encode()
        for own in extras:
            own.append(name)
    if salt and first == 0 and extras:
        extras[0].append(salt.encode())
    for item in media:
        begin = item.mm_position.offset // size
        over = -(-(item.mm_position.offset + item.mm_position.length) // size)
        for position in range(max(begin, first), min(over, end)):
            extras[position - first].append(item.identifier.encode())
    return extras
