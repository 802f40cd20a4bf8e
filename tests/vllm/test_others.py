"""Other versions of vLLM, its own block size, a model with sliding windows: a short selection.

Greedy in float32: the same tokens cold, warm from the cpu tier and from nvme, at once, and with
every block damaged. A version that cannot be had here is skipped, with the reason.
"""
from __future__ import annotations

import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import engine   # noqa: E402
import rig      # noqa: E402

PROMPTS = 16
STEPS_MAX = 5000


class Short:
    """The tests; the classes below say of what."""

    modes = ('sync', 'async')
    options: dict = {'block_size': None}     # the backend's own

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.node.start()
        cls.own = cls.start_engine(**cls.options)
        cls.right = cls.record(cls.own, PROMPTS)
        cls.own.generate(cls.requests([prompt[:-1] for prompt in cls.right.prompts]))
        cls.node.wait_quiet()

    def assert_warm(self, together: bool = False) -> None:
        for mode in self.modes:
            with self.subTest(mode, together=together):
                self.own.load_mode(mode)
                run = self.replay(self.own, self.right, self.right.hits(), together=together)
                self.assertGreater(run.counted('loaded_blocks_total'), 0)
                self.assertEqual(run.counted('load_failed_blocks_total'), 0)

    def test_warm_from_the_cpu_tier(self) -> None:
        self.assert_warm()
        self.assert_warm(together=True)

    def test_warm_from_nvme_after_kvtierd_was_killed(self) -> None:
        self.node.wait_quiet()
        self.node.kill()
        self.node.start()
        self.node.wait_restored()
        self.wait_attached(self.own)
        self.assert_warm()

    def test_every_block_damaged(self) -> None:
        for seed, mode in enumerate(self.modes):
            for together in (False, True):
                with self.subTest(mode, together=together):
                    self.own.load_mode(mode)
                    self.damage(self.own, self.right, 2 * seed + together)
                    run = self.replay(self.own, self.right, steps_max=STEPS_MAX,
                                      together=together)
                    self.assertGreater(run.counted('load_failed_blocks_total'), 0)
                    self.node.wait_quiet()
                    self.replay_healed(self.own, self.right)


class Version029(Short, rig.EngineTest):
    version = '0.29.0'


class Version022(Short, rig.EngineTest):
    version = '0.22.1'


class OwnBlockSize(Short, rig.EngineTest):
    """0.32 with blocks as large as its backend takes them."""

    nvme_mib = 1024


class SlidingWindows(Short, rig.EngineTest):
    """Two groups: layers that see everything, and layers that see a window."""

    kind = 'hybrid'
    modes = ('async',)
    options = {}

    def test_it_has_two_groups(self) -> None:
        self.assertEqual(len(self.own.about['block_sizes']), 2)


if __name__ == '__main__':
    unittest.main()
