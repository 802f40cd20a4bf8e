"""The GPU suite over the tests' own driver: what it shows of a GPU is tried on each machine, and it can fail."""
import json
import os
import subprocess
import sys
import tempfile
import types
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
BUILD = os.path.abspath(os.environ.get('KVTIER_BUILD', os.path.join(TOP, 'build/test/unit')))
os.environ['KVTIER_BUILD'] = BUILD
sys.path[:0] = [HERE, os.path.join(TOP, 'tests/system')]
import suite_checks   # noqa: E402
import suite_engine   # noqa: E402
import suite_scene    # noqa: E402

SUITE = os.path.join(HERE, 'suite.py')
NEEDS_A_GPU = {'memory', 'sanitizer', 'model', 'interference'}
SLOW = {'model_cpu'}   # it needs torch, where it takes a minute: tests/vllm/test_gpu_suite.py
SECONDS_MAX = 300


def suite(*words, build=BUILD):
    done = subprocess.run([sys.executable, SUITE, '--build', build, *words], capture_output=True, text=True,
                          timeout=SECONDS_MAX, check=False)
    return done.returncode, done.stdout + done.stderr


class Suite(unittest.TestCase):
    def setUp(self):
        if not os.path.exists(os.path.join(BUILD, 'tests/gpu/fake_driver.so')):
            self.skipTest(f'the tests\' own driver is not in {BUILD}')

    def test_all_that_needs_no_gpu_is_right(self):
        _, listed = suite('--list')
        names = {line.split()[0] for line in listed.splitlines()}
        self.assertLess(NEEDS_A_GPU | SLOW, names)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, 'results')
            status, output = suite('--driver', 'fake', '--json', path, '--only', ','.join(sorted(names - SLOW)))
            self.assertEqual(status, 0, output)
            with open(path, encoding='utf-8') as file:
                checks = json.load(file)['checks']
        for name, check in checks.items():
            may_skip = {'namespaces'} | NEEDS_A_GPU
            self.assertIn(check['result'], ('ok', 'skipped') if name in may_skip else ('ok',), (name, check))
            self.assertTrue(check['result'] == 'ok' or check['why'], (name, check))
        self.assertEqual({check['result'] for name, check in checks.items() if name in NEEDS_A_GPU}, {'skipped'})

    def test_without_a_gpu_it_says_so(self):
        status, output = suite('--driver', '/nowhere/libcuda.so.1')
        self.assertEqual(status, 77, output)
        self.assertIn('/nowhere/libcuda.so.1', output)

    def test_what_is_asked_wrongly_is_named(self):
        status, output = suite('--only', 'bytes,no_such')
        self.assertEqual((status, 'no_such' in output), (2, True), output)
        status, output = suite(build='/nowhere')
        self.assertEqual((status, '/nowhere' in output), (2, True), output)

    def test_a_check_that_hangs_or_dies_has_failed(self):
        with tempfile.TemporaryDirectory() as folder:
            answer = os.path.join(folder, 'answer')
            import suite as command   # pylint: disable=import-outside-toplevel
            hung, _ = command.one_wait([sys.executable, '-c', 'import signal; signal.pause()'], 0.2, answer)
            dead, _ = command.one_wait([sys.executable, '-c', 'raise SystemExit(3)'], 30, answer)
        self.assertEqual([one['result'] for one in (hung, dead)], ['failed', 'failed'])
        self.assertIn('not done', hung['why'])
        self.assertIn('3', dead['why'])


class Engine:
    """In place of one with a GPU: what is loaded has a wrong byte in one block, or lies in another's place too."""

    def __init__(self, wrong_block=None, touched_block=None):
        self.layout, self.memory = suite_engine.Layout(2, 64, 8), {}
        self.wrong_block, self.touched_block = wrong_block, touched_block

    def clear(self):
        self.memory = {block: bytes(128) for block in range(8)}

    def get(self, block):
        return self.memory[block]

    def run(self, _, keys, blocks, parent=None):
        for n, (key, block) in enumerate(zip(keys, blocks)):
            self.memory[block] = suite_engine.node.payload_of(key, 128)
            if n == self.wrong_block:
                self.memory[block] = b'\x01' + self.memory[block][1:]
        if self.touched_block is not None:
            free = next(block for block in range(8) if block not in blocks)
            self.memory[free] = b'x' * 128
        return types.SimpleNamespace(quiesced=True, results=[0] * len(keys), parent=parent)


class Finds(unittest.TestCase):
    def load(self, **faults):
        return suite_engine.load(Engine(**faults), 'name', 4)

    def test_wrong_bytes_and_bytes_in_the_wrong_place(self):
        suite_scene.right(self.load(), 4)
        for faults in ({'wrong_block': 2}, {'touched_block': True}):
            with self.assertRaisesRegex(AssertionError, 'wrong bytes'):
                suite_scene.right(self.load(**faults), 4)
        with self.assertRaisesRegex(AssertionError, 'less than 5'):
            suite_scene.right(self.load(), 5)

    def test_goals_that_are_missed(self):
        rate = {'value': 3.0, 'ratio': 0.9, 'goal': 0.95, 'better': 'more'}
        time = {'value': 3.0, 'ratio': None, 'goal': 4.0, 'better': 'less'}
        self.assertFalse(suite_checks.is_met(rate))
        self.assertTrue(suite_checks.is_met(rate | {'ratio': 0.96}))
        self.assertTrue(suite_checks.is_met(time))
        self.assertFalse(suite_checks.is_met(time | {'value': 4.5}))

    def test_layouts_do_not_overlap(self):
        for name, layout in suite_engine.layouts(16, 8).items():
            starts = sorted(layout.at(plane, block) for plane in range(layout.planes) for block in range(layout.blocks))
            self.assertTrue(all(b - a >= layout.fragment for a, b in zip(starts, starts[1:])), name)
            self.assertLessEqual(starts[-1] + layout.fragment, layout.bytes, name)


if __name__ == '__main__':
    unittest.main()
