"""P3: kill -9 at any instant, and at every named step: nothing wrong is ever served, no start is refused.

At KVTIER_TEST_SCALE=1: 200 kills at random instants of a daemon between two replays (one tenant's memory is a memfd and
dies with the daemon, the other's is a file on tmpfs and survives), and one kill at each failpoint, twice. What came out
is written to build/tests/kills.json.
"""
import errno
import os
import random
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import frames   # noqa: E402
import node     # noqa: E402

KILLS = 200
SEED = int(os.environ.get('KVTIER_TEST_SEED', '20'))
REPLAY_SECONDS = 120
TENANTS = ('cold', 'warm')
# A kill comes so long after the start, at most: two of three of them find a daemon that serves.
KILL_AFTER_SECONDS = 0.5


def failed(figures):
    return figures['wrong_blocks'] or figures['stuck_jobs']


class Replays:
    """A replay of each tenant, begun again whenever it ends, and their figures added up."""

    def __init__(self, case, cache, requests):
        self.case, self.cache, self.requests = case, cache, requests
        self.trace = node.trace_make(cache.folder, requests, users=8)
        self.running = {}
        self.sums = {}

    def keep_running(self):
        for tenant in TENANTS:
            replay = self.running.get(tenant)
            if replay is not None and not replay.is_running():
                self.collect(tenant)
                replay = None
            if replay is None:
                self.running[tenant] = node.Replay(self.cache, self.trace, tenant,
                                                   **{'connect-ms': 60000, 'deadline-ms': 2000})

    def collect(self, tenant):
        figures = self.running.pop(tenant).finish(REPLAY_SECONDS)
        self.case.assertEqual(figures['wrong_blocks'], 0, f'{tenant}: wrong bytes, seed {SEED}')
        self.case.assertEqual(figures['stuck_jobs'], 0, f'{tenant}: jobs that never became quiescent')
        for name in ('requests', 'hit_blocks', 'checked_blocks', 'undelivered_blocks', 'hit_tokens_after_return',
                     'daemon_returns', 'late_calls', 'stored_blocks'):
            self.sums[name] = self.sums.get(name, 0) + figures[name]

    def finish(self):
        for tenant in list(self.running):
            self.collect(tenant)
        return self.sums


class RandomKills(unittest.TestCase):
    def test_a_daemon_killed_at_random_instants_never_serves_a_wrong_block(self):
        random_of = random.Random(SEED)
        kills = node.scaled(KILLS, least=20)
        restarts, warm = [], []
        with node.Node(cpu_mib=4, nvme_mib=32, tenants=TENANTS, warm=('warm',)) as cache:
            replays = Replays(self, cache, requests=200)
            cache.start()
            for _ in range(kills):
                replays.keep_running()
                if random_of.random() < 0.75:
                    seconds = cache.wait_ready()
                    restarts.append(seconds)
                    restored = cache.counters()
                    warm.append(restored['restored_cpu'] + restored['restored_nvme'])
                self.assertFalse(cache.wait_death(random_of.uniform(0.0, KILL_AFTER_SECONDS)), 'nobody killed it')
                cache.kill()
                cache.spawn()
            restarts.append(cache.wait_ready())
            sums = replays.finish()
            cache.wait_restored()
            node.assert_settled(self, cache.wait_quiet())
        self.assertGreater(sums['checked_blocks'], 0)
        self.assertGreater(sums['daemon_returns'], 0)
        self.assertGreater(sums['hit_tokens_after_return'], 0, 'nothing was warm after a restart')
        figures = {'kills': kills, 'seed': SEED, 'wrong_blocks': 0, 'refused_starts': 0, 'replays': sums,
                   'restart_seconds': node.quantiles(restarts), 'restored_blocks': node.quantiles(warm)}
        node.figures_write('kills.json', figures)
        print(f'\n{kills} kills: {figures}', flush=True)


# ---- one kill at each failpoint ----

# How each point is reached. Here stands every one that a replay which overflows both tiers does not pass by.
#   forget: a FORGET is sent      restart: passed at the start of a daemon that finds blocks
#   fresh:  passed while the first extents are given away      worker: only the catalogue worker dies, kvtierd serves on
#   opening: the same, in every life of the worker; kvtierd serves without a catalogue after a bounded wait
#   register: an engine says hello (a replay would wait for the daemon that its own hello has killed)
SCENARIOS = {
    'forget_floor_raised': 'forget', 'journal_appended': 'forget', 'journal_synced': 'forget',
    'restore_slot': 'restart', 'restore_done': 'restart',
    'extent_assigned': 'fresh', 'extent_table_written': 'fresh',
    'register_answered': 'register',
    'catalog_opened': 'opening', 'catalog_batch_written': 'worker',
}
DEATH_SECONDS = 30
PATIENCE_SECONDS = 5   # of what happens a little after the last request
WORKER_DEATHS = 'kvtier_worker_restarts_total{worker="catalog"}'


