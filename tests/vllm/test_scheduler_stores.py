"""What vLLM has computed is stored: whole blocks, once, with the bytes that their hashes say."""
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import BLOCK, Case, cold_tokens, prompt   # noqa: E402
import frames   # noqa: E402


class Stores(Case):
    """Stores do not depend on how blocks are loaded."""

    def hashes(self, engine, name):
        return [bytes(own) for own in engine.hashes_of(name)]

    def test_a_prefill_in_chunks_stores_each_block_once_and_in_its_chain(self):
        tokens = prompt(1, 10 * BLOCK + 3)
        engine = self.engine(step_tokens=40)
        engine.run('chunked', tokens)
        engine.settle()
        self.assertGreater(len(engine.stores_sent), 2)
        positions = [part.first_position + i for part in map(lambda one: one.part,
                                                             engine.stores_sent)
                     for i in range(len(part.hashes) // 32)]
        self.assertEqual(positions, list(range(10)))
        hashes = self.hashes(engine, 'chunked')
        self.assertEqual(self.daemon.stored(), set(hashes))
        for index, name in enumerate(hashes):
            _, parent, position = self.daemon.routes[name]
            self.assertEqual(position, index)
            self.assertEqual(parent, hashes[index - 1] if index else bytes(32))

    def test_route_keys_do_not_depend_on_how_a_prompt_was_cut(self):
        tokens = prompt(2, 8 * BLOCK + 1)
        self.engine(step_tokens=40).run('chunked', tokens)
        self.engines[0].settle()
        chunked = {name: route for name, (route, _, _) in self.daemon.routes.items()}
        self.daemon.die()
        self.daemon.come_back()
        self.engine().run('whole', tokens)
        self.engines[1].settle()
        whole = {name: route for name, (route, _, _) in self.daemon.routes.items()}
        self.assertEqual(chunked, whole)
        self.assertEqual(len(set(chunked.values())), 8)

    def test_blocks_that_generation_completes_are_stored(self):
        tokens = prompt(3, 2 * BLOCK - 5)
        engine = self.engine()
        engine.run('generating', tokens, 3 * BLOCK)
        engine.settle()
        self.assert_same_as_cold(engine, 'generating', tokens, 3 * BLOCK)
        # The last token was never computed, so its block is not complete.
        self.assertEqual(len(self.daemon.stored()), (len(tokens) + 3 * BLOCK - 1) // BLOCK)
        again = self.engine(load_mode='async')
        turn = tokens + cold_tokens(tokens, 3 * BLOCK) + prompt(4, 9)
        again.run('next turn', turn, 2)
        self.assert_same_as_cold(again, 'next turn', turn, 2)
        self.assertEqual(len(again.loads_sent[0].parts[0].hashes) // 32, 4)

    def test_without_store_generated_only_the_prompt_is_stored(self):
        tokens = prompt(5, 2 * BLOCK + 5)
        engine = self.engine(store_generated=False)
        engine.run('generating', tokens, 3 * BLOCK)
        engine.settle()
        self.assertEqual(len(self.daemon.stored()), 2)

    def test_what_was_loaded_is_not_stored_again(self):
        tokens = prompt(6, 5 * BLOCK + 3)
        self.warm(tokens)
        engine = self.engine(load_mode='async')
        engine.run('longer', tokens + prompt(7, 2 * BLOCK))
        engine.settle()
        self.assertEqual([one.part.first_position for one in engine.stores_sent], [5])

    def test_nothing_is_gathered_when_nothing_is_wanted(self):
        self.daemon.wants_nothing = True
        engine = self.engine()
        engine.run('request', prompt(8, 100))
        engine.settle()
        self.assertEqual(self.daemon.seen[frames.COMMIT], 0)
        self.assertEqual(engine.stats['stored_blocks_total'], 6)

    def reuse_under_a_store(self, kind, flush_ms):
        """Blocks are taken for another request while the store that reads them hangs at `kind`."""
        engine = self.engine(blocks=8, flush_ms=flush_ms)
        self.daemon.hold(kind)
        engine.run('first', prompt(9, 5 * BLOCK + 1))
        self.daemon.wait_until(lambda: self.daemon.seen[kind] >= 1, 'the store has come so far')
        self.assertEqual(engine.in_flight()['stores'], 1)
        other = prompt(10, 5 * BLOCK + 1)
        engine.run('second', other)
        self.assertIn(engine.stores_sent[0].number, engine.flushes_sent)
        self.assertGreaterEqual(engine.stats['flush_cancels_total'], 1)
        self.daemon.let_go()
        self.assert_same_as_cold(engine, 'second', other)
        engine.settle()
        return self.hashes(engine, 'first')

    def test_blocks_reused_before_they_were_gathered_are_not_stored(self):
        for flush_ms in (0, 20):
            hashes = self.reuse_under_a_store(frames.STORE, flush_ms)
            self.assertFalse(self.daemon.stored() & set(hashes))
            self.daemon.die()
            self.daemon.come_back()

    def test_blocks_reused_after_they_were_gathered_are_stored_as_they_were(self):
        for flush_ms in (0, 20):
            hashes = self.reuse_under_a_store(frames.COMMIT, flush_ms)
            self.assertEqual(self.daemon.stored() & set(hashes), set(hashes))
            self.daemon.die()
            self.daemon.come_back()

    def test_a_small_cache_under_many_requests_stores_only_right_bytes(self):
        engine = self.engine(blocks=20, step_tokens=64, flush_ms=1)
        every = {f'request {i}': prompt(100 + i, 30 + 7 * i) for i in range(16)}
        for name, tokens in every.items():
            engine.add(name, tokens, 20)
        engine.finish()
        for name, tokens in every.items():
            self.assert_same_as_cold(engine, name, tokens, 20)
        engine.settle()
        self.assertGreater(len(self.daemon.stored()), 16)
        engine.check_daemon(self.daemon)

    def test_a_store_that_never_ends_is_given_up_at_its_deadline(self):
        engine = self.engine(store_ms=50)
        self.daemon.silence(frames.STORE, frames.COMMIT)
        engine.run('request', prompt(11, 100), 2)
        engine.settle()
        self.assertEqual(engine.stats['store_failed_blocks_total'], 6)


if __name__ == '__main__':
    unittest.main()
