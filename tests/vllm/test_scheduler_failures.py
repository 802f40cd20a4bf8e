"""Loads that fail, a daemon that hangs or dies: recomputed, in few steps, never wrong bytes."""
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import BLOCK, Case, is_attached, prompt   # noqa: E402
import frames   # noqa: E402

STEPS_MAX = 12      # with work, of a request that takes 3 when nothing goes wrong


def positions_of(load):
    part = load.parts[0]
    return part.first_position, part.first_position + len(part.hashes) // 32


class Failures:
    """Each of these holds for synchronous and for asynchronous loads."""

    def fail_blocks(self, positions, tokens):
        """The daemon promises all blocks of `tokens` and does not deliver those at `positions`."""
        warm = self.warm(tokens)
        hashes = [bytes(name) for name in warm.hashes_of('warm')]
        self.daemon.fail_loads(hashes if positions is None else [hashes[i] for i in positions])
        return hashes

    def check_recomputed(self, positions):
        tokens = prompt(1, 6 * BLOCK + 4)
        self.fail_blocks(positions, tokens)
        engine = self.engine()
        engine.run('request', tokens, 3)
        self.assert_same_as_cold(engine, 'request', tokens, 3)
        self.assertEqual(len(engine.loads_sent), 1)
        self.assertLessEqual(engine.steps, STEPS_MAX)
        return engine

    def test_a_load_that_fails_at_its_first_block_is_recomputed(self):
        self.check_recomputed([0])

    def test_a_load_that_fails_in_the_middle_keeps_what_came_before(self):
        engine = self.check_recomputed([3])
        if self.mode == 'async':
            self.assertEqual(engine.computed_tokens, 3 * BLOCK + 4 + 2)

    def test_a_load_that_fails_at_its_last_block_keeps_the_others(self):
        self.check_recomputed([5])

    def test_a_load_of_which_nothing_arrives_is_recomputed(self):
        self.check_recomputed(None)

    def test_a_block_with_a_wrong_checksum_is_recomputed_and_reported(self):
        tokens = prompt(2, 6 * BLOCK + 4)
        hashes = self.fail_blocks([], tokens)
        self.daemon.damage(hashes[2])
        engine = self.engine(store=False)
        engine.run('request', tokens, 2)
        self.assert_same_as_cold(engine, 'request', tokens, 2)
        self.assertEqual(engine.stats['load_failed_blocks_total'], 1)
        self.daemon.wait_until(lambda: self.daemon.released_bad == 1, 'the damage was reported')
        self.daemon.drop(hashes[2])

    def test_what_failed_is_not_offered_again(self):
        tokens = prompt(3, 6 * BLOCK + 4)
        self.fail_blocks([2], tokens)
        engine = self.engine(store=False)
        engine.run('first', tokens)
        engine.scheduler.reset_prefix_cache()
        engine.run('second', tokens)
        self.assertEqual([positions_of(load) for load in engine.loads_sent], [(0, 6), (0, 2)])
        for name in ('first', 'second'):
            self.assert_same_as_cold(engine, name, tokens)

    def test_what_failed_is_offered_again_once_it_was_stored_again(self):
        tokens = prompt(4, 6 * BLOCK + 4)
        hashes = self.fail_blocks([], tokens)
        self.daemon.lies = True
        self.daemon.drop(hashes[2])
        engine = self.engine()
        engine.run('first', tokens)
        engine.settle()
        self.assertIn(hashes[2], self.daemon.stored())
        engine.scheduler.reset_prefix_cache()
        engine.run('second', tokens)
        self.assertEqual([positions_of(load) for load in engine.loads_sent], [(0, 6), (0, 6)])
        self.assertEqual(engine.stats['load_failed_blocks_total'], 1)
        for name in ('first', 'second'):
            self.assert_same_as_cold(engine, name, tokens)

    def test_when_every_load_of_every_request_fails_all_end_in_bounded_steps(self):
        self.daemon.lies = True
        engine = self.engine(blocks=40)
        every = {f'request {i}': prompt(10 + i, 3 * BLOCK + i) for i in range(12)}
        for name, tokens in every.items():
            engine.add(name, tokens, 3)
        engine.finish()
        for name, tokens in every.items():
            self.assert_same_as_cold(engine, name, tokens, 3)
        self.assertLessEqual(len(engine.loads_sent), len(every))
        self.assertLessEqual(engine.steps, STEPS_MAX * len(every))

    def test_when_a_shared_prefix_fails_each_request_is_right(self):
        tokens = prompt(5, 4 * BLOCK)
        self.fail_blocks([1], tokens + [1])
        engine = self.engine()
        every = {f'request {i}': tokens + prompt(30 + i, BLOCK + 5 * i) for i in range(4)}
        for name, own in every.items():
            engine.add(name, own, 4)
        engine.finish()
        for name, own in every.items():
            self.assert_same_as_cold(engine, name, own, 4)

    def test_what_was_computed_behind_a_block_that_failed_is_not_stored_wrong(self):
        tokens = prompt(6, 6 * BLOCK)
        self.fail_blocks([1], tokens[:3 * BLOCK + 1])
        engine = self.engine()
        engine.run('request', tokens + prompt(7, 3 * BLOCK), 2)
        engine.settle()
        engine.check_daemon(self.daemon)   # blocks 3 and up were computed in the step that failed
        self.daemon.fail_loads([])
        other = self.engine(name='other')
        other.run('request', tokens + prompt(7, 3 * BLOCK), 2)
        self.assert_same_as_cold(other, 'request', tokens + prompt(7, 3 * BLOCK), 2)

    def test_policy_fail_ends_the_request_with_an_error_and_the_engine_lives(self):
        tokens = prompt(8, 6 * BLOCK + 4)
        self.fail_blocks([1], tokens)
        with self.assertLogs('vllm.kvtier', 'WARNING') as logs:
            engine = self.engine(policy='fail')
        self.assertIn('kv_load_failure_policy', ''.join(logs.output))
        engine.run('request', tokens)
        self.assertIn('error', engine.ended['request'].lower())
        other = prompt(9, 50)
        engine.run('other', other)
        self.assert_same_as_cold(engine, 'other', other)

    def test_the_daemon_dies_and_comes_back_and_hits_resume(self):
        tokens, other = prompt(40, 100), prompt(41, 80)
        engine = self.engine()
        links = engine.connector._scheduler._link, engine.worker._worker._link
        engine.run('before', tokens)
        engine.settle()
        self.daemon.die()
        engine.scheduler.reset_prefix_cache()
        engine.run('away', tokens, 2)
        engine.run('away too', other, 2)
        self.daemon.come_back()
        engine.step_until(lambda: all(is_attached(link) for link in links),
                          'both sides are attached again')
        engine.scheduler.reset_prefix_cache()
        engine.run('stored', tokens, 2)
        engine.settle()
        engine.scheduler.reset_prefix_cache()
        loads = len(engine.loads_sent)
        engine.run('loaded', tokens, 2)
        self.assertEqual(len(engine.loads_sent), loads + 1)
        self.assertEqual(positions_of(engine.loads_sent[-1]), (0, 6))
        for name in ('away', 'stored', 'loaded'):
            self.assert_same_as_cold(engine, name, tokens, 2)
        self.assert_same_as_cold(engine, 'away too', other, 2)

    def test_a_daemon_that_hangs_costs_each_lookup_its_bound_at_most(self):
        engine = self.engine(lookup_ms=20, store_ms=100, load_ms=100, sync_load_ms=100)
        self.daemon.hang()
        every = {f'request {i}': prompt(60 + i, 40) for i in range(8)}
        for name, tokens in every.items():
            engine.run(name, tokens, 2)
            self.assert_same_as_cold(engine, name, tokens, 2)
        self.assertGreater(engine.stats['lookup_failures_total'], 0)
        # Asked once, then left alone for a while: most of the requests did not wait at all.
        self.assertLess(self.daemon.seen[frames.LOOKUP], len(every))

    def test_an_answer_that_comes_too_late_is_a_miss_and_its_lease_is_given_back(self):
        tokens = prompt(90, 100)
        self.warm(tokens)
        engine = self.engine(lookup_ms=20)
        self.daemon.hold(frames.LOOKUP)
        engine.run('too late', tokens)
        self.assertEqual(engine.loads_sent, [])
        self.daemon.let_go()
        self.assertEqual(len(self.daemon.leases), 1)

        def asked_again():
            engine.run(f'other {engine.steps}', prompt(1000 + engine.steps, 40))
            return not self.daemon.leases

        engine.step_until(asked_again, 'the next lookup has given the lease back')
        self.assert_same_as_cold(engine, 'too late', tokens)

    def test_a_daemon_that_hangs_in_the_middle_of_a_load_is_waited_for_within_the_loads_bound(self):
        tokens = prompt(70, 100)
        self.warm(tokens)
        engine = self.engine(lookup_ms=20, load_ms=100, sync_load_ms=100, store_ms=100)
        self.daemon.silence(frames.LOAD, frames.CANCEL)
        engine.run('request', tokens, 2)
        self.assert_same_as_cold(engine, 'request', tokens, 2)
        self.assertEqual(engine.stats['load_failed_blocks_total'], 6)