class FailpointKills(unittest.TestCase):
    """Each point: blocks are stored, the daemon dies there, starts again, and serves what it has, all of it right."""

    def setUp(self):
        self.cache = node.Node(cpu_mib=2, nvme_mib=8, warm=('default',))
        self.addCleanup(self.cache.__exit__)
        self.trace = node.trace_make(self.cache.folder, 60, users=8)

    def replay(self, **options):
        return node.Replay(self.cache, self.trace, **{'connect-ms': 30000, 'deadline-ms': 2000, **options})

    def fill(self, requests=20):
        """A life without failpoints that leaves blocks in both tiers."""
        self.cache.start()
        self.assertFalse(failed(self.replay(limit=requests).finish(REPLAY_SECONDS)))
        self.cache.wait_quiet()

    def forget(self):
        try:
            with self.cache.engine(model='another') as engine:
                engine.forget()
        except (frames.Closed, OSError):
            pass

    def dies_at(self, point, nth):
        """Whether the daemon (or its worker) was killed at the nth pass of `point`."""
        scenario = SCENARIOS.get(point, 'replay')
        replay = None
        if scenario != 'fresh':
            if point.startswith('up_'):   # so few that all of it is in nvme; nothing is in memory
                self.fill(requests=6)
                self.cache.stop()
                os.unlink(self.cache.arena_file())
            else:
                self.fill()
                self.cache.kill()
        self.cache.spawn(f'{point}:{nth}=kill')
        if point.startswith('up_'):
            self.cache.wait_ready()   # sooner, all would be a miss and be stored again
        if scenario in ('forget', 'register'):
            self.cache.wait_ready()
            for _ in range(nth):
                if self.cache.is_alive():
                    self.forget()
        elif scenario not in ('restart', 'opening'):
            replay = self.replay()
        if scenario in ('worker', 'opening'):
            is_hit = bool(node.until(lambda: self.cache.metric(WORKER_DEATHS) >= 1, DEATH_SECONDS,
                                     'the worker dies'))
            self.assertTrue(self.cache.is_alive())
            if scenario == 'opening' and node.SCALE >= 1:
                self.cache.wait_ready()
        else:
            node.until(lambda: not self.cache.is_alive() or (replay is not None and not replay.is_running()),
                       DEATH_SECONDS, f'{point} is reached')
            is_hit = self.cache.wait_death(PATIENCE_SECONDS)
            if is_hit and replay is not None:
                self.cache.spawn()   # the replay that was under way goes on with the next life
        if replay is not None:
            self.assertFalse(failed(replay.finish(REPLAY_SECONDS)), point)
        self.cache.kill()
        return is_hit

    def proves_itself(self, point):
        """After the death: it starts, serves, and all it serves is right."""
        seconds = self.cache.start()
        self.cache.wait_restored()
        figures = self.replay().finish(REPLAY_SECONDS)
        self.assertFalse(failed(figures), f'{point}: {figures}')
        self.assertEqual(figures['failed_lookups'], 0, point)
        self.assertGreater(figures['hit_blocks'], 0, point)
        node.assert_settled(self, self.cache.wait_quiet())
        self.cache.stop()
        return seconds

    def check_point(self, point, nth):
        is_hit = self.dies_at(point, nth)
        seconds = self.proves_itself(point)
        return is_hit, seconds


def failpoint_test(point):
    def test(self):
        is_hit, _ = self.check_point(point, 1)
        self.assertTrue(is_hit, f'{point} was not reached')
        if node.SCALE >= 1 and SCENARIOS.get(point, 'replay') == 'replay':
            nth = random.Random(f'{SEED} {point}').randint(2, 30)
            self.cache.__exit__()
            self.setUp()
            self.check_point(point, nth)
    return test


for name in node.failpoints():
    setattr(FailpointKills, f'test_a_daemon_killed_at_{name}_starts_again_and_serves_nothing_wrong',
            failpoint_test(name))


class Build(unittest.TestCase):
    def test_this_build_has_failpoints(self):
        self.assertGreater(len(node.failpoints()), 20, os.strerror(errno.ENOENT))


if __name__ == '__main__':
    unittest.main()
