"""P6 and the rest: too little of everything, clocks that jump, a daemon that stands still, a restart nobody noticed.

Rows 3, 20, 21 and 32 of the fault table. Figures: build/tests/faults_limits.json.
"""
import os
import shutil
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import faulty   # noqa: E402
import frames   # noqa: E402
import library  # noqa: E402
import node     # noqa: E402

REPLAY_SECONDS = 60
PAYLOAD_BYTES = 16384
BLOCKS = 32
MEMORY_MIB = 192
JUMPS = (86400 * 365 * 50, -86400 * 365 * 20, 3600, 0)
RESTARTS = 10
figures = {}


def chain(name, count=BLOCKS):
    hashes = [node.hash_of(name, i) for i in range(count)]
    return hashes, [node.payload_of(h, PAYLOAD_BYTES) for h in hashes]


class Limits(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix='l')
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.cache = node.Node(cpu_mib=4, nvme_mib=16, http_listen='""')
        self.addCleanup(self.cache.__exit__)

    @classmethod
    def tearDownClass(cls):
        node.figures_write('faults_limits.json', figures)
        print(f'\n{figures}', flush=True)

    def replay(self, requests=150, **options):
        trace = node.trace_make(self.cache.folder, requests, users=8)
        return node.Replay(self.cache, trace, **{'deadline-ms': 2000, **options})

    def finished(self, replay):
        done = replay.finish(REPLAY_SECONDS)
        self.assertEqual((done['wrong_blocks'], done['stuck_jobs']), (0, 0), done)
        return done

    def all_come_back(self, engine, hashes, payloads, what=None, **options):
        for got, wanted in zip(engine.load(hashes, **options), payloads):
            self.assertTrue(node.assert_block(self, got, wanted, what), what)

    # ---- row 21 ----

    def test_a_flood_of_connections_costs_no_descriptor_that_the_daemon_needs(self):
        """With a limit below what connections_max would take: the flood is refused, who is in stays in."""
        self.cache.wrapper = faulty.limited(nofile=90)
        self.cache.start()
        hashes, payloads = chain('flood')
        before = faulty.descriptors(self.cache.process.pid)
        with self.cache.engine(payload_bytes=PAYLOAD_BYTES) as engine:
            engine.store(hashes, payloads)
            flood = []
            try:
                for _ in range(200):
                    try:
                        flood.append(frames.Connection(self.cache.socket(), hello=False))
                    except OSError:
                        break
                self.all_come_back(engine, hashes, payloads)
                self.assertGreater(len(flood), 10)
            finally:
                for connection in flood:
                    connection.close()
        node.until(lambda: faulty.descriptors(self.cache.process.pid) <= before, node.STOP_SECONDS,
                   'all descriptors are closed again')
        self.finished(self.replay())
        faulty.assert_healthy(self, self.cache)
        figures['descriptors'] = {'limit': 90, 'before': before,
                                  'after': faulty.descriptors(self.cache.process.pid)}

    def test_a_daemon_within_its_memory_limit_is_not_killed_under_load(self):
        """What it takes it takes at the start: a cgroup just above that is never exceeded."""
        group = self.enterContext(faulty.Cgroup('memory'))
        group.set('memory.limit_in_bytes', MEMORY_MIB << 20)
        self.addCleanup(self.cache.kill)   # before the group is removed
        self.cache.wrapper = group.wrapper()
        self.cache.start()
        started = self.cache.rss_bytes()
        self.finished(self.replay(1500))
        for number in range(20):
            with self.cache.engine(f'e{number}', model=f'm{number}') as engine:
                engine.lookup([node.hash_of(number, i) for i in range(900)])
        self.assertTrue(self.cache.is_alive(), 'killed for memory')
        faulty.assert_healthy(self, self.cache)
        grown = self.cache.rss_bytes() - started
        self.assertLess(grown, 24 << 20)
        figures['memory'] = {'limit_mib': MEMORY_MIB, 'grown_kib': grown >> 10,
                             'most_used_mib': int(group.get('memory.max_usage_in_bytes')) >> 20}

    def test_a_start_within_too_little_of_anything_is_refused_or_serves(self):
        """Every limit in steps: each start ends with a reason, or serves; none hangs, none serves half."""
        served = {}
        for name, values in {'nofile': (12, 16, 24, 32, 48, 64), 'memlock': (0, 65536), 'stack': (65536, 262144),
                             'as': (80 << 20, 160 << 20, 400 << 20), 'fsize': (1 << 20,)}.items():
            for value in values:
                with self.subTest(limit=name, value=value):
                    served[f'{name} {value}'] = self.starts_or_says_why(faulty.limited(**{name: value}))
        self.assertIn(True, served.values())
        self.assertIn(False, served.values())
        figures['limits'] = {'served': sum(served.values()), 'refused': len(served) - sum(served.values())}

    def starts_or_says_why(self, wrapper):
        cache = node.Node(cpu_mib=2, nvme_mib=8)
        try:
            cache.wrapper = wrapper
            cache.spawn()
            node.until(lambda: b'event=ready' in cache.log_bytes() or not cache.is_alive(), node.READY_SECONDS,
                       'it is ready, or has ended')
            if cache.is_alive():
                hashes, payloads = chain('limits', 8)
                with cache.engine(payload_bytes=PAYLOAD_BYTES) as engine:
                    engine.store(hashes, payloads)
                    engine.load(hashes)
                cache.wait_quiet()
                return True
            self.assertEqual(cache.process.returncode, 1, cache.log())
            self.assertEqual(cache.log().count('start_failed'), 1, cache.log())
            node.running.discard(cache.process)
            cache.process = None
            return False
        finally:
            cache.__exit__()

    # ---- row 20 ----

    def test_a_wall_clock_that_jumps_ends_no_lease_and_serves_nothing_wrong(self):
        clock = faulty.WallClock(self.folder)
        self.cache.wrapper = clock.wrapper()
        self.cache.start()
        hashes, payloads = chain('clock')
        with self.cache.engine(payload_bytes=PAYLOAD_BYTES) as engine:
            engine.store(hashes, payloads)
            found = engine.lookup(hashes, lease_us=30000000)
            self.assertNotEqual(found.lease, 0)
            replay = self.replay(600)
            for seconds in JUMPS:
                clock.jump(seconds)
                self.all_come_back(engine, hashes, payloads, f'after a jump of {seconds} s', lease=found.lease)
                leases = self.cache.stats()['tenants'][0]['leases']
                self.assertGreaterEqual(leases, 1, f'the lease ended with a jump of {seconds} s')
                self.shows(seconds)
            self.finished(replay)
        clock.jump(JUMPS[1])   # a restart years before its own files
        self.cache.kill()
        self.cache.start()
        self.cache.wait_restored()
        self.assertGreater(self.cache.counters()['restored_nvme'], 0)
        self.finished(self.replay())
        faulty.assert_healthy(self, self.cache)
        figures['clock'] = {'jumps': len(JUMPS) + 1}

    def shows(self, seconds):
        """The jump is real: the daemon's own log has the shifted year."""
        year = time.gmtime(time.time() + seconds).tm_year
        with self.cache.engine('clock', model=f'jump {seconds}'):
            pass
        node.until(lambda: f'ts={year}-'.encode() in self.cache.log_bytes(), node.STOP_SECONDS, f'a line of {year}')

    # ---- row 3, and 32 ----

    def client(self):
        return library.Client(self.cache.socket(), payload_bytes=PAYLOAD_BYTES, blocks=BLOCKS)

    def test_a_stopped_daemon_costs_an_engine_no_more_than_its_deadline(self):
        """The longest that one call of libkvtier took while the daemon stood still (test_stopped.py has all calls)."""
        self.cache.start()
        hashes, payloads = chain('stopped')
        stalls = []
        with self.client() as client:
            client.connect()
            for i, payload in enumerate(payloads):
                client.put(i, payload)
            self.assertEqual(client.run('store', hashes).good, BLOCKS)
            for _ in range(node.scaled(20, least=5)):
                self.cache.pause()
                try:
                    began = time.monotonic()
                    client.lookup(hashes, 20000)
                    stalls.append(round((time.monotonic() - began) * 1000, 3))
                finally:
                    self.cache.resume()
                self.served_again(client, hashes)
        self.assertLess(max(stalls), 270)
        figures['stopped'] = {'lookup_ms': node.quantiles(stalls), 'deadline_ms': 20}

    def served_again(self, client, hashes):
        """Without a sleep: calls go on until one is answered."""
        def answered():
            result, found = client.lookup(hashes, 50000)
            if result == 0 and found.lease:
                client.lease_release(found.lease)
            return result == 0
        node.until(answered, node.READY_SECONDS, 'a lookup is answered')

    def test_a_restart_that_nobody_noticed_registers_the_engine_again(self):
        """The daemon is killed and back before the engine calls: its token is another, the engine is registered again."""
        self.cache.start()
        hashes, payloads = chain('restart')
        took = []
        with self.client() as client:
            client.connect()
            for i, payload in enumerate(payloads):
                client.put(i, payload)
            self.assertEqual(client.run('store', hashes).good, BLOCKS)
            for _ in range(node.scaled(RESTARTS, least=3)):
                self.cache.wait_quiet()
                self.cache.kill()
                self.cache.start()
                self.cache.wait_restored()
                began = time.monotonic()
                self.served_again(client, hashes)
                took.append(round(time.monotonic() - began, 4))
                job = client.run('load', hashes)
                for i, result in enumerate(job.results):
                    if result == 0:
                        node.assert_block(self, client.get(i), payloads[i])
        self.assertGreater(job.good, 0, 'nothing was warm')
        figures['restart'] = {'registered_again_seconds': node.quantiles(took)}


if __name__ == '__main__':
    unittest.main()
