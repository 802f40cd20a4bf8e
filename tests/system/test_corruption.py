"""P1: whatever happens to stored bytes while the daemon is down, they are served right or not at all.

Batches of damage to the nvme file and to the arena file on tmpfs: flipped bits, torn and zeroed slots, headers and
whole slots put in another's place, slots of an earlier generation and epoch put back. After each batch every block is
asked for: each damaged one is a miss, each other one is served, and the daemon's counters say what it met.
"""
import contextlib
import os
import random
import struct
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import library   # noqa: E402
import node      # noqa: E402

BATCHES = 10
SETTLE_SECONDS = 10
SEED = int(os.environ.get('KVTIER_TEST_SEED', '11'))
PAYLOAD_BYTES = 4096
SLOT_BYTES = 8192
HEADER_BYTES = 4096
CHUNK = 64
MAGIC = b'KVTSLOT1'
# In struct slot_header: where the hash is, how long the identity part is, where a tier's address part begins.
EPOCH_AT, HASH_AT = 32, 48
IDENTITY_BYTES = 1208
ADDRESS_AT, ADDRESS_BYTES = 2048, 64
CPU, NVME = 0, 1


class Slots:
    """The live slots of `hashes` in a file, found by their headers: those of the latest epoch."""

    def __init__(self, path, hashes, tier):
        with open(path, 'rb') as file:
            self.content = bytearray(file.read())
        self.path, self.tier = path, tier
        self.places = {}   # hash -> offset
        epochs = dict.fromkeys(hashes, 0)
        at = self.content.find(MAGIC)
        while at >= 0:
            name = bytes(self.content[at + HASH_AT:at + HASH_AT + 32])
            epoch, = struct.unpack_from('<Q', self.content, at + EPOCH_AT)
            if at % HEADER_BYTES == 0 and epoch > epochs.get(name, epoch):
                epochs[name] = epoch
                self.places[name] = at
            at = self.content.find(MAGIC, at + 1)

    def write(self):
        with open(self.path, 'r+b') as file:
            file.write(self.content)

    def slot(self, at):
        return bytes(self.content[at:at + SLOT_BYTES])

    def put(self, at, content):
        self.content[at:at + len(content)] = content

    def flip(self, at, random_of):
        self.content[at] ^= 1 << random_of.randrange(8)


def damage_payload_bit(slots, at, other, old, random_of):
    slots.flip(at + HEADER_BYTES + random_of.randrange(PAYLOAD_BYTES), random_of)


def damage_identity_bit(slots, at, other, old, random_of):
    slots.flip(at + random_of.randrange(IDENTITY_BYTES), random_of)


def damage_address_bit(slots, at, other, old, random_of):
    slots.flip(at + ADDRESS_AT + slots.tier * ADDRESS_BYTES + random_of.randrange(ADDRESS_BYTES), random_of)


