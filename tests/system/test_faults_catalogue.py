"""P3: whatever happened to the catalogue's files, the daemon starts and serves only what is proven (row 12).

Each mutation of CURRENT, MANIFEST, an SST or the write-ahead log: bits, holes, cuts, junk, other files' bytes, files that
are gone. At KVTIER_TEST_SCALE=1: 60 of them. Figures: build/tests/faults_catalogue.json.
"""
import os
import random
import shutil
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import faulty   # noqa: E402
import node     # noqa: E402

MUTATIONS = 60
SEED = int(os.environ.get('KVTIER_TEST_SEED', '12'))
BLOCKS = 400
REPLAY_SECONDS = 60
KINDS = ('CURRENT', 'MANIFEST', '.sst', '.log', 'IDENTITY', 'OPTIONS')


def chain():
    hashes = [node.hash_of('catalogue', i) for i in range(BLOCKS)]
    return hashes, [node.payload_of(h, 4096) for h in hashes]


def head(content, random_of):
    return bytes(random_of.randbytes(min(64, len(content)))) + content[64:]


def middle(content, random_of):
    at = random_of.randrange(max(len(content), 1))
    return content[:at] + random_of.randbytes(32) + content[at + 32:]


def tail(content, random_of):
    return content[:-min(100, len(content))] + random_of.randbytes(min(100, len(content)))


def bit(content, random_of):
    if not content:
        return b'\0'
    changed = bytearray(content)
    changed[random_of.randrange(len(changed))] ^= 1 << random_of.randrange(8)
    return bytes(changed)


def cut(content, random_of):
    return content[:random_of.randrange(max(len(content), 1))]


def zeroed(content, random_of):
    at = random_of.randrange(max(len(content), 1))
    return content[:at] + bytes(len(content) - at)


def longer(content, random_of):
    return content + random_of.randbytes(200)


def emptied(content, random_of):
    return b''


def gone(content, random_of):
    return None


WAYS = (head, middle, tail, bit, cut, zeroed, longer, emptied, gone)


class Catalogue(unittest.TestCase):
    def served(self, cache):
        hashes, payloads = chain()
        count = 0
        with cache.engine() as engine:
            for at in range(0, BLOCKS, 50):
                for got, wanted in zip(engine.load(hashes[at:at + 50]), payloads[at:at + 50]):
                    count += node.assert_block(self, got, wanted)
        return count

    def folder(self, cache):
        for folder, _, names in os.walk(cache.state):
            if 'CURRENT' in names:
                return folder
        self.skipTest('this build has no catalogue')

    def files(self, folder, kind):
        return sorted(name for name in os.listdir(folder) if kind in name and not name.startswith('LOG'))

    def mutate(self, folder, number, random_of):
        """One file, one way; every kind of file meets every way in turn."""
        kind = KINDS[number % len(KINDS)]
        way = WAYS[number // len(KINDS) % len(WAYS)]
        names = self.files(folder, kind)
        if not names:
            return None
        path = os.path.join(folder, random_of.choice(names))
        with open(path, 'rb') as file:
            content = way(file.read(), random_of)
        if content is None:
            os.unlink(path)
        else:
            with open(path, 'wb') as file:
                file.write(content)
        return f'{way.__name__} of {os.path.basename(path)}'

    def test_a_damaged_catalogue_never_refuses_a_start_nor_serves_a_wrong_block(self):
        cache = node.Node(cpu_mib=2, nvme_mib=16)
        self.addCleanup(cache.__exit__)
        hashes, payloads = chain()
        cache.start()
        with cache.engine() as engine:
            for at in range(0, BLOCKS, 100):
                engine.store(hashes[at:at + 100], payloads[at:at + 100])
        cache.wait_quiet()
        cache.stop()
        cache.start()   # what was in the log is in a table after this
        cache.wait_restored()
        cache.stop()
        folder = self.folder(cache)
        kept = os.path.join(cache.shm, 'kept')
        shutil.copytree(folder, kept)
        starts, served, done = [], [], []
        for number in range(node.scaled(MUTATIONS, least=12)):
            random_of = random.Random(f'{SEED} {number}')
            shutil.rmtree(folder)
            shutil.copytree(kept, folder)
            what = self.mutate(folder, number, random_of)
            if what is None:
                continue
            done.append(what)
            with self.subTest(mutation=number, what=what):
                starts.append(cache.start())
                cache.wait_restored()
                served.append(self.served(cache))
                node.assert_settled(self, cache.wait_quiet())
                cache.stop()
        self.assertGreater(len(done), len(KINDS))
        self.assertEqual(len(starts), len(done), 'starts that were refused')
        self.assertEqual(sorted(served)[len(served) // 2], BLOCKS, 'warmth is what a damaged catalogue costs, seldom')
        figures = {'mutations': len(done), 'starts': len(starts),
                   'start_seconds': node.quantiles([round(seconds, 4) for seconds in starts]),
                   'all_blocks_found': served.count(BLOCKS), 'fewest_found': min(served), 'blocks': BLOCKS}
        node.figures_write('faults_catalogue.json', figures)
        print(f'\n{figures}', flush=True)

    def test_a_worker_killed_again_and_again_costs_no_lookup(self):
        """kill -9 of the catalogue's worker while a replay runs: the daemon serves on, and starts it again."""
        cache = node.Node(cpu_mib=2, nvme_mib=16)
        self.addCleanup(cache.__exit__)
        cache.start()
        replay = node.Replay(cache, node.trace_make(cache.folder, 1500, users=8), **{'deadline-ms': 2000})
        kills = 0
        while replay.is_running() and kills < 3:
            for pid in faulty.children(cache.process.pid):
                os.kill(pid, 9)
                kills += 1
            deaths = kills
            node.until(lambda: cache.metric('kvtier_worker_restarts_total{worker="catalog"}') >= deaths
                       or not replay.is_running(), REPLAY_SECONDS, 'the death is seen')
            node.until(lambda: faulty.children(cache.process.pid) or not replay.is_running(), REPLAY_SECONDS,
                       'it is started again')
        done = replay.finish(REPLAY_SECONDS)
        self.assertEqual((done['wrong_blocks'], done['stuck_jobs'], done['failed_lookups']), (0, 0, 0))
        self.assertGreater(kills, 0)
        faulty.assert_healthy(self, cache)


if __name__ == '__main__':
    unittest.main()
