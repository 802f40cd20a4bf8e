#!/usr/bin/env python3
"""What README and docs/ say is there: commands are targets or programs, paths and links exist, scripts can be run."""
import os
import re

from sources import TOP, files, finish, read

PROGRAMS = {'kvtierd', 'kvtier', 'kvtier-bench'}


def targets():
    return set(re.findall(r'^([a-z][a-z-]*):', read('Makefile'), re.M))


def commands(text):
    for block in re.findall(r'^```(?:sh|console|)\n(.*?)^```', text, re.M | re.S):
        yield from (line.strip() for line in block.splitlines() if line.strip())


def check_commands(path, text):
    for command in commands(text):
        for target in re.findall(r'(?:^|&& )make((?: [^\s#]+)*)', command):
            for word in target.split():
                if '=' not in word and not word.startswith('-') and word not in targets():
                    yield f'{path}: "{command}": make {word} is no target'
        first = command.split()[0]
        if first.startswith(('tests/', 'bench/', '.ci/')) and not os.access(os.path.join(TOP, first), os.X_OK):
            yield f'{path}: "{command}": {first} cannot be run'
        if first.startswith('build/') and first.removeprefix('build/') not in PROGRAMS:
            yield f'{path}: "{command}": {first} is not built'


def check_links(path, text):
    for target in re.findall(r'\]\(([^)#:]+)(?:#[^)]*)?\)', text):
        if not os.path.exists(os.path.join(TOP, os.path.dirname(path), target)):
            yield f'{path}: links to {target}, which is not there'
    folders = r'(?:base|proto|index|transfer|tiers|daemon|client|bench|docs|daemonset|tests)'
    for target in re.findall(rf'`({folders}/[A-Za-z0-9_./-]*)`', text):
        # `base/mailbox` is a module, `base/mailbox.h` a file.
        if not any(os.path.exists(os.path.join(TOP, target + ending)) for ending in ('', '.h')):
            yield f'{path}: names {target}, which is not there'


def main():
    complaints = []
    for path in files('.md'):
        text = read(path)
        complaints += check_commands(path, text)
        complaints += check_links(path, text)
    for path in files('.py', '.sh', 'run', 'deps'):
        if read(path).startswith('#!') and not os.access(os.path.join(TOP, path), os.X_OK):
            complaints.append(f'{path}: has #! and no run bit')
    finish(complaints)


main()
