#!/usr/bin/env python3
"""The long programme: parts that run for their share of a time budget, and docs/reliability/VERSION.json.

    tests/reliability.py --minutes 60                 all parts
    tests/reliability.py --minutes 30 --parts kills,soak
    tests/reliability.py --minutes 120 --parts soak --requests-second 60
    tests/reliability.py --document [--check]         writes (or checks) the figures in docs/RELIABILITY.md
    tests/reliability.py --list

Each run of a part is kept with its date, commit and minutes; totals add up over runs. A part ends by itself at its share,
between two of its steps, or on SIGTERM with what was done. A failure is recorded with the command that shows it again and
with what was counted until then, and the exit status is 1. Needs the programs and unit tests of build/test/unit, and the simulator of build/test/sim (make reliability builds them).
"""
import argparse
import datetime
import glob
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TOP, 'tests/system'))
os.environ.setdefault('KVTIER_BUILD', os.path.join(TOP, 'build/test/unit'))
import node   # noqa: E402
from reliability_record import commit, document, load, merge, record_run, total_of   # noqa: E402

STEP_SECONDS_MAX = 1800      # of one step beyond its part's share; then it is ended, and a failure
SEED_MAX = 1 << 31
OUTPUT_BYTES_SHOWN = 4000
CORRUPTIONS_SCALE_1 = 20000  # of tests/daemon/test_corruptions.c
SIM_SEEDS_A_STEP = 2000
FUZZ_PARALLEL = 2            # as tests/run does it
CRASHES = os.path.join(TOP, 'build/fuzz/*/crashes/*')   # where tests/run lets the fuzzers leave them
# What is more than 0 is a failure, whatever the tests thought of it.
FAULTS = ('wrong_blocks', 'refused_starts', 'daemon_deaths', 'leaked_holds', 'failed_seeds', 'found_crashes')
# The soak: a line through its samples, without those of the first part.
SOAK_REQUESTS_SECOND = 60    # on average, where --requests-second says nothing; 0: as fast as it goes
SOAK_SAMPLE_SECONDS = 5
SOAK_WARM_UP = 0.2
SOAK_HOURS_OF_A_SLOPE = 0.1
RSS_GROWTH_BYTES_MAX = 4 << 20
DESCRIPTORS_GROWTH_MAX = 2


class Failure(Exception):
    """What failed, the command that shows it again, and all that it printed."""

    def __init__(self, what, command, output=''):
        super().__init__(what)
        self.command = command
        self.output = output


class Skip(Exception):
    """A part that this checkout or machine does not have."""


class Part:
    """One run of a part: figures that add up, and how long is left."""

    def __init__(self, seconds, requests_second):
        self.end = time.monotonic() + seconds
        self.seconds = seconds
        self.requests_second = requests_second
        self.figures = {}

    def left(self):
        return self.end - time.monotonic()

    def add(self, **figures):
        self.figures = merge(self.figures, figures)


def execute(command, seconds, **variables):
    """Its output; a failure says how to run it again. What it started ends with it."""
    shown = ' '.join([f'{name}={value}' for name, value in variables.items()
                      if name != 'KVTIER_TEST_FIGURES'] + command).replace(TOP, '$PWD')
    shown = shown.replace(sys.executable, 'python3')
    with tempfile.TemporaryDirectory(prefix='kvtier-reliability-') as folder:
        environment = {**os.environ, 'TMPDIR': folder, **{name: str(value) for name, value in variables.items()}}
        process = subprocess.Popen(command, cwd=TOP, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, errors='replace', start_new_session=True)
        try:
            output, _ = process.communicate(timeout=max(seconds, 1) + STEP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise Failure(f'not done after {seconds + STEP_SECONDS_MAX:.0f} s', shown) from None
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)   # what it left behind
            except ProcessLookupError:
                pass
    if process.returncode != 0:
        raise Failure(f'exit status {process.returncode}:\n{output[-OUTPUT_BYTES_SHOWN:]}', shown, output)
    return output


def figures_read(folder):
    """{file: its content} of what tests measured."""
    found = {}
    for path in glob.glob(os.path.join(folder, '*.json')):
        with open(path, encoding='utf-8') as file:
            found[os.path.basename(path)] = json.load(file)
    return found


