#!/usr/bin/env python3
"""Packs the plugin and a built libkvtier.so into a wheel; also what pip calls (PEP 517).

    plugin/wheel_backend.py LIBRARY FOLDER                  what `make wheel` does
    pip install --config-settings library=LIBRARY plugin/   LIBRARY: ../build/libkvtier.so

The same input gives the same bytes. A library that would not run where the tag promises it does is
refused. The version is VERSION of the Makefile; $KVTIER_VERSION goes before it.
"""
from __future__ import annotations

import base64
import hashlib
import os
import re
import struct
import sys
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(HERE)
LIBRARY_DEFAULT = os.path.join(TOP, 'build', 'libkvtier.so')
GLIBC_MINOR = 34   # manylinux_2_34; from 2.34 on, libc alone has the threads
MACHINES = {62: 'x86_64', 183: 'aarch64'}   # e_machine of ELF
SANITIZERS = (b'libasan.so', b'libtsan.so', b'libubsan.so', b'__asan_init',
              b'__tsan_init')
DATE = (1980, 1, 1, 0, 0, 0)   # the first that a zip file knows


class Refused(Exception):
    """No wheel can be made of this; the text says why, and what would be right."""


class UnsupportedOperation(Exception):
    """PEP 517's word for a hook that a backend does not have."""


def project() -> dict:
    try:
        import tomllib
    except ImportError:
        raise Refused(f'building a wheel needs Python 3.11 or newer, this is '
                      f'{sys.version.split()[0]}; the wheel runs with 3.10 too') from None
    with open(os.path.join(HERE, 'pyproject.toml'), 'rb') as file:
        return tomllib.load(file)['project']


def version() -> str:
    if os.environ.get('KVTIER_VERSION'):
        return os.environ['KVTIER_VERSION']
    with open(os.path.join(TOP, 'Makefile'), encoding='utf-8') as file:
        found = re.search(r'^VERSION\s*:?=\s*(\S+)', file.read(), re.M)
    if not found:
        raise Refused('the Makefile has no VERSION')
    return found.group(1)


def read_library(path: str) -> tuple[bytes, str]:
    """Its bytes, and the machine that it is for."""
    try:
        with open(path, 'rb') as file:
            content = file.read()
    except OSError as error:
        raise Refused(f'{path}: {error.strerror}; run make first, or name the library') from None
    if content[:6] != b'\x7fELF\x02\x01' or len(content) < 64:
        raise Refused(f'{path}: not a 64-bit little-endian ELF library')
    number = struct.unpack_from('<H', content, 18)[0]
    if number not in MACHINES:
        raise Refused(f'{path}: built for machine {number}; known are {MACHINES}')
    newest = max((int(minor) for minor in re.findall(rb'GLIBC_2\.(\d+)', content)), default=0)
    if newest > GLIBC_MINOR:
        raise Refused(f'{path}: needs glibc 2.{newest}, and the wheel promises 2.{GLIBC_MINOR}; '
                      'build it where glibc is older')
    for name in SANITIZERS:
        if name in content:
            raise Refused(f'{path}: built with a sanitizer ({name.decode()}); build without')
    return content, MACHINES[number]


def sources() -> dict[str, bytes]:
    """Every Python file of the package, whatever folders it comes to have."""
    found = {}
    for folder, _, names in os.walk(os.path.join(HERE, 'kvtier')):
        for name in names:
            if name.endswith('.py') or name == 'py.typed':
                path = os.path.join(folder, name)
                with open(path, 'rb') as file:
                    found[os.path.relpath(path, HERE).replace(os.sep, '/')] = file.read()
    if 'kvtier/__init__.py' not in found:
        raise Refused(f'{HERE}: no package kvtier there')
    return found


def metadata_text(settings: dict) -> str:
    lines = ['Metadata-Version: 2.1', f'Name: {settings["name"]}', f'Version: {version()}',
             f'Summary: {settings["description"]}', f'License: {settings["license"]}',
             f'Requires-Python: {settings["requires-python"]}',
             'Classifier: Operating System :: POSIX :: Linux']
    lines += [f'Requires-Dist: {needed}' for needed in settings.get('dependencies', [])]
    for extra, packages in sorted(settings.get('optional-dependencies', {}).items()):
        lines.append(f'Provides-Extra: {extra}')
        lines += [f"Requires-Dist: {needed} ; extra == '{extra}'" for needed in packages]
    with open(os.path.join(HERE, settings['readme']), encoding='utf-8') as file:
        readme = file.read()
    return '\n'.join(lines) + f'\nDescription-Content-Type: text/markdown\n\n{readme}'


def entry_points_text(settings: dict) -> str:
    groups = dict(settings.get('entry-points', {}))
    if 'scripts' in settings:
        groups['console_scripts'] = settings['scripts']
    return '\n'.join(f'[{group}]\n' + ''.join(f'{name} = {target}\n'
                                               for name, target in sorted(entries.items()))
                     for group, entries in sorted(groups.items()))


def record_line(path: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b'=').decode()
    return f'{path},sha256={digest},{len(content)}\n'


def write_zip(path: str, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path + '.new', 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if name.endswith('.so') else 0o100644) << 16
            archive.writestr(entry, content)
    os.replace(path + '.new', path)


def write_wheel(library: str, folder: str) -> str:
    """Returns the name of the wheel in `folder`; Refused when there is none to be made."""
    settings = project()
    content, machine = read_library(library)
    tag = f'py3-none-manylinux_2_{GLIBC_MINOR}_{machine}'
    stem = f'{settings["name"]}-{version()}'
    info = f'{stem}.dist-info'
    files = dict(sorted(sources().items()))
    files['kvtier/libkvtier.so'] = content
    files[f'{info}/METADATA'] = metadata_text(settings).encode()
    files[f'{info}/WHEEL'] = (f'Wheel-Version: 1.0\nGenerator: kvtier\nRoot-Is-Purelib: false\n'
                              f'Tag: {tag}\n').encode()
    entry_points = entry_points_text(settings)
    if entry_points:
        files[f'{info}/entry_points.txt'] = entry_points.encode()
    with open(os.path.join(TOP, 'LICENSE'), 'rb') as file:
        files[f'{info}/LICENSE'] = file.read()
    record = ''.join(record_line(path, bytes_) for path, bytes_ in files.items())
    files[f'{info}/RECORD'] = (record + f'{info}/RECORD,,\n').encode()
    os.makedirs(folder, exist_ok=True)
    write_zip(os.path.join(folder, f'{stem}-{tag}.whl'), files)
    return f'{stem}-{tag}.whl'


# ---- what pip calls ----

def get_requires_for_build_wheel(config_settings=None) -> list[str]:
    return []


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None) -> str:
    library = (config_settings or {}).get('library', LIBRARY_DEFAULT)
    return write_wheel(library, wheel_directory)


def build_sdist(sdist_directory, config_settings=None) -> str:
    raise UnsupportedOperation("the plugin's sources are kvtier's repository; there is no sdist")


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        print(os.path.join(sys.argv[2], write_wheel(sys.argv[1], sys.argv[2])))
    except Refused as reason:
        print(f'no wheel: {reason}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
