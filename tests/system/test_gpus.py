"""A real kvtierd opens its GPUs, by a driver of the tests' own: pinned, killed and pinned again, off, or not there."""
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import inject         # noqa: E402
import node           # noqa: E402
import test_sandbox   # noqa: E402

LIBRARY = os.path.join(node.BUILD, 'tests/gpu/fake_driver.so')
GPU = 'cuda:0000:17:00.0'
CONTROL_BYTES = 1 << 20   # more than its page takes
ARENA_HEAD = 2 << 20
O_RDONLY = 0
F_SEAL_FUTURE_WRITE = 0x10
LIVES_MAX = 5
SPEED_UNKNOWN = 10 ** 10   # bytes a second, where nothing was measured


def skip_unless_there():
    if not os.path.exists(LIBRARY):
        raise unittest.SkipTest(f'{LIBRARY} is not built')


def machine_make(cache):
    """The GPUs of the node's machine lie where its GPUs' processes may write."""
    machine = cache.environment['KVTIER_FAKE_GPU'] = os.path.join(cache.state, 'gpu')
    os.mkdir(machine, 0o700)
    with open(os.path.join(machine, 'control'), 'wb') as file:
        file.truncate(CONTROL_BYTES)


class Case(unittest.TestCase):
    def setUp(self):
        skip_unless_there()

    def node(self, library=LIBRARY, **settings):
        """A node whose machine has two GPUs, of which it uses one."""
        cache = node.Node(cpu_mib=4, nvme_mib=16, **{'gpus': GPU, 'gpu_library': library, **settings})
        self.addCleanup(cache.__exit__)
        machine_make(cache)
        return cache

    def gpu(self, cache):
        gpus = cache.stats()['gpus']
        self.assertEqual(len(gpus), 1, gpus)
        return gpus[0]

    def ready(self, cache):
        return node.until(lambda: (gpu := self.gpu(cache))['state'] == 'ready' and gpu, 20, 'the GPU is ready')

    def logged(self, cache, words):
        """The log is written by a thread of its own, later than the status says it."""
        node.until(lambda: words in cache.log(), 10, f'{words} is in the log')

    def failed(self, cache):
        """Why it cannot be opened."""
        return node.until(lambda: self.gpu(cache)['reason'], 20, 'there is a reason')


