"""The checks of the suite that need a GPU's driver alone, or the tests' own. Each takes a Scene and gives figures."""
import json
import os
import shutil
import signal
import statistics
import subprocess
import time

import node
from suite_device import Missing, devices, driver_version
from suite_scene import right

CLOSED_SECONDS_MAX = 1.0
ROUNDS_BEFORE_KILL = 3
BENCH_SECONDS = 120
SANITIZER_SECONDS = 100
LAYOUTS = ('block', 'layers', 'split', 'odd')


def check_seen(scene):
    """doctor and status name the GPU, and what is pinned for it."""
    cache = scene.node()
    gpu = scene.gpu(cache)
    said = subprocess.run([node.program('kvtier'), '--socket', os.path.join(cache.run, 'admin.sock'), 'doctor', '-o',
                           'json'], capture_output=True, text=True, timeout=60, check=False,
                          env=dict(os.environ) | cache.environment)
    of_gpu = [one for one in json.loads(said.stdout) if one['check'].startswith('gpu')]
    assert of_gpu, f'doctor says nothing of a GPU: {said.stdout}'
    assert all(one['level'] == 'ok' for one in of_gpu if 'driver' not in one['check']), of_gpu
    seen = devices(scene.library)
    assert scene.bus_id() in [bus for bus, _ in seen], seen
    assert gpu['pinned_bytes'] >= scene.cpu_mib << 20, gpu
    return {'name': gpu['name'], 'driver': driver_version(scene.library), 'gpus': len(seen),
            'pinned_mib': gpu['pinned_bytes'] >> 20}


def check_bytes(scene):
    """An engine process lends its memory: every byte goes and comes, in each layout, to other places."""
    cache, figures = scene.node(), {}
    for layout in LAYOUTS:
        count = scene.blocks // 4
        engine = scene.engine(cache, layout, [['store', layout, count], ['load', layout, count],
                                              ['load', layout, count]])
        connected, *lines = engine.lines()
        for line in lines:
            right(line, count)
        figures[f'{layout}_store_gb_s'] = lines[0]['gb_second']
        figures[f'{layout}_load_gb_s'] = lines[2]['gb_second']
        figures['handle_offset'] = connected['offset']
    pulled = cache.counters()
    assert pulled['pulled_stored_blocks'] == len(LAYOUTS) * count, pulled
    assert pulled['pulled_loaded_blocks'] == 2 * len(LAYOUTS) * count, pulled
    return figures


def check_late_writes(scene):
    """A store that is asked for before its bytes are written waits for the engine's word."""
    cache, count = scene.node(), scene.blocks // 4
    _, late, load = scene.engine(cache, 'layers', [['late', 'late', count], ['load', 'late', count]]).lines()
    right(late, count)
    right(load, count)
    return {'blocks': count}


def check_restart(scene):
    """kvtierd is killed after a store, and once stopped; a new engine finds the bytes."""
    cache, count = scene.node(), scene.blocks // 4
    right(scene.engine(cache, 'layers', [['store', 'kept', count]]).lines()[1], count)
    cache.wait_quiet()
    cache.kill()
    started = time.monotonic()
    scene.start(cache)
    ready = time.monotonic() - started
    right(scene.engine(cache, 'layers', [['load', 'kept', count]]).lines()[1], count)
    cache.stop()
    if cache.warm:
        os.unlink(cache.arena_file())   # nvme alone has them now
    scene.start(cache)
    right(scene.engine(cache, 'layers', [['load', 'kept', count]]).lines()[1], count)
    return {'blocks': count, 'gpu_ready_s': ready}


def amid(engine):
    """Until it is amid a step, some rounds from its start; what it loaded was right."""
    begins = 0
    while begins < ROUNDS_BEFORE_KILL:
        line = engine.line()
        begins += line['step'] == 'begin'
        if line['step'] in ('store', 'load'):
            right(line)


