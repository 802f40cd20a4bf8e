"""Identities of engines from real VllmConfig objects, made offline; requests and adapters.

    PYTHON tests/plugin/test_identity.py     with a Python that has vllm, or all of it is skipped
"""
import json
import os
import struct
import sys
import tempfile
import unittest
from types import SimpleNamespace
from unittest import mock

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, 'plugin'))
os.environ.update(HF_HUB_OFFLINE='1', VLLM_LOGGING_LEVEL='ERROR', VLLM_NO_USAGE_STATS='1')

try:
    import torch
    import vllm    # noqa: F401
    from vllm.engine.arg_utils import EngineArgs
    from vllm.lora.request import LoRARequest
    from vllm.v1.core import kv_cache_utils
    from kvtier.vllm import identity
    from kvtier.vllm.identity import AdapterDigests, Refused, identity_of, request_refusal
    MISSING = ''
except ImportError as error:
    MISSING = f'{sys.executable} has no vllm: {error}'

CONFIG = {
    'architectures': ['LlamaForCausalLM'], 'model_type': 'llama', 'hidden_size': 64,
    'intermediate_size': 128, 'num_hidden_layers': 2, 'num_attention_heads': 2,
    'num_key_value_heads': 2, 'head_dim': 32, 'vocab_size': 128, 'max_position_embeddings': 512,
    'rms_norm_eps': 1e-5, 'torch_dtype': 'float32', 'bos_token_id': 0, 'eos_token_id': 1,
}
FIELDS = {'model_content', 'dtype', 'quantisation', 'split', 'speculation', 'hash_algorithm',
          'hash_seed', 'weights_version'}


def write(folder, name, data):
    path = os.path.join(folder, name)
    with open(path, 'wb') as file:
        file.write(data)
    return path


def write_tensors(folder, name, data):
    header = json.dumps({'a': {'dtype': 'U8', 'shape': [len(data)],
                               'data_offsets': [0, len(data)]}}).encode()
    return write(folder, name, struct.pack('<Q', len(header)) + header + data)


def write_model(folder, data=b'weights', **config):
    write(folder, 'config.json', json.dumps(dict(CONFIG, **config)).encode())
    write_tensors(folder, 'model.safetensors', data)


def setUpModule():
    if MISSING:
        print(f'SKIP tests/plugin/test_identity.py: {MISSING}', file=sys.stderr)
        raise unittest.SkipTest(MISSING)
    seed = mock.patch.dict(os.environ, {'PYTHONHASHSEED': '0'})
    seed.start()
    unittest.addModuleCleanup(seed.stop)


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = self.new_folder()

    def new_folder(self):
        temporary = tempfile.TemporaryDirectory(prefix='kvtier-test-')
        self.addCleanup(temporary.cleanup)
        return temporary.name

    def refused(self, words, call, *arguments):
        """The remedy of a refusal for a reason with these words."""
        with self.assertRaises(Refused) as caught:
            call(*arguments)
        self.assertIn(words, caught.exception.reason)
        self.assertTrue(caught.exception.remedy)
        return caught.exception.remedy


