"""A model of transformers on the CPU, through kvtierd and its death: the check of the GPU suite that needs torch alone."""
import os
import subprocess
import sys
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get('KVTIER_BUILD', os.path.join(TOP, 'build/test/unit')))
SECONDS_MAX = 200


class Model(unittest.TestCase):
    def test_its_tokens_are_the_same_from_kv_that_came_back(self):
        done = subprocess.run([sys.executable, os.path.join(TOP, 'tests/gpu/suite.py'), '--build', BUILD, '--driver',
                               'fake', '--only', 'model_cpu'], capture_output=True, text=True, timeout=SECONDS_MAX,
                              check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn('1 ok', done.stdout)


if __name__ == '__main__':
    unittest.main()
