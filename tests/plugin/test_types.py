"""The plugin imports, and its types hold, against the sources of the newest vLLM that it knows.

That version has no build for a CPU, so it is not run: what it expects of a connector is read from
its sources. mypy and a Python that can import vLLM come from the environment.
"""
import os
import subprocess
import sys
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PLUGIN = os.path.join(TOP, 'plugin')
sys.path[:0] = [os.path.join(TOP, 'tests', 'vllm'), PLUGIN]

import environment   # noqa: E402
from kvtier import tables   # noqa: E402

IMPORT = '''
import vllm
from kvtier.vllm import KvtierConnector
import kvtier.vllm.tier
assert not KvtierConnector.__abstractmethods__, KvtierConnector.__abstractmethods__
print(vllm.__version__)
'''
SECONDS_MAX = 900


class Sources(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not environment.is_there():
            raise unittest.SkipTest('the vLLM environment is not there: make vllm-env')
        try:
            cls.sources = environment.sources()
        except environment.Unavailable as reason:
            raise unittest.SkipTest(str(reason)) from None

    def run_python(self, python, *arguments, **variables):
        return subprocess.run([python, *arguments], capture_output=True, text=True, check=False,
                              timeout=SECONDS_MAX, cwd=TOP, env={**os.environ, **variables})

    def test_the_plugin_imports_and_leaves_nothing_abstract(self):
        run = self.run_python(environment.python(), '-c', IMPORT,
                              PYTHONPATH=os.pathsep.join((self.sources, PLUGIN)))
        self.assertEqual(run.returncode, 0, run.stderr[-3000:])
        self.assertEqual(run.stdout.split()[-1], tables.VERSIONS[-1][0])

    def test_its_types_hold(self):
        run = self.run_python(
            environment.mypy(), '--python-executable', environment.python(),
            '--follow-imports=silent', '--ignore-missing-imports', '--check-untyped-defs',
            '--cache-dir', os.path.join(TOP, 'build', 'vllm', 'mypy'), '-p', 'kvtier',
            MYPYPATH=os.pathsep.join((self.sources, PLUGIN)))
        self.assertEqual(run.returncode, 0, run.stdout[-3000:] + run.stderr[-1000:])


if __name__ == '__main__':
    unittest.main()
