#!/usr/bin/env python3
"""cppcheck finds nothing that is not in tests/tidy/cppcheck.txt, with a reason each."""
import os
import shutil
import subprocess

from sources import TOP, files, finish


def main():
    if not shutil.which('cppcheck'):
        print('SKIP cppcheck: not installed')
        return
    sources = [path for path in files('.c') if not path.startswith('tests/')]
    result = subprocess.run(
        ['cppcheck', '--quiet', '--enable=warning,performance,portability', '--inline-suppr', '--std=c11', '-I.',
         '-D_GNU_SOURCE', '-DHAVE_IO_URING=1', '-DHAVE_ROCKSDB=1', '-DKVTIER_FAILPOINTS=1', '-DKVTIER_VERSION="0"',
         '-DHAVE_SECCOMP=1', '-Djson_array_foreach(a,i,v)=for(i=0;i<json_array_size(a)&&(v=json_array_get(a,i));i++)',
         '-Djson_object_foreach(o,k,v)=for(;(k=f(o,&v));)',
         '--suppressions-list=tests/tidy/cppcheck.txt', f'-j{min(os.cpu_count() or 1, 8)}',
         '--template={file}:{line}: {severity} {id}: {message}'] + sources,
        cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    finish([line for line in result.stderr.splitlines() if line.strip()] +
           ([f'cppcheck: exit status {result.returncode}: {result.stdout}'] if result.returncode != 0 else []))


main()
