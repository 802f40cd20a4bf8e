#!/usr/bin/env python3
"""The GPU suite with all that it runs, in one folder, for a machine on which nothing can be built or installed.

    tests/gpu/bundle.py [--build build] [--output build/gpu-suite]
    build/gpu-suite/run --json results.json     there; any suite.py option

It holds the programs, the libraries of Debian that they are linked with (not libc's own), and the suite's Python. The
machine needs Linux on the same processor, a libc that is not older, Python 3.10, and for some checks torch.
"""
import argparse
import glob
import os
import re
import shutil
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAMS = ('kvtierd', 'kvtier', 'kvtier-bench', 'libkvtier.so')
PYTHON = ('tests/gpu/suite*.py', 'tests/system/*.py', 'plugin/kvtier/*.py')
OF_LIBC = re.compile(r'(libc|libm|libpthread|libdl|librt|libresolv)\.so|ld-linux')
RUN = '''#!/bin/sh
here=$(dirname "$(realpath "$0")")
LD_LIBRARY_PATH="$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" PYTHONDONTWRITEBYTECODE=1
export LD_LIBRARY_PATH PYTHONDONTWRITEBYTECODE
exec python3 "$here/tests/gpu/suite.py" --build "$here/bin" "$@"
'''


def libraries(path):
    """What it is linked with: the files."""
    said = subprocess.run(['ldd', path], capture_output=True, text=True, check=True).stdout
    missing = re.findall(r'(\S+) => not found', said)
    if missing:
        raise FileNotFoundError(f'{path} needs {", ".join(missing)}, which is not here')
    return [found for name, found in re.findall(r'(\S+) => (/\S+)', said) if not OF_LIBC.match(name)]


def stripped(source, target):
    shutil.copy2(source, target)
    if shutil.which('strip'):
        subprocess.run(['strip', '--strip-unneeded', target], check=True)


def bundle(build, output):
    shutil.rmtree(output, ignore_errors=True)
    for name in ('bin', 'lib'):
        os.makedirs(os.path.join(output, name))
    needed = set()
    for name in PROGRAMS:
        path = os.path.join(build, name)
        if not os.path.exists(path):
            raise FileNotFoundError(f'{path} is not there: make all, or name another folder by --build')
        stripped(path, os.path.join(output, 'bin', name))
        needed.update(libraries(path))
    for path in sorted(needed):
        stripped(os.path.realpath(path), os.path.join(output, 'lib', os.path.basename(path)))
    for pattern in PYTHON:
        for path in glob.glob(os.path.join(TOP, pattern)):
            target = os.path.join(output, os.path.relpath(path, TOP))
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copy2(path, target)
    commit = subprocess.run(['git', '-C', TOP, 'describe', '--always', '--dirty', '--abbrev=40'], capture_output=True,
                            text=True, check=False).stdout.strip()
    with open(os.path.join(output, 'commit'), 'w', encoding='ascii') as file:
        file.write(commit + '\n')
    run = os.path.join(output, 'run')
    with open(run, 'w', encoding='ascii') as file:
        file.write(RUN)
    os.chmod(run, 0o755)
    return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(output) for name in names)


def main():
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    parser.add_argument('--build', default=os.path.join(TOP, 'build'), help='folder of the programs (default: build)')
    parser.add_argument('--output', default=os.path.join(TOP, 'build/gpu-suite'),
                        help='the folder to make; what is there goes (default: build/gpu-suite)')
    arguments = parser.parse_args()
    try:
        size = bundle(arguments.build, arguments.output)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    print(f'{arguments.output}: {size >> 20} MiB')
    return 0


if __name__ == '__main__':
    sys.exit(main())
