"""Planes gather exactly a block's bytes, in every layout that vLLM has had."""
import ast
import importlib.util
import itertools
import os
import random
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from kv_tensors import (   # noqa: E402
    BLOCKS, LAYOUTS, Base, Settings, both, engine, gather, layered, layout, make_config, make_spec,
    make_state_spec, shared, specs, torch)


class TestTodaysLayouts(Base):
    def test_every_standard_layout_is_gathered_in_the_order_of_memory(self):
        names = [f'layers.{i}.attn' for i in range(3)]
        planes = {'LBHNC': 3, 'LBNHC': 3, 'LHBNC': 6, 'BLHNC': 1, 'BLNHC': 1, 'BHLNC': 6}
        texts = {}
        for order in LAYOUTS:
            spec = make_spec()
            found = self.check([(names, spec)], *layered(spec, names, order))
            self.assertEqual(len(found.groups[0].planes), planes[order], order)
            self.assertEqual(found.groups[0].segments_count, 3)
            texts.setdefault(found.text, []).append(order)
        self.assertEqual(sorted(texts.values()),
                         [['LBHNC', 'LHBNC', 'BLHNC', 'BHLNC'], ['LBNHC', 'BLNHC']])

    def test_payloads_of_layouts_with_equal_text_take_each_others_place(self):
        names, spec, payloads = ['layers.0', 'layers.1'], make_spec(), {}
        for order in LAYOUTS:
            tensors, caches = layered(spec, names, order)
            found = layout.layout_of(make_config([(names, spec)], tensors), caches, engine())
            for number, name in enumerate(names):
                values = torch.arange(caches[name].numel(), dtype=spec.dtype) + number
                caches[name].copy_(values.view(caches[name].shape))
            payloads.setdefault(found.text, set()).add(gather(found.groups[0], 3))
        self.assertEqual([len(payload) for payload in payloads.values()], [1, 1])

    def test_kernel_blocks_are_joined_to_the_managers_blocks(self):
        names = ['layers.0', 'layers.1']
        for order, rows in itertools.product(('LBHNC', 'LBNHC', 'LHBNC'), (2, 4)):
            spec = make_spec()
            found = self.check([(names, spec)], *layered(spec, names, order, rows=rows))
            self.assertIn(f'R{rows}', found.text)

    def test_padding_is_left_out(self):
        spec = make_spec(padded=4096)
        page, padded = spec.unpadded_page_size_bytes, 1024
        raw = torch.zeros(BLOCKS * padded)
        view = raw.as_strided((BLOCKS, 2, 16, 16), (padded, 256, 16, 1))
        tensor = Settings(size=BLOCKS * 4096, layers=['a'], offset=0, layer_stride=4096,
                          block_stride=4096)
        found = self.check([(['a'], spec)], [tensor], {'a': view})
        self.assertEqual(found.groups[0].planes, [(raw.data_ptr(), 4096, page)])

    def test_groups_that_overlay_each_other_have_planes_each(self):
        full, window = make_spec(), make_spec('SlidingWindowSpec', sliding_window=33)
        tensors, caches = layered(full, ['layers.0', 'layers.2'])
        more, _ = layered(window, ['layers.1', 'layers.3'])
        caches.update({'layers.1': caches['layers.0'], 'layers.3': caches['layers.2']})
        found = self.check([(['layers.0', 'layers.2'], full), (['layers.1', 'layers.3'], window)],
                           tensors + more, caches)
        self.assertEqual([group.kind for group in found.groups], ['full', 'window'])
        self.assertEqual(found.groups[1].window_tokens, 32)
        self.assertEqual(len(found.storages), 1)

    def test_a_state_is_one_page_of_bytes(self):
        spec = make_state_spec(padded=128)
        raw = torch.zeros(2 * BLOCKS * 128, dtype=torch.int8)
        view = raw.as_strided((2, BLOCKS, 1, 1, 88), (128, 256, 88, 88, 1))
        tensor = Settings(size=raw.numel(), layers=['layers.0', 'layers.1'], offset=0,
                          layer_stride=128, block_stride=256)
        found = self.check([(['layers.0', 'layers.1'], spec)], [tensor],
                           {'layers.0': view[0], 'layers.1': view[1]})
        self.assertEqual((found.groups[0].kind, found.groups[0].payload_bytes), ('state', 176))

    def test_random_strides_are_gathered_right(self):
        chance = random.Random(11)
        for _ in range(60):
            heads, tokens, content = (chance.choice((1, 2, 3)) for _ in range(3))
            spec = make_spec(tokens=tokens, heads=heads, size=content, dtype=torch.float16)
            shape = (BLOCKS, heads, tokens, 2 * content)
            strides, reach = [0] * 4, 1
            for i in [3] + chance.sample(range(3), 3):
                strides[i], reach = reach, reach * shape[i] + chance.choice((0, 0, 3))
            begin = chance.choice((0, 8))
            raw = torch.zeros(begin + reach, dtype=torch.float16)
            tensor = Settings(size=raw.numel() * 2, layers=['a'], offset=begin * 2,
                              layer_stride=0, block_stride=strides[0] * 2)
            self.check([(['a'], spec)], [tensor], {'a': raw.as_strided(shape, strides, begin)})

    def test_vllms_own_views_are_understood(self):
        """The installed version's specs, arithmetic and views, in each of its layouts."""
        try:
            from vllm.v1 import kv_cache_interface as interface
            from vllm.v1.kv_cache_layout import KVCacheLayout
        except ImportError as missing:
            raise unittest.SkipTest(f'no vLLM with standard layouts here: {missing}')
        names, blocks = ['layers.0', 'layers.1'], 4
        spec = interface.FullAttentionSpec(block_size=64, num_kv_heads=2, head_size=16,
                                           dtype=torch.bfloat16)
        state = interface.MambaSpec(
            block_size=64, shapes=((3, 8), (4, 4)), dtypes=(torch.bfloat16, torch.float32),
            mamba_cache_mode='align')
        latent = interface.MLAAttentionSpec(block_size=64, num_kv_heads=1, head_size=72,
                                            dtype=torch.bfloat16)
        for order, each, rows in itertools.product(KVCacheLayout, (spec, latent, state), (1, 2)):
            if rows == 2 and (each is state or not order.is_layer_compact):
                continue
            strides = interface.compute_layout_strides(each, blocks, 2, order)
            tensor = interface.KVCacheTensor(size=2 * blocks * each.page_size_bytes, layers=names,
                                             layer_stride=strides[0], block_stride=strides[1])
            raw = torch.zeros(tensor.size, dtype=torch.int8)
            try:
                views = interface.create_kv_cache_views(raw, each, blocks, order, tensor,
                                                        64 // rows)
            except ValueError:
                continue   # vLLM itself does not split this one
            self.check([(names, each)], [tensor], dict(zip(names, views)), blocks=blocks)


class TestOlderLayouts(Base):
    def test_every_older_shape_is_gathered(self):
        spec, names = make_spec(), [['layers.0'], ['layers.1']]
        shapes = {'KBNHC': (2, BLOCKS, 16, 2, 8), 'KBHNC': (2, BLOCKS, 2, 16, 8),
                  'BKNHC': (BLOCKS, 2, 16, 2, 8), 'BNHC': (BLOCKS, 16, 2, 16),
                  'BHNC': (BLOCKS, 2, 16, 16)}
        texts = set()
        for name, shape in shapes.items():
            found = self.check([(['layers.0', 'layers.1'], spec)], *shared(spec, names, shape),
                               both)
            self.assertEqual(len(found.groups[0].planes), 4 if name.startswith('KB') else 2, name)
            texts.add(found.text)
        self.assertEqual(len(texts), 4)   # KBNHC and BKNHC are the same payload

    def test_strides_of_the_other_head_order_are_another_payload(self):
        spec = make_spec()
        plain = self.check([(['a'], spec)], *shared(spec, [['a']], (2, BLOCKS, 16, 2, 8)), both)
        other = self.check([(['a'], spec)], *shared(
            spec, [['a']], (2, BLOCKS, 16, 2, 8), (0, 1, 3, 2, 4)), both)
        self.assertNotEqual(plain.text, other.text)
        self.assertIn('K2 H2 N16 C8', other.text)

    def test_kernel_blocks_of_keys_and_of_values_stay_together(self):
        spec = make_spec()
        found = self.check([(['a'], spec)], *shared(spec, [['a']], (2, 4 * BLOCKS, 4, 2, 8)), both)
        self.assertEqual(len(found.groups[0].planes), 2)
        self.assertIn('K2 R4 N4 H2 C8', found.text)

    def test_latent_vectors_have_three_dimensions(self):
        spec = make_spec('MLAAttentionSpec', heads=1, head_size_v=0)
        self.check([(['a'], spec)], *shared(spec, [['a']], (BLOCKS, 16, 16)))

    def test_as_many_heads_as_tokens_follow_the_backends_order_or_are_refused(self):
        spec = make_spec(heads=16)
        found = self.check([(['a'], spec)], *shared(spec, [['a']], (2, BLOCKS, 16, 16, 8)), both)
        self.assertIn('K2 H16 N16', found.text)
        self.refused('as many heads as tokens', [(['a'], spec)],
                     *shared(spec, [['a']], (BLOCKS, 16, 16, 16)), remedy='block-size')

    def test_attention_beside_states_shares_their_tensors(self):
        spec, state = make_spec(), make_state_spec(shapes=((4, 10), (5, 20)), padded=2048)
        raw = torch.zeros(BLOCKS * 512)
        hidden = 16 * 2 * 8
        attention = raw.as_strided((2, BLOCKS, 16, 2, 8), (hidden, 2 * hidden, 16, 8, 1))
        states = [raw.as_strided((BLOCKS, 4, 10), (512, 10, 1)),
                  raw.as_strided((BLOCKS, 5, 20), (512, 20, 1), 40)]
        tensor = Settings(size=BLOCKS * 2048, shared_by=['layers.0', 'layers.1'])
        found = self.check([(['layers.0'], spec), (['layers.1'], state)], [tensor],
                           {'layers.0': attention, 'layers.1': states}, both)
        self.assertEqual([group.planes for group in found.groups],
                         [[(raw.data_ptr(), 2048, 2048)], [(raw.data_ptr(), 2048, 560)]])

    def test_a_layer_that_reads_another_ones_blocks_is_counted_once(self):
        spec = make_spec()
        tensors, caches = shared(spec, [['layers.0']], (2, BLOCKS, 16, 2, 8))
        caches['layers.1'] = caches['layers.0']
        for names in (['layers.0', 'layers.1'], ['layers.0']):
            found = self.check([(names, spec)], tensors, caches, both)
            self.assertEqual(found.groups[0].layers, ['layers.0'])
            self.assertEqual(found.groups[0].payload_bytes, spec.page_size_bytes)


class TestWhatIsSaid(Base):
    def text(self, spec, names=('layers.0', 'layers.1'), **how):
        return self.check([(names, spec)], *layered(spec, names), **how).text

    def test_texts_differ_where_payloads_do(self):
        texts = [self.text(make_spec()), self.text(make_spec(tokens=32)),
                 self.text(make_spec(heads=4, size=4)), self.text(make_spec(dtype=torch.float16)),
                 self.text(make_spec(head_size_v=4)), self.text(make_spec(), ('layers.0',)),
                 self.text(make_spec(), ('layers.0', 'layers.2')),
                 self.text(make_spec('SlidingWindowSpec', sliding_window=20)),
                 self.text(make_spec('SlidingWindowSpec', sliding_window=21)),
                 self.text(make_spec(cache_dtype_str='fp8_ds_mla')),
                 self.text(make_spec(), backend=type('OtherBackend', (), {}))]
        self.assertEqual(len(set(texts)), len(texts))

    def test_texts_of_pipeline_ranks_and_of_other_block_counts_are_equal(self):
        spec, names = make_spec(), ('layers.0', 'layers.1')
        self.assertEqual(self.text(spec), self.text(spec, ('layers.12', 'layers.13')))
        more = self.check([(names, spec)], *layered(spec, names, blocks=9), blocks=9)
        self.assertEqual(self.text(spec), more.text)

    def test_a_long_text_is_a_digest(self):
        groups, tensors, caches = [], [], {}
        for i in range(16):
            spec = make_spec()
            tensor, cache = layered(spec, [f'layers.{i}'])
            groups.append(([f'layers.{i}'], spec))
            tensors += tensor
            caches.update(cache)
        text = self.check(groups, tensors, caches).text
        self.assertRegex(text, r'16 groups, [0-9a-f]{64}$')

    def test_windows_are_the_tokens_that_must_be_there(self):
        for spec, window in ((make_spec('SlidingWindowSpec', sliding_window=1), 0),
                             (make_spec('SlidingWindowSpec', sliding_window=64,
                                        extra_retained_tokens=2), 65),
                             (make_spec('ChunkedLocalAttentionSpec', attention_chunk_size=64), 48),
                             (make_spec('ChunkedLocalAttentionSpec', attention_chunk_size=40), 32)):
            found = self.check([(['a'], spec)], *layered(spec, ['a']))
            self.assertEqual((found.groups[0].kind, found.groups[0].window_tokens),
                             ('window', window))

    def test_tokens_of_a_block_may_be_spread_over_ranks(self):
        spec = make_spec()
        found = self.check([(['a'], spec)], *layered(spec, ['a']), decode_context_parallel_size=4)
        self.assertEqual(found.groups[0].tokens_per_block, 64)

    def test_segments_are_layers_joined_evenly(self):
        for sizes, count in (([8] * 28, 28), ([8] * 300, 150), ([8] * 257, 1), ([8, 16], 1)):
            self.assertEqual(layout._segments(sizes), count)

    def test_a_processors_own_order_of_keys_is_part_of_the_text(self):
        backend = type('CPUAttentionBackend', (), {'__module__': __name__})
        spec = make_spec()
        self.refused('on this processor', [(['a'], spec)], *layered(spec, ['a']), backend=backend)
        globals()['_get_attn_isa'] = lambda *arguments: 'amx'
        self.addCleanup(globals().pop, '_get_attn_isa')
        self.assertIn('amx', self.text(spec, backend=backend))

    def test_every_kind_of_spec_of_this_vllm_has_a_rule(self):
        found = importlib.util.find_spec('vllm')
        if found is None:
            raise unittest.SkipTest('vLLM is not here')
        path = os.path.join(os.path.dirname(found.origin), 'v1', 'kv_cache_interface.py')
        with open(path, encoding='utf-8') as source:
            names = {node.name for node in ast.parse(source.read()).body
                     if isinstance(node, ast.ClassDef) and node.name.endswith('Spec')}
        names -= {'KVCacheSpec', 'AttentionSpec', 'KVCacheGroupSpec', 'HiSparseHotSpec',
                  'HiSparseResidentSpec', 'KpoolTailSpec'}   # unknown ones are refused
        self.assertLessEqual(names, {*specs.KINDS, *specs._WITHOUT_PAGES, *specs._NOT_SHARED})


if __name__ == '__main__':
    unittest.main()
