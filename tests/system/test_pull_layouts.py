"""What an engine may lend: by handle or by descriptors, in every layout of tests/transfer/layout_eras.c, in many groups.

Each block's bytes are where shapes and strides say; all lent memory is looked at, so a byte beside a block is seen, too.
"""
import ctypes as c
import json
import os
import random
import re
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import library     # noqa: E402
import node        # noqa: E402
import test_gpus   # noqa: E402
import test_pull   # noqa: E402
from kvtier.header import (REGION_FDS, REGION_HANDLE, SCHEDULER, WORKER, Device, Group, Identity, Options, Plane,   # noqa: E402
                           Region)

ERAS = os.path.join(node.BUILD, 'tests/transfer/test_layout_eras')
BLOCKS = 8
PAGE = 4096
PAYLOAD_MIN = 4096
FDS_MAX = 250
POSIX_FD, ON_DEVICE, READ_WRITE = 1, 1, 3


class Properties(c.Structure):
    _fields_ = [('type', c.c_int), ('handle_type', c.c_int), ('location_type', c.c_int), ('location', c.c_int),
                ('unused', c.c_void_p), ('flags', c.c_ubyte * 8)]


class Access(c.Structure):
    _fields_ = [('location_type', c.c_int), ('location', c.c_int), ('flags', c.c_int)]


def sizes_of(size):
    """A region's segments, none like the one before."""
    sizes, left = [], size
    while left > 0:
        sizes.append(min(left, (len(sizes) + 1) * PAGE) if len(sizes) < 3 else left)
        left -= sizes[-1]
    return sizes


class Memory:
    """A region of device memory that the engine owns."""

    def __init__(self, driver, size, sizes=None):
        self.driver, self.address, self.handle = driver, c.c_uint64(), test_pull.Handle()
        self.sizes, self.size = sizes, sum(sizes) if sizes else size
        self.fds, self.made = [], []
        if sizes:
            self.map()
            return
        driver.must('cuMemAlloc_v2', c.byref(self.address), c.c_size_t(size))
        driver.must('cuIpcGetMemHandle', c.byref(self.handle), self.address)

    def map(self):
        must, how = self.driver.must, Properties(1, POSIX_FD, ON_DEVICE)
        must('cuMemAddressReserve', c.byref(self.address), c.c_size_t(self.size), c.c_size_t(0), c.c_uint64(0),
             c.c_ulonglong(0))
        at = self.address.value
        for size in self.sizes:
            one, fd = c.c_uint64(), c.c_int()
            must('cuMemCreate', c.byref(one), c.c_size_t(size), c.byref(how), c.c_ulonglong(0))
            must('cuMemMap', c.c_uint64(at), c.c_size_t(size), c.c_size_t(0), one, c.c_ulonglong(0))
            must('cuMemExportToShareableHandle', c.byref(fd), one, c.c_int(POSIX_FD), c.c_ulonglong(0))
            self.fds.append(fd.value)
            self.made.append(one)
            at += size
        must('cuMemSetAccess', self.address, c.c_size_t(self.size), c.byref(Access(ON_DEVICE, 0, READ_WRITE)),
             c.c_size_t(1))

    def close_fds(self):
        """The library has its own of them."""
        while self.fds:
            os.close(self.fds.pop())

    def close(self):
        must = self.driver.must
        if not self.sizes:
            must('cuMemFree_v2', self.address)
            return
        for (at, size), one in zip(self.segments(), self.made):
            must('cuMemUnmap', c.c_uint64(self.address.value + at), c.c_size_t(size))
            must('cuMemRelease', one)
        must('cuMemAddressFree', self.address, c.c_size_t(self.size))

    def segments(self):
        at = 0
        for size in self.sizes or [self.size]:
            yield at, size
            at += size

    def write(self, image):
        for at, size in self.segments():
            self.driver.write(self.address.value + at, bytes(image[at:at + size]))

    def read(self):
        image = bytearray()
        for at, size in self.segments():
            part = c.create_string_buffer(size)
            self.driver.must('cuMemcpyDtoHAsync_v2', part, c.c_uint64(self.address.value + at), c.c_size_t(size),
                             self.driver.stream)
            image += part.raw
        return image

    def region(self):
        region = Region(address=self.address.value, bytes=self.size, kind=REGION_FDS if self.sizes else REGION_HANDLE)
        if self.sizes:
            region.fds_count = len(self.fds)
            region.fds = (c.c_int * len(self.fds))(*self.fds)
            region.fd_bytes = (c.c_uint64 * len(self.sizes))(*self.sizes)
        else:
            region.handle = c.cast(c.byref(self.handle), c.c_char_p)
        return region


def eras_read():
    printed = subprocess.run([ERAS, '--print'], capture_output=True, text=True, timeout=60, check=True).stdout
    return [grown(json.loads(line)) for line in printed.splitlines()]


