"""An engine that is killed by SIGKILL in the middle of its work leaves nothing behind in the daemon.

At KVTIER_TEST_SCALE=1: 20 engines each with memory alone and with a disk below it, killed at random moments with at
least 64 MiB of stores and some loads under way. Within RELEASE_SECONDS the engine, its leases, its held and FILLING
slots and its batches are gone; what the cache then gives is right. Its leases go with its connections, long before
their deadline, LEASE_US. KVTIER_TEST_SEED chooses the moments. How long the release took is written to
build/tests/engine_killed.json.
"""
import contextlib
import errno
import os
import random
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import frames   # noqa: E402
import library   # noqa: E402
import node      # noqa: E402

ROUNDS = 20
SEED = int(os.environ.get('KVTIER_TEST_SEED', '20'))
RELEASE_SECONDS = 2.0
KILL_AFTER_SECONDS = 0.15
BEGUN_SECONDS = 30
PAYLOAD_BYTES = 256 << 10
STORED_BLOCKS = 256       # 64 MiB
JOB_BLOCKS = 64
DEADLINE_US = 60000000
LEASE_US = 10000000
BATCHES_MAX = 1024        # of the node, and here of one connection
WRONG = 'wrong bytes'      # what the engine prints
figures = {}


def stored_hashes(seed, generation, first=0, count=STORED_BLOCKS):
    return [node.hash_of('stored', seed, generation, i) for i in range(first, first + count)]


def known_hashes():
    return [node.hash_of('known', i) for i in range(JOB_BLOCKS)]


def payloads():
    """Block i of any chain has the i-th."""
    return [node.payload_of(node.hash_of('payload', i), PAYLOAD_BYTES) for i in range(STORED_BLOCKS)]


class Worker:
    """The engine: starts each of its jobs again, with new blocks, as soon as it has ended."""

    def __init__(self, client, path, seed):
        self.client, self.seed = client, seed
        with open(path, 'rb') as file:
            self.payloads = file.read()
        client.memory[:len(self.payloads)] = self.payloads
        self.generation = 0
        self.lease = 0
        self.jobs = {}   # number: the first block that it stores, or None for a load

    def begin_store(self, first):
        hashes = stored_hashes(self.seed, self.generation, first, JOB_BLOCKS)
        parent = stored_hashes(self.seed, self.generation, first - 1, 1)[0] if first else None
        self.begun(first, self.client.begin('store', hashes, DEADLINE_US, parent=parent,
                                            blocks=range(first, first + JOB_BLOCKS)))

    def begin_load(self):
        known = known_hashes()
        if self.lease:
            self.client.lease_release(self.lease)
        self.lease = self.client.lookup(known, 1000000, lease_us=LEASE_US)[1].lease
        self.begun(None, self.client.begin('load', known, DEADLINE_US, lease=self.lease,
                                           blocks=range(STORED_BLOCKS, STORED_BLOCKS + JOB_BLOCKS)))

    def begun(self, first, answer):
        result, number = answer
        if result < 0:
            raise OSError(-result, 'a job was not taken')
        self.jobs[number] = first

    def loaded(self, completion):
        for i in range(completion.count):
            wanted = self.payloads[i * PAYLOAD_BYTES:(i + 1) * PAYLOAD_BYTES]
            if completion.results[i] == 0 and self.client.get(STORED_BLOCKS + i) != wanted:
                print(WRONG, flush=True)

    def run(self):
        completions = (library.Completion * 8)()
        for first in range(0, STORED_BLOCKS, JOB_BLOCKS):
            self.begin_store(first)
        self.begin_load()
        print('begun', flush=True)
        while True:
            self.client.library.kvtier_wait(self.client.client, 1000000)
            count = self.client.library.kvtier_poll(self.client.client, completions, 8)
            for i in range(count):
                first = self.jobs.pop(completions[i].job)
                if first is None:
                    self.loaded(completions[i])
                    self.begin_load()
                else:
                    self.generation += first == 0
                    self.begin_store(first)


def engine_main(socket, path, seed):
    """A process of its own; ends by SIGKILL only."""
    client = library.Client(socket, name=f'engine {seed}', payload_bytes=PAYLOAD_BYTES,
                            blocks=STORED_BLOCKS + JOB_BLOCKS)
    client.connect()
    Worker(client, path, seed).run()


def held(stats):
    """What engines hold of the daemon: {name: count}."""
    tenant = stats['tenants'][0]
    tiers = tenant['tiers'].values()
    return {'engines': len(stats['engines']), 'connections': stats['connections'] - 1, 'leases': tenant['leases'],
            'moves': stats['moves'], 'held': sum(tier['held_slots'] for tier in tiers),
            'filling': sum(tier['slots']['filling'] for tier in tiers)}


