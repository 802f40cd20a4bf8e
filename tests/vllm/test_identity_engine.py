"""Weights, then an adapter, overwritten in place under the same path: nothing of before is loaded.

Names stay, contents change. What did not change is still hit, so that the misses prove something.
"""
from __future__ import annotations

import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import engine    # noqa: E402
import prompts   # noqa: E402
import rig       # noqa: E402

TOKENS = 200
LORA = {'enable_lora': True, 'max_lora_rank': engine.ADAPTER_RANK, 'max_loras': 1}


class Overwritten(rig.EngineTest):
    def setUp(self) -> None:
        self.adapter = os.path.join(self.folder, 'adapter')
        engine.make_adapter(self.python, self.adapter, self.model, seed=1)
        self.node.start()
        self.prompts = [prompts.fresh_tokens(TOKENS + i, seed=400 + i) for i in range(4)]

    def plain(self, **options: object) -> list[engine.Request]:
        return self.requests(self.prompts, **options)

    def adapted(self, **options: object) -> list[engine.Request]:
        return self.requests(self.prompts, lora=('adapter', 1, self.adapter), **options)

    def assert_whole_hits(self, run: engine.Run) -> None:
        known = prompts.Known(engine.BLOCK_TOKENS)
        for prompt in self.prompts:
            known.add(prompt, [])
        self.assertEqual(run.cached(), [known.hit([*prompt, 0]) for prompt in self.prompts])

    def assert_misses(self, run: engine.Run) -> None:
        self.assertEqual(run.cached(), [0] * len(self.prompts))
        self.assertEqual(run.counted('loaded_blocks_total'), 0)

    def test_weights_and_adapter_overwritten_and_the_engine_restarted(self) -> None:
        with self.start_engine(**LORA) as first:
            plain, adapted = first.generate(self.plain()), first.generate(self.adapted())
            self.assert_misses(plain)
            self.assert_misses(adapted)
            self.assertNotEqual(plain.tokens(), adapted.tokens())
            self.assert_same_when_warm(first, plain, adapted)
            self.overwritten_under_a_running_engine(first, adapted)
        with self.start_engine(**LORA) as second:
            self.other_adapter(second, plain, adapted)
        engine.model_script(self.python, self.model, '--weights', '--seed', '7')
        with self.start_engine(**LORA) as third:
            changed = third.generate(self.plain())
            self.assert_misses(changed)
            self.assertNotEqual(changed.tokens(), plain.tokens())
            self.assert_misses(third.generate(self.adapted()))
            self.in_place_under_a_running_engine(third, changed)

    def assert_same_when_warm(self, own: engine.Engine, plain: engine.Run,
                              adapted: engine.Run) -> None:
        self.node.wait_quiet()
        for requests, right in ((self.plain(), plain), (self.adapted(), adapted)):
            warm = own.generate(requests)
            self.assertEqual(warm.tokens(), right.tokens())
            self.assert_whole_hits(warm)

    def overwritten_under_a_running_engine(self, own: engine.Engine, before: engine.Run) -> None:
        """vLLM goes on with the adapter that it has in memory; its blocks must not be taken for
        those of what lies in the folder now."""
        engine.make_adapter(self.python, self.adapter, self.model, seed=2)
        self.assertEqual(own.generate(self.adapted()).tokens(), before.tokens())
        self.node.wait_quiet()

    def other_adapter(self, own: engine.Engine, plain: engine.Run, before: engine.Run) -> None:
        warm = own.generate(self.plain())
        self.assertEqual(warm.tokens(), plain.tokens())
        self.assert_whole_hits(warm)
        now = own.generate(self.adapted())
        self.assert_misses(now)
        self.assertNotEqual(now.tokens(), before.tokens())
        self.node.wait_quiet()
        self.assertEqual(own.generate(self.adapted()).tokens(), now.tokens())

    def in_place_under_a_running_engine(self, own: engine.Engine, right: engine.Run) -> None:
        """After a reset of the connector's cache nothing of before is hit; then it goes on."""
        self.node.wait_quiet()
        self.assert_whole_hits(own.generate(self.plain()))
        self.assertTrue(own.reset_all())
        fresh = own.generate(self.plain())
        self.assert_misses(fresh)
        self.assertEqual(fresh.tokens(), right.tokens())
        self.wait_attached(own)
        own.generate(self.plain())
        self.node.wait_quiet()
        self.assert_whole_hits(own.generate(self.plain()))


if __name__ == '__main__':
    unittest.main()
