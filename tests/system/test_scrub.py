"""The scrubber of a real daemon: bits flipped under it are found though nobody asks, and mended from memory; and writes
that are read back are counted."""
import os
import random
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import library           # noqa: E402
import node              # noqa: E402
from test_corruption import HEADER_BYTES, NVME, PAYLOAD_BYTES, Slots   # noqa: E402

BLOCKS = 600
CHUNK = 60
DAMAGED = 40
SECONDS = 30
SEED = int(os.environ.get('KVTIER_TEST_SEED', '29'))


class Scrub(unittest.TestCase):
    def node_with_blocks(self, **settings):
        cache = node.Node(cpu_mib=8, nvme_mib=20, **settings)
        self.addCleanup(cache.__exit__)
        self.hashes = [node.hash_of('scrub', i) for i in range(BLOCKS)]
        cache.start()
        client = library.Client(cache.socket(), payload_bytes=PAYLOAD_BYTES, blocks=CHUNK)
        self.addCleanup(client.close)
        client.connect()
        for start in range(0, BLOCKS, CHUNK):
            for i in range(CHUNK):
                client.put(i, node.payload_of(self.hashes[start + i], PAYLOAD_BYTES))
            job = client.run('store', self.hashes[start:start + CHUNK],
                             parent=self.hashes[start - 1] if start else None)
            self.assertEqual(job.good, CHUNK, job.results)
        cache.wait_quiet()
        return cache, client

    def assert_all_served(self, client):
        for start in range(0, BLOCKS, CHUNK):
            job = client.run('load', self.hashes[start:start + CHUNK])
            self.assertEqual(job.good, CHUNK, job.results)
            for i in range(CHUNK):
                self.assertEqual(client.get(i), node.payload_of(self.hashes[start + i], PAYLOAD_BYTES))

    def test_bits_that_flip_under_a_running_daemon_are_found_and_mended(self):
        cache, client = self.node_with_blocks(scrub_bytes_second='64MiB', scrub_interval='1s')
        random_of = random.Random(SEED)
        slots = Slots(cache.nvme, self.hashes, NVME)
        self.assertEqual(len(slots.places), BLOCKS)
        with open(cache.nvme, 'r+b') as file:
            for place in random_of.sample(sorted(slots.places.values()), DAMAGED):
                at = place + HEADER_BYTES + random_of.randrange(PAYLOAD_BYTES)
                file.seek(at)
                file.write(bytes([slots.content[at] ^ 1 << random_of.randrange(8)]))
            file.flush()
            os.fsync(file.fileno())
        node.until(lambda: cache.stats()['scrub']['nvme']['damaged'] >= DAMAGED, SECONDS, 'all damage is found')
        scrub = cache.stats()['scrub']
        self.assertEqual(scrub['nvme']['damaged'], DAMAGED, scrub)
        self.assertEqual(scrub['rewritten'], DAMAGED, scrub)
        self.assertEqual(cache.metric('kvtier_scrub_damaged_total{tier="nvme"}'), DAMAGED)
        passes = scrub['passes']
        node.until(lambda: cache.stats()['scrub']['passes'] >= passes + 2, SECONDS, 'two more rounds')
        scrub = cache.stats()['scrub']
        self.assertEqual(scrub['nvme']['damaged'], DAMAGED, 'what was written again is not right')
        self.assertEqual(scrub['cpu']['damaged'], 0)
        self.assertGreaterEqual(scrub['cpu']['slots'], BLOCKS)
        self.assert_all_served(client)

    def test_writes_are_read_back_and_are_what_was_written(self):
        cache, client = self.node_with_blocks(readback_every=5)

        def readbacks():
            return cache.stats()['scrub']['readbacks']
        node.until(lambda: sum(readbacks().values()) >= BLOCKS // 5, SECONDS, 'all read back')
        counts = readbacks()
        self.assertEqual(counts['bad'] + counts['failed'], 0, counts)
        self.assertGreater(counts['good'], 0, counts)
        self.assertEqual(cache.metric('kvtier_integrity_checks_total{tier="nvme",result="good"}'), counts['good'])
        self.assert_all_served(client)


if __name__ == '__main__':
    unittest.main()
