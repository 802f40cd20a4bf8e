"""
rivals.py BUILD PEER...: kvtier beside the peers that are installed, on the same blocks, in the
same run and in turn.

Each peer runs in a process of its own; what hangs is killed at its bound and has no figure. Writes
BUILD/bench/rivals.json and prints, row by row, who is ahead. Status 0: kvtier had all its figures
and served nothing wrong.
"""
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

import lmcache_bench
import measures

HERE = os.path.dirname(os.path.abspath(__file__))
SAMPLES = int(os.environ.get('RIVALS_SAMPLES', '11'))
SLOW_SAMPLES = min(SAMPLES, 5)
SET_BYTES = int(os.environ.get('RIVALS_SET_BYTES', str(64 << 20)))
STOP_SECONDS = 5
RESTART_SECONDS_MAX = 20
REST_SECONDS = 1
FLIPS = 8
OPEN_SECONDS_MAX = 180
CALL_SECONDS_MAX = 150
FAR = ('kvtier_far', 'kvtier_far_ucx', 'mooncake_tcp', 'nixl_far', 'plain_far')
LOOKUP_KEYS = (512, 8192)
LOOKUPS_A_SAMPLE = 5
LOOKUP_BLOCK_BYTES = 4096
SIZES = {'1m': 1 << 20, '64k': 64 << 10}
MEMORY_SETS = 3
FLIP_SETS, FLIP_BLOCKS = 10, 32
RESTART_BLOCKS = 64
LOG_LINES = 5
LMCACHE = os.environ.get('RIVALS_LMCACHE_PROGRAM', '')
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP, REQUEST = 0x8913, 0x8914, 1, '16sH22x'


class PeerFailed(Exception):
    pass


