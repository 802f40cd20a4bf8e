"""What users and operators say: refusals, weights, adapters, salts, controls, and counts."""
import os
import sys
import unittest
from unittest import mock

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import (BLOCK, Case, adapter_folder, is_attached, kv_cache_utils, link_module,   # noqa: E402
                     prompt)
import frames   # noqa: E402
from kvtier.vllm.requests import tag_of   # noqa: E402
from vllm.lora.request import LoRARequest   # noqa: E402

END, RETAIN = 0, 1
WEIGHTS_VERSION = 9


class Refusals(Case):

    def test_refused_by_the_daemon_it_serves_without_kvtier_and_says_why(self):
        self.daemon.refuse(frames.REGISTER, text='this tenant is full')
        with self.assertLogs('vllm.kvtier', 'ERROR') as logs:
            engine = self.engine()
        self.assertIn('this tenant is full', ''.join(logs.output))
        tokens = prompt(1, 100)
        engine.run('request', tokens, 2)
        self.assert_same_as_cold(engine, 'request', tokens, 2)
        self.assertEqual((engine.loads_sent, self.daemon.stored()), ([], set()))
        self.assertEqual(engine.stats.get('enabled', 0), 0)

    def test_refused_by_the_daemon_it_does_not_start_when_told_so(self):
        self.daemon.refuse(frames.REGISTER, text='this tenant is full')
        with self.assertRaisesRegex(RuntimeError, 'this tenant is full'):
            self.engine(on_refusal='fail')

    def test_without_a_daemon_it_serves_and_attaches_when_one_comes(self):
        self.daemon.die()
        with self.assertLogs('vllm.kvtier', 'ERROR'):
            engine = self.engine()
        tokens = prompt(2, 100)
        engine.run('alone', tokens)
        self.daemon.come_back()
        engine.step_until(engine.connector._scheduler._link.is_connected, 'it has attached')
        engine.step_until(engine.worker._worker._link.is_connected, 'the worker has attached')
        engine.scheduler.reset_prefix_cache()
        engine.run('stored', tokens)
        engine.settle()
        self.assertEqual(len(self.daemon.stored()), 6)
        self.assertEqual(engine.stats['enabled'], 1)

    def test_without_a_daemon_it_does_not_start_when_told_so(self):
        self.daemon.die()
        with self.assertRaises(RuntimeError):
            self.engine(on_refusal='fail')
        self.daemon.come_back()

    def test_an_unknown_setting_does_not_start(self):
        with self.assertRaisesRegex(ValueError, 'unknown setting'):
            self.engine(lookup_milliseconds=3)

    def test_hashes_that_other_processes_do_not_compute_are_not_shared(self):
        engine = self.engine()
        with self.assertLogs('vllm.kvtier', 'ERROR') as logs, \
                mock.patch.object(kv_cache_utils, 'NONE_HASH', b'r' * 32):
            tokens = prompt(3, 100)
            engine.run('request', tokens)
        self.assertIn('PYTHONHASHSEED', ''.join(logs.output))
        self.assertEqual((self.daemon.stored(), self.daemon.lookups), (set(), []))

    def test_without_a_seed_it_is_refused_where_hashes_are_random_and_only_there(self):
        is_random = not hasattr(kv_cache_utils, 'resolve_none_hash_seed')
        with mock.patch.dict(os.environ):
            del os.environ['PYTHONHASHSEED']
            engine = self.engine()
            engine.run('request', prompt(4, 100))
            engine.settle()
        self.assertEqual(len(self.daemon.stored()), 0 if is_random else 6)
        self.assertEqual(engine.stats.get('enabled', 0), 0 if is_random else 1)


class Weights(Case):

    def test_after_a_reset_nothing_old_is_found_and_another_space_is_used(self):
        tokens = prompt(10, 100)
        engine = self.engine()
        engine.run('before', tokens)
        engine.settle()
        old = self.daemon.stored()
        registered = len(self.daemon.registers)
        self.assertTrue(engine.change_weights('v2'))
        engine.run('after', tokens, 2)
        engine.settle()
        self.assert_same_as_cold(engine, 'after', tokens, 2)
        self.assertEqual(engine.loads_sent, [])
        versions = [fields[WEIGHTS_VERSION] for fields in self.daemon.registers[registered:]]
        self.assertEqual(len(versions), 2)
        self.assertEqual(len(set(versions)), 1)
        spaces = {space for space, _, _ in self.daemon.blocks}
        self.assertEqual(len(spaces), 2)
        self.assertEqual(self.daemon.stored(min(spaces)), old)
        engine.scheduler.reset_prefix_cache()
        engine.run('again', tokens, 2)
        self.assert_same_as_cold(engine, 'again', tokens, 2)
        self.assertEqual(len(engine.loads_sent), 1)

    def test_a_store_under_way_at_a_reset_does_not_count_for_the_new_weights(self):
        tokens = prompt(11, 100)
        engine = self.engine()
        self.daemon.hold(frames.COMMIT)
        engine.run('before', tokens)
        engine.change_weights('v2')
        self.daemon.let_go()
        engine.run('after', tokens)
        engine.settle()
        self.assert_same_as_cold(engine, 'after', tokens)
        new_space = max(self.daemon.spaces.values())
        self.assertEqual(len(self.daemon.stored(new_space)), 6)


    def test_weights_that_changed_while_it_was_refused_count_when_it_is_accepted(self):
        self.daemon.refuse(frames.REGISTER)
        with mock.patch.object(link_module, 'RETRY_SECONDS', 0.0):
            engine = self.engine()
            links = engine.connector._scheduler._link, engine.worker._worker._link
            engine.change_weights('v2')
            engine.run('refused', prompt(12, 40))
            self.daemon.accept()
            engine.step_until(lambda: all(is_attached(link) for link in links),
                              'both sides are attached')
        versions = {fields.get(WEIGHTS_VERSION, b'') for fields in self.daemon.registers}
        self.assertEqual(len(versions), 1)
        self.assertNotIn(b'', versions)


