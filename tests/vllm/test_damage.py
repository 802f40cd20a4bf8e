"""Every load fails: blocks are recomputed, counted, stored anew, and the answers stay right.

Each block on nvme gets a flipped bit while the daemon is down, so that every lookup promises what
no load can deliver. The steps are bounded: a connector that offers again what has just failed
would never end.
"""
from __future__ import annotations

import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import engine    # noqa: E402
import node      # noqa: E402
import rig       # noqa: E402

PROMPTS = 16
STEPS_MAX = 5000
BLOCKS = 64               # the longest prompt needs 48: requests wait for blocks, too
FLIPPED_OF_A_FEW = 3      # each third block, in the test with holes


class Damage(rig.EngineTest):
    own: engine.Engine

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.node.start()
        cls.own = cls.start_engine(num_gpu_blocks_override=BLOCKS)
        cls.right = cls.record(cls.own, PROMPTS)
        cls.wait_stored(cls.right)

    def assert_recomputed(self, together: bool) -> None:
        run = self.replay(self.own, self.right, steps_max=STEPS_MAX, together=together)
        failed = run.counted('load_failed_blocks_total')
        self.assertGreater(failed, 0)
        self.assertGreater(self.node.counters()['damaged_nvme'], 0)
        # Each request at most once: it does not ask again for what it was refused.
        self.assertLessEqual(run.counted('loads_total'), len(self.right.prompts))

    def assert_stored_anew(self) -> None:
        """What was damaged is in the cache again, and right."""
        self.node.wait_quiet()
        run = self.replay(self.own, self.right, self.right.hits())
        self.assertEqual(run.counted('load_failed_blocks_total'), 0)

    def test_every_block_damaged_loaded_within_a_step(self) -> None:
        self.own.load_mode('sync')
        self.damage(self.own, self.right, 1)
        self.assert_recomputed(together=False)
        self.assert_stored_anew()

    def test_every_block_damaged_loaded_between_steps(self) -> None:
        self.own.load_mode('async')
        self.damage(self.own, self.right, 2)
        self.assert_recomputed(together=False)
        self.assert_stored_anew()

    def test_every_block_damaged_and_all_requests_at_once(self) -> None:
        for mode in ('sync', 'async'):
            with self.subTest(mode):
                self.own.load_mode(mode)
                self.damage(self.own, self.right, 3 if mode == 'sync' else 4)
                self.assert_recomputed(together=True)
                self.assert_stored_anew()

    def test_each_third_block_damaged(self) -> None:
        """Loads that arrive in part: what lies before the first hole is used."""
        for mode in ('sync', 'async'):
            with self.subTest(mode):
                self.own.load_mode(mode)
                self.damage(self.own, self.right, 5 if mode == 'sync' else 6, FLIPPED_OF_A_FEW)
                self.assert_recomputed(together=False)
                self.assert_stored_anew()

    def test_an_arena_damaged_under_a_running_daemon(self) -> None:
        """A tmpfs arena: the daemon has checked what came in, the library checks what goes out."""
        warm = node.Node(self.cpu_mib, 0, warm=('default',))
        self.addCleanup(warm.__exit__)
        warm.run, old_run = self.node.run, warm.run
        self.node.wait_quiet()
        self.node.stop()
        self.addCleanup(os.rmdir, old_run)
        warm.configure()
        warm.start()
        self.addCleanup(self.node.start)
        self.addCleanup(warm.stop)
        self.wait_attached(self.own)
        for mode in ('sync', 'async'):
            with self.subTest(mode):
                self.own.load_mode(mode)
                self.replay(self.own, self.right)
                warm.wait_quiet()
                self.assertGreater(rig.flip_payloads(warm.arena_file(), 7), 0)
                run = self.replay(self.own, self.right, steps_max=STEPS_MAX)
                self.assertGreater(run.counted('load_failed_blocks_total'), 0)
                self.assertGreater(warm.counters()['damaged_cpu'], 0)


if __name__ == '__main__':
    unittest.main()
