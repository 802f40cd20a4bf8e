"""transfer/gpu_calls.h is what the vendors' headers say, and a row that is not does not build."""
import os
import re
import subprocess
import tempfile
import unittest

import headers

HERE = os.path.dirname(os.path.abspath(__file__))
CALLS = 'transfer/gpu_calls.h'
WARNINGS = ['-std=gnu11', '-D_GNU_SOURCE', '-Wall', '-Wextra', '-Werror', '-Wno-deprecated-declarations']
ROW = re.compile(r'^\t(both|cuda|hip)\((\w+), \w+,[^(]*\(([^()]*)\)\)(?= \\$|$)', re.M)


def compile_check(vendor, include, first='.'):
    """(status, what the compiler said) of one abi/*.c; files in `first` stand before the project's own."""
    done = subprocess.run([os.environ.get('CC', 'gcc'), *WARNINGS, '-fsyntax-only', '-I' + first, '-I' + headers.TOP,
                           '-isystem', include, os.path.join(HERE, 'abi', f'{vendor}.c')], cwd=headers.TOP,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


def types_of(arguments):
    return [' '.join(one.replace('\\', '').split()) for one in arguments.split(',')]


def swapped(text, row):
    """The table with two neighbouring arguments of a row in the wrong order, or None where all are of one type."""
    types = types_of(row.group(3))
    for n in range(len(types) - 1):
        if types[n] != types[n + 1]:
            types[n], types[n + 1] = types[n + 1], types[n]
            return text[:row.start(3)] + ', '.join(types) + text[row.end(3):]
    return None


class TestAbi(unittest.TestCase):
    def check(self, vendor, include):
        status, output = compile_check(vendor, include)
        self.assertEqual(status, 0, output)

    def test_every_row_is_what_cuda_13_declares(self):
        self.check('cuda', headers.cuda('cuda-13'))

    def test_every_row_is_what_cuda_12_declares(self):
        self.check('cuda', headers.cuda('cuda-12'))

    def test_every_row_is_what_hip_declares(self):
        self.check('hip', headers.hip())

    def plant(self, text, vendor, include):
        with tempfile.TemporaryDirectory() as folder:
            os.mkdir(os.path.join(folder, 'transfer'))
            with open(os.path.join(folder, CALLS), 'w', encoding='utf-8') as file:
                file.write(text)
            return compile_check(vendor, include, folder)

    def test_arguments_in_the_wrong_order_do_not_build(self):
        # In each row two that differ; a row of HIP's alone against HIP's header, the rest against CUDA's.
        with open(os.path.join(headers.TOP, CALLS), encoding='utf-8') as file:
            text = file.read()
        rows = list(ROW.finditer(text))
        self.assertGreater(len(rows), 40)
        planted = 0
        for row in rows:
            wrong = swapped(text, row)
            if wrong is None or row.group(2) == 'copy_batch_hip':   # newer than Debian's header
                continue
            vendor = 'hip' if row.group(1) == 'hip' else 'cuda'
            include = headers.hip() if vendor == 'hip' else \
                headers.cuda('cuda-12' if row.group(2) == 'copy_batch_12' else 'cuda-13')
            status, output = self.plant(wrong, vendor, include)
            self.assertNotEqual(status, 0, f'{row.group(2)} with its arguments in the wrong order was built')
            self.assertIn('incompatible', output)
            planted += 1
        self.assertGreater(planted, 25)

    def test_another_type_and_a_missing_argument_do_not_build(self):
        with open(os.path.join(headers.TOP, CALLS), encoding='utf-8') as file:
            text = file.read()
        for right, wrong in (('hipEventQuery, (gpu_event)', 'hipEventQuery, (gpu_stream)'),
                             ('hipFree, (gpu_address)', 'hipFree, (size_t)'),
                             ('(gpu_address *, gpu_ipc, unsigned)', '(gpu_address *, gpu_ipc)'),
                             ('cuMemRelease,', 'cuMemReleased,'),
                             ('kind(gpu_memory,   uint64_t,', 'kind(gpu_memory,   uint32_t,')):
            self.assertIn(right, text)
            self.assertNotEqual(self.plant(text.replace(right, wrong), 'cuda', headers.cuda('cuda-13'))[0], 0, right)


if __name__ == '__main__':
    unittest.main()
