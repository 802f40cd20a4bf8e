"""The staging area: every layout is copied through it right, and nothing is reused too early."""
import ctypes
import errno
import os
import sys
import types
import unittest
from unittest import mock

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
try:
    import torch  # noqa: F401
except ImportError as missing:
    raise unittest.SkipTest(f'torch is not here: {missing}')

import numpy   # noqa: E402
from kv_tensors import (BLOCKS, LAYOUTS, engine, gather, layered, make_config,   # noqa: E402
                        make_spec, scramble, shared)
from kvtier import header, library   # noqa: E402
from kvtier.vllm import layout, staged, staging   # noqa: E402
from kvtier.vllm.identity import Refused   # noqa: E402

NAMES = ['layers.0', 'layers.1', 'layers.2']
SECOND = 1_000_000


class FakeDevice:
    """torch.cuda's words. A copy is made at once, but counts as over when finish() was called."""

    def __init__(self):
        self.said = []
        self.is_finished = True
        fake = self

        class Event:
            def record(self, stream):
                fake.said.append(('record', stream))

            def query(self):
                return fake.is_finished

            def synchronize(self):
                fake.is_finished = True

        class Stream:
            def __init__(self, device):
                self.name = 'own'

            def wait_event(self, event):
                fake.said.append(('wait', self))

            def __enter__(self):
                fake.said.append(('enter', self))

            def __exit__(self, *unused):
                fake.said.append(('leave', self))

        self.Event, self.Stream = Event, Stream

    def current_stream(self, device):
        return 'the engine\'s'

    def stream(self, stream):
        return stream


class FakeLibrary:
    """library.Client over the area's rows: stores keep payloads, loads give them back."""

    def __init__(self, options):
        self.planes = [group.planes[0] for group in options.groups]
        self.kept = {}
        self.calls = []
        self.ready = []
        self.is_full = False
        self.holds = False          # jobs end only by let_go()
        self.bad = set()            # hashes that are damaged
        self.jobs = {}
        self.cancelled = []
        self.is_closed = False

    def _begin(self, is_store, blocks, **arguments):
        if self.is_full:
            return -errno.EAGAIN, 0
        job = len(self.calls) + 1
        self.calls.append((is_store, arguments, blocks))
        self.jobs[job] = (is_store, arguments['group'], blocks)
        if not self.holds:
            self.end(job)
        return 0, job

    def store(self, blocks, **arguments):
        return self._begin(True, blocks, **arguments)

    def load(self, blocks, **arguments):
        return self._begin(False, blocks, **arguments)

    def end(self, job):
        is_store, group, blocks = self.jobs.pop(job)
        base, stride, size = self.planes[group]
        results = []
        for row in blocks:
            address = base + int(row['engine_block']) * stride
            name = row['hash'].tobytes()
            if is_store:
                self.kept[name] = read_at(address, size)
            elif name in self.kept and name not in self.bad:
                write_at(address, self.kept[name])
            results.append(0 if is_store or name in self.kept and name not in self.bad
                           else -errno.EBADMSG)
        good = results.count(0)
        self.ready.append(library.Completion(job, is_store, header.DONE, True, len(results), good,
                                             [] if good == len(results) else results))

    def let_go(self):
        for job in list(self.jobs):
            self.end(job)

    def cancel(self, job):
        self.cancelled.append(job)

    def poll(self):
        ready, self.ready = self.ready, []
        return ready

    def wait(self, wait_us_max):
        return bool(self.ready)

    def close(self):
        self.is_closed = True


def read_at(address, size):
    return ctypes.string_at(address, size)


def write_at(address, payload):
    ctypes.memmove(address, payload, len(payload))


def hashes(count, first=0):
    return b''.join(i.to_bytes(32, 'little') for i in range(first + 1, first + count + 1))


class Case(unittest.TestCase):
    def make(self, rows=8, device=None, order='LBHNC', clock=None):
        """A client over a fake library; `rows` payloads fit into the area."""
        self.device = device
        spec = make_spec()
        tensors, self.caches = layered(spec, NAMES, order)
        self.found = layout.layout_of(make_config([(NAMES, spec)], tensors), self.caches, engine())
        scramble(self.caches)
        self.payload = self.found.groups[0].payload_bytes
        self.area = staging.Area(self.found, rows * self.payload + 4096, device)
        options = library.Options('engine', library.WORKER, {}, [
            library.Group('full', 16, self.payload, blocks_count=BLOCKS,
                          planes=self.found.groups[0].planes)])
        with mock.patch.object(library, 'Client', FakeLibrary):
            self.client = staged.Client(options, self.area)
        self.inner = self.client._inner
        return self.client

    def begin(self, is_store, blocks, first=0, deadline_us=60 * SECOND, parent=None):
        array = library.block_array(hashes(len(blocks), first), blocks)
        how = {'space': 0, 'group': 0, 'first_position': first, 'deadline_us': deadline_us,
               'tag': None}
        if is_store:
            return self.client.store(array, parent=parent, **how)
        return self.client.load(array, lease=0, **how)

    def ended(self):
        """How the next job, or jobs, end."""
        while True:
            states = [one.state for one in self.client.poll() if one.state != library.UNDECIDED]
            if states:
                return states

    def payloads(self):
        return [gather(self.found.groups[0], block) for block in range(BLOCKS)]

    def free(self):
        return [len(self.area._free[0, direction]) for direction in (staging.LOAD, staging.STORE)]


