#!/usr/bin/env python3
"""Stand-ins for the CUDA libraries that PyPI's torch links, so that torch imports without them.

    tests/vllm/stand_ins.py FOLDER      FOLDER: torch/lib of an environment

Each missing library becomes a small one with the names that torch wants from it; every function
answers 100, which is CUDA's "no device". Nothing is written where the real library is there.
"""
from __future__ import annotations

import glob
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field

NO_DEVICE = 100
CUDA_LIBRARY = re.compile(r'lib(cu|nv|nccl)')
CUDA_FUNCTION = re.compile(r'(cu|nv|nccl|__cuda)\w*$')
COMMAND_SECONDS_MAX = 300


@dataclass
class Wanted:
    """What the libraries of a folder want from outside it."""
    missing: set[str] = field(default_factory=set)                   # libraries
    versions: dict[str, set[str]] = field(default_factory=dict)      # library: its versions
    by_version: dict[str, set[str]] = field(default_factory=dict)    # version ('': none): names
    defined: set[str] = field(default_factory=set)


def output_of(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          text=True, timeout=COMMAND_SECONDS_MAX).stdout


def read_versions(path: str, wanted: Wanted) -> None:
    """Which versions of which libraries it needs: readelf names a library, then its versions."""
    library = ''
    for line in output_of('readelf', '--version-info', '--wide', path).splitlines():
        named = re.search(r'File: (\S+)', line)
        version = re.search(r'Name: (\S+) +Flags', line)
        if named:
            library = named.group(1)
        elif version and library:
            wanted.versions.setdefault(library, set()).add(version.group(1))


def read_names(path: str, wanted: Wanted) -> None:
    """Columns of readelf: number, value, size, type, binding, visibility, section, name@version."""
    for line in output_of('readelf', '--dyn-syms', '--wide', path).splitlines():
        columns = line.split()
        if len(columns) < 8 or not re.match(r'\d+:$', columns[0]):
            continue
        binding, section = columns[4], columns[6]
        name, _, version = columns[7].replace('@@', '@').partition('@')
        if section != 'UND':
            wanted.defined.add(name)
        elif binding == 'GLOBAL':
            wanted.by_version.setdefault(version, set()).add(name)


def read_folder(folder: str) -> Wanted:
    wanted = Wanted()
    for path in sorted(glob.glob(os.path.join(folder, '*.so'))):
        missing = re.findall(r'^\s*(\S+) => not found', output_of('ldd', path), re.M)
        wanted.missing.update(name for name in missing if CUDA_LIBRARY.match(name))
        read_versions(path, wanted)
        read_names(path, wanted)
    return wanted


def source_of(names: set[str]) -> str:
    return ''.join(f'int {name}(void) {{ return {NO_DEVICE}; }}\n' for name in sorted(names))


def version_script(by_version: dict[str, set[str]]) -> str:
    return ''.join(f'{version} {{ global: {" ".join(name + ";" for name in sorted(names))} }};\n'
                   for version, names in sorted(by_version.items()))


def build(folder: str, library: str, names: set[str], by_version: dict[str, set[str]]) -> None:
    """Built beside its place, so that a half-written library never stands there."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        source, script = os.path.join(work, 'names.c'), os.path.join(work, 'versions')
        with open(source, 'w', encoding='utf-8') as file:
            file.write(source_of(names))
        with open(script, 'w', encoding='utf-8') as file:
            file.write(version_script(by_version))
        built = os.path.join(work, library)
        options = [f'-Wl,--version-script={script}'] if by_version else []
        output_of('gcc', '-w', '-O1', '-fno-builtin', '-fPIC', '-shared', '-nostdlib',
                  f'-Wl,-soname,{library}', *options, '-o', built, source)
        os.replace(built, os.path.join(folder, library))


def build_all(folder: str) -> list[str]:
    """Returns the names of the libraries that it built."""
    wanted = read_folder(folder)
    # A name without a version may come from any library of the process, so each has them all.
    versionless = {name for name in wanted.by_version.get('', set()) - wanted.defined
                   if CUDA_FUNCTION.match(name)}
    for library in sorted(wanted.missing):
        by_version = {version: wanted.by_version[version]
                      for version in wanted.versions.get(library, set())
                      if version in wanted.by_version}
        build(folder, library, versionless.union(*by_version.values()), by_version)
    return sorted(wanted.missing)


if __name__ == '__main__':
    if len(sys.argv) != 2 or not os.path.isdir(sys.argv[1]):
        sys.exit(__doc__)
    for made in build_all(sys.argv[1]):
        print(made)
