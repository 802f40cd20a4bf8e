"""What kvtierd and its worker took from themselves after the start: calls made inside them, from outside, are refused."""
import errno
import glob
import os
import platform
import re
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import inject   # noqa: E402
import node     # noqa: E402

AF_UNIX, AF_INET, SOCK_STREAM = 1, 2, 1
O_RDONLY, AT_FDCWD = 0, -100
REFUSED = {-errno.EPERM, -errno.EACCES}
NOBODY = (1 << 22) + 1   # above pid_max: refused by the filter, or not there
SECCOMP_FILTER = '2'


def status_of(pid):
    with open(f'/proc/{pid}/status', encoding='ascii') as file:
        return dict(re.findall(r'^(\w+):\s+(.*)$', file.read(), re.M))


def landlock_version():
    if platform.machine() not in ('x86_64', 'aarch64'):
        return 0
    return max(0, inject.libc.syscall(444, None, 0, 1))


def built_with():
    output = subprocess.run([node.program('kvtierd'), '--version'], capture_output=True, text=True, check=True).stdout
    return re.search(r'^sandbox: (.*)$', output, re.M).group(1)


def skip_unless_whole():
    if not built_with().startswith('seccomp built in'):
        raise unittest.SkipTest(f'no whole sandbox in this build: {built_with()}')
    if landlock_version() == 0:
        raise unittest.SkipTest('this kernel has no Landlock')


class Case(unittest.TestCase):
    def start(self, **settings):
        cache = node.Node(cpu_mib=4, nvme_mib=16, **settings)
        self.addCleanup(cache.__exit__)
        cache.start()
        return cache

    def worker(self, cache):
        """The worker that runs now."""
        def found():
            for path in glob.glob('/proc/[0-9]*/cmdline'):
                try:
                    with open(path, 'rb') as file:
                        words = file.read().split(b'\0')
                except OSError:
                    continue
                if b'--worker' in words and any(word.startswith(cache.state.encode()) for word in words):
                    return int(path.split('/')[2])
            return None
        return node.until(found, 10, 'the worker runs')

    def serves(self, cache, name='sandbox'):
        hashes = [node.hash_of(name, i) for i in range(16)]
        payloads = [node.payload_of(h, 4096) for h in hashes]
        with cache.engine(name) as engine:
            self.assertEqual(set(engine.store(hashes, payloads)), {0})
            self.assertEqual(engine.load(hashes, engine.lookup(hashes, 1000000).lease), payloads)
        cache.wait_quiet()


class Confined(Case):
    def setUp(self):
        skip_unless_whole()

    def test_daemon_and_worker_have_no_privileges_and_a_filter(self):
        cache = self.start(sandbox='enforce')
        cache.wait_restored()
        for pid in (cache.process.pid, self.worker(cache)):
            for thread in os.listdir(f'/proc/{pid}/task'):
                status = status_of(f'{pid}/task/{thread}')
                where = f"{status['Name']} {thread}"
                self.assertEqual(status['NoNewPrivs'], '1', where)
                self.assertEqual(status['Seccomp'], SECCOMP_FILTER, where)
                for name in ('CapInh', 'CapPrm', 'CapEff', 'CapAmb'):
                    self.assertEqual(int(status[name], 16), 0, f'{where} {name}')
                if os.geteuid() == 0:
                    self.assertEqual(int(status['CapBnd'], 16), 0, where)
        self.assertEqual(cache.stats()['sandbox'],
                         {'mode': 'enforce', 'no_new_privileges': True, 'no_capabilities': True, 'seccomp': True,
                          'landlock': landlock_version(), 'missing': ''})

    def test_the_helpers_that_were_there_before_are_confined(self):
        cache = self.start(sandbox='enforce', io='psync')
        threads = os.listdir(f'/proc/{cache.process.pid}/task')
        self.assertGreater(len(threads), 5)
        for thread in threads:
            status = status_of(f'{cache.process.pid}/task/{thread}')
            self.assertEqual((status['NoNewPrivs'], status['Seccomp'], int(status['CapEff'], 16)),
                             ('1', SECCOMP_FILTER, 0))

    def test_it_serves_by_io_uring_and_by_psync(self):
        for io in ('auto', 'psync'):
            with self.subTest(io=io):
                cache = self.start(sandbox='enforce', io=io)
                self.serves(cache)
                stats = cache.wait_quiet()
                self.assertGreater(stats['nvme'][0]['writes'], 0)
                self.assertEqual(stats['nvme'][0]['write_errors'], 0)
                cache.stop()

    def test_a_worker_that_is_killed_comes_back_in_its_sandbox(self):
        cache = self.start(sandbox='enforce')
        cache.wait_restored()
        first = self.worker(cache)
        os.kill(first, signal.SIGKILL)
        second = node.until(lambda: (pid := self.worker(cache)) != first and pid, 20, 'another worker')
        node.until(lambda: cache.stats()['catalog'] == 'ok', 20, 'the catalogue is there')
        self.assertEqual(status_of(second)['Seccomp'], SECCOMP_FILTER)
        self.serves(cache)

    def test_the_state_outlives_a_restart(self):
        cache = self.start(sandbox='enforce')
        self.serves(cache)
        cache.stop()
        cache.start()
        cache.wait_restored()
        self.assertGreaterEqual(cache.counters()['restored_nvme'], 16)

    def test_off_takes_nothing(self):
        cache = self.start(sandbox='off')
        status = status_of(cache.process.pid)
        self.assertEqual((status['NoNewPrivs'], status['Seccomp']), ('0', '0'))
        self.assertEqual(cache.stats()['sandbox']['landlock'], 0)
        self.serves(cache)


