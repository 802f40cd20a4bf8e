"""NVIDIA's compiler from PyPI's wheels, in build/gpu/nvcc (126 MB fetched, 370 MB unpacked): python3 tests/gpu/toolkits.py

The suite gpu fetches it in CI alone, and uses it wherever it is.
"""
import glob
import os
import shutil
import sys
import unittest

import headers

VERSION = '13.5.37'
WHEELS = (f'nvidia-cuda-nvcc=={VERSION}', f'nvidia-cuda-crt=={VERSION}', f'nvidia-cuda-runtime=={VERSION}',
          f'nvidia-nvvm=={VERSION}', 'nvidia-cuda-cccl==13.3.5.0.6')
NAME = f'nvcc-{VERSION}'


def unpack(folder):
    headers.fetch([sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '--only-binary=:all:',
                   '--platform', 'manylinux_2_17_x86_64', '--platform', 'manylinux2014_x86_64',
                   '--platform', 'manylinux_2_12_x86_64', '--platform', 'manylinux2010_x86_64',
                   '-d', '.', *WHEELS], folder)
    for wheel in glob.glob(os.path.join(folder, '*.whl')):
        shutil.unpack_archive(wheel, folder, 'zip')
        os.unlink(wheel)
    for program in glob.glob(os.path.join(folder, 'nvidia/cu13/**/bin/**'), recursive=True):
        os.chmod(program, 0o755)


def is_there():
    return os.path.isdir(os.path.join(headers.FOLDER, NAME))


def nvidia():
    """The folder with nvcc and ptxas, fetched first where it is not there."""
    return os.path.join(headers.made(NAME, unpack), 'nvidia/cu13/bin')


def nvidia_for_tests():
    if not is_there() and os.environ.get('CI') != 'true':
        raise unittest.SkipTest('nvcc and ptxas are not in build/gpu; tests/gpu/toolkits.py fetches them')
    return nvidia()


if __name__ == '__main__':
    print(nvidia())
