"""The vendors' headers, fetched once into build/gpu: CUDA's from PyPI's wheels, HIP's from Debian's archive."""
import glob
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FOLDER = os.path.join(TOP, 'build/gpu')
# Folder: what to ask PyPI for. The newest driver interface, and the one with the batch call of 12.
CUDA = {'cuda-13': 'nvidia-cuda-runtime==13.0.96', 'cuda-12': 'nvidia-cuda-runtime-cu12==12.9.79'}
HIP_PACKAGE = 'libamdhip64-dev'
FETCH_SECONDS_MAX = 60


class Unavailable(unittest.SkipTest):
    """It cannot be had here; the text says why."""


def fetch(command, folder):
    try:
        done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=FETCH_SECONDS_MAX, check=False)
    except FileNotFoundError:
        raise Unavailable(f'there is no {command[0]} here') from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f'{command[0]} was not done after {FETCH_SECONDS_MAX} s') from None
    if done.returncode != 0:
        raise Unavailable(f'{command[0]}: {(done.stdout.strip().splitlines() or ["failed"])[-1]}')


def made(name, make):
    """The folder `name`, made by make(folder) unless it is there; never half made."""
    path = os.path.join(FOLDER, name)
    if not os.path.isdir(path):
        os.makedirs(FOLDER, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f'{name}-', dir=FOLDER) as folder:
            new = os.path.join(folder, 'new')
            os.mkdir(new)
            make(new)
            os.rename(new, path)
    return path


def cuda(name):
    """Where cuda.h of one of CUDA lies."""
    def make(folder):
        fetch([sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '--only-binary=:all:',
               '--platform', 'manylinux2014_x86_64', '-d', '.', CUDA[name]], folder)
        for wheel in glob.glob(os.path.join(folder, '*.whl')):
            shutil.unpack_archive(wheel, folder, 'zip')
            os.unlink(wheel)
    found = glob.glob(os.path.join(made(name, make), 'nvidia/*/include/cuda.h'))
    if not found:
        raise Unavailable(f'{CUDA[name]} brings no cuda.h')
    return os.path.dirname(found[0])


def hip():
    """Where hip/hip_runtime_api.h lies: the system's, else Debian's package, which is unpacked and not installed."""
    for path in ('/usr/include', '/opt/rocm/include'):
        if os.path.exists(os.path.join(path, 'hip/hip_runtime_api.h')):
            return path

    def make(folder):
        fetch(['apt-get', 'download', '-q', HIP_PACKAGE], folder)
        package = glob.glob(os.path.join(folder, '*.deb'))[0]
        fetch(['dpkg-deb', '-x', package, '.'], folder)
        os.unlink(package)
    return os.path.join(made('hip', make), 'usr/include')
