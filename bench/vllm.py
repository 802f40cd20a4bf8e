#!/usr/bin/env python3
"""vllm.py: what a hit saves a real vLLM engine, and what the connector costs it.

    bench/vllm.py --json FILE           all of it, eight minutes on two cores
    bench/vllm.py --only first-token    time to first token: cold, vLLM's own hit, ours by tier
    bench/vllm.py --only overhead       throughput with and without the connector, nothing hit
    bench/vllm.py --only handoff        prefill on one node, decode on another: one after the other, and at once

Needs the environment that make vllm-env makes, and $KVTIER_BUILD with the programs. Every figure is
the median of --repeat rounds (pairs: --pairs) in one run, each round with a prompt of its own;
ceilings (memory copy, raw disk) are measured in the same run.
"""
from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(TOP, 'bench'), os.path.join(TOP, 'tests', 'vllm'), os.path.join(TOP, 'tests', 'system')]
os.environ.setdefault('KVTIER_BUILD', os.path.join(TOP, 'build'))

import environment                       # noqa: E402
import vllm_handoff                      # noqa: E402
import node                              # noqa: E402
from engine import Engine, Request, make_model   # noqa: E402

PROMPT_TOKENS = 4000
VOCABULARY = 4000
CPU_MIB, NVME_MIB = 256, 1024
ENGINE_OPTIONS = {'dtype': 'bfloat16', 'max_model_len': 4608, 'max_num_batched_tokens': 4096,
                  'block_size': 128, 'num_gpu_blocks_override': 160}
OVERHEAD_REQUESTS, OVERHEAD_TOKENS, OVERHEAD_OUTPUT = 4, 512, 16
CASES = ('cold', 'hit_engine', 'hit_cpu', 'hit_cpu_async', 'hit_nvme')


def prompt(seed: Any, tokens: int) -> list[int]:
    source = random.Random(f'kvtier {seed}')
    return [source.randrange(10, VOCABULARY) for _ in range(tokens)]


def memory_rate(size: int) -> float:
    """Bytes a second of one thread that copies `size` bytes which are in no cache."""
    source, target = bytearray(os.urandom(1 << 16)) * (size >> 16), mmap.mmap(-1, size >> 16 << 16)
    view = memoryview(source)
    target[:] = view   # its pages are there
    rates = []
    for _ in range(3):
        began = time.perf_counter()
        target[:] = view
        rates.append(len(view) / (time.perf_counter() - began))
    return statistics.median(rates)


def disk_rate(folder: str) -> dict[str, float]:
    """Bytes a second of raw io_uring reads, as kvtier-bench measures its own ceiling."""
    figures = os.path.join(folder, 'micro.json')
    subprocess.run([node.program('kvtier-bench'), 'micro', '--kvtierd', node.program('kvtierd'),
                    '--directory', folder, '--only', 'nvme_1m', '--json', figures], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300)
    with open(figures, encoding='utf-8') as file:
        measures = {one['name']: one for one in json.load(file)['measures']}
    return {'median': measures['nvme_load_1m']['ceiling'] * (1 << 20),
            'samples': measures['nvme_load_1m']['samples']}


class FirstToken:
    """Rounds of one prompt: computed, then found in each place in turn."""

    def __init__(self, python: str, model: str):
        self.daemon = node.Node(cpu_mib=CPU_MIB, nvme_mib=NVME_MIB, extent_bytes='16MiB',
                                window_bytes='64MiB')
        self.daemon.start()
        self.engine = Engine(python, model, self.daemon.socket(), **ENGINE_OPTIONS)
        self.block_bytes = 0.0

    def close(self) -> None:
        self.engine.kill()
        self.daemon.__exit__()

    def ask(self, tokens: list[int], fresh: bool) -> dict[str, float]:
        run = self.engine.generate([Request(tokens, max_tokens=1)], fresh=fresh)
        seconds, cached = run.results[0].seconds, run.results[0].cached
        step = run.counted('step_seconds_total')
        library = run.counted('library_seconds_total')
        return {'seconds': seconds, 'cached': cached, 'token': run.results[0].tokens[0],
                'connector_seconds': step - library, 'library_seconds': library,
                'copy_seconds': run.counted('load_seconds_total'),
                'loaded_bytes': run.counted('loaded_bytes_total')}

    def round(self, number: int | str) -> dict[str, dict[str, float]]:
        tokens = prompt(number, PROMPT_TOKENS)
        results = {'cold': self.ask(tokens, True), 'hit_engine': self.ask(tokens, False)}
        self.daemon.wait_quiet()
        for case, mode in (('hit_cpu', 'sync'), ('hit_cpu_async', 'async')):
            self.engine.load_mode(mode)
            results[case] = self.ask(tokens, True)
        # A new life has nothing in memory: what it serves comes from the disk.
        self.daemon.wait_quiet()
        self.daemon.stop()
        self.daemon.start()
        self.daemon.wait_restored()
        self.engine.load_mode('auto')
        self._wait_attached()
        results['hit_nvme'] = self.ask(tokens, True)
        self._check(results)
        return results

    def _wait_attached(self) -> None:
        """The connector attaches by itself; a short prompt of its own shows when it has."""
        tokens = prompt('attach', 300)

        def is_attached() -> bool:
            run = self.engine.generate([Request(tokens, max_tokens=1)], fresh=True)
            return run.counted('lookups_total') > run.counted('lookup_failures_total')
        node.until(is_attached, 60, 'the connector is attached again')

    @staticmethod
    def _check(results: dict[str, dict[str, float]]) -> None:
        whole = (PROMPT_TOKENS - 1) // 128 * 128
        for case in CASES[2:]:
            if results[case]['cached'] != whole:
                raise SystemExit(f'{case}: {results[case]["cached"]} tokens came from the cache, '
                                 f'{whole} are right')


