"""The frames of proto/frames.h, spoken by hand: for clients that the library would never be.

Control and Data are connections of one engine; Engine is both, registered, with the mapped arena and window. Nothing
here checks what it sends: tests put wrong numbers in on purpose.
"""
import array
import errno
import mmap
import os
import socket
import struct

MAGIC = 0x3154564b
BYTES_MAX = 96 << 10
SPACE_ALL = 0xffffffff
LAST = 1
WAIT_SECONDS = 10.0

(HELLO, REGISTER, ATTACH, CANARY, SPACE, LOOKUP, LEASE_RELEASE, STORE, COMMIT, LOAD, RELEASE, CANCEL, HINT, FORGET,
 STATS, EXPLAIN, BYPASS, OPERATE, LEND) = range(1, 20)
(HELLO_REPLY, REGISTERED, ATTACHED, DONE, SPACE_REPLY, FOUND, STORE_REPLY, COMMITTED, LOADED, HINT_REPLY, TEXT,
 EXPLAINED, ERROR, LENT, COPIED) = range(64, 79)
ADMITTED, PRESENT, ATTACHED_TO_OTHER, REFUSED_PARENT, REFUSED_FULL, REFUSED_SIZE = range(6)
CONTROL, DATA = 0, 1
SCHEDULER, WORKER = 1, 2
VERBS = ('LIST', 'STAT', 'PIN', 'PURGE', 'DRAIN', 'RELOAD', 'CONFIG', 'REQUESTS')
REASONS = ('hit_cpu', 'hit_nvme', 'never_stored', 'evicted', 'forgotten', 'filling', 'shards_missing', 'damaged',
           'refused', 'bypassed', 'no_space', 'key_missing', 'in_clear')

HEADER = struct.Struct('<IHHIiQQ')


class Closed(Exception):
    """The daemon closed the connection."""


class Refused(Exception):
    """The daemon answered with an error, in words."""

    def __init__(self, result, text):
        super().__init__(f'{errno.errorcode.get(-result, result)}: {text}')
        self.result = result


def crc32c_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82f63b78 if byte & 1 else 0)
        table.append(byte)
    return table


CRC32C = crc32c_table()


def crc32c(data):
    crc = 0xffffffff
    table = CRC32C
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 255]
    return crc ^ 0xffffffff


class Frame:
    def __init__(self, raw):
        _, self.type, self.flags, self.bytes, self.result, self.request, self.boot_id = HEADER.unpack_from(raw)
        self.raw = raw
        self.body = raw[HEADER.size:]

    def fields(self, layout):
        return struct.unpack_from('<' + layout, self.body)


