"""An engine of the suite: it has blocks in a GPU's memory, lends them, stores, forgets, loads, and looks at every byte.

A process of its own where a check kills it or puts it in namespaces: suite_engine.py JSON, which prints a line of JSON
for each of its steps. What a block holds is a function of its key, so another process can tell right from wrong.
"""
import ctypes as c
import errno
import json
import os
import random
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(os.path.dirname(HERE), 'system'))
import library        # noqa: E402
import node           # noqa: E402
import suite_device   # noqa: E402
from kvtier.header import (REGION_HANDLE, SCHEDULER, WORKER, Device, Group, Identity, Options, Plane,   # noqa: E402
                           Region)

CONNECT_SECONDS = 20
JOB_SECONDS = 30
JOB_BLOCKS_MAX = 256


class Layout:
    """Planes of `fragment` bytes a block, one behind the other: block b of plane p lies at p * blocks * stride +
    b * stride."""

    def __init__(self, planes, fragment, blocks, stride=0):
        self.planes, self.fragment, self.blocks, self.stride = planes, fragment, blocks, stride or fragment
        self.payload = planes * fragment
        self.bytes = planes * blocks * self.stride

    def at(self, plane, block):
        return (plane * self.blocks + block) * self.stride


def layouts(scale, blocks):
    """scale: 1 for a GPU; less where memory is small. Whole blocks; as vLLM keeps layers, together and K and V apart;
    and bytes that are no power of two with gaps between them."""
    return {'block': Layout(1, (1 << 20) // scale, blocks),
            'layers': Layout(16, (64 << 10) // scale, blocks),
            'split': Layout(64, (32 << 10) // scale, blocks // 2),
            'odd': Layout(7, 1152 * 4 if scale == 1 else 1152, blocks, 1536 * 4 if scale == 1 else 1536)}


class Engine(library.Client):
    """As library.Client, over memory of a GPU."""

    def __init__(self, socket, memory, layout, name='engine'):   # pylint: disable=super-init-not-called
        self.library = library.load_library()
        self.memory, self.layout, self.value, self.waits_itself = memory, layout, 0, False
        planes = (Plane * layout.planes)(*[
            Plane(memory.address + layout.at(plane, 0), layout.stride, layout.fragment)
            for plane in range(layout.planes)])
        group = Group(tokens_per_block=16, blocks_count=layout.blocks, planes_count=layout.planes, planes=planes)
        regions = (Region * len(memory.regions))()
        for region, lent in zip(regions, memory.regions):
            region.address, region.bytes, region.kind = lent.address, lent.size, REGION_HANDLE
            region.handle_offset, region.handle = lent.handle_offset, lent.handle
        device = Device(name=memory.name.encode(), regions_count=len(regions), regions=regions,
                        word_address=memory.word)
        options = Options(socket=socket.encode(), engine=name.encode(), roles=SCHEDULER | WORKER, world=1,
                          identity=Identity(model_content=f'{layout.planes}x{layout.fragment}'.encode()),
                          groups_count=1, groups=c.pointer(group), connect_us_max=1000000, device=c.pointer(device))
        self.kept = (planes, group, regions, device, options)
        # The handles are pointed to, not copied, until the daemon has them.
        self.client = c.c_void_p()
        text = c.create_string_buffer(300)
        result = self.library.kvtier_open(c.byref(self.client), c.byref(options), text, len(text))
        if result < 0:
            raise OSError(-result, text.value.decode())

    def gate(self):
        """For a transfer that waits for all that the engine's stream was given."""
        if self.waits_itself:
            self.memory.settle()
            return 0
        self.value += 1
        self.memory.step(self.value)
        return self.value

    def run(self, verb, hashes, deadline_us=JOB_SECONDS * 1000000, **options):
        """As library.Client.run(), behind the engine's stream; a daemon whose GPU cannot wait for words is waited for."""
        try:
            return super().run(verb, hashes, deadline_us, gate_value=self.gate(), **options)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
        self.waits_itself = True
        return super().run(verb, hashes, deadline_us, gate_value=self.gate(), **options)

    def put(self, block, payload):
        for plane in range(self.layout.planes):
            at = plane * self.layout.fragment
            self.memory.write(self.memory.address + self.layout.at(plane, block),
                              payload[at:at + self.layout.fragment])

    def get(self, block):
        return b''.join(self.memory.read(self.memory.address + self.layout.at(plane, block), self.layout.fragment)
                        for plane in range(self.layout.planes))

    def clear(self):
        self.memory.write(self.memory.address, bytes(self.memory.bytes))


def keys_of(name, count):
    return [node.hash_of(name, i) for i in range(count)]


def store(engine, name, count, seed=1):
    """Fills `count` blocks anywhere in memory and stores them; figures."""
    keys, blocks = keys_of(name, count), random.Random(seed).sample(range(engine.layout.blocks), count)
    for key, block in zip(keys, blocks):
        engine.put(block, node.payload_of(key, engine.layout.payload))
    return moved(engine, 'store', keys, blocks)


def moved(engine, verb, keys, blocks):
    """One after the other, at most JOB_BLOCKS_MAX a job."""
    seconds, good, quiesced, results = 0.0, 0, True, []
    for at in range(0, len(keys), JOB_BLOCKS_MAX):
        part = slice(at, at + JOB_BLOCKS_MAX)
        started = time.monotonic()
        job = engine.run(verb, keys[part], blocks=blocks[part],
                         parent=keys[at - 1] if verb == 'store' and at else None)
        seconds += time.monotonic() - started
        quiesced = quiesced and job.quiesced
        results += job.results or [-5] * len(keys[part])
    good = sum(result in ((0, 1) if verb == 'store' else (0,)) for result in results)   # 1: it was there
    return {'blocks': len(keys), 'good': good, 'quiesced': quiesced, 'results': results,
            'gb_second': len(keys) * engine.layout.payload / max(seconds, 1e-9) / 1e9}


def load(engine, name, count, seed=2):
    """Clears memory and loads `count` blocks to other places; every byte of what is said to have come is looked at, and
    that nothing else was written."""
    keys, blocks = keys_of(name, count), random.Random(seed).sample(range(engine.layout.blocks), count)
    engine.clear()
    figures = moved(engine, 'load', keys, blocks)
    figures['wrong'] = sum(
        engine.get(block) != node.payload_of(key, engine.layout.payload)
        for key, block, result in zip(keys, blocks, figures['results']) if result == 0)
    others = [block for block in range(engine.layout.blocks) if block not in set(blocks)]
    figures['touched'] = sum(any(engine.get(block)) for block in others)
    return figures


def late(engine, name, count, seed=3):
    """A store that begins before its bytes are there: the stream is given them, and then the word."""
    keys, blocks = keys_of(name, count), random.Random(seed).sample(range(engine.layout.blocks), count)
    engine.clear()
    engine.value += 1
    result, job = engine.begin('store', keys, JOB_SECONDS * 1000000, blocks=blocks, gate_value=engine.value)
    if result == -errno.ENOTSUP:
        raise suite_device.Missing('this GPU cannot wait for words')
    if result < 0:
        raise OSError(-result, 'store')
    engine.memory.be_busy()
    for key, block in zip(keys, blocks):
        engine.put(block, node.payload_of(key, engine.layout.payload))
    engine.memory.step(engine.value)
    ended = engine.wait(job, JOB_SECONDS)
    return {'blocks': count, 'good': ended.good, 'quiesced': ended.quiesced, 'results': ended.results}


def pour(engine, name, count):
    """Stores under keys that nobody has had, whatever the blocks hold: only to keep the GPU's copies busy."""
    return moved(engine, 'store', keys_of(f'{name} {time.monotonic_ns()}', count), list(range(count)))


def drink(engine, name, count):
    """Loads, of what `store` left; nobody looks at the bytes."""
    return moved(engine, 'load', keys_of(name, count), list(range(count)))


STEPS = {'store': store, 'load': load, 'late': late, 'pour': pour, 'drink': drink}


def say(**line):
    print(json.dumps(line), flush=True)


def main():
    asked = json.loads(sys.argv[1])
    layout = layouts(asked['scale'], asked['blocks'])[asked['layout']]
    memory = suite_device.Memory(layout.bytes, asked['library'], asked['torch'])
    engine = Engine(asked['socket'], memory, layout)
    engine.connect(CONNECT_SECONDS)
    say(step='connected', offset=memory.regions[0].handle_offset)
    turn = 0
    while True:
        for step, name, count in asked['steps']:
            if asked.get('for_ever'):
                say(step='begin', of=step)
                if step in ('store', 'load'):
                    name = f'{name} {turn % 4}'
            figures = STEPS[step](engine, name, count)
            results = sorted(set(figures.pop('results')))
            say(step=step, results=results, **figures)
        turn += 1
        if not asked.get('for_ever'):
            break
    engine.close()


if __name__ == '__main__':
    try:
        main()
    except suite_device.Missing as missing:
        say(step='missing', why=str(missing))
        sys.exit(77)