def unittest(part, path, *names, scale=1.0, seed=0):
    """A file of tests/system: (tests that passed, skipped, {file: figures}). What it counted is added in any case."""
    command = [sys.executable, os.path.join(TOP, path), *names]
    with tempfile.TemporaryDirectory(prefix='kvtier-figures-') as folder:
        variables = {'KVTIER_TEST_SCALE': scale, 'KVTIER_TEST_SEED': seed, 'KVTIER_BUILD': node.BUILD,
                     'KVTIER_TEST_FIGURES': folder}
        try:
            output = execute(command, part.left(), **variables)
        finally:
            figures = figures_read(folder)
            part.add(**figures.get('counted.json', {}))
    ran = re.search(r'^Ran (\d+) test', output, re.M)
    skipped = re.search(r'skipped=(\d+)', output)
    skips = int(skipped.group(1)) if skipped else 0
    return int(ran.group(1)) - skips, skips, figures


def seeds(part):
    """Other ones in each run; until the time of the part is over, at least one."""
    random_of = random.Random()
    yield random_of.randrange(SEED_MAX)
    began = time.monotonic()
    steps = 1
    while part.left() > (time.monotonic() - began) / steps:   # as long as the steps so far
        yield random_of.randrange(SEED_MAX)
        steps += 1


# ---- the parts ----

def run_kills(part):
    """kill -9 at random instants under load, restarts"""
    for seed in seeds(part):
        scale = 1 if part.left() > 150 else 0.5
        _, _, figures = unittest(part, 'tests/system/test_kills.py', 'RandomKills', scale=scale, seed=seed)
        restart = figures['kills.json']['restart_seconds']
        part.add(restarts=restart['count'], restart_seconds_p50=round(restart['p50'], 4), restart_seconds_p99=round(restart['p99'], 4),
                 restart_seconds_max=round(restart['max'], 4))


def run_engines(part):
    """engines killed at random moments of stores and loads; what they held is free again"""
    for seed in seeds(part):
        _, _, figures = unittest(part, 'tests/system/test_engine_killed.py', scale=1, seed=seed)
        for done in figures['engine_killed.json'].values():
            part.add(released_seconds_max=done['seconds']['max'])


def run_failpoints(part):
    """one kill, failure and stop at each failpoint"""
    for seed in seeds(part):
        _, _, killed = unittest(part, 'tests/system/test_kills.py', 'FailpointKills', scale=1, seed=seed)
        _, _, others = unittest(part, 'tests/system/test_failpoints.py', scale=1, seed=seed)
        for action in ('kill', 'error', 'stop'):
            done = (killed if action == 'kill' else others)[f'failpoints-{action}.json']
            part.add(**{f'{action}_points_max': done['covered'], 'points_max': done['total']})
        _, _, pulled = unittest(part, 'tests/system/test_pull_failpoints.py', scale=1, seed=seed)
        for action in ('kill', 'error', 'stop', 'engine'):   # none where no driver of the tests is built
            done = pulled.get(f'pull-failpoints-{action}.json', {'covered': 0, 'total': 0})
            part.add(**{f'pull_{action}_points_max': done['covered'], 'pull_points_max': done['total']})
        _, _, peers = unittest(part, 'tests/system/test_peers_failpoints.py', scale=1, seed=seed)
        for action in ('kill', 'error', 'stop'):
            done = peers[f'peers-failpoints-{action}.json']
            part.add(**{f'peers_{action}_points_max': done['covered'], 'peers_points_max': done['total']})
        part.add(rounds=1)


def run_network(part):
    """nodes over links that drop after byte K, go one way only, part, lose and crawl"""
    for seed in seeds(part):
        passed, skipped, figures = unittest(part, 'tests/system/test_peers_network.py', scale=7, seed=seed)
        done = figures.get('peers_network.json')   # none where no namespace can be made
        if done is None:
            raise Skip('no network of namespaces can be made here')
        part.add(tests=passed, skipped=skipped, cuts=done['cuts'], cuts_that_bit=done['cuts_that_bit'],
                 heals=done['heals'], late_seconds_max=done['late_seconds_max'], fetched_blocks=done['blocks_good'],
                 missed_blocks=done['blocks_missed'], rounds=1)