def check_engine_killed(scene):
    """kill -9 of the engine amid stores and loads: what it lent is closed within a second; what is served is right."""
    cache, count, closed = scene.node(), scene.blocks // 4, []
    for verb in ('store', 'load', 'store', 'load'):
        steps = [['store', 'amid', count], ['load', 'amid', count]]
        engine = scene.engine(cache, 'layers', steps if verb == 'load' else steps[:1], for_ever=True)
        assert engine.line()['step'] == 'connected'
        amid(engine)
        engine.end()
        closed.append(scene.nothing_is_lent(cache, 30))
        after = scene.engine(cache, 'layers', [['load', 'amid 0', count], ['store', 'after', count],
                                               ['load', 'after', count]]).lines()
        right(after[1], 0)
        right(after[2], count)
        right(after[3], count)
    node.until(lambda: cache.stats()['moves'] == 0, 30, 'nothing moves any more')
    assert max(closed) <= CLOSED_SECONDS_MAX, f'closed after {closed} s; at most {CLOSED_SECONDS_MAX}'
    return {'kills': len(closed), 'closed_s_median': statistics.median(closed), 'closed_s_max': max(closed)}


def check_process_killed(scene):
    """kill -9 of the GPU's process amid copies: the engine is told, and a new process serves the next one."""
    cache, count, ready = scene.node(), scene.blocks // 4, []
    for turn in range(2):
        engine = scene.engine(cache, 'layers', [['store', f'p{turn}', count], ['load', f'p{turn}', count]],
                              for_ever=True)
        assert engine.line()['step'] == 'connected'
        amid(engine)
        started = time.monotonic()
        os.kill(scene.gpu(cache)['pid'], signal.SIGKILL)
        node.until(lambda: scene.gpu(cache)['restarts'] > turn, 30, 'its death is seen')   # pylint: disable=cell-var-from-loop
        engine.end()
        scene.ready(cache)
        ready.append(time.monotonic() - started)
        lines = scene.engine(cache, 'layers', [['load', f'p{turn} 0', count], ['store', f'q{turn}', count],
                                               ['load', f'q{turn}', count]]).lines()
        right(lines[1], 0)
        right(lines[2], count)
        right(lines[3], count)
    return {'kills': len(ready), 'ready_again_s': max(ready)}


def check_daemon_killed(scene):
    """kill -9 of kvtierd amid copies: the next life serves nothing wrong."""
    cache, count, lives = scene.node(), scene.blocks // 4, 3
    for life in range(lives):
        engine = scene.engine(cache, 'layers', [['store', f'd{life}', count], ['load', f'd{life}', count]],
                              for_ever=True)
        assert engine.line()['step'] == 'connected'
        amid(engine)
        cache.kill()
        engine.end()
        scene.start(cache)
        line = scene.engine(cache, 'layers', [['load', f'd{life} 0', count]]).lines()[1]
        right(line, 0)
    return {'kills': lives}


def check_namespaces(scene):
    """An engine in pid, ipc and mount namespaces of its own, as another container is."""
    if shutil.which('unshare') is None:
        raise Missing('no unshare')
    wrapper = ['unshare', '--fork', '--kill-child', '--pid', '--ipc', '--mount', '--mount-proc']
    tried = subprocess.run([*wrapper, 'true'], capture_output=True, text=True, timeout=30, check=False)
    if tried.returncode != 0:
        raise Missing(f'namespaces are not allowed here: {tried.stderr.strip()}')
    cache, count = scene.node(), scene.blocks // 4
    engine = scene.engine(cache, 'layers', [['store', 'far', count], ['load', 'far', count]], wrapper=wrapper)
    for line in engine.lines()[1:]:
        right(line, count)
    assert cache.counters()['pulled_loaded_blocks'] == count
    engine = scene.engine(cache, 'layers', [['store', 'far', count]], wrapper=wrapper, for_ever=True)
    assert engine.line()['step'] == 'connected'
    amid(engine)
    engine.end()
    return {'blocks': count, 'closed_s': scene.nothing_is_lent(cache, 30)}


