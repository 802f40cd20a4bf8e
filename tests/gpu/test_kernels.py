"""The kernels build with every compiler there is for them, and what is committed is what they give."""
import glob
import os
import re
import shutil
import subprocess
import tempfile
import unittest

import toolkits
from headers import TOP

KERNELS = 'transfer/kernels'
SOURCE = f'{KERNELS}/kv_copy.gpu'
FUNCTION = 'kv_copy_fragments'
NVIDIA = ('80', '86', '89', '90', '100', '103', '120')
REGISTERS_MAX = 64   # 65,536 of a multiprocessor for the 1,024 threads of a block
COMPILE_SECONDS_MAX = 120


def run(*command, folder=TOP, **variables):
    done = subprocess.run(command, cwd=folder, env=dict(os.environ) | variables, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=COMPILE_SECONDS_MAX,
                          check=False)
    return done.returncode, done.stdout


def contents(path):
    with open(path, 'rb') as file:
        return file.read()


class Kernels(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def build(self, *words, folder=TOP, **variables):
        status, output = run(f'{KERNELS}/build.sh', *words, folder=folder, **variables)
        self.assertEqual(status, 0, output)
        return output

    def copy_of_sources(self):
        shutil.copytree(os.path.join(TOP, KERNELS), os.path.join(self.folder, KERNELS))
        return self.folder


class Clang(Kernels):
    def need_amd(self):
        found = self.build('clang')
        if not found:
            self.skipTest('no clang with its ld.lld; .ci/deps gpu installs one')
        return found.split()[0]

    def test_the_committed_text_is_what_the_source_gives(self):
        if not shutil.which('clang-19'):
            self.skipTest('clang-19 is not installed; .ci/deps gpu installs it')
        path = os.path.join(self.folder, 'kv_copy.ptx')
        self.build('ptx', path)
        self.assertTrue(contents(path) == contents(os.path.join(TOP, KERNELS, 'kv_copy.ptx')),
                        'kv_copy.ptx is not what kv_copy.gpu gives; run make ptx')

    def test_any_clang_makes_the_text(self):
        for clang in ('clang-14', 'clang'):
            if shutil.which(clang):
                path = os.path.join(self.folder, 'kv_copy.ptx')
                self.build('ptx', path, CLANG=clang)
                self.assertIn(f'.visible .entry {FUNCTION}('.encode(), contents(path))

    def test_objects_for_amd_do_not_depend_on_where_they_are_made(self):
        self.need_amd()
        here, there = os.path.join(self.folder, 'here'), os.path.join(self.folder, 'there')
        self.build('amd', here)
        self.build('amd', there, folder=self.copy_of_sources())
        names = sorted(os.listdir(here))
        self.assertEqual(names, sorted(os.listdir(there)))
        listed = re.findall(r'^AMD_IMAGE\((\w+)\)$', contents(os.path.join(here, 'amd_images.inc')).decode(), re.M)
        self.assertEqual(names, sorted(['amd_images.inc', *(f'kv_copy.{name}.co' for name in listed)]))
        self.assertLessEqual({'gfx90a', 'gfx942', 'gfx1100'}, set(listed))
        for name in names:
            self.assertTrue(contents(os.path.join(here, name)) == contents(os.path.join(there, name)), name)

    def test_code_for_amd_keeps_nothing_in_scratch_memory(self):
        clang = self.need_amd()
        for architecture in ('gfx90a', 'gfx942', 'gfx1100', 'gfx1201'):
            status, output = run(clang, '-x', 'hip', '--cuda-device-only', '-nogpulib', '-nogpuinc', '-ffreestanding',
                                 '-I.', '-O3', f'--offload-arch={architecture}', '-S', '-o', '-', SOURCE)
            self.assertEqual(status, 0, output)
            for word in ('private_segment_fixed_size', 'vgpr_spill_count', 'sgpr_spill_count'):
                self.assertEqual(re.findall(rf'^ *\.{word}: +(\d+)$', output, re.M), ['0'], architecture)
            self.assertEqual(re.findall(r'\.value_kind: +(\w+)', output), ['by_value'], architecture)

    def test_without_a_clang_for_amd_the_list_is_empty(self):
        self.build('amd', self.folder, CLANG='no-clang-of-this-name')
        self.assertEqual(os.listdir(self.folder), ['amd_images.inc'])
        self.assertEqual(contents(os.path.join(self.folder, 'amd_images.inc')), b'')

    def test_a_wrong_source_is_an_error_and_leaves_no_list(self):
        self.need_amd()
        folder = self.copy_of_sources()
        with open(os.path.join(folder, SOURCE), 'a', encoding='utf-8') as file:
            file.write('#error planted\n')
        status, output = run(f'{KERNELS}/build.sh', 'amd', 'out', folder=folder)
        self.assertNotEqual(status, 0, output)
        self.assertIn('planted', output)
        self.assertFalse(os.path.exists(os.path.join(folder, 'out/amd_images.inc')))


class Nvidia(Kernels):
    def setUp(self):
        super().setUp()
        self.bin = toolkits.nvidia_for_tests()

    def check_use(self, output, architecture):
        """What ptxas -v said of the kernel."""
        self.assertRegex(output, r'\b0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads')
        registers = int(re.search(r'Used (\d+) registers', output).group(1))
        self.assertLessEqual(registers, REGISTERS_MAX, f'sm_{architecture}')

    def test_ptxas_takes_the_committed_text_for_every_gpu_from_a100_on(self):
        for architecture in NVIDIA:
            status, output = run(os.path.join(self.bin, 'ptxas'), '-v', '-Werror', f'-arch=sm_{architecture}', '-o',
                                 os.path.join(self.folder, 'kv_copy.cubin'), f'{KERNELS}/kv_copy.ptx')
            self.assertEqual(status, 0, output)
            self.check_use(output, architecture)

    def test_nvcc_builds_the_same_source(self):
        chosen = [word for architecture in NVIDIA
                  for word in ('-gencode', f'arch=compute_{architecture},code=sm_{architecture}')]
        path = os.path.join(self.folder, 'kv_copy.fatbin')
        status, output = run(os.path.join(self.bin, 'nvcc'), '-x', 'cu', '-I.', '-O3', '-Werror', 'all-warnings',
                             '-Xptxas', '-v', *chosen, '-fatbin', '-o', path, SOURCE)
        self.assertEqual(status, 0, output)
        self.assertGreater(os.path.getsize(path), 0)
        self.assertEqual(len(re.findall(f"Compiling entry function '{FUNCTION}'", output)), len(NVIDIA), output)
        for part in output.split('Compiling entry function')[1:]:
            self.check_use(part, re.search(r"'sm_(\d+)'", part).group(1))


class Hipcc(Kernels):
    def test_hipcc_builds_the_same_source(self):
        if not shutil.which('hipcc'):
            self.skipTest('hipcc is not installed')
        path = os.path.join(self.folder, 'kv_copy.hipfb')
        libraries = glob.glob('/usr/lib/*/amdgcn/bitcode')   # Debian's place, which its hipcc does not look into
        status, output = run('hipcc', '--genco', '-x', 'hip', '-I.', '-O3', '--offload-arch=gfx90a',
                             *(f'--rocm-device-lib-path={one}' for one in libraries), '-o', path, SOURCE)
        self.assertEqual(status, 0, output)
        self.assertIn(FUNCTION.encode(), contents(path))
