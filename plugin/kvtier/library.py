"""libkvtier through ctypes: client/kvtier.h in Python's words, no more.

ctypes releases the GIL around every call. One call moves a whole run of blocks: nothing here
loops over blocks. Failures are negative errnos, as in C; only opening raises, with the sentence
that the library gave. A client belongs to one process, and may be used by several threads.
"""
from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from kvtier import header
from kvtier.device import Region
from kvtier.header import (FETCH_KEYS_MAX, GROUP_KINDS, HASH_BYTES, HINT_END, HINT_KEYS_MAX,
                           HINT_RETAIN, HINT_TOUCH, LOOKUP_KEYS_MAX, SCHEDULER, TAG_BYTES, WORKER,
                           Fetch, Found)

__all__ = ['Client', 'Completion', 'Device', 'FETCH_KEYS_MAX', 'Fetch', 'Found', 'Group', 'HASH_BYTES', 'HINT_END', 'HINT_KEYS_MAX',
           'HINT_RETAIN', 'HINT_TOUCH', 'LOOKUP_KEYS_MAX', 'LibraryError', 'Options', 'SCHEDULER',
           'SOCKET_DEFAULT', 'Source', 'TAG_BYTES', 'UNDECIDED', 'WORKER', 'block_array', 'error_text', 'load_library',
           'route_keys', 'version']

SOCKET_DEFAULT = '/run/kvtier/t/default/kv.sock'
_TEXT_BYTES = 256
_STATS_BYTES = 256 << 10
_COMPLETIONS_MAX = 32
_SONAME = 'libkvtier.so.0'
UNDECIDED = 0            # the state of a job that goes on, but has let go of the engine's blocks


@dataclass
class Group:
    """One KV cache group; planes are (address, stride in bytes, bytes), empty for a scheduler."""
    kind: str
    tokens_per_block: int
    payload_bytes: int
    window_tokens: int = 0
    segments_count: int = 1
    blocks_count: int = 0
    planes: Sequence[tuple[int, int, int]] = ()


@dataclass
class Device:
    """Memory of a device that is lent to the daemon; see struct kvtier_device."""
    name: str
    regions: Sequence[Region]
    word_address: int = 0


@dataclass
class Options:
    """See struct kvtier_options. `identity` has keys of IDENTITY_FIELDS; missing ones are empty."""
    engine: str
    roles: int
    identity: dict[str, str]
    groups: Sequence[Group]
    socket: str = ''
    shard: int = 0
    world: int = 1
    connect_us_max: int = 1_000_000
    device: Device | None = None      # where the planes lie; None: in host memory


@dataclass
class Completion:
    """A job's end, or, with another one for the same job, that it has become quiescent: after its
    end, or, where blocks go through a staging area, before it (`state` is UNDECIDED then)."""
    job: int
    is_store: bool
    state: int
    quiesced: bool
    count: int
    good_count: int
    results: list[int] = field(default_factory=list)   # empty when all are good


@dataclass
class Source:
    """Of one of both: where another node's daemon is, or a ticket of it."""
    peer: str = ''
    ticket: str = ''
    is_stream: bool = False     # also what it gets before the deadline
    second: str = ''            # a peer that is asked for what the first does not give


class LibraryError(OSError):
    """libkvtier is not there, or refused to open a client; the text says why."""


def _library_paths() -> list[str]:
    own = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'libkvtier.so')
    named = os.environ.get('KVTIER_LIBRARY')
    return [named] if named else [own, _SONAME]


_loaded: ctypes.CDLL | None = None


def load_library() -> ctypes.CDLL:
    """The library, found once: $KVTIER_LIBRARY, else beside this package, else the system's."""
    global _loaded
    if _loaded is not None:
        return _loaded
    reasons = []
    for path in _library_paths():
        try:
            library = ctypes.CDLL(path)
            break
        except OSError as error:
            reasons.append(str(error))
    else:
        raise LibraryError('libkvtier cannot be loaded: ' + '; '.join(reasons))
    _loaded = header.declare(library)
    return _loaded


def version() -> str:
    """The library's version, and what it was built with."""
    return load_library().kvtier_version().decode()


def error_text(result: int) -> str:
    return load_library().kvtier_strerror(result).decode()