class Remote:
    """A peer's process. A call that takes too long kills it, and everything that it started."""

    def __init__(self, name, folder, build):
        self.name = name
        self.folder = tempfile.mkdtemp(prefix=name + '-', dir=folder)
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(HERE, 'worker.py'), name, self.folder, build],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)

    def call(self, name, *arguments, seconds_max=CALL_SECONDS_MAX):
        if self.process is None:
            raise PeerFailed('it is not running any more')
        try:
            self.process.stdin.write(json.dumps({'call': name, 'arguments': arguments}).encode()
                                     + b'\n')
            self.process.stdin.flush()
        except BrokenPipeError:
            self.fail(f'its process ended before {name}')
        if not select.select([self.process.stdout], [], [], seconds_max)[0]:
            self.fail(f'{name} took longer than {seconds_max} s')
        line = self.process.stdout.readline()
        if not line:
            self.fail(f'its process ended in {name}')
        answer = json.loads(line)
        if 'failure' in answer:
            raise PeerFailed(f'{name}: {answer["failure"]}')
        return answer['answer']

    def fail(self, why):
        self.log_show()
        self.kill()
        raise PeerFailed(why)

    def log_show(self):
        for log in sorted(os.listdir(self.folder)):
            if log.endswith('.log'):
                with open(os.path.join(self.folder, log), errors='replace') as file:
                    for line in file.readlines()[-LOG_LINES:]:
                        print(f'  {self.name} {log}: {line.rstrip()[:200]}', file=sys.stderr)

    def kill(self):
        if self.process is None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.process = None

    def close(self):
        """Its servers die with it, stopped ones too."""
        try:
            if self.process is not None:
                self.call('close', seconds_max=30)
        except PeerFailed as failure:
            print(f'  {self.name}: {failure}', file=sys.stderr)
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Comparison:
    """The peers that take part, and the rows so far."""

    def __init__(self, build, folder, names):
        self.build, self.folder, self.names = build, folder, names
        self.rows = []
        self.kvtier_wrong = 0
        self.lmcache_lookups = {}

    def row(self, name, unit, better):
        self.rows.append(measures.Row(name, unit, better))
        return self.rows[-1]

    def wanted(self, names):
        """Of these, the ones whose package is there: mooncake_tcp is mooncake's."""
        return [name for name in names if name.split('_')[0] in self.names]

    def open(self, names, tier, block_bytes, count, sets, row):
        """Peers opened for one scene. One that does not open is noted, and the others go on."""
        remotes = []
        for name in self.wanted(names):
            remote = Remote(name, self.folder, self.build)
            try:
                remote.call('open', tier, block_bytes, count, sets, seconds_max=OPEN_SECONDS_MAX)
                remotes.append(remote)
            except PeerFailed as failure:
                self.excuse(row, name, failure)
                remote.log_show()
                remote.close()
        return remotes

    def excuse(self, row, name, why):
        print(f'  {row.name}: {name} has no figure: {why}', file=sys.stderr)
        row.note(name, str(why))

    def ask(self, remote, row, name, *arguments):
        """A call's answer, or None, noted in the row."""
        try:
            answer = remote.call(name, *arguments)
        except PeerFailed as failure:
            self.excuse(row, remote.name, failure)
            return None
        if isinstance(answer, dict):
            if 'unable' in answer:
                self.excuse(row, remote.name, answer['unable'])
                return None
            if answer.get('wrong') and remote.name == 'kvtier':
                self.kvtier_wrong += answer['wrong']
        return answer

    def sample(self, remote, row, name, identity, keep):
        """One store or load: GB/s, and only if every block of it went as it should."""
        answer = self.ask(remote, row, name, identity)
        value = None
        if answer is not None:
            count = answer.get('stored', answer.get('right'))
            value = answer['bytes'] / answer['seconds'] / 1e9
            if count != self.count:
                row.note(remote.name, f'{count} of {self.count} blocks in one sample of {name}, '
                                      f'{answer.get("wrong", 0)} wrong')
                value = None
        if keep:
            row.add(remote.name, value)

    def memory(self, size):
        self.count = SET_BYTES // SIZES[size]
        store = self.row(f'store_mem_{size}', 'GB/s', 'more')
        load = self.row(f'load_mem_{size}', 'GB/s', 'more')
        remotes = self.open(('kvtier', 'mooncake', 'mooncake_own', 'mooncake_own_checked'),
                            'memory', SIZES[size], self.count, MEMORY_SETS, store)
        for number in range(SAMPLES + 1):          # the first warms up
            for remote in turned(remotes, number):
                self.sample(remote, store, 'store', number + 1, number > 0)
                self.sample(remote, load, 'load', number + 1, number > 0)
        close(remotes)
        if LMCACHE:
            self.lmcache(size, store, load)

    def lmcache(self, size, store, load):
        """By its own client; ours cannot speak to it."""
        found, why = lmcache_bench.measure(LMCACHE, SIZES[size], SAMPLES, self.build)
        if why:
            self.excuse(store, 'lmcache', why)
            return
        gigabytes = lmcache_bench.TOKENS * lmcache_bench.TOKEN_BYTES / 1e9
        for row, name in ((store, 'store'), (load, 'load')):
            row.note('lmcache', 'measured by its own bench, after the others')
            for seconds in found[name]:
                row.add('lmcache', gigabytes / seconds)
        keys = lmcache_bench.TOKENS * lmcache_bench.TOKEN_BYTES // SIZES[size]
        if keys in LOOKUP_KEYS:
            self.lmcache_lookups = {keys: [1e6 * seconds for seconds in found['lookup']]}

    def disk(self, size):
        self.count = SET_BYTES // SIZES[size]
        sets = SAMPLES + 1
        store = self.row(f'store_disk_{size}', 'GB/s', 'more')
        load = self.row(f'load_disk_{size}', 'GB/s', 'more')
        remotes = self.open(('kvtier', 'mooncake_tcp', 'nixl'), 'disk', SIZES[size], self.count,
                            sets, store)
        for name, row in (('store', store), ('load_cold', load)):
            for number in range(sets):
                for remote in turned(remotes, number):
                    self.sample(remote, row, name, number + 1, number > 0)
        close(remotes)

    def open_far(self, names, size, count, row):
        """As open(); ours by its usual name, so that rows are ours and the rivals'."""
        remotes = self.open(names, 'memory', SIZES[size], count, MEMORY_SETS, row)
        for remote in remotes:
            if remote.name == 'kvtier_far':
                remote.name = 'kvtier'
        return remotes

    def far(self, size):
        """Blocks that another process has, over TCP on loopback."""
        self.count = SET_BYTES // SIZES[size]
        load = self.row(f'load_far_{size}', 'GB/s', 'more')
        remotes = self.open_far(FAR, size, self.count, load)
        for number in range(SAMPLES + 1):
            for remote in turned(remotes, number):
                if self.ask(remote, load, 'store', number + 1) is not None:
                    self.sample(remote, load, 'load', number + 1, number > 0)
        close(remotes)
        plain = load.median('plain_far')
        for remote in remotes:
            value = load.median(remote.name)
            if value is not None and plain is not None and remote.name != 'plain_far':
                load.note(remote.name, f'{value / plain:.2f} of a plain pair of sockets')

    def far_one(self):
        """One block alone: how long its way is."""
        row = self.row('load_far_one_64k', 'us', 'less')
        remotes = self.open_far(FAR, '64k', 1, row)
        for number in range(SAMPLES + 1):
            for remote in turned(remotes, number):
                self.ask(remote, row, 'store', number + 1)
                answer = self.ask(remote, row, 'load', number + 1)
                is_right = answer is not None and answer['right'] == 1
                if number > 0:
                    row.add(remote.name, 1e6 * answer['seconds'] if is_right else None)
        close(remotes)

    def far_stopped(self):
        row = self.row('far_stopped_wait', 's', 'less')
        remotes = self.open_far(('kvtier_far', 'mooncake_tcp', 'nixl_far'), '1m', RESTART_BLOCKS, row)
        for number in range(SLOW_SAMPLES):
            for remote in turned(remotes, number):
                self.ask(remote, row, 'store', number + 1)
                self.stopped_add(row, remote, self.ask(remote, row, 'stopped', number + 1, STOP_SECONDS))
        close(remotes)

    def lookups(self):
        rows = {keys: self.row(f'lookup_{keys}', 'us', 'less') for keys in LOOKUP_KEYS}
        most = max(LOOKUP_KEYS)
        remotes = self.open(('kvtier', 'mooncake_tcp', 'nixl'), 'lookup', LOOKUP_BLOCK_BYTES,
                            most, 1, rows[most])
        for remote in remotes:
            if remote.name != 'nixl':
                self.ask(remote, rows[most], 'store', 1)
            self.ask(remote, rows[most], 'lookup_open', 1, most)
        for number in range(SAMPLES + 1):
            for keys, row in rows.items():
                for remote in turned(remotes, number):
                    answers = [self.ask(remote, row, 'lookup', keys)
                               for _ in range(LOOKUPS_A_SAMPLE)]
                    if number > 0:
                        row.add(remote.name, middle(answers, keys))
        close(remotes)
        for keys, samples in self.lmcache_lookups.items():
            rows[keys].note('lmcache', 'measured by its own bench, before the others')
            for microseconds in samples:
                rows[keys].add('lmcache', microseconds)

    def restart(self):
        first = self.row('restart_first_hit', 's', 'less')
        kept = self.row('restart_kept', 'share', 'more')
        remotes = self.open(('kvtier', 'mooncake_tcp', 'mooncake_part'), 'disk', 1 << 20,
                            RESTART_BLOCKS, 2, first)
        for remote in remotes:
            self.ask(remote, first, 'store', 1)
        # A cache may forget its last moments: kvtier's catalogue is written every 100 ms.
        time.sleep(REST_SECONDS)
        for number in range(SLOW_SAMPLES):
            for remote in turned(remotes, number):
                answer = self.ask(remote, first, 'restart', 1, RESTART_SECONDS_MAX)
                if answer is None:
                    continue
                first.add(remote.name, answer['seconds'])
                kept.add(remote.name, answer['right'] / answer['count'])
                if answer['seconds'] is None:
                    first.note(remote.name, f'no hit within {RESTART_SECONDS_MAX} s of a restart')
        close(remotes)

    def flipped(self):
        row = self.row('flipped_served', 'blocks', 'less')
        remotes = self.open(('kvtier', 'mooncake_tcp', 'mooncake_checked', 'nixl'), 'disk',
                            1 << 20, FLIP_BLOCKS, FLIP_SETS, row)
        for remote in remotes:
            for number in range(FLIP_SETS):
                self.ask(remote, row, 'store', number + 1)
            for number in range(SLOW_SAMPLES):
                answer = self.ask(remote, row, 'flipped', number + 1, FLIPS)
                if answer is not None:
                    row.add(remote.name, answer['wrong'])
                    row.note(remote.name, f'of {FLIPS} flipped: {answer["wrong"]} served as good; '
                                          f'of {FLIP_BLOCKS} in all {answer["right"]} right, '
                                          f'{answer["missed"]} missed')
        close(remotes)

    def stopped(self):
        row = self.row('stopped_wait', 's', 'less')
        remotes = self.open(('kvtier', 'mooncake_tcp'), 'memory', 1 << 20, RESTART_BLOCKS,
                            MEMORY_SETS, row)
        for remote in remotes:
            self.ask(remote, row, 'store', 1)
        for number in range(SLOW_SAMPLES):
            for remote in turned(remotes, number):
                self.stopped_add(row, remote, self.ask(remote, row, 'stopped', 1, STOP_SECONDS))
        close(remotes)

    @staticmethod
    def stopped_add(row, remote, answer):
        if answer is None:
            return
        row.add(remote.name, answer['seconds'])
        asked = answer.get('asked_seconds')
        row.note(remote.name, f'server stopped for {STOP_SECONDS} s; ' + (
            f'asked to wait {asked} s at most' if asked else 'no bound to ask for'))


