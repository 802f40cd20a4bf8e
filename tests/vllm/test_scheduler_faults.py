"""A fault in the connector's own code costs the cache, not the engine, and no wrong token."""
import os
import sys
import unittest
from unittest import mock

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import BLOCK, Case, KVConnectorBase_V1, prompt   # noqa: E402

TOKENS = prompt(11, 8 * BLOCK + 5)
SCHEDULER_CALLS = ('on_new_request', 'matched_tokens', 'allocated', 'hit_split', 'step', 'report',
                   'finished')
WORKER_CALLS = ('flush', 'begin', 'store', 'finished')


class Fault(Exception):
    """What nobody has foreseen."""


class Faults(Case):
    def run_with(self, engine, side, name):
        """Requests whose blocks are in the daemon, with a call that fails from now on."""
        with mock.patch.object(side, name, side_effect=Fault(name)), \
                self.assertLogs('vllm.kvtier', 'ERROR') as logs:
            for number in range(3):
                engine.scheduler.reset_prefix_cache()
                engine.add(f'{name}-{number}', TOKENS, 3)
                engine.finish()
                self.assert_same_as_cold(engine, f'{name}-{number}', TOKENS, 3)
        self.assertIn('a fault of the connector', ''.join(logs.output))

    def fail_in(self, take_side, names):
        self.warm(TOKENS)
        self.is_checked = False    # what is left in a connector that has given up is nobody's
        for name in names:
            with self.subTest(call=name):
                engine = self.engine(name=name)
                self.run_with(engine, take_side(engine), name)
                engine.run('after', TOKENS, 2)
                self.assert_same_as_cold(engine, 'after', TOKENS, 2)
                pool = engine.scheduler.kv_cache_manager.block_pool
                self.assertEqual(pool.get_num_free_blocks(), engine.cache.config.num_blocks - 1)

    def test_in_the_schedulers_side(self):
        calls = [name for name in SCHEDULER_CALLS
                 if name != 'hit_split' or hasattr(KVConnectorBase_V1,
                                                   'get_external_cache_hit_sources')]
        self.fail_in(lambda engine: engine.connector._scheduler, calls)

    def test_in_the_workers_side(self):
        self.fail_in(lambda engine: engine.worker._worker, WORKER_CALLS)

    def test_at_the_start(self):
        with mock.patch('kvtier.vllm.worker.layout_of', side_effect=Fault('layout')), \
                self.assertLogs('vllm.kvtier', 'ERROR'):
            engine = self.engine()
        engine.run('request', TOKENS, 2)
        self.assert_same_as_cold(engine, 'request', TOKENS, 2)
        self.assertEqual(self.daemon.stored(), set())


class FaultsWithinAStep(Faults):
    mode = 'sync'


if __name__ == '__main__':
    unittest.main()
