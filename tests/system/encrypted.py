"""Nodes with encryption at rest, and what is stored in them and found again."""
import os
import unittest

import node

BLOCKS = 100
PAYLOAD_BYTES = 8192
MARKER = b'the quick brown fox jumps over the lazy dog'
ONES, TWOS, THREES = (digit * 64 for digit in '123')


def chain(name='block'):
    """Payloads that hold a marker which nothing else holds."""
    hashes = [node.hash_of(name, i) for i in range(BLOCKS)]
    return hashes, [MARKER + node.payload_of(h, PAYLOAD_BYTES - len(MARKER)) for h in hashes]


class Case(unittest.TestCase):
    def cache_of(self, encryption, keys=None, tenants=('default',)):
        cache = node.Node(cpu_mib=4, nvme_mib=16, tenants=tenants, encryption=encryption)
        self.addCleanup(cache.__exit__)
        if keys:
            self.keys(cache, keys, tenants)
        return cache

    def keys(self, cache, text, tenants=('default',), mode=0o600):
        path = os.path.join(cache.shm, 'keys')
        with open(path, 'w', encoding='ascii', opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(text)
        os.chmod(path, mode)
        cache.key_files = {tenant: path for tenant in tenants}
        cache.configure()
        return path

    def store(self, cache, name='block', tenant='default'):
        hashes, payloads = chain(name)
        with cache.engine(tenant=tenant, payload_bytes=PAYLOAD_BYTES) as engine:
            self.assertEqual(set(engine.store(hashes, payloads)), {0})
        stats = cache.wait_quiet()
        blocks = {item['name']: item['tiers']['nvme']['blocks'] for item in stats['tenants']}
        self.assertEqual(blocks[tenant], BLOCKS)

    def store_more(self, cache):
        hashes, payloads = chain('more')
        with cache.engine(payload_bytes=PAYLOAD_BYTES) as engine:
            self.assertEqual(set(engine.store(hashes, payloads)), {0})
        cache.wait_quiet()

    def hits(self, cache, name='block', tenant='default'):
        """How many blocks are served; wrong bytes fail."""
        hashes, payloads = chain(name)
        with cache.engine(tenant=tenant, payload_bytes=PAYLOAD_BYTES) as engine:
            loaded = engine.load(hashes)
        for payload, expected in zip(loaded, payloads):
            self.assertIn(payload, (None, expected))
        return sum(payload is not None for payload in loaded)

    def restart(self, cache):
        cache.stop()
        cache.start()
        cache.wait_restored()

    def seen(self, cache):
        with open(cache.nvme, 'rb') as file:
            return file.read().count(MARKER)

    def reasons(self, cache, name='block'):
        with cache.engine(payload_bytes=PAYLOAD_BYTES) as engine:
            return set(engine.explain(chain(name)[0]))
