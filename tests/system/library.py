"""libkvtier through ctypes, for tests that need what an engine's client promises (client/kvtier.h)."""
import ctypes
import mmap
import os
import sys
import time

import node

sys.path.insert(0, os.path.join(node.TOP, 'plugin'))
from kvtier.header import (CANCELLED, DONE, EXPIRED, FAILED, SCHEDULER, STREAM, WORKER, Block,   # noqa: E402,F401
                           Completion, Fetch, Found, Group, Identity, Keys, Lookup, Options, Plane, Source, Transfer,
                           declare)

c = ctypes


def load_library():
    return declare(c.CDLL(os.path.join(node.BUILD, 'libkvtier.so')))


def route_key(name):
    return int.from_bytes(name[:8], 'little')


class Job:
    """What came back of one transfer."""

    def __init__(self):
        self.state = None
        self.results = []
        self.good = 0
        self.quiesced = False
        self.done_seconds = self.quiesced_seconds = None


class Client:
    """An engine with memory for `blocks` blocks; scheduler and worker in one, unless said otherwise."""

    def __init__(self, socket, name='engine', model='model', payload_bytes=4096, blocks=64, segments=1,
                 connect_us=1000000):
        self.library = load_library()
        self.payload_bytes = payload_bytes
        self.memory = mmap.mmap(-1, blocks * payload_bytes)
        self.address = c.addressof(c.c_char.from_buffer(self.memory))
        plane = Plane(self.address, payload_bytes, payload_bytes)
        group = Group(kind=0, tokens_per_block=16, segments_count=segments, blocks_count=blocks, planes_count=1,
                      planes=c.pointer(plane))
        options = Options(socket=socket.encode(), engine=name.encode(), roles=SCHEDULER | WORKER, world=1,
                          identity=Identity(model_content=model.encode()), groups_count=1, groups=c.pointer(group),
                          connect_us_max=connect_us)
        self.client = c.c_void_p()
        text = c.create_string_buffer(200)
        result = self.library.kvtier_open(c.byref(self.client), c.byref(options), text, len(text))
        if result < 0:
            raise OSError(-result, text.value.decode())

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def close(self):
        self.library.kvtier_close(self.client)
        self.client = c.c_void_p()

    def connect(self, seconds=10):
        text = c.create_string_buffer(200)
        result = self.library.kvtier_connect(self.client, int(seconds * 1e6), text, len(text))
        if result < 0:
            raise OSError(-result, text.value.decode())

    def is_connected(self):
        return self.library.kvtier_is_connected(self.client) == 1

    def lookup(self, hashes, wait_us, lease_us=0):
        """(result, found)."""
        keys = Keys(count=len(hashes), hashes=b''.join(hashes))
        lookup = Lookup(sections_count=1, sections=c.pointer(keys), lease_us=lease_us)
        found = Found()
        return self.library.kvtier_lookup(self.client, c.byref(lookup), wait_us, c.byref(found)), found

    def lease_release(self, lease):
        return self.library.kvtier_lease_release(self.client, lease)

    def forget(self, wait_us, space=0):
        return self.library.kvtier_forget(self.client, space, wait_us)

    def stats(self, wait_us):
        return self.library.kvtier_stats(self.client, c.create_string_buffer(1 << 17), 1 << 17, wait_us)

    def put(self, block, payload):
        self.memory[block * self.payload_bytes:(block + 1) * self.payload_bytes] = payload

    def get(self, block):
        return self.memory[block * self.payload_bytes:(block + 1) * self.payload_bytes]

    def begin(self, verb, hashes, deadline_us, lease=0, parent=None, blocks=None, gate_value=0,
              group=0):
        """Starts a store or load of `hashes` to engine blocks 0.. (or `blocks`). (result, job number)."""
        items = (Block * len(hashes))()
        for i, name in enumerate(hashes):
            items[i].hash[:] = name
            items[i].route_key = route_key(name)
            items[i].engine_block = i if blocks is None else blocks[i]
        transfer = Transfer(group=group, count=len(hashes), blocks=items, deadline_us=deadline_us, lease=lease,
                            parent=parent, gate_value=gate_value)
        number = c.c_uint64()
        call = self.library.kvtier_store if verb == 'store' else self.library.kvtier_load
        return call(self.client, c.byref(transfer), c.byref(number)), number.value

    def wait(self, number, seconds):
        """The job's end and quiescence; gives up after `seconds`, with what there is by then."""
        job = Job()
        started = time.monotonic()
        completions = (Completion * 8)()
        while not job.quiesced and time.monotonic() - started < seconds:
            self.library.kvtier_wait(self.client, 100000)
            for i in range(self.library.kvtier_poll(self.client, completions, 8)):
                one = completions[i]
                if one.job != number:
                    continue
                if job.state is None:
                    job.state, job.good = one.state, one.good_count
                    job.results = one.results[:one.count]
                    job.done_seconds = time.monotonic() - started
                if one.quiesced:
                    job.quiesced = True
                    job.quiesced_seconds = time.monotonic() - started
        return job

    def run(self, verb, hashes, deadline_us=5000000, **options):
        result, number = self.begin(verb, hashes, deadline_us, **options)
        if result < 0:
            raise OSError(-result, verb)
        return self.wait(number, deadline_us / 1e6 + 30)

    def protect(self, allowed):
        """Makes the engine's memory untouchable (False), or usable again."""
        libc = c.CDLL(None, use_errno=True)
        flags = mmap.PROT_READ | mmap.PROT_WRITE if allowed else 0
        if libc.mprotect(c.c_void_p(self.address), c.c_size_t(len(self.memory)), flags) != 0:
            raise OSError(c.get_errno(), 'mprotect')
