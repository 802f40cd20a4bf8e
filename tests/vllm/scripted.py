"""A daemon in a thread that speaks kvtier's protocol, keeps blocks, and misbehaves as a test says.

What it delivers is what the real one would: slots with proven headers in an arena of shared memory,
leases, and events for every block. What it does wrong, it does because a test said so:

    daemon.hold(frames.LOAD)         requests of a kind are kept; let_go() serves them, late
    daemon.silence(frames.LOOKUP)    they are never answered
    daemon.refuse(frames.REGISTER)   they are answered by an error
    daemon.lies = True               lookups find what is not there
    daemon.fail_loads(hashes)        those blocks (None: all) are misses when they are loaded
    daemon.damage(hash)              a byte of the block changes under its checksum
    daemon.wants_nothing = True      stores are told that every block is there already
    daemon.ranks_missing = 1         lookups answer 'not ready'
    daemon.die(), daemon.come_back() the connections break; another boot id, with or without blocks

Every method may be called from the test's thread; the daemon has one thread and one lock.
"""
from __future__ import annotations

import errno
import os
import select
import socket
import threading
from collections import Counter

from scripted_calls import Calls, Connection
from scripted_slots import frames

WAIT_SECONDS = 30.0     # for what a test waits for; a broken test ends by it


class ScriptedDaemon(Calls):
    """Started by its constructor; `path` is its socket. close() ends it."""

    def __init__(self, folder: str):
        super().__init__()
        self.path = os.path.join(folder, 'kv.sock')
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.seen: Counter[int] = Counter()
        self.held_kinds: set[int] = set()
        self.silent_kinds: set[int] = set()
        self.refused_kinds: dict[int, tuple[int, str]] = {}
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        self._is_stopping = False
        self._listener: socket.socket | None = None
        self._listen()
        self._thread = threading.Thread(target=self._run, name='scripted daemon', daemon=True)
        self._thread.start()

    # ---- what a test says ----

    def hold(self, *kinds: int) -> None:
        """Requests of these kinds wait until let_go()."""
        with self.lock:
            self.held_kinds.update(kinds)

    def let_go(self) -> None:
        """Serves what waits, in the order in which it came; nothing is held any more."""
        with self.lock:
            self.held_kinds.clear()
            held, self.held = self.held, []
            for connection, frame in held:
                if connection.is_open:
                    self.serve(connection, frame)
            self.changed.notify_all()

    def silence(self, *kinds: int) -> None:
        """Requests of these kinds are read and forgotten. Nothing named: all is well again."""
        with self.lock:
            self.silent_kinds = set(kinds)

    def hang(self) -> None:
        """Nothing is answered any more."""
        self.silence(*range(1, 64))

    def refuse(self, kind: int, result: int = -errno.EPERM, text: str = 'refused by the script',
               ) -> None:
        with self.lock:
            self.refused_kinds[kind] = (result, text)

    def accept(self) -> None:
        """Nothing is refused any more."""
        with self.lock:
            self.refused_kinds.clear()

    def fail_loads(self, hashes) -> None:
        """Loads of these blocks are misses; None: of all. An empty set: of none."""
        with self.lock:
            self.fails = None if hashes is None else set(hashes)

    def damage(self, name: bytes) -> None:
        """A bit of every copy of the block changes; its header stays as it is."""
        with self.lock:
            for (_, _, own), slot in self.blocks.items():
                if own == name:
                    self.arena[self._payload_at(slot) + 10] ^= 4

    def drop(self, name: bytes) -> None:
        """The block is gone, as if it had been evicted."""
        with self.lock:
            for key in [key for key in self.blocks if key[2] == name]:
                self._drop(key)

    def die(self) -> None:
        with self.lock:
            assert self._listener is not None
            self._listener.close()
            self._listener = None
            os.unlink(self.path)
            for connection in self._connections[:]:
                self._close(connection)
            self.held = []
            self._wake()
            self.changed.notify_all()

    def come_back(self, keep_blocks: bool = False) -> None:
        """Another daemon: another boot id; its numbers of spaces and leases are its own."""
        with self.lock:
            assert self._listener is None
            self.boot_id += 100
            self.leases.clear()
            if not keep_blocks:
                for key in list(self.blocks):
                    self._drop(key)
            self._listen()
            self._wake()

    def close(self) -> None:
        with self.lock:
            self._is_stopping = True
            self._wake()
        self._thread.join(WAIT_SECONDS)
        for connection in self._connections[:]:
            self._close(connection)
        if self._listener is not None:
            self._listener.close()
            os.unlink(self.path)
        self.arena.close()
        for fd in (self._arena_fd, self._wake_read, self._wake_write):
            os.close(fd)

    # ---- what a test asks ----

    def wait_until(self, is_so, what: str) -> None:
        """Until is_so() (called with the lock); AssertionError with `what` after WAIT_SECONDS."""
        with self.lock:
            if not self.changed.wait_for(is_so, WAIT_SECONDS):
                raise AssertionError(f'the scripted daemon has not seen: {what}')

    def payload(self, name: bytes, space: int | None = None, group: int = 0) -> bytes | None:
        """The stored bytes of a block, in any space where none is given; None: not there."""
        with self.lock:
            for (own_space, own_group, own), slot in self.blocks.items():
                if own == name and own_group == group and space in (None, own_space):
                    start = self._payload_at(slot)
                    return bytes(self.arena[start:start + slot.group.payload_bytes])
        return None

    def stored(self, space: int | None = None) -> set[bytes]:
        with self.lock:
            return {name for own, _, name in self.blocks if space in (None, own)}

    def open_batches(self) -> int:
        with self.lock:
            return sum(len(one.batches) for one in self._connections)

    # ---- the thread ----

    def _listen(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.setblocking(False)
        listener.bind(self.path)
        listener.listen(8)
        self._listener = listener

    def _wake(self) -> None:
        os.write(self._wake_write, b'w')

    def _run(self) -> None:
        while True:
            with self.lock:
                listener = self._listener
                own = {one.socket: one for one in self._connections}
            watched = [self._wake_read, *own] + ([listener] if listener is not None else [])
            ready, _, _ = _select(watched)
            with self.lock:
                if self._is_stopping:
                    return
                if self._wake_read in ready:
                    os.read(self._wake_read, 4096)
                for one in ready:
                    if one is listener and listener is self._listener:
                        self._accept()
                    elif one in own and own[one].is_open:
                        self._receive(own[one])
                self.changed.notify_all()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            own, _ = self._listener.accept()
        except BlockingIOError:
            return
        own.setblocking(False)
        self._connections.append(Connection(own))

    def _receive(self, connection: Connection) -> None:
        try:
            raw = connection.socket.recv(frames.BYTES_MAX)
        except BlockingIOError:
            return
        except ConnectionError:
            raw = b''
        if not raw:
            self._close(connection)
            return
        frame = frames.Frame(raw)
        self.seen[frame.type] += 1
        if frame.type in self.silent_kinds:
            return
        if frame.type in self.refused_kinds:
            result, text = self.refused_kinds[frame.type]
            self._send(connection, frames.ERROR, text.encode(), frame.request, result)
            self._close(connection)
        elif frame.type in self.held_kinds:
            self.held.append((connection, frame))
        else:
            self.serve(connection, frame)


def _select(watched: list) -> tuple[list, list, list]:
    """select(), where what was closed meanwhile just means: look again."""
    try:
        return select.select(watched, [], [])
    except (OSError, ValueError):
        return [], [], []
