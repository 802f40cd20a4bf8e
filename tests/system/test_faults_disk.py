"""P1 and P4 with real disks: power is cut, sectors cannot be read, disks fill up, turn read-only, crawl, and fail fsync.

Rows 4, 8, 9, 10 and 11 of the fault table. Each disk is a loop device; every byte that comes back is checked, by
kvtier-bench or here. After each fault: the daemon lives, nothing moves or is held, its descriptors are as many as
before, and it starts again. Figures: build/tests/faults_disk.json.
"""
import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import faulty   # noqa: E402
import frames   # noqa: E402
import node     # noqa: E402

SEED = int(os.environ.get('KVTIER_TEST_SEED', '31'))
REPLAY_SECONDS = 60
CUTS = 4
BLOCKS = 600
PAYLOAD_BYTES = 16384
CAP_BYTES_SECOND = 2 << 20
FENCE_SECONDS = 20
figures = {}


def chain(name, count=BLOCKS):
    hashes = [node.hash_of(name, i) for i in range(count)]
    return hashes, [node.payload_of(h, PAYLOAD_BYTES) for h in hashes]


class Disks(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix='f')
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.random_of = random.Random(f'{SEED} {self.id()}')

    @classmethod
    def tearDownClass(cls):
        node.figures_write('faults_disk.json', figures)
        print(f'\n{figures}', flush=True)

    def disk(self, *arguments, **options):
        """Gone after the daemon on it is."""
        return self.enterContext(faulty.LoopDisk(self.folder, *arguments, **options))

    def node(self, **options):
        cache = node.Node(**{'cpu_mib': 4, 'nvme_mib': 24, **options})
        self.addCleanup(cache.__exit__)
        return cache

    def replay(self, cache, requests, **options):
        trace = node.trace_make(cache.folder, requests, seed=self.random_of.randrange(1000), users=8)
        return node.Replay(cache, trace, **{'deadline-ms': 2000, 'connect-ms': 20000, **options})

    def finished(self, replay):
        done = replay.finish(REPLAY_SECONDS)
        self.assertEqual(done['wrong_blocks'], 0, f'wrong bytes, seed {SEED}')
        self.assertEqual(done['stuck_jobs'], 0)
        return done

    def device(self, cache):
        return cache.stats()['nvme'][0]

    def store(self, cache, name, count=BLOCKS):
        """Blocks in nvme, most of them nowhere else."""
        hashes, payloads = chain(name, count)
        with cache.engine(payload_bytes=PAYLOAD_BYTES) as engine:
            for at in range(0, count, 100):   # a request each, else the tail of one would be refused
                engine.store(hashes[at:at + 100], payloads[at:at + 100])
        cache.wait_quiet()
        return hashes, payloads

    def served(self, cache, hashes, payloads):
        """How many come back; each is right."""
        count = 0
        with cache.engine(payload_bytes=PAYLOAD_BYTES) as engine:
            for at in range(0, len(hashes), 50):
                for name, got, wanted in zip(hashes[at:at + 50], engine.load(hashes[at:at + 50]),
                                             payloads[at:at + 50]):
                    count += node.assert_block(self, got, wanted, name.hex())
        return count

    # ---- row 4 ----

    def test_a_power_cut_leaves_nothing_wrong_and_no_start_refused(self):
        """All of it is on the disk that loses power: blocks, journal and catalogue."""
        disk = self.disk(96)
        cache = self.node(nvme=disk.path('nvme'), state=disk.path('state'))
        restarts, restored, lost = [], [], 0
        cuts = node.scaled(CUTS, least=1)
        for cut in range(cuts):
            restarts.append(cache.start())
            cache.wait_restored()
            counters = cache.counters()
            restored.append(counters['restored_nvme'])
            replay = self.replay(cache, 5000)
            wanted = self.random_of.randrange(200, 4000)
            node.until(lambda: cache.counters()['stored_blocks'] > wanted or not replay.is_running(),
                       REPLAY_SECONDS, 'blocks are stored')
            if cut % 2:
                self.forget_many(cache)
            disk.power_cut()
            self.finished(replay)
            lost += self.device(cache)['write_errors'] > 0
            self.assertTrue(cache.is_alive(), cache.log())
            node.assert_settled(self, cache.wait_quiet())
            cache.kill()
            self.worker_is_gone(cache)
            disk.power_back()
        cache.start()
        cache.wait_restored()
        self.finished(self.replay(cache, 200))
        faulty.assert_healthy(self, cache)
        self.assertGreater(sum(restored[1:]) if cuts > 1 else 1, 0, 'nothing was found again after any cut')
        figures['power_cuts'] = {'cuts': cuts, 'met_by_writes': lost, 'restart_seconds': node.quantiles(restarts), 'restored_blocks': restored}

    def forget_many(self, cache):
        with contextlib.suppress(frames.Refused, frames.Closed, OSError), cache.engine(model='gone') as engine:
            engine.forget()

    def worker_is_gone(self, cache):
        """The catalogue's worker outlives a killed daemon by a moment, with its files open."""
        def nobody():
            for pid in filter(str.isdigit, os.listdir('/proc')):
                with contextlib.suppress(OSError), open(f'/proc/{pid}/cmdline', 'rb') as file:
                    if os.fsencode(cache.state) in file.read():
                        return False
            return True
        node.until(nobody, node.STOP_SECONDS, 'the worker has ended')

    def test_what_was_forgotten_before_a_power_cut_stays_forgotten(self):
        """A FORGET that was answered is on the disk; the blocks may be there still, and are served by nobody."""
        disk = self.disk(96)
        cache = self.node(nvme=disk.path('nvme'), state=disk.path('state'))
        cache.start()
        hashes, payloads = self.store(cache, 'forgotten', 300)
        self.assertGreater(self.served(cache, hashes, payloads), 0)
        with cache.engine(payload_bytes=PAYLOAD_BYTES) as engine:
            self.assertEqual(engine.forget(), 0)
        disk.power_cut()
        cache.kill()
        self.worker_is_gone(cache)
        disk.power_back()
        cache.start()
        cache.wait_restored()
        self.assertEqual(self.served(cache, hashes, payloads), 0)

    # ---- row 8 ----

    def test_a_disk_that_cannot_be_read_is_fenced_and_memory_serves(self):
        disk = self.disk(40, kind='')
        cache = self.node(nvme=disk.device, cpu_mib=2, nvme_mib=32)
        with open(cache.config, 'a', encoding='utf-8') as file:
            file.write('    raw_initialise: true\n')
        cache.start()
        hashes, payloads = self.store(cache, 'far')
        before = faulty.descriptors(cache.process.pid)
        good = self.served(cache, hashes, payloads)
        self.assertGreater(good, BLOCKS // 2)
        disk.cut_short(4)
        cut = time.monotonic()
        after = self.served(cache, hashes, payloads)
        node.until(lambda: self.device(cache)['fenced'], FENCE_SECONDS, 'it is fenced')
        fence_seconds = time.monotonic() - cut
        self.assertLess(after, good)
        self.assertGreater(self.device(cache)['read_errors'], 0)
        near, near_payloads = self.store(cache, 'near', 40)   # memory takes and gives as before
        self.assertEqual(self.served(cache, near, near_payloads), 40)
        faulty.assert_healthy(self, cache)
        self.assertLessEqual(faulty.descriptors(cache.process.pid), before + 2)
        cache.stop()
        disk.give_back()
        cache.start()   # what the image lost is zeros now: headers that prove nothing
        cache.wait_restored()
        self.served(cache, hashes, payloads)
        faulty.assert_healthy(self, cache)
        figures['read_errors'] = {'served_before': good, 'served_after': after, 'fence_seconds': fence_seconds}

    # ---- row 9 ----

    def test_a_full_disk_under_journal_and_catalogue_costs_forgets_and_warmth_alone(self):
        disk = self.disk(24)
        cache = self.node(state=disk.path('state'))
        cache.start()
        replay = self.replay(cache, 4000)
        node.until(lambda: cache.counters()['stored_blocks'] > 500, REPLAY_SECONDS, 'blocks are stored')
        disk.fill()
        answers = {}
        for number in range(200):   # until the journal needs another page of the disk, and beyond
            try:
                with cache.engine(model=f'full {number}') as engine:
                    result = engine.forget()
            except frames.Refused as refused:
                result = refused.result
            answers[result] = answers.get(result, 0) + 1
        self.finished(replay)
        faulty.assert_healthy(self, cache)
        disk.empty()
        with cache.engine(model='room') as engine:
            self.assertEqual(engine.forget(), 0, 'a FORGET after there is room again')
        cache.kill()
        cache.start()
        cache.wait_restored()
        self.finished(self.replay(cache, 200))
        faulty.assert_healthy(self, cache)
        figures['full_state'] = {'forgets_by_result': answers}

    def test_a_disk_that_turns_read_only_costs_its_tier_and_no_daemon(self):
        disk = self.disk(96)
        cache = self.node(nvme=disk.path('nvme'), state=disk.path('state'))
        cache.start()
        replay = self.replay(cache, 3000)
        node.until(lambda: cache.counters()['stored_blocks'] > 500, REPLAY_SECONDS, 'blocks are stored')
        disk.turn_read_only()
        self.finished(replay)
        self.finished(self.replay(cache, 200))
        faulty.assert_healthy(self, cache)
        with cache.engine(model='another') as engine:
            try:
                self.assertLess(engine.forget(), 0, 'a FORGET that is not on the disk')
            except frames.Refused:
                pass
        cache.kill()
        self.worker_is_gone(cache)
        disk.power_back()
        cache.start()
        cache.wait_restored()
        self.finished(self.replay(cache, 200))
        faulty.assert_healthy(self, cache)

    def test_a_dying_disk_under_everything_kills_catalogue_workers_and_no_daemon(self):
        """All I/O is EIO from one moment on; the next start is refused with the reason, the one after repair is not."""
        disk = self.disk(96)
        cache = self.node(nvme=disk.path('nvme'), state=disk.path('state'))
        cache.start()
        before = faulty.descriptors(cache.process.pid)
        replay = self.replay(cache, 3000)
        node.until(lambda: cache.counters()['stored_blocks'] > 500, REPLAY_SECONDS, 'blocks are stored')
        disk.power_cut()
        self.finished(replay)
        node.until(lambda: self.device(cache)['fenced'], FENCE_SECONDS, 'it is fenced')
        self.finished(self.replay(cache, 200))
        faulty.assert_healthy(self, cache)
        self.assertLessEqual(faulty.descriptors(cache.process.pid), before + 2)
        deaths = cache.metric('kvtier_worker_restarts_total{worker="catalog"}')
        cache.kill()
        self.worker_is_gone(cache)
        disk.power_back()
        cache.start()
        self.finished(self.replay(cache, 100))
        figures['dying_disk'] = {'catalogue_deaths': deaths}

    # ---- row 10 ----

    def test_a_crawling_disk_costs_no_more_than_the_deadline(self):
        """A hundredth of its speed, or less: loads end by their deadline, and lookups stop offering what is not worth
        it."""
        disk = self.disk(64)
        group = self.enterContext(faulty.Cgroup('blkio'))
        cache = self.node(nvme=disk.path('nvme'), cpu_mib=2, io='psync')   # the group of a thread counts, not a kernel's
        cache.wrapper = group.wrapper()
        cache.start()
        hashes, payloads = self.store(cache, 'slow')
        fast = self.load_times(cache, hashes, payloads)
        group.set('blkio.throttle.read_bps_device', f'{disk.number()} {CAP_BYTES_SECOND // 8}')
        group.set('blkio.throttle.write_bps_device', f'{disk.number()} {CAP_BYTES_SECOND // 8}')
        slow = self.load_times(cache, hashes, payloads, deadline_us=500000)
        lookups = self.lookup_times(cache, hashes)
        self.finished(self.replay(cache, 10, **{'deadline-ms': 500}))
        self.assertTrue(cache.is_alive(), cache.log())
        group.set('blkio.throttle.read_bps_device', f'{disk.number()} 0')
        group.set('blkio.throttle.write_bps_device', f'{disk.number()} 0')
        faulty.assert_healthy(self, cache)
        self.assertLess(slow['max'], 1.0, 'a load that took longer than its deadline and half a second')
        self.assertLess(lookups['max'], 0.5, 'a lookup that waited for the disk')
        figures['slow_disk'] = {'load_seconds_fast': fast, 'lookup_seconds_slow': lookups, 'load_seconds_slow': slow, 'deadline_seconds': 0.5}

    def lookup_times(self, cache, hashes):
        times = []
        with cache.engine(payload_bytes=PAYLOAD_BYTES) as engine:
            for _ in range(50):
                began = time.monotonic()
                engine.lookup(hashes[:50])
                times.append(round(time.monotonic() - began, 5))
        return node.quantiles(times)

    def load_times(self, cache, hashes, payloads, deadline_us=5000000):
        """Seconds of loads of 20 blocks each, most of them from the disk."""
        times = []
        with cache.engine(payload_bytes=PAYLOAD_BYTES) as engine:
            for at in range(0, min(len(hashes), 200), 20):
                began = time.monotonic()
                engine.batches += 1
                engine.data.send(frames.LOAD, frames.load_body(engine.space, engine.batches, hashes[at:at + 20],
                                                               deadline_us=deadline_us))
                items = engine.loaded(engine.batches, 20)
                times.append(time.monotonic() - began)
                releases = []
                for index, (result, offset, _, _) in items.items():
                    if result == 0:
                        node.assert_block(self, engine.payload(offset), payloads[at + index])
                        releases.append((index, 0))
                engine.data.send(frames.RELEASE, frames.release_body(engine.batches, releases))
        return node.quantiles([round(seconds, 4) for seconds in times])

    # ---- row 11 ----

    def test_a_failed_fsync_of_the_journal_is_a_refused_forget_and_no_lie(self):
        """What was not synced is not answered, what was asked to go is served by nobody, and the next FORGET writes a
        journal anew instead of syncing again."""
        cache = self.node()
        cache.start()
        hashes, payloads = self.store(cache, 'synced', 200)
        with faulty.Strace(cache.process.pid, self.folder, 'fdatasync:error=EIO', 'fsync:error=EIO') as injected:
            for _ in range(3):
                self.assertLess(self.forget(cache), 0)
            self.assertEqual(self.served(cache, hashes, payloads), 0)
        self.assertGreaterEqual(injected.hits(), 2)
        self.assertEqual(self.forget(cache), 0, 'once the disk syncs again')
        self.finished(self.replay(cache, 200))
        faulty.assert_healthy(self, cache)
        cache.kill()
        cache.start()
        cache.wait_restored()
        self.assertEqual(self.served(cache, hashes, payloads), 0)
        faulty.assert_healthy(self, cache)
        figures['failed_fsync'] = {'injected': injected.hits()}

    def test_failed_syncs_and_writes_of_the_catalogue_cost_its_worker_alone(self):
        for number, injections in enumerate((('fdatasync:error=EIO', 'fsync:error=EIO'), ('write:error=ENOSPC:when=2+3',),
                                             ('pwrite64:error=EIO', 'write:error=EIO:when=5+'))):
            cache = self.node(nvme_mib=12)
            cache.start()
            worker, = faulty.children(cache.process.pid)
            with faulty.Strace(worker, self.folder, *injections) as injected:
                self.finished(self.replay(cache, 300))
            self.finished(self.replay(cache, 300))
            faulty.assert_healthy(self, cache)
            cache.stop()
            cache.start()
            cache.wait_restored()
            self.finished(self.replay(cache, 100))
            faulty.assert_healthy(self, cache)
            figures[f'failed_catalogue_writes_{number}'] = {'injected': injected.hits()}

    def forget(self, cache):
        try:
            with cache.engine(payload_bytes=PAYLOAD_BYTES) as engine:
                return engine.forget()
        except frames.Refused as refused:
            return refused.result


if __name__ == '__main__':
    unittest.main()
