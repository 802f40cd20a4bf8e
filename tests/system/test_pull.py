"""A worker lends a GPU's memory to a real kvtierd, which copies itself: bytes come back, through restarts and deaths.

The driver is the tests' own; the engine uses it in this process, the daemon in that of its GPU.
"""
import ctypes as c
import os
import shutil
import signal
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import library          # noqa: E402
import node             # noqa: E402
import test_gpus        # noqa: E402
from kvtier.header import (REGION_HANDLE, SCHEDULER, WORKER, Device, Group, Identity, Options,   # noqa: E402
                           Plane, Region)

PAYLOAD, BLOCKS = 8192, 32
LENT_BYTES = PAYLOAD * BLOCKS + 4096   # and the word
BUS_ID = test_gpus.GPU.split(':', 1)[1]


class Handle(c.Structure):
    _fields_ = [('bytes', c.c_char * 64)]


class Driver:
    """Device memory of BLOCKS blocks, as an engine has it. The library remembers its machine, so each test has its own."""

    def __init__(self, folder):
        self.open(folder)
        self.address, self.handle = c.c_uint64(), Handle()
        self.must('cuMemAlloc_v2', c.byref(self.address), c.c_size_t(LENT_BYTES))
        self.word = self.address.value + PAYLOAD * BLOCKS
        self.write(self.word, bytes(8))
        self.must('cuIpcGetMemHandle', c.byref(self.handle), self.address)

    def open(self, folder):
        self.calls = c.CDLL(shutil.copy(test_gpus.LIBRARY, folder))
        context, self.stream = c.c_void_p(), c.c_void_p()
        self.must('cuInit', c.c_uint(0))
        self.must('cuDevicePrimaryCtxRetain', c.byref(context), c.c_int(0))
        self.must('cuCtxSetCurrent', context)
        self.must('cuStreamCreateWithPriority', c.byref(self.stream), c.c_uint(1), c.c_int(0))

    def must(self, name, *arguments):
        result = getattr(self.calls, name)(*arguments)
        if result != 0:
            raise OSError(f'{name}: {result}')

    def put(self, block, payload):
        self.write(self.address.value + block * PAYLOAD, payload)

    def step(self, value):
        """The word that the engine counts its steps by."""
        self.write(self.word, value.to_bytes(8, 'little'))

    def write(self, address, payload):
        self.must('cuMemcpyHtoDAsync_v2', c.c_uint64(address), payload, c.c_size_t(len(payload)), self.stream)
        node.until(lambda: self.calls.cuStreamQuery(self.stream) == 0, 10, 'it is written')

    def get(self, block):
        payload = c.create_string_buffer(PAYLOAD)
        self.must('cuMemcpyDtoHAsync_v2', payload, c.c_uint64(self.address.value + block * PAYLOAD),
                  c.c_size_t(PAYLOAD), self.stream)
        return payload.raw


class Lender(library.Client):
    """An engine whose blocks lie on the device."""

    def __init__(self, socket, driver):   # pylint: disable=super-init-not-called
        self.library = library.load_library()
        plane = Plane(driver.address.value, PAYLOAD, PAYLOAD)
        group = Group(tokens_per_block=16, blocks_count=BLOCKS, planes_count=1, planes=c.pointer(plane))
        region = Region(address=driver.address.value, bytes=LENT_BYTES, kind=REGION_HANDLE)
        region.handle = c.cast(c.byref(driver.handle), c.c_char_p)
        device = Device(name=BUS_ID.encode(), regions_count=1, regions=c.pointer(region), word_address=driver.word)
        options = Options(socket=socket.encode(), engine=b'engine', roles=SCHEDULER | WORKER, world=1,
                          identity=Identity(model_content=b'model'), groups_count=1, groups=c.pointer(group),
                          connect_us_max=1000000, device=c.pointer(device))
        self.client = c.c_void_p()
        text = c.create_string_buffer(200)
        result = self.library.kvtier_open(c.byref(self.client), c.byref(options), text, len(text))
        if result < 0:
            raise OSError(-result, text.value.decode())


