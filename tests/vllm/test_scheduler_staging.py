"""Blocks through a staging area that is smaller than what is moved: the same bytes and tokens."""
import os
import sys
import unittest
from types import SimpleNamespace
from unittest import mock

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import BLOCK, Case, cold_tokens, make_config, prompt   # noqa: E402
from no_model import PAYLOAD_BYTES   # noqa: E402
import frames   # noqa: E402
from kvtier.device import DeviceError   # noqa: E402
from kvtier.settings import Settings   # noqa: E402
from kvtier.vllm import transfer   # noqa: E402
from kvtier.vllm.identity import Refused   # noqa: E402

ROWS = 8      # of the area; half of them for each direction


class Staging(Case):
    def engine(self, *arguments, **settings):
        return super().engine(*arguments, **{
            'transfer': 'staging', 'staging_bytes': max(1 << 16, ROWS * PAYLOAD_BYTES + 4096),
            **settings})

    def test_what_is_stored_through_it_is_loaded_through_it(self):
        tokens = prompt(1, 40 * BLOCK + 3)
        self.warm(tokens)
        self.assertEqual(len(self.daemon.stored()), 40)
        for mode in ('async', 'sync'):
            with self.subTest(mode):
                engine = self.engine(load_mode=mode)
                engine.run('again', tokens, 3)
                self.assert_same_as_cold(engine, 'again', tokens, 3)
                self.assertEqual(engine.count('loaded_blocks_total'), 40)
                self.assertEqual(engine.count('load_failed_blocks_total'), 0)

    def test_it_takes_nothing_but_the_way_from_the_cache_that_others_share(self):
        """What one engine stored directly another one loads through its area, and back."""
        for seed, way, other in ((2, 'direct', 'staging'), (3, 'staging', 'direct')):
            tokens = prompt(seed, 20 * BLOCK + 1)
            self.warm(tokens) if way == 'staging' else self.run_direct(tokens)
            engine = self.engine(transfer=other)
            engine.run('again', tokens, 2)
            self.assert_same_as_cold(engine, 'again', tokens, 2)
            self.assertEqual(engine.count('loaded_blocks_total'), 20)

    def run_direct(self, tokens):
        engine = self.engine(transfer='direct')
        engine.run('direct', tokens)
        engine.settle()

    def test_blocks_taken_back_once_they_were_copied_are_stored_without_a_wait(self):
        self.daemon.hold(frames.STORE)
        tokens = prompt(4, 6 * BLOCK + 1)
        engine = self.engine(blocks=14, flush_ms=1000)
        engine.run('first', tokens)
        other = prompt(5, 12 * BLOCK - 2)
        engine.run('other', other, kvtier={'store': False})
        self.assertGreater(engine.count('flushes_total'), 0)
        self.assertEqual(engine.count('flush_cancels_total'), 0)
        self.daemon.let_go()
        engine.settle()
        self.assertEqual(self.daemon.stored(), set(engine.hashes_of('first')))

    def test_a_damaged_block_is_computed_and_never_copied_to_the_engine(self):
        for mode in ('async', 'sync'):
            with self.subTest(mode):
                tokens = prompt(6, 20 * BLOCK + 1)
                self.warm(tokens)
                self.daemon.damage(self.engines[-1].hashes_of('warm')[7])
                engine = self.engine(load_mode=mode)
                engine.run('again', tokens, 2)
                self.assertEqual(engine.outputs['again'], cold_tokens(tokens, 2))
                self.assertGreaterEqual(engine.count('load_failed_blocks_total'), 1)
                self.daemon.die()
                self.daemon.come_back()

    def test_on_a_gpu_kvtierd_copies_itself_where_that_is_proven_else_an_area_is_used(self):
        layout = SimpleNamespace(device='cuda:0')

        def chosen(setting, **proof):
            with mock.patch.multiple(transfer, Area=mock.Mock(), module_of=mock.Mock(),
                                     _prove=mock.Mock()), \
                    mock.patch.multiple(transfer.lent, lending_of=mock.Mock(), Client=mock.Mock(),
                                        prove=mock.Mock(**proof)):
                return transfer.transfer_of(layout, {}, None, None, Settings({'transfer': setting}))
        fails = {'side_effect': DeviceError('it has no handle')}
        for setting, proof, is_pull in (('auto', {}, True), ('pull', {}, True),
                                        ('auto', fails, False), ('staging', {}, False)):
            with self.subTest(setting=setting, proof=proof):
                own = chosen(setting, **proof)
                self.assertEqual((own.is_pull, own.staging_bytes > 0), (is_pull, not is_pull))
        for setting, reason in (('pull', 'it has no handle'), ('direct', 'lies on cuda:0')):
            with self.assertRaises(Refused) as caught:
                chosen(setting, **fails)
            self.assertIn(reason, caught.exception.reason)

    def test_blocks_in_one_piece_are_asked_for_where_the_setting_says_so(self):
        try:
            from vllm.v1.attention.backends.utils import resolve_kv_cache_layout
            from vllm.v1.kv_cache_layout import KVCacheLayout
        except ImportError as missing:
            raise unittest.SkipTest(f'this vLLM has no layouts by name: {missing}') from None
        every = [layout.name for layout in KVCacheLayout]
        for is_on, offered, chosen in ((False, every, every[0]), (True, every, 'BLNHC'),
                                       (True, ['LBHNC'], 'LBHNC')):
            with self.subTest(is_on=is_on, offered=offered):
                config = make_config(self.model, {'contiguous_blocks': is_on})
                self.assertEqual(resolve_kv_cache_layout(config, [offered]).name, chosen)


if __name__ == '__main__':
    unittest.main()