class SyncFailures(Failures, Case):
    mode = 'sync'

    def test_blocks_that_were_lost_in_a_step_are_found_by_nobody_before_they_are_recomputed(self):
        tokens = prompt(79, 100)
        warm = self.warm(tokens)
        engine = self.engine()
        self.daemon.fail_loads([warm.hashes_of('warm')[2]])
        engine.add('request', tokens, 2)
        engine.step()
        self.assertEqual(engine.count('load_failed_blocks_total'), 1)
        engine.check_named()
        engine.finish()
        self.assert_same_as_cold(engine, 'request', tokens, 2)


class AsyncFailures(Failures, Case):
    mode = 'async'

    def test_the_daemon_dies_in_the_middle_of_a_load_and_all_is_recomputed(self):
        tokens = prompt(80, 100)
        self.warm(tokens)
        engine = self.engine()
        self.daemon.hold(frames.LOAD)
        engine.add('loading', tokens, 2)
        engine.step_until(lambda: self.daemon.seen[frames.LOAD] == 1, 'the load was asked for')
        self.daemon.die()
        engine.finish()
        self.daemon.let_go()
        self.daemon.come_back()
        self.assert_same_as_cold(engine, 'loading', tokens, 2)
        engine.step_until(engine.connector._scheduler._link.is_connected, 'it is attached again')
        engine.scheduler.reset_prefix_cache()
        engine.run('again', tokens, 2)
        self.assert_same_as_cold(engine, 'again', tokens, 2)

    def test_aborted_while_its_load_fails_it_leaves_nothing(self):
        tokens = prompt(81, 100)
        self.fail_blocks(None, tokens)
        engine = self.engine()
        self.daemon.hold(frames.LOAD)
        engine.add('aborted', tokens)
        engine.step_until(lambda: self.daemon.seen[frames.LOAD] == 1, 'the load was asked for')
        self.daemon.let_go()
        engine.abort('aborted')
        engine.finish()
        self.assertEqual(engine.outputs['aborted'], [])


if __name__ == '__main__':
    unittest.main()
