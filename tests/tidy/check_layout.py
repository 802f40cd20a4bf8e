#!/usr/bin/env python3
"""Header guards, and lengths: files 500 lines, functions 60, lines 100 columns with tabs of 8; no blanks at line ends."""
import re

from sources import files, finish, read

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60
COLUMNS_MAX = 100
# A text for people is not broken, so that it can be searched for; nor is a row of a table or a link.
LONG_MAX = 140
# Path: why its rows may be longer than COLUMNS_MAX. One row, one line.
TABLES = {
    'base/failpoint.h': 'one row a failpoint',
    'transfer/gpu_calls.h': 'one row a driver call',
    'daemon/metrics_table.h': 'one row a metric',
    'daemon/settings_table.c': 'one row a setting',
}


def columns(line):
    return len(line.expandtabs(8))


def is_long_text(line):
    """A string literal begins before the limit and ends behind it."""
    return re.search(r'"(?:[^"\\]|\\.)*"[^"]*$', line) is not None and columns(line) <= LONG_MAX


def check_lines(path, text):
    for number, line in enumerate(text.splitlines(), 1):
        if line != line.rstrip():
            yield f'{path}:{number}: blanks at the end'
        if path.endswith(('.c', '.h')) and re.match(r'^ +\t|^\t+ {8}', line):
            yield f'{path}:{number}: blanks where tabs belong'
        if path.endswith('.py') and '\t' in line:
            yield f'{path}:{number}: a tab'
        if path.endswith(('.c', '.h')) and columns(line) > COLUMNS_MAX:
            if not is_long_text(line) and not (path in TABLES and columns(line) <= LONG_MAX):
                yield f'{path}:{number}: {columns(line)} columns, more than {COLUMNS_MAX}'


def check_functions(path, lines):
    """A function begins at a '{' in the first column and ends at a '}' there."""
    start = None
    for number, line in enumerate(lines, 1):
        if line == '{':
            start = number
        elif line == '}' and start is not None:
            if number - start + 1 > FUNCTION_LINES_MAX:
                name = re.search(r'(\w+)\(', ' '.join(lines[max(0, start - 4):start]))
                yield f'{path}:{start}: {name.group(1) if name else "?"} has {number - start + 1} lines, ' \
                      f'more than {FUNCTION_LINES_MAX}'
            start = None


def check_guard(path, text):
    guard = 'KVTIER_H' if path == 'client/kvtier.h' else 'KVTIER_' + re.sub(r'[^A-Z0-9]', '_', path.upper())
    if not re.search(rf'^#ifndef {guard}\n#define {guard}\n', text, re.M) or not text.endswith('#endif\n'):
        yield f'{path}: is not guarded by {guard}'


def check_opening(path, text):
    if not text.startswith('/*'):
        yield f'{path}: does not open with its purpose'


def main():
    complaints = []
    for path in files('.c', '.h', '.py', '.sh', 'Makefile', 'run', 'deps'):
        text = read(path)
        lines = text.splitlines()
        complaints += check_lines(path, text)
        if len(lines) > FILE_LINES_MAX:
            complaints.append(f'{path}: {len(lines)} lines, more than {FILE_LINES_MAX}')
        if text and not text.endswith('\n'):
            complaints.append(f'{path}: no newline at the end')
        if path.endswith(('.c', '.h')):
            complaints += check_functions(path, lines)
            complaints += check_opening(path, text)
        if path.endswith('.h'):
            complaints += check_guard(path, text)
    for path in TABLES:
        if path not in files('.c', '.h'):
            complaints.append(f'tests/tidy/check_layout.py: {path} is gone; take its row out')
    finish(complaints)


main()
