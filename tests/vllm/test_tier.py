"""vLLM's tiered offloading on a CPU with kvtier below it: the same tokens, whoever had the blocks.

The engine is real and runs vLLM's TieringOffloadingSpec, but for the worker that copies between
its blocks and the primary tier (tier_spec.py). The primary tier is small: most of what is warm has
to come from kvtierd.
"""
from __future__ import annotations

import os
import shutil
import sys
import unittest
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import engine    # noqa: E402
import node      # noqa: E402
import prompts   # noqa: E402
import rig       # noqa: E402

PROMPTS = 8
MAX_TOKENS = 6
LENGTHS = (200, 320, 641, 900, 1000, 1200, 1339, 1500)
PRIMARY_BYTES = 16 << 20
SLOT_MAGIC, SLOT_HEADER_BYTES = b'KVTSLOT1', 4096
PATH = os.pathsep.join((rig.HERE, os.path.join(node.TOP, 'plugin')))


def transfer_config(socket: str, **tier: Any) -> dict[str, Any]:
    own = {'type': 'KvtierTier', 'module_path': 'kvtier.vllm.tier', 'socket': socket,
           'lookup_ms': 1000.0, 'on_refusal': 'fail', **tier}
    return {'kv_connector': 'QuietOffloadingConnector', 'kv_role': 'kv_both',
            'kv_connector_module_path': 'tier_spec',
            'kv_connector_extra_config': {
                'spec_name': 'CopyingTieringSpec', 'spec_module_path': 'tier_spec',
                'cpu_bytes_to_use': PRIMARY_BYTES, 'secondary_tiers': [own]}}


def damage_every_payload(path: str) -> int:
    """One byte of each slot in a device's file; how many slots."""
    with open(path, 'rb') as file:
        content = bytearray(file.read())
    count, at = 0, content.find(SLOT_MAGIC)
    while at >= 0:
        if at % SLOT_HEADER_BYTES == 0:
            content[at + SLOT_HEADER_BYTES] ^= 1
            count += 1
        at = content.find(SLOT_MAGIC, at + 1)
    with open(path, 'r+b') as file:
        file.write(content)
    return count


class Tiered(rig.EngineTest):
    """Its engines run one after the other; what the first one stored is what the others find."""

    right: list[list[int]]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.prompts = [prompts.fresh_tokens(count, seed) for seed, count in enumerate(LENGTHS)]
        with engine.Engine(cls.python, cls.model, None) as plain:
            cls.right = plain.generate(cls.asked()).tokens()
        cls.node.start()
        with cls.tiered() as first:
            cls.cold = first.generate(cls.asked())
        cls.node.wait_quiet()

    @classmethod
    def asked(cls) -> list[engine.Request]:
        return cls.requests(cls.prompts, MAX_TOKENS)

    @classmethod
    def tiered(cls, model: str | None = None, **tier: Any) -> engine.Engine:
        made = engine.Engine(cls.python, model or cls.model, None,
                             kv_transfer_config=transfer_config(cls.node.socket(), **tier),
                             variables={'PYTHONPATH': PATH})
        cls.addClassCleanup(made.__exit__, None)
        return made

    def hits(self) -> list[int]:
        """Whole blocks. Of a prompt that is all blocks vLLM computes the last token once more."""
        return [count // engine.BLOCK_TOKENS * engine.BLOCK_TOKENS for count in LENGTHS]

    def test_cold_the_answers_are_those_without_any_tier(self) -> None:
        self.assertEqual(self.cold.tokens(), self.right)

    def test_after_a_restart_of_the_engine_all_whole_blocks_are_promoted(self) -> None:
        with self.tiered() as second:
            run = second.generate(self.asked())
            self.assertEqual(run.tokens(), self.right)
            self.assertEqual(run.cached(), self.hits())
            self.lose_the_daemon(second)

    def lose_the_daemon(self, own: engine.Engine) -> None:
        """While requests run; they end right, and hits come back with the daemon."""
        run = own.generate(self.asked(), together=True,
                           on_end=lambda ended: self.node.kill() if ended == 2 else None)
        self.assertEqual(run.tokens(), self.right)
        self.assertEqual(own.generate(self.asked()).tokens(), self.right)
        self.node.start()
        self.node.wait_restored()
        node.until(lambda: own.generate(self.asked()).cached() == self.hits(),
                   rig.RESUME_SECONDS, 'hits resume')

    def test_promises_that_are_never_kept_end_in_cold_runs_and_not_in_a_livelock(self) -> None:
        with self.tiered(type='FailingTier', module_path='tier_spec', store=False) as own:
            run = own.generate(self.asked(), steps_max=20_000)
            self.assertEqual(run.tokens(), self.right)
            self.assertEqual(run.cached(), [0] * PROMPTS)

    def test_damaged_blocks_end_in_cold_runs_and_not_in_a_livelock(self) -> None:
        self.node.wait_quiet()
        self.node.stop()
        path = os.path.join(self.folder, 'saved')
        shutil.copyfile(self.node.nvme, path)
        try:
            self.assertGreater(damage_every_payload(self.node.nvme), sum(self.hits()) // 32 // 2)
            self.node.start()
            self.node.wait_restored()
            with self.tiered(store=False) as own:
                run = own.generate(self.asked(), steps_max=20_000)
                self.assertEqual(run.tokens(), self.right)
                self.assertEqual(run.cached(), [0] * PROMPTS)
            self.assertGreater(self.node.counters()['usable_tokens'], 0, 'nothing was promised')
        finally:
            self.node.kill()
            shutil.copyfile(path, self.node.nvme)
            self.node.start()
            self.node.wait_restored()

    def test_an_engine_with_other_weights_has_no_hit(self) -> None:
        other = os.path.join(self.folder, 'other')
        shutil.copytree(self.model, other)
        engine.model_script(self.python, other, '--weights', '--seed', '1')
        with self.tiered(other) as own:
            run = own.generate(self.asked())
            self.assertEqual(run.cached(), [0] * PROMPTS)
            self.assertNotEqual(run.tokens(), self.right)


if __name__ == '__main__':
    unittest.main()
