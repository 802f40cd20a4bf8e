"""What the checks of the suite share: the machine that they run on, a kvtierd that has its GPU, and engines beside it."""
import json
import os
import select
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), 'system'))
import node           # noqa: E402
import suite_device   # noqa: E402

CONTROL_BYTES = 1 << 20   # of the tests' own driver: more than its page takes
READY_SECONDS = 60
ENGINE_SECONDS = 90


def shared_mib():
    """What is free in /dev/shm, which containers often have little of."""
    try:
        room = os.statvfs('/dev/shm')
    except OSError:
        return 0
    return room.f_bavail * room.f_frsize >> 20


class Scene:
    """is_fake: the driver is the tests' own. Sizes are chosen by it; 1 GiB of host memory is enough for a GPU."""

    def __init__(self, library, is_fake):
        self.library, self.is_fake = library, is_fake
        self.scale = 16 if is_fake else 1
        self.blocks = 64 if is_fake else 512
        self.cpu_mib, self.nvme_mib = (16, 64) if is_fake else (2048, 4096)
        self.nodes, self.engines = [], []
        self.is_torch = False
        if not is_fake:
            try:
                self.is_torch = suite_device.torch_or_missing().cuda.is_available()
            except suite_device.Missing:
                pass

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        for engine in self.engines:
            engine.end()
        for cache in self.nodes:
            cache.__exit__()

    def bus_id(self):
        return '0000:17:00.0' if self.is_fake else suite_device.devices(self.library)[0][0]

    def node(self, cpu_mib=None, nvme_mib=None, **settings):
        """A daemon with the first GPU, ready. Its memory outlives it where /dev/shm has room for that."""
        if self.library:
            settings['gpu_library'] = self.library
        cpu_mib = cpu_mib or self.cpu_mib
        cache = node.Node(cpu_mib=cpu_mib, nvme_mib=self.nvme_mib if nvme_mib is None else nvme_mib,
                          warm=('default',) if shared_mib() > 1.2 * cpu_mib else (), gpus=f'cuda:{self.bus_id()}',
                          extent_bytes='1MiB' if self.is_fake else '64MiB', **settings)
        self.nodes.append(cache)
        if self.is_fake:
            machine = os.path.join(cache.state, 'gpu')
            cache.environment['KVTIER_FAKE_GPU'] = os.environ['KVTIER_FAKE_GPU'] = machine
            os.mkdir(machine, 0o700)
            with open(os.path.join(machine, 'control'), 'wb') as file:
                file.truncate(CONTROL_BYTES)
        self.start(cache)
        return cache

    def node_without_gpu(self):
        cache = node.Node(cpu_mib=self.cpu_mib, nvme_mib=self.nvme_mib, warm=('default',), window_bytes='16MiB')
        self.nodes.append(cache)
        cache.start()
        return cache

    def start(self, cache):
        """Until its GPU is ready; its line of the status."""
        cache.start()
        return self.ready(cache)

    def gpu(self, cache):
        gpus = cache.stats()['gpus']
        assert len(gpus) == 1, gpus
        return gpus[0]

    def ready(self, cache):
        end = time.monotonic() + READY_SECONDS
        while (gpu := self.gpu(cache))['state'] != 'ready':
            if time.monotonic() > end or not cache.is_alive():
                raise AssertionError(f'the GPU is not ready within {READY_SECONDS} s: {gpu}\n{cache.log()}')
            select.select([], [], [], 0.01)
        return gpu

    def engine(self, cache, layout, steps, wrapper=(), for_ever=False, is_torch=None):
        """A process; what it does is in suite_engine.py."""
        asked = {'socket': cache.socket(), 'library': self.library, 'scale': self.scale, 'blocks': self.blocks,
                 'layout': layout, 'steps': steps, 'for_ever': for_ever,
                 'torch': self.is_torch if is_torch is None else is_torch}
        engine = Process([*wrapper, sys.executable, os.path.join(HERE, 'suite_engine.py'), json.dumps(asked)])
        self.engines.append(engine)
        return engine

    def nothing_is_lent(self, cache, seconds):
        """After how many seconds that was so."""
        started = time.monotonic()
        node.until(lambda: self.gpu(cache)['lent_memories'] == 0, seconds, 'what the engine lent is closed')
        return time.monotonic() - started


class Process:
    """An engine that says what it did, a line a step."""

    def __init__(self, command):
        environment = {name: value for name, value in os.environ.items() if name != 'KVTIER_FAILPOINT'}
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, env=environment, start_new_session=True)
        os.set_blocking(self.process.stdout.fileno(), False)
        self.rest = b''

    def line(self, seconds=ENGINE_SECONDS):
        """The next step; None: it has ended well."""
        end = time.monotonic() + seconds
        while b'\n' not in self.rest:
            left = end - time.monotonic()
            if left <= 0:
                raise AssertionError(f'the engine says nothing for {seconds} s')
            if not select.select([self.process.stdout], [], [], left)[0]:
                continue
            part = self.process.stdout.read(65536)
            if part == b'':
                return self.ended()
            self.rest += part or b''
        line, _, self.rest = self.rest.partition(b'\n')
        said = json.loads(line)
        if said['step'] == 'missing':
            raise suite_device.Missing(said['why'])
        return said

    def ended(self):
        status = self.process.wait(ENGINE_SECONDS)
        if status != 0:
            raise AssertionError(f'the engine ended with {status}: '
                                 f'{self.process.stderr.read().decode(errors="replace")[-2000:]}')

    def lines(self):
        """Until its end."""
        found = []
        while (line := self.line()) is not None:
            found.append(line)
        return found

    def end(self):
        """kill -9 of it and what it started, if there is anything left."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()


def right(line, least=1):
    """A step in which at least `least` blocks went over, and no byte was wrong."""
    counts = {name: line.get(name, 0) for name in ('wrong', 'touched')}
    assert not any(counts.values()), f'wrong bytes: {line}'
    assert line['quiesced'], f'still under way: {line}'
    assert line['good'] >= least, f'less than {least} blocks went over: {line}'
    node.counted['checked_blocks'] += line['good']
    return line