class Connection:
    """One packet socket. `hello` says HELLO at once."""

    def __init__(self, path, kind=CONTROL, hello=True):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(WAIT_SECONDS)
        try:
            self.socket.connect(path)
        except OSError:
            self.socket.close()
            raise
        self.requests = 0
        self.boot_id = 0
        self.events = []
        self.fds = []
        if hello:
            try:
                self.hello(kind)
            except (Closed, Refused, OSError):
                self.close()
                raise

    def hello(self, kind=CONTROL):
        reply = self.ask(HELLO, hello_body(kind))
        self.boot_id = reply.boot_id
        (_, self.keys_max, self.features, self.window_bytes, self.lease_us_max, self.batches_max, self.load_window,
         tenant) = reply.fields('IIQQQII64s')
        self.tenant = tenant.rstrip(b'\0').decode()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def close(self):
        self.socket.close()
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    def send_raw(self, packet):
        try:
            self.socket.send(packet)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed from error

    def send(self, kind, body=b'', flags=0, request=None):
        if request is None:
            self.requests += 1
            request = self.requests
        size = HEADER.size + len(body)
        self.send_raw(HEADER.pack(MAGIC, kind, flags, size, 0, request, self.boot_id) + body)
        return request

    def receive(self):
        try:
            raw, ancillary, _, _ = self.socket.recvmsg(BYTES_MAX, socket.CMSG_LEN(4 * 4))
        except ConnectionResetError as error:
            raise Closed from error
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array('i')
                fds.frombytes(data[:len(data) // 4 * 4])
                self.fds += list(fds)
        if not raw:
            raise Closed
        return Frame(raw)

    def answer(self, request):
        """The reply to `request`; events are kept in self.events."""
        while True:
            frame = self.receive()
            if frame.type == ERROR:
                raise Refused(frame.result, frame.body.decode('utf-8', 'replace'))
            if frame.request == request:
                return frame
            self.events.append(frame)

    def ask(self, kind, body=b'', flags=0):
        return self.answer(self.send(kind, body, flags))

    def event(self, kind, batch):
        """The next event of a batch."""
        while True:
            for position, frame in enumerate(self.events):
                if frame.type == kind and frame.fields('Q')[0] == batch:
                    return self.events.pop(position)
            frame = self.receive()
            if frame.type == ERROR:
                raise Refused(frame.result, frame.body.decode('utf-8', 'replace'))
            self.events.append(frame)

    def stats(self):
        import json
        return json.loads(self.ask(STATS).body)


def hello_body(kind=CONTROL, low=1, high=1):
    return struct.pack('<IIQII', low, high, 0, os.getpid(), kind)


def group_body(payload_bytes, tokens=16, segments=1, kind=0, window_tokens=0):
    return struct.pack('<IIQII', kind, tokens, payload_bytes, segments, window_tokens)


def register_body(engine, model, groups, roles=SCHEDULER | WORKER, shard=0, world=1):
    content = model.encode()
    fields = struct.pack('<HH', 1, len(content)) + content
    return struct.pack('<64sIHHHHI', engine.encode(), roles, shard, world, len(groups), 1, len(fields)) + \
        b''.join(groups) + fields


def lookup_body(space, hashes, lease_us=0, tag=bytes(16), first=0, group=0):
    return struct.pack('<16sIIQddd', tag, space, 1, lease_us, 0.0, 0.0, 0.0) + \
        struct.pack('<IHH', first, group, len(hashes)) + b''.join(hashes)


def store_body(space, batch, hashes, deadline_us=5000000, parent=None, first=0, group=0, tag=bytes(16)):
    return struct.pack('<16sQQIIHHI32s24x', tag, batch, deadline_us, space, first, group, len(hashes),
                       parent is not None, parent or bytes(32)) + \
        b''.join(h + bytes(16) for h in hashes)


def commit_body(batch, items):
    """items: (index, window offset, [crc])."""
    body = struct.pack('<QII', batch, len(items), 0)
    for index, offset, crcs in items:
        item = struct.pack('<IIQ', index, len(crcs), offset) + struct.pack(f'<{len(crcs)}I', *crcs)
        body += item + bytes(-len(item) % 8)
    return body


def load_body(space, batch, hashes, lease=0, deadline_us=5000000, group=0, tag=bytes(16)):
    return struct.pack('<16sQQQIHH24x', tag, batch, lease, deadline_us, space, group, len(hashes)) + \
        b''.join(hashes)


def release_body(batch, items):
    return struct.pack('<QII', batch, len(items), 0) + b''.join(struct.pack('<II', *item) for item in items)


def operate_body(verb, tenant='', fingerprint=bytes(16), tag=bytes(16), cursor=0, value=0, group=0, hashes=()):
    return struct.pack('<64s16s16sQQIHH', tenant.encode(), fingerprint, tag, cursor, value, VERBS.index(verb), group,
                       len(hashes)) + b''.join(hashes)


def forget_body(space, fingerprint=bytes(16)):
    return struct.pack('<16sII', fingerprint, space, 0)


class Found:
    def __init__(self, frame):
        self.result = frame.result
        self.lease, self.lease_us, self.usable, self.worth, self.keys, self.runs = frame.fields('QQIIII')
        bits = frame.body[32 + 16 * self.runs:]
        self.present = [bool(bits[i // 8] >> i % 8 & 1) for i in range(self.keys)]


class Engine:
    """One rank of an engine: a control and a data connection, the arena and the window mapped."""

    def __init__(self, path, name, model='model', payload_bytes=4096, segments=1, shard=0, world=1, attach=True):
        self.path = path
        self.payload_bytes = payload_bytes
        self.segments = segments
        self.batches = 0
        self.tag = bytes(16)   # of what it asks from now on
        self.control = self.data = self.arena = self.window = None
        try:
            self.open(name, model, shard, world, attach)
        except (Closed, Refused, OSError):
            self.close()
            raise

    def open(self, name, model, shard, world, attach):
        self.control = Connection(self.path)
        reply = self.control.ask(REGISTER, register_body(
            name, model, [group_body(self.payload_bytes, segments=self.segments)], shard=shard, world=world))
        self.fingerprint, self.token, self.space, self.ranks_missing = reply.fields('16sQII')
        if attach:
            self.attach()

    def attach(self):
        self.data = Connection(self.path, DATA)
        reply = self.data.ask(ATTACH, struct.pack('<Q', self.token))
        (arena_bytes, self.units, canary, self.window_bytes, canary_crc, _) = reply.fields('QQQQII')
        arena_fd, self.window_fd = self.data.fds
        self.arena = mmap.mmap(arena_fd, arena_bytes, mmap.MAP_SHARED, mmap.PROT_READ)
        self.window = mmap.mmap(self.window_fd, self.window_bytes)
        assert crc32c(self.arena[canary:canary + 64]) == canary_crc
        self.window[:64] = os.urandom(64)
        self.data.ask(CANARY, struct.pack('<II', crc32c(self.window[:64]), 0))

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def close(self):
        for mapping in (self.arena, self.window):
            if mapping is not None:
                mapping.close()
        self.arena = self.window = None
        for connection in (self.data, self.control):
            if connection is not None:
                connection.close()

    def crcs(self, payload):
        size = -(-len(payload) // self.segments)
        return [crc32c(payload[i:i + size]) for i in range(0, len(payload), size)]

    def lookup(self, hashes, lease_us=0, space=None):
        return Found(self.control.ask(LOOKUP, lookup_body(self.space if space is None else space, hashes, lease_us,
                                                          self.tag), LAST))

    def admissions(self, hashes, deadline_us=5000000, parent=None):
        """(batch, what the daemon said of each)."""
        self.batches += 1
        reply = self.data.ask(STORE, store_body(self.space, self.batches, hashes, deadline_us, parent,
                                               tag=self.tag))
        count = reply.fields('QII')[1]
        return self.batches, list(reply.body[16:16 + count])

    def commit(self, batch, index, payload, offset=0, crcs=None):
        self.window[offset:offset + len(payload)] = payload
        self.data.send(COMMIT, commit_body(batch, [(index, offset, crcs or self.crcs(payload))]))

    def committed(self, batch, count):
        """{index: result} of `count` results."""
        results = {}
        while len(results) < count:
            frame = self.data.event(COMMITTED, batch)
            number = frame.fields('QII')[1]
            results.update(struct.iter_unpack('<Ii', frame.body[16:16 + 8 * number]))
        return results

    def store(self, hashes, payloads, parent=None):
        """Stores a chain; returns a result a block: 0 stored, 1 there already, negative errno."""
        batch, said = self.admissions(hashes, parent=parent)
        wanted = [i for i, admission in enumerate(said) if admission == ADMITTED]
        waits = len(wanted) + said.count(ATTACHED_TO_OTHER)
        results = {i: 1 if a == PRESENT else -errno.ENOSPC for i, a in enumerate(said)}
        place = (len(payloads[0]) + 63) // 64 * 64
        room = max(self.window_bytes // place, 1)
        for start in range(0, len(wanted), room):
            part = wanted[start:start + room]
            for at, index in enumerate(part):
                self.commit(batch, index, payloads[index], at * place)
            if start + room < len(wanted):
                results.update(self.committed(batch, len(part)))
                waits -= len(part)
        results.update(self.committed(batch, waits) if waits else {})
        return [results[i] for i in range(len(hashes))]

    def loaded(self, batch, count):
        """{index: (result, offset, generation, tier)} of `count` blocks."""
        items = {}
        while len(items) < count:
            frame = self.data.event(LOADED, batch)
            number = frame.fields('QII')[1]
            for index, result, offset, generation, tier in struct.iter_unpack('<IiQII', frame.body[16:16 + 24 * number]):
                items[index] = (result, offset, generation, tier)
        return items

    def payload(self, offset):
        start = self.units + offset + 4096
        return self.arena[start:start + self.payload_bytes]

    def load(self, hashes, lease=0, check=None):
        """A payload or None (a miss) for each. `check(index, payload)` False: released as bad, and a miss."""
        out = [None] * len(hashes)
        for start in range(0, len(hashes), self.data.load_window):
            part = hashes[start:start + self.data.load_window]
            self.batches += 1
            self.data.send(LOAD, load_body(self.space, self.batches, part, lease, tag=self.tag))
            releases = []
            for index, (result, offset, _, _) in self.loaded(self.batches, len(part)).items():
                if result != 0:
                    continue
                payload = self.payload(offset)
                is_good = check is None or check(start + index, payload)
                out[start + index] = payload if is_good else None
                releases.append((index, 0 if is_good else 1))
            self.data.send(RELEASE, release_body(self.batches, releases))
        return out

    def forget(self, space=None):
        reply = self.control.ask(FORGET, forget_body(self.space if space is None else space))
        return reply.result

    def explain(self, hashes):
        body = struct.pack('<16sIHH', bytes(16), self.space, 0, len(hashes)) + b''.join(hashes)
        reply = self.control.ask(EXPLAIN, body)
        count = reply.fields('II')[0]
        return [REASONS[reason] for reason, _, _ in struct.iter_unpack('<IIQ', reply.body[8:8 + 16 * count])]
