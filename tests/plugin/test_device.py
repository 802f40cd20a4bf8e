"""device.py over the driver without a GPU of tests/gpu/fake: what is lent, and what cannot be."""
import ctypes
import os
import subprocess
import sys
import tempfile
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get('KVTIER_BUILD', os.path.join(TOP, 'build'))
sys.path.insert(0, os.path.join(TOP, 'plugin'))
from kvtier import device   # noqa: E402

CUDA = os.path.join(BUILD, 'tests', 'gpu', 'fake_driver.so')
ROCM = os.path.join(BUILD, 'tests', 'gpu', 'fake_rocm.so')
for path in (CUDA, ROCM):
    if not os.path.exists(path):
        raise unittest.SkipTest(f'{path} is not there: run make tests, or set KVTIER_BUILD')

BYTES = 1 << 20
CONTROL_BYTES = 1 << 20     # room for the page through which the driver is steered
SHARE_TYPE_PINNED, SHARE_FD, ON_DEVICE = 1, 1, 1

# An importer in a process of its own: it prints what it finds behind a handle.
IMPORTER = '''
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_char * 64)]
context, address, out = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.create_string_buffer(8)
assert library.cuInit(0) == 0
assert library.cuDevicePrimaryCtxRetain(ctypes.byref(context), 1) == 0
assert library.cuCtxSetCurrent(context) == 0
handle = Handle.from_buffer_copy(bytes.fromhex(sys.argv[2]))
library.cuIpcOpenMemHandle_v2.argtypes = [ctypes.c_void_p, Handle, ctypes.c_uint]
assert library.cuIpcOpenMemHandle_v2(ctypes.byref(address), handle, 1) == 0
copy = library.cuMemcpyDtoHAsync_v2
copy.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p]
stream = ctypes.c_void_p()
assert library.cuStreamCreateWithPriority(ctypes.byref(stream), 1, 0) == 0
assert copy(out, address.value + int(sys.argv[3]), 8, stream) == 0
while library.cuStreamQuery(stream) != 0:
    pass
print(int.from_bytes(out.raw, "little"))
'''


class Machine(unittest.TestCase):
    """A fake machine with GPUs, and this process with a context on the second one."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix='kvtier-gpu-', dir='/dev/shm')
        cls.addClassCleanup(folder.cleanup)
        with open(os.path.join(folder.name, 'control'), 'wb') as control:
            control.truncate(CONTROL_BYTES)
        os.environ['KVTIER_FAKE_GPU'] = folder.name
        cls.addClassCleanup(os.environ.pop, 'KVTIER_FAKE_GPU')
        cls.library = ctypes.CDLL(CUDA)
        cls.library.cuMemAlloc_v2.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        context = ctypes.c_void_p()
        cls.must(cls.library.cuInit(0))
        cls.must(cls.library.cuDevicePrimaryCtxRetain(ctypes.byref(context), 1))
        cls.must(cls.library.cuCtxSetCurrent(context))
        cls.driver = device.Driver('cuda', CUDA)

    @staticmethod
    def must(result):
        assert result == 0, result

    def allocated(self, count=BYTES):
        address = ctypes.c_uint64()
        self.must(self.library.cuMemAlloc_v2(ctypes.byref(address), count))
        return address.value

    def stream(self):
        stream = ctypes.c_void_p()
        self.must(self.library.cuStreamCreateWithPriority(ctypes.byref(stream), 1, 0))
        return stream.value


class Lending(Machine):
    def test_a_device_is_named_by_its_place_on_the_bus(self):
        self.assertEqual([self.driver.bus_id(n) for n in (0, 1)], ['0000:17:00.0', '0000:65:00.0'])
        with self.assertRaisesRegex(device.DeviceError, 'device 7'):
            self.driver.bus_id(7)

    def test_memory_inside_an_allocation_is_named_by_handle_and_offset(self):
        base = self.allocated()
        region = self.driver.region(base + 4096, 8192)
        self.assertEqual((region.address, region.size, region.handle_offset),
                         (base + 4096, 8192, 4096))

    def test_another_process_finds_the_word_that_a_stream_has_raised(self):
        base = self.allocated()
        region = self.driver.region(base + 512, 8)
        stream = self.stream()
        self.driver.raise_word(stream, base + 512, 41)
        self.driver.raise_word(stream, base + 512, 42)
        while self.library.cuStreamQuery(ctypes.c_void_p(stream)) != 0:
            pass
        run = subprocess.run([sys.executable, '-c', IMPORTER, CUDA, region.handle.hex(),
                              str(region.handle_offset)], capture_output=True, text=True,
                             check=False, timeout=60)
        self.assertEqual((run.stdout.strip(), run.returncode), ('42', 0), run.stderr)

    def test_parts_of_one_allocation_are_one_region_and_others_their_own(self):
        first, second = sorted((self.allocated(), self.allocated()))
        found = device.regions_of(self.driver, [(second, 64), (first + 8192, 100), (first, 4096)])
        self.assertEqual([(one.address, one.size, one.handle_offset) for one in found],
                         [(first, 8292, 0), (second, 64, 0)])

    def test_what_reaches_beyond_its_allocation_is_refused(self):
        base = self.allocated()
        with self.assertRaisesRegex(device.DeviceError, 'one allocation'):
            self.driver.region(base + BYTES - 8, 16)

    def test_memory_that_was_mapped_has_no_handle_and_is_refused(self):
        with self.assertRaisesRegex(device.DeviceError, 'expandable segments'):
            self.driver.region(self.mapped(), 4096)

    def mapped(self):
        """As expandable segments are: reserved addresses, with memory mapped into them."""
        library, size = self.library, 2 << 20
        how = (ctypes.c_uint32 * 16)(SHARE_TYPE_PINNED, SHARE_FD, ON_DEVICE)
        memory, address = ctypes.c_uint64(), ctypes.c_uint64()
        library.cuMemCreate.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p,
                                        ctypes.c_ulonglong]
        library.cuMemAddressReserve.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t,
                                                ctypes.c_uint64, ctypes.c_ulonglong]
        library.cuMemMap.argtypes = [ctypes.c_uint64, ctypes.c_size_t, ctypes.c_size_t,
                                     ctypes.c_uint64, ctypes.c_ulonglong]
        self.must(library.cuMemCreate(ctypes.byref(memory), size, how, 0))
        self.must(library.cuMemAddressReserve(ctypes.byref(address), size, 0, 0, 0))
        self.must(library.cuMemMap(address.value, size, 0, memory.value, 0))
        return address.value

    def test_memory_of_nobody_is_refused(self):
        with self.assertRaisesRegex(device.DeviceError, 'find the allocation'):
            self.driver.region(1 << 40, 8)

    def test_a_driver_that_is_not_there_or_lacks_a_call_is_named(self):
        with self.assertRaisesRegex(device.DeviceError, 'cannot be loaded.*no-driver'):
            device.Driver('cuda', '/no-driver.so')
        with self.assertRaisesRegex(device.DeviceError, 'no call cuDeviceGet'):
            device.Driver('cuda', 'libc.so.6')

    def test_hips_calls_are_asked_for_by_hips_names(self):
        with self.assertRaisesRegex(device.DeviceError, 'no call hipPointerGetAttribute'):
            device.Driver('rocm', ROCM)    # the fake one does not export memory


if __name__ == '__main__':
    unittest.main()
