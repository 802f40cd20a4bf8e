"""Every failpoint reports failure once, and stops the process once: nothing wrong is served, and all goes on.

What a place does with a failure is its own: a block is a miss, a start is refused with a reason, or nothing at all.
"""
import os
import signal
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import failpoints   # noqa: E402
import node         # noqa: E402

WORKER_POINTS = [point for point, scenario in failpoints.SCENARIOS.items() if scenario in ('worker', 'opening')]
failed_points, stopped_points = failpoints.Covered('error'), failpoints.Covered('stop')


def tearDownModule():
    failed_points.report()
    stopped_points.report()


class Failures(failpoints.Case):
    """One pass of a place fails."""

    def check_failure(self, point):
        replay = self.begin(point, 1, 'error')
        said = f'failpoint {point}: error'.encode()
        node.until(lambda: said in self.cache.log_bytes(), failpoints.DEATH_SECONDS, f'{point} is reached')
        failed_points.reached.add(point)
        if replay is not None:
            self.assertFalse(failpoints.failed(replay.finish(failpoints.REPLAY_SECONDS)), point)
        self.assertTrue(self.cache.is_alive(), f'{point}: {self.cache.log()}')
        self.cache.wait_ready()
        self.cache.wait_restored()
        node.assert_settled(self, self.cache.wait_quiet())
        self.cache.stop()
        self.proves_itself(point)


class Stops(failpoints.Case):
    """The process stops at a place. The daemon goes on when it is told to; its worker is replaced."""

    def check_stop(self, point):
        replay = self.begin_apart(point)
        pid = node.until(lambda: failpoints.stopped(self.cache), failpoints.DEATH_SECONDS, f'a process stops at {point}')
        stopped_points.reached.add(point)
        if point in WORKER_POINTS:
            self.assertNotEqual(pid, self.cache.process.pid, point)
            self.wait_worker_death()   # as it answers no longer
        else:
            self.assertEqual(pid, self.cache.process.pid, point)
            os.kill(pid, signal.SIGCONT)
        if replay is not None:
            self.assertFalse(failpoints.failed(replay.finish(failpoints.REPLAY_SECONDS)), point)
        self.cache.wait_ready()
        self.cache.wait_restored()
        node.assert_settled(self, self.cache.wait_quiet())
        self.cache.stop()
        self.proves_itself(point)

    def begin_apart(self, point):
        """begin(), but what would wait for the stopped daemon itself is a process of its own."""
        if failpoints.SCENARIOS.get(point) not in ('forget', 'register'):
            return self.begin(point, 1, 'stop')
        self.fill()
        self.cache.kill()
        self.cache.spawn(failpoints.armed(point, 1, 'stop'))
        self.cache.wait_ready()
        child = os.fork()
        if child == 0:
            try:
                self.forget()
            finally:
                os._exit(0)
        self.addCleanup(os.waitpid, child, 0)
        return None


def failure_test(point):
    return lambda self: self.check_failure(point)


def stop_test(point):
    return lambda self: self.check_stop(point)


for name in failpoints.points():
    setattr(Failures, f'test_a_daemon_in_which_{name}_fails_serves_nothing_wrong', failure_test(name))
    setattr(Stops, f'test_a_daemon_that_stops_at_{name}_goes_on_and_serves_nothing_wrong', stop_test(name))


if __name__ == '__main__':
    unittest.main()