def grown(era):
    """With elements so many times as large that no block is smaller than those that kvtierd takes."""
    times = max(-(-PAYLOAD_MIN // sum(size for _, _, _, size in group['planes'])) for group in era['groups'])
    for group in era['groups']:
        for row in [*group['planes'], *(run for block in group['blocks'] for run in block)]:
            row[1:] = [times * one for one in row[1:]]
    return era


def region_sizes(groups):
    """Whole pages, so that there are bytes behind the last block."""
    ends = {}
    for group in groups:
        for region, at, size in (run for block in group['blocks'] for run in block):
            ends[region] = max(ends.get(region, 0), at + size)
    return [(ends[region] // PAGE + 1) * PAGE for region in range(len(ends))]


def lent_fds_of(pid):
    """Descriptors of device memory, and of the words that come with it."""
    found, folder = [], f'/proc/{pid}/fd'
    for name in os.listdir(folder):
        try:
            target = os.readlink(os.path.join(folder, name))
        except FileNotFoundError:
            continue
        found += [target] if re.search(r'memory-|memfd:kvtier-job-words', target) else []
    return found


class Driver(test_pull.Driver):
    def __init__(self, folder):   # pylint: disable=super-init-not-called
        self.open(folder)


class Lender(library.Client):
    """An engine of some groups, each {'planes': [[region, offset, stride, bytes]], 'blocks': [runs of each]}."""

    def __init__(self, socket, name, memories, groups):   # pylint: disable=super-init-not-called
        self.library, self.client = library.load_library(), c.c_void_p()
        made = (Group * len(groups))()
        for one, group in zip(made, groups):
            planes = [Plane(memories[region].address.value + offset, stride, size)
                      for region, offset, stride, size in group['planes']]
            one.tokens_per_block, one.blocks_count = group.get('tokens', 16), len(group['blocks'])
            one.planes_count, one.planes = len(planes), (Plane * len(planes))(*planes)
        regions = (Region * len(memories))(*[memory.region() for memory in memories])
        device = Device(name=test_pull.BUS_ID.encode(), regions_count=len(memories), regions=regions)
        options = Options(socket=socket.encode(), engine=b'engine', roles=SCHEDULER | WORKER, world=1,
                          identity=Identity(model_content=name.encode()), groups_count=len(groups), groups=made,
                          connect_us_max=20000000, device=c.pointer(device))
        text = c.create_string_buffer(200)
        result = self.library.kvtier_open(c.byref(self.client), c.byref(options), text, len(text))
        if result < 0:
            raise OSError(-result, text.value.decode())


def whole(size, count, region=0):
    """A group of `count` blocks that lie one behind the other."""
    return {'planes': [[region, 0, size, size]], 'blocks': [[[region, i * size, size]] for i in range(count)]}


def gather(images, runs):
    return b''.join(bytes(images[region][at:at + size]) for region, at, size in runs)


def scatter(images, runs, payload):
    for region, at, size in runs:
        images[region][at:at + size], payload = payload[:size], payload[size:]


class Layouts(test_gpus.Case):
    def begin(self):
        """A node with a GPU that is ready, and an engine's driver."""
        cache = self.node()
        os.environ['KVTIER_FAKE_GPU'] = cache.environment['KVTIER_FAKE_GPU']
        self.addCleanup(os.environ.pop, 'KVTIER_FAKE_GPU')
        cache.start()
        return cache, Driver(cache.folder), self.ready(cache)['pid']

    def nothing_is_left(self, cache):
        """All that was lent is closed, and so are its descriptors, in both processes."""
        node.until(lambda: self.gpu(cache)['lent_memories'] == 0, 10, 'all memory was given back')
        for pid in (cache.process.pid, self.gpu(cache)['pid']):
            node.until(lambda: not lent_fds_of(pid), 10, 'all descriptors are closed')   # pylint: disable=cell-var-from-loop

    def go_and_come(self, client, name, memories, groups, numbers):
        """Stores blocks (numbers[i]: those of group i), overwrites all, loads each into another one's place, and
        looks at all that was lent."""
        chance = random.Random(name)
        images = [bytearray(chance.randbytes(memory.size)) for memory in memories]
        for memory, image in zip(memories, images):
            memory.write(image)
        keys = [[node.hash_of(name, i, block) for block in wanted] for i, wanted in enumerate(numbers)]
        payloads = [[gather(images, group['blocks'][block]) for block in wanted]
                    for group, wanted in zip(groups, numbers)]
        for i, wanted in enumerate(numbers):
            self.done(client.run('store', keys[i], blocks=wanted, group=i), f'{name}, store of group {i}')
        images = [bytearray(chance.randbytes(memory.size)) for memory in memories]
        for memory, image in zip(memories, images):
            memory.write(image)
        for i, (group, wanted) in enumerate(zip(groups, numbers)):
            places = chance.sample(wanted, len(wanted))
            self.done(client.run('load', keys[i], blocks=places, group=i), f'{name}, load of group {i}')
            for place, payload in zip(places, payloads[i]):
                scatter(images, group['blocks'][place], payload)
        for i, (memory, image) in enumerate(zip(memories, images)):
            found = memory.read()
            if found != image:
                at = next(n for n in range(len(image)) if found[n] != image[n])
                self.fail(f'{name}: region {i} differs from byte {at} on')

    def done(self, job, what):
        self.assertEqual((job.state, set(job.results), job.quiesced), (library.DONE, {0}, True), what)

    def shuffled(self, name, groups):
        """Block numbers; groups that lie over the same bytes have each its own, as engines give them out."""
        numbers = list(range(BLOCKS))
        random.Random(name).shuffle(numbers)
        part = BLOCKS // len(groups)
        return [numbers[i * part:(i + 1) * part] for i in range(len(groups))]

    def test_every_layout_goes_and_comes_by_descriptors_and_by_handle(self):
        cache, driver, pid = self.begin()
        eras = eras_read()
        self.assertGreater(len(eras), 30)
        for i, era in enumerate(eras):
            groups, name = era['groups'], era['name']
            # Neighbours differ in kind, and each layout begins with the other kind than the one before.
            memories = [Memory(driver, size, None if (i + region) % 2 else sizes_of(size))
                        for region, size in enumerate(region_sizes(groups))]
            with Lender(cache.socket(), name, memories, groups) as client:
                for memory in memories:
                    memory.close_fds()
                self.go_and_come(client, name, memories, groups, self.shuffled(name, groups))
            for memory in memories:
                memory.close()
        counters = cache.counters()
        self.assertEqual([counters[f'pulled_{way}_blocks'] for way in ('stored', 'loaded')], 2 * [BLOCKS * len(eras)])
        self.nothing_is_left(cache)
        self.assertEqual(self.gpu(cache)['pid'], pid)
        cache.stop()

    def test_groups_of_unlike_layers_and_block_sizes_go_and_come_in_one_layout(self):
        """As hybrid models have them, each in memory of its own, with as many blocks as it needs."""
        cache, driver, _ = self.begin()
        eras = {era['name']: era['groups'][0] for era in eras_read()}
        groups, first = [], 0
        for name, count, tokens in (('0.22 FlashAttention, K first, NHD', 8, 16), ('BHLNC', 7, 32),
                                    ('Mamba, two tensors in a padded page of 1024 bytes', 3, 256),
                                    ('MLA with DSA\'s indexer layers, an allocation each', 5, 64),
                                    ('LHBNC, 4 kernel blocks in a block', 6, 64)):
            groups.append({'tokens': tokens,
                           'planes': [[first + plane[0], *plane[1:]] for plane in eras[name]['planes']],
                           'blocks': [[[first + run[0], *run[1:]] for run in block]
                                      for block in eras[name]['blocks'][:count]]})
            first += 1 + max(plane[0] for plane in eras[name]['planes'])
        memories = [Memory(driver, size, sizes_of(size) if region % 3 else None)
                    for region, size in enumerate(region_sizes(groups))]
        with Lender(cache.socket(), 'hybrid', memories, groups) as client:
            numbers = [random.Random(i).sample(range(len(group['blocks'])), len(group['blocks']))
                       for i, group in enumerate(groups)]
            self.go_and_come(client, 'hybrid', memories, groups, numbers)
            self.go_and_come(client, 'again', memories, groups, [one[:2] for one in numbers])
        cache.stop()

    def test_as_many_descriptors_as_may_be_are_lent_and_one_more_is_refused(self):
        cache, driver, _ = self.begin()
        memory, groups = Memory(driver, 0, FDS_MAX * [PAGE]), [whole(FDS_MAX * PAGE // BLOCKS, BLOCKS)]
        with Lender(cache.socket(), 'many', [memory], groups) as client:
            self.go_and_come(client, 'many', [memory], groups, self.shuffled('many', groups))
        self.nothing_is_left(cache)
        memory.fds.append(memory.fds[0])
        memory.sizes.append(PAGE)
        memory.size += PAGE
        with self.assertRaisesRegex(OSError, f'fds_count is {FDS_MAX + 1}, at most {FDS_MAX} are right'):
            Lender(cache.socket(), 'more', [memory], groups)
        cache.stop()

    def test_descriptors_that_are_not_what_was_said_are_refused_and_the_process_goes_on(self):
        cache, driver, pid = self.begin()
        groups = [whole(PAGE, BLOCKS)]
        for wrong in ('of no device', 'larger than said'):
            memory = Memory(driver, 0, [3 * PAGE, 5 * PAGE])
            if wrong == 'of no device':
                os.dup2(os.memfd_create('memory-of-none'), memory.fds[1])
            else:
                memory.sizes = [4 * PAGE, 4 * PAGE]
            with self.assertRaisesRegex(OSError, 'cuMem'):
                Lender(cache.socket(), wrong, [memory], groups)
        self.nothing_is_left(cache)
        memory = Memory(driver, 0, [3 * PAGE, 5 * PAGE])
        with Lender(cache.socket(), 'right', [memory], groups) as client:
            self.go_and_come(client, 'right', [memory], groups, self.shuffled('right', groups))
        self.assertEqual(self.gpu(cache)['pid'], pid)
        cache.stop()


if __name__ == '__main__':
    unittest.main()
