"""kvtierd dies, hangs or is full, and engines die: every request is answered, right and in time.

The bound: what a request waits for kvtier is at most lookup_ms, load_ms and flush_ms together, by
the connector's own clocks. When the daemon is back, hits resume without an engine restart.
"""
from __future__ import annotations

import os
import sys
import unittest
from collections.abc import Callable

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import engine    # noqa: E402
import node      # noqa: E402
import prompts   # noqa: E402
import rig       # noqa: E402

PROMPTS = 24
BOUNDS_MS = {'lookup_ms': 250.0, 'load_ms': 1500.0, 'sync_load_ms': 500.0, 'flush_ms': 50.0,
             'lease_ms': 2000.0}
# Of one request, in seconds; and how late a busy machine may wake a thread, for all together.
BOUND = (BOUNDS_MS['lookup_ms'] + BOUNDS_MS['load_ms'] + BOUNDS_MS['flush_ms']) / 1000
SLACK = 5.0
GONE_SECONDS = 2.0
SMALL_MIB = 4


class DaemonFaults(rig.EngineTest):
    own: engine.Engine

    @classmethod
    def setUpClass(cls) -> None:
        """The engine is there before the daemon: it serves, and attaches later."""
        super().setUpClass()
        cls.own = cls.start_engine(settings={**BOUNDS_MS, 'on_refusal': 'disable'})
        cls.right = cls.record(cls.own, PROMPTS)
        cls.without = cls.own.stats()['connector']
        cls.node.start()

    def setUp(self) -> None:
        """The daemon runs, the engine has attached, and every block is stored."""
        if not self.node.is_alive():
            self.node.start()
        self.wait_attached(self.own)
        self.own.load_mode('auto')
        self.replay(self.own, self.right)
        self.wait_stored(self.right)

    def assert_bounded(self, run: engine.Run) -> None:
        """What kvtier cost, on the engine's thread and in loads beside it."""
        waited = run.counted('step_seconds_total') + run.counted('load_seconds_total')
        self.assertLess(waited, BOUND * len(run.results) + SLACK)

    def test_an_engine_serves_before_its_daemon_is_there(self) -> None:
        self.assertEqual(self.without.get('loads_total', 0), 0)
        self.assertEqual(self.without.get('stored_blocks_total', 0), 0)

    def in_the_middle(self, action: Callable[[], object], mode: str,
                      together: bool) -> engine.Run:
        """`action` once a third of the requests have ended, while the others go on."""
        self.own.load_mode(mode)

        def on_end(ended: int) -> None:
            if ended == PROMPTS // 3:
                action()
        run = self.replay(self.own, self.right, together=together, on_end=on_end)
        self.assert_bounded(run)
        return run

    def assert_resumes(self) -> None:
        self.wait_attached(self.own)
        self.replay(self.own, self.right)
        self.wait_stored(self.right)
        self.replay(self.own, self.right, self.right.hits())

    def test_kvtierd_killed_in_the_middle(self) -> None:
        for mode in ('sync', 'async'):
            for together in (False, True):
                with self.subTest(mode, together=together):
                    self.in_the_middle(self.node.kill, mode, together)
                    self.node.start()
                    self.assert_resumes()

    def test_kvtierd_stopped_in_the_middle(self) -> None:
        for mode in ('sync', 'async'):
            for together in (False, True):
                with self.subTest(mode, together=together):
                    try:
                        self.in_the_middle(self.node.pause, mode, together)
                    finally:
                        self.node.resume()
                    self.assert_resumes()

    def test_kvtierd_killed_and_back_in_the_middle(self) -> None:
        def again() -> None:
            self.node.kill()
            self.node.start()
        self.in_the_middle(again, 'async', False)
        self.assert_resumes()

    def test_kvtierd_is_full(self) -> None:
        """A daemon with room for a few blocks: it evicts and refuses all the time."""
        self.node.wait_quiet()
        self.node.stop()
        small = node.Node(SMALL_MIB, 0)
        self.addCleanup(small.__exit__)
        small.run = self.node.run
        small.configure()
        small.start()
        self.wait_attached(self.own)
        for mode in ('sync', 'async'):
            for together in (False, True):
                with self.subTest(mode, together=together):
                    self.own.load_mode(mode)
                    run = self.replay(self.own, self.right, together=together)
                    self.assert_bounded(run)
        tiers = small.stats()['tenants'][0]['tiers']
        self.assertLess(tiers['cpu']['blocks'], len(self.right.known))


class EngineDeaths(rig.EngineTest):
    """kill -9 of an engine in the middle of its stores and loads leaves nothing held."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.node.start()

    def assert_freed(self) -> None:
        def freed() -> bool:
            stats = self.node.stats()
            try:
                node.assert_settled(self, stats)
            except AssertionError:
                return False
            return True
        node.until(freed, GONE_SECONDS, 'slots and leases are free')

    def test_killed_in_its_stores_and_then_in_its_loads(self) -> None:
        """The daemon is stopped at that moment, so that it finds work of a dead engine."""
        with self.start_engine(settings={'load_mode': 'async'}) as first:
            right = self.record(first, PROMPTS)
            self.wait_stored(right)
            fresh = [prompts.fresh_tokens(1000, seed=300 + i) for i in range(8)]
            first.begin(self.requests(fresh))
            first.wait_ended()
            self.node.pause()
            first.kill()
            self.node.resume()
            self.assert_freed()
        with self.start_engine(settings={'load_mode': 'async'}) as second:
            self.replay(second, right, right.hits())
            second.begin(self.requests(right.prompts))
            second.wait_ended()
            self.node.pause()
            second.kill()
            self.node.resume()
            self.assert_freed()


if __name__ == '__main__':
    unittest.main()