def spread(values: list[float]) -> dict[str, float]:
    return {'median': statistics.median(values), 'least': min(values), 'most': max(values)}


def first_token(python: str, model: str, repeat: int) -> dict[str, Any]:
    bench = FirstToken(python, model)
    try:
        bench.round('warm-up')
        rounds, memory = [], []
        for number in range(repeat):
            rounds.append(bench.round(number))
            size = int(rounds[-1]['hit_cpu']['loaded_bytes'])
            memory.append(memory_rate(size))
            say(number, rounds[-1])
        disk = disk_rate(bench.daemon.folder)
    finally:
        bench.close()
    cases = {case: {name: spread([one[case][name] for one in rounds])
                    for name in ('seconds', 'connector_seconds', 'library_seconds',
                                 'copy_seconds', 'loaded_bytes')} for case in CASES}
    median = {case: cases[case]['seconds']['median'] for case in CASES}
    size = cases['hit_cpu']['loaded_bytes']['median']
    cpu_ceiling = median['hit_engine'] + size / statistics.median(memory)
    nvme_ceiling = cpu_ceiling + size / disk['median']
    return {
        'prompt_tokens': PROMPT_TOKENS, 'repeat': repeat, 'bytes': size, 'cases': cases,
        'memory_bytes_second': spread(memory), 'disk_bytes_second': disk,
        'hit_cpu': median['hit_cpu'] / cpu_ceiling,
        'hit_cpu_async': median['hit_cpu_async'] / cpu_ceiling,
        'hit_nvme': median['hit_nvme'] / nvme_ceiling,
        'restore_over_cold': max(median['hit_cpu_async'], median['hit_nvme']) / median['cold'],
    }


def say(number: int, results: dict[str, dict[str, float]]) -> None:
    print(f'round {number}: ' + ', '.join(f'{case} {results[case]["seconds"] * 1e3:.0f} ms'
                                          for case in CASES), flush=True)


def workload(number: int | str) -> list[Request]:
    return [Request(prompt(f'{number} {i}', OVERHEAD_TOKENS), max_tokens=OVERHEAD_OUTPUT)
            for i in range(OVERHEAD_REQUESTS)]


def throughput(engine: Engine, number: int | str) -> tuple[float, dict[str, float]]:
    """Tokens a second of one batch that nobody has seen before."""
    began = time.perf_counter()
    run = engine.generate(workload(number), together=True, fresh=True)
    seconds = time.perf_counter() - began
    return OVERHEAD_REQUESTS * (OVERHEAD_TOKENS + OVERHEAD_OUTPUT) / seconds, run.stats


