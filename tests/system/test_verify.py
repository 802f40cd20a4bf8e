"""`kvtierd --verify`: it finds what is damaged, all of it, and nothing else, on a stopped and on a running node; and says
what it cannot read."""
import json
import os
import random
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import faulty            # noqa: E402
import library           # noqa: E402
import node              # noqa: E402
from test_corruption import CPU, HEADER_BYTES, IDENTITY_BYTES, NVME, PAYLOAD_BYTES, Slots   # noqa: E402

BLOCKS = 1000
CHUNK = 64
DAMAGED = 200
RUNS_UNDER_LOAD = 12
REPLAY_REQUESTS = 3000
SECONDS_MAX = 120
SEED = int(os.environ.get('KVTIER_TEST_SEED', '23'))
NOBODY = 65534


class Verified:
    """What one run has said."""

    def __init__(self, config, *options, command=('kvtierd', '--verify'), **run_options):
        words = [node.program(command[0]), *command[1:], '--config', config, *options]
        self.run = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS_MAX, check=False, **run_options)
        self.status = self.run.returncode
        self.lines = [json.loads(line) for line in self.run.stdout.splitlines()] if '--json' in options else []

    def of(self, event):
        return [line for line in self.lines if line['event'] == event]

    @property
    def summary(self):
        return self.lines[-1]