class Engines(Case):
    def setUp(self):
        super().setUp()
        write_model(self.folder)

    def config(self, model=None, **arguments):
        settings = {'skip_tokenizer_init': True, 'max_model_len': 256, 'dtype': 'float32'}
        return EngineArgs(model=model or self.folder, **{**settings, **arguments}
                          ).create_engine_config()

    def identity(self, model=None, weights_version='', **arguments):
        return identity_of(self.config(model, **arguments), weights_version)

    def assert_same(self, first, **arguments):
        self.assertEqual(self.identity(**arguments), first, arguments)

    def assert_differs(self, first, field, **arguments):
        second = self.identity(**arguments)
        self.assertNotEqual(second[field], first[field], arguments)

    def test_all_fields_are_texts_that_fit_into_a_frame(self):
        found = self.identity(weights_version='v1')
        self.assertEqual(set(found), FIELDS)
        for name, text in found.items():
            self.assertLessEqual(len(text.encode()), identity.FIELD_BYTES_MAX, name)
        self.assertEqual(found['dtype'], 'float32')
        self.assertEqual(found['split'], 'tp=1,pp=1,dcp=1,pcp=1')
        self.assertEqual(found['speculation'], '')
        self.assertEqual(found['hash_algorithm'], 'sha256')
        self.assertEqual(found['weights_version'], 'v1')

    def test_the_same_content_under_other_names_and_settings_is_the_same(self):
        first = self.identity()
        other = self.new_folder()
        write_model(other)
        self.assert_same(first, model=other)
        self.assert_same(first, served_model_name='another')
        self.assert_same(first, max_model_len=128)
        self.assert_same(first, seed=7)
        self.assert_same(first, enforce_eager=True)
        self.assert_same(first, gpu_memory_utilization=0.5)
        self.assert_same(first, enable_lora=True)

    def test_what_an_engine_finds_out_while_it_starts_does_not_count(self):
        config = self.config()
        first = identity_of(config, '')
        config.cache_config.num_gpu_blocks = 17
        config.model_config.hf_config.rope_parameters = {'rope_type': 'made by model code'}
        config.parallel_config.rank = 3
        self.assertEqual(identity_of(config, ''), first)

    def test_other_weights_and_another_config_are_other_content(self):
        first = self.identity()
        write_model(self.folder, data=b'weightz')
        self.assert_differs(first, 'model_content')
        write_model(self.folder, rms_norm_eps=1e-6)
        self.assert_differs(first, 'model_content')
        write_model(self.folder)
        self.assert_same(first)
        write(self.folder, 'preprocessor_config.json', b'{}')
        self.assert_differs(first, 'model_content')

    def test_overrides_and_settings_of_the_model_are_content(self):
        first = self.identity()
        self.assert_differs(first, 'model_content', hf_overrides={'rope_theta': 5000.0})
        self.assert_differs(first, 'dtype', dtype='bfloat16')
        self.assert_differs(first, 'model_content', model_impl='transformers')

    def test_overrides_by_a_function_count_by_what_they_make(self):
        def override(value):
            def change(config):
                config.rms_norm_eps = value
                return config
            return change
        first = self.identity(hf_overrides=override(1e-3))
        self.assert_same(first, hf_overrides=override(1e-3))
        self.assert_differs(first, 'model_content', hf_overrides=override(1e-4))

    def test_the_longest_length_counts_where_it_chooses_rotary_factors(self):
        config = self.config()
        folders = [self.folder]
        self.assertFalse(identity._rope_depends_on_length(config.model_config, folders))
        for scaling, depends in (
                ({'rope_type': 'llama3'}, False), ({'type': 'yarn', 'factor': 4.0}, False),
                ({'rope_type': 'longrope'}, True), ({'type': 'su'}, True), (None, False),
                ({'full_attention': {'rope_type': 'dynamic'}}, True)):
            write_model(self.folder, rope_scaling=scaling)
            self.assertEqual(identity._rope_depends_on_length(config.model_config, folders),
                             depends, scaling)
        first = identity_of(config, '')
        config.model_config.max_model_len = 128
        self.assertNotEqual(identity_of(config, '')['model_content'], first['model_content'])

    def test_the_cache_dtype_counts(self):
        config = self.config()
        first = identity_of(config, '')
        config.cache_config.cache_dtype = 'fp8'
        self.assertNotEqual(identity_of(config, '')['quantisation'], first['quantisation'])

    def test_the_split_counts_and_ranks_do_not(self):
        config = self.config()
        first = identity_of(config, '')
        config.parallel_config.data_parallel_size = 4
        config.parallel_config.data_parallel_rank = 2
        config.parallel_config.enable_expert_parallel = True
        self.assertEqual(identity_of(config, ''), first)
        for name in ('tensor_parallel_size', 'pipeline_parallel_size',
                     'decode_context_parallel_size', 'prefill_context_parallel_size'):
            setattr(config.parallel_config, name, 2)
            self.assertNotEqual(identity_of(config, '')['split'], first['split'], name)
            setattr(config.parallel_config, name, 1)

    def test_a_cut_of_layers_given_by_hand_counts(self):
        config = self.config()
        config.parallel_config.pipeline_parallel_size = 2
        first = identity_of(config, '')
        with mock.patch.dict(os.environ, {'VLLM_PP_LAYER_PARTITION': '1,1'}):
            self.assertNotEqual(identity_of(config, '')['split'], first['split'])

    def test_speculative_decoding_counts_with_the_content_of_its_own_model(self):
        first = self.identity(speculative_config={
            'method': 'ngram', 'num_speculative_tokens': 2, 'prompt_lookup_max': 2})
        self.assertTrue(first['speculation'])
        draft = self.new_folder()
        write_model(draft)
        setting = {'method': 'draft_model', 'model': draft, 'num_speculative_tokens': 2}
        second = self.identity(speculative_config=setting)
        self.assertNotEqual(second['speculation'], first['speculation'])
        write_model(draft, data=b'other weights')
        self.assert_differs(second, 'speculation', speculative_config=setting)

    def test_weights_that_cannot_be_found_are_refused_until_they_have_a_version(self):
        for load_format in ('dummy', 'tensorizer'):
            config = self.config(load_format='dummy')
            config.load_config.load_format = load_format
            self.assertIn('weights_version', self.refused(load_format, identity_of, config, ''))
            first = identity_of(config, 'v1')
            self.assertNotEqual(first, identity_of(config, 'v2'))
        os.remove(os.path.join(self.folder, 'model.safetensors'))
        self.refused('no weight files', identity_of, self.config(), '')

    def test_a_version_of_lost_weights_counts_for_one_model_only(self):
        first = self.identity(load_format='dummy', weights_version='v1')
        other = self.new_folder()
        write_model(other)
        self.assert_differs(first, 'model_content', model=other, load_format='dummy',
                            weights_version='v1')

    def test_streamed_weights_and_modelscope_are_refused(self):
        config = self.config()
        config.model_config.model_weights = 's3://bucket/model'
        self.refused('streamed', identity_of, config, '')
        config = self.config()
        config.model_config.model = 'some/model'
        with mock.patch.dict(os.environ, {'VLLM_USE_MODELSCOPE': 'true'}):
            self.refused('ModelScope', identity_of, config, '')

    def test_weights_that_are_replaced_in_place_need_a_version(self):
        config = self.config()
        config.weight_transfer_config = SimpleNamespace()
        self.refused('replaced', identity_of, config, '')
        self.assertTrue(identity_of(config, 'v1'))

    def test_engines_whose_blocks_hold_more_than_their_hashes_say_are_refused(self):
        config = self.config()
        with mock.patch.object(config, 'cache_config', SimpleNamespace(calculate_kv_scales=True)):
            self.refused('scales', identity_of, config, '')
        with mock.patch.object(config, 'diffusion_config', SimpleNamespace(), create=True):
            self.refused('diffusion', identity_of, config, '')
        with mock.patch.object(config.attention_config, 'use_non_causal', True):
            self.refused('non-causal', identity_of, config, '')

    def test_settings_that_cannot_be_compared_are_refused_by_name(self):
        config = self.config()
        config.additional_config = {'hook': object()}
        self.refused('additional.hook', identity_of, config, '')
        self.refused('weights_version', identity_of, self.config(), 'v' * 1001)


