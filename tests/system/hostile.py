"""What the tests of hostile clients share: a node with two tenants, and a bystander who must not notice."""
import os
import struct
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import frames   # noqa: E402
import node     # noqa: E402

PAYLOAD_BYTES = 4096
GROWTH_BYTES = 16 << 20   # of the daemon's own memory, over a test


def chain(name, count=16, size=PAYLOAD_BYTES):
    hashes = [node.hash_of(name, i) for i in range(count)]
    return hashes, [node.payload_of(h, size) for h in hashes]


class Case(unittest.TestCase):
    settings = {}
    tenants = ('default', 'other')

    def setUp(self):
        self.cache = node.Node(cpu_mib=4, nvme_mib=16, tenants=self.tenants, **self.settings)
        self.addCleanup(self.cache.__exit__)
        self.cache.start()
        self.bystander(0)
        self.process = self.cache.process
        self.memory = self.cache.rss_bytes()
        self.cleanups = []

    def bystander(self, number, tenant='default', lease_us=1000000):
        hashes, payloads = chain(f'bystander {number}')
        with self.cache.engine(f'bystander {number}', tenant, model='bystander') as engine:
            self.assertEqual(set(engine.store(hashes, payloads)) - {0, 1}, set())
            found = engine.lookup(hashes, lease_us)
            self.assertEqual(found.usable, 16 * len(hashes))
            self.assertEqual(engine.load(hashes, found.lease), payloads)
            engine.control.send(frames.LEASE_RELEASE, struct.pack('<Q', found.lease))
            engine.control.stats()

    def unharmed(self, tenant='default', settled=True):
        self.assertTrue(self.cache.is_alive(), self.cache.log() if self.cache.process else '')
        self.assertIs(self.cache.process, self.process)
        self.bystander(1, tenant)
        self.assertLess(self.cache.rss_bytes() - self.memory, GROWTH_BYTES)
        if settled:
            node.until(lambda: self.cache.stats()['connections'] == 1, 10, 'all clients are gone')
            node.assert_settled(self, self.cache.wait_quiet())

    def engine(self, name='hostile', tenant='default', **options):
        engine = self.cache.engine(name, tenant, **options)
        self.addCleanup(engine.close)
        return engine
