"""client/kvtier.h in ctypes: its numbers, its structures, and what each function takes and returns.

Whoever calls libkvtier from Python begins here; library.py is the calls in Python's words.
"""
from __future__ import annotations

import ctypes

SCHEDULER, WORKER = 1, 2
GROUP_KINDS = {'full': 0, 'window': 1, 'state': 2}
REGION_HANDLE, REGION_FDS = 1, 2
DONE, FAILED, CANCELLED, EXPIRED = 1, 2, 3, 4
HINT_END, HINT_RETAIN, HINT_PREFETCH, HINT_PIN, HINT_TOUCH = range(5)
HASH_BYTES = 32
TAG_BYTES = 16
LOOKUP_KEYS_MAX = 65536
HINT_KEYS_MAX = 1024
FETCH_KEYS_MAX = 16384
TICKET_BYTES = 1024
PRESENT, STREAM = 0, 1
IDENTITY_FIELDS = ('model_content', 'dtype', 'quantisation', 'layout', 'split', 'speculation',
                   'hash_algorithm', 'hash_seed', 'weights_version')


class Plane(ctypes.Structure):
    _fields_ = [('base', ctypes.c_void_p), ('stride', ctypes.c_uint64), ('bytes', ctypes.c_uint64)]


class Group(ctypes.Structure):
    _fields_ = [('kind', ctypes.c_int), ('tokens_per_block', ctypes.c_uint32),
                ('window_tokens', ctypes.c_uint32), ('segments_count', ctypes.c_uint32),
                ('blocks_count', ctypes.c_uint32), ('planes_count', ctypes.c_uint32),
                ('planes', ctypes.POINTER(Plane)), ('payload_bytes', ctypes.c_uint64)]


class Identity(ctypes.Structure):
    _fields_ = [(name, ctypes.c_char_p) for name in IDENTITY_FIELDS]


class Region(ctypes.Structure):
    _fields_ = [('address', ctypes.c_uint64), ('bytes', ctypes.c_uint64), ('kind', ctypes.c_int),
                ('handle_offset', ctypes.c_uint64), ('handle', ctypes.c_char_p),
                ('fds_count', ctypes.c_uint), ('fds', ctypes.POINTER(ctypes.c_int)),
                ('fd_bytes', ctypes.POINTER(ctypes.c_uint64))]


class Device(ctypes.Structure):
    _fields_ = [('name', ctypes.c_char_p), ('regions_count', ctypes.c_uint),
                ('regions', ctypes.POINTER(Region)), ('word_address', ctypes.c_uint64)]


class Options(ctypes.Structure):
    _fields_ = [('socket', ctypes.c_char_p), ('engine', ctypes.c_char_p),
                ('roles', ctypes.c_uint), ('shard', ctypes.c_uint), ('world', ctypes.c_uint),
                ('identity', Identity), ('groups_count', ctypes.c_uint),
                ('groups', ctypes.POINTER(Group)), ('connect_us_max', ctypes.c_uint64),
                ('device', ctypes.POINTER(Device))]


class Keys(ctypes.Structure):
    _fields_ = [('group', ctypes.c_uint32), ('first_position', ctypes.c_uint32),
                ('count', ctypes.c_uint32), ('hashes', ctypes.c_char_p)]


class Lookup(ctypes.Structure):
    _fields_ = [('space', ctypes.c_uint32), ('sections_count', ctypes.c_uint32),
                ('sections', ctypes.POINTER(Keys)), ('tag', ctypes.c_char_p),
                ('lease_us', ctypes.c_uint64), ('cost_a', ctypes.c_double),
                ('cost_b', ctypes.c_double), ('cost_c', ctypes.c_double)]


class Found(ctypes.Structure):
    """What a lookup found; see struct kvtier_found."""
    _fields_ = [('lease', ctypes.c_uint64), ('usable_tokens', ctypes.c_uint32),
                ('worth_tokens', ctypes.c_uint32), ('present_count', ctypes.c_uint32),
                ('tier_tokens', ctypes.c_uint32 * 3), ('restore_us', ctypes.c_uint32),
                ('present', ctypes.c_void_p), ('present_max', ctypes.c_uint32)]