class Copies(Case):
    def test_every_layout_comes_back_as_it_was_and_nothing_beside_it_changes(self):
        for order, device in ((order, device) for order in LAYOUTS
                              for device in (None, FakeDevice())):
            with self.subTest(order=order, bounces=device is not None):
                self.make(device=device, order=order)
                before = self.payloads()
                self.begin(True, [4, 0, 2])
                self.client.poll()
                self.assertEqual([self.inner.kept[hashes(1, i)] for i in range(3)],
                                 [before[4], before[0], before[2]])
                scramble(self.caches, seed=8)
                other = self.payloads()
                self.begin(False, [1, 3, 0])
                done = self.client.poll()
                self.assertEqual(self.payloads(), [before[2], before[4], other[2], before[0],
                                                   other[4]])
                self.assertEqual([one.good_count for one in done], [3])

    def test_older_layouts_with_keys_and_values_apart(self):
        spec = make_spec()
        tensors, caches = shared(spec, [['a'], ['b']], (2, BLOCKS, 16, 2, 8))
        found = layout.layout_of(make_config([(['a', 'b'], spec)], tensors), caches, engine())
        scramble(caches)
        group = found.groups[0]
        area = staging.Area(found, 4 * group.payload_bytes + 4096, None)
        buffer = area.take(0, staging.STORE)
        area.copy_in(buffer, numpy.array([3]))
        self.assertEqual(buffer.rows[0].numpy().tobytes(), gather(group, 3))

    def test_layers_at_one_distance_are_one_copy(self):
        self.make(order='LBHNC')
        self.assertEqual([tuple(view.shape[:2]) for _, view in self.area._strips[0].views],
                         [(BLOCKS, len(NAMES))])
        self.make(order='BLNHC')
        self.assertEqual([tuple(view.shape[:2]) for _, view in self.area._strips[0].views],
                         [(BLOCKS, 1)])

    def test_a_copy_runs_on_a_stream_of_its_own_behind_the_engines(self):
        device = FakeDevice()
        self.make(device=device)
        self.begin(True, [1])
        own = self.area._lanes[staging.STORE]._stream
        self.assertEqual(device.said, [('record', 'the engine\'s'), ('wait', own), ('enter', own),
                                       ('record', own), ('leave', own)])
        self.assertIsNot(own, self.area._lanes[staging.LOAD]._stream)

    def test_an_area_for_less_than_two_blocks_is_refused_with_what_would_do(self):
        with self.assertRaises(Refused) as caught:
            self.make(rows=1)
        self.assertIn(f'staging_bytes to {2 * self.payload + 4096} or more',
                      caught.exception.remedy)
        self.make(rows=2)

    def test_the_proof_at_start_goes_through_the_area(self):
        self.make()
        inner = self.inner
        inner.block_read = lambda group, block, size: read_at(
            inner.planes[group][0] + block * size, size)
        inner.block_write = lambda group, block, payload: write_at(
            inner.planes[group][0] + block * len(payload), payload)
        layout.canary(self.found, self.caches, types.SimpleNamespace(num_blocks=BLOCKS),
                      lambda group, block: self.client.block_read(group, block, self.payload),
                      self.client.block_write)
        self.assertEqual(self.free(), [4, 4])