LAUNCH = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'launch.py')


class OldKernel(Case):
    """A kernel without Landlock, by a filter that says so."""

    def run_daemon(self, mode, until_line):
        cache = node.Node(cpu_mib=4, nvme_mib=16, sandbox=mode)
        self.addCleanup(cache.__exit__)
        process = subprocess.Popen([sys.executable, LAUNCH, 'landlock_create_ruleset', '--',
                                    node.program('kvtierd'), '--config', cache.config], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        lines = []
        for line in process.stderr:
            lines.append(line)
            if until_line in line:
                break
        process.terminate()
        process.stderr.close()
        return process.wait(node.STOP_SECONDS), ''.join(lines)

    def setUp(self):
        skip_unless_whole()

    def test_enforce_refuses_to_start_and_says_what_is_missing(self):
        status, log = self.run_daemon('enforce', 'event=start_failed')
        self.assertEqual(status, 1, log)
        self.assertIn('sandbox: enforce, but not to be had: Landlock', log)
        self.assertIn('set sandbox: auto', log)

    def test_auto_goes_on_with_the_rest_and_says_what_is_missing(self):
        status, log = self.run_daemon('auto', 'event=ready')
        self.assertEqual(status, 0, log)
        self.assertRegex(log, 'level=warning event=sandbox .* seccomp=1 landlock=0 missing="Landlock')


class Forbidden(Case):
    """A thread that was taken over: none of it works in the sandbox, all of it without."""

    def setUp(self):
        if inject.cannot():
            self.skipTest(inject.cannot())

    @staticmethod
    def calls(cache):
        path = os.path.join(cache.outside, 'secret').encode()
        return {'open /etc/passwd': ('open', b'/etc/passwd', O_RDONLY),
                'open a file of the operator': ('open', path, O_RDONLY),
                'make a folder beside it': ('mkdir', path + b'.folder', 0o700),
                'socket AF_INET': ('socket', AF_INET, SOCK_STREAM, 0),
                'io_uring_setup': ('io_uring_setup', 1, bytes(128)),
                'ptrace': ('ptrace', inject.PTRACE_SEIZE, NOBODY, 0, 0),
                'mount': ('mount', b'none', b'/mnt', b'tmpfs', 0xffffffff, 0),
                'unshare': ('unshare', 0)}

    def check(self, pid, cache):
        with inject.Stopped(pid) as thread:
            self.assertEqual(thread.call('getpid'), pid)
            for what, call in self.calls(cache).items():
                self.assertIn(thread.call(*call), REFUSED, what)
            # Last: where it works there is no thread to come back to.
            self.assertIn(thread.call('execve', b'/bin/sh', 0, 0), REFUSED)

    def start(self, **settings):
        cache = super().start(**settings)
        cache.outside = cache.folder + '.outside'
        os.mkdir(cache.outside, 0o755)
        with open(os.path.join(cache.outside, 'secret'), 'w', encoding='ascii') as file:
            file.write('of the operator')
        self.addCleanup(subprocess.run, ['rm', '-rf', cache.outside], check=False)
        # The file of the nvme tier lies elsewhere: its folder is the daemon's, whatever is in it.
        return cache

    def test_the_loop_thread_can_do_none_of_it(self):
        skip_unless_whole()
        cache = self.start(sandbox='enforce')
        # node.py keeps everything in /tmp/n...: that folder is granted, what is beside it is not.
        self.check(cache.process.pid, cache)
        self.serves(cache)

    def test_the_worker_can_do_none_of_it_nor_harm_the_daemon(self):
        skip_unless_whole()
        cache = self.start(sandbox='enforce')
        cache.wait_restored()
        worker = self.worker(cache)
        self.check(worker, cache)
        with inject.Stopped(worker) as thread:
            self.assertIn(thread.call('open', os.path.join(cache.state, 'journal').encode(), O_RDONLY), REFUSED)
            self.assertIn(thread.call('unlink', os.path.join(cache.state, 'journal').encode()), REFUSED)
            self.assertIn(thread.call('kill', cache.process.pid, signal.SIGTERM), REFUSED)
            self.assertIn(thread.call('socket', AF_UNIX, SOCK_STREAM, 0), REFUSED)
            # Not even our own binary.
            self.assertIn(thread.call('execve', node.program('kvtierd').encode(), 0, 0), REFUSED)
        self.serves(cache)

    def test_without_the_sandbox_the_same_calls_work(self):
        cache = self.start(sandbox='off')
        calls = self.calls(cache)
        with inject.Stopped(cache.process.pid) as thread:
            for what in ('open /etc/passwd', 'open a file of the operator', 'make a folder beside it',
                         'socket AF_INET'):
                self.assertGreaterEqual(thread.call(*calls[what]), 0, what)
            self.assertEqual(thread.call(*calls['ptrace']), -errno.ESRCH)
            self.assertEqual(thread.call('execve', b'/bin/sh.there.is.none', 0, 0), -errno.ENOENT)


class Cores(Case):
    def tier_mappings(self, cache):
        """[(name, flags)] of the daemon's arenas and windows."""
        with open(f'/proc/{cache.process.pid}/smaps', encoding='ascii') as file:
            found = re.findall(r'^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ +(\S*(?:memfd:kvtier-|' + re.escape(cache.shm) +
                               r')\S*).*?^VmFlags: ([^\n]*)$', file.read(), re.M | re.S)
        return [(name, flags.split()) for name, flags in found if 'catalog' not in name]

    def test_no_core_is_written_and_kv_memory_is_in_none(self):
        for wanted in (False, True):
            with self.subTest(core_dumps=wanted):
                cache = self.start(core_dumps=str(wanted).lower(), tenants=('default', 'warm'), warm=('warm',))
                with cache.engine():
                    mappings = self.tier_mappings(cache)
                    self.assertGreaterEqual(len(mappings), 3, mappings)
                    for name, flags in mappings:
                        self.assertIn('dd', flags, f'{name} would be in a core')
                for pid in (cache.process.pid, self.worker(cache)):
                    with open(f'/proc/{pid}/limits', encoding='ascii') as file:
                        soft, hard = re.search(r'^Max core file size +(\S+) +(\S+)', file.read(), re.M).groups()
                    self.assertEqual((soft, hard), (hard, hard) if wanted else ('0', '0'))
                if os.geteuid() != 0 or wanted:
                    continue
                # What /proc says to another user: a process that cannot be dumped belongs to root.
                self.assertEqual(os.stat(f'/proc/{cache.process.pid}/environ').st_uid, 0)


class Peers(Case):
    def test_who_is_connected_is_logged_once_and_in_the_status(self):
        cache = self.start(log_level='debug')
        with cache.engine('one'):
            engines = cache.stats()['engines']
            self.assertEqual([engine['peers'] for engine in engines],
                             [[{'pid': os.getpid(), 'uid': os.getuid(), 'gid': os.getgid(), 'shard': 0}]])
        cache.stop()
        lines = re.findall(r'event=client_accepted session=\d+ tenant=default pid=(\d+) uid=(\d+) gid=(\d+)',
                           cache.log_bytes().decode())
        self.assertEqual(len(lines), 2, 'a control and a data connection')
        self.assertEqual(set(lines), {(str(os.getpid()), str(os.getuid()), str(os.getgid()))})


if __name__ == '__main__':
    unittest.main()