def check_memory(scene):
    """What the GPU's process uses of the GPU's own memory: its context, and nothing beside it."""
    if scene.is_fake or shutil.which('nvidia-smi') is None:
        raise Missing('no nvidia-smi')
    cache, count = scene.node(), scene.blocks // 4

    def used():
        pid = scene.gpu(cache)['pid']
        said = subprocess.run(['nvidia-smi', '--query-compute-apps=pid,used_memory', '--format=csv,noheader,nounits'],
                              capture_output=True, text=True, timeout=30, check=True).stdout
        found = dict(line.replace(' ', '').split(',') for line in said.splitlines() if line.strip())
        if str(pid) not in found or not found[str(pid)].isdigit():
            raise Missing(f'nvidia-smi does not show what process {pid} uses here: {said!r}')
        return int(found[str(pid)])
    before = used()
    right(scene.engine(cache, 'layers', [['store', 'm', count], ['load', 'm', count]]).lines()[2], count)
    after = used()
    assert after <= before + 16, f'{before} MiB before copies, {after} after'
    return {'context_mib': before, 'after_copies_mib': after}


def bench(scene, *arguments, seconds=BENCH_SECONDS, wrapper=()):
    """kvtier-bench gpu; (exit status, what it printed)."""
    command = [*wrapper, node.program('kvtier-bench'), 'gpu', '--seconds', str(seconds), *arguments]
    if scene.library:
        command += ['--vendor', 'cuda', '--library', scene.library]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds * 2 + 60, check=False)
    return done.returncode, done.stdout + done.stderr


def machine_make(scene):
    """The tests' own GPU, where no daemon has made one."""
    if scene.is_fake:
        scene.node().stop()


def check_bench(scene):
    """kvtier-bench gpu, whole: rates beside the GPU's own; it compares every byte that it moves."""
    machine_make(scene)
    path = os.path.join(os.environ.get('TMPDIR', '/tmp'), f'kvtier-suite-{os.getpid()}.json')
    small = ['--mib', '4', '--only', 'engine'] if scene.is_fake else []
    status, output = bench(scene, '--json', path, *small, seconds=1 if scene.is_fake else BENCH_SECONDS)
    print(output)
    assert status == 0, f'kvtier-bench gpu ended with {status}:\n{output[-2000:]}'
    with open(path, encoding='utf-8') as file:
        measures = json.load(file)
    os.unlink(path)
    goals = {one['name']: one for one in measures['measures'] if one['goal'] is not None}
    missed = [name for name, one in goals.items() if not is_met(one)]
    return {name: one['ratio'] if one['ratio'] is not None else one['value'] for name, one in goals.items()} | {
        'goals': len(goals), 'missed': ' '.join(missed) or 'none', 'measures': measures}


def is_met(measure):
    """Whether a measure of kvtier-bench reaches its goal, which is of its ratio where it has one."""
    value = measure['value'] if measure['ratio'] is None else measure['ratio']
    return value >= measure['goal'] if measure['better'] == 'more' else value <= measure['goal']


def check_sanitizer(scene):
    """The copy kernel under compute-sanitizer: no access out of bounds, no race."""
    if scene.is_fake:
        raise Missing('the tests\' own driver runs no kernels of a GPU')
    tool = shutil.which('compute-sanitizer') or shutil.which('/usr/local/cuda/bin/compute-sanitizer')
    if tool is None:
        raise Missing('no compute-sanitizer')
    for kind in ('memcheck', 'racecheck'):
        status, output = bench(scene, '--only', 'sweep', '--mib', '4', seconds=2,
                               wrapper=['timeout', str(SANITIZER_SECONDS), tool, '--tool', kind, '--error-exitcode', '99'])
        if 'not supported' in output:
            raise Missing(f'compute-sanitizer: {output.strip()[-300:]}')
        assert status == 0, f'{kind} ended with {status}:\n{output[-3000:]}'
    return {'tools': 2}


CHECKS = {   # name: (what, seconds at most)
    'seen': (check_seen, 60), 'bytes': (check_bytes, 120), 'late_writes': (check_late_writes, 60),
    'restart': (check_restart, 90), 'engine_killed': (check_engine_killed, 120),
    'process_killed': (check_process_killed, 90), 'daemon_killed': (check_daemon_killed, 120),
    'namespaces': (check_namespaces, 90), 'memory': (check_memory, 60), 'bench': (check_bench, 300),
    'sanitizer': (check_sanitizer, 220),
}
