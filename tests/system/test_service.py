"""The systemd unit: as tight as systemd itself can measure, and not tighter than what the daemon does."""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import node   # noqa: E402

UNIT = os.path.join(node.TOP, 'daemonset/kvtierd.service')
EXPOSURE_MAX = 30      # of 100
# Refused by the unit on purpose; they fail, and nothing depends on them.
NOT_NEEDED = {'setpriority', 'ioprio_set', 'sched_setscheduler'}


def unit_values(name):
    with open(UNIT, encoding='utf-8') as file:
        return re.findall(rf'^{name}=(.*)$', file.read(), re.M)


def filter_calls(word):
    """The calls of a name such as @system-service."""
    if not word.startswith('@'):
        return {word}
    output = subprocess.run(['systemd-analyze', '--no-pager', 'syscall-filter', word], capture_output=True, text=True,
                            check=True).stdout
    calls = set()
    for line in output.splitlines()[1:]:
        name = line.strip()
        if name and not name.startswith('#'):
            calls |= filter_calls(name)
    return calls


@unittest.skipUnless(shutil.which('systemd-analyze'), 'systemd-analyze is not installed')
class Unit(unittest.TestCase):
    def test_its_exposure_is_low(self):
        with tempfile.TemporaryDirectory() as folder:
            unit = shutil.copy(UNIT, folder)
            run = subprocess.run(['systemd-analyze', '--no-pager', 'security', '--offline=true',
                                  f'--threshold={EXPOSURE_MAX}', unit], capture_output=True, text=True, check=False)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        print('    ' + run.stdout.splitlines()[-1])

    def test_it_lets_through_what_the_daemon_and_its_own_sandbox_call(self):
        allowed = set()
        for line in unit_values('SystemCallFilter'):
            calls = set().union(*(filter_calls(word) for word in line.lstrip('~').split()))
            allowed = allowed - calls if line.startswith('~') else allowed | calls
        with open(os.path.join(node.TOP, 'daemon/sandbox_seccomp.c'), encoding='utf-8') as file:
            text = file.read()
        ours = set()
        for table in re.findall(r'^static const char \*const \w+\[\] = \{(.*?)\};', text, re.M | re.S):
            ours |= set(re.findall(r'"(\w+)"', table))
        self.assertGreater(len(ours), 100)
        self.assertEqual(sorted(ours - allowed - NOT_NEEDED), [])
        self.assertEqual(unit_values('SystemCallErrorNumber'), ['EPERM'], 'what is refused must not kill')


if __name__ == '__main__':
    unittest.main()
