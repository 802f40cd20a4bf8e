"""libkvtier and kvtierd may be updated one after the other; and the library runs on old systems, beside anything.

One minor version apart, both ways: the library, then the daemon, is built as the next minor version in a folder of its
own, and the two store, look up, load and find each other again after a restart. What the ordinary library needs of the
system is read out of it on every run.
"""
import ctypes
import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import library   # noqa: E402
import node      # noqa: E402

BLOCKS = 32
WAIT_US = 30000000
BUILD_SECONDS = 600
GLIBC_NEWEST = (2, 34)
LOADER = re.compile(r'ld-linux.*\.so\.\d+|ld64\.so\.\d+')   # libc's own other half


def own_version():
    with open(os.path.join(node.TOP, 'Makefile'), encoding='utf-8') as file:
        return re.search(r'^VERSION\s*:?=\s*(\S+)', file.read(), re.M).group(1)


def next_minor(version):
    major, minor = version.split('.')[:2]
    return f'{major}.{int(minor) + 1}.0'


def build(folder, *targets):
    """Builds programs of the next minor version into `folder`."""
    command = ['make', '-s', f'-j{min(os.cpu_count() or 1, 2)}', f'BUILD={folder}',
               f'VERSION={next_minor(own_version())}', 'FAILPOINTS=1', *(f'{folder}/{name}' for name in targets)]
    done = subprocess.run(command, cwd=node.TOP, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    if done.returncode != 0:
        raise AssertionError(f'{command}: {done.stderr[-3000:]}')


def readelf(*arguments):
    done = subprocess.run(['readelf', '--wide', *arguments, os.path.join(node.BUILD, 'libkvtier.so')],
                          capture_output=True, text=True, check=True)
    return done.stdout


class Versions(unittest.TestCase):
    """node.BUILD names where programs and the library are taken from: it is set for one start, or one load."""

    def setUp(self):
        self.ordinary = node.BUILD
        self.addCleanup(setattr, node, 'BUILD', self.ordinary)
        self.other = tempfile.mkdtemp(prefix='kvtier-version-')
        self.addCleanup(shutil.rmtree, self.other, ignore_errors=True)
        self.cache = node.Node(cpu_mib=4, nvme_mib=16)
        self.addCleanup(self.cache.__exit__)

    def daemon_start(self, folder):
        node.BUILD = folder
        self.cache.start()
        return self.cache.stats()['version']

    def client_open(self, folder):
        node.BUILD = folder
        client = library.Client(self.cache.socket(), blocks=2 * BLOCKS)
        self.addCleanup(client.close)
        client.library.kvtier_version.restype = ctypes.c_char_p
        client.connect()
        return client, client.library.kvtier_version().decode()

    def blocks_go_in_and_out(self, client, name):
        hashes = [node.hash_of(name, i) for i in range(BLOCKS)]
        for i, one in enumerate(hashes):
            client.put(i, node.payload_of(one, client.payload_bytes))
        self.assertEqual(client.run('store', hashes).good, BLOCKS)
        self.blocks_come_out(client, name)

    def blocks_come_out(self, client, name):
        hashes = [node.hash_of(name, i) for i in range(BLOCKS)]
        result, found = client.lookup(hashes, WAIT_US, lease_us=1000000)
        self.assertEqual((result, found.usable_tokens), (0, 16 * BLOCKS))
        self.assertEqual(found.present_count, BLOCKS)
        job = client.run('load', hashes, lease=found.lease, blocks=range(BLOCKS, 2 * BLOCKS))
        self.assertEqual((job.state, job.good), (library.DONE, BLOCKS))
        for i, one in enumerate(hashes):
            self.assertEqual(client.get(BLOCKS + i), node.payload_of(one, client.payload_bytes))
        self.assertEqual(client.lease_release(found.lease), 0)

    def both_work_together(self, daemon_folder, library_folder):
        """The versions of daemon and library."""
        daemon_version = self.daemon_start(daemon_folder)
        client, library_version = self.client_open(library_folder)
        self.blocks_go_in_and_out(client, 'before')
        self.cache.wait_quiet()
        self.cache.stop()
        self.assertLess(client.lookup([node.hash_of('before', 0)], 100000)[0], 0)
        self.daemon_start(daemon_folder)
        self.cache.wait_restored()
        client.connect()
        self.blocks_come_out(client, 'before')
        self.blocks_go_in_and_out(client, 'after')
        self.assertEqual(client.forget(WAIT_US), 0)
        self.assertEqual(set(client.run('load', [node.hash_of('after', 0)]).results), {-errno.ENOENT})
        return daemon_version, library_version

    def test_the_next_minor_library_works_with_this_daemon(self):
        build(self.other, 'libkvtier.so')
        versions = self.both_work_together(self.ordinary, self.other)
        self.assertEqual(versions, (own_version(), next_minor(own_version())))

    def test_the_next_minor_daemon_works_with_this_library(self):
        build(self.other, 'kvtierd')
        versions = self.both_work_together(self.other, self.ordinary)
        self.assertEqual(versions, (next_minor(own_version()), own_version()))


@unittest.skipUnless(shutil.which('readelf'), 'readelf (binutils) is not installed')
class Needs(unittest.TestCase):
    def test_the_library_needs_nothing_but_libc(self):
        needed = re.findall(r'\(NEEDED\).*\[(.*)\]', readelf('-d'))
        self.assertEqual([name for name in needed if not LOADER.fullmatch(name)], ['libc.so.6'])

    def test_no_symbol_is_newer_than_glibc_2_34(self):
        symbols = [line.split()[-1] for line in readelf('--dyn-syms').splitlines() if ' UND ' in line]
        versions = re.findall(r'Name: (\S+)', readelf('-V'))
        numbers = {tuple(int(part) for part in number.split('.'))
                   for number in re.findall(r'GLIBC_(\d+(?:\.\d+)+)', ' '.join(versions))}
        self.assertTrue(numbers, 'no versions were found')
        newer = sorted(number for number in numbers if number > GLIBC_NEWEST)
        self.assertEqual(newer, [], f'needed by some of {symbols}')

    def test_the_library_exports_its_calls_and_nothing_else(self):
        with open(os.path.join(node.TOP, 'client/kvtier.h'), encoding='utf-8') as file:
            declared = set(re.findall(r'^KVTIER_API[^;(]*?\b(kvtier_\w+)\(', file.read(), re.M))
        exported = set()
        for line in readelf('--dyn-syms').splitlines():
            words = line.split()
            if len(words) >= 8 and words[6] not in ('UND', 'ABS') and words[4] in ('GLOBAL', 'WEAK'):
                exported.add(words[7].split('@')[0])
        self.assertEqual(exported, declared)


if __name__ == '__main__':
    unittest.main()
