"""A GPU's memory in the hands of an engine of the suite: by the driver's own calls, or as torch allocates it.

The driver is the vendor's, or the tests' own (tests/gpu/fake); both are asked by the same names. One device a process.
"""
import ctypes as c
import os
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, 'plugin'))
from kvtier.device import Driver as Lender   # noqa: E402
from kvtier.device import regions_of         # noqa: E402

WORD_BYTES = 4096   # what is kept of an allocation for the word that counts steps
COPY_SECONDS_MAX = 30.0
SHARED = {'cuda': ('libcuda.so.1',), 'rocm': ('libamdhip64.so.7', 'libamdhip64.so.6', 'libamdhip64.so.5')}
# ours: CUDA's name; HIP's engines stage, so that nothing of theirs is lent
CALLS = {
    'init': ('cuInit', [c.c_uint]),
    'count': ('cuDeviceGetCount', [c.POINTER(c.c_int)]),
    'get': ('cuDeviceGet', [c.POINTER(c.c_int), c.c_int]),
    'name': ('cuDeviceGetName', [c.c_char_p, c.c_int, c.c_int]),
    'bus': ('cuDeviceGetPCIBusId', [c.c_char_p, c.c_int, c.c_int]),
    'retain': ('cuDevicePrimaryCtxRetain', [c.POINTER(c.c_void_p), c.c_int]),
    'current': ('cuCtxSetCurrent', [c.c_void_p]),
    'stream': ('cuStreamCreateWithPriority', [c.POINTER(c.c_void_p), c.c_uint, c.c_int]),
    'query': ('cuStreamQuery', [c.c_void_p]),
    'allocate': ('cuMemAlloc_v2', [c.POINTER(c.c_uint64), c.c_size_t]),
    'free': ('cuMemFree_v2', [c.c_uint64]),
    'to_device': ('cuMemcpyHtoDAsync_v2', [c.c_uint64, c.c_char_p, c.c_size_t, c.c_void_p]),
    'to_host': ('cuMemcpyDtoHAsync_v2', [c.c_void_p, c.c_uint64, c.c_size_t, c.c_void_p]),
    'memory': ('cuMemGetInfo_v2', [c.POINTER(c.c_size_t), c.POINTER(c.c_size_t)]),
    'version': ('cuDriverGetVersion', [c.POINTER(c.c_int)]),
}


class Missing(Exception):
    """What a check needs is not on this machine; the text says what."""


def torch_or_missing():
    try:
        import torch   # pylint: disable=import-outside-toplevel
    except ImportError as error:
        raise Missing(f'no torch: {error}') from None
    return torch


class Calls:
    """The driver's calls, each of which must go well."""

    def __init__(self, path=''):
        path = path or SHARED['cuda'][0]
        try:
            library = c.CDLL(path)
        except OSError as error:
            raise Missing(f'no GPU driver: {error}') from None
        for ours, (name, arguments) in CALLS.items():
            call = getattr(library, name)
            call.argtypes, call.restype = arguments, c.c_int
            setattr(self, '_' + ours, call)
        self.must('init', 0)

    def raw(self, ours, *arguments):
        return getattr(self, '_' + ours)(*arguments)

    def must(self, ours, *arguments):
        result = self.raw(ours, *arguments)
        if result != 0:
            raise OSError(f'{CALLS[ours][0]}: error {result}')


def devices(path=''):
    """(bus id, name) of each device that the driver shows; Missing: there is none."""
    calls, count, found = Calls(path), c.c_int(), []
    calls.must('count', c.byref(count))
    for ordinal in range(count.value):
        device = c.c_int()
        name, bus = c.create_string_buffer(100), c.create_string_buffer(16)
        calls.must('get', c.byref(device), ordinal)
        calls.must('name', name, 100, device.value)
        calls.must('bus', bus, 16, device.value)
        found.append((bus.value.decode().lower(), name.value.decode()))
    if not found:
        raise Missing('the driver shows no GPU')
    return found


def driver_version(path=''):
    calls, version = Calls(path), c.c_int()
    calls.must('version', c.byref(version))
    return version.value


class Memory:
    """`count` bytes of the first device, and the word behind them; in torch's allocation where `is_torch`.

    A tensor of another is allocated before it, so that it does not begin where its allocation does.
    """

    def __init__(self, count, path='', is_torch=False):
        self.bytes, self.tensor = count, None
        if is_torch:
            torch = torch_or_missing()
            if not torch.cuda.is_available():
                raise Missing('torch sees no GPU')
            self.before = torch.zeros(1 << 20, dtype=torch.uint8, device='cuda:0')
            self.tensor = torch.zeros(count + WORD_BYTES, dtype=torch.uint8, device='cuda:0')
            self.torch_stream = torch.cuda.Stream()
            torch.cuda.synchronize()
        self.calls = Calls(path)
        context, self.stream, device = c.c_void_p(), c.c_void_p(), c.c_int()
        self.calls.must('get', c.byref(device), 0)
        self.calls.must('retain', c.byref(context), device.value)
        self.calls.must('current', context)
        if is_torch:
            self.stream, self.address = c.c_void_p(self.torch_stream.cuda_stream), self.tensor.data_ptr()
        else:
            self.calls.must('stream', c.byref(self.stream), 1, 0)
            address = c.c_uint64()
            self.calls.must('allocate', c.byref(address), count + WORD_BYTES)
            self.address = address.value
        self.word = self.address + count
        self.write(self.word, bytes(WORD_BYTES))
        lender = Lender('cuda', path)
        self.lender, self.name = lender, lender.bus_id(0)
        self.regions = regions_of(lender, [(self.address, count + WORD_BYTES)])

    def settle(self):
        """Until the stream is empty."""
        end = time.monotonic() + COPY_SECONDS_MAX
        while (result := self.calls.raw('query', self.stream)) == 600:   # CUDA_ERROR_NOT_READY
            if time.monotonic() > end:
                raise TimeoutError('the engine\'s own copy does not end')
        if result != 0:
            raise OSError(f'the engine\'s stream has failed: error {result}')

    def be_busy(self):
        """Gives the stream some tenths of a second of work, where torch is there to do it."""
        if self.tensor is not None:
            torch = torch_or_missing()
            with torch.cuda.stream(self.torch_stream):
                torch.cuda._sleep(500000000)   # cycles   # pylint: disable=protected-access

    def write(self, address, payload):
        self.calls.must('to_device', address, payload, len(payload), self.stream)
        self.settle()

    def read(self, address, count):
        payload = c.create_string_buffer(count)
        self.calls.must('to_host', payload, address, count, self.stream)
        self.settle()
        return payload.raw

    def step(self, value):
        """The word is `value` once the stream has done what it was given."""
        self.lender.raise_word(self.stream.value, self.word, value)