class Hashes(Case):
    def config(self, algorithm):
        return SimpleNamespace(cache_config=SimpleNamespace(prefix_caching_hash_algo=algorithm))

    def test_only_sha256_is_taken(self):
        for algorithm in ('xxhash', 'xxhash_cbor', 'builtin', None):
            self.refused('collide', identity.expected_none_hash, self.config(algorithm))

    def test_the_first_hash_is_the_one_that_the_engine_makes(self):
        from vllm.utils.hashing import get_hash_fn_by_name
        before = vars(kv_cache_utils).get('NONE_HASH')
        self.addCleanup(setattr, kv_cache_utils, 'NONE_HASH', before)
        for algorithm in ('sha256', 'sha256_cbor'):
            for seed in ('0', 'abc'):
                with mock.patch.dict(os.environ, {'PYTHONHASHSEED': seed}):
                    kv_cache_utils.init_none_hash(get_hash_fn_by_name(algorithm))
                    self.assertEqual(identity.expected_none_hash(self.config(algorithm)),
                                     bytes(kv_cache_utils.NONE_HASH))

    def test_known_values_of_sha256_cbor_stay(self):
        self.assertEqual(identity.expected_none_hash(self.config('sha256_cbor')).hex(),
                         '4e1195df020de59e0d65a33a4279f1183e7ae4e5d980e309f8b55adff2e61c3e')

    def test_random_hashes_are_refused_and_constant_ones_are_not(self):
        with mock.patch.dict(os.environ):
            del os.environ['PYTHONHASHSEED']
            if hasattr(kv_cache_utils, 'resolve_none_hash_seed'):
                self.assertEqual(
                    identity.expected_none_hash(self.config('sha256_cbor')).hex(),
                    '9bd96a485ad84efdafb72ee48a1d7a69bcead0f8f0433173941b276b9581eef0')
            else:
                self.assertIn('PYTHONHASHSEED', self.refused(
                    'random', identity.expected_none_hash, self.config('sha256')))

    def test_a_seed_that_is_drawn_at_each_call_is_refused(self):
        with mock.patch.object(kv_cache_utils, 'resolve_none_hash_seed', create=True,
                               side_effect=lambda function: os.urandom(8).hex()):
            self.refused('random', identity.expected_none_hash, self.config('sha256'))