def run_faults(part):
    """real disks, limits, clocks, catalogue files and settings, broken"""
    for seed in seeds(part):
        for path in sorted(glob.glob(os.path.join(TOP, 'tests/system/test_faults_*.py'))):
            passed, skipped, figures = unittest(part, os.path.relpath(path, TOP), scale=1, seed=seed)
            part.add(tests=passed, skipped=skipped)
            add_faults(part, figures)
        part.add(rounds=1)


# Of a file of figures: (name in the record, where it stands). What was skipped is not there.
FAULT_FIGURES = {
    'faults_disk.json': (('power_cuts', 'power_cuts cuts'), ('fence_seconds_max', 'read_errors fence_seconds'),
                         ('slow_disk_load_seconds_p99', 'slow_disk load_seconds_slow p99'),
                         ('slow_disk_lookup_seconds_p99', 'slow_disk lookup_seconds_slow p99')),
    'faults_catalogue.json': (('catalogue_mutations', 'mutations'), ('catalogue_start_seconds_max', 'start_seconds max')),
    'faults_limits.json': (('stopped_lookup_ms_max', 'stopped lookup_ms max'), ('clock_jumps', 'clock jumps'),
                           ('registered_again_seconds_max', 'restart registered_again_seconds max')),
    'faults_settings.json': (('settings_mutations', 'mutations'),),
}


def add_faults(part, figures):
    for file, content in figures.items():
        for name, words in FAULT_FIGURES.get(file, ()):
            value = content
            for word in words.split():
                value = value.get(word, {}) if isinstance(value, dict) else {}
            if isinstance(value, (int, float)):
                part.add(**{name: round(value, 4)})


def run_corruptions(part):
    """damage of slots in both tiers, met by real loads"""
    program = os.path.join(node.BUILD, 'tests/daemon/test_corruptions')
    if not os.path.exists(program):
        raise Skip(f'{program} is not built')
    scale = 0.1
    while True:
        began = time.monotonic()
        try:
            output = execute([program], part.left(), KVTIER_TEST_SCALE=scale, KVTIER_TEST_SEED=random.randrange(SEED_MAX))
        except Failure as failure:
            add_corruptions(part, failure.output)
            raise
        add_corruptions(part, output)
        rate = scale / (time.monotonic() - began)
        scale = min(rate * part.left() * 0.9, 50)
        if scale * CORRUPTIONS_SCALE_1 < 1000:
            return


def add_corruptions(part, output):
    for line in re.findall(r'^\{.*\}$', output, re.M):
        done = json.loads(line)
        part.add(injected=done['injected'], detected=done['detected'], wrong_blocks=done['wrong'],
                 undamaged_lost=done['undamaged_lost'])


def run_sim(part):
    """seeds of the simulator of the real code"""
    program = os.path.join(TOP, 'build/test/sim/tests/sim/sim')
    if not os.path.exists(program):
        raise Skip(f'{program} is not built')
    first = total_of(load(), 'sim').get('seeds', 0) + 1   # seeds that no recorded run had
    count = 100
    part.add(failed_seeds=0)
    with tempfile.TemporaryDirectory() as folder:
        figures = os.path.join(folder, 'sim.json')
        while part.left() > 0:
            began = time.monotonic()
            try:
                execute([program, '--first', str(first), '--count', str(count), '--jobs', '2', '--json', figures],
                        part.left())
            except Failure:
                part.add(failed_seeds=1)   # it ends at the first
                raise
            with open(figures, encoding='utf-8') as file:
                done = json.load(file)
            part.add(**{name: value for name, value in done.items() if name not in ('seconds', 'failpoints', 'histories')})
            first += count
            rate = count / (time.monotonic() - began)
            count = max(1, min(SIM_SEEDS_A_STEP, int(rate * part.left() / 2)))


