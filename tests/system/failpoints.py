"""How each failpoint of the daemon is reached, and what must hold afterwards, for test_kills.py and test_failpoints.py."""
import os
import unittest

import frames
import node

REPLAY_SECONDS = 120


def failed(figures):
    return figures['wrong_blocks'] or figures['stuck_jobs']


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
# A name that begins so is passed only where memory of a device is lent: test_pull_failpoints.py.
PULL = ('lend_', 'pull_', 'gpu_')
# And so, only where nodes fetch from each other: test_peers_failpoints.py.
PEERS = ('fetch_', 'grant_', 'peer_')
DEATH_SECONDS = 30
PATIENCE_SECONDS = 5   # of what happens a little after the last request
KILLED_WORKER = b'killed by signal 9'
WORKER_DEATHS = 'kvtier_worker_restarts_total{worker="catalog"}'


def points(of=None):
    return [point for point in node.failpoints()
            if (point.startswith(of) if of else not point.startswith(PULL + PEERS))]


def armed(point, nth, action):
    """For KVTIER_FAILPOINT. The first record of a life in its journal is its own, at the start: the epochs it may use."""
    return f"{point}:{nth + point.startswith('journal_')}={action}"


def state_of(pid):
    """(letter of the state, parent) of a process; None when it has gone."""
    try:
        with open(f'/proc/{pid}/stat', encoding='ascii', errors='replace') as file:
            words = file.read().rpartition(')')[2].split()
        return words[0], int(words[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def stopped(cache):
    """The process that has stopped: the daemon or a child of it; None: none has."""
    daemon = cache.process.pid
    for pid in [daemon] + [int(name) for name in os.listdir('/proc') if name.isdigit()]:
        state = state_of(pid)
        if state and state[0] == 'T' and daemon in (pid, state[1]):
            return pid
    return None


class Case(unittest.TestCase):
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

    def begin(self, point, nth, action):
        """A daemon that is armed and on its way to the point; the replay that runs, if there is one."""
        scenario = SCENARIOS.get(point, 'replay')
        if scenario != 'fresh':
            if point.startswith('up_'):   # so few that all of it is in nvme; nothing is in memory
                self.fill(requests=6)
                self.cache.stop()
                os.unlink(self.cache.arena_file())
            else:
                self.fill()
                self.cache.kill()
        self.cache.spawn(armed(point, nth, action))
        if point.startswith('up_'):
            self.cache.wait_ready()   # sooner, all would be a miss and be stored again
        if scenario in ('forget', 'register'):
            self.cache.wait_ready()
            for _ in range(nth):
                if self.cache.is_alive():
                    self.forget()
        elif scenario not in ('restart', 'opening'):
            return self.replay()
        return None

    def wait_worker_death(self):
        node.until(lambda: self.cache.metric(WORKER_DEATHS) >= 1, DEATH_SECONDS, 'the worker dies')

    def worker_was_killed(self):
        """True, or a failure: it died by SIGKILL, and was seen to."""
        self.wait_worker_death()
        node.until(lambda: KILLED_WORKER in self.cache.log_bytes(), DEATH_SECONDS, 'the log says by what')
        return True

    def dies_at(self, point, nth):
        """Whether the daemon (or its worker) was killed at the nth pass of `point`."""
        scenario = SCENARIOS.get(point, 'replay')
        replay = self.begin(point, nth, 'kill')
        if scenario in ('worker', 'opening'):
            is_hit = self.worker_was_killed()
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


class Covered:
    """Which failpoints were passed so that something happened; written to build/tests/ at the end."""

    def __init__(self, action, of=None):
        self.action = action
        self.of = of
        self.reached = set()

    def report(self):
        """Prints and writes what was reached of what there is; called when the last was tried."""
        names = points(self.of)
        word = {None: '', PULL: 'pull', PEERS: 'peers'}[self.of]
        print(f"failpoints{' of ' if word else ''}{word} x {self.action}: {len(self.reached)} / {len(names)}", flush=True)
        node.figures_write(f"{word}{'-' if word else ''}failpoints-{self.action}.json", {
            'covered': len(self.reached), 'total': len(names), 'missing': sorted(set(names) - self.reached)})