class Requests(Case):
    def request(self, **arguments):
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request
        given = {'prompt_token_ids': [1, 2, 3], 'pooling_params': None,
                 'sampling_params': SamplingParams(max_tokens=1)}
        return Request(request_id='r', **{**given, **arguments})

    def media(self, identifier):
        from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
        return [MultiModalFeatureSpec(data=None, modality='image', identifier=identifier,
                                      mm_position=PlaceholderRange(offset=0, length=1))]

    def test_requests_of_tokens_are_taken(self):
        self.assertIsNone(request_refusal(self.request()))
        self.assertIsNone(request_refusal(self.request(cache_salt='salt')))

    def test_media_is_refused_even_when_its_id_looks_like_a_digest(self):
        for identifier in ('cat.png', 'a' * 64):
            self.assertIn('made up', request_refusal(self.request(
                mm_features=self.media(identifier))))

    def test_media_is_taken_when_the_operator_vouches_for_ids_that_are_digests(self):
        for identifier, is_taken in (('0' * 64, True), ('0' * 128, True), ('cat.png', False),
                                     ('name:' + '0' * 64, False), ('0' * 63, False), ('', False)):
            found = request_refusal(self.request(mm_features=self.media(identifier)),
                                    media_ids_are_content=True)
            self.assertEqual(found is None, is_taken, identifier)
        adapter = LoRARequest('name', 1, '/nowhere')
        self.assertIsNone(request_refusal(self.request(
            mm_features=self.media('name:' + '0' * 64), lora_request=adapter), True))

    def test_embeddings_are_taken_where_all_of_them_is_hashed(self):
        embeddings = self.request(prompt_token_ids=None, prompt_embeds=torch.zeros(4, 8))
        self.assertIsNone(request_refusal(embeddings))
        keys, _ = kv_cache_utils.generate_block_hash_extra_keys(embeddings, 0, 4, 0)
        other = self.request(prompt_token_ids=None, prompt_embeds=torch.ones(4, 8))
        self.assertNotEqual(keys, kv_cache_utils.generate_block_hash_extra_keys(other, 0, 4, 0)[0])
        with mock.patch.object(identity, '_hashes_embeddings', lambda: False):
            self.assertIn('embeddings', request_refusal(embeddings))

    def test_embeddings_among_tokens_are_refused(self):
        mixed = SimpleNamespace(prompt_is_token_ids=[True, False])
        self.assertIn('positions', request_refusal(mixed))

    def test_what_is_not_hashed_at_all_is_refused(self):
        pooling = SimpleNamespace(extra_kwargs={'compressed_token_type_ids': 5})
        self.assertTrue(request_refusal(SimpleNamespace(pooling_params=pooling)))
        self.assertTrue(request_refusal(self.request(resumable=True)))


