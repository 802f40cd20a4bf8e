"""How the scripted daemon serves each kind of frame. Runs on its thread, with its lock."""
from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import socket
import struct
from collections import Counter

import scripted_slots as slots
from scripted_slots import (HEADER_BYTES, Batch, Group, Lookup, Slot, frames, slot_header,
                            usable_tokens)

ARENA_BYTES = 64 << 20
WINDOW_BYTES = 1 << 20
UNITS_OFFSET = 4096
CANARY_OFFSET = 64
CANARY_BYTES = 64
# struct frame_store, frame_store_item and frame_load of proto/frames.h
STORE_HEAD_BYTES, STORE_ITEM_BYTES, LOAD_HEAD_BYTES = 104, 48, 72


class Connection:
    """One client's connection, the daemon's side. The daemon's thread only."""

    def __init__(self, own: socket.socket):
        self.socket = own
        self.groups: list[Group] = []
        self.fingerprint = bytes(16)
        self.space = 0
        self.token = 0
        self.window: mmap.mmap | None = None
        self.window_fd = -1
        self.batches: dict[int, Batch] = {}
        self.lookup: tuple[int, Lookup] | None = None
        self.is_data = False
        self.is_open = True

    def close(self) -> None:
        self.is_open = False
        self.socket.close()
        if self.window is not None:
            self.window.close()
            os.close(self.window_fd)
            self.window = None