class EngineKilled(unittest.TestCase):
    def setUp(self):
        self.payloads = payloads()

    def node_start(self, nvme_mib):
        self.cache = node.Node(cpu_mib=96, nvme_mib=nvme_mib, extent_bytes='4MiB', batches_max=BATCHES_MAX)
        self.addCleanup(self.cache.__exit__)
        self.path = os.path.join(self.cache.folder, 'payloads')
        with open(self.path, 'wb') as file:
            file.write(b''.join(self.payloads))
        self.cache.start()

    def known_stored(self):
        with library.Client(self.cache.socket(), 'checker', payload_bytes=PAYLOAD_BYTES) as client:
            client.connect()
            for i in range(JOB_BLOCKS):
                client.put(i, self.payloads[i])
            self.assertEqual(client.run('store', known_hashes()).good, JOB_BLOCKS)

    def engine_start(self, seed):
        program = f'import test_engine_killed as t; t.engine_main({self.cache.socket()!r}, {self.path!r}, {seed})'
        process = subprocess.Popen([sys.executable, '-c', program], cwd=os.path.dirname(os.path.abspath(__file__)),
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        node.running.add(process)
        line = process.stdout.readline()
        self.assertEqual(line, 'begun\n', process.stderr.read() if line == '' else '')
        return process

    def engine_kill(self, process, seconds):
        """What it held then."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            self.fail(f'the engine ended by itself: {process.communicate()}')
        before = held(self.cache.stats())
        process.kill()
        out, _ = process.communicate()
        node.running.discard(process)
        node.counted['engines_killed'] += 1
        node.counted['wrong_blocks'] += out.count(WRONG)
        self.assertEqual(out, '', f'seed {SEED}')
        return before

    def right_bytes(self, seed):
        """How many blocks the cache gives; each of them must be right."""
        given = 0
        with library.Client(self.cache.socket(), 'checker', payload_bytes=PAYLOAD_BYTES) as client:
            client.connect()
            chains = [known_hashes()] + [stored_hashes(seed, generation, first, JOB_BLOCKS)
                                         for generation in range(3) for first in range(0, STORED_BLOCKS, JOB_BLOCKS)]
            for number, hashes in enumerate(chains):
                first = 0 if number == 0 else (number - 1) * JOB_BLOCKS % STORED_BLOCKS
                job = client.run('load', hashes)
                self.assertEqual(set(job.results) - {0, -errno.ENOENT}, set(), f'seed {SEED}')
                for i, result in enumerate(job.results):
                    if result == 0:
                        given += node.assert_block(self, client.get(i), self.payloads[first + i], f'seed {SEED}')
        return given

    def all_batches_are_free(self):
        with self.cache.engine('batches', model='small', payload_bytes=4096) as engine:
            for number in range(BATCHES_MAX):
                _, said = engine.admissions([node.hash_of('batch', number)], deadline_us=DEADLINE_US)
                self.assertEqual(said, [frames.ADMITTED], f'batch {number} of {BATCHES_MAX}')

    def wait_released(self, is_released, what):
        """Within RELEASE_SECONDS; what is held then all the same has leaked."""
        try:
            node.until(lambda: is_released(held(self.cache.stats())), RELEASE_SECONDS, what)
        finally:
            left = held(self.cache.stats())
            node.counted['leaked_holds'] += 0 if is_released(left) else sum(left.values())

    def rounds(self, name, is_released):
        random_of = random.Random(f'{name} {SEED}')
        seconds, given, busy = [], 0, 0
        for seed in range(node.scaled(ROUNDS, least=4)):
            self.known_stored()
            before = self.engine_kill(self.engine_start(seed), random_of.uniform(0, KILL_AFTER_SECONDS))
            self.assertEqual(before['engines'], 1)
            busy += before['leases'] > 0 and before['held'] + before['filling'] > 0
            died = time.monotonic()
            self.wait_released(is_released, f'all is released (seed {SEED}, round {seed}, before: {before})')
            seconds.append(round(time.monotonic() - died, 4))
            node.assert_settled(self, self.cache.wait_quiet())
            given += self.right_bytes(seed)
        self.assertGreater(busy, 0, 'no engine was killed at work')
        self.assertGreater(given, 0)
        self.all_batches_are_free()
        self.wait_released(is_released, 'all is released at the end')
        figures[name] = {'seconds': node.quantiles(seconds), 'checked_blocks': given, 'busy': busy}

    @classmethod
    def tearDownClass(cls):
        node.figures_write('engine_killed.json', figures)
        print(f'\n{figures}', flush=True)

    def test_within_two_seconds_a_killed_engine_holds_nothing_in_memory(self):
        self.node_start(nvme_mib=0)
        self.rounds('memory', lambda now: not any(now.values()))

    def test_within_two_seconds_a_killed_engine_holds_nothing_above_a_disk(self):
        """What still moves then is on its way to the disk by the daemon's own will; it ends by itself."""
        self.node_start(nvme_mib=192)
        self.rounds('disk', lambda now: not (now['engines'] or now['connections'] or now['leases']))


if __name__ == '__main__':
    unittest.main()
