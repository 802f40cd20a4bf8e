"""What files say about KV blocks: digests of weights, configs and adapters, not names or paths.

Blocks of two engines are interchangeable only if both loaded the same content. Reading 140 GB to
find out would take longer than loading it, so weights are sampled: sizes, headers, and pages of
every tensor. Only the standard library is used, and nothing is ever downloaded.
"""
from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PAGE_BYTES = 4096
PAGES_OF_OTHER_FORMATS = 1024           # of a weight file that is not safetensors
SAFETENSORS_HEADER_BYTES_MAX = 100_000_000
TEXT_BYTES_MAX = 64 << 20
ADAPTER_WHOLE_BYTES_MAX = 64 << 20      # adapters up to here are read whole
FILES_MAX = 100_000
DEPTH_MAX = 64
READERS = 16                            # preads in flight, so that a disk's latency adds up less
RANGES_A_TASK = 96

WEIGHT_SUFFIXES = ('.safetensors', '.bin', '.pt', '.pth', '.gguf')
NOT_WEIGHTS = re.compile(r'(training_args|optimizer|scheduler|scaler|rng_state.*)\.(bin|pt|pth)')
# JSON files that cannot change the KV of given token ids.
NOT_CONFIG = re.compile(r'(tokenizer.*|vocab|special_tokens_map|added_tokens|generation_config|'
                        r'chat_template|trainer_state|.*\.index)\.json')
CONFIG_NAMES = frozenset(('_name_or_path', 'name_or_path', 'transformers_version',
                          '_commit_hash'))
# Rotary embeddings that are the same whatever the longest length is.
ROPE_PLAIN = frozenset(('default', 'linear', 'llama3', 'yarn', 'deepseek_yarn', 'mrope',
                        'proportional'))
_REPOSITORY = re.compile(r'[\w.-]+(/[\w.-]+)?')

Range = tuple[int, int]                 # offset, bytes


class ContentUnknown(Exception):
    """The content could not be found out; the text says what is missing and what would be right."""


