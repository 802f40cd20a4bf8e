"""A real kvtierd in a folder of its own, for system tests: started, watched, killed, and gone at the end.

KVTIER_BUILD names the folder of the programs (built with FAILPOINTS=1), KVTIER_TEST_SCALE multiplies how much the long
tests do: 1, the default, is what each file's head says. KVTIER_TEST_FIGURES names the folder of what they measured;
counted.json there is what a process of tests counted until its end, whether or not they passed.
"""
import atexit
import collections
import contextlib
import hashlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import frames

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get('KVTIER_BUILD', os.path.join(TOP, 'build/test/unit')))
SCALE = float(os.environ.get('KVTIER_TEST_SCALE', '1'))
FIGURES = os.path.abspath(os.environ.get('KVTIER_TEST_FIGURES', os.path.join(TOP, 'build/tests')))
READY_SECONDS = 60.0
STOP_SECONDS = 15.0
POLL_SECONDS = 0.002
MIB = 1 << 20

running = set()
counted = collections.Counter()


def counted_from_zero():
    """What was not met is 0 and not missing."""
    counted.clear()
    counted.update(dict.fromkeys(('starts', 'refused_starts', 'daemon_deaths', 'checked_blocks', 'wrong_blocks'), 0))


counted_from_zero()


@atexit.register
def stop_all():
    for process in list(running):
        with contextlib.suppress(ProcessLookupError):
            process.kill()
            process.wait()


def scaled(count, least=1):
    return max(least, round(count * SCALE))


def program(name):
    path = os.path.join(BUILD, name)
    if not os.access(path, os.X_OK):
        raise FileNotFoundError(f'{path} is not there: KVTIER_BUILD names a build with FAILPOINTS=1')
    return path


def until(condition, seconds, what):
    """Polls until `condition()` is true; its value."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f'not within {seconds} s: {what}')
        select.select([], [], [], POLL_SECONDS)


def figures_write(name, figures):
    os.makedirs(FIGURES, exist_ok=True)
    with open(os.path.join(FIGURES, name), 'w', encoding='utf-8') as file:
        json.dump(figures, file, indent=1, sort_keys=True)
        file.write('\n')


@atexit.register
def counted_write():
    if counted['starts']:
        figures_write('counted.json', counted)


def assert_block(case, got, wanted, what=None):
    """Counts a block that came back and sees that it is the one that was stored; False: it did not come, a miss."""
    if got is None:
        return False
    counted['checked_blocks'] += 1
    counted['wrong_blocks'] += got != wanted
    case.assertEqual(got, wanted, what)
    return True


def quantiles(values):
    """p50, p99 and max; values may be empty."""
    ordered = sorted(values)
    if not ordered:
        return {'count': 0}
    return {'count': len(ordered), 'p50': ordered[len(ordered) // 2],
            'p99': ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], 'max': ordered[-1]}


def hash_of(*words):
    return hashlib.sha256(repr(words).encode()).digest()


def payload_of(name, size):
    """Bytes that say whose they are: a function of the block's name."""
    return hashlib.shake_128(name).digest(size)


def failpoints():
    output = subprocess.run([program('kvtierd'), '--list-failpoints'], capture_output=True, text=True, check=True)
    return [line.split()[0] for line in output.stdout.splitlines() if line.strip()]


