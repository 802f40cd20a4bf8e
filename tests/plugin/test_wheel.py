"""The wheel: what it is called, what is in it, what it needs, and that it runs where it is put."""
import base64
import csv
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import zipfile

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get('KVTIER_BUILD', os.path.join(TOP, 'build')))
LIBRARY = os.path.join(BUILD, 'libkvtier.so')
BACKEND = os.path.join(TOP, 'plugin', 'wheel_backend.py')
SECONDS_MAX = 120
# Opens a client while no daemon is there: everything is a miss, and says so within its bound.
OPEN_A_CLIENT = '''
import kvtier, kvtier.library
group = kvtier.library.Group('full', 16, 4096)
options = kvtier.library.Options('wheel', kvtier.library.SCHEDULER, {'model_content': 'none'},
                                 [group], socket='nobody-listens-here', connect_us_max=1000)
client = kvtier.library.Client(options)
result, found = client.lookup([(0, 0, bytes(32))], 1000)
assert not client.is_connected() and found.usable_tokens == 0, (result, found.usable_tokens)
client.close()
print(kvtier.__file__, kvtier.version())
'''


def run(*command, **options):
    """The process's end; its output is text. Nothing of our own tree is on its path."""
    variables = {name: value for name, value in os.environ.items()
                 if name not in ('PYTHONPATH', 'PYTHONHOME', 'KVTIER_LIBRARY', 'LD_LIBRARY_PATH')}
    return subprocess.run(command, env=variables | options.pop('variables', {}), text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=SECONDS_MAX, check=False, **options)


def build(library, folder):
    return run(sys.executable, BACKEND, library, folder)


class Wheel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not os.path.exists(LIBRARY):
            raise unittest.SkipTest(f'{LIBRARY} is not built')
        if sys.version_info < (3, 11):
            raise unittest.SkipTest('building a wheel needs Python 3.11')
        cls.folder = tempfile.mkdtemp(prefix='kvtier-wheel-')
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        built = build(LIBRARY, cls.folder)
        assert built.returncode == 0, built.stdout
        cls.path = built.stdout.strip()
        cls.name = os.path.basename(cls.path)
        with zipfile.ZipFile(cls.path) as archive:
            cls.files = {name: archive.read(name) for name in archive.namelist()}
        cls.info = next(name.split('/')[0] for name in cls.files if name.endswith('/METADATA'))

    def text(self, name):
        return self.files[f'{self.info}/{name}'].decode()

    def test_the_version_is_the_makefiles(self):
        with open(os.path.join(TOP, 'Makefile'), encoding='utf-8') as file:
            version = re.search(r'^VERSION\s*:=\s*(\S+)', file.read(), re.M).group(1)
        self.assertTrue(self.name.startswith(f'kvtier-{version}-'), self.name)
        self.assertIn(f'\nVersion: {version}\n', self.text('METADATA'))

    def test_the_tag_says_any_python_3_and_this_machine_with_glibc_2_34(self):
        tag = f'py3-none-manylinux_2_34_{os.uname().machine}'
        self.assertTrue(self.name.endswith(f'-{tag}.whl'), self.name)
        self.assertIn(f'\nTag: {tag}\n', self.text('WHEEL'))
        self.assertIn('\nRoot-Is-Purelib: false\n', self.text('WHEEL'))

    def test_it_holds_every_source_the_library_and_the_licence_and_nothing_else(self):
        sources = set()
        for folder, _, names in os.walk(os.path.join(TOP, 'plugin', 'kvtier')):
            sources |= {os.path.relpath(os.path.join(folder, name), os.path.join(TOP, 'plugin'))
                        for name in names if name.endswith('.py') or name == 'py.typed'}
        rest = {'kvtier/libkvtier.so'} | {f'{self.info}/{name}' for name in
                                          ('METADATA', 'WHEEL', 'LICENSE', 'RECORD')}
        self.assertEqual(set(self.files) - {f'{self.info}/entry_points.txt'}, sources | rest)

    def test_its_record_has_the_hash_and_the_size_of_every_file(self):
        rows = list(csv.reader(io.StringIO(self.text('RECORD'))))
        self.assertEqual([row[0] for row in rows], list(self.files))
        for path, digest, size in rows[:-1]:
            wanted = base64.urlsafe_b64encode(hashlib.sha256(self.files[path]).digest())
            self.assertEqual(digest, 'sha256=' + wanted.decode().rstrip('='), path)
            self.assertEqual(int(size), len(self.files[path]), path)

    def test_it_needs_neither_torch_nor_vllm_nor_anything_else(self):
        needed = re.findall(r'^Requires-Dist: (.*)$', self.text('METADATA'), re.M)
        self.assertEqual([line for line in needed if 'extra ==' not in line], [])
        self.assertFalse([line for line in needed if re.match(r'torch|vllm', line)])

    @unittest.skipUnless(shutil.which('readelf'), 'readelf is not installed')
    def test_its_library_needs_libc_alone_and_nothing_newer_than_glibc_2_34(self):
        library = os.path.join(self.folder, 'packed.so')
        with open(library, 'wb') as file:
            file.write(self.files['kvtier/libkvtier.so'])
        needed = set(re.findall(r'NEEDED.*\[(.*)\]', run('readelf', '-dW', library).stdout))
        self.assertIn('libc.so.6', needed)
        self.assertFalse({name for name in needed if not name.startswith(('libc.', 'ld-linux'))})
        newest = max(int(minor) for minor in
                     re.findall(r'GLIBC_2\.(\d+)', run('readelf', '-VW', library).stdout))
        self.assertLessEqual(newest, 34)

    def test_building_it_again_gives_the_same_bytes(self):
        with tempfile.TemporaryDirectory() as folder:
            again = build(LIBRARY, folder).stdout.strip()
            with open(again, 'rb') as ours, open(self.path, 'rb') as first:
                self.assertEqual(ours.read(), first.read())


