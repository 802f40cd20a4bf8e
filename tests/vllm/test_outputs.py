"""Greedy in float32, an engine says the same token for token, wherever its KV blocks come from.

Fifty prompts (prompts.py): computed by an engine without kvtier, and then cold, warm from each
tier, after restarts of engine and daemon, batched, in chunks, preempted. Hits are told to the
block: what the structure of the prompts says, no more and no less.
"""
from __future__ import annotations

import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import engine    # noqa: E402
import prompts   # noqa: E402
import rig       # noqa: E402

PREEMPTED_BLOCKS = 56     # the longest prompt needs 48


class SameOutputs(rig.EngineTest):
    own: engine.Engine

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        with engine.Engine(cls.python, cls.model, None) as plain:
            cls.right = cls.record(plain)
        cls.node.start()
        cls.own = cls.start_engine()
        cls.cold, cls.cold_hits = [], []
        known = prompts.Known(cls.own.block_tokens)
        for prompt, answer in zip(cls.right.prompts, cls.right.answers):
            cls.cold += cls.own.generate(cls.requests([prompt])).results
            cls.cold_hits.append(known.hit(prompt))
            known.add(prompt, answer)
        cls.wait_stored(cls.right)
        cls.blocks_stored = cls.node.stats()['tenants'][0]['tiers']['nvme']['blocks']

    def test_cold_each_prompt_hits_what_those_before_it_have_left(self) -> None:
        run = engine.Run(self.cold, 0)
        self.assert_answers(run, self.right)
        self.assertEqual(run.cached(), self.cold_hits)

    def test_every_whole_block_is_stored_and_nothing_else(self) -> None:
        self.assertEqual(self.blocks_stored, len(self.right.known))

    def test_warm_from_the_cpu_tier_loaded_within_a_step(self) -> None:
        self.warm('sync')

    def test_warm_from_the_cpu_tier_loaded_between_steps(self) -> None:
        self.warm('async')

    def warm(self, mode: str) -> None:
        self.own.load_mode(mode)
        run = self.replay(self.own, self.right, self.right.hits())
        self.assert_all_loaded(run)

    def assert_all_loaded(self, run: engine.Run) -> None:
        """Each hit is a loaded block: the engine's own cache was empty."""
        hits = self.right.hits()
        self.assertEqual(run.counted('hit_tokens_total'), sum(hits))
        self.assertEqual(run.counted('loaded_blocks_total'), sum(hits) // self.own.block_tokens)
        self.assertEqual(run.counted('loads_total'), sum(hit > 0 for hit in hits))
        self.assertEqual(run.counted('load_failed_blocks_total'), 0)
        self.assertEqual(run.counted('lookup_failures_total'), 0)

    def test_batched_and_prefilled_in_chunks(self) -> None:
        for mode in ('sync', 'async'):
            with self.subTest(mode):
                self.own.load_mode(mode)
                run = self.replay(self.own, self.right, self.right.hits(), together=True)
                self.assertGreater(run.counted('loaded_blocks_total'), 0)

    def test_batched_without_any_hit_and_in_chunks(self) -> None:
        run = self.own.generate(self.requests(self.right.prompts, controls=rig.NEITHER),
                                together=True)
        self.assert_answers(run, self.right)
        self.assertEqual(run.counted('loads_total'), 0)

    def test_what_the_engine_has_itself_is_not_loaded(self) -> None:
        prompt = max(self.right.prompts, key=len)
        whole, half = self.requests([prompt])[0], len(prompt) // 2
        first = self.own.generate(self.requests([prompt[:half]], controls=rig.NEITHER))
        run = self.own.generate([whole], fresh=False)
        own_tokens = half // self.own.block_tokens * self.own.block_tokens
        self.assertEqual(first.cached(), [0])
        self.assertEqual(run.cached(), [self.right.known.hit(prompt)])
        self.assertEqual(run.counted('hit_tokens_total'), run.cached()[0] - own_tokens)

    def test_warm_from_nvme_after_kvtierd_was_stopped_and_started(self) -> None:
        self.own.load_mode('auto')
        self.node.wait_quiet()
        self.node.stop()
        self.warm_from_nvme()

    def test_warm_from_nvme_after_kvtierd_was_killed(self) -> None:
        self.own.load_mode('async')
        self.node.wait_quiet()
        self.node.kill()
        self.warm_from_nvme()

    def warm_from_nvme(self) -> None:
        self.node.start()
        self.node.wait_restored()
        self.wait_attached(self.own)
        before = self.node.counters()
        run = self.replay(self.own, self.right, self.right.hits())
        after = self.node.counters()
        self.assert_all_loaded(run)
        loaded = after['hit_blocks_nvme'] - before['hit_blocks_nvme']
        self.assertGreaterEqual(loaded, len(self.right.known) // 2)
        self.assertEqual(after['damaged_nvme'], 0)

    def test_warm_after_the_engine_was_restarted_and_preempted_by_its_own_requests(self) -> None:
        """A second engine with the first one's blocks, and too little KV space of its own."""
        with engine.Engine(self.python, self.model, self.node.socket(),
                           num_gpu_blocks_override=PREEMPTED_BLOCKS) as again:
            run = self.replay(again, self.right, self.right.hits())
            self.assert_all_loaded(run)
            self.assert_right_when_preempted(again)

    def assert_right_when_preempted(self, small: engine.Engine) -> None:
        size = small.block_tokens
        fresh = [prompts.fresh_tokens(7 * size - 3 * i, seed=200 + i) for i in range(8)]
        requests = self.requests(fresh, max_tokens=3 * size, controls=rig.NEITHER)
        right = self.own.generate(requests, together=True).tokens()
        for mode in ('sync', 'async'):
            with self.subTest(mode):
                small.load_mode(mode)
                before = small.stats()['metrics']['vllm:num_preemptions_total']
                run = small.generate(self.requests(fresh, max_tokens=3 * size), together=True)
                self.assertEqual(run.tokens(), right)
                self.assertGreater(small.stats()['metrics']['vllm:num_preemptions_total'], before)
                free = small.stats()['free_blocks']
                self.assertEqual(free, PREEMPTED_BLOCKS - 1, 'all blocks are free again')

    def test_metrics_of_the_engine_say_the_same_as_the_connector(self) -> None:
        stats = self.own.stats()
        for name, value in stats['connector'].items():
            with self.subTest(name):
                self.assertAlmostEqual(stats['metrics'][f'kvtier_connector_{name}'], value, 3)


if __name__ == '__main__':
    unittest.main()
