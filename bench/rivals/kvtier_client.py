"""libkvtier through ctypes: as much of client/kvtier.h as the comparison needs."""
import ctypes
import errno
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '../../plugin'))
from kvtier.header import (PRESENT, SCHEDULER, WORKER, Block, Completion, Fetch, Found,   # noqa: E402
                           Group, Identity, Keys, Lookup, Options, Plane, Source, Transfer, declare)

STATS_BYTES = 64 << 10
TEXT_BYTES = 256
JOB_BLOCKS_MAX = 1024
JOBS_MAX = 8
COMPLETIONS_MAX = 16
TOKENS_PER_BLOCK = 16


def library_open(path):
    return declare(ctypes.CDLL(path, use_errno=True))


class Job:
    """A run of blocks of one chain, ready to be handed over: nothing is built while time counts."""

    def __init__(self, hashes, engine_blocks, deadline_us):
        self.count = len(hashes)
        self.blocks = (Block * self.count)()
        for i, (name, engine_block) in enumerate(zip(hashes, engine_blocks)):
            ctypes.memmove(self.blocks[i].hash, name, len(name))
            self.blocks[i].route_key = int.from_bytes(name[:8], 'little')
            self.blocks[i].engine_block = engine_block
        self.transfers = []
        for first in range(0, self.count, JOB_BLOCKS_MAX):
            self.transfers.append(Transfer(
                first_position=first, count=min(JOB_BLOCKS_MAX, self.count - first),
                blocks=ctypes.cast(ctypes.byref(self.blocks, first * ctypes.sizeof(Block)),
                                   ctypes.POINTER(Block)),
                parent=hashes[first - 1] if first > 0 else None, deadline_us=deadline_us))


class Client:
    """A kvtier client whose engine blocks lie one behind the other at `base`."""

    def __init__(self, path, socket, base, block_bytes, blocks_count):
        self.library = library_open(path)
        self.client = ctypes.c_void_p()
        plane = Plane(base, block_bytes, block_bytes)
        group = Group(0, TOKENS_PER_BLOCK, 0, 1, blocks_count, 1, ctypes.pointer(plane), 0)
        options = Options(socket=socket.encode(), engine=b'rivals-%d' % os.getpid(),
                          roles=SCHEDULER | WORKER, world=1,
                          identity=Identity(model_content=b'rivals'), groups_count=1,
                          groups=ctypes.pointer(group), connect_us_max=100000)
        text = ctypes.create_string_buffer(TEXT_BYTES)
        result = self.library.kvtier_open(ctypes.byref(self.client), ctypes.byref(options), text,
                                          TEXT_BYTES)
        if result < 0:
            raise OSError(-result, text.value.decode(errors='replace'))

    def close(self):
        self.library.kvtier_close(self.client)
        self.client = ctypes.c_void_p()

    def connect(self, wait_us_max):
        return self.library.kvtier_connect(self.client, wait_us_max, None, 0) == 0 and \
            self.library.kvtier_is_connected(self.client) == 1

    def stats(self):
        text = ctypes.create_string_buffer(STATS_BYTES)
        result = self.library.kvtier_stats(self.client, text, STATS_BYTES, 1000000)
        return text.value.decode() if result == 0 else ''

    def lookup(self, keys, wait_us_max, lease_us=0):
        """(result, Found); `keys` is what keys_of() made."""
        lookup = Lookup(sections_count=1, sections=ctypes.pointer(keys), lease_us=lease_us)
        found = Found()
        result = self.library.kvtier_lookup(self.client, ctypes.byref(lookup), wait_us_max,
                                            ctypes.byref(found))
        return result, found

    def lease_release(self, lease):
        self.library.kvtier_lease_release(self.client, lease)

    def fetch(self, keys, address, wait_us_max):
        """Asks the node at `address`, until it has answered; a Fetch, or None."""
        lookup = Lookup(sections_count=1, sections=ctypes.pointer(keys))
        source, fetch, found = Source(peer=address.encode(), mode=PRESENT), Fetch(), Found()
        if self.library.kvtier_fetch(self.client, ctypes.byref(lookup), ctypes.byref(source), wait_us_max, wait_us_max,
                                     ctypes.byref(fetch)) < 0:
            return None
        if self.library.kvtier_fetch_wait(self.client, ctypes.byref(fetch), wait_us_max, ctypes.byref(found)) < 0:
            self.fetch_end(fetch)
            return None
        return fetch

    def fetch_end(self, fetch):
        self.library.kvtier_fetch_end(self.client, ctypes.byref(fetch))

    def move(self, job, is_store, wait_us_max):
        """
        Runs a job to its end. One result a block, in order; what never completed is -ETIMEDOUT.
        """
        begin = self.library.kvtier_store if is_store else self.library.kvtier_load
        results = [-errno.ETIMEDOUT] * job.count
        completions = (Completion * COMPLETIONS_MAX)()
        waiting, running, number = list(reversed(job.transfers)), {}, ctypes.c_uint64()
        while waiting or running:
            if waiting and len(running) < JOBS_MAX:
                result = begin(self.client, ctypes.byref(waiting[-1]), ctypes.byref(number))
                if result == 0:
                    running[number.value] = waiting.pop().first_position
                    continue
                if result != -errno.EAGAIN:
                    first = waiting.pop().first_position
                    results[first] = result
                    continue
            if self.library.kvtier_wait(self.client, wait_us_max) <= 0:
                break
            for i in range(self.library.kvtier_poll(self.client, completions, COMPLETIONS_MAX)):
                first = running.get(completions[i].job)
                if first is None:
                    continue
                results[first:first + completions[i].count] = \
                    completions[i].results[:completions[i].count]
                if completions[i].quiesced:
                    del running[completions[i].job]
        return results


def keys_of(hashes):
    keys = Keys(count=len(hashes), hashes=b''.join(hashes))
    return keys
