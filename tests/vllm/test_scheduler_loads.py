"""A request's way through vLLM's scheduler with blocks from kvtier: asked, waited for, loaded."""
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import BLOCK, Case, prompt   # noqa: E402
import frames   # noqa: E402


def blocks_of(load):
    return sum(len(part.hashes) // 32 for part in load.parts)


class Loads:
    """Each of these holds for synchronous and for asynchronous loads."""

    def test_a_prompt_that_another_engine_has_stored_is_loaded_and_answered_as_if_computed(self):
        tokens = prompt(1, 100)
        self.warm(tokens)
        engine = self.engine()
        engine.run('again', tokens, 3)
        self.assert_same_as_cold(engine, 'again', tokens, 3)
        self.assertEqual([blocks_of(load) for load in engine.loads_sent], [6])
        self.assertEqual(engine.computed_tokens, 4 + 2)

    def test_a_hit_on_the_whole_prompt_leaves_a_token_to_compute(self):
        tokens = prompt(2, 4 * BLOCK)
        self.warm(tokens + prompt(3, BLOCK))
        engine = self.engine()
        engine.run('whole', tokens, 2)
        self.assert_same_as_cold(engine, 'whole', tokens, 2)
        self.assertEqual(len(engine.loads_sent), 1)
        self.assertGreaterEqual(engine.computed_tokens, 2)
        self.assertLessEqual(blocks_of(engine.loads_sent[0]), 4)

    def test_what_the_engine_has_itself_is_not_loaded_again(self):
        tokens = prompt(4, 6 * BLOCK + 3)
        self.warm(tokens)
        engine = self.engine()
        engine.run('first part', tokens[:2 * BLOCK + 1])
        engine.run('all', tokens)
        self.assert_same_as_cold(engine, 'all', tokens)
        self.assertEqual([load.parts[0].first_position for load in engine.loads_sent], [0, 2])
        self.assertEqual([blocks_of(load) for load in engine.loads_sent], [2, 4])

    def test_blocks_that_nobody_stored_end_the_hit(self):
        tokens = prompt(5, 5 * BLOCK)
        self.warm(tokens[:3 * BLOCK + 1])
        engine = self.engine()
        engine.run('longer', tokens + [7])
        self.assert_same_as_cold(engine, 'longer', tokens + [7])
        self.assertEqual([blocks_of(load) for load in engine.loads_sent], [3])

    def test_asking_twice_gives_the_same_answer_and_costs_one_lookup(self):
        tokens = prompt(6, 100)
        self.warm(tokens)
        engine = self.engine()
        request = engine.add('asked', tokens)
        before = len(self.daemon.lookups)
        answers = [engine.connector.get_num_new_matched_tokens(request, 0) for _ in range(3)]
        self.assertEqual(answers, [(96, self.mode == 'async')] * 3)
        self.assertEqual(len(self.daemon.lookups), before + 1)
        self.assertEqual(len(self.daemon.leases), 1)
        engine.finish()
        self.assert_same_as_cold(engine, 'asked', tokens)

    def test_asked_with_another_local_hit_it_looks_again_and_gives_the_old_lease_back(self):
        tokens = prompt(7, 100)
        self.warm(tokens)
        engine = self.engine()
        request = engine.add('asked', tokens)
        self.assertEqual(engine.connector.get_num_new_matched_tokens(request, 0)[0], 96)
        self.assertEqual(engine.connector.get_num_new_matched_tokens(request, 32)[0], 64)
        self.assertEqual(engine.connector.get_num_new_matched_tokens(request, 0)[0], 96)
        self.daemon.wait_until(lambda: len(self.daemon.leases) == 1, 'only one lease left')
        engine.finish()
        self.assert_same_as_cold(engine, 'asked', tokens)

    def test_a_request_that_waits_for_blocks_holds_one_lease_and_then_loads(self):
        stored, other = prompt(8, 6 * BLOCK + 1), prompt(9, 8 * BLOCK)
        self.warm(stored)
        engine = self.engine(blocks=14, step_tokens=BLOCK * 8)
        engine.add('in the way', other, 40)
        engine.step()
        request = engine.add('waiting', stored)
        before = len(self.daemon.lookups)
        for _ in range(10):
            engine.step()
            self.assertEqual(len(engine.loads_sent), 0)
        self.assertEqual(len(self.daemon.lookups), before + 1)
        self.assertEqual(len(self.daemon.leases), 1)
        self.assertEqual(request.num_computed_tokens, 0)
        engine.finish()
        self.assertEqual(len(engine.loads_sent), 1)
        self.assert_same_as_cold(engine, 'waiting', stored)
        self.assert_same_as_cold(engine, 'in the way', other, 40)

    def test_while_ranks_are_missing_everything_is_a_miss_and_later_a_hit(self):
        tokens = prompt(10, 100)
        self.warm(tokens)
        engine = self.engine()
        self.daemon.ranks_missing = 1
        engine.run('too early', tokens)
        self.assertEqual(engine.loads_sent, [])
        self.daemon.ranks_missing = 0
        engine.scheduler.reset_prefix_cache()
        engine.step_until(engine.connector._scheduler._link.is_connected, 'it is attached again')
        engine.run('again', tokens)
        self.assertEqual(len(engine.loads_sent), 1)
        for name in ('too early', 'again'):
            self.assert_same_as_cold(engine, name, tokens)

    def test_a_preempted_request_goes_on_with_the_same_tokens(self):
        engine = self.engine(blocks=16)
        prompts = {f'request {i}': prompt(20 + i, 4 * BLOCK + 5) for i in range(3)}
        requests = [engine.add(name, tokens, 60) for name, tokens in prompts.items()]
        engine.finish()
        self.assertGreater(sum(request.num_preemptions for request in requests), 0)
        for name, tokens in prompts.items():
            self.assert_same_as_cold(engine, name, tokens, 60)

    def test_a_preempted_request_gets_its_own_blocks_back_from_kvtier(self):
        engine = self.engine(blocks=16)
        tokens = prompt(24, 6 * BLOCK)
        request = engine.add('preempted', tokens, 120)
        engine.step_until(lambda: request.num_output_tokens >= 20, 'some tokens are generated')
        engine.settle_stores()
        blocks = (request.num_tokens - 1) // BLOCK
        engine.scheduler.reset_prefix_cache(reset_running_requests=True)
        engine.finish()
        self.assertEqual(request.num_preemptions, 1)
        self.assertEqual([blocks_of(load) for load in engine.loads_sent], [blocks])
        self.assert_same_as_cold(engine, 'preempted', tokens, 120)

    def test_aborted_before_it_was_scheduled_it_leaves_nothing(self):
        tokens = prompt(30, 100)
        self.warm(tokens)
        engine = self.engine()
        request = engine.add('aborted', tokens)
        engine.connector.get_num_new_matched_tokens(request, 0)
        self.assertEqual(len(self.daemon.leases), 1)
        engine.abort('aborted')
        engine.finish()
        self.assertEqual(engine.outputs['aborted'], [])

    def test_requests_side_by_side_with_one_prefix_are_all_right(self):
        tokens = prompt(31, 5 * BLOCK)
        self.warm(tokens)
        engine = self.engine()
        every = {f'request {i}': tokens + prompt(40 + i, 7 + 10 * i) for i in range(5)}
        for name, own in every.items():
            engine.add(name, own, 5)
        engine.finish()
        for name, own in every.items():
            self.assert_same_as_cold(engine, name, own, 5)
        self.assertGreaterEqual(len(engine.loads_sent), 1)

    def test_more_blocks_than_fit_into_a_window_of_loads_arrive(self):
        tokens = prompt(32, 70 * BLOCK + 1)[:1000]
        self.warm(tokens)
        engine = self.engine(blocks=80)
        engine.run('long', tokens, 2)
        self.assertEqual([blocks_of(load) for load in engine.loads_sent], [62])
        self.assert_same_as_cold(engine, 'long', tokens, 2)


class SyncLoads(Loads, Case):
    mode = 'sync'


class AsyncLoads(Loads, Case):
    mode = 'async'

    def test_others_go_on_while_a_load_is_under_way(self):
        tokens, other = prompt(50, 100), prompt(51, 60)
        self.warm(tokens)
        engine = self.engine()
        self.daemon.hold(frames.LOAD)
        engine.add('loading', tokens, 2)
        engine.add('other', other, 10)
        engine.step_until(lambda: 'other' in engine.ended, 'the other request has ended')
        self.assertNotIn('loading', engine.ended)
        self.assertEqual(engine.outputs['loading'], [])
        self.daemon.let_go()
        engine.finish()
        self.assert_same_as_cold(engine, 'loading', tokens, 2)
        self.assert_same_as_cold(engine, 'other', other, 10)

    def test_aborted_while_it_loads_its_blocks_are_free_only_when_nobody_writes_them(self):
        tokens = prompt(52, 100)
        self.warm(tokens)
        engine = self.engine()
        self.daemon.hold(frames.LOAD)
        engine.add('aborted', tokens)
        engine.step_until(lambda: self.daemon.seen[frames.LOAD] == 1, 'the load was asked for')
        engine.abort('aborted')
        pool = engine.scheduler.kv_cache_manager.block_pool
        self.assertLess(pool.get_num_free_blocks(), engine.cache.config.num_blocks - 1)
        engine.finish()
        self.assertEqual(engine.outputs['aborted'], [])
        self.assertEqual(pool.get_num_free_blocks(), engine.cache.config.num_blocks - 1)

    def test_aborted_after_its_load_and_before_its_first_step_it_leaves_nothing(self):
        tokens = prompt(53, 100)
        self.warm(tokens)
        engine = self.engine()
        engine.add('aborted', tokens)
        engine.step_until(lambda: engine.scheduler.finished_recving_kv_req_ids,
                          'the load is over')
        engine.abort('aborted')
        engine.finish()
        self.assertEqual(engine.outputs['aborted'], [])

    def test_a_load_that_is_late_beyond_its_deadline_is_recomputed(self):
        tokens = prompt(54, 100)
        self.warm(tokens)
        engine = self.engine(load_ms=50)
        self.daemon.hold(frames.LOAD)
        engine.run('late', tokens, 2)
        self.assert_same_as_cold(engine, 'late', tokens, 2)
        self.daemon.let_go()


if __name__ == '__main__':
    unittest.main()
