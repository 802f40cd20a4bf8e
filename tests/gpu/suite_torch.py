"""The checks of the suite that need torch: a model's tokens, and what an engine's own work loses while blocks move."""
import json
import os
import signal
import statistics
import sys
import time

import node
from suite_device import Missing, torch_or_missing
from suite_scene import HERE, Process, shared_mib

WINDOWS = 7
WINDOW_SECONDS = 0.5
MATRIX = 8192
SMALL_BYTES = 4096
MODEL_MIB = 6144   # five prompts of a GiB each, and headers


def life(scene, cache, number, device):
    asked = {'socket': cache.socket(), 'library': scene.library, 'life': number, 'device': device}
    process = Process([sys.executable, os.path.join(HERE, 'suite_model.py'), json.dumps(asked)])
    scene.engines.append(process)
    return process.line(120)


def model_node(scene):
    """With room for all prompts: in memory that outlives it, else on a disk, which takes its time."""
    is_warm = shared_mib() > 1.2 * MODEL_MIB
    return scene.node(cpu_mib=MODEL_MIB if is_warm else scene.cpu_mib, nvme_mib=0 if is_warm else MODEL_MIB)


def model_check(scene, device):
    cache = model_node(scene) if device == 'cuda' else scene.node_without_gpu()
    first = life(scene, cache, 1, device)
    cache.wait_quiet()
    cache.kill()
    if device == 'cuda':
        scene.start(cache)
    else:
        cache.start()
    second = life(scene, cache, 2, device)
    assert second['said'] == first['said'], f'other tokens: {first["said"]}, then {second["said"]}'
    assert second['without'] != first['said']['0'], 'the tokens do not depend on the KV cache: they show nothing'
    distinct = len({word for words in second['said'].values() for word in words})
    return {name: second[name] for name in ('tokens', 'mib', 'restore_s', 'compute_s', 'restore_s_all',
                                            'compute_s_all')} | {
        'restore_over_compute': second['restore_s'] / second['compute_s'], 'distinct_tokens': distinct}


def check_model(scene):
    """A model's KV cache, through the GPU's memory and a kill of kvtierd, gives the same tokens; time to the first one."""
    need_torch_gpu(scene)
    return model_check(scene, 'cuda')


def check_model_cpu(scene):
    """The same with a smaller model on the CPU, over host memory."""
    torch_or_missing()
    return model_check(scene, 'cpu')


def need_torch_gpu(scene):
    torch = torch_or_missing()
    if scene.is_fake or not torch.cuda.is_available():
        raise Missing('torch sees no GPU')
    return torch


class Work:
    """What an engine does on the GPU meanwhile, measured window by window."""

    def __init__(self, torch):
        self.torch = torch
        self.a, self.b = (torch.randn(MATRIX, MATRIX, device='cuda', dtype=torch.bfloat16) for _ in range(2))
        self.pinned = torch.zeros(SMALL_BYTES, dtype=torch.uint8, pin_memory=True)
        self.small = torch.zeros(SMALL_BYTES, dtype=torch.uint8, device='cuda')
        self.stream = torch.cuda.Stream()

    def tflops(self):
        end, products = time.perf_counter() + WINDOW_SECONDS, 0
        self.torch.cuda.synchronize()
        started = time.perf_counter()
        while time.perf_counter() < end:
            for _ in range(8):
                self.torch.matmul(self.a, self.b)
            self.torch.cuda.synchronize()
            products += 8
        return products * 2 * MATRIX ** 3 / (time.perf_counter() - started) / 1e12

    def small_copies(self):
        """Microseconds of each."""
        took, end = [], time.perf_counter() + WINDOW_SECONDS
        with self.torch.cuda.stream(self.stream):
            while time.perf_counter() < end:
                started = time.perf_counter()
                self.small.copy_(self.pinned, non_blocking=True)
                self.stream.synchronize()
                took.append((time.perf_counter() - started) * 1e6)
        return took


def check_interference(scene):
    """Products of matrices and 4 KiB copies of an engine, alone and while kvtierd stores and loads at once."""
    torch = need_torch_gpu(scene)
    cache, work = scene.node(nvme_mib=0), Work(torch)
    count = scene.blocks // 2
    loader = scene.engine(cache, 'layers', [['store', 'busy', count]], is_torch=False)
    loader.lines()
    busy = [scene.engine(cache, 'layers', [['drink', 'busy', count]], for_ever=True, is_torch=False),
            scene.engine(cache, 'layers', [['pour', 'more', count // 4]], for_ever=True, is_torch=False)]
    for engine in busy:
        assert engine.line()['step'] == 'connected'
    figures = {'alone': {'tflops': [], 'copies_us': []}, 'beside': {'tflops': [], 'copies_us': []}}
    rates = []
    work.tflops()
    work.small_copies()
    for turn in range(2 * WINDOWS):
        is_beside = turn % 2 == 1
        for engine in busy:
            os.killpg(engine.process.pid, signal.SIGCONT if is_beside else signal.SIGSTOP)
        if not is_beside:
            node.until(lambda: cache.stats()['moves'] == 0, 10, 'no copies')
        before, started = pulled_bytes(cache), time.perf_counter()
        one = figures['beside' if is_beside else 'alone']
        one['tflops'].append(work.tflops())
        one['copies_us'] += work.small_copies()
        if is_beside:
            rates.append((pulled_bytes(cache) - before) / (time.perf_counter() - started) / 1e9)
        for engine in busy:
            drained(engine)
    for engine in busy:
        os.killpg(engine.process.pid, signal.SIGCONT)
        engine.end()
    alone, beside = (statistics.median(figures[which]['tflops']) for which in ('alone', 'beside'))
    assert statistics.median(rates) > 0, 'nothing was copied meanwhile'
    return {'tflops_alone': alone, 'tflops_beside': beside, 'matmul_loss': 1 - beside / alone,
            'copies_gb_s': statistics.median(rates),
            'small_copy_p99_us_alone': node.quantiles(figures['alone']['copies_us'])['p99'],
            'small_copy_p99_us_beside': node.quantiles(figures['beside']['copies_us'])['p99'],
            'tflops_alone_all': figures['alone']['tflops'], 'tflops_beside_all': figures['beside']['tflops']}


def pulled_bytes(cache):
    counters = cache.counters()
    return counters['pulled_stored_bytes'] + counters['pulled_loaded_bytes']


def drained(engine):
    """Its lines are read and forgotten, so that it never waits for us."""
    while part := engine.process.stdout.read(1 << 20):
        engine.rest = part[-1000:]


CHECKS = {'model': (check_model, 180), 'model_cpu': (check_model_cpu, 120), 'interference': (check_interference, 90)}