class Verify(unittest.TestCase):
    def node_with_blocks(self, **options):
        cache = node.Node(cpu_mib=16, nvme_mib=20, warm=('default',), **options)
        self.addCleanup(cache.__exit__)
        self.hashes = [node.hash_of('verify', i) for i in range(BLOCKS)]
        cache.start()
        with library.Client(cache.socket(), payload_bytes=PAYLOAD_BYTES, blocks=CHUNK) as client:
            client.connect()
            for start in range(0, BLOCKS, CHUNK):
                part = self.hashes[start:start + CHUNK]
                for i, name in enumerate(part):
                    client.put(i, node.payload_of(name, PAYLOAD_BYTES))
                job = client.run('store', part, parent=self.hashes[start - 1] if start else None)
                self.assertEqual(job.good, len(part), job.results)
        cache.wait_quiet()
        return cache

    def damage(self, path, tier, random_of):
        """Flips a bit in DAMAGED slots; their places in the file."""
        slots = Slots(path, self.hashes, tier)
        self.assertEqual(len(slots.places), BLOCKS)
        places = random_of.sample(sorted(slots.places.values()), DAMAGED)
        for place in places:
            at = random_of.choice((random_of.randrange(IDENTITY_BYTES),
                                   HEADER_BYTES + random_of.randrange(PAYLOAD_BYTES)))
            slots.flip(place + at, random_of)
        slots.write()
        return set(places)

    def test_random_bits_of_a_stopped_node_are_found_in_exactly_their_slots(self):
        cache = self.node_with_blocks()
        cache.stop()
        sound = Verified(cache.config, '--json')
        self.assertEqual(sound.status, 0, sound.run)
        self.assertEqual(sound.summary['good'], 2 * BLOCKS)
        random_of = random.Random(SEED)
        expected = {(tier, place) for tier, path, number in (('nvme', cache.nvme, NVME), ('cpu', cache.arena_file(), CPU))
                    for place in self.damage(path, number, random_of)}
        with open(cache.nvme, 'rb') as file:
            before = file.read()
        found = Verified(cache.config, '--json')
        self.assertEqual(found.status, 1, found.run.stderr)
        self.assertEqual({(line['tier'], line['offset']) for line in found.of('damaged')}, expected, f'seed {SEED}')
        self.assertEqual(found.summary['damaged'], len(expected))
        self.assertEqual(found.summary['good'], 2 * BLOCKS - len(expected))
        one = Verified(cache.config, '--json', '--tier', 'nvme')
        self.assertEqual(one.summary['damaged'], DAMAGED)
        with open(cache.nvme, 'rb') as file:
            self.assertEqual(file.read(), before, 'it changed the device')
        words = Verified(cache.config)
        self.assertEqual(words.status, 1)
        self.assertIn('never wrong bytes', words.run.stdout)

    def test_a_running_node_under_load_gives_no_false_alarm(self):
        # A tier that is overrun all the time, so that slots change while they are read.
        cache = node.Node(cpu_mib=4, nvme_mib=12, warm=('default',))
        self.addCleanup(cache.__exit__)
        cache.start()
        trace = node.trace_make(cache.folder, REPLAY_REQUESTS)
        runs = in_flux = under_load = good = 0
        for run in range(node.scaled(RUNS_UNDER_LOAD, least=4)):
            if run % 4 == 0:
                replay = node.Replay(cache, trace)
            seen = Verified(cache.config, '--json')
            self.assertEqual(seen.status, 0, seen.run)
            self.assertEqual(seen.summary['damaged'], 0, seen.of('damaged'))
            self.assertTrue(seen.summary['running'])
            runs += 1
            in_flux += seen.summary['in_flux']
            good += seen.summary['good']
            under_load += replay.is_running()
            if run % 4 == 3:
                figures = replay.finish(SECONDS_MAX)
                self.assertEqual(figures.get('wrong_blocks', 0), 0)
        if replay.is_running():
            replay.kill()
        self.assertGreater(under_load, 0)
        self.assertGreater(good, 0)
        self.assertTrue(cache.is_alive())
        print(f'verify beside a replay: {runs} runs, {under_load} of them under load, 0 false alarms, '
              f'{good} slots good, {in_flux} in flux', file=sys.stderr)

    def test_the_command_passes_it_on(self):
        cache = self.node_with_blocks()
        seen = Verified(cache.config, '-o', 'json', command=('kvtier', 'verify'))
        self.assertEqual(seen.status, 0, seen.run)
        summary = json.loads(seen.run.stdout.splitlines()[-1])
        self.assertEqual(summary['good'], 2 * BLOCKS)
        self.assertTrue(summary['running'])

    def test_what_cannot_be_read_is_named_with_the_remedy(self):
        cache = self.node_with_blocks()
        cache.stop()
        with self.subTest('no such file'):
            os.rename(cache.nvme, cache.nvme + '.away')
            seen = Verified(cache.config)
            self.assertEqual(seen.status, 3, seen.run)
            self.assertIn(f'{cache.nvme} cannot be read: No such file or directory', seen.run.stderr)
            self.assertIn('--config', seen.run.stderr)
            os.rename(cache.nvme + '.away', cache.nvme)
        with self.subTest('no superblock'):
            with open(cache.nvme, 'r+b') as file:
                head = file.read(128 << 10)
                file.seek(0)
                file.write(bytes(128 << 10))
            seen = Verified(cache.config)
            self.assertEqual(seen.status, 3, seen.run)
            self.assertIn('no superblock of kvtier is readable', seen.run.stderr)
            with open(cache.nvme, 'r+b') as file:
                file.write(head)
        self.assertEqual(Verified(cache.config).status, 0)
        with self.subTest('wrong usage'):
            for words in (['--tier', 'gpu'], ['--repair', 'yes'], ['--nonsense'], ['surplus']):
                self.assertEqual(Verified(cache.config, *words).status, 2, words)
            self.assertEqual(Verified(cache.config + '.missing').status, 2)

    def test_somebody_who_may_not_read_is_told_so(self):
        cache = self.node_with_blocks()
        faulty.need_reach(node.program('kvtierd'), cache.folder)
        cache.stop()
        os.chmod(cache.folder, 0o755)
        os.chmod(cache.shm, 0o755)
        seen = Verified(cache.config, user=NOBODY, group=NOBODY, extra_groups=[])
        self.assertEqual(seen.status, 3, seen.run)
        self.assertIn('Permission denied', seen.run.stderr)
        self.assertIn('run this as the user of kvtierd, or as root', seen.run.stderr)
        # To read is enough.
        os.chmod(cache.state, 0o755)
        for path in (cache.nvme, cache.arena_file(), os.path.join(cache.state, 'journal')):
            os.chmod(path, 0o444)
        seen = Verified(cache.config, user=NOBODY, group=NOBODY, extra_groups=[])
        self.assertEqual(seen.status, 0, seen.run)


if __name__ == '__main__':
    unittest.main()