def turned(remotes, number):
    """The same ones, another first each time."""
    first = number % len(remotes) if remotes else 0
    return remotes[first:] + remotes[:first]


def middle(answers, keys):
    """Microseconds of the median call, if all keys were found in every call."""
    if any(answer is None or answer['hits'] != keys for answer in answers):
        return None
    return 1e6 * sorted(answer['seconds'] for answer in answers)[len(answers) // 2]


def close(remotes):
    for remote in remotes:
        remote.close()


SCENES = {
    'memory_1m': lambda comparison: comparison.memory('1m'),
    'memory_64k': lambda comparison: comparison.memory('64k'),
    'disk_1m': lambda comparison: comparison.disk('1m'),
    'disk_64k': lambda comparison: comparison.disk('64k'),
    'lookups': Comparison.lookups,
    'restart': Comparison.restart,
    'flipped': Comparison.flipped,
    'stopped': Comparison.stopped,
    'far_1m': lambda comparison: comparison.far('1m'),
    'far_64k': lambda comparison: comparison.far('64k'),
    'far_one': Comparison.far_one,
    'far_stopped': Comparison.far_stopped,
}


def loopback_up():
    """In a network namespace of one's own it is down at first."""
    with socket.socket() as any_socket:
        request = fcntl.ioctl(any_socket, SIOCGIFFLAGS, struct.pack(REQUEST, b'lo', 0))
        flags = struct.unpack(REQUEST, request)[1]
        if not flags & IFF_UP:
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack(REQUEST, b'lo', flags | IFF_UP))


