"""docs/VLLM.md says what the code does: its tables are the code's, and a stale one is noticed."""
import os
import re
import subprocess
import sys
import tempfile
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DESCRIBE = os.path.join(TOP, 'plugin', 'describe.py')
DOCUMENT = os.path.join(TOP, 'docs', 'VLLM.md')
sys.path[:0] = [os.path.join(TOP, 'plugin'), os.path.join(TOP, 'tests', 'vllm')]

import environment                      # noqa: E402
from kvtier import settings, tables     # noqa: E402


def check(path):
    return subprocess.run([sys.executable, DESCRIBE, '--check', path], capture_output=True,
                          text=True, check=False)


class Documents(unittest.TestCase):
    def test_the_tables_are_those_of_the_code(self):
        run = check(DOCUMENT)
        self.assertEqual(run.returncode, 0, run.stderr)

    def test_a_table_that_is_not_the_codes_is_noticed(self):
        with open(DOCUMENT, encoding='utf-8') as file:
            text = file.read()
        with tempfile.NamedTemporaryFile('w', suffix='.md', encoding='utf-8') as copy:
            copy.write(text.replace('| `lookup_ms` |', '| `lookup_seconds` |', 1))
            copy.flush()
            self.assertNotEqual(check(copy.name).returncode, 0)

    def test_supported_versions_are_those_that_the_tests_run(self):
        documented = {version for version, _ in tables.VERSIONS}
        self.assertEqual(documented, set(environment.VERSIONS) | {environment.SOURCES})

    def test_every_setting_is_read_and_every_one_read_is_in_the_table(self):
        folder = os.path.join(TOP, 'plugin', 'kvtier', 'vllm')
        read = set()
        for name in sorted(os.listdir(folder)):
            if name.endswith('.py'):
                with open(os.path.join(folder, name), encoding='utf-8') as file:
                    read |= set(re.findall(r'settings\.([a-z_]+)', file.read()))
        self.assertEqual(read, {setting.name for setting in settings.TABLE})


class Settings(unittest.TestCase):
    def test_nothing_given_gives_the_defaults(self):
        own = settings.Settings({})
        for setting in settings.TABLE:
            self.assertEqual(getattr(own, setting.name), setting.default, setting.name)

    def test_what_is_not_right_is_named_with_what_would_be(self):
        for given, parts in (({'lookup_ms': -1}, ('lookup_ms', '0.1 to 1000')),
                             ({'lookup_ms': 'soon'}, ('lookup_ms', 'a number')),
                             ({'lookup_ms': True}, ('lookup_ms', 'a number')),
                             ({'load': 'yes'}, ('load', 'bool')),
                             ({'socket': 7}, ('socket', 'str')),
                             ({'load_mode': 'fast'}, ('load_mode', 'auto, sync, async')),
                             ({'load_tokens_min': 1.5}, ('load_tokens_min', 'whole')),
                             ({'sockt': '/x'}, ('sockt', 'known are', 'socket'))):
            with self.assertRaises(settings.SettingsError) as raised:
                settings.Settings(given)
            for part in parts:
                self.assertIn(part, str(raised.exception))


if __name__ == '__main__':
    unittest.main()