class Jobs(Case):
    def test_a_job_is_cut_into_pieces_that_continue_its_chain(self):
        self.make(rows=4)      # two buffers of one block in each direction
        self.begin(True, [0, 1, 2], first=5, parent=b'p' * 32)
        self.assertEqual(self.ended(), [header.DONE])
        self.assertEqual([(call[1]['first_position'], call[1]['parent'])
                          for call in self.inner.calls],
                         [(5, b'p' * 32), (6, hashes(1, 5)), (7, hashes(1, 6))])
        self.assertEqual(self.free(), [2, 2])

    def test_buffers_are_bounded_and_stores_leave_those_of_loads_alone(self):
        self.make(rows=4)
        self.inner.holds = True
        self.begin(True, [0, 1, 2, 3])
        self.assertEqual((len(self.inner.jobs), self.free()), (2, [2, 0]))
        self.begin(False, [4])
        self.assertEqual(len(self.inner.jobs), 3)
        self.inner.let_go()
        self.client.poll()
        self.assertEqual(len(self.inner.jobs), 2)

    def test_a_stores_blocks_are_free_when_they_are_copied_and_its_end_comes_later(self):
        device = FakeDevice()
        self.make(device=device)
        self.inner.holds = True
        device.is_finished = False
        _, job = self.begin(True, [0])
        self.assertEqual(self.client.poll(), [])
        self.assertEqual(self.inner.calls, [])
        device.is_finished = True
        first, = self.client.poll()
        self.assertEqual((first.job, first.state, first.quiesced), (job, library.UNDECIDED, True))
        self.assertEqual(self.client.poll(), [])
        self.inner.let_go()
        last, = self.client.poll()
        self.assertEqual((last.state, last.quiesced, last.good_count), (header.DONE, True, 1))

    def test_a_load_is_over_when_its_copy_to_the_device_is(self):
        device = FakeDevice()
        self.make(device=device)
        self.begin(True, [0])
        self.client.poll()
        device.is_finished = False
        self.begin(False, [1])
        self.assertEqual(self.client.poll(), [])
        self.assertFalse(self.client.wait(500))
        self.assertEqual(self.free(), [3, 4])
        device.is_finished = True
        self.assertEqual([one.good_count for one in self.client.poll()], [1])
        self.assertEqual(self.free(), [4, 4])

    def test_only_blocks_that_were_proven_reach_the_engine(self):
        self.make(rows=32)
        stored = self.payloads()
        self.begin(True, [0, 1, 2, 3, 4])
        self.client.poll()
        scramble(self.caches, seed=9)
        before = self.payloads()
        self.inner.bad = {hashes(1, 0), hashes(1, 3)}
        self.begin(False, [0, 1, 2, 3, 4])
        done, = self.client.poll()
        self.assertEqual(done.results, [-errno.EBADMSG, 0, 0, -errno.EBADMSG, 0])
        self.assertEqual(self.payloads(), [before[0], stored[1], stored[2], before[3], stored[4]])

    def test_a_cancelled_job_lets_copies_end_and_begins_nothing_more(self):
        device = FakeDevice()
        self.make(rows=4, device=device)
        device.is_finished = False
        _, job = self.begin(True, [0, 1, 2])
        self.client.cancel(job)
        self.assertEqual(self.client.poll(), [])
        device.is_finished = True
        done, = self.client.poll()
        self.assertEqual((done.state, done.results), (header.CANCELLED, [-errno.ECANCELED] * 3))
        self.assertEqual((self.inner.calls, self.free()), ([], [2, 2]))

    def test_the_librarys_jobs_of_a_cancelled_job_are_cancelled(self):
        self.make()
        self.inner.holds = True
        _, job = self.begin(False, [0])
        self.client.cancel(job)
        self.assertEqual(self.inner.cancelled, [1])
        self.client.cancel(99)

    def test_what_finds_no_room_before_its_deadline_is_late(self):
        self.make()
        self.inner.is_full = True
        self.begin(True, [0], deadline_us=1)
        self.begin(False, [1], deadline_us=1)
        self.assertTrue(self.client.wait(SECOND))
        done = self.client.poll()
        self.assertEqual([(one.state, one.results) for one in done],
                         [(header.EXPIRED, [-errno.ETIME])] * 2)
        self.assertEqual(self.free(), [4, 4])

    def test_a_full_library_is_asked_again(self):
        self.make()
        self.inner.is_full = True
        self.begin(True, [0])
        self.assertEqual([one.state for one in self.client.poll()], [library.UNDECIDED])
        self.inner.is_full = False
        self.assertEqual(self.client.poll(), [])
        self.assertEqual([one.state for one in self.client.poll()], [header.DONE])

    def test_jobs_are_bounded(self):
        self.make()
        self.inner.is_full = True
        results = [self.begin(True, [0])[0] for _ in range(staged.JOBS_MAX + 1)]
        self.assertEqual(results, [0] * staged.JOBS_MAX + [-errno.EAGAIN])

    def test_closed_it_uses_no_buffer_again_that_a_copy_may_still_use(self):
        device = FakeDevice()
        self.make(device=device)
        device.is_finished = False
        self.begin(True, [0])
        with mock.patch.object(staged, 'CLOSE_SECONDS', 0.0):
            self.client.close()
        self.assertTrue(self.inner.is_closed)
        self.assertEqual(self.free(), [4, 3])


if __name__ == '__main__':
    unittest.main()
