"""At each step of lending and pulling the daemon or its GPU's process dies, stops or fails, or the engine is killed there.

Every time: no wrong byte, each job is answered in time and its blocks are left alone, nothing stays held, lent or mapped,
and the next engine stores and loads at once.
"""
import contextlib
import ctypes as c
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import failpoints   # noqa: E402
import node         # noqa: E402
import test_gpus    # noqa: E402

ENGINE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'pull_engine.py')
ENGINE_SECONDS = 150
REACHED_SECONDS = 30
LIVES_MAX = 30
covered = {action: failpoints.Covered(action, failpoints.PULL) for action in ('kill', 'error', 'stop', 'engine')}


def tearDownModule():
    for one in covered.values():
        one.report()


def is_of_gpu(point):
    return point.startswith('gpu_')


class Engine:
    """pull_engine.py."""

    def __init__(self, cache, name):
        folder = tempfile.mkdtemp(prefix='engine-', dir=cache.folder)
        self.path = os.path.join(folder, 'said')
        environment = {**os.environ, 'KVTIER_FAKE_GPU': cache.environment['KVTIER_FAKE_GPU']}
        with open(self.path, 'wb') as said:
            self.process = subprocess.Popen([sys.executable, ENGINE, cache.socket(), folder, name], env=environment,
                                            stdin=subprocess.PIPE, stdout=said, stderr=subprocess.STDOUT)
        node.running.add(self.process)

    def said(self):
        with open(self.path, encoding='utf-8', errors='replace') as file:
            return file.read()

    def figures(self):
        """None: it is not done yet."""
        lines = self.said().splitlines()
        if lines and lines[-1].startswith('{'):
            return json.loads(lines[-1])
        if self.process.poll() is not None:
            raise AssertionError(f'the engine ended by itself: {self.process.returncode}\n{self.said()}')
        return None

    def finish(self):
        figures = node.until(self.figures, ENGINE_SECONDS, f'the engine has stored and loaded: {self.path}')
        self.process.stdin.close()
        self.process.wait()
        node.running.discard(self.process)
        return figures

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        node.running.discard(self.process)


class Machine:
    """What the driver knows of the node's GPUs, over all processes."""

    def __init__(self, cache):
        self.environment = {'KVTIER_FAKE_GPU': cache.environment['KVTIER_FAKE_GPU']}
        self.calls = c.CDLL(shutil.copy(test_gpus.LIBRARY, tempfile.mkdtemp(prefix='look-', dir=cache.folder)))
        if self.ask('cuInit', c.c_uint(0)) != 0:
            raise OSError('cuInit')

    def ask(self, name, *arguments):
        call = getattr(self.calls, name)
        call.restype = c.c_uint64
        with unittest.mock.patch.dict(os.environ, self.environment):
            return call(*arguments)

    def is_free(self):
        """No process has device memory, or maps it."""
        return self.ask('fake_table_bytes') == 0

    def misuses(self):
        """Memory that was unmapped under a copy, and the like."""
        return self.ask('fake_misuses')


class Case(test_gpus.Case):
    def begin(self, point, action):
        """A daemon that is armed, and an engine on its way."""
        self.point = point
        self.cache = self.node()
        self.once = os.path.join(self.cache.environment['KVTIER_FAKE_GPU'], 'failpoint')
        self.cache.environment['KVTIER_FAILPOINT_ONCE'] = self.once
        self.armed = f'{point}={action}'
        self.cache.spawn(self.armed)
        self.engine = Engine(self.cache, 'engine')

    def is_reached(self):
        return os.path.exists(self.once)

    def reach(self):
        """The process is at the point, or was."""
        for _ in range(LIVES_MAX):
            node.until(lambda: self.is_reached() or (self.point == 'gpu_costs_written' and self.is_measured()),
                       REACHED_SECONDS, f'{self.point} is reached')
            if self.is_reached():
                return
            self.cache.stop()
            self.cache.spawn(self.armed)
        self.skipTest(f'this machine is too busy: in {LIVES_MAX} lives no measurement came to its end')

    def is_measured(self):
        """Or time ran out on a busy machine, and nothing is written: the next life measures again."""
        return self.cache.has_said_ready() and self.gpu(self.cache)['state'] == 'ready'

    def restarted(self):
        """Another process has the GPU."""
        node.until(lambda: (gpu := self.gpu(self.cache))['restarts'] > 0 and gpu['state'] == 'ready', REACHED_SECONDS,
                   'the GPU has a process again')

    def engine_is_right(self, engine):
        figures = engine.finish()
        self.assertEqual((figures['good'], figures['wrong'], figures['late'], figures['stuck']), (1, 0, 0, 0),
                         f'{self.point}: {figures}\n{engine.said()}')
        return figures

    def proves_itself(self, action):
        """After all that: what it has is right, it serves an engine at once, and nothing is left of the first."""
        self.cache.wait_ready()
        self.ready(self.cache)
        self.assertEqual(self.engine_is_right(Engine(self.cache, 'next'))['rounds'], 1, self.point)
        node.assert_settled(self, self.cache.wait_quiet())
        machine = Machine(self.cache)
        node.until(machine.is_free, REACHED_SECONDS, 'nobody has memory of the engines')
        self.assertEqual(machine.misuses(), 0)
        self.cache.stop()
        covered[action].reached.add(self.point)


class Kills(Case):
    def check(self, point):
        self.begin(point, 'kill')
        self.reach()
        if is_of_gpu(point):
            self.restarted()
        else:
            self.assertTrue(self.cache.wait_death(failpoints.DEATH_SECONDS), point)
            self.cache.spawn()
        self.engine_is_right(self.engine)
        self.proves_itself('kill')


class Failures(Case):
    def check(self, point):
        self.begin(point, 'error')
        self.reach()
        self.engine_is_right(self.engine)
        self.assertEqual(self.gpu(self.cache)['restarts'], 0)
        self.proves_itself('error')


class Stops(Case):
    def check(self, point):
        self.begin(point, 'stop')
        self.reach()
        if is_of_gpu(point):
            self.restarted()   # as it answers no longer
        else:
            pid = node.until(lambda: failpoints.stopped(self.cache), failpoints.DEATH_SECONDS, 'the daemon stops')
            self.assertEqual(pid, self.cache.process.pid)
            said = len(self.engine.said())
            node.until(lambda: len(self.engine.said()) > said or self.engine.figures(), ENGINE_SECONDS,
                       'the engine is answered without the daemon')
            os.kill(pid, signal.SIGCONT)
        self.engine_is_right(self.engine)
        self.proves_itself('stop')


class EngineKills(Case):
    def check(self, point):
        self.begin(point, 'stop')
        self.reach()
        pid = node.until(lambda: failpoints.stopped(self.cache), failpoints.DEATH_SECONDS, f'a process stops at {point}')
        self.engine.kill()
        with contextlib.suppress(ProcessLookupError):   # a process of a GPU that stands still is killed
            os.kill(pid, signal.SIGCONT)
        self.proves_itself('engine')


def test_of(point):
    return lambda self: self.check(point)


for name in failpoints.points(failpoints.PULL):
    setattr(Kills, f'test_killed_at_{name}_it_starts_again_and_nothing_is_wrong', test_of(name))
    setattr(Failures, f'test_where_{name}_fails_nothing_is_wrong', test_of(name))
    setattr(Stops, f'test_stopped_at_{name}_it_is_not_waited_for_and_nothing_is_wrong', test_of(name))
    setattr(EngineKills, f'test_an_engine_killed_at_{name}_leaves_nothing_behind', test_of(name))


if __name__ == '__main__':
    unittest.main()
