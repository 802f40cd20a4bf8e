"""Row 30: every key of the settings, wrong in every way: one clear error each, and no daemon that starts with it.

The keys and their types come from the daemon itself (--describe markdown), so a new key is covered when it is there.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import node   # noqa: E402

WRONG_SETTINGS = 78
CHECK_SECONDS = 10
# By type: values that no key of the type takes.
WRONG = {
    'size': ('many', '-1', '1.5GiB', '10 apples', '99999999999999999999', '0x10', '1XB', '""', '[1]', '{a: 1}', 'null x'),
    'count': ('many', '-1', '1.5', '5000000000000', '0x10', '""', '[1]', '{a: 1}'),
    'duration': ('soon', '-1s', '5 parsecs', '99999999999h', '""', '[1]', '{a: 1}'),
    'choice': ('sometimes', '""', '[on]', '{a: 1}'),
    'true or false': ('maybe', '2', '""', '[true]', '{a: 1}'),
    'text': ('"a\\nb"', '"a\\0b"', '[a]', '{a: b}', '"' + 'x' * 5000 + '"'),
}
ROW = re.compile(r'^\| `(\w+)` \| ([\w ]+) \|([^|]*)\|([^|]*)\|')
SOMETHING = {'size': '64MiB', 'count': '16', 'duration': '1s', 'true or false': 'true', 'text': '/x'}
# Keys without a default whose text has a form.
OF_FORM = {'inventory_listen': '127.0.0.1:9471', 'inventory_ask_listen': '127.0.0.1:9472', 'peer_listen': '127.0.0.1:9470', 'peer_address': '127.0.0.1:9470', 'peers_dns': 'kv:9470',
           'address': '127.0.0.1:9470'}


def described():
    """[(list or None, key, type, a good value)] as the daemon says."""
    text = subprocess.run([node.program('kvtierd'), '--describe', 'markdown'], capture_output=True, text=True,
                          check=True).stdout
    keys, section = [], None
    for line in text.splitlines():
        heading = re.match(r'^## `(\w+)`', line)
        section = heading.group(1) if heading else section
        row = ROW.match(line)
        if row:
            key, kind, values, default = (part.strip() for part in row.groups())
            is_value = default and default not in ('required', 'none')
            good = OF_FORM.get(key) or SOMETHING.get(kind, values.split(' ')[0])
            keys.append((section, key, kind, default if is_value else good))
    return keys


class Settings(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix='s')
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.path = os.path.join(self.folder, 'kvtierd.yaml')

    def write(self, lines):
        with open(self.path, 'w', encoding='utf-8') as file:
            file.write('\n'.join(lines) + '\n')

    def base(self, left_out=None):
        """A good file without one key: the lines before its lists, and the lists."""
        pairs = {'run_directory': f'{self.folder}/run', 'state_directory': f'{self.folder}/state'}
        top = [f'{key}: {value}' for key, value in pairs.items() if key != left_out]
        return top, {'tenants': {'name': 'default', 'cpu_bytes': '64MiB'},
                     'nvme': {'path': f'{self.folder}/nvme', 'bytes': '128MiB'}}

    def file_with(self, section, key, value):
        """The line of the key, from 1."""
        top, lists = self.base(key if section is None else None)
        lines = list(top)
        at = 0
        if section is None:
            lines.append(f'{key}: {value}')
            at = len(lines)
        for name, pairs in lists.items():
            lines.append(f'{name}:')
            items = {other: given for other, given in pairs.items() if not (name == section and other == key)}
            if name == section:
                items = {key: value, **items}
            for number, (other, given) in enumerate(items.items()):
                lines.append(f'{"  - " if number == 0 else "    "}{other}: {given}')
                at = len(lines) if name == section and other == key else at
        if section is not None and section not in lists:
            lines += [f'{section}:', f'  - {key}: {value}']
            at = len(lines)
        self.write(lines)
        return at

    def check(self, *options):
        return subprocess.run([node.program('kvtierd'), '--config', self.path, *options], capture_output=True, text=True,
                              timeout=CHECK_SECONDS, env={'PATH': os.environ['PATH']})

    def refused(self, *words, options=('--check-config',)):
        done = self.check(*options)
        self.assertEqual(done.returncode, WRONG_SETTINGS, done.stderr)
        lines = done.stderr.splitlines()
        self.assertEqual(len(lines), 1, done.stderr)
        for word in words:
            self.assertIn(word, lines[0])

    def test_the_base_of_these_tests_is_good(self):
        self.file_with(None, 'mills', '1')
        done = self.check('--check-config')
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_every_wrong_value_of_every_key_is_refused_with_its_line_and_key(self):
        tried = taken = 0
        for section, key, kind, good in described():
            self.assertIn(kind, WRONG, f'{key}: a type that this test does not know')
            for value in WRONG[kind]:
                with self.subTest(key=key, value=value[:40]):
                    line = self.file_with(section, key, value)
                    done = self.check('--check-config')
                    taken += done.returncode == 0
                    self.assertEqual(done.returncode, WRONG_SETTINGS, f'{key}: {value[:40]} was taken')
                    said = done.stderr.splitlines()
                    self.assertEqual(len(said), 1, done.stderr)
                    self.assertIn(f'{self.path}:{line}', said[0])
                    self.assertIn(key, said[0])
                tried += 1
        print(f'\n{tried} wrong values of {len(described())} keys', flush=True)
        node.figures_write('faults_settings.json', {'keys': len(described()), 'mutations': tried, 'taken': taken})

    def test_every_key_is_refused_twice_misspelt_and_without_a_value(self):
        for section, key, kind, good in described():
            with self.subTest(key=key):
                line = self.file_with(section, key + 'x', '1')
                self.refused(f'{self.path}:{line}', 'unknown key')
                line = self.file_with(section, key, '')
                self.refused(f'{self.path}:{line}', key, 'no value')
                line = self.file_with(section, key, good)
                with open(self.path, encoding='utf-8') as file:
                    lines = file.read().splitlines()
                again = lines[line - 1].replace('  - ', '    ', 1)
                self.write(lines[:line] + [again] + lines[line:])
                self.refused(f'{self.path}:{line + 1}', key)

    def test_a_daemon_never_starts_with_wrong_settings(self):
        """The very path of --check-config: nothing is made, locked or listened on."""
        for section, key, kind, good in described():
            self.file_with(section, key, WRONG[kind][0])
            with self.subTest(key=key):
                self.refused(options=())
        self.assertEqual(os.listdir(self.folder), ['kvtierd.yaml'])

    def test_what_is_no_file_of_settings_is_refused_with_one_line(self):
        for content in ('- a\n- b\n', 'a\n', 'a: &x 1\nb: *x\n', 'tenants: [\n', '\t\n x: y', 'mills: !!int 3\n',
                        'mills: 1\n---\nmills: 2\n', 'tenants: {name: x}\n', 'mills: 1\nmills: 1\n', '{' * 2000, '\x00\x01',
                        'tenants:\n' + '  - {name: a, cpu_bytes: 64MiB}\n' * 2):
            with self.subTest(content=content[:20]):
                self.write([content])
                self.refused(self.path if 'name: a' not in content else 'tenants')


if __name__ == '__main__':
    unittest.main()