class Case(test_gpus.Case):
    def bytes_go_and_come(self, driver, client, name):
        """Stored from the first blocks, loaded into the last."""
        hashes = [node.hash_of(name, i) for i in range(12)]
        for i, one in enumerate(hashes):
            driver.put(i, node.payload_of(one, PAYLOAD))
        job = client.run('store', hashes)
        self.assertEqual((job.state, set(job.results), job.quiesced), (library.DONE, {0}, True))
        blocks = [BLOCKS - 1 - i for i in range(len(hashes))]
        job = client.run('load', hashes, blocks=blocks)
        self.assertEqual((job.state, set(job.results), job.quiesced), (library.DONE, {0}, True))
        for one, block in zip(hashes, blocks):
            node.assert_block(self, driver.get(block), node.payload_of(one, PAYLOAD))

    def begin(self):
        """A node with a GPU that is ready, and an engine's driver."""
        cache = self.node()
        os.environ['KVTIER_FAKE_GPU'] = cache.environment['KVTIER_FAKE_GPU']
        self.addCleanup(os.environ.pop, 'KVTIER_FAKE_GPU')
        cache.start()
        self.ready(cache)
        return cache, Driver(cache.folder)


class Pull(Case):
    def test_a_block_is_read_only_once_the_engine_has_counted_its_step(self):
        cache, driver = self.begin()
        hashes = [node.hash_of('gated', i) for i in range(12)]
        with Lender(cache.socket(), driver) as client:
            client.connect(20)
            for i in range(12):
                driver.put(i, b'x' * PAYLOAD)
            result, job = client.begin('store', hashes, 20000000, gate_value=7)
            self.assertEqual(result, 0)
            for _ in range(200):   # long enough for blocks that do not wait
                client.lookup(hashes, 1000000)
            driver.step(6)
            self.assertEqual(cache.counters()['pulled_stored_blocks'], 0)
            for i, one in enumerate(hashes):
                driver.put(i, node.payload_of(one, PAYLOAD))
            driver.step(7)
            job = client.wait(job, 30)
            self.assertEqual((job.state, set(job.results), job.quiesced), (library.DONE, {0}, True))
            job = client.run('load', hashes, blocks=range(12, 24), gate_value=7)
            self.assertEqual((job.state, set(job.results), job.quiesced), (library.DONE, {0}, True))
            for i, one in enumerate(hashes):
                node.assert_block(self, driver.get(12 + i), node.payload_of(one, PAYLOAD))
        cache.stop()

    def test_a_daemon_that_is_killed_amid_copies_leaves_the_engine_quiescent_and_no_wrong_block(self):
        cache, driver = self.begin()
        with Lender(cache.socket(), driver) as client:
            for life, verb in enumerate(3 * ('store', 'load')):
                client.connect(20)
                self.bytes_go_and_come(driver, client, f'life {life}')
                hashes = [node.hash_of(f'life {life}', i) for i in range(12)] if verb == 'load' else \
                    [node.hash_of(f'amid {life}', i) for i in range(12)]
                for i, one in enumerate(hashes):
                    driver.put(i, node.payload_of(one, PAYLOAD))
                result, job = client.begin(verb, hashes, 20000000, blocks=range(12))
                self.assertEqual(result, 0)
                cache.kill()
                job = client.wait(job, 30)
                self.assertTrue(job.quiesced, f'{verb} of life {life}')
                cache.start()
                self.ready(cache)
                client.connect(20)
                job = client.run('load', hashes, blocks=range(12, 24))
                self.assertTrue(job.quiesced)
                for i, result in enumerate(job.results):
                    if result == 0:
                        node.assert_block(self, driver.get(12 + i), node.payload_of(hashes[i], PAYLOAD))
        cache.stop()

    def test_bytes_come_back_through_a_restart_and_the_death_of_the_process(self):
        cache, driver = self.begin()
        with Lender(cache.socket(), driver) as client:
            client.connect(20)
            self.bytes_go_and_come(driver, client, 'first')
            cache.stop()
            node.until(lambda: not client.is_connected(), 10, 'it is known that the daemon has gone')
            cache.start()
            client.connect(20)
            self.bytes_go_and_come(driver, client, 'restarted')
            os.kill(self.ready(cache)['pid'], signal.SIGKILL)
            node.until(lambda: not client.is_connected(), 10, 'it is known that the process has gone')
            client.connect(20)
            self.bytes_go_and_come(driver, client, 'killed')
            counters = cache.counters()
            self.assertEqual([counters[f'pulled_{way}_blocks'] for way in ('stored', 'loaded')], [24, 24])
        cache.stop()


if __name__ == '__main__':
    unittest.main()
