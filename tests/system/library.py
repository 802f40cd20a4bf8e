"""libkvtier through ctypes, for tests that need what an engine's client promises (client/kvtier.h)."""
import ctypes
import mmap
import os
import time

import node

DONE, FAILED, CANCELLED, EXPIRED = 1, 2, 3, 4
SCHEDULER, WORKER = 1, 2

c = ctypes


class Plane(c.Structure):
    _fields_ = [('base', c.c_void_p), ('stride', c.c_uint64), ('bytes', c.c_uint64)]


class Group(c.Structure):
    _fields_ = [('kind', c.c_int), ('tokens_per_block', c.c_uint32), ('window_tokens', c.c_uint32),
                ('segments_count', c.c_uint32), ('blocks_count', c.c_uint32), ('planes_count', c.c_uint32),
                ('planes', c.POINTER(Plane)), ('payload_bytes', c.c_uint64)]


class Identity(c.Structure):
    _fields_ = [(name, c.c_char_p) for name in ('model_content', 'dtype', 'quantisation', 'layout', 'split',
                                                'speculation', 'hash_algorithm', 'hash_seed', 'weights_version')]


class Options(c.Structure):
    _fields_ = [('socket', c.c_char_p), ('engine', c.c_char_p), ('roles', c.c_uint), ('shard', c.c_uint),
                ('world', c.c_uint), ('identity', Identity), ('groups_count', c.c_uint), ('groups', c.POINTER(Group)),
                ('connect_us_max', c.c_uint64)]


class Keys(c.Structure):
    _fields_ = [('group', c.c_uint32), ('first_position', c.c_uint32), ('count', c.c_uint32), ('hashes', c.c_char_p)]


class Lookup(c.Structure):
    _fields_ = [('space', c.c_uint32), ('sections_count', c.c_uint32), ('sections', c.POINTER(Keys)),
                ('tag', c.c_char_p), ('lease_us', c.c_uint64), ('cost_a', c.c_double), ('cost_b', c.c_double),
                ('cost_c', c.c_double)]


class Found(c.Structure):
    _fields_ = [('lease', c.c_uint64), ('usable_tokens', c.c_uint32), ('worth_tokens', c.c_uint32),
                ('present_count', c.c_uint32), ('tier_tokens', c.c_uint32 * 2), ('restore_us', c.c_uint32),
                ('present', c.c_void_p), ('present_max', c.c_uint32)]


class Block(c.Structure):
    _fields_ = [('hash', c.c_uint8 * 32), ('route_key', c.c_uint64), ('engine_block', c.c_uint32)]


class Transfer(c.Structure):
    _fields_ = [('space', c.c_uint32), ('group', c.c_uint32), ('first_position', c.c_uint32), ('count', c.c_uint32),
                ('blocks', c.POINTER(Block)), ('parent', c.c_char_p), ('tag', c.c_char_p), ('lease', c.c_uint64),
                ('deadline_us', c.c_uint64), ('user', c.c_void_p)]


class Completion(c.Structure):
    _fields_ = [('job', c.c_uint64), ('user', c.c_void_p), ('is_store', c.c_int), ('state', c.c_int),
                ('quiesced', c.c_int), ('count', c.c_uint32), ('good_count', c.c_uint32),
                ('results', c.POINTER(c.c_int))]


def load_library():
    library = c.CDLL(os.path.join(node.BUILD, 'libkvtier.so'))
    library.kvtier_close.restype = library.kvtier_cancel.restype = None
    library.kvtier_close.argtypes = [c.c_void_p]
    library.kvtier_open.argtypes = [c.POINTER(c.c_void_p), c.POINTER(Options), c.c_char_p, c.c_size_t]
    library.kvtier_connect.argtypes = [c.c_void_p, c.c_uint64, c.c_char_p, c.c_size_t]
    library.kvtier_is_connected.argtypes = [c.c_void_p]
    library.kvtier_lookup.argtypes = [c.c_void_p, c.POINTER(Lookup), c.c_uint64, c.POINTER(Found)]
    library.kvtier_lease_release.argtypes = [c.c_void_p, c.c_uint64]
    for name in ('kvtier_store', 'kvtier_load'):
        getattr(library, name).argtypes = [c.c_void_p, c.POINTER(Transfer), c.POINTER(c.c_uint64)]
    library.kvtier_cancel.argtypes = [c.c_void_p, c.c_uint64]
    library.kvtier_poll.argtypes = [c.c_void_p, c.POINTER(Completion), c.c_uint]
    library.kvtier_wait.argtypes = [c.c_void_p, c.c_uint64]
    library.kvtier_forget.argtypes = [c.c_void_p, c.c_uint32, c.c_uint64]
    library.kvtier_stats.argtypes = [c.c_void_p, c.c_char_p, c.c_size_t, c.c_uint64]
    return library


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

    def begin(self, verb, hashes, deadline_us, lease=0, parent=None, blocks=None):
        """Starts a store or load of `hashes` to engine blocks 0.. (or `blocks`). (result, job number)."""
        items = (Block * len(hashes))()
        for i, name in enumerate(hashes):
            items[i].hash[:] = name
            items[i].engine_block = i if blocks is None else blocks[i]
        transfer = Transfer(count=len(hashes), blocks=items, deadline_us=deadline_us, lease=lease, parent=parent)
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