class Gpus(Case):
    def test_every_arena_is_pinned_wholly_before_engines_come(self):
        cache = self.node(tenants=('one', 'two'))
        cache.start()
        gpu = self.ready(cache)
        self.assertEqual((gpu['vendor'], gpu['bus_id']), ('cuda', '0000:17:00.0'))
        self.assertEqual(gpu['pinned_bytes'], 2 * (ARENA_HEAD + (4 << 20)))
        self.assertEqual(gpu['pinned_bytes'], gpu['arena_bytes'])
        self.assertNotEqual(gpu['name'], '')
        self.logged(cache, 'event=gpu_open')
        self.assertEqual(cache.metric(f'kvtier_gpu_state{{gpu="{GPU}",state="ready"}}'), 1)
        self.assertEqual(cache.metric(f'kvtier_gpu_pinned_bytes{{gpu="{GPU}"}}'), gpu['pinned_bytes'])
        cache.stop()

    def test_a_process_that_is_killed_is_started_and_pinned_again(self):
        cache = self.node()
        cache.start()
        first = self.ready(cache)
        os.kill(first['pid'], signal.SIGKILL)
        second = node.until(lambda: (gpu := self.gpu(cache))['state'] == 'ready' and gpu['pid'] != first['pid'] and gpu,
                            20, 'it is open again')
        self.assertEqual((second['pinned_bytes'], second['restarts']), (first['pinned_bytes'], 1))
        self.logged(cache, 'killed by signal 9')

    def test_a_kvtierd_that_is_killed_takes_the_process_along(self):
        cache = self.node()
        cache.start()
        pid = self.ready(cache)['pid']
        cache.kill()
        node.until(lambda: not os.path.exists(f'/proc/{pid}'), 10, "the GPU's process has ended")
        cache.start()
        self.ready(cache)

    def test_what_copies_cost_is_measured_once_and_kept(self):
        cache = self.node()
        costs = os.path.join(cache.state, 'gpu', 'costs-' + GPU.replace(':', '-', 1))

        def life():
            cache.start()
            loads = self.ready(cache)['copies']['load']
            cache.stop()
            return loads['bytes_per_second']

        def lives_until(is_kept):   # on a machine so busy that time runs out, the next life measures again
            for _ in range(LIVES_MAX):
                life()
                if is_kept():
                    return
            self.skipTest(f'this machine is too busy: in {LIVES_MAX} lives no measurement came to its end')

        lives_until(lambda: os.path.exists(costs))
        kept = os.stat(costs)
        self.assertEqual(kept.st_mode & 0o777, 0o600)
        self.assertNotEqual(life(), SPEED_UNKNOWN, 'lookups start from what was measured')
        self.assertEqual((os.stat(costs).st_ino, os.stat(costs).st_mtime_ns), (kept.st_ino, kept.st_mtime_ns))
        os.truncate(costs, kept.st_size // 2)
        lives_until(lambda: os.stat(costs).st_ino != kept.st_ino)
        self.logged(cache, 'copies are measured anew')

    def test_off_has_none(self):
        cache = self.node(gpus='off')
        cache.start()
        self.assertEqual(cache.stats()['gpus'], [])
        self.assertNotIn(GPU, cache.http('/metrics')[1])

    def test_a_library_that_is_not_there_is_named_and_costs_nothing_else(self):
        cache = self.node(library='/nowhere/libcuda.so')
        cache.start()
        self.assertIn('/nowhere/libcuda.so', self.failed(cache))
        self.logged(cache, '/nowhere/libcuda.so')
        with cache.engine('engine') as engine:
            hashes = [node.hash_of('gpus', i) for i in range(4)]
            self.assertEqual(set(engine.store(hashes, [node.payload_of(h, 4096) for h in hashes])), {0})
        cache.stop()

    def test_a_gpu_that_is_not_there_is_named(self):
        cache = self.node(gpus='cuda:0000:99:00.0')
        cache.start()
        self.assertIn('no GPU at PCI bus id 0000:99:00.0', self.failed(cache))

    def test_a_list_that_names_one_twice_or_wrongly_is_refused(self):
        for wrong in ('cuda', 'cuda:17', 'nvidia:0000:17:00.0', f'{GPU},', f'{GPU}, cuda:00000000:17:00.0', 'of'):
            done = subprocess.run([node.program('kvtierd'), '--check-config', '--set', f'gpus={wrong}'],
                                  capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 78, wrong)
            self.assertIn('neither auto nor off nor GPUs', done.stderr)


class Confined(Case):
    def setUp(self):
        super().setUp()
        test_sandbox.skip_unless_whole()

    def folder(self):
        folder = tempfile.TemporaryDirectory(prefix='kvtier-driver-')
        self.addCleanup(folder.cleanup)
        return folder.name

    def test_the_driver_is_opened_with_the_sandbox_on(self):
        library = shutil.copy(LIBRARY, self.folder())
        cache = self.node(library, sandbox='enforce')
        cache.start()
        status = test_sandbox.status_of(self.ready(cache)['pid'])
        self.assertEqual((status['NoNewPrivs'], status['Seccomp'], int(status['CapEff'], 16)),
                         ('1', test_sandbox.SECCOMP_FILTER, 0))

    def test_a_driver_in_a_folder_that_was_not_granted_is_out_of_reach(self):
        library = os.path.join(self.folder(), 'driver.so')
        os.symlink(shutil.copy(LIBRARY, self.folder()), library)
        cache = self.node(library, sandbox='enforce')
        cache.start()
        self.assertIn('Permission denied', self.failed(cache))
        cache.kill()
        cache.settings['sandbox'] = 'off'
        cache.configure()
        cache.start()
        self.ready(cache)

    def test_the_process_can_do_none_of_this_nor_harm_the_daemon(self):
        cache = self.node(sandbox='enforce')
        cache.start()
        pid, journal = self.ready(cache)['pid'], os.path.join(cache.state, 'journal').encode()
        with inject.Stopped(pid) as thread:
            self.assertEqual(thread.call('getpid'), pid)
            for what in (('open', journal, O_RDONLY), ('unlink', journal), ('open', b'/etc/passwd', O_RDONLY),
                         ('open', f'/proc/{cache.process.pid}/cmdline'.encode(), O_RDONLY),
                         ('kill', cache.process.pid, signal.SIGTERM),
                         ('socket', socket.AF_INET, socket.SOCK_STREAM, 0),
                         ('ptrace', inject.PTRACE_SEIZE, test_sandbox.NOBODY, 0, 0),
                         ('execve', node.program('kvtierd').encode(), 0, 0)):
                self.assertIn(thread.call(*what), test_sandbox.REFUSED, what)
            for path in (b'/proc/self/maps', b'/sys/bus/pci/devices', b'/usr/lib/x86_64-linux-gnu'):
                if os.path.exists(path):
                    self.assertGreaterEqual(thread.call('open', path, O_RDONLY), 0, path)
        self.ready(cache)

    def test_arenas_are_in_no_core_of_the_process(self):
        cache = self.node()
        cache.start()
        with open(f"/proc/{self.ready(cache)['pid']}/smaps", encoding='ascii') as file:
            flags = re.findall(r'memfd:kvtier-arena.*?^VmFlags: ([^\n]*)$', file.read(), re.M | re.S)
        self.assertEqual(['dd' in words.split() for words in flags], [True] * len(flags))
        self.assertGreater(len(flags), 0)

    def test_an_arena_that_no_gpu_maps_keeps_its_last_seal(self):
        for gpus, is_sealed in (('off', True), (GPU, False)):
            cache = self.node(gpus=gpus)
            cache.start()
            with cache.engine('engine') as engine:
                seals = fcntl.fcntl(engine.data.fds[0], fcntl.F_GET_SEALS)
                self.assertEqual(bool(seals & F_SEAL_FUTURE_WRITE), is_sealed, gpus)
                self.assertNotEqual(seals & fcntl.F_SEAL_SHRINK, 0)
                self.assertEqual(os.fstat(engine.data.fds[0]).st_mode & 0o077, 0)


if __name__ == '__main__':
    unittest.main()
