"""What every peer shares: its memory, its servers, and the check of what it answers."""
import ctypes
import mmap
import os
import signal
import socket
import subprocess
import time

PR_SET_PDEATHSIG = 1
STAMP_BYTES = 16
FLIPPED_AT = 4096            # in a block: far from its stamp
SEARCH_BYTES = 8 << 20       # of a file, at a time
POLL_SECONDS = 0.005


# Looked up before any fork: a child of a process with threads may not search libraries.
PRCTL = ctypes.CDLL(None).prctl


def die_with_parent():
    PRCTL(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def free_port():
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]


def until(seconds_max, check):
    """Seconds until `check` answered true, or None."""
    began = time.monotonic()
    while True:
        if check():
            return time.monotonic() - began
        if time.monotonic() - began > seconds_max:
            return None
        time.sleep(POLL_SECONDS)


class Server:
    """A server of this peer: its output goes to a file, and it dies with this process."""

    def __init__(self, arguments, log, environment=None):
        with open(log, 'ab') as output:
            self.process = subprocess.Popen(
                arguments, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env={**os.environ, **(environment or {})}, preexec_fn=die_with_parent)

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.process.kill()
        self.process.wait()


class Blocks:
    """The engine's memory: `count` blocks to store from, and behind them as many to load into."""

    def __init__(self, address, memory, block_bytes, count):
        self.address, self.memory = address, memory
        self.block_bytes, self.count = block_bytes, count
        self.bytes = block_bytes * count
        random = os.urandom(1 << 20)
        for offset in range(0, self.bytes, len(random)):
            part = min(len(random), self.bytes - offset)
            memory[offset:offset + part] = random[:part]
        memory[self.bytes:2 * self.bytes] = bytes(self.bytes)

    def stamp_of(self, identity, number):
        return b'\xa5rivals\x5a' + (identity << 32 | number).to_bytes(8, 'little')

    def source(self, number):
        return self.address + number * self.block_bytes

    def target(self, number):
        return self.address + self.bytes + number * self.block_bytes

    def stamp(self, identity):
        for number in range(self.count):
            at = number * self.block_bytes
            self.memory[at:at + STAMP_BYTES] = self.stamp_of(identity, number)

    def clear(self):
        for number in range(self.count):
            at = self.bytes + number * self.block_bytes
            self.memory[at:at + self.block_bytes] = bytes(self.block_bytes)

    def is_right(self, identity, number):
        at = self.bytes + number * self.block_bytes
        source = number * self.block_bytes + STAMP_BYTES
        return self.memory[at:at + STAMP_BYTES] == self.stamp_of(identity, number) and \
            self.memory[at + STAMP_BYTES:at + self.block_bytes] == \
            self.memory[source:source + self.block_bytes - STAMP_BYTES]

    def judge(self, identity, goods):
        """What the peer called good, held against what was stored."""
        right = wrong = 0
        for number in range(self.count):
            if goods[number]:
                if self.is_right(identity, number):
                    right += 1
                else:
                    wrong += 1
        return {'right': right, 'wrong': wrong, 'missed': self.count - right - wrong}


def blocks_map(block_bytes, count):
    memory = mmap.mmap(-1, 2 * block_bytes * count)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return Blocks(address, memory, block_bytes, count)


def blocks_at(address, block_bytes, count):
    """The same over memory that a peer's library gave."""
    memory = memoryview((ctypes.c_char * (2 * block_bytes * count)).from_address(address)).cast('B')
    return Blocks(address, memory, block_bytes, count)


def stamps_find(paths, stamps):
    """Where the stamped blocks lie in files: {stamp: [(path, offset)]}."""
    found = {}
    marker = b'\xa5rivals\x5a'
    for path in paths:
        with open(path, 'rb') as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            offset, tail = 0, b''
            while chunk := file.read(SEARCH_BYTES):
                text = tail + chunk
                at = text.find(marker)
                while at >= 0:
                    stamp = text[at:at + STAMP_BYTES]
                    if stamp in stamps:
                        found.setdefault(stamp, set()).add((path, offset - len(tail) + at))
                    at = text.find(marker, at + 1)
                offset += len(chunk)
                tail = text[-STAMP_BYTES:]
    return found


