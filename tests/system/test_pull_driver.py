"""Each call of the driver that a GPU's process makes for an engine fails in turn: what was lent, stored and loaded is right.

The whole way: an engine lends, stores and loads, kvtierd and the GPU's process are as they are in service. That the
device is opened, and what is measured then, is in tests/gpu/test_device_nth.c.
"""
import ctypes as c
import mmap
import os
import re
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import node                   # noqa: E402
import pull_engine            # noqa: E402
import test_pull              # noqa: E402
import test_pull_failpoints   # noqa: E402

HEADER = os.path.join(node.TOP, 'tests/gpu/fake/control.h')
NTHS = (1, 2, 7)   # of each call
RESTARTS_MAX = 2   # of a life: each is waited for twice as long as the one before
ERRORS = {'transient': 1, 'sticky': 700}   # an invalid value; an illegal address, after which the context is lost


def calls_read():
    """The names of enum fake_call, in its order."""
    with open(HEADER, encoding='utf-8') as file:
        table = re.search(r'#define FAKE_CALLS\(call\)(.*?)\n\n', file.read(), re.S).group(1)
    return re.findall(r'call\((\w+)\)', table)


CALLS = calls_read()


class Control(c.Structure):
    """The first part of struct fake_control."""
    _fields_ = [('bytes_second', c.c_uint64 * 2), ('is_stalled', c.c_uint32), ('fail_call', c.c_uint32),
                ('fail_nth', c.c_uint32), ('fail_error', c.c_int32), ('fail_process', c.c_int32),
                ('was_failed', c.c_uint32), ('lacks_words', c.c_uint32), ('lacks_batch', c.c_uint32),
                ('corrupt_nth', c.c_uint32 * 2), ('corrupt_bytes_min', c.c_uint64), ('version', c.c_int32),
                ('calls', c.c_uint64 * len(CALLS))]


class Driver(test_pull.Pull):
    def begin_steered(self):
        cache, _ = self.begin()
        with open(os.path.join(cache.environment['KVTIER_FAKE_GPU'], 'control'), 'r+b') as file:
            self.page = mmap.mmap(file.fileno(), c.sizeof(Control))
        return cache, Control.from_buffer(self.page)

    def round(self, cache, name):
        """An engine's life. One whose memory the driver refuses is told so at once, and the next is served."""
        def made():   # with a driver of its own, as the library has one machine
            return pull_engine.Engine(cache.socket(), tempfile.mkdtemp(prefix='engine-', dir=cache.folder), name)
        try:
            engine = made()
        except OSError as error:
            self.assertIn('the driver', str(error))
            self.refused.append(name)
            engine = made()
        engine.run()
        figures = engine.figures
        self.assertEqual((figures['good'], figures['wrong'], figures['late'], figures['stuck']), (1, 0, 0, 0),
                         f"{name}: {dict(figures)}\n{self.said[-6:]}\n{cache.log()[-1500:]}")

    def fails_once(self, cache, control, call, nth, error):
        """Whether it came to that."""
        if self.gpu(cache)['restarts'] >= RESTARTS_MAX:
            cache.stop()
            cache.start()
        control.fail_process = self.ready(cache)['pid']
        control.was_failed = 0
        control.fail_error = ERRORS[error]
        control.fail_call = CALLS.index(call)
        control.fail_nth = nth
        self.round(cache, f'{call} {nth} {error}')
        was_failed = control.was_failed != 0
        control.fail_nth = 0
        return was_failed

    def test_each_call_that_fails_costs_at_most_misses(self):
        cache, control = self.begin_steered()
        self.refused = []
        self.said = []
        pull_engine.say = self.said.append
        self.round(cache, 'first')
        before = list(control.calls)
        self.round(cache, 'undisturbed')
        made = [name for name, a, b in zip(CALLS, before, control.calls) if b > a]
        failed = 0
        covered = set()
        for call in made:
            for error in ERRORS:
                for nth in NTHS:
                    if not self.fails_once(cache, control, call, nth, error):
                        break
                    failed += 1
                    covered.add(call)
        # What the engine alone calls is not the process's.
        print(f"driver calls failed in turn: {failed} failures of {len(covered)} calls: {' '.join(sorted(covered))}; "
              f"made by the engine alone: {' '.join(sorted(set(made) - covered))}; refused engines: {len(self.refused)}", flush=True)
        self.assertLessEqual({'cuIpcOpenMemHandle_v2', 'cuStreamQuery'} & set(made), covered)
        node.assert_settled(self, cache.wait_quiet())
        self.assertEqual(test_pull_failpoints.Machine(cache).misuses(), 0)
        del control
        cache.stop()


if __name__ == '__main__':
    unittest.main()
