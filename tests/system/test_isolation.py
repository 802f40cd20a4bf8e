"""Row 27: nothing of one tenant, model, salt, adapter or epoch is found by, or readable for, another; and the same is found.

Every payload says whose it is in each 64 bytes, so every buffer that the daemon hands out - loaded blocks, the whole
mapped arena, a new connection's window - can be searched for what does not belong there. At KVTIER_TEST_SCALE=1: 4,000
operations over 16 cells that use the same keys, in tiers so small that memory and units of the device change hands all
the time. Figures: build/tests/isolation.json.
"""
import collections
import itertools
import json
import os
import random
import struct
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import frames   # noqa: E402
import node     # noqa: E402

OPERATIONS = 4000
SEED = int(os.environ.get('KVTIER_TEST_SEED', '27'))
TENANTS, MODELS, SALTS, ADAPTERS = ('amber', 'blue'), ('llama', 'qwen'), ('', 'pepper'), (None, 'lora')
PAYLOAD_BYTES = 16384
CHAIN = 8
PROMPTS = 24


def mark_of(tenant):
    return f'KV of tenant {tenant}: '.encode()


def payload_of(cell, prompt, index, version):
    line = mark_of(cell[0]) + node.hash_of(cell, prompt, index, version).hex().encode()
    return (line[:64] * (PAYLOAD_BYTES // 64))[:PAYLOAD_BYTES]


class Cell:
    """One engine with its adapter: what it has stored last for each prompt."""

    def __init__(self, matrix, name):
        self.matrix, self.name = matrix, name
        self.tenant, self.model, self.salt, self.adapter = name
        self.engine = None
        self.versions = {}
        self.open()

    def open(self):
        if self.engine:
            self.engine.close()
        self.engine = self.matrix.cache.engine('-'.join(str(part) for part in self.name), self.tenant,
                                               model=self.model, payload_bytes=PAYLOAD_BYTES)
        self.matrix.search_window(self)
        if self.adapter:
            digest = node.hash_of(self.adapter)
            reply = self.engine.control.ask(frames.SPACE, struct.pack('<II32s', self.engine.space, 0, digest))
            self.engine.space = reply.fields('16sII')[1]

    def hashes(self, prompt):
        """As an engine makes them: the salt is in the hash, model and adapter are not."""
        return [node.hash_of('isolation', self.salt, prompt, i) for i in range(CHAIN)]

    def payloads(self, prompt):
        return [payload_of(self.name, prompt, i, self.versions[prompt]) for i in range(CHAIN)]


class Matrix(unittest.TestCase):
    def setUp(self):
        self.cache = node.Node(cpu_mib=4, nvme_mib=12, tenants=TENANTS, window_bytes='1MiB')
        self.addCleanup(self.cache.__exit__)
        self.cache.start()
        self.counts = collections.Counter()
        self.arenas = {}
        self.version = 0
        self.cells = [Cell(self, name) for name in itertools.product(TENANTS, MODELS, SALTS, ADAPTERS)]
        self.addCleanup(lambda: [cell.engine.close() for cell in self.cells])

    # ---- what was handed out ----

    def search(self, tenant, memory, what):
        self.counts['buffers_searched'] += 1
        self.counts['bytes_searched'] += len(memory)
        for other in TENANTS:
            if other != tenant and memory.find(mark_of(other)) >= 0:
                self.fail(f'{what} of tenant {tenant} shows bytes of {other}, seed {SEED}')

    def search_window(self, cell):
        """A connection's window is new memory, and the arena is the tenant's own."""
        window = cell.engine.window
        self.assertEqual(window[64:].count(b'\0'), len(window) - 64, 'a new window is empty')
        self.counts['windows'] += 1
        status = os.fstat(cell.engine.data.fds[0])
        arena = (status.st_dev, status.st_ino)
        self.assertEqual(self.arenas.setdefault(cell.tenant, arena), arena)
        self.assertEqual(len(set(self.arenas.values())), len(self.arenas), 'two tenants, one arena')

    def search_arenas(self):
        for tenant in TENANTS:
            cell = next(cell for cell in self.cells if cell.tenant == tenant)
            self.search(tenant, cell.engine.arena, 'the arena')

    # ---- operations ----

    def store(self, cell, prompt):
        if prompt not in cell.versions:
            self.version += 1
            cell.versions[prompt] = self.version
        results = cell.engine.store(cell.hashes(prompt), cell.payloads(prompt))
        self.counts['stored_blocks'] += sum(result == 0 for result in results)
        return all(result in (0, 1) for result in results)

    def load(self, cell, prompt):
        """Hits; each is what this very cell stored last."""
        hashes = cell.hashes(prompt)
        found = cell.engine.lookup(hashes, 1000000)
        if found.usable == 0:
            return 0
        self.assertIn(prompt, cell.versions, f'{cell.name} finds what it never stored, seed {SEED}')
        count = found.usable // 16
        payloads = cell.engine.load(hashes[:count], found.lease)
        for index, payload in enumerate(payloads):
            if payload is not None:
                self.search(cell.tenant, payload, 'a loaded block')
                self.assertEqual(payload, cell.payloads(prompt)[index], f'{cell.name}, seed {SEED}')
        cell.engine.control.send(frames.LEASE_RELEASE, struct.pack('<Q', found.lease))
        hits = sum(payload is not None for payload in payloads)
        self.counts['hit_blocks'] += hits
        return hits

    def forget(self, cell):
        """A new epoch of the space: shared by the cells that differ in nothing but the salt."""
        cell.engine.forget()
        for other in self.cells:
            if other.name[:2] + other.name[3:] == cell.name[:2] + cell.name[3:]:
                other.versions.clear()
        self.counts['forgets'] += 1

    # ---- tests ----

    def test_each_cell_finds_its_own_and_nothing_of_any_other(self):
        for writer in self.cells:
            self.assertTrue(self.store(writer, 'shared'))
            for reader in self.cells:
                hits = self.load(reader, 'shared')
                if 'shared' not in reader.versions:
                    self.assertEqual(hits, 0, f'{reader.name} finds blocks of {writer.name}')
                    self.counts['pairs_apart'] += 1
                elif reader is writer:
                    self.assertEqual(hits, CHAIN, f'{writer.name} does not find its own')
                    self.counts['pairs_same'] += 1
            # A new epoch of the same space is another, too.
            self.forget(writer)
            self.assertEqual(self.load(writer, 'shared'), 0)
            self.counts['pairs_apart'] += 1
        self.assertEqual(self.counts['pairs_same'], len(self.cells))
        self.search_arenas()

    def test_nothing_leaks_while_memory_and_units_change_hands(self):
        choose = random.Random(SEED)
        operations = node.scaled(OPERATIONS, 200)
        for number in range(operations):
            cell, prompt = choose.choice(self.cells), choose.randrange(PROMPTS)
            dice = choose.random()
            if dice < 0.45:
                if self.store(cell, prompt):
                    self.counts['chains_found_again'] += self.load(cell, prompt) > 0
            elif dice < 0.97:
                self.load(cell, prompt)
            elif dice < 0.985:
                self.forget(cell)
            else:
                cell.open()
            if number % 50 == 49:
                self.search_arenas()
            if number == operations // 2:
                self.restart()
        self.search_arenas()
        stats = self.cache.wait_quiet()
        for tenant in stats['tenants']:
            self.assertGreater(tenant['tiers']['cpu']['evictions'], 0, 'memory did not change hands')
            self.assertGreater(tenant['tiers']['nvme']['evictions'], 0, 'units did not change hands')
        self.assertGreater(self.counts['hit_blocks'], operations // 4)
        self.assertGreater(self.counts['chains_found_again'], 0)
        node.figures_write('isolation.json', {'operations': operations, 'cells': len(self.cells), 'seed': SEED,
                                              'canaries_seen': 0, **self.counts})

    def test_the_status_that_a_tenant_gets_names_nobody_else(self):
        for tenant, other in (TENANTS, TENANTS[::-1]):
            with frames.Connection(self.cache.socket(tenant)) as connection:
                text = json.dumps(connection.stats())
            self.assertIn(tenant, text)
            self.assertNotIn(other, text)

    def restart(self):
        """The units on the device are found again, each by its own tenant."""
        for cell in self.cells:
            cell.engine.close()
        self.cache.stop()
        self.arenas.clear()
        self.cache.start()
        self.cache.wait_restored()
        for cell in self.cells:
            cell.engine = None
            cell.open()


if __name__ == '__main__':
    unittest.main()