class Source(ctypes.Structure):
    _fields_ = [('peer', ctypes.c_char_p), ('ticket', ctypes.c_char_p), ('mode', ctypes.c_int),
                ('second', ctypes.c_char_p)]


class Fetch(ctypes.Structure):
    """A fetch of the daemon's; see struct kvtier_fetch."""
    _fields_ = [('number', ctypes.c_uint64), ('keys_count', ctypes.c_uint32)]


class Block(ctypes.Structure):
    _fields_ = [('hash', ctypes.c_uint8 * HASH_BYTES), ('route_key', ctypes.c_uint64),
                ('engine_block', ctypes.c_uint32)]


class Transfer(ctypes.Structure):
    _fields_ = [('space', ctypes.c_uint32), ('group', ctypes.c_uint32),
                ('first_position', ctypes.c_uint32), ('count', ctypes.c_uint32),
                ('blocks', ctypes.POINTER(Block)), ('parent', ctypes.c_char_p),
                ('tag', ctypes.c_char_p), ('lease', ctypes.c_uint64),
                ('deadline_us', ctypes.c_uint64), ('user', ctypes.c_void_p),
                ('gate_value', ctypes.c_uint64)]


class Completion(ctypes.Structure):
    _fields_ = [('job', ctypes.c_uint64), ('user', ctypes.c_void_p), ('is_store', ctypes.c_int),
                ('state', ctypes.c_int), ('quiesced', ctypes.c_int), ('count', ctypes.c_uint32),
                ('good_count', ctypes.c_uint32), ('results', ctypes.POINTER(ctypes.c_int))]


class Extra(ctypes.Structure):
    _fields_ = [('bytes', ctypes.c_char_p), ('bytes_count', ctypes.c_uint32)]


_ptr, _u32, _u64, _size = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_size_t
_text = ctypes.c_char_p
# Every pointer is declared: an undeclared one would be cut to an int.
ARGUMENTS = {
    'open': [ctypes.POINTER(_ptr), ctypes.POINTER(Options), _text, _size],
    'close': [_ptr],
    'is_connected': [_ptr],
    'connect': [_ptr, _u64, _text, _size],
    'fingerprint': [_ptr, _text],
    'space_open': [_ptr, _text, _u64, ctypes.POINTER(_u32)],
    'lookup': [_ptr, ctypes.POINTER(Lookup), _u64, ctypes.POINTER(Found)],
    'lease_release': [_ptr, _u64],
    'fetch': [_ptr, ctypes.POINTER(Lookup), ctypes.POINTER(Source), _u64, _u64, ctypes.POINTER(Fetch)],
    'fetch_wait': [_ptr, ctypes.POINTER(Fetch), _u64, ctypes.POINTER(Found)],
    'fetch_end': [_ptr, ctypes.POINTER(Fetch)],
    'ticket': [_ptr, ctypes.POINTER(Lookup), _u64, _u64, _text],
    'store': [_ptr, ctypes.POINTER(Transfer), ctypes.POINTER(_u64)],
    'load': [_ptr, ctypes.POINTER(Transfer), ctypes.POINTER(_u64)],
    'cancel': [_ptr, _u64],
    'poll': [_ptr, ctypes.POINTER(Completion), ctypes.c_uint],
    'wait': [_ptr, _u64],
    'forget': [_ptr, _u32, _u64],
    'hint': [_ptr, ctypes.c_int, _u32, ctypes.POINTER(Keys), _u64, _u64, ctypes.POINTER(_u64)],
    'stats': [_ptr, _text, _size, _u64],
    'block_read': [_ptr, _u32, _u32, _ptr, _size],
    'block_write': [_ptr, _u32, _u32, _ptr, _size],
    'route_keys': [_u64, _ptr, _size, _size, ctypes.POINTER(Extra), _ptr, _ptr],
    'strerror': [ctypes.c_int],
    'version': [],
}
RESULTS = {'close': None, 'cancel': None, 'strerror': _text, 'version': _text}


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Gives each function of a loaded libkvtier its types; the same library."""
    for name, arguments in ARGUMENTS.items():
        function = getattr(library, 'kvtier_' + name)
        function.argtypes = arguments
        function.restype = RESULTS.get(name, ctypes.c_int)
    return library