def _framed(*parts: bytes) -> bytes:
    """Digest of parts, each with its length, so that no two lists of parts look the same."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(struct.pack('<Q', len(part)))
        digest.update(part)
    return digest.digest()


# Where weights are.

def cache_folder(download_dir: str | None) -> Path:
    """The Hugging Face cache, as its own library would choose it."""
    if download_dir:
        return Path(download_dir).expanduser()
    for name in ('HF_HUB_CACHE', 'HUGGINGFACE_HUB_CACHE'):
        if os.environ.get(name):
            return Path(os.environ[name]).expanduser()
    home = os.environ.get('HF_HOME')
    if not home:
        home = os.path.join(os.environ.get('XDG_CACHE_HOME') or '~/.cache', 'huggingface')
    return Path(home).expanduser() / 'hub'


def weights_folder(model: str, revision: str | None, download_dir: str | None) -> str:
    """The local folder (or single file) that `model` names, or its snapshot in the Hugging Face
    cache; ContentUnknown where there is neither."""
    if os.path.exists(model):
        return os.path.abspath(model)
    cache = cache_folder(download_dir)
    if not _REPOSITORY.fullmatch(model) or '..' in model:
        raise ContentUnknown(f'{model} is not a local folder; give the path of a folder that this '
                             'process can read')
    repository = cache / ('models--' + model.replace('/', '--'))
    snapshots = repository / 'snapshots'
    name = str(revision or 'main')
    if '..' in name:
        raise ContentUnknown(f'{name} is not a revision; give a branch, a tag or a commit')
    reference = repository / 'refs' / name
    try:
        commit = reference.read_text().strip() if reference.is_file() else name
    except (OSError, ValueError) as error:
        raise ContentUnknown(f'{reference} cannot be read ({error}); download the model again')
    if not re.fullmatch(r'[\w.-]+', commit) or not (snapshots / commit).is_dir():
        raise ContentUnknown(f'{model} at {name} is neither a local folder nor in {cache}; '
                             'download it there, or give the path of a local folder')
    return str(snapshots / commit)


def _files(folder: str) -> Iterator[str]:
    """Relative names of all files that are not hidden, in name order."""
    if os.path.isfile(folder):
        yield os.path.basename(folder)
        return
    names: list[str] = []

    def unreadable(error: OSError) -> None:
        raise ContentUnknown(f'{folder} cannot be read ({error.strerror}); make it readable')

    for top, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith('.')]
        relative = os.path.relpath(top, folder)
        names += [os.path.normpath(os.path.join(relative, name)) for name in files
                  if not name.startswith('.')]
        if len(names) > FILES_MAX:
            raise ContentUnknown(f'{folder} has more than {FILES_MAX} files; give the folder of '
                                 'the model itself')
    yield from sorted(names)


def _path(folder: str, name: str) -> str:
    return folder if os.path.isfile(folder) else os.path.join(folder, name)


def _is_weight(name: str) -> bool:
    base = os.path.basename(name)
    return base.endswith(WEIGHT_SUFFIXES) and not NOT_WEIGHTS.fullmatch(base)


def _is_config(name: str) -> bool:
    return name.endswith('.json') and not NOT_CONFIG.fullmatch(os.path.basename(name))


# What is read of a file.

def _pages(offset: int, size: int) -> list[Range]:
    """The first, the middle and the last page; all of it when that is not more."""
    if size <= 3 * PAGE_BYTES:
        return [(offset, size)] if size else []
    middle = offset + (size - PAGE_BYTES) // 2
    last = offset + size - PAGE_BYTES
    return [(offset, PAGE_BYTES), (middle, PAGE_BYTES), (last, PAGE_BYTES)]


def _strided(size: int) -> list[Range]:
    """PAGES_OF_OTHER_FORMATS pages evenly spread, the first and the last among them; all of a
    file that is not larger than these."""
    if size <= PAGES_OF_OTHER_FORMATS * PAGE_BYTES:
        return [(0, size)] if size else []
    return [(step * (size - PAGE_BYTES) // (PAGES_OF_OTHER_FORMATS - 1), PAGE_BYTES)
            for step in range(PAGES_OF_OTHER_FORMATS)]


def _read(file: int, offset: int, size: int, path: str) -> bytes:
    parts = []
    while size > 0:
        part = os.pread(file, min(size, 16 << 20), offset)
        if not part:
            raise ContentUnknown(f'{path} ends early; copy or download it again')
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return b''.join(parts)


def _tensor_ranges(header: bytes, data_offset: int, size: int, path: str) -> list[Range]:
    broken = ContentUnknown(f'{path} is not a whole safetensors file; copy or download it again')
    try:
        tensors = json.loads(header)
        spans = sorted(tuple(tensor['data_offsets']) for name, tensor in tensors.items()
                       if name != '__metadata__')
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise broken from None
    ranges: list[Range] = []
    for span in spans:
        if len(span) != 2 or not all(type(edge) is int for edge in span):
            raise broken
        begin, end = span
        if not 0 <= begin <= end <= size - data_offset:
            raise broken
        ranges += _pages(data_offset + begin, end - begin)
    return ranges


def _safetensors(file: int, size: int, path: str) -> list[Range]:
    """The whole header, and pages of each tensor."""
    broken = ContentUnknown(f'{path} is not a whole safetensors file; copy or download it again')
    if size < 8:
        raise broken
    header_bytes, = struct.unpack('<Q', _read(file, 0, 8, path))
    if header_bytes > min(SAFETENSORS_HEADER_BYTES_MAX, size - 8):
        raise broken
    header = _read(file, 8, header_bytes, path)
    return [(0, 8 + header_bytes)] + _tensor_ranges(header, 8 + header_bytes, size, path)


def _ranges_digest(file: int, ranges: list[Range], path: str) -> bytes:
    digest = hashlib.sha256()
    for offset, size in ranges:
        digest.update(struct.pack('<QQ', offset, size))
        digest.update(_read(file, offset, size, path))
    return digest.digest()


def _file_digest(path: str, name: str, whole: bool, readers: ThreadPoolExecutor) -> bytes:
    """Name, size and what is read of one weight file."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)   # a pipe would wait
    try:
        before = os.fstat(file)
        _require_file(before, path)
        size = before.st_size
        if whole:
            ranges = [(0, size)]
        elif name.endswith('.safetensors'):
            ranges = _safetensors(file, size, path)
        else:
            ranges = _strided(size)
        if hasattr(os, 'posix_fadvise'):    # single pages: what lies behind them is not wanted
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
        tasks = [ranges[first:first + RANGES_A_TASK]
                 for first in range(0, len(ranges), RANGES_A_TASK)]
        digests = list(readers.map(lambda task: _ranges_digest(file, task, path), tasks))
        after = os.fstat(file)
    finally:
        os.close(file)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ContentUnknown(f'{path} changed while it was read; start again when it is complete')
    return _framed(name.encode('utf-8', 'surrogateescape'), struct.pack('<Q', size), *digests)