def damage_torn(slots, at, other, old, random_of):
    cut = random_of.randrange(1, PAYLOAD_BYTES // 512) * 512
    slots.put(at + HEADER_BYTES + cut, slots.slot(other)[HEADER_BYTES + cut:])


def damage_zeroed(slots, at, other, old, random_of):
    slots.put(at, bytes(SLOT_BYTES))


def damage_payload_of_another(slots, at, other, old, random_of):
    slots.put(at + HEADER_BYTES, slots.slot(other)[HEADER_BYTES:])


def damage_header_of_another(slots, at, other, old, random_of):
    slots.put(at, slots.slot(other)[:HEADER_BYTES])


def damage_slot_of_another(slots, at, other, old, random_of):
    slots.put(at, slots.slot(other))


def damage_earlier_slot(slots, at, other, old, random_of):
    """What lay at this place before a FORGET: whole, of the same key, with other bytes."""
    slots.put(at, old[at:at + SLOT_BYTES])


def damage_earlier_payload(slots, at, other, old, random_of):
    slots.put(at + HEADER_BYTES, old[at + HEADER_BYTES:at + SLOT_BYTES])


DAMAGES = (damage_payload_bit, damage_identity_bit, damage_address_bit, damage_torn, damage_zeroed,
           damage_payload_of_another, damage_header_of_another, damage_slot_of_another, damage_earlier_slot,
           damage_earlier_payload)
# The header stays valid: only the payload's checksums can tell.
IN_PAYLOAD = (damage_payload_bit, damage_torn, damage_payload_of_another, damage_earlier_payload)


class Corruption(unittest.TestCase):
    def prepare(self, cache, blocks, path, tier):
        self.cache, self.path, self.tier = cache, path, tier
        self.addCleanup(cache.__exit__)
        self.random_of = random.Random(SEED)
        self.round = 0
        self.hashes = [node.hash_of('block', i) for i in range(blocks)]
        cache.start()
        for _ in range(2):
            self.next_round()
            cache.start()
        cache.stop()

    def next_round(self):
        """All is forgotten and stored again with other bytes, so that many places have held the same key before, in an
        earlier epoch. The daemon runs before and is stopped after; self.old is what the file was before."""
        with open(self.path, 'rb') as file:
            self.old = file.read()
        self.round += 1
        self.payloads = [node.payload_of(b'%d' % self.round + name, PAYLOAD_BYTES) for name in self.hashes]
        with self.client() as client:
            self.assertEqual(client.forget(5000000), 0)
            self.store_all(client, self.payloads)
        node.assert_settled(self, self.cache.wait_quiet())
        self.cache.stop()

    def client(self):
        client = library.Client(self.cache.socket(), payload_bytes=PAYLOAD_BYTES, blocks=CHUNK)
        client.connect()
        return client

    def store_all(self, client, payloads):
        for start in range(0, len(self.hashes), CHUNK):
            part = self.hashes[start:start + CHUNK]
            for i in range(len(part)):
                client.put(i, payloads[start + i])
            job = client.run('store', part, parent=self.hashes[start - 1] if start else None)
            self.assertEqual(job.good, len(part), job.results)

    def served(self):
        """The positions of blocks that were served. Wrong bytes fail."""
        served = set()
        with self.client() as client:
            for start in range(0, len(self.hashes), CHUNK):
                part = self.hashes[start:start + CHUNK]
                for i in range(len(part)):
                    client.put(i, bytes(PAYLOAD_BYTES))
                job = client.run('load', part)
                for i, result in enumerate(job.results):
                    if result == 0:
                        self.assertEqual(client.get(i), self.payloads[start + i],
                                         f'block {start + i} was served with wrong bytes, seed {SEED}')
                        served.add(start + i)
        return served

    def damage(self, count):
        """{position: kind} of what was damaged."""
        slots = Slots(self.path, self.hashes, self.tier)
        known = [i for i, name in enumerate(self.hashes) if name in slots.places]
        chosen = self.random_of.sample(known, count)
        donors = [i for i in known if i not in chosen]
        done = {}
        for number, position in enumerate(chosen):
            kind = DAMAGES[number % len(DAMAGES)]
            at = slots.places[self.hashes[position]]
            before = slots.slot(at)
            other = slots.places[self.hashes[self.random_of.choice(donors)]]
            kind(slots, at, other, self.old, self.random_of)
            if slots.slot(at) == before:   # this place held nothing earlier, or the same
                kind = damage_payload_bit
                kind(slots, at, other, self.old, self.random_of)
            done[position] = kind
        slots.write()
        return done

    def batch(self, count, is_settled=lambda counters, damaged: True):
        """(counters, damage): after it every block was asked for and all is as it should be. is_settled: whether the
        daemon has proved again what readers have reported; it takes its time."""
        damaged = self.damage(count)
        self.cache.start()
        self.cache.wait_restored()
        served = self.served()
        self.assertEqual(sorted(served & set(damaged)), [], 'damaged blocks that were served')
        self.assertEqual(sorted(set(range(len(self.hashes))) - served - set(damaged)), [],
                         f'good blocks that were not served, seed {SEED}')
        with contextlib.suppress(AssertionError):   # the test says what is wrong with them
            node.until(lambda: is_settled(self.cache.counters(), damaged), SETTLE_SECONDS, 'all proved')
        counters = self.cache.counters()
        self.next_round()
        return counters, damaged

    def test_damage_to_the_nvme_file_is_met_by_the_catalogue(self):
        cache = node.Node(cpu_mib=2, nvme_mib=20)
        self.prepare(cache, 1200, cache.nvme, NVME)
        for _ in range(node.scaled(BATCHES, least=2)):
            counters, damaged = self.batch(300)
            self.assertEqual(counters['damaged_nvme'] + counters['stale_entries'], len(damaged), counters)
            self.assertGreater(counters['stale_entries'], 0)

    def test_damage_to_the_nvme_file_is_met_without_a_catalogue(self):
        cache = node.Node(cpu_mib=2, nvme_mib=20)
        self.prepare(cache, 1200, cache.nvme, NVME)
        for _ in range(node.scaled(BATCHES, least=2)):
            cache.catalogue_delete()
            counters, damaged = self.batch(300)
            in_payload = sum(kind in IN_PAYLOAD for kind in damaged.values())
            self.assertEqual(counters['damaged_nvme'], in_payload, counters)

    def test_damage_to_the_arena_file_is_met_at_restart_or_by_the_reader(self):
        cache = node.Node(cpu_mib=8, nvme_mib=0, warm=('default',))
        self.prepare(cache, 700, cache.arena_file(), CPU)
        for _ in range(node.scaled(BATCHES, least=2)):
            counters, damaged = self.batch(200, lambda counters, damaged: counters['damaged_cpu'] == sum(
                kind in IN_PAYLOAD for kind in damaged.values()))
            in_payload = sum(kind in IN_PAYLOAD for kind in damaged.values())
            self.assertEqual(counters['damaged_cpu'], in_payload, counters)
            self.assertEqual(counters['restored_cpu'], 700 - len(damaged) + in_payload, counters)

    # ---- what stands in front of the slots ----

    def start_over(self, path, begin, end):
        """Every bit of a region may go: the daemon starts, and serves what it can prove."""
        for _ in range(node.scaled(BATCHES * 2, least=4)):
            with open(path, 'r+b') as file:
                for _ in range(self.random_of.choice((1, 4, 64))):
                    at = self.random_of.randrange(begin, end)
                    file.seek(at)
                    byte = file.read(1)
                    file.seek(at)
                    file.write(bytes([byte[0] ^ 1 << self.random_of.randrange(8)]))
            self.cache.start()
            self.cache.wait_restored()
            self.served()
            with self.client() as client:
                self.store_all(client, self.payloads)
                self.assertEqual(len(self.served()), len(self.hashes))
            self.cache.wait_quiet()
            self.cache.stop()

    def test_a_damaged_head_of_the_arena_costs_warmth_alone(self):
        cache = node.Node(cpu_mib=2, nvme_mib=0, warm=('default',))
        self.prepare(cache, 100, cache.arena_file(), CPU)
        self.start_over(cache.arena_file(), 0, 64 << 10)

    def test_a_damaged_head_of_the_device_costs_warmth_alone(self):
        cache = node.Node(cpu_mib=2, nvme_mib=8)
        self.prepare(cache, 100, cache.nvme, NVME)
        self.start_over(cache.nvme, 0, 128 << 10)

    def test_slots_are_where_this_test_thinks(self):
        self.assertEqual(struct.calcsize('<QII16sQHHI32s32sQQQII16s16sIHH256I'), 184 + 1024)
        self.assertEqual(struct.calcsize('<QII16sQHHI'), HASH_AT)
        self.assertEqual(IDENTITY_BYTES, 184 + 1024)


if __name__ == '__main__':
    unittest.main()