def run_fuzz(part):
    """libFuzzer with address and undefined sanitizers on each decoder"""
    only = os.environ.get('KVTIER_FUZZ_ONLY', '')
    targets = len(only.split(',') if only else glob.glob(os.path.join(TOP, 'tests/fuzz/fuzz_*.c')))
    rounds = -(-targets // FUZZ_PARALLEL)
    seconds = max(int(part.seconds / rounds), 5)
    before = set(glob.glob(CRASHES))
    try:
        output = execute([os.path.join(TOP, 'tests/run'), 'fuzz'], part.left(), KVTIER_FUZZ_SECONDS=seconds)
    except Failure as failure:
        add_fuzz(part, failure.output, before)
        raise
    if not add_fuzz(part, output, before):
        raise Skip('clang is not installed')


def add_fuzz(part, output, before):
    """How many targets ran to their end; minutes are of a processor, which several may have to share."""
    found = re.findall(r'^\s+(fuzz_\w+): (\d+) inputs in \d+ s, ([\d.]+) s of a processor', output, re.M)
    for name, inputs, took in found:
        part.add(**{f'{name}_cpu_minutes': round(float(took) / 60, 2), 'inputs': int(inputs)})
    if found:
        part.add(targets_max=len(found))
    part.add(found_crashes=len(set(glob.glob(CRASHES)) - before))
    return len(found)


def slope(samples):
    """Of a line through (x, y), by least squares."""
    count = len(samples)
    mean_x = sum(x for x, _ in samples) / count
    mean_y = sum(y for _, y in samples) / count
    spread = sum((x - mean_x) ** 2 for x, _ in samples)
    return sum((x - mean_x) * (y - mean_y) for x, y in samples) / spread if spread else 0.0


def soak_sample(cache, began):
    descriptors = len(os.listdir(f'/proc/{cache.process.pid}/fd'))
    return time.monotonic() - began, cache.rss_bytes(), descriptors


def soak_replay(cache, random_of, requests_second):
    """Another trace, another model's identity, another engine than before, at so many requests a second on average."""
    requests = random_of.choice((50, 200, 800))
    trace = node.trace_make(cache.folder, requests, seed=random_of.randrange(8))
    options = {'deadline-ms': random_of.choice((5, 100, 2000))}
    if requests_second:
        with open(trace, encoding='utf-8') as file:
            ends_ms = json.loads(file.readlines()[-1])['timestamp']
        options['speed'] = requests_second * max(ends_ms, 1) / 1000 / requests
    return node.Replay(cache, trace, seed=random_of.randrange(1, 20), **options)


def run_soak(part):
    """one daemon under a changing load; memory and descriptors are a flat line"""
    node.counted_from_zero()
    try:
        soak(part)
    finally:
        part.add(**node.counted)


def soak(part):
    random_of = random.Random()
    samples = []
    part.add(requests_second_asked=f'{part.requests_second:g}' if part.requests_second else 'as fast as it goes')
    with node.Node(cpu_mib=16, nvme_mib=96) as cache:
        cache.start()
        began = time.monotonic()
        sampled = 0.0
        replay = None
        again = (f'tests/reliability.py --parts soak --minutes {part.seconds / 60:.0f} '
                 f'--requests-second {part.requests_second:g}')
        while part.left() > 0 or replay is not None:
            if replay is not None and not replay.is_running():
                try:
                    done = replay.finish(60)
                except AssertionError as error:
                    raise Failure(f'{error}\n{cache.log()}\n{cache.stats()}', again) from error
                if done['wrong_blocks'] or done['stuck_jobs']:
                    raise Failure(f'soak: {done}', again)
                part.add(**{name: done[name] for name in ('requests', 'stored_blocks')})
                replay = None
            if replay is None and part.left() > 0:
                replay = soak_replay(cache, random_of, part.requests_second)
            if time.monotonic() - sampled >= SOAK_SAMPLE_SECONDS:
                sampled = time.monotonic()
                if not cache.is_alive():
                    raise Failure(f'soak: the daemon has ended\n{cache.log()}', again)
                samples.append(soak_sample(cache, began))
            signal.sigtimedwait([], 0.05)
        part.add(requests_second_min=round(part.figures['requests'] / (time.monotonic() - began), 1))
        stats = cache.wait_quiet()
        held = sum(share['held_slots'] + share['slots']['filling']
                   for tenant in stats['tenants'] for share in tenant['tiers'].values())
        leases = sum(tenant['leases'] for tenant in stats['tenants'])
        part.add(held_slots=held, leases=leases)
        cache.stop()
    judge_soak(part, samples, again)
    if held or leases:
        raise Failure(f'soak: {held} slots and {leases} leases are held at the end', again)


def judge_soak(part, samples, again):
    """Growth of the fitted line from the end of the warm-up to the end, against the bounds."""
    kept = [sample for sample in samples if sample[0] >= samples[-1][0] * SOAK_WARM_UP]
    if len(kept) < 4:
        raise Skip('too short a soak for a line: give it more minutes')
    hours = (kept[-1][0] - kept[0][0]) / 3600
    rss = slope([(at, value) for at, value, _ in kept]) * 3600
    descriptors = slope([(at, value) for at, _, value in kept]) * 3600
    part.add(hours=round(samples[-1][0] / 3600, 4), rss_mib_max=round(max(s[1] for s in samples) / (1 << 20), 1))
    if hours < SOAK_HOURS_OF_A_SLOPE:   # it would say how a daemon warms up
        return
    part.add(rss_kib_hour_max=round(rss / 1024, 1), descriptors_hour_max=round(descriptors, 3))
    if rss * hours > RSS_GROWTH_BYTES_MAX or descriptors * hours > DESCRIPTORS_GROWTH_MAX:
        raise Failure(f'soak: memory grows by {rss / 1024:.0f} KiB an hour, descriptors by {descriptors:.2f}, '
                      f'over {hours:.2f} h', again)


# Name: (function, share of the time). Another part is a function and a line here.
PARTS = {
    'kills': (run_kills, 25), 'engines': (run_engines, 3), 'failpoints': (run_failpoints, 5), 'faults': (run_faults, 6),
    'network': (run_network, 5),
    'corruptions': (run_corruptions, 6), 'sim': (run_sim, 20), 'fuzz': (run_fuzz, 20), 'soak': (run_soak, 15),
}


# ---- a run ----

def run_part(name, seconds, requests_second):
    """True when nothing failed. It is recorded in any case."""
    part = Part(seconds, requests_second)
    again = f'tests/reliability.py --parts {name} --minutes {seconds / 60:.0f}'
    began = time.monotonic()
    print(f'== {name}: {PARTS[name][0].__doc__}, {seconds / 60:.1f} min', flush=True)
    run = {'part': name, 'date': datetime.date.today().isoformat(), 'commit': commit()}
    try:
        PARTS[name][0](part)
    except SystemExit:   # told to end: what was done so far is true
        if part.figures:
            record_run(run | {'minutes': round((time.monotonic() - began) / 60, 2), 'figures': part.figures}, PARTS)
        raise
    except Skip as skip:
        print(f'SKIPPED  {name}: {skip}', flush=True)
        return True
    except AssertionError as error:   # of the helpers of tests/system
        run['failed'] = again
        print(f'FAILED   {name}: {error}', flush=True)
    except Failure as failure:
        run['failed'] = failure.command
        print(f'FAILED   {name}: {failure}\n         again: {failure.command}', flush=True)
    if 'failed' not in run and any(part.figures.get(fault) for fault in FAULTS):
        run['failed'] = again
        print(f'FAILED   {name}: not all of {", ".join(FAULTS)} are 0', flush=True)
    run['minutes'] = round((time.monotonic() - began) / 60, 2)
    run['figures'] = part.figures
    record_run(run, PARTS)
    print(f'   {part.figures}', flush=True)
    return 'failed' not in run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, default=60)
    parser.add_argument('--parts', default='', help=', '.join(PARTS))
    parser.add_argument('--requests-second', type=float, default=SOAK_REQUESTS_SECOND,
                        help='of the soak, on average; 0: as fast as it goes')
    parser.add_argument('--document', action='store_true', help='only the figures in docs/RELIABILITY.md')
    parser.add_argument('--check', action='store_true', help='with --document: say whether they are right, write nothing')
    parser.add_argument('--list', action='store_true')
    line = parser.parse_args()
    if line.document:
        return document(PARTS, line.check)
    if line.list:
        for name, (function, share) in PARTS.items():
            print(f'{name:<12}{share:>3} %  {function.__doc__}')
        return 0
    names = [name for name in line.parts.split(',') if name] or list(PARTS)
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        parser.error(f'no part {unknown[0]}; there are {", ".join(PARTS)}')
    signal.signal(signal.SIGTERM, lambda *unused: sys.exit(1))   # what was started ends with us
    shares = sum(PARTS[name][1] for name in names)
    good = [run_part(name, line.minutes * 60 * PARTS[name][1] / shares, line.requests_second) for name in names]
    return 0 if all(good) else 1


if __name__ == '__main__':
    sys.exit(main())
