#!/usr/bin/env python3
"""docs/RELIABILITY.md: each test it names is there, each fault test is named, its figures are those of the records."""
import re
import subprocess

from sources import TOP, files, finish, read

DOCUMENT = 'docs/RELIABILITY.md'
NAMED = re.compile(r'`(tests/[\w/]+\.(?:py|c))`(?::((?: `\w+`)+))?')


def check_names(text):
    """Names that are not there."""
    for path, names in NAMED.findall(text):
        content = read(path)
        for name in re.findall(r'`(\w+)`', names or ''):
            if not re.search(rf'\b{name}\(', content):
                yield f'{DOCUMENT}: {path} has no {name}'


def check_faults(text):
    """Tests of faults that no row speaks of."""
    for path in files('.py'):
        if not path.startswith('tests/system/test_faults_'):
            continue
        if f'`{path}`' not in text:
            yield f'{DOCUMENT}: {path} is in no row'


def main():
    text = read(DOCUMENT)
    complaints = list(check_names(text)) + list(check_faults(text))
    said = subprocess.run(['tests/reliability.py', '--document', '--check'], cwd=TOP, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    if said.returncode != 0:
        complaints.append(said.stdout.strip())
    finish(complaints)


main()
