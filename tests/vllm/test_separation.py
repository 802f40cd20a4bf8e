"""Who shares nothing with whom: tenants, cache salts, adapters, media, versions of the weights.

The engines have no model (harness.py); the daemon is a real kvtierd with two tenants.
"""
import os
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), 'system')]
from harness import (BLOCK, Engine, adapter_folder, get_hash_fn_by_name,   # noqa: E402
                     kv_cache_utils, model_folder, prompt)
import node   # noqa: E402
from vllm.lora.request import LoRARequest   # noqa: E402
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange   # noqa: E402
from vllm.sampling_params import SamplingParams   # noqa: E402
from vllm.v1.request import Request   # noqa: E402

TENANTS = ('default', 'other')
TOKENS = prompt(7, 6 * BLOCK + 3)
WHOLE = 6 * BLOCK


class Engines(unittest.TestCase):
    def setUp(self):
        self.folder = self.enterContext(tempfile.TemporaryDirectory(prefix='kvtier-'))
        self.model = model_folder(self.folder)
        self.node = self.enterContext(node.Node(cpu_mib=8, nvme_mib=0, tenants=TENANTS))
        self.node.start()
        self.engines = 0

    def engine(self, tenant='default', **settings):
        self.engines += 1
        engine = Engine(self.model, {'socket': self.node.socket(tenant), 'on_refusal': 'fail',
                                     **settings}, engine=f'engine-{self.engines}')
        self.addCleanup(engine.close)
        return engine

    def loaded(self, engine, name='request', **options):
        """Tokens that a request for TOKENS did not compute, in an engine without a cache."""
        engine.scheduler.reset_prefix_cache()
        before = engine.computed_tokens
        engine.run(name, TOKENS, **options)
        engine.settle()
        return len(TOKENS) - (engine.computed_tokens - before)

    def warm(self, **options):
        engine = self.engine()
        self.assertEqual(self.loaded(engine, 'first', **options), 0)
        return engine


class Separation(Engines):
    def test_an_engine_of_the_same_tenant_finds_all_and_one_of_another_nothing(self):
        self.warm()
        self.assertEqual(self.loaded(self.engine('other')), 0)
        self.assertEqual(self.loaded(self.engine()), WHOLE)

    def test_what_a_tenant_stores_again_is_still_its_own(self):
        self.warm()
        other = self.engine('other')
        self.assertEqual(self.loaded(other), 0)
        self.assertEqual(self.loaded(other, 'again'), WHOLE)
        held = {tenant['name']: tenant['tiers']['cpu']['slots']['ready']
                for tenant in self.node.stats()['tenants']}
        self.assertEqual(held, {'default': 6, 'other': 6})

    def test_a_salt_finds_what_the_same_salt_has_stored(self):
        self.warm(salt='blue')
        engine = self.engine()
        self.assertEqual(self.loaded(engine, 'plain'), 0)
        self.assertEqual(self.loaded(engine, 'green', salt='green'), 0)
        self.assertEqual(self.loaded(self.engine(), salt='blue'), WHOLE)

    def test_an_adapter_finds_what_the_same_content_has_stored_and_nothing_once_overwritten(self):
        folder = adapter_folder(self.folder, 'style')
        adapter = LoRARequest('style', 1, folder)
        self.warm(lora=adapter)
        self.assertEqual(self.loaded(self.engine(), 'plain'), 0)
        self.assertEqual(self.loaded(self.engine(), 'same', lora=adapter), WHOLE)
        # The engine's own hashes know the name and the path only.
        with open(os.path.join(folder, 'adapter_model.safetensors'), 'r+b') as file:
            file.seek(-1, os.SEEK_END)
            file.write(b'!')
        self.assertEqual(self.loaded(self.engine(), 'overwritten', lora=adapter), 0)

    def test_weights_of_another_version_find_nothing(self):
        engine = self.engine(weights_version='1')
        self.loaded(engine, 'first')
        self.assertEqual(self.loaded(self.engine(weights_version='2')), 0)
        self.assertEqual(self.loaded(self.engine(weights_version='1')), WHOLE)

    def test_a_file_that_names_the_weights_is_read_at_each_reset(self):
        path = os.path.join(self.folder, 'version')
        for version in ('step 1', 'step 2'):
            with open(path, 'w', encoding='utf-8') as file:
                file.write(version)
            if version == 'step 1':
                engine = self.engine(weights_version_file=path)
                self.loaded(engine, 'first')
        self.assertTrue(engine.change_weights('changed'))
        self.assertEqual(self.loaded(engine, 'old is gone'), 0)
        # Another engine that has got as far shares; one with the old weights sees the old blocks.
        self.assertEqual(engine.connector._scheduler._weights.text, 'step 2')
        self.assertEqual(self.loaded(self.engine(weights_version='step 1'), 'old'), WHOLE)


class Media(Engines):
    """vLLM's encoder is not there: what is asked is what the scheduler would ask."""

    def request(self, identifier):
        parameters = SamplingParams(max_tokens=1)
        parameters.update_from_generation_config({}, 2)
        hash_function = get_hash_fn_by_name('sha256')
        media = MultiModalFeatureSpec(data=None, modality='image', identifier=identifier,
                                      mm_position=PlaceholderRange(offset=4, length=8))
        self.engines += 1
        return Request(request_id=f'media-{self.engines}', prompt_token_ids=TOKENS,
                       sampling_params=parameters, pooling_params=None, mm_features=[media],
                       block_hasher=kv_cache_utils.get_request_block_hasher(BLOCK, hash_function))

    def ask(self, engine, request):
        engine.connector.on_new_request(request)
        answer = engine.connector.get_num_new_matched_tokens(request, 0)
        engine.connector.request_finished(request, [])
        return answer

    def test_media_are_not_looked_up_unless_the_operator_vouches_for_their_ids(self):
        engine = self.engine()
        self.assertEqual(self.ask(engine, self.request('a' * 64)), (0, False))
        self.assertEqual(engine.count('lookups_total'), 0)
        self.assertEqual(engine.count('refused_requests_total'), 1)

    def test_an_id_that_no_digest_looks_like_is_refused_all_the_same(self):
        engine = self.engine(media_ids_are_content=True)
        self.assertEqual(self.ask(engine, self.request('my holiday')), (0, False))
        self.assertEqual(engine.count('lookups_total'), 0)

    def test_vouched_for_they_are_looked_up_by_their_content_and_text_alone_is_no_hit(self):
        self.warm()
        engine = self.engine(media_ids_are_content=True)
        self.assertEqual(self.ask(engine, self.request('a' * 64)), (0, False))
        self.assertEqual(engine.count('lookups_total'), 1)


if __name__ == '__main__':
    unittest.main()