class Calls:
    """Answers frames out of what is kept; which of them, and when, ScriptedDaemon decides."""

    def __init__(self) -> None:
        self.lies = self.wants_nothing = False
        self.ranks_missing = 0
        self.restore_us = 100            # what a lookup says of its usable tokens
        self.worth_tokens: int | None = None
        self.tier = slots.TIER_CPU
        self.lookups: list[Lookup] = []
        self.registers: list[dict[int, bytes]] = []
        self.hints: list[tuple[int, int, list[bytes]]] = []     # kind, space, hashes
        self.adapters: dict[bytes, int] = {}
        self.leases: dict[int, bytes] = {}                      # open ones: the lookup's tag
        self.leases_most: Counter[bytes] = Counter()            # open at once, by tag
        self.routes: dict[bytes, tuple[int, bytes, int]] = {}   # route key, parent, position
        self.released_bad = 0
        self.fails: set[bytes] | None = set()
        self.held: list[tuple[Connection, frames.Frame]] = []
        self.boot_id = 1000
        self.blocks: dict[tuple[int, int, bytes], Slot] = {}
        self.spaces: dict[bytes, int] = {}
        self.fingerprints: dict[int, bytes] = {}
        self._by_token: dict[int, Connection] = {}
        self._connections: list[Connection] = []
        self._free: dict[int, list[Slot]] = {}
        self._end = self._lease = 0
        self._arena_fd = os.memfd_create('arena', os.MFD_CLOEXEC)
        os.ftruncate(self._arena_fd, ARENA_BYTES)
        self.arena = mmap.mmap(self._arena_fd, ARENA_BYTES)
        self.arena[CANARY_OFFSET:CANARY_OFFSET + CANARY_BYTES] = os.urandom(CANARY_BYTES)

    def serve(self, connection: Connection, frame: frames.Frame) -> None:
        name = _SERVE.get(frame.type)
        if name is None:
            raise AssertionError(f'the scripted daemon does not know frames of type {frame.type}')
        getattr(self, name)(connection, frame)

    def _close(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
        self._by_token.pop(connection.token, None)
        connection.close()

    def _send(self, connection: Connection, kind: int, body: bytes = b'', request: int = 0,
              result: int = 0, fds: tuple[int, ...] = ()) -> None:
        header = frames.HEADER.pack(frames.MAGIC, kind, 0, frames.HEADER.size + len(body), result,
                                    request, self.boot_id)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f'{len(fds)}i', *fds))
        ancillary = [rights] if fds else []
        try:
            connection.socket.sendmsg([header + body], ancillary, socket.MSG_NOSIGNAL)
        except (ConnectionError, BlockingIOError):
            self._close(connection)

    # ---- a session ----

    def _hello(self, connection: Connection, frame: frames.Frame) -> None:
        connection.is_data = frame.fields('IIQII')[4] == frames.DATA
        self._send(connection, frames.HELLO_REPLY, struct.pack(
            '<IIQQQII64s', 1, 65536, 0, WINDOW_BYTES, 3_600_000_000, 16, 64, b'default'),
            frame.request)

    def _register(self, connection: Connection, frame: frames.Frame) -> None:
        layout = struct.Struct('<64sIHHHHI')
        _, _, _, _, groups, fields, _ = layout.unpack_from(frame.body)
        at = layout.size
        connection.groups = []
        for _ in range(groups):
            kind, tokens, payload, segments, window = struct.unpack_from('<IIQII', frame.body, at)
            connection.groups.append(Group(slots.KINDS[kind], tokens, payload, segments, window))
            at += 24
        named = {}
        for _ in range(fields):
            number, size = struct.unpack_from('<HH', frame.body, at)
            named[number] = frame.body[at + 4:at + 4 + size]
            at += 4 + size
        self.registers.append(named)
        connection.fingerprint = hashlib.sha256(repr(sorted(named.items())).encode()).digest()[:16]
        connection.space = self._space_of(connection.fingerprint)
        connection.token = int.from_bytes(os.urandom(7), 'little') + 1
        self._by_token[connection.token] = connection
        self._send(connection, frames.REGISTERED, struct.pack(
            '<16sQII', connection.fingerprint, connection.token, connection.space,
            self.ranks_missing), frame.request)

    def _space_of(self, fingerprint: bytes) -> int:
        number = self.spaces.setdefault(fingerprint, len(self.spaces) + 5)
        self.fingerprints[number] = fingerprint
        return number

    def _space(self, connection: Connection, frame: frames.Frame) -> None:
        _, _, adapter = frame.fields('II32s')
        fingerprint = hashlib.sha256(connection.fingerprint + adapter).digest()[:16]
        space = self.adapters[adapter] = self._space_of(fingerprint)
        self._send(connection, frames.SPACE_REPLY, struct.pack('<16sII', fingerprint, space, 0),
                   frame.request)

    def _attach(self, connection: Connection, frame: frames.Frame) -> None:
        control = self._by_token.get(frame.fields('Q')[0])
        if control is None:
            self._send(connection, frames.ERROR, b'no such engine', frame.request, -errno.EINVAL)
            self._close(connection)
            return
        connection.groups = control.groups
        fd = connection.window_fd = os.memfd_create('window',
                                                    os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, WINDOW_BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS,
                    fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        connection.window = mmap.mmap(fd, WINDOW_BYTES)
        readable = os.open(f'/proc/self/fd/{self._arena_fd}', os.O_RDONLY | os.O_CLOEXEC)
        crc = frames.crc32c(self.arena[CANARY_OFFSET:CANARY_OFFSET + CANARY_BYTES])
        self._send(connection, frames.ATTACHED, struct.pack(
            '<QQQQII', ARENA_BYTES, UNITS_OFFSET, CANARY_OFFSET, WINDOW_BYTES, crc, 0),
            frame.request, fds=(readable, fd))
        os.close(readable)

    def _canary(self, connection: Connection, frame: frames.Frame) -> None:
        assert connection.window is not None
        is_right = frames.crc32c(connection.window[:CANARY_BYTES]) == frame.fields('I')[0]
        self._send(connection, frames.DONE, b'', frame.request, 0 if is_right else -errno.EPERM)

    # ---- lookups and leases ----

    def _look_up(self, connection: Connection, frame: frames.Frame) -> None:
        tag, space, sections, lease_us, a, b, c = frame.fields('16sIIQddd')
        if connection.lookup is None or connection.lookup[0] != frame.request:
            connection.lookup = (frame.request, Lookup(space, tag, {}, {}, lease_us, (a, b, c)))
        lookup, at = connection.lookup[1], 56
        for _ in range(sections):
            first, group, count = struct.unpack_from('<IHH', frame.body, at)
            lookup.first.setdefault(group, first)
            names = lookup.hashes.setdefault(group, [])
            names += [frame.body[at + 8 + 32 * i:at + 40 + 32 * i] for i in range(count)]
            at += 8 + 32 * count
        if frame.flags & frames.LAST:
            connection.lookup = None
            self._answer(connection, lookup, frame.request)

    def _answer(self, connection: Connection, lookup: Lookup, request: int) -> None:
        if self.ranks_missing:
            self._send(connection, frames.FOUND, bytes(32), request, -errno.EAGAIN)
            return
        present = {group: [self.lies or (lookup.space, group, name) in self.blocks
                           for name in names] for group, names in lookup.hashes.items()}
        if lookup.hashes:
            self.lookups.append(lookup)
            lookup.usable_tokens = usable_tokens(connection.groups, lookup.first, present)
        if lookup.lease_us and any(map(any, present.values())) and lookup.usable_tokens:
            self._lease += 1
            lookup.lease = self._lease
            self.leases[self._lease] = lookup.tag
            count = list(self.leases.values()).count(lookup.tag)
            self.leases_most[lookup.tag] = max(count, self.leases_most[lookup.tag])
        worth = lookup.usable_tokens if self.worth_tokens is None else min(
            self.worth_tokens, lookup.usable_tokens)
        bits = bytearray(-(-sum(map(len, present.values())) // 8))
        flat = [one for group in present for one in present[group]]
        for index, is_there in enumerate(flat):
            bits[index // 8] |= is_there << index % 8
        full = next((i for i, one in enumerate(connection.groups) if one.kind == 'full'), 0)
        tokens = max(0, lookup.usable_tokens
                     - lookup.first.get(full, 0) * connection.groups[full].tokens_per_block)
        runs = struct.pack('<IIII', tokens, self.restore_us, self.tier, 0) if tokens else b''
        self._send(connection, frames.FOUND, struct.pack(
            '<QQIIII', lookup.lease, lookup.lease_us if lookup.lease else 0, lookup.usable_tokens,
            worth, len(flat), len(runs) // 16) + runs + bits, request)

    def _release_lease(self, connection: Connection, frame: frames.Frame) -> None:
        self.leases.pop(frame.fields('Q')[0], None)

    # ---- stores ----

    def _store(self, connection: Connection, frame: frames.Frame) -> None:
        _, number, _, space, first, group, count, has_parent, parent = frame.fields(
            '16sQQIIHHI32s')
        hashes, items = [], []
        for i in range(count):
            name, route = struct.unpack_from('<32sQ', frame.body, STORE_HEAD_BYTES + STORE_ITEM_BYTES * i)
            above = hashes[-1] if hashes else parent if has_parent else bytes(32)
            hashes.append(name)
            items.append((route, above, first + i))
        said = bytes(frames.PRESENT if self.wants_nothing or (space, group, name) in self.blocks
                     else frames.ADMITTED for name in hashes)
        wanted = {i for i, admission in enumerate(said) if admission == frames.ADMITTED}
        if wanted:
            connection.batches[number] = Batch(number, space, group, hashes, wanted, items)
        self._send(connection, frames.STORE_REPLY, struct.pack(
            '<QII', number, count, len(wanted)) + said, frame.request)

    def _commit(self, connection: Connection, frame: frames.Frame) -> None:
        number, count, _ = frame.fields('QII')
        batch = connection.batches.get(number)
        if batch is None:
            return
        at, results = 16, []
        for _ in range(count):
            index, segments, offset = struct.unpack_from('<IIQ', frame.body, at)
            crcs = struct.unpack_from(f'<{segments}I', frame.body, at + 16)
            at += -(-(16 + 4 * segments) // 8) * 8
            results.append((index, self._keep(connection, batch, index, offset, crcs)))
        self._end_items(connection, batch, frames.COMMITTED,
                        [struct.pack('<Ii', *one) for one in results],
                        {index for index, _ in results})

    def _keep(self, connection: Connection, batch: Batch, index: int, offset: int,
              crcs: tuple[int, ...]) -> int:
        """Copies a block out of the window into a slot, as a mill does; 0 or a negative errno."""
        assert connection.window is not None
        group = connection.groups[batch.group]
        payload = bytes(connection.window[offset:offset + group.payload_bytes])
        size = -(-group.payload_bytes // group.segments_count)
        own = tuple(frames.crc32c(payload[i:i + size]) for i in range(0, len(payload), size))
        if own != crcs:
            return -errno.EBADMSG
        name = batch.hashes[index]
        slot = self._take_slot(group)
        route, parent, position = batch.items[index]
        self.routes[name] = (route, parent, position)
        start = UNITS_OFFSET + slot.offset
        self.arena[start:start + HEADER_BYTES] = slot_header(
            self.fingerprints[batch.space], batch.group, group, name, crcs, slot)
        self.arena[start + HEADER_BYTES:start + HEADER_BYTES + len(payload)] = payload
        self.blocks[batch.space, batch.group, name] = slot
        return 0

    def _take_slot(self, group: Group) -> Slot:
        free = self._free.setdefault(group.slot_bytes, [])
        if free:
            old = free.pop()
            return Slot(old.offset, old.generation + 1, group, self.tier)
        slot = Slot(self._end, 1, group, self.tier)
        self._end += group.slot_bytes
        assert UNITS_OFFSET + self._end <= ARENA_BYTES, 'the scripted arena is full'
        return slot

    def _drop(self, key: tuple[int, int, bytes]) -> None:
        slot = self.blocks.pop(key)
        start = UNITS_OFFSET + slot.offset
        self.arena[start:start + HEADER_BYTES] = bytes(HEADER_BYTES)
        self._free.setdefault(slot.group.slot_bytes, []).append(slot)

    def _payload_at(self, slot: Slot) -> int:
        return UNITS_OFFSET + slot.offset + HEADER_BYTES

    def _end_items(self, connection: Connection, batch: Batch, kind: int, items: list[bytes],
                   indices: set[int]) -> None:
        if items:
            self._send(connection, kind,
                       struct.pack('<QII', batch.number, len(items), 0) + b''.join(items))
        batch.open -= indices
        if not batch.open:
            connection.batches.pop(batch.number, None)

    # ---- loads ----

    def _load(self, connection: Connection, frame: frames.Frame) -> None:
        _, number, _, _, space, group, count = frame.fields('16sQQQIHH')
        hashes = [frame.body[LOAD_HEAD_BYTES + 32 * i:LOAD_HEAD_BYTES + 32 * (i + 1)]
                  for i in range(count)]
        batch = Batch(number, space, group, hashes, set(range(count)))
        connection.batches[number] = batch
        items = []
        for index, name in enumerate(hashes):
            slot = self.blocks.get((space, group, name))
            if slot is None or self.fails is None or name in self.fails:
                items.append(struct.pack('<IiQII', index, -errno.ENOENT, 0, 0, 0))
            else:
                items.append(struct.pack('<IiQII', index, 0, slot.offset, slot.generation,
                                         slot.tier))
        self._end_items(connection, batch, frames.LOADED, items, set(range(count)))

    def _release(self, connection: Connection, frame: frames.Frame) -> None:
        _, count, _ = frame.fields('QII')
        for i in range(count):
            self.released_bad += struct.unpack_from('<II', frame.body, 16 + 8 * i)[1]

    def _cancel(self, connection: Connection, frame: frames.Frame) -> None:
        """What is held of a STORE or LOAD is dropped; a COMMIT that has come is under way."""
        number = frame.fields('Q')[0]
        dropped = [(own, one) for own, one in self.held
                   if own is connection and batch_of(one) == number]
        self.held = [one for one in self.held if one not in dropped]
        for _, one in dropped:
            if one.type == frames.LOAD:
                count = one.fields('16sQQQIHH')[6]
                batch = Batch(number, 0, 0, [], set(range(count)))
                items = [struct.pack('<IiQII', i, -errno.ECANCELED, 0, 0, 0)
                         for i in range(count)]
                self._end_items(connection, batch, frames.LOADED, items, set(range(count)))
            elif one.type == frames.STORE:
                self._send(connection, frames.STORE_REPLY, bytes(16), one.request,
                           -errno.ECANCELED)
            else:
                self._commit(connection, one)
        open_one = connection.batches.get(number)
        if open_one is not None:
            indices = set(open_one.open)
            self._end_items(connection, open_one, frames.COMMITTED,
                            [struct.pack('<Ii', i, -errno.ECANCELED) for i in sorted(indices)],
                            indices)

    # ---- what else is asked ----

    def _hint(self, connection: Connection, frame: frames.Frame) -> None:
        _, _, space, kind, _, count, _ = frame.fields('16sQIIHHI')
        self.hints.append((kind, space, [frame.body[40 + 32 * i:72 + 32 * i]
                                         for i in range(count)]))
        self._send(connection, frames.HINT_REPLY, struct.pack('<QII', 0, 0, count), frame.request)

    def _forget(self, connection: Connection, frame: frames.Frame) -> None:
        _, space, _ = frame.fields('16sII')
        for key in [key for key in self.blocks if space in (key[0], frames.SPACE_ALL)]:
            self._drop(key)
        self._send(connection, frames.DONE, b'', frame.request)

    def _stats(self, connection: Connection, frame: frames.Frame) -> None:
        self._send(connection, frames.TEXT, b'{}', frame.request)


_SERVE = {
    frames.HELLO: '_hello', frames.REGISTER: '_register', frames.SPACE: '_space',
    frames.ATTACH: '_attach', frames.CANARY: '_canary', frames.LOOKUP: '_look_up',
    frames.LEASE_RELEASE: '_release_lease', frames.STORE: '_store', frames.COMMIT: '_commit',
    frames.LOAD: '_load', frames.RELEASE: '_release', frames.CANCEL: '_cancel',
    frames.HINT: '_hint', frames.FORGET: '_forget', frames.STATS: '_stats',
}


def batch_of(frame: frames.Frame) -> int | None:
    if frame.type in (frames.STORE, frames.LOAD):
        return frame.fields('16sQ')[1]
    return frame.fields('Q')[0] if frame.type == frames.COMMIT else None