def versions(names):
    from importlib import metadata
    packages = {'mooncake': 'mooncake-transfer-engine-non-cuda', 'nixl': 'nixl-cu13'}
    return {name: metadata.version(packages[name]) for name in names if name in packages}


def kvtier_version(build):
    words = subprocess.run([os.path.join(build, 'kvtierd'), '--version'], capture_output=True,
                           text=True, timeout=10, check=False).stdout.split()
    return words[1] if len(words) > 1 else ''


def main(build, names):
    only = [name for name in os.environ.get('RIVALS_ONLY', '').split(',') if name]
    unknown = [name for name in only if name not in SCENES]
    if unknown:
        sys.exit(f'rivals: no scene {unknown[0]!r}; there are {", ".join(SCENES)}')
    loopback_up()
    folder = tempfile.mkdtemp(prefix='kvtier-rivals-', dir=build)
    comparison = Comparison(build, folder, ['kvtier', 'plain'] + names)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    try:
        for name, scene in SCENES.items():
            if not only or name in only:
                print(f'measuring {name}', file=sys.stderr)
                scene(comparison)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    path = os.path.join(build, 'bench', 'rivals.json')
    os.makedirs(os.path.dirname(path), exist_ok=True)
    measures.write(comparison.rows, kvtier_version(build), {'rivals': versions(names)}, path)
    measures.table_print(comparison.rows)
    print(f'written to {path}')
    missing = [row.name for row in comparison.rows if row.median('kvtier') is None]
    if missing:
        print(f'rivals: FAILED: kvtier has no figure for {", ".join(missing)}', file=sys.stderr)
        sys.exit(1)
    if comparison.kvtier_wrong:
        sys.exit(f'rivals: FAILED: kvtier served {comparison.kvtier_wrong} wrong blocks')


if __name__ == '__main__':
    main(os.path.abspath(sys.argv[1]), sys.argv[2:])
