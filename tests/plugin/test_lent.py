"""An engine's memory on a GPU lent to a real kvtierd, over the driver without a GPU of tests/gpu."""
import ctypes
import os
import sys
import time
import unittest
from unittest import mock

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), 'system')]
try:
    import torch
except ImportError as missing:
    raise unittest.SkipTest(f'torch is not here: {missing}')

import numpy   # noqa: E402
from kv_tensors import BLOCKS, engine, gather, layered, make_config, make_spec, scramble  # noqa: E402
import node         # noqa: E402
import test_gpus    # noqa: E402
from kvtier import device, header, library   # noqa: E402
from kvtier.vllm import layout, lent   # noqa: E402

test_gpus.skip_unless_there()
os.environ.setdefault('KVTIER_LIBRARY', os.path.join(node.BUILD, 'libkvtier.so'))
DEVICE_BIT = 1 << 56     # of the driver's addresses; without it they are this process's own
NAMES = ['layers.0', 'layers.1', 'layers.2']
SECOND = 1_000_000


class Driver(device.Driver):
    """Takes this process's addresses, which torch can be given, for the device's."""

    def region(self, address, count):
        found = super().region(address | DEVICE_BIT, count)
        return device.Region(address, found.size, found.handle_offset, found.handle)

    def raise_word(self, stream, address, value):
        super().raise_word(stream, address | DEVICE_BIT, value)


class Lent(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        """A node, and this process's context on its GPU. The driver knows one machine for all of
        a process's life."""
        cls.node = node.Node(cpu_mib=4, nvme_mib=16, gpus=test_gpus.GPU,
                             gpu_library=test_gpus.LIBRARY)
        cls.addClassCleanup(cls.node.__exit__)
        test_gpus.machine_make(cls.node)
        os.environ['KVTIER_FAKE_GPU'] = cls.node.environment['KVTIER_FAKE_GPU']
        cls.addClassCleanup(os.environ.pop, 'KVTIER_FAKE_GPU')
        cls.driver = Driver('cuda', test_gpus.LIBRARY)
        cls.calls = ctypes.CDLL(test_gpus.LIBRARY)
        context, stream = ctypes.c_void_p(), ctypes.c_void_p()
        assert cls.calls.cuInit(0) == 0
        assert cls.calls.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
        assert cls.calls.cuCtxSetCurrent(context) == 0
        assert cls.calls.cuStreamCreateWithPriority(ctypes.byref(stream), 1, 0) == 0
        cls.stream = stream.value
        cls.node.start()

    def setUp(self):
        self.lend()

    def must(self, result):
        self.assertEqual(result, 0)

    def tensor(self, like):
        """The tensor's twin in the device's memory."""
        address = ctypes.c_uint64()
        size = like.untyped_storage().nbytes()
        self.calls.cuMemAlloc_v2.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self.must(self.calls.cuMemAlloc_v2(ctypes.byref(address), size))
        memory = (ctypes.c_uint8 * size).from_address(address.value & ~DEVICE_BIT)
        raw = torch.frombuffer(memory, dtype=torch.uint8).view(like.dtype)
        return raw.as_strided(like.shape, like.stride(), like.storage_offset())

    def lend(self):
        spec = make_spec()
        tensors, caches = layered(spec, NAMES)
        whole = self.tensor(next(iter(caches.values())))
        self.caches = {name: whole.as_strided(one.shape, one.stride(), one.storage_offset())
                       for name, one in caches.items()}
        self.found = layout.layout_of(make_config([(NAMES, spec)], tensors), self.caches, engine())
        scramble(self.caches)
        with mock.patch.object(torch, 'zeros', lambda *size, dtype, device: self.tensor(
                torch.empty(*size, dtype=dtype))):
            self.lending = lent.Lending(self.found, self.driver, lambda: self.stream)
        group = self.found.groups[0]
        self.options = library.Options(
            'engine', library.WORKER | library.SCHEDULER, {'model_content': 'lent'},
            [library.Group('full', 16, group.payload_bytes, blocks_count=BLOCKS,
                           planes=group.planes)], socket=self.node.socket())

    def client(self):
        client = lent.Client(self.options, self.lending)
        self.addCleanup(client.close)
        return client

    def end(self, client, begun):
        result, job = begun
        self.assertEqual(result, 0)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            client.wait(SECOND)
            for one in client.poll():
                if one.job == job and one.quiesced:
                    return one
        raise AssertionError('it does not end')

    def test_blocks_are_pulled_and_come_back_proven(self):
        client = self.client()
        lent.prove(client, self.found, self.caches)
        before = [gather(self.found.groups[0], block) for block in range(BLOCKS)]
        key = library.block_array(os.urandom(96), numpy.array([0, 3, 4]))
        how = {'space': 0, 'group': 0, 'first_position': 0, 'deadline_us': 10 * SECOND}
        stored = self.end(client, client.store(key, parent=None, **how))
        self.assertEqual((stored.state, stored.good_count), (header.DONE, 3))
        scramble(self.caches, seed=8)
        untouched = gather(self.found.groups[0], 1)
        loaded = self.end(client, client.load(key, lease=0, **how))
        self.assertEqual(loaded.good_count, 3)
        self.assertEqual([gather(self.found.groups[0], block) for block in (0, 3, 4, 1)],
                         [before[0], before[3], before[4], untouched])

    def test_without_a_daemon_the_proof_says_why(self):
        self.options.socket = '/dev/null/kv.sock'
        with mock.patch.object(lent, 'CONNECT_US', 1000), \
                self.assertRaisesRegex(device.DeviceError, 'kv.sock'):
            lent.prove(self.client(), self.found, self.caches)


if __name__ == '__main__':
    unittest.main()