class Adapters(Case):
    def setUp(self):
        super().setUp()
        self.digests = AdapterDigests()
        self.fill(self.folder, b'one')

    def fill(self, folder, data):
        write(folder, 'adapter_config.json', b'{"r": 8}')
        path = write_tensors(folder, 'adapter_model.safetensors', data)
        status = os.stat(path)      # clocks of file systems are coarse
        Adapters.ticks = getattr(Adapters, 'ticks', 0) + 1
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + Adapters.ticks))

    def request(self, number=1, name='name', path=None, **arguments):
        return LoRARequest(name, number, path or self.folder, **arguments)

    def test_the_digest_is_of_content_and_not_of_names(self):
        first = self.digests.digest(self.request())
        self.assertEqual(len(first), 32)
        copy = self.new_folder()
        self.fill(copy, b'one')
        self.assertEqual(self.digests.digest(self.request(2, 'other', copy)), first)
        self.fill(copy, b'two')
        self.assertNotEqual(AdapterDigests().digest(self.request(2, 'other', copy)), first)

    def test_files_are_read_once_while_nobody_writes_them(self):
        first = self.digests.digest(self.request())
        with mock.patch.object(identity.content, 'adapter_digest', side_effect=AssertionError):
            self.assertEqual(self.digests.digest(self.request()), first)

    def test_an_adapter_that_changed_while_loaded_is_refused_for_the_rest_of_its_life(self):
        self.digests.digest(self.request())
        self.fill(self.folder, b'two')
        self.refused('changed', self.digests.digest, self.request())
        self.fill(self.folder, b'one')
        self.refused('changed', self.digests.digest, self.request())

    def test_an_id_with_another_path_is_refused_as_the_first_is_still_loaded(self):
        self.digests.digest(self.request())
        other = self.new_folder()
        self.fill(other, b'two')
        self.refused('changed', self.digests.digest, self.request(path=other))

    def test_one_that_was_loaded_again_with_the_same_content_is_taken(self):
        first = self.digests.digest(self.request())
        self.fill(self.folder, b'one')
        self.assertEqual(self.digests.digest(self.request(load_inplace=True)), first)

    def test_changed_content_under_a_known_name_and_path_stays_refused(self):
        self.digests.digest(self.request())
        self.fill(self.folder, b'two')
        self.refused('does not notice', self.digests.digest, self.request(load_inplace=True))
        self.refused('does not notice', self.digests.digest, self.request(2))

    def test_another_path_loaded_in_place_is_taken_where_the_engine_hashes_paths(self):
        first = self.digests.digest(self.request())
        other = self.new_folder()
        self.fill(other, b'two')
        again = self.request(path=other, load_inplace=True)
        for hashes_paths in (False, True):
            with mock.patch.object(identity, '_hashes_adapter_paths', lambda: hashes_paths):
                digests = AdapterDigests()
                digests.digest(self.request())
                if hashes_paths:
                    self.assertNotEqual(digests.digest(again), first)
                else:
                    self.refused('does not notice', digests.digest, again)

    def test_whether_the_engine_hashes_paths_is_found_out(self):
        keys = kv_cache_utils._gen_lora_extra_hash_keys(SimpleNamespace(
            lora_request=self.request()))
        self.assertEqual(identity._hashes_adapter_paths(), keys != ['name'])

    def test_what_cannot_be_read_is_refused(self):
        for path in ('/nowhere/adapter', 's3://bucket/adapter', 'some/adapter', self.new_folder()):
            self.refused('', AdapterDigests().digest, self.request(path=path))

    def test_an_adapter_of_the_hub_is_found_in_the_cache(self):
        cache = self.new_folder()
        place = os.path.join(cache, 'models--some--adapter', 'snapshots', 'abc')
        os.makedirs(place)
        self.fill(place, b'one')
        os.makedirs(os.path.join(cache, 'models--some--adapter', 'refs'))
        write(cache, 'models--some--adapter/refs/main', b'abc')
        with mock.patch.dict(os.environ, {'HF_HUB_CACHE': cache}):
            self.assertEqual(self.digests.digest(self.request(path='some/adapter')),
                             AdapterDigests().digest(self.request()))


if __name__ == '__main__':
    unittest.main()