def places_flip(places):
    """Flips one bit of a block at each place, behind everybody's back, and makes it durable."""
    for path, offset in places:
        with open(path, 'r+b', buffering=0) as file:
            file.seek(offset + FLIPPED_AT)
            byte = file.read(1)
            file.seek(offset + FLIPPED_AT)
            file.write(bytes([byte[0] ^ 0x10]))
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Peer:
    """
    One system of the comparison. A subclass says how it stores, loads and looks up; what is
    counted and how it is judged is the same for all. Times are seconds of the call alone.
    """

    def __init__(self, folder, build):
        self.folder, self.build = folder, build
        self.blocks = None
        self.stored = set()

    # ---- what a subclass has ----

    def open(self, tier, block_bytes, count, sets):
        raise NotImplementedError

    def store_run(self, identity):
        """(seconds until stored in the tier, how many blocks were stored)."""
        raise NotImplementedError

    def load_run(self, identity):
        """(seconds, for each block whether the peer calls it good)."""
        raise NotImplementedError

    def make_cold(self, identity):
        """After this a load comes from the disk. False: it cannot be had."""
        return True

    # ---- what is measured ----

    def store(self, identity):
        self.blocks.stamp(identity)
        seconds, stored = self.store_run(identity)
        return {'seconds': seconds, 'stored': stored, 'bytes': self.blocks.bytes}

    def load(self, identity):
        self.blocks.clear()
        seconds, goods = self.load_run(identity)
        return {'seconds': seconds, 'bytes': self.blocks.bytes,
                **self.blocks.judge(identity, goods)}

    def load_cold(self, identity):
        if not self.make_cold(identity):
            return {'unable': 'its blocks could not be moved out of memory'}
        return self.load(identity)

    def restart(self, identity, seconds_max):
        """kill -9, start, the first block that is right again, and how many are in the end."""
        self.server_kill()
        began = time.monotonic()
        self.server_start()
        first = until(seconds_max, lambda: self.one_is_right(identity))
        took = time.monotonic() - began
        kept = self.load(identity)
        return {'seconds': took if first is not None else None, 'right': kept['right'],
                'wrong': kept['wrong'], 'count': self.blocks.count}

    def one_is_right(self, identity):
        self.blocks.clear()
        _, goods = self.load_run(identity, 1)
        return self.blocks.judge(identity, goods)['right'] == 1

    def flipped(self, identity, count):
        """Bits flipped at rest in `count` blocks: how many of them come back as good."""
        if not self.make_cold(identity):
            return {'unable': 'its blocks could not be moved out of memory'}
        step = self.blocks.count // count
        numbers = {self.blocks.stamp_of(identity, i * step): i * step for i in range(count)}
        places = stamps_find(self.files(), numbers)
        if len(places) < count:
            return {'unable': f'only {len(places)} of {count} blocks were found on the disk'}
        for place in places.values():
            places_flip(place)
        self.blocks.clear()
        _, goods = self.load_run(identity)
        judged = self.blocks.judge(identity, goods)
        return {'flipped': count, **judged}

    def stopped(self, identity, seconds):
        """SIGSTOP of the server, then a get: how long its client waits."""
        server = self.server()
        server.signal(signal.SIGSTOP)
        waker = subprocess.Popen(['sh', '-c', f'sleep {seconds}; kill -CONT {server.process.pid}'],
                                 preexec_fn=die_with_parent)
        try:
            began = time.monotonic()
            result = self.stopped_run(identity)
            took = time.monotonic() - began
        finally:
            server.signal(signal.SIGCONT)
            waker.kill()
            waker.wait()
        return {'seconds': took, 'stop_seconds': seconds, **result}

    def stopped_run(self, identity):
        _, goods = self.load_run(identity)
        return {'good': sum(goods)}
