"""`kvtier verify` of a running daemon: it finds what is damaged in all tiers, also in memory that no other program can read,
and nothing else; and it ends with who asked."""
import json
import os
import random
import re
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import library           # noqa: E402
import node              # noqa: E402
from test_corruption import HEADER_BYTES, NVME, PAYLOAD_BYTES, Slots   # noqa: E402

BLOCKS = 400
CHUNK = 50
DAMAGED_NVME = 30
DAMAGED_CPU = 20
SECONDS_MAX = 120
SEED = int(os.environ.get('KVTIER_TEST_SEED', '31'))


def memory_of(cache):
    """Where the daemon's arena lies: a memfd, so its own memory is the way to it."""
    with open(f'/proc/{cache.process.pid}/maps', encoding='ascii') as file:
        found = re.findall(r'^([0-9a-f]+)-([0-9a-f]+) rw\S+ .*memfd:kvtier', file.read(), re.MULTILINE)
    return [(int(start, 16), int(end, 16)) for start, end in found]


class VerifyRunning(unittest.TestCase):
    def setUp(self):
        self.cache = node.Node(cpu_mib=16, nvme_mib=20)
        self.addCleanup(self.cache.__exit__)
        self.hashes = [node.hash_of('verify', i) for i in range(BLOCKS)]
        self.cache.start()
        with library.Client(self.cache.socket(), payload_bytes=PAYLOAD_BYTES, blocks=CHUNK) as client:
            client.connect()
            for start in range(0, BLOCKS, CHUNK):
                part = self.hashes[start:start + CHUNK]
                for i, name in enumerate(part):
                    client.put(i, node.payload_of(name, PAYLOAD_BYTES))
                job = client.run('store', part, parent=self.hashes[start - 1] if start else None)
                self.assertEqual(job.good, len(part), job.results)
        self.cache.wait_quiet()

    def command(self, *options):
        return [node.program('kvtier'), 'verify', '--socket', os.path.join(self.cache.run, 'admin.sock'), *options]

    def verify(self, *options):
        """Exit status and the last line of JSON."""
        run = subprocess.run(self.command('-o', 'json', *options), capture_output=True, text=True, timeout=SECONDS_MAX,
                             check=False)
        return run.returncode, json.loads(run.stdout.splitlines()[-1]) if run.stdout else run.stderr

    def damage_nvme(self, random_of):
        slots = Slots(self.cache.nvme, self.hashes, NVME)
        for place in random_of.sample(sorted(slots.places.values()), DAMAGED_NVME):
            slots.flip(place + HEADER_BYTES + random_of.randrange(PAYLOAD_BYTES), random_of)
        slots.write()

    def damage_memory(self, random_of):
        with open(f'/proc/{self.cache.process.pid}/mem', 'r+b', buffering=0) as memory:
            places = []
            for start, end in memory_of(self.cache):
                memory.seek(start)
                content = memory.read(end - start)
                places += [(start + at, content[at]) for name in self.hashes
                           if (at := content.find(node.payload_of(name, PAYLOAD_BYTES))) >= 0]
            self.assertEqual(len(places), BLOCKS)
            for at, byte in random_of.sample(places, DAMAGED_CPU):
                memory.seek(at)
                memory.write(bytes([byte ^ 1 << random_of.randrange(8)]))

    def test_what_is_damaged_in_any_tier_is_found_and_nothing_else(self):
        random_of = random.Random(SEED)
        status, sound = self.verify()
        self.assertEqual(status, 0, sound)
        for tier in ('cpu', 'nvme'):
            self.assertEqual((sound[tier]['checked'], sound[tier]['damaged']), (BLOCKS, 0), sound)
        self.damage_nvme(random_of)
        self.damage_memory(random_of)
        status, found = self.verify('--tier', 'cpu', '--rate', '64')
        self.assertEqual((status, found['cpu']['damaged']), (1, DAMAGED_CPU), found)
        self.assertNotIn('nvme', found)
        status, found = self.verify()
        self.assertEqual((status, found['nvme']['damaged'], found['cpu']['damaged']), (1, DAMAGED_NVME, 0), found)
        self.assertGreater(found['rewritten'], 0)
        self.cache.wait_quiet()
        status, mended = self.verify()
        self.assertEqual(status, 0, mended)
        words = subprocess.run(self.command(), capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
        self.assertIn('0 damaged', words.stdout)

    def test_who_interrupts_it_ends_it(self):
        process = subprocess.Popen(self.command('-o', 'json', '--rate', '1'), stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        first = json.loads(process.stdout.readline())
        self.assertEqual(first['state'], 'running')
        status, words = self.verify()
        self.assertEqual(status, 1)
        self.assertIn('another verify is under way', words)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=SECONDS_MAX)
        self.assertEqual(process.returncode, 3)
        self.assertEqual(json.loads(output.splitlines()[-1])['state'], 'ended')
        self.assertEqual(self.verify()[0], 0)

    def test_wrong_words_are_refused(self):
        for words in (['--tier', 'gpu'], ['--rate', '0'], ['--rate', 'fast']):
            run = subprocess.run(self.command(*words), capture_output=True, text=True, check=False)
            self.assertEqual(run.returncode, 2, words)


if __name__ == '__main__':
    unittest.main()
