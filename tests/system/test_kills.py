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
import failpoints   # noqa: E402
import node     # noqa: E402

KILLS = 200
SEED = int(os.environ.get('KVTIER_TEST_SEED', '20'))
REPLAY_SECONDS = 120
TENANTS = ('cold', 'warm')
# A kill comes so long after the start, at most: two of three of them find a daemon that serves.
KILL_AFTER_SECONDS = 0.5


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
                node.counted['kills'] += 1
                cache.spawn()
            restarts.append(cache.wait_ready())
            sums = replays.finish()
            cache.wait_restored()
            node.assert_settled(self, cache.wait_quiet())
        self.assertGreater(sums['checked_blocks'], 0)
        # Whether a replay met a restart is a matter of the machine's speed; test_replay.py has one that does.
        self.assertGreater(sum(warm), 0, 'nothing was warm after a restart')
        figures = {'kills': kills, 'seed': SEED, 'replays': sums,
                   'restart_seconds': node.quantiles(restarts), 'restored_blocks': node.quantiles(warm)}
        node.figures_write('kills.json', figures)
        print(f'\n{kills} kills: {figures}', flush=True)


# ---- one kill at each failpoint ----

killed = failpoints.Covered('kill')


class FailpointKills(failpoints.Case):
    """Each point: blocks are stored, the daemon dies there, starts again, and serves what it has, all of it right."""

    @classmethod
    def tearDownClass(cls):   # not the module's: RandomKills alone reach none
        killed.report()


def failpoint_test(point):
    def test(self):
        is_hit, _ = self.check_point(point, 1)
        self.assertTrue(is_hit, f'{point} was not reached: give it a scenario in tests/system/failpoints.py')
        killed.reached.add(point)
        if node.SCALE >= 1 and failpoints.SCENARIOS.get(point, 'replay') == 'replay':
            nth = random.Random(f'{SEED} {point}').randint(2, 30)
            self.cache.__exit__()
            self.setUp()
            self.check_point(point, nth)
    return test


for name in failpoints.points():
    setattr(FailpointKills, f'test_a_daemon_killed_at_{name}_starts_again_and_serves_nothing_wrong',
            failpoint_test(name))


class Build(unittest.TestCase):
    def test_this_build_has_failpoints(self):
        self.assertGreater(len(node.failpoints()), 20, os.strerror(errno.ENOENT))


if __name__ == '__main__':
    unittest.main()
