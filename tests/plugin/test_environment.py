"""tests/vllm/environment.py: what is half made is made again, and what cannot be had says why.

Everything happens in a copy whose index is a port that nobody listens at, so nothing is fetched.
"""
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CANNOT_BE_HAD = 75
SECONDS_MAX = 120


class Environment(unittest.TestCase):
    def setUp(self):
        self.top = tempfile.mkdtemp(prefix='kvtier-environment-')
        self.addCleanup(shutil.rmtree, self.top)
        own = os.path.join(self.top, 'tests', 'vllm')
        os.makedirs(own)
        for name in ('environment.py', 'overrides.txt', 'stand_ins.py', 'sdist.py'):
            shutil.copy(os.path.join(TOP, 'tests', 'vllm', name), own)
        self.script = os.path.join(own, 'environment.py')
        self.made = os.path.join(self.top, 'build', 'vllm')

    def run_it(self, *arguments, code=None):
        command = [sys.executable, *(['-c', code] if code else [self.script, *arguments])]
        variables = dict(os.environ, PIP_INDEX_URL='http://127.0.0.1:9/simple', PIP_RETRIES='0',
                         PIP_NO_INDEX='0', PYTHONPATH=os.path.dirname(self.script))
        return subprocess.run(command, env=variables, stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=SECONDS_MAX, check=False)

    def pretend_made(self, recipe_version='0.32.0'):
        """As if the environment of 0.32.0 had been made from the recipe of some version."""
        result = self.run_it(code='import os, environment as e\n'
                             'folder = os.path.join(e.FOLDER, "0.32.0")\n'
                             'os.makedirs(folder)\n'
                             f'e.mark_made(folder, e.recipe_of("{recipe_version}"))')
        self.assertEqual(result.returncode, 0, result.stdout)

    def test_what_is_made_needs_no_network(self):
        self.pretend_made()
        result = self.run_it('0.32.0')
        self.assertEqual(result.returncode, 0, result.stdout)
        self.assertEqual(result.stdout.strip(), os.path.join(self.made, '0.32.0', 'bin', 'python'))

    def test_what_was_made_from_something_else_is_made_again(self):
        self.pretend_made('0.22.1')
        self.assertEqual(self.run_it('0.32.0').returncode, CANNOT_BE_HAD)

    def test_what_is_half_made_is_made_again(self):
        os.makedirs(os.path.join(self.made, '0.32.0', 'bin'))
        self.assertEqual(self.run_it('0.32.0').returncode, CANNOT_BE_HAD)

    def test_an_index_that_cannot_be_reached_is_the_reason_given(self):
        result = self.run_it()
        self.assertEqual(result.returncode, CANNOT_BE_HAD, result.stdout)
        self.assertIn('cannot be had here: ', result.stdout)
        result = self.run_it(code='import unittest, environment as e\n'
                             'try: e.python()\n'
                             'except unittest.SkipTest as reason: print("skipped:", reason)')
        self.assertIn('skipped: ', result.stdout)

    def test_an_unknown_version_is_told_which_are_known(self):
        result = self.run_it('9.9')
        self.assertEqual(result.returncode, 2)
        self.assertIn('0.32.0, 0.29.0, 0.22.1', result.stdout)


if __name__ == '__main__':
    unittest.main()