def overhead(python: str, model: str, pairs: int) -> dict[str, Any]:
    """Pairs in turn: the same work with and without the connector, each first every other time.

    In one process, which loses and gets back its connector: two processes differ by several per
    cent by where their memory happens to lie.
    """
    losses, steps = [], []
    with node.Node(cpu_mib=CPU_MIB, nvme_mib=NVME_MIB, extent_bytes='16MiB',
                   window_bytes='64MiB') as daemon:
        daemon.start()
        with Engine(python, model, daemon.socket(), **ENGINE_OPTIONS) as engine:
            for is_on in (True, False):
                engine.connector(is_on)
                throughput(engine, f'warm-up {is_on}')
            for number in range(pairs):
                rates = {}
                for is_on in (False, True) if number % 2 == 0 else (True, False):
                    engine.connector(is_on)
                    rates[is_on], stats = throughput(engine, f'{number} {is_on}')
                    if is_on:
                        tens = stats['stored_bytes_total'] / 10e6
                        steps.append(stats['step_seconds_total'] * 1e3 / tens)
                    daemon.wait_quiet()
                losses.append(1 - rates[True] / rates[False])
                print(f'pair {number}: {rates[False]:.1f} tokens/s without, '
                      f'{rates[True]:.1f} with', flush=True)
    ordered = sorted(losses)
    outside = interval_rank(len(ordered))
    return {'pairs': pairs, 'miss_overhead': statistics.median(losses),
            'miss_overhead_95': [ordered[outside], ordered[-1 - outside]],
            'store_step_ms': spread(steps)}


def handoff(python: str, model: str, folder: str, repeat: int) -> dict[str, Any]:
    bench = vllm_handoff.Handoff(python, model, folder, CPU_MIB, ENGINE_OPTIONS)
    whole = (PROMPT_TOKENS - 1) // 128 * 128
    try:
        rounds = []
        for number in range(-1, repeat):
            one = bench.round(prompt(f'sequential {number}', PROMPT_TOKENS), prompt(f'streaming {number}', PROMPT_TOKENS), whole)
            if number >= 0:     # the first warms up
                rounds.append(one)
                print(f'round {number}: ' + ', '.join(f'{name} {seconds * 1e3:.0f} ms' for name, seconds in one.items()), flush=True)
    finally:
        bench.close()
    cases = {name: spread([one[name] for one in rounds]) for name in rounds[0]}
    hidden = [1 - (one['streaming'] - one['alone_beside']) / one['handed_over'] for one in rounds]
    return {'prompt_tokens': PROMPT_TOKENS, 'repeat': repeat, 'seconds': cases, 'overlap': spread(hidden)}


def interval_rank(count: int) -> int:
    """The rank whose order statistics hold the median with 95 % (binomial, two-sided)."""
    chance, total, rank = 0.5 ** count, 0.0, 0
    while total + chance <= 0.025:
        total += chance
        rank += 1
        chance = chance * (count - rank + 1) / rank
    return max(0, rank - 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--json', default=os.path.join(TOP, 'build', 'bench', 'vllm.json'))
    parser.add_argument('--only', choices=('first-token', 'overhead', 'handoff'))
    parser.add_argument('--repeat', type=int, default=5)
    parser.add_argument('--pairs', type=int, default=51)
    options = parser.parse_args()
    python = environment.python()
    figures: dict[str, Any] = {'cpus': os.cpu_count()}
    with tempfile.TemporaryDirectory(prefix='kvtier-bench-') as folder:
        model = make_model(python, folder, 'benchmark')
        if options.only in (None, 'first-token'):
            figures['first_token'] = first_token(python, model, options.repeat)
        if options.only in (None, 'overhead'):
            figures['overhead'] = overhead(python, model, options.pairs)
        if options.only in (None, 'handoff'):
            figures['handoff'] = handoff(python, model, folder, options.repeat)
    os.makedirs(os.path.dirname(os.path.abspath(options.json)), exist_ok=True)
    with open(options.json, 'w', encoding='utf-8') as file:
        json.dump(figures, file, indent=1)
        file.write('\n')
    for name in ('hit_cpu', 'hit_cpu_async', 'hit_nvme', 'restore_over_cold'):
        if 'first_token' in figures:
            print(f'{name}: {figures["first_token"][name]:.3f}')
    if 'overhead' in figures:
        own = figures['overhead']
        print(f'miss_overhead: {own["miss_overhead"]:.4f} (95 %: {own["miss_overhead_95"][0]:.4f} '
              f'to {own["miss_overhead_95"][1]:.4f})')
        print(f'store_step_ms: {own["store_step_ms"]["median"]:.2f}')
    if 'handoff' in figures:
        own = figures['handoff']
        print(', '.join(f'{name}: {seconds["median"] * 1e3:.0f} ms' for name, seconds in own['seconds'].items()))
        print(f'overlap: {own["overlap"]["median"]:.2f} ({own["overlap"]["least"]:.2f} to {own["overlap"]["most"]:.2f})')
    print(f'written to {options.json}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
