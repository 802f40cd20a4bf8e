"""What layout_of() does not understand it refuses; the canary finds what it got wrong."""
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from kv_tensors import (   # noqa: E402
    BLOCKS, Base, Refused, Settings, engine, layered, layout, make_config, make_spec,
    make_state_spec, scramble, shared, through_planes, torch)


class TestRefusals(Base):
    def spec_is_refused(self, reason, spec, remedy='', **how):
        self.refused(reason, [(['a'], spec)], *layered(make_spec(), ['a']), remedy=remedy, **how)

    def test_kinds_that_are_not_understood_are_refused(self):
        for kind in ('CrossAttentionSpec', 'RSWASpec', 'SinkFullAttentionSpec', 'FutureSpec',
                     'HiddenStateCacheSpec', 'CircularBufferSpec'):
            self.spec_is_refused(kind, make_spec(kind))
        self.spec_is_refused('not causal', make_spec(non_causal=True))
        self.spec_is_refused('hashes of prefixes', make_spec('SlidingWindowMLASpec',
                                                             prefix_cacheable=False))

    def test_states_that_cannot_be_gone_on_from_are_refused(self):
        self.spec_is_refused("'none'", make_state_spec(mode='none'), 'align')
        self.spec_is_refused('drafts', make_state_spec(mode='all', num_speculative_blocks=2))
        self.spec_is_refused('replayssm', make_state_spec(), cache={'use_replayssm': True})

    def test_tokens_spread_over_ranks_in_other_ways_are_refused(self):
        self.spec_is_refused('prefill', make_spec(), prefill_context_parallel_size=2)
        self.spec_is_refused('spreads window', make_spec('SlidingWindowSpec', sliding_window=9),
                             decode_context_parallel_size=2)

    def test_layers_of_one_group_must_agree(self):
        wrapped = Settings(kv_cache_specs={'a': make_spec(), 'b': make_spec(tokens=32)})
        self.refused('differ in kind', [(['a', 'b'], wrapped)], *layered(make_spec(), ['a', 'b']))

    def test_disagreement_with_the_configuration_names_both_numbers(self):
        spec = make_spec()
        for key, value, reason in (('offset', 64, 'begins at byte 0, configured is 64'),
                                   ('block_stride', 4096, '2048 bytes apart, configured is 4096'),
                                   ('size', 1 << 20, 'storage of 10240 bytes, 1048576')):
            tensors, caches = layered(spec, ['a'])
            setattr(tensors[0], key, value)
            self.refused(reason, [(['a'], spec)], tensors, caches)
        tensors, caches = layered(spec, ['a'])
        spec.unpadded_page_size_bytes = 2000
        self.refused('2048 bytes, its FullAttentionSpec says 2000', [(['a'], spec)], tensors,
                     caches)
        spec = make_spec()
        tensors, caches = shared(spec, [['a']], (2, BLOCKS, 16, 2, 8))
        tensors[0].size -= 2048
        self.refused('8192 bytes are configured, 5 blocks of 2048 are 10240', [(['a'], spec)],
                     tensors, caches)

    def test_shapes_that_are_not_clear_are_refused(self):
        spec = make_spec()
        for shape, blocks, reason in (((2, 2, 16, 2, 8), 2, 'not clear'),
                                      ((BLOCKS, 8, 4, 16), BLOCKS, '2 heads and 16 tokens'),
                                      ((BLOCKS, 512), BLOCKS, 'not known here'),
                                      ((4, 640), 4, 'not known here')):
            tensors, _ = shared(spec, [['a']], (blocks, 16, 32), blocks=blocks)
            self.refused(reason, [(['a'], spec)], tensors, {'a': torch.zeros(shape)},
                         blocks=blocks)
        tensors, caches = layered(spec, ['a'])
        self.refused('5 rows for 4 blocks', [(['a'], spec)], tensors, caches, blocks=4)

    def test_blocks_that_overlap_are_refused(self):
        spec = make_spec()
        tensors, caches = layered(spec, ['a', 'b'])
        tensors[0].layer_stride = 1024
        caches['b'] = caches['a'].as_strided(caches['a'].shape, caches['a'].stride(), 256)
        self.refused('overlap', [(['a', 'b'], spec)], tensors, caches)
        # Another group's blocks, one block further on: its block 0 is this group's block 1.
        tensors, caches = layered(spec, ['a', 'b'], blocks=2 * BLOCKS)
        raw = caches['a']
        caches = {'a': raw[:BLOCKS], 'b': raw[1:BLOCKS + 1]}
        tensors = [Settings(size=BLOCKS * 2048, layers=[name], offset=2048 * i, layer_stride=0,
                            block_stride=2048) for i, name in enumerate('ab')]
        self.refused('groups 0 and 1 overlap', [(['a'], spec), (['b'], make_spec())], tensors,
                     caches)
        view = torch.zeros(4096).as_strided((BLOCKS, 2, 16, 16), (512, 256, 8, 1))
        tensors, _ = layered(spec, ['a'])
        self.refused('elements of layer a overlap', [(['a'], spec)], tensors, {'a': view})

    def test_layers_without_tensors_and_tensors_without_groups_are_refused(self):
        spec = make_spec()
        tensors, caches = layered(spec, ['a', 'b'])
        self.refused('b has KV blocks', [(['a'], spec)], tensors, caches)
        self.refused('c is in no KV cache tensor', [(['a', 'b', 'c'], spec)], tensors,
                     {**caches, 'c': torch.zeros(4)})
        self.refused('a has no tensor', [(['a', 'b'], spec)], tensors, {'b': caches['b']})

    def test_groups_outside_of_transfers_are_left_out(self):
        spec = make_spec()
        tensors, caches = layered(spec, ['a', 'b'])
        config = make_config([(['a'], spec), (['b'], spec), (['c'], make_spec(
            'EncoderOnlyAttentionSpec'))], tensors)
        config.kv_cache_groups[0].enable_kv_transfer = False
        found = layout.layout_of(config, caches, engine())
        self.assertEqual([group.number for group in found.groups], [1])


class TestCanary(Base):
    def setUp(self):
        self.spec = make_spec()
        tensors, self.caches = layered(self.spec, ['layers.0', 'layers.1'], 'LBNHC')
        self.config = make_config([(['layers.0', 'layers.1'], self.spec)], tensors)
        self.layout = layout.layout_of(self.config, self.caches, engine())
        scramble(self.caches)
        self.before = bytes(self.caches['layers.0'].untyped_storage())

    def run_canary(self, read=None, write=None):
        right = through_planes(self.layout)
        layout.canary(self.layout, self.caches, self.config, read or right[0], write or right[1])

    def test_a_wrong_byte_is_named_and_the_block_restored(self):
        read, write = through_planes(self.layout)

        def wrong_read(group, block):
            payload = bytearray(read(group, block))
            payload[2048 + 17] ^= 1
            return bytes(payload)
        for how in ({'read': wrong_read}, {'read': lambda *_: b''},
                    {'write': lambda *_: None},
                    {'write': lambda group, block, payload: (write(group, block, payload),
                                                             write(group, block - 1, payload))}):
            with self.assertRaises(Refused) as caught:
                self.run_canary(**how)
            if how.get('read') is wrong_read:
                self.assertIn('layer layers.1, byte 17', caught.exception.reason)
            read(0, 0)
        self.run_canary()

    def test_it_leaves_everything_as_it_was(self):
        self.run_canary()
        self.assertEqual(bytes(self.caches['layers.0'].untyped_storage()), self.before)


if __name__ == '__main__':
    unittest.main()