def _groups_of(groups: Sequence[Group]) -> tuple[ctypes.Array, list]:
    kept, array = [], (header.Group * len(groups))()
    for own, group in zip(array, groups):
        planes = (header.Plane * len(group.planes))(
            *[header.Plane(*plane) for plane in group.planes])
        kept.append(planes)
        own.kind = GROUP_KINDS[group.kind]
        own.tokens_per_block, own.window_tokens = group.tokens_per_block, group.window_tokens
        own.segments_count, own.payload_bytes = group.segments_count, group.payload_bytes
        own.blocks_count, own.planes_count = group.blocks_count, len(group.planes)
        own.planes = planes if len(group.planes) > 0 else None
    return array, kept


def _device_of(device: Device | None) -> header.Device | None:
    if device is None:
        return None
    regions = (header.Region * len(device.regions))(
        *[header.Region(one.address, one.size, header.REGION_HANDLE, one.handle_offset, one.handle)
          for one in device.regions])
    return header.Device(device.name.encode(), len(regions), regions, device.word_address)


def _lookup_of(sections: Sequence[tuple[int, int, bytes]], space: int, tag: bytes | None,
               lease_us: int,
               cost: tuple[float, float, float]) -> tuple[header.Lookup, ctypes.Array]:
    """The C structure, and what has to live as long as it."""
    keys = (header.Keys * len(sections))(
        *[header.Keys(group, first, len(hashes) // HASH_BYTES, hashes)
          for group, first, hashes in sections])
    return header.Lookup(space, len(sections), keys, tag, lease_us, *cost), keys


class Client:
    """One client of kvtierd. Usable also while the daemon is away: everything is a miss then."""

    def __init__(self, options: Options):
        """LibraryError when waiting would not mend it: bad options, a refused registration."""
        self._library = load_library()
        self._client = ctypes.c_void_p()
        groups, planes = _groups_of(options.groups)
        identity = header.Identity(
            **{name: value.encode() for name, value in options.identity.items()})
        own = header.Options(socket=options.socket.encode() or None, engine=options.engine.encode(),
                       roles=options.roles, shard=options.shard, world=options.world,
                       identity=identity, groups_count=len(groups), groups=groups,
                       connect_us_max=options.connect_us_max)
        device = _device_of(options.device)
        if device is not None:
            own.device = ctypes.pointer(device)
        text = ctypes.create_string_buffer(_TEXT_BYTES)
        result = self._library.kvtier_open(ctypes.byref(self._client), ctypes.byref(own), text,
                                           _TEXT_BYTES)
        del planes   # the library has its own copy
        if result < 0:
            self._client = ctypes.c_void_p()
            raise LibraryError(-result, text.value.decode(errors='replace'))
        self._completions = (header.Completion * _COMPLETIONS_MAX)()
        self.seconds = 0.0   # spent in the library by lookups, transfers and waits

    def _run(self, function, *arguments) -> int:
        began = time.perf_counter()
        result = function(self._client, *arguments)
        self.seconds += time.perf_counter() - began
        return result

    def close(self) -> None:
        self._library.kvtier_close(self._client)
        self._client = ctypes.c_void_p()

    def is_connected(self) -> bool:
        return self._library.kvtier_is_connected(self._client) == 1

    def connect(self, wait_us_max: int) -> tuple[int, str]:
        """(0, ''), or why not."""
        text = ctypes.create_string_buffer(_TEXT_BYTES)
        result = self._library.kvtier_connect(self._client, wait_us_max, text, _TEXT_BYTES)
        return result, text.value.decode(errors='replace')

    def space_open(self, adapter_digest: bytes, wait_us_max: int) -> tuple[int, int]:
        """(result, the client's number of the adapter's space)."""
        space = ctypes.c_uint32()
        result = self._library.kvtier_space_open(self._client, adapter_digest, wait_us_max,
                                                 ctypes.byref(space))
        return result, space.value

    def lookup(self, sections: Sequence[tuple[int, int, bytes]], wait_us_max: int, *,
               space: int = 0, tag: bytes | None = None, lease_us: int = 0,
               cost: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> tuple[int, Found]:
        """sections: (group, first position, hashes one behind the other)."""
        lookup, keys = _lookup_of(sections, space, tag, lease_us, cost)
        found = Found()
        result = self._run(self._library.kvtier_lookup, ctypes.byref(lookup), wait_us_max,
                           ctypes.byref(found))
        del keys
        return result, found

    def look_up_each(self, sections: Sequence[tuple[int, int, bytes]], wait_us_max: int, *,
                     tag: bytes | None = None, lease_us: int = 0) -> tuple[int, Found, bytes]:
        """lookup(), and a byte a key in the order given: 1 where it is there, usable or not."""
        count = sum(len(hashes) for _, _, hashes in sections) // HASH_BYTES
        presence = ctypes.create_string_buffer(count)
        found = Found(present=ctypes.addressof(presence), present_max=count)
        lookup, keys = _lookup_of(sections, 0, tag, lease_us, (0.0, 0.0, 0.0))
        result = self._run(self._library.kvtier_lookup, ctypes.byref(lookup), wait_us_max,
                           ctypes.byref(found))
        del keys
        return result, found, presence.raw

    def fetch(self, sections: Sequence[tuple[int, int, bytes]], source: Source, keep_us: int,
              wait_us_max: int, *, space: int = 0, tag: bytes | None = None, lease_us: int = 0,
              cost: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> tuple[int, Fetch]:
        """The daemon brings these blocks from another node. At most FETCH_KEYS_MAX."""
        lookup, keys = _lookup_of(sections, space, tag, lease_us, cost)
        own = header.Source(source.peer.encode() or None, source.ticket.encode() or None,
                            header.STREAM if source.is_stream else header.PRESENT,
                            source.second.encode() or None)
        fetch = Fetch()
        result = self._run(self._library.kvtier_fetch, ctypes.byref(lookup), ctypes.byref(own),
                           keep_us, wait_us_max, ctypes.byref(fetch))
        del keys
        return result, fetch

    def fetch_wait(self, fetch: Fetch, wait_us_max: int) -> tuple[int, Found]:
        """As lookup(), with what is on its way. -EAGAIN: the other node has not answered yet."""
        found = Found()
        result = self._run(self._library.kvtier_fetch_wait, ctypes.byref(fetch), wait_us_max,
                           ctypes.byref(found))
        return result, found

    def fetch_end(self, fetch: Fetch) -> None:
        self._library.kvtier_fetch_end(self._client, ctypes.byref(fetch))

    def ticket(self, sections: Sequence[tuple[int, int, bytes]], keep_us: int, wait_us_max: int, *,
               space: int = 0) -> tuple[int, str]:
        """(result, what another node fetches these blocks by). At most FETCH_KEYS_MAX."""
        lookup, keys = _lookup_of(sections, space, None, 0, (0.0, 0.0, 0.0))
        text = ctypes.create_string_buffer(header.TICKET_BYTES)
        result = self._run(self._library.kvtier_ticket, ctypes.byref(lookup), keep_us, wait_us_max,
                           text)
        del keys
        return result, text.value.decode()

    def lease_release(self, lease: int) -> None:
        self._library.kvtier_lease_release(self._client, lease)

    def _begin(self, call, blocks, space, group, first_position, parent, tag, lease, deadline_us,
               gate_value):
        array = ctypes.cast(blocks.ctypes.data, ctypes.POINTER(header.Block))
        transfer = header.Transfer(space, group, first_position, len(blocks), array, parent, tag,
                                   lease, deadline_us, None, gate_value)
        job = ctypes.c_uint64()
        result = self._run(call, ctypes.byref(transfer), ctypes.byref(job))
        return result, job.value

    def store(self, blocks, *, space: int, group: int, first_position: int, parent: bytes | None,
              deadline_us: int, tag: bytes | None = None, gate_value: int = 0) -> tuple[int, int]:
        """(result, job). blocks: a numpy array as block_array() makes it; copied. gate_value: of a
        client with a device, what its word reaches first; 0: nothing is waited for."""
        return self._begin(self._library.kvtier_store, blocks, space, group, first_position, parent,
                           tag, 0, deadline_us, gate_value)

    def load(self, blocks, *, space: int, group: int, first_position: int, lease: int,
             deadline_us: int, tag: bytes | None = None, gate_value: int = 0) -> tuple[int, int]:
        return self._begin(self._library.kvtier_load, blocks, space, group, first_position, None,
                           tag, lease, deadline_us, gate_value)

    def cancel(self, job: int) -> None:
        self._library.kvtier_cancel(self._client, job)

    def wait(self, wait_us_max: int) -> bool:
        """True when poll() has something; False after the bound."""
        return self._run(self._library.kvtier_wait, wait_us_max) == 1

    def poll(self) -> list[Completion]:
        """Takes what has completed, at most a few dozen at a time."""
        count = self._run(self._library.kvtier_poll, self._completions, _COMPLETIONS_MAX)
        return [Completion(own.job, own.is_store != 0, own.state, own.quiesced != 0, own.count,
                           own.good_count,
                           own.results[:own.count] if own.good_count < own.count and own.results
                           else [])
                for own in self._completions[:max(count, 0)]]

    def hint(self, hint: int, group: int, hashes: bytes, wait_us_max: int, *, space: int = 0,
             retain_us: int = 0) -> int:
        """At most HINT_KEYS_MAX hashes. A negative errno, or what came of it."""
        keys = header.Keys(group, 0, len(hashes) // HASH_BYTES, hashes)
        lease = ctypes.c_uint64()
        return self._library.kvtier_hint(self._client, hint, space, ctypes.byref(keys), retain_us,
                                         wait_us_max, ctypes.byref(lease))

    def forget(self, space: int, wait_us_max: int) -> int:
        return self._library.kvtier_forget(self._client, space, wait_us_max)

    def stats(self, wait_us_max: int) -> str:
        """The daemon's status as JSON; '' when it does not answer in time."""
        text = ctypes.create_string_buffer(_STATS_BYTES)
        result = self._library.kvtier_stats(self._client, text, _STATS_BYTES, wait_us_max)
        return text.value.decode() if result == 0 else ''

    def block_read(self, group: int, engine_block: int, payload_bytes: int) -> bytes:
        """An engine block's payload as the library gathers it; for the canary at start."""
        buffer = ctypes.create_string_buffer(payload_bytes)
        result = self._library.kvtier_block_read(self._client, group, engine_block, buffer,
                                                 payload_bytes)
        if result < 0:
            raise LibraryError(-result, error_text(result))
        return buffer.raw

    def block_write(self, group: int, engine_block: int, payload: bytes) -> None:
        result = self._library.kvtier_block_write(self._client, group, engine_block, payload,
                                                  len(payload))
        if result < 0:
            raise LibraryError(-result, error_text(result))


def block_array(hashes: bytes, engine_blocks, route_keys=None):
    """
    The array of struct kvtier_block that store() and load() take: one row a block.

    hashes: 32 bytes each; engine_blocks: numbers, as many; route_keys: as many, or None.
    """
    import numpy
    count = len(hashes) // HASH_BYTES
    blocks = numpy.zeros(count, dtype=[('hash', 'V32'), ('route_key', '<u8'),
                                       ('engine_block', '<u4'), ('unused', '<u4')])
    blocks['hash'] = numpy.frombuffer(hashes, dtype='V32', count=count)
    blocks['engine_block'] = engine_blocks
    if route_keys is not None:
        blocks['route_key'] = route_keys
    return blocks


def route_keys(parent: int, tokens, tokens_per_block: int,
               extras: Sequence[Sequence[bytes]] | None = None):
    """
    Route keys of len(tokens) / tokens_per_block blocks, as a numpy array of uint64.

    tokens: a contiguous numpy array of uint32; extras: for each block, what is hashed behind its
    tokens (adapter name, cache salt, media ids), or None when no block has any.
    """
    import numpy
    count = len(tokens) // tokens_per_block
    keys = numpy.empty(count, dtype=numpy.uint64)
    flat, ends = None, None
    if extras is not None:
        every = [one for block in extras for one in block]
        flat = (header.Extra * len(every))(*[header.Extra(one, len(one)) for one in every])
        ends = numpy.cumsum([len(block) for block in extras], dtype=numpy.uint32)
    result = load_library().kvtier_route_keys(
        parent, tokens.ctypes.data, tokens_per_block, count, flat,
        None if ends is None else ends.ctypes.data, keys.ctypes.data)
    if result < 0:
        raise LibraryError(-result, error_text(result))
    return keys
