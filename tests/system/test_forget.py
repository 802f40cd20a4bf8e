"""What was forgotten stays forgotten: over kills at every step of FORGET, a lost catalogue and a damaged journal."""
import os
import random
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import failpoints   # noqa: E402
import frames   # noqa: E402
import node     # noqa: E402

BLOCKS = 60
PAYLOAD_BYTES = 4096
JOURNAL_RECORD_BYTES = 96
# Where a FORGET can die, and whether it must count from then on although nobody was told: what is in the file, is.
STEPS = {'forget_floor_raised': False, 'journal_appended': True, 'journal_synced': True}
DAMAGES = 12


def chain(name):
    hashes = [node.hash_of(name, i) for i in range(BLOCKS)]
    return hashes, [node.payload_of(h, PAYLOAD_BYTES) for h in hashes]


class Forget(unittest.TestCase):
    def setUp(self):
        self.cache = node.Node(cpu_mib=4, nvme_mib=16, warm=('default',))
        self.addCleanup(self.cache.__exit__)
        self.cache.start()

    def store(self, model):
        hashes, payloads = chain(model)
        with self.cache.engine(model=model) as engine:
            self.assertEqual(set(engine.store(hashes, payloads)), {0})
        self.cache.wait_quiet()

    def hits(self, model):
        """How many blocks are found, and served with the right bytes: the same number."""
        hashes, payloads = chain(model)
        with self.cache.engine(model=model) as engine:
            found = sum(engine.lookup(hashes).present)
            loaded = engine.load(hashes)
        for payload, expected in zip(loaded, payloads):
            self.assertIn(payload, (None, expected))
        self.assertLessEqual(sum(payload is not None for payload in loaded), found)
        return sum(payload is not None for payload in loaded)

    def forget(self, model):
        """Whether the daemon said that it is done."""
        try:
            with self.cache.engine(model=model) as engine:
                return engine.forget() == 0
        except (frames.Closed, OSError):
            return False

    def start_without_catalogue(self):
        self.cache.catalogue_delete()
        self.cache.start()
        self.cache.wait_restored()

    def both_stored(self):
        for model in ('old', 'kept'):
            self.store(model)
            self.assertEqual(self.hits(model), BLOCKS)

    def test_a_forgotten_space_is_a_miss_at_once_and_another_is_not(self):
        self.both_stored()
        self.assertTrue(self.forget('old'))
        self.assertEqual((self.hits('old'), self.hits('kept')), (0, BLOCKS))
        self.store('old')
        self.assertEqual(self.hits('old'), BLOCKS)

    def test_forgetting_everything_of_a_tenant_spares_no_space(self):
        self.both_stored()
        with self.cache.engine() as engine:
            self.assertEqual(engine.forget(frames.SPACE_ALL), 0)
        self.assertEqual((self.hits('old'), self.hits('kept')), (0, 0))
        self.cache.kill()
        self.start_without_catalogue()
        self.assertEqual((self.hits('old'), self.hits('kept')), (0, 0))

    def test_a_forgotten_space_stays_so_over_kill_and_a_lost_catalogue(self):
        self.both_stored()
        self.assertTrue(self.forget('old'))
        self.cache.kill()
        self.start_without_catalogue()
        self.assertEqual((self.hits('old'), self.hits('kept')), (0, BLOCKS))

    def test_a_forgotten_space_stays_so_when_only_nvme_and_its_headers_survive(self):
        self.both_stored()
        self.assertTrue(self.forget('old'))
        self.cache.kill()
        os.unlink(self.cache.arena_file())
        self.start_without_catalogue()
        self.assertEqual((self.hits('old'), self.hits('kept')), (0, BLOCKS))

    def test_what_is_stored_after_a_forget_survives_a_kill(self):
        self.both_stored()
        self.assertTrue(self.forget('old'))
        self.store('old')
        self.cache.kill()
        self.start_without_catalogue()
        self.assertEqual((self.hits('old'), self.hits('kept')), (BLOCKS, BLOCKS))

    def dies_while_forgetting(self, step):
        self.both_stored()
        self.cache.kill()
        self.cache.start(failpoints.armed(step, 1, 'kill'))
        self.assertFalse(self.forget('old'), f'{step}: answered by a daemon that must have died')
        self.assertTrue(self.cache.wait_death(10), f'{step} was not reached')
        self.start_without_catalogue()
        hits = self.hits('old')
        if STEPS[step]:
            self.assertEqual(hits, 0, f'{step}: the record is in the journal')
        self.assertEqual(self.hits('kept'), BLOCKS)
        self.assertTrue(self.forget('old'), 'asked again')
        self.cache.kill()
        self.start_without_catalogue()
        self.assertEqual((self.hits('old'), self.hits('kept')), (0, BLOCKS))

    def test_a_forget_that_dies_with_its_floor_in_memory_counts_when_asked_again(self):
        self.dies_while_forgetting('forget_floor_raised')

    def test_a_forget_that_dies_with_its_record_appended_counts(self):
        self.dies_while_forgetting('journal_appended')

    def test_a_forget_that_dies_with_its_record_durable_counts(self):
        self.dies_while_forgetting('journal_synced')

    def test_every_step_of_a_forget_has_its_test(self):
        points = [point for point in node.failpoints() if point.startswith(('forget_', 'journal_'))]
        self.assertEqual(sorted(points), sorted(STEPS))

    # ---- the journal ----

    def journal(self):
        return os.path.join(self.cache.state, 'journal')

    def damaged(self, damage):
        """Blocks are stored and one space is forgotten; `damage` changes the journal. Hits of both spaces then."""
        self.both_stored()
        self.assertTrue(self.forget('old'))
        self.cache.kill()
        with open(self.journal(), 'rb') as file:
            content = bytearray(file.read())
        damage(content)
        with open(self.journal(), 'wb') as file:
            file.write(content)
        self.cache.start()
        self.cache.wait_restored()
        return self.hits('old'), self.hits('kept')

    def test_a_damaged_journal_makes_everything_a_miss(self):
        random_of = random.Random(5)

        def flip(content):
            content[random_of.randrange(len(content))] ^= 1 << random_of.randrange(8)

        for _ in range(node.scaled(DAMAGES, least=3)):
            self.assertEqual(self.damaged(flip), (0, 0))

    def test_a_lost_journal_makes_everything_a_miss(self):
        self.both_stored()
        self.assertTrue(self.forget('old'))
        self.cache.kill()
        os.unlink(self.journal())
        self.start_without_catalogue()
        self.assertEqual((self.hits('old'), self.hits('kept')), (0, 0))

    def test_an_empty_journal_makes_everything_a_miss(self):
        self.assertEqual(self.damaged(bytearray.clear), (0, 0))

    def test_a_torn_tail_was_never_answered_and_harms_nothing(self):
        self.assertEqual(self.damaged(lambda content: content.extend(b'x' * (JOURNAL_RECORD_BYTES // 2))), (0, BLOCKS))

    def test_after_a_lost_journal_stores_are_hits_again_over_a_kill(self):
        self.damaged(bytearray.clear)
        self.store('old')
        self.assertEqual(self.hits('old'), BLOCKS)
        self.cache.kill()
        self.start_without_catalogue()
        self.assertEqual(self.hits('old'), BLOCKS)


if __name__ == '__main__':
    unittest.main()
