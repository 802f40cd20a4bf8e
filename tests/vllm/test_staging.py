"""A real engine whose blocks go through the staging area that GPUs use: token for token the same."""
from __future__ import annotations

import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import engine   # noqa: E402
import rig      # noqa: E402

PROMPTS = 12
STAGED = {'transfer': 'staging', 'staging_bytes': 2 << 20}    # less than a long prompt needs


class Staged(rig.EngineTest):
    def test_warm_through_the_area_it_answers_as_it_did_cold(self) -> None:
        self.node.start()
        with self.start_engine(settings=STAGED) as own:
            right = self.record(own, PROMPTS)
            self.wait_stored(right)
            self.assertIn('through a staging area of 2 MiB', own.log())
            self.assertEqual(own.stats()['metrics']['kvtier_connector_staging_bytes'], 2 << 20)
            for mode in ('sync', 'async'):
                with self.subTest(mode):
                    own.load_mode(mode)
                    self.loaded_whole(self.replay(own, right, right.hits()), right)
        with self.start_engine() as direct:
            with self.subTest('an engine without one reads the same bytes'):
                self.loaded_whole(self.replay(direct, right, right.hits()), right)

    def loaded_whole(self, run: engine.Run, right) -> None:
        hits = right.hits()
        self.assertGreater(sum(hits), 0)
        self.assertEqual(run.counted('loaded_blocks_total'), sum(hits) // engine.BLOCK_TOKENS)
        self.assertEqual(run.counted('load_failed_blocks_total'), 0)


if __name__ == '__main__':
    unittest.main()