class Adapters(Case):
    mode = 'async'

    def adapter(self, name, number, folder=None):
        return LoRARequest(name, number, folder or adapter_folder(self.folder, name))

    def test_an_adapter_has_a_space_of_its_own(self):
        tokens = prompt(20, 100)
        self.warm(tokens)
        engine = self.engine()
        adapter = self.adapter('one', 1)
        engine.run('adapted', tokens, lora=adapter)
        engine.settle()
        self.assertEqual(engine.loads_sent, [])
        self.assertEqual(len(self.daemon.adapters), 1)
        space = next(iter(self.daemon.adapters.values()))
        self.assertEqual(len(self.daemon.stored(space)), 6)
        again = self.engine()
        again.run('adapted again', tokens, lora=adapter)
        self.assertEqual(len(again.loads_sent), 1)
        self.assertEqual(again.outputs['adapted again'], engine.outputs['adapted'])

    def test_adapters_of_one_name_and_other_content_share_nothing(self):
        tokens = prompt(21, 100)
        first = self.engine()
        first.run('first', tokens, lora=self.adapter('same', 1))
        first.settle()
        other = LoRARequest('same', 1, adapter_folder(self.folder, 'other'))
        second = self.engine()
        second.run('second', tokens, lora=other)
        second.settle()
        self.assertEqual(second.loads_sent, [])
        self.assertEqual(len(self.daemon.adapters), 2)

    def test_nonsense_in_its_controls_does_not_take_a_request_out_of_its_adapters_space(self):
        tokens = prompt(22, 100)
        engine = self.engine()
        with self.assertLogs('vllm.kvtier', 'WARNING'):
            engine.run('adapted', tokens, lora=self.adapter('one', 1), kvtier={'store': 'maybe'})
        engine.settle()
        spaces = {space for space, _, _ in self.daemon.blocks}
        self.assertLessEqual(spaces, set(self.daemon.adapters.values()))
        self.assertLessEqual({lookup.space for lookup in self.daemon.lookups},
                             set(self.daemon.adapters.values()))

    def test_an_adapter_that_cannot_be_read_is_neither_loaded_nor_stored(self):
        engine = self.engine()
        engine.run('adapted', prompt(23, 100),
                   lora=LoRARequest('gone', 1, os.path.join(self.folder, 'nowhere')))
        engine.settle()
        self.assertEqual((self.daemon.stored(), self.daemon.lookups), (set(), []))
        self.assertEqual(engine.count('refused_requests_total'), 1)

    def test_a_salt_keeps_requests_apart(self):
        tokens = prompt(24, 100)
        first = self.engine()
        first.run('first', tokens, salt='mine')
        first.settle()
        second = self.engine()
        second.run('theirs', tokens, salt='theirs')
        second.run('none', tokens)
        self.assertEqual(second.loads_sent, [])
        third = self.engine()
        third.run('mine', tokens, salt='mine')
        self.assertEqual(len(third.loads_sent), 1)