def _weights_digest(folder: str, names: Iterable[str], whole: bool) -> bytes:
    with ThreadPoolExecutor(READERS) as readers:
        return _framed(*(_file_digest(_path(folder, name), os.path.normpath(name), whole, readers)
                         for name in names))


def _require_file(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ContentUnknown(f'{path} is not a regular file; move it away')


def _text(path: str) -> bytes:
    status = os.stat(path)
    _require_file(status, path)
    size = status.st_size
    if size > TEXT_BYTES_MAX:
        raise ContentUnknown(f'{path} has {size} bytes, too many for a config; move it away')
    return Path(path).read_bytes()


def _texts_digest(folder: str, names: Iterable[str]) -> bytes:
    return _framed(*(part for name in names for part in
                     (name.encode('utf-8', 'surrogateescape'), _text(_path(folder, name)))))


def _unreadable(error: OSError, folder: str) -> ContentUnknown:
    return ContentUnknown(f'{error.filename or folder} cannot be read ({error.strerror}); copy or '
                          'download it again, or make it readable')


# The digests.

def files_digest(folder: str) -> bytes:
    """SHA-256 of the weights in a folder (or of one weight file), 32 bytes.

    Of each weight file, in name order, subfolders included: its relative name, its size, and
    for safetensors the whole header and of each tensor the first, middle and last 4 KiB (all of
    it when small), for other formats 1,024 pages of 4 KiB spread evenly, first and last among
    them. All weight files count, whichever of several formats the engine loads, and so do the
    indices of sharded ones. Hidden files, locks and the optimizer's state do not. ContentUnknown
    where there are no weights, or not whole ones.
    """
    try:
        names = list(_files(folder))
        weights = [name for name in names if _is_weight(name)]
        if not weights:
            raise ContentUnknown(f'{folder} has no weight files ({", ".join(WEIGHT_SUFFIXES)}); '
                                 'give the folder that holds them')
        indices = [name for name in names if name.endswith('.index.json')]
        return _framed(b'weights', _texts_digest(folder, indices),
                       _weights_digest(folder, weights, whole=False))
    except OSError as error:
        raise _unreadable(error, folder) from error


def texts_digest(folder: str, with_code: bool = False) -> bytes:
    """SHA-256 of the JSON files of a folder that can change KV (config, quantisation, media
    preprocessing; not the tokenizer's, as keys are token ids), whole; and of its Python files."""
    try:
        names = [name for name in _files(folder)
                 if _is_config(name) or (with_code and name.endswith('.py'))]
        return _framed(b'texts', _texts_digest(folder, names))
    except OSError as error:
        raise _unreadable(error, folder) from error


def file_digest(path: str) -> bytes:
    """SHA-256 of one small file, whole."""
    try:
        return _framed(b'file', _text(path))
    except OSError as error:
        raise _unreadable(error, path) from error


def json_file(path: str) -> Any:
    """What a JSON file holds, or None when there is none that can be read."""
    try:
        return json.loads(_text(path))
    except (OSError, ValueError, RecursionError, ContentUnknown):
        return None


def without_names(config: Any) -> Any:
    """A model's config without the names that say only where it came from."""
    if isinstance(config, Mapping):
        return {key: without_names(part) for key, part in config.items()
                if key not in CONFIG_NAMES}
    if isinstance(config, (list, tuple)):
        return [without_names(part) for part in config]
    return config


def _rope_kinds(value: Any, is_rope: bool) -> set[str]:
    """Every kind of rotary embedding that a config names, at any depth."""
    kinds: set[str] = set()
    if isinstance(value, Mapping):
        for key, part in value.items():
            inside = is_rope or str(key).startswith('rope')
            if inside and key in ('rope_type', 'type') and isinstance(part, str):
                kinds.add(part)
            kinds |= _rope_kinds(part, inside)
    elif isinstance(value, (list, tuple)):
        for part in value:
            kinds |= _rope_kinds(part, is_rope)
    return kinds


def rope_depends_on_length(config: Any) -> bool:
    """Whether the longest length that an engine serves may choose the factors of a model's
    rotary embedding; a kind that is not known may do that."""
    return not _rope_kinds(config, False) <= ROPE_PLAIN


def _canonical(value: Any, where: str, depth: int = 0) -> Any:
    """`value` in lists, texts and numbers that JSON writes in one way only."""
    if depth > DEPTH_MAX:
        raise ContentUnknown(f'{where} is nested more than {DEPTH_MAX} deep; make it flatter')

    def inner(part: Any, name: object) -> Any:
        return _canonical(part, f'{where}.{name}', depth + 1)

    if isinstance(value, enum.Enum):        # before int and str: some enums are these as well
        return ['enum', type(value).__qualname__, value.name]
    if value is None or type(value) in (bool, int):
        return value
    if isinstance(value, str):
        return ['text', str(value)]
    if isinstance(value, (int, float)):
        return ['number', repr(value)]
    if isinstance(value, (bytes, bytearray)):
        return ['bytes', bytes(value).hex()]
    if isinstance(value, Mapping):
        pairs = [[inner(key, 'key'), inner(part, key)] for key, part in value.items()]
        return ['mapping', sorted(pairs, key=lambda pair: json.dumps(pair[0]))]
    if isinstance(value, (list, tuple)):
        return ['list', [inner(part, place) for place, part in enumerate(value)]]
    if isinstance(value, (set, frozenset)):
        return ['set', sorted((inner(part, 'member') for part in value), key=json.dumps)]
    if isinstance(value, type):
        return ['class', value.__module__, value.__qualname__]
    if dataclasses.is_dataclass(value):
        return ['object', type(value).__qualname__,
                [[part.name, inner(getattr(value, part.name, None), part.name)]
                 for part in dataclasses.fields(value)]]
    if type(value).__name__.lower().endswith('dtype') and '0x' not in repr(value):
        return ['dtype', repr(value)]
    raise ContentUnknown(f'{where} is a {type(value).__qualname__}, which has no canonical form; '
                         'give plain values')


def config_digest(mapping: Mapping[str, Any]) -> bytes:
    """SHA-256 of a mapping of settings in canonical form: plain values, containers of them,
    data classes, classes by name, enums and dtypes. ContentUnknown for anything else, as what
    has only an address for a name would differ at each start, or be the same by accident."""
    text = json.dumps(_canonical(mapping, 'settings'), ensure_ascii=True, allow_nan=False,
                      separators=(',', ':'))
    return hashlib.sha256(text.encode()).digest()


# Adapters.

def _adapter_files(folder: str) -> list[str]:
    if not os.path.isdir(folder):
        raise ContentUnknown(f'{folder} is not a folder with an adapter; give the path of one')
    return [name for name in _files(folder) if _is_weight(name) or _is_config(name)]


def adapter_digest(folder: str) -> bytes:
    """SHA-256 of an adapter's config and weights, 32 bytes. Weights of up to 64 MiB together are
    read whole, larger ones as files_digest() reads a model's."""
    try:
        names = _adapter_files(folder)
        weights = [name for name in names if _is_weight(name)]
        if not weights:
            raise ContentUnknown(f'{folder} has no adapter weights; give the folder that holds '
                                 'adapter_config.json and adapter_model.safetensors')
        size = sum(os.stat(os.path.join(folder, name)).st_size for name in weights)
        texts = [name for name in names if name not in weights]
        return _framed(b'adapter', _texts_digest(folder, texts),
                       _weights_digest(folder, weights, size <= ADAPTER_WHOLE_BYTES_MAX))
    except OSError as error:
        raise _unreadable(error, folder) from error


def folder_signature(folder: str) -> tuple[tuple[str, int, int, int], ...]:
    """Name, size, time of change and inode of an adapter's files: equal as long as nobody has
    written or replaced one. Costs a stat a file."""
    try:
        signature = []
        for name in _adapter_files(folder):
            status = os.stat(os.path.join(folder, name))
            signature.append((name, status.st_size, status.st_mtime_ns, status.st_ino))
        return tuple(signature)
    except OSError as error:
        raise _unreadable(error, folder) from error