class Node:
    """Settings of one daemon; start() and kill() as often as one likes. Use as a context.

    Its device is a file on a disk, written with O_DIRECT where that is possible. Journal and catalogue lie on tmpfs:
    a kill -9 takes nothing from a page cache, and 200 starts need not wait for 200 times the catalogue's fsyncs.
    """

    def __init__(self, cpu_mib=8, nvme_mib=32, tenants=('default',), warm=(), nvme=None, state=None, **settings):
        self.folder = tempfile.mkdtemp(prefix='n')
        self.run = os.path.join(self.folder, 'run')
        self.nvme = (nvme or os.path.join(self.folder, 'nvme')) if nvme_mib else None
        self.shm = tempfile.mkdtemp(prefix='kvtier-test-',
                                    dir='/dev/shm' if os.access('/dev/shm', os.W_OK) else None)
        self.state = state or os.path.join(self.shm, 'state')
        self.log_path = os.path.join(self.folder, 'log')
        self.config = os.path.join(self.folder, 'kvtierd.yaml')
        self.settings = {'extent_bytes': '1MiB', 'http_listen': '""', 'log_level': 'info', 'mills': 2,
                         'window_bytes': '4MiB', 'block_bytes_min': '4KiB', 'gpus': 'off',
                         # What the tests count is what their clients did; the scrubber's own tests turn it on.
                         'scrub_bytes_second': 0, 'readback_every': 0, **settings}
        self.tenants = tenants
        self.key_files = {}   # tenant: path
        self.warm = warm
        self.cpu_mib, self.nvme_mib = cpu_mib, nvme_mib
        self.process = None
        self.is_counted = False   # this life, as one that was refused or ended by itself
        self.wrapper = []   # what starts it; takes its place by exec
        self.environment = {}   # beside the tests' own, without its KVTIER_*
        self.log_from = 0
        os.makedirs(self.state, 0o700, exist_ok=True)
        os.mkdir(self.run)
        self.configure()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        try:
            self.kill()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
            shutil.rmtree(self.shm, ignore_errors=True)

    def configure(self):
        lines = [f'run_directory: {self.run}', f'state_directory: {self.state}']
        lines += [f'{name}: {value}' for name, value in self.settings.items()] + ['tenants:']
        for tenant in self.tenants:
            lines += [f'  - name: {tenant}', f'    cpu_bytes: {self.cpu_mib}MiB']
            if tenant in self.warm:
                lines.append(f'    cpu_file: {self.arena_file(tenant)}')
            if tenant in self.key_files:
                lines.append(f'    key_file: {self.key_files[tenant]}')
        if self.nvme:
            lines += ['nvme:', f'  - path: {self.nvme}', f'    bytes: {self.nvme_mib}MiB']
        with open(self.config, 'w', encoding='utf-8') as file:
            file.write('\n'.join(lines) + '\n')

    def arena_file(self, tenant='default'):
        return os.path.join(self.shm, tenant)

    def socket(self, tenant='default'):
        return os.path.join(self.run, 't', tenant, 'kv.sock')

    # ---- life ----

    def spawn(self, failpoint=None):
        """Starts the daemon without waiting for it."""
        assert self.process is None
        environment = {name: value for name, value in os.environ.items() if not name.startswith('KVTIER_')}
        environment.update(self.environment)
        if failpoint:
            environment['KVTIER_FAILPOINT'] = failpoint
        self.log_from = os.path.getsize(self.log_path) if os.path.exists(self.log_path) else 0
        with open(self.log_path, 'ab') as log:
            self.process = subprocess.Popen([*self.wrapper, program('kvtierd'), '--config', self.config],
                                            env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            cwd=self.folder)
        running.add(self.process)
        counted['starts'] += 1
        self.is_counted = False
        self.spawned = time.monotonic()

    def start(self, failpoint=None):
        """Starts the daemon; returns after how many seconds it was ready."""
        self.spawn(failpoint)
        return self.wait_ready()

    def has_said_ready(self):
        return b'event=ready' in self.log_bytes()

    def failed(self, what):
        """Counts this life, once; the failure to be raised."""
        if not self.is_counted:
            counted['daemon_deaths' if self.has_said_ready() else 'refused_starts'] += 1
            self.is_counted = True
        return AssertionError(f'{what}\n{self.log()}\n{self.folder}: {sorted(os.listdir(self.folder))}')

    def is_ready(self):
        if self.process.poll() is not None:
            raise self.failed(f'kvtierd ended by itself: {self.process.returncode}')
        return self.has_said_ready()

    def wait_ready(self):
        end = time.monotonic() + READY_SECONDS
        until(lambda: self.is_ready() or time.monotonic() > end, 2 * READY_SECONDS, 'kvtierd is ready')
        if not self.has_said_ready():
            raise self.failed(f'kvtierd is not ready within {READY_SECONDS} s')
        return time.monotonic() - self.spawned

    def log_bytes(self):
        """What this life has logged so far."""
        with open(self.log_path, 'rb') as file:
            file.seek(self.log_from)
            return file.read()

    def log(self):
        return self.log_bytes().decode('utf-8', 'replace')[-6000:]

    def is_alive(self):
        return self.process is not None and self.process.poll() is None

    def wait_death(self, seconds):
        """True: it died by SIGKILL within the time. An end by itself is a failure."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        running.discard(self.process)
        self.process = None
        if status != -signal.SIGKILL:
            raise self.failed(f'kvtierd ended by itself: {status}')
        return True

    def kill(self):
        """kill -9, and seen dead. A daemon that had ended by itself is a failure."""
        if self.process is None:
            return
        status = self.process.poll()
        if status is None:
            self.process.kill()
            status = self.process.wait()
        running.discard(self.process)
        self.process = None
        if status != -signal.SIGKILL:
            raise self.failed(f'kvtierd ended by itself: {status}')

    def stop(self):
        """As an operator stops it: everything is written before it ends."""
        self.process.terminate()
        status = self.process.wait(STOP_SECONDS)
        running.discard(self.process)
        self.process = None
        if status != 0:
            raise self.failed(f'kvtierd stopped with {status}')

    def pause(self):
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def catalogue_delete(self):
        """What is in the state folder but journal and lock."""
        for name in os.listdir(self.state):
            path = os.path.join(self.state, name)
            if name not in ('journal', 'lock'):
                shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)

    # ---- what it says ----

    def stats(self):
        with frames.Connection(os.path.join(self.run, 'admin.sock')) as connection:
            return connection.stats()

    def counters(self):
        return self.stats()['counters']

    def http(self, path, accept=None):
        """(status, body)."""
        fields = 'Host: node\r\nConnection: close\r\n' + (f'Accept: {accept}\r\n' if accept else '')
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(frames.WAIT_SECONDS)
            client.connect(os.path.join(self.run, 'http.sock'))
            client.sendall(f'GET {path} HTTP/1.1\r\n{fields}\r\n'.encode())
            answer = b''
            while part := client.recv(65536):
                answer += part
        head, _, body = answer.decode().partition('\r\n\r\n')
        return int(head.split(' ', 2)[1]), body

    def metric(self, name):
        """A metric by its name and labels, as /metrics prints it; 0 while the daemon does not listen yet."""
        try:
            lines = self.http('/metrics')[1].splitlines()
        except (FileNotFoundError, ConnectionRefusedError):
            return 0
        for line in lines:
            if line.startswith(name + ' '):
                return float(line.split()[-1])
        raise KeyError(name)

    def rss_bytes(self):
        """Of its own: what it shares with arenas and windows is left out."""
        with open(f'/proc/{self.process.pid}/status', encoding='ascii') as file:
            for line in file:
                if line.startswith('RssAnon:'):
                    return int(line.split()[1]) << 10
        raise AssertionError('no RssAnon')

    def wait_restored(self):
        """Serving, and the rebuild in the background is over."""
        until(lambda: self.stats()['restore'] == 'done', READY_SECONDS, 'restored')

    def wait_quiet(self, seconds=READY_SECONDS):
        """Nothing moves any more; the status then."""
        def quiet():
            stats = self.stats()
            return stats if stats['moves'] == 0 and stats['pending_down'] == 0 else None
        return until(quiet, seconds, 'no moves')

    def engine(self, name='engine', tenant='default', **options):
        return frames.Engine(self.socket(tenant), name, **options)


def assert_settled(case, stats):
    """No slot is being filled and none is held, once nothing moves."""
    case.assertEqual(stats['moves'], 0)
    for tenant in stats['tenants']:
        case.assertEqual(tenant['leases'], 0, tenant['name'])
        for tier, share in tenant['tiers'].items():
            where = f"{tenant['name']} {tier} {share}"
            case.assertEqual(share['slots']['filling'], 0, where)
            case.assertEqual(share['held_slots'], 0, where)


class Replay:
    """kvtier-bench replay in the background. Every byte it loads is checked by it."""

    def __init__(self, node, trace, tenant='default', **options):
        self.figures_path = os.path.join(node.folder, f'replay-{tenant}.json')
        self.output_path = os.path.join(node.folder, f'replay-{tenant}.out')
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.figures_path)
        arguments = {'trace': trace, 'socket': node.socket(tenant), 'json': self.figures_path, 'away-ms': 1,
                     'block-bytes': '16KiB', 'engine-blocks': 64, **options}
        command = [program('kvtier-bench'), 'replay']
        for name, value in arguments.items():
            command += [f'--{name}'] if value is True else [f'--{name}', str(value)]
        with open(self.output_path, 'wb') as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                            start_new_session=True)
        running.add(self.process)

    def is_running(self):
        return self.process.poll() is None

    def finish(self, seconds):
        """Its figures."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise AssertionError(f'replay was not done after {seconds} s') from error
        running.discard(self.process)
        with open(self.output_path, encoding='utf-8', errors='replace') as file:
            output = file.read()
        if not os.path.exists(self.figures_path):
            raise AssertionError(f'replay ended with {status}:\n{output[-3000:]}')
        with open(self.figures_path, encoding='utf-8') as file:
            figures = json.load(file)
        for name in ('checked_blocks', 'wrong_blocks'):
            counted[name] += figures[name]
        return figures

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        running.discard(self.process)


def trace_make(folder, requests, seed=7, mix='chat', users=16):
    path = os.path.join(folder, f'trace-{mix}-{requests}-{seed}')
    if not os.path.exists(path):
        subprocess.run([program('kvtier-bench'), 'generate', '--requests', str(requests), '--seed', str(seed),
                        '--mix', mix, '--users', str(users), '--output', path], check=True, capture_output=True)
    return path
