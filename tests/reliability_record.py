"""The record of the long programme: docs/reliability/VERSION.json, and the figures in docs/RELIABILITY.md."""
import fcntl
import glob
import json
import os
import re
import subprocess

import node   # reliability.py says where it is

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DOCUMENT = os.path.join(TOP, 'docs/RELIABILITY.md')
RECORDS = os.path.join(TOP, 'docs/reliability')
BEGIN, END = '<!-- figures: made by tests/reliability.py --document -->', '<!-- end of figures -->'
# Of runs before what they say was counted: nothing is added up from them.
NOT_COUNTED = {'engines': {'leaked_bytes'}, 'sim': {'wrong'}, 'fuzz': {'crashes'}}


def merge(one, two):
    """Sums, but the largest of ..._max, ..._p50 and ..._p99, the least of ..._min, and the newest of what is no number."""
    merged = dict(one)
    for name, value in two.items():
        before = merged.get(name)
        if before is None or isinstance(value, str):
            merged[name] = value
        elif name.endswith('_min'):
            merged[name] = min(before, value)
        else:
            merged[name] = max(before, value) if re.search(r'_(?:max|p50|p99)$', name) else before + value
    return merged


def version():
    words = subprocess.run([node.program('kvtierd'), '--version'], capture_output=True, text=True, check=True).stdout
    return words.split()[1]


def newest_record():
    """The path of the record of the newest version, or None."""
    paths = glob.glob(os.path.join(RECORDS, '*.json'))
    return max(paths, key=lambda path: [int(part) for part in re.findall(r'\d+', os.path.basename(path))], default=None)


def load(path=None):
    path = path or newest_record()
    if path is None or not os.path.exists(path):
        return {'version': '', 'runs': [], 'totals': {}}
    with open(path, encoding='utf-8') as file:
        return json.load(file)


def total_of(record, part):
    return record['totals'].get(part, {}).get('figures', {})


def totals(runs):
    added = {}
    for run in runs:
        total = added.setdefault(run['part'], {'runs': 0, 'failed': 0, 'minutes': 0.0, 'commits': [], 'figures': {}})
        total['runs'] += 1
        total['failed'] += 'failed' in run
        total['minutes'] = round(total['minutes'] + run['minutes'], 1)
        total['last'] = run['date']
        if run['commit'] not in total['commits']:
            total['commits'].append(run['commit'])
        total['figures'] = {name: round(value, 4) if isinstance(value, float) else value
                            for name, value in merge(total['figures'], run['figures']).items()
                            if name not in NOT_COUNTED.get(run['part'], ())}
    return added


def git(*words):
    return subprocess.run(['git', *words], cwd=TOP, capture_output=True, text=True, check=False)


def commit():
    """What was built; records and documents are no part of it."""
    name = git('rev-parse', '--short=12', 'HEAD').stdout.strip() or 'unknown'
    is_clean = git('diff', '--quiet', 'HEAD', '--', '.', ':!docs').returncode == 0
    return name if is_clean else f'{name}-dirty'


def record_run(run, parts):
    os.makedirs(RECORDS, exist_ok=True)
    path = os.path.join(RECORDS, f'{version()}.json')
    with open(os.path.join(TOP, 'build/reliability.lock'), 'w', encoding='utf-8') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)   # another part may run beside this one
        record = load(path)
        record['version'] = version()
        record['runs'].append(run)
        record['totals'] = totals(record['runs'])
        with open(path + '.new', 'w', encoding='utf-8') as file:
            json.dump(record, file, indent=1, sort_keys=True)
            file.write('\n')
        os.rename(path + '.new', path)
        if os.path.exists(DOCUMENT):
            document(parts, False)


# ---- the document ----

def number(value):
    if isinstance(value, str):
        return value
    return f'{value:,}' if isinstance(value, int) else f'{value:g}'


def figures_table(record, parts):
    lines = [BEGIN, '', f'Of version {record["version"]}; each run with its date and commit is in `docs/reliability/`. What is '
             'named max, p50 or p99 is that of the worst run.', '', '| part | runs | minutes | last | figures |',
             '| --- | --- | --- | --- | --- |']
    for name in parts:
        total = record['totals'].get(name)
        if total is None:
            lines.append(f'| {name} | 0 | | | not run yet |')
            continue
        figures = ', '.join(f'{key.replace("_", " ")} {number(value)}' for key, value in sorted(total['figures'].items()))
        failed = f' ({total["failed"]} failed)' if total['failed'] else ''
        lines.append(f'| {name} | {total["runs"]}{failed} | {total["minutes"]:g} | {total["last"]} | {figures} |')
    return '\n'.join(lines + ['', END])


def document(parts, is_check):
    """0, or 1 when it differs (is_check)."""
    with open(DOCUMENT, encoding='utf-8') as file:
        text = file.read()
    wanted = text[:text.index(BEGIN)] + figures_table(load(), parts) + text[text.index(END) + len(END):]
    if is_check:
        if text != wanted:
            print('docs/RELIABILITY.md: its figures are not those of docs/reliability; run tests/reliability.py --document')
        return int(text != wanted)
    with open(DOCUMENT, 'w', encoding='utf-8') as file:
        file.write(wanted)
    return 0