class Controls(Case):
    mode = 'async'

    def test_a_request_that_is_not_to_be_stored_is_not_stored(self):
        engine = self.engine()
        engine.run('private', prompt(30, 100), kvtier={'store': False})
        engine.settle()
        self.assertEqual(self.daemon.seen[frames.STORE], 0)

    def test_a_request_loads_no_more_tokens_than_it_allows(self):
        tokens = prompt(31, 100)
        self.warm(tokens)
        engine = self.engine()
        engine.run('a little', tokens, kvtier={'max_load_tokens': 2 * BLOCK + 5})
        self.assert_same_as_cold(engine, 'a little', tokens)
        self.assertEqual([len(load.parts[0].hashes) // 32 for load in engine.loads_sent], [2])
        engine.scheduler.reset_prefix_cache()
        engine.run('nothing', tokens, kvtier={'max_load_tokens': 0})
        self.assertEqual(len(engine.loads_sent), 1)

    def test_hints_are_given_at_a_requests_end(self):
        engine = self.engine()
        engine.run('kept', prompt(32, 100), kvtier={'retain_seconds': 5})
        engine.run('over', prompt(33, 100), kvtier={'end_of_session': True})
        self.assertEqual([(kind, len(hashes)) for kind, _, hashes in self.daemon.hints],
                         [(RETAIN, 6), (END, 6)])

    def test_nonsense_is_said_and_the_request_runs_as_without_it(self):
        nonsense = ('yes', ['store'], {'store': 1}, {'stores': True}, {'max_load_tokens': -1},
                    {'max_load_tokens': '5'}, {'retain_seconds': float('nan')},
                    {'end_of_session': None})
        engine = self.engine()
        for number, given in enumerate(nonsense):
            tokens = prompt(40 + number, 2 * BLOCK + 1)
            with self.subTest(given=given), self.assertLogs('vllm.kvtier', 'WARNING') as logs:
                engine.run(f'request {number}', tokens, kvtier=given)
                self.assertIn('kv_transfer_params', ''.join(logs.output))
                self.assert_same_as_cold(engine, f'request {number}', tokens)
        engine.settle()
        self.assertEqual(len(self.daemon.stored()), 2 * len(nonsense))

    def test_a_request_is_known_by_its_trace_where_the_engine_passes_it_on(self):
        trace = '4bf92f3577b34da6a3ce929d0e0e4736'
        tokens = prompt(62, 100)
        self.warm(tokens)
        engine = self.engine()
        engine.run('traced', tokens, trace_headers={'traceparent': f'00-{trace}-00f067aa0ba902b7-01'})
        self.assertEqual(self.daemon.lookups[-1].tag.hex(), trace)
        self.assertEqual([load.tag.hex() for load in engine.loads_sent], [trace])
        engine.run('not traced', prompt(63, 100))
        self.assertEqual(self.daemon.lookups[-1].tag, tag_of('not traced'))

    def test_loading_and_storing_can_be_switched_off(self):
        tokens = prompt(60, 100)
        self.engine(store=False).run('not stored', tokens)
        self.assertEqual(self.daemon.seen[frames.STORE], 0)
        self.warm(tokens)
        engine = self.engine(load=False)
        lookups = len(self.daemon.lookups)
        engine.run('not loaded', tokens)
        self.assertEqual((engine.loads_sent, len(self.daemon.lookups)), ([], lookups))

    def test_what_is_sooner_computed_than_loaded_is_declined(self):
        tokens = prompt(61, 100)
        self.warm(tokens)
        engine = self.engine(load_or_recompute='auto')
        self.daemon.worth_tokens = 3 * BLOCK
        engine.run('request', tokens)
        self.assert_same_as_cold(engine, 'request', tokens)
        self.assertEqual([len(load.parts[0].hashes) // 32 for load in engine.loads_sent], [3])
        self.assertEqual(engine.stats['declined_tokens_total'], 3 * BLOCK)


class Statistics(Case):
    mode = 'async'

    def test_counts_add_up(self):
        tokens = prompt(70, 100)
        self.warm(tokens)
        warm, engine = self.engines[0], self.engine()
        engine.run('request', tokens, 2)
        self.assertEqual(warm.stats['stored_blocks_total'], 6)
        self.assertEqual(warm.stats['stored_bytes_total'], 6 * 4096)
        self.assertEqual(engine.stats['enabled'], 1)
        self.assertEqual(engine.stats['lookups_total'], 1)
        self.assertEqual(engine.stats['hit_tokens_total'], 96)
        self.assertEqual(engine.stats['loaded_blocks_total'], 6)
        self.assertEqual(engine.stats['loaded_bytes_total'], 6 * 4096)
        self.assertNotIn('load_failed_blocks_total', engine.stats)

    def test_a_line_for_debugging_says_where_each_requests_tokens_came_from(self):
        tokens = prompt(71, 100)
        self.warm(tokens)
        engine = self.engine()
        with self.assertLogs('vllm.kvtier', 'DEBUG') as logs:
            engine.run('request 7', tokens, 2)
        lines = [line for line in logs.output if 'request request 7' in line]
        self.assertEqual(len(lines), 1)
        self.assertRegex(lines[0], r'0 from the engine.s own cache, 96 from kvtier '
                                   r'\(96 cpu, 0 nvme\)')

    def test_enabled_follows_the_daemon(self):
        engine = self.engine()
        engine.run('one', prompt(72, 40))
        self.assertEqual(engine.stats['enabled'], 1)
        self.daemon.die()
        engine.run('two', prompt(73, 40))
        engine.run('three', prompt(74, 40))
        self.assertEqual(engine.stats['enabled'], 0)
        self.daemon.come_back()
        engine.step_until(engine.connector._scheduler._link.is_connected, 'it is attached')
        engine.run('four', prompt(75, 40))
        self.assertEqual(engine.stats['enabled'], 1)


if __name__ == '__main__':
    unittest.main()
