"""An old kernel, or a container that hides what a new one has: the daemon does without, or says what it needs.

The kernel is played by seccomp filters (launch.py), which answer as one does that does not know a call or a flag.
"""
import os
import re
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import faulty       # noqa: E402
import node         # noqa: E402

WAIT_SECONDS = 30
WORKER_DEATHS = 'kvtier_worker_restarts_total{worker="catalog"}'
# Each of them unknown by itself; the daemon starts without.
DISPENSABLE = ('io_uring_setup', 'pidfd_open', 'close_range', 'openat2', 'clone3', 'faccessat2', 'statx', 'renameat2',
               'landlock_create_ruleset')


class Case(unittest.TestCase):
    def node(self, *what, warm=('default',)):
        cache = node.Node(cpu_mib=4, nvme_mib=16, warm=warm)
        self.addCleanup(cache.__exit__)
        cache.wrapper = faulty.without(*what)
        return cache

    def serves(self, cache):
        """Stores, and loads from nvme after a restart."""
        hashes = [node.hash_of(cache.folder, i) for i in range(20)]
        payloads = [node.payload_of(name, 4096) for name in hashes]
        cache.start()
        with cache.engine() as engine:
            self.assertEqual(set(engine.store(hashes, payloads)) - {0, 1}, set())
            self.assertEqual(engine.load(hashes), payloads)
        cache.wait_quiet()
        cache.stop()
        os.unlink(cache.arena_file())
        cache.start()
        cache.wait_restored()
        with cache.engine() as engine:
            self.assertEqual(engine.load(hashes), payloads)

    def worker_pid(self, cache):
        for name in filter(str.isdigit, os.listdir('/proc')):
            try:
                with open(f'/proc/{name}/stat', encoding='ascii', errors='replace') as file:
                    if int(file.read().rpartition(')')[2].split()[1]) == cache.process.pid:
                        return int(name)
            except (FileNotFoundError, ProcessLookupError):
                pass
        raise AssertionError('no worker')


class OldKernel(Case):
    def test_on_linux_5_0_it_serves_by_psync_and_says_so(self):
        cache = self.node('linux-5.0')
        self.serves(cache)
        self.assertIn('psync', cache.stats()['nvme'][0]['io'])
        slower = [line for line in cache.log_bytes().decode().splitlines() if 'event=nvme_slower ' in line]
        self.assertEqual(len(slower), 1, cache.log())
        self.assertRegex(slower[0], 'io_uring')

    def test_on_linux_5_0_the_death_of_the_worker_is_seen_and_it_is_replaced(self):
        cache = self.node('linux-5.0')
        cache.start()
        os.kill(self.worker_pid(cache), signal.SIGKILL)
        node.until(lambda: cache.metric(WORKER_DEATHS) >= 1, WAIT_SECONDS, 'its death is seen')
        node.until(lambda: cache.stats()['catalog'] == 'ok', WAIT_SECONDS, 'there is a new one')

    def test_without_memfd_create_the_start_is_refused_and_says_what_is_missing(self):
        cache = self.node('enosys:memfd_create', warm=())
        cache.spawn()
        status = cache.process.wait(WAIT_SECONDS)
        node.running.discard(cache.process)
        cache.process = None
        self.assertEqual(status, 1, cache.log())
        self.assertRegex(cache.log(), r'event=start_failed reason="[^"]*memfd_create[^"]*Linux 3\.17')

    def test_doctor_runs_on_linux_5_0(self):
        done = subprocess.run([*faulty.without('linux-5.0'), node.program('kvtier'), 'doctor'], capture_output=True,
                              text=True, timeout=WAIT_SECONDS)
        self.assertRegex(done.stdout, re.compile(r'^.*io_uring.*$', re.M))


def dispensable_test(call):
    return lambda self: self.serves(self.node(f'enosys:{call}'))


for name in DISPENSABLE:
    setattr(OldKernel, f'test_without_{name}_it_serves', dispensable_test(name))


if __name__ == '__main__':
    unittest.main()
