"""An engine's device memory, described so that another process can import it.

Through ctypes on the vendor's driver library, which the engine has loaded already; CUDA's calls and
HIP's are twins. Only memory that one call of the vendor's allocator made can be named by a handle:
expandable segments and other mapped memory are refused with the reason.
"""
from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

HANDLE_BYTES = 64
BUS_ID_BYTES = 16
IS_IPC_CAPABLE = 10       # attribute of a pointer: CUDA and HIP number it alike

LIBRARIES = {'cuda': ('libcuda.so.1',),
             'rocm': ('libamdhip64.so.7', 'libamdhip64.so.6', 'libamdhip64.so.5')}


class Handle(ctypes.Structure):
    _fields_ = [('bytes', ctypes.c_char * HANDLE_BYTES)]


_u64, _size, _int, _ptr = ctypes.c_uint64, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p
# ours: CUDA's name, HIP's name, arguments
CALLS = {
    'device_get': ('cuDeviceGet', 'hipDeviceGet', [ctypes.POINTER(_int), _int]),
    'bus_id': ('cuDeviceGetPCIBusId', 'hipDeviceGetPCIBusId', [_ptr, _int, _int]),
    'memory_range': ('cuMemGetAddressRange_v2', 'hipMemGetAddressRange',
                     [ctypes.POINTER(_u64), ctypes.POINTER(_size), _u64]),
    'pointer_attribute': ('cuPointerGetAttribute', 'hipPointerGetAttribute', [_ptr, _int, _u64]),
    'ipc_handle': ('cuIpcGetMemHandle', 'hipIpcGetMemHandle', [ctypes.POINTER(Handle), _u64]),
    'word_write': ('cuStreamWriteValue64_v2', 'hipStreamWriteValue64',
                   [_ptr, _u64, _u64, ctypes.c_uint]),
}


class DeviceError(OSError):
    """The driver is not there, or this memory cannot be lent; the text says why."""


@dataclass
class Region:
    """struct kvtier_region of one allocation, or of a part of it."""
    address: int
    size: int
    handle_offset: int
    handle: bytes


class Driver:
    """The calls of one vendor's driver. The calling thread has the device's context."""

    _device_get: Any
    _bus_id: Any
    _memory_range: Any
    _pointer_attribute: Any
    _ipc_handle: Any
    _word_write: Any

    def __init__(self, vendor: str, path: str = ''):
        """vendor: 'cuda' or 'rocm'. path: instead of the vendor's own names."""
        self._library = _opened((path,) if path else LIBRARIES[vendor])
        for ours, (cuda, hip, arguments) in CALLS.items():
            name = cuda if vendor == 'cuda' else hip
            call = getattr(self._library, name, None)
            if call is None:
                raise DeviceError(f'the driver has no call {name}')
            call.argtypes, call.restype = arguments, _int
            setattr(self, '_' + ours, call)

    def _check(self, result: int, what: str) -> None:
        if result != 0:
            raise DeviceError(f'the driver cannot {what}: error {result}')

    def bus_id(self, ordinal: int) -> str:
        """Of the device that the engine counts as `ordinal`."""
        device, text = _int(), ctypes.create_string_buffer(BUS_ID_BYTES)
        self._check(self._device_get(ctypes.byref(device), ordinal), f'find device {ordinal}')
        self._check(self._bus_id(text, BUS_ID_BYTES, device), f'name the bus of device {ordinal}')
        return text.value.decode().lower()

    def region(self, address: int, count: int) -> Region:
        """`count` bytes of an allocation. DeviceError: it has no handle."""
        base, size = _u64(), _size()
        self._check(self._memory_range(ctypes.byref(base), ctypes.byref(size), address),
                    'find the allocation of the KV cache')
        capable = ctypes.c_uint(1)     # where it is not told, the handle itself tells
        self._pointer_attribute(ctypes.byref(capable), IS_IPC_CAPABLE, address)
        end = base.value + size.value
        if not capable.value or not base.value <= address <= address + count <= end:
            raise DeviceError('the KV cache is not memory of one allocation (expandable segments, '
                              'sleep mode): it has no handle')
        handle = Handle()
        self._check(self._ipc_handle(ctypes.byref(handle), base.value),
                    'make a handle of the KV cache (MIG and some containers do not allow it)')
        return Region(address, count, address - base.value,
                      ctypes.string_at(ctypes.byref(handle), HANDLE_BYTES))

    def raise_word(self, stream: int, address: int, value: int) -> None:
        """The word at `address` is `value` when the stream has done all it was given before."""
        self._check(self._word_write(stream, address, value, 0), 'write words from a stream')


def _opened(names: Sequence[str]) -> ctypes.CDLL:
    reasons = []
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            reasons.append(str(error))
    raise DeviceError('the driver cannot be loaded: ' + '; '.join(reasons))


def regions_of(driver: Driver, spans: Sequence[tuple[int, int]]) -> list[Region]:
    """Of (address, bytes) each. What lies in one allocation becomes one region, as regions must
    not overlap."""
    found: list[Region] = []
    for address, count in sorted(spans):
        new = driver.region(address, count)
        last = found[-1] if found else None
        if last is not None and address - new.handle_offset == last.address - last.handle_offset:
            last.size = max(last.size, address + count - last.address)
        else:
            found.append(new)
    return found
