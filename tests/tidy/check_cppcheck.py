#!/usr/bin/env python3
"""cppcheck finds nothing that is not in tests/tidy/cppcheck.txt, with a reason each."""
import os
import shutil
import subprocess
import tempfile

from sources import TOP, files, finish


FAULT = 'int planted(void);\nint planted(void)\n{\n\tint *none = 0;\n\treturn *none;\n}\n'


def check(sources):
    return subprocess.run(
        ['cppcheck', '--quiet', '--enable=warning,performance,portability', '--inline-suppr', '--std=c11', '-I.',
         '-D_GNU_SOURCE', '-DHAVE_IO_URING=1', '-DHAVE_ROCKSDB=1', '-DKVTIER_FAILPOINTS=1', '-DKVTIER_VERSION="0"',
         '-DHAVE_SECCOMP=1',
         '--suppressions-list=tests/tidy/cppcheck.txt', f'-j{min(os.cpu_count() or 1, 8)}',
         '--template={file}:{line}: {severity} {id}: {message}'] + sources,
        cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)


def main():
    if not shutil.which('cppcheck'):
        print('SKIP cppcheck: not installed')
        return
    # A definition that it does not understand makes it find nothing anywhere, and say nothing.
    with tempfile.NamedTemporaryFile('w', suffix='.c') as fault:
        fault.write(FAULT)
        fault.flush()
        if 'nullPointer' not in check([fault.name]).stderr:
            finish(['cppcheck does not find a planted fault'])
    result = check([path for path in files('.c') if not path.startswith('tests/')])
    finish([line for line in result.stderr.splitlines() if line.strip()] +
           ([f'cppcheck: exit status {result.returncode}: {result.stdout}'] if result.returncode != 0 else []))


main()