class WheelRefused(unittest.TestCase):
    def refusal(self, content):
        with tempfile.TemporaryDirectory() as folder:
            library = os.path.join(folder, 'library.so')
            if content is not None:
                with open(library, 'wb') as file:
                    file.write(content)
            built = build(library, os.path.join(folder, 'wheel'))
            self.assertEqual(built.returncode, 1, built.stdout)
            self.assertFalse(os.path.exists(os.path.join(folder, 'wheel')))
            return built.stdout

    @staticmethod
    def library(machine=62, rest=b''):
        return b'\x7fELF\x02\x01' + bytes(12) + bytes([machine, 0]) + bytes(64) + rest

    def test_a_library_that_is_not_there(self):
        self.assertIn('run make first', self.refusal(None))

    def test_a_file_that_is_no_library(self):
        self.assertIn('not a 64-bit', self.refusal(b'!<arch>\n'))

    def test_a_library_for_an_unknown_machine(self):
        self.assertIn('machine 21', self.refusal(self.library(machine=21)))

    def test_a_library_that_needs_a_newer_glibc_than_the_tag_promises(self):
        self.assertIn('needs glibc 2.38', self.refusal(self.library(rest=b'GLIBC_2.38\0')))

    def test_a_library_with_a_sanitizer(self):
        self.assertIn('sanitizer', self.refusal(self.library(rest=b'libasan.so.8\0')))


class Installed(unittest.TestCase):
    """In a virtual environment that has nothing but pip, without a network."""

    @classmethod
    def setUpClass(cls):
        if not os.path.exists(LIBRARY):
            raise unittest.SkipTest(f'{LIBRARY} is not built')
        cls.folder = tempfile.mkdtemp(prefix='kvtier-wheel-')
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        made = run(sys.executable, '-m', 'venv', os.path.join(cls.folder, 'venv'))
        if made.returncode != 0:
            raise unittest.SkipTest(f'no virtual environment (python3-venv): {made.stdout}')
        cls.python = os.path.join(cls.folder, 'venv', 'bin', 'python')

    def install(self, *arguments):
        result = run(self.python, '-m', 'pip', 'install', '--no-index', '--force-reinstall',
                     '--disable-pip-version-check', *arguments)
        self.assertEqual(result.returncode, 0, result.stdout)

    def use(self, program, **variables):
        return run(self.python, '-c', program, cwd=self.folder, variables=variables)

    def check_it_runs(self):
        result = self.use(OPEN_A_CLIENT)
        self.assertEqual(result.returncode, 0, result.stdout)
        path, version = result.stdout.split()[:2]
        self.assertTrue(path.startswith(self.folder), path)
        self.assertRegex(version, r'^\d+\.\d+\.\d+')

    def test_a_wheel_opens_a_client_that_answers_misses_without_a_daemon(self):
        built = build(LIBRARY, self.folder)
        self.assertEqual(built.returncode, 0, built.stdout)
        self.install(built.stdout.strip())
        self.check_it_runs()
        result = self.use('import kvtier; kvtier.version()', KVTIER_LIBRARY='/nothing/there.so')
        self.assertNotEqual(result.returncode, 0, 'a named library is never replaced by another')
        self.assertIn('/nothing/there.so', result.stdout)

    def test_pip_installs_from_the_sources_with_a_library_that_is_named(self):
        self.install('--config-settings', f'library={LIBRARY}', os.path.join(TOP, 'plugin'))
        self.check_it_runs()


if __name__ == '__main__':
    unittest.main()
