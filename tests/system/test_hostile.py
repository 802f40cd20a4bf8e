"""P6: clients that lie, vanish, scribble and flood harm only themselves.

Each test ends with a bystander: another client of the same daemon stores and loads, its bytes are right, the daemon is
the same process as before, and its memory has not grown beyond a fixed allowance.
"""
import contextlib
import ctypes
import errno
import mmap
import os
import random
import struct
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import frames         # noqa: E402
import node           # noqa: E402
import test_stopped   # noqa: E402
from hostile import Case, PAYLOAD_BYTES, GROWTH_BYTES, chain   # noqa: E402

SEED = int(os.environ.get('KVTIER_TEST_SEED', '4'))
GARBAGE_FRAMES = 5000
CLOSES = 400
NONSENSE_CONNECTIONS, NONSENSE_FRAMES = 400, 100
FLOOD_FRAMES = 20000
SCRIBBLER = '''
import mmap, sys
memory = mmap.mmap(int(sys.argv[1]), int(sys.argv[2]))
print('go', flush=True)
while True:
    for i in range(0, len(memory), 64 * 61):
        memory[i] = (memory[i] + 1) & 255
'''
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2


def punch(fd, offset, size):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, ctypes.c_long(offset), ctypes.c_long(size)) != 0:
        raise OSError(ctypes.get_errno(), 'fallocate')


def random_request(random_of, engine):
    """(kind, body): well formed, so that it passes the check of frames; now and then wrong in what it means."""
    def odd(usual, *others):
        return usual if random_of.random() < 0.98 else random_of.choice(others)

    def number():
        return random_of.choice((0, 1, 2, 3, 63, 1 << 16, (1 << 31) - 1, (1 << 32) - 1))

    def long_number(*usual):
        return random_of.choice(usual + (0, 1, 1 << 32, (1 << 32) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1))

    count = odd(random_of.choice((1, 2, 7, 64)), 0, 1024)
    hashes = [node.hash_of('random', random_of.randrange(40)) for _ in range(count)]
    space, group, first = odd(engine.space, 0, 1, 99, 1 << 31, frames.SPACE_ALL), odd(0, 1, 15), odd(0, number() // 2)
    batch, lease = random_of.randrange(1, 6), long_number(1 << 32 | 1, 1 << 32 | 2)
    payload = engine.window[4096:8192]
    items = [(random_of.randrange(8), odd(4096, 0, 64, 4095, engine.window_bytes - 4096, engine.window_bytes, 1 << 63),
              odd(engine.crcs(payload) if i == 0 else [number()], [], [1] * 256)) for i in range(random_of.randrange(3))]
    builders = (
        (frames.LOOKUP, lambda: frames.lookup_body(space, hashes, lease, first=first, group=group)),
        (frames.STORE, lambda: frames.store_body(space, batch, hashes, long_number(1000000), first=first, group=group,
                                                 parent=random_of.choice((None, bytes(32), hashes[-1:] and hashes[-1])))),
        (frames.COMMIT, lambda: frames.commit_body(batch, [item for item in items if item[2]])),
        (frames.LOAD, lambda: frames.load_body(space, batch, hashes, lease, long_number(1000000), group)),
        (frames.RELEASE, lambda: frames.release_body(batch, [(random_of.randrange(1024), number()) for _ in hashes])),
        (frames.RELEASE, lambda: frames.release_body(batch, [(i, random_of.randrange(2)) for i in range(count)])),
        (frames.CANCEL, lambda: struct.pack('<Q', batch)),
        (frames.LEASE_RELEASE, lambda: struct.pack('<Q', lease)),
        (frames.HINT, lambda: struct.pack('<16sQIIHHI', bytes(16), long_number(), space, random_of.randrange(5), group,
                                          count, 0) + b''.join(hashes)),
        (frames.FORGET, lambda: frames.forget_body(space, random_of.choice((bytes(16), random_of.randbytes(16))))),
        (frames.EXPLAIN, lambda: struct.pack('<16sIHH', bytes(16), space, group, count) + b''.join(hashes)),
        (frames.SPACE, lambda: struct.pack('<II32s', engine.space, 0, random_of.randbytes(32))))
    kind, build = random_of.choice(builders)
    return kind, build()


class Frames(Case):
    settings = {'lease_max': '1s'}

    def valid_frames(self, engine):
        """One of each request, right in every respect."""
        hashes, _ = chain('valid')
        space = engine.space
        return {
            frames.HELLO: frames.hello_body(), frames.STATS: b'',
            frames.REGISTER: frames.register_body('e', 'm', [frames.group_body(PAYLOAD_BYTES)]),
            frames.ATTACH: struct.pack('<Q', engine.token), frames.CANARY: struct.pack('<II', 1, 0),
            frames.SPACE: struct.pack('<II32s', space, 0, hashes[0]), frames.LOOKUP: frames.lookup_body(space, hashes),
            frames.LEASE_RELEASE: struct.pack('<Q', 1), frames.STORE: frames.store_body(space, 1, hashes),
            frames.COMMIT: frames.commit_body(1, [(0, 0, [1])]), frames.LOAD: frames.load_body(space, 1, hashes),
            frames.RELEASE: frames.release_body(1, [(0, 0)]), frames.CANCEL: struct.pack('<Q', 1),
            frames.HINT: struct.pack('<16sQIIHHI', bytes(16), 1, space, 4, 0, 1, 0) + hashes[0],
            frames.FORGET: frames.forget_body(space),
            frames.EXPLAIN: struct.pack('<16sIHH', bytes(16), space, 0, 1) + hashes[0],
            frames.BYPASS: struct.pack('<64s16sII', b'default', bytes(16), 0, 0),
            frames.LEND: bytes(80),
        }

    def connection(self, random_of):
        """A fresh connection: new, greeted, registered or attached."""
        depth = random_of.randrange(4)
        path = self.cache.socket()
        if depth < 2:
            return frames.Connection(path, hello=depth == 1)
        engine = self.cache.engine(f'fuzz {random_of.random()}', attach=depth == 3)
        self.engines.append(engine)
        return engine.data if depth == 3 else engine.control

    def sends(self, packet, random_of):
        """Sends it on a connection; the daemon answers, closes, or says nothing, at once."""
        if self.link is None:
            self.link = self.connection(random_of)
            self.link.socket.setblocking(False)
        try:
            self.link.send_raw(packet)
            while True:
                self.link.receive()
        except BlockingIOError:
            return
        except (frames.Closed, OSError):
            self.drop()

    def drop(self):
        if self.link is not None:
            self.link.close()
        for engine in self.engines:
            engine.close()
        self.link, self.engines = None, []

    def test_garbage_is_refused_and_harms_nobody(self):
        random_of = random.Random(SEED)
        self.link, self.engines = None, []
        with self.cache.engine('pattern') as engine:
            bodies = list(self.valid_frames(engine).items())
        for number in range(node.scaled(GARBAGE_FRAMES)):
            kind, body = random_of.choice(bodies)
            way = random_of.randrange(4)
            if way == 0:
                packet = random_of.randbytes(random_of.choice((1, 31, 32, 33, 200, 4096, 98304, 120000)))
            elif way == 1:
                packet = frames.HEADER.pack(frames.MAGIC, random_of.randrange(90), random_of.randrange(4),
                                            random_of.choice((0, 32, 32 + len(body), 1 << 31)), 0, number, 0) + body
            else:
                changed = bytearray(body)
                for _ in range(random_of.randint(1, 8)):
                    if changed:
                        changed[random_of.randrange(len(changed))] = random_of.choice((0, 1, 127, 128, 255))
                packet = frames.HEADER.pack(frames.MAGIC, kind, random_of.randrange(2), 32 + len(changed), 0, number,
                                            0) + changed
            self.sends(packet, random_of)
            if random_of.random() < 0.05:
                self.drop()
        self.drop()
        with frames.Connection(os.path.join(self.cache.run, 'admin.sock')) as admin:
            admin.ask(frames.BYPASS, struct.pack('<64s16sII', b'', bytes(16), 0, 0))
            for tenant in self.tenants:
                admin.ask(frames.BYPASS, struct.pack('<64s16sII', tenant.encode(), bytes(16), 0, 0))
        self.unharmed()
        self.assertGreater(self.cache.counters()['protocol_errors'], 0)

    def test_well_formed_nonsense_is_refused_or_does_what_it_says(self):
        random_of = random.Random(SEED)
        sent = 0
        for number in range(node.scaled(NONSENSE_CONNECTIONS)):
            engine = self.cache.engine(f'nonsense {number % 7}', model=f'model {number % 3}')
            for link in (engine.control, engine.data):
                link.socket.settimeout(0)
            try:
                for _ in range(NONSENSE_FRAMES):
                    kind, body = random_request(random_of, engine)
                    is_data = kind in (frames.STORE, frames.COMMIT, frames.LOAD, frames.RELEASE, frames.CANCEL)
                    link = engine.data if is_data != (random_of.random() < 0.005) else engine.control
                    with contextlib.suppress(BlockingIOError):
                        link.send(kind, body, random_of.randrange(2) if kind == frames.LOOKUP else 0)
                        sent += 1
                        while random_of.random() < 0.7:
                            link.receive()
            except frames.Closed:
                pass
            engine.close()
            self.assertTrue(self.cache.is_alive(), self.cache.log()[-600:])
        self.assertGreater(sent, 5 * node.scaled(NONSENSE_CONNECTIONS))
        node.until(lambda: all(tenant['leases'] == 0 for tenant in self.cache.stats()['tenants']), 10, 'leases end')
        self.unharmed()

    def test_every_frame_cut_short_is_refused(self):
        with self.cache.engine('pattern') as engine:
            bodies = self.valid_frames(engine)
        for kind, body in bodies.items():
            whole = 32 + len(body)
            for size in sorted({1, 31, 32, 33, whole // 2, whole - 8, whole - 1}):
                if size >= whole:
                    continue
                for claims in (whole, size):
                    if kind in (frames.STATS, frames.LOOKUP) and claims == size == 32:
                        continue
                    with frames.Connection(self.cache.socket()) as link:
                        packet = frames.HEADER.pack(frames.MAGIC, kind, 0, claims, 0, 1, 0) + body
                        link.send_raw(packet[:size])
                        with self.assertRaises((frames.Refused, frames.Closed), msg=f'{kind} {size} {claims}'):
                            link.answer(1)
        self.unharmed()

    def test_frames_that_name_nothing_are_answered_or_refused(self):
        for kind, body in ((frames.STORE, lambda e: frames.store_body(e.space, 1, [])),
                           (frames.LOAD, lambda e: frames.load_body(e.space, 1, [])),
                           (frames.COMMIT, lambda e: frames.commit_body(1, [])),
                           (frames.RELEASE, lambda e: frames.release_body(1, [])),
                           (frames.LOOKUP, lambda e: frames.lookup_body(e.space, [], lease_us=1000)),
                           (frames.EXPLAIN, lambda e: struct.pack('<16sIHH', bytes(16), e.space, 0, 0)),
                           (frames.HINT, lambda e: struct.pack('<16sQIIHHI', bytes(16), 1, e.space, 3, 0, 0, 0))):
            with self.cache.engine('empty') as engine:
                link = engine.control if kind in (frames.LOOKUP, frames.EXPLAIN, frames.HINT) else engine.data
                try:
                    link.send(kind, body(engine), frames.LAST if kind == frames.LOOKUP else 0)
                    link.stats()
                except (frames.Refused, frames.Closed):
                    pass
            self.assertTrue(self.cache.is_alive(), f'{kind}: {self.cache.log()[-300:]}')
        self.unharmed()

    def test_closing_in_the_middle_of_anything_leaves_nothing_behind(self):
        random_of = random.Random(SEED)
        for number in range(node.scaled(CLOSES)):
            hashes, payloads = chain(f'closed {number % 40}', 8)
            path = self.cache.socket()
            stage = number % 9
            if stage < 2:
                link = frames.Connection(path, hello=stage == 1)
                link.close()
                continue
            engine = self.cache.engine(f'closing {number}', attach=stage > 3)
            if stage == 3:
                link = frames.Connection(path, frames.DATA)
                link.send(frames.ATTACH, struct.pack('<Q', engine.token))
                link.close()
            elif stage == 4:
                engine.data.send(frames.STORE, frames.store_body(engine.space, 1, hashes))
            elif stage == 5:
                engine.admissions(hashes)
            elif stage == 6:
                batch, said = engine.admissions(hashes)
                for index in range(random_of.randint(1, len(hashes))):
                    engine.commit(batch, index, payloads[index], index * 4096)
            elif stage == 7:
                engine.data.send(frames.LOAD, frames.load_body(engine.space, 1, chain('bystander 0')[0]))
            else:
                engine.lookup(chain('bystander 0')[0], lease_us=100000)
                engine.control.send(frames.LOOKUP, frames.lookup_body(engine.space, hashes))
            if random_of.random() < 0.5 and engine.data is not None:
                engine.data.close()
            engine.close()
        node.until(lambda: all(tenant['leases'] == 0 for tenant in self.cache.stats()['tenants']), 10, 'leases end')
        self.unharmed()

    def test_a_flood_of_frames_that_nobody_reads_answers_to_is_bounded(self):
        hashes, payloads = chain('flood', 64)
        engine = self.engine()
        engine.store(hashes, payloads)
        for link, kind, body in ((engine.control, frames.STATS, b''),
                                 (engine.data, frames.LOAD, None), (engine.data, frames.STORE, None)):
            link.socket.settimeout(0)
            try:
                for number in range(node.scaled(FLOOD_FRAMES)):
                    if kind == frames.LOAD:
                        body = frames.load_body(engine.space, 1000 + number, hashes, deadline_us=1000000)
                    elif kind == frames.STORE:
                        body = frames.store_body(engine.space, 100000 + number, [node.hash_of('f', number)],
                                                 deadline_us=1000000)
                    link.send(kind, body)
            except (BlockingIOError, frames.Closed):
                pass
            self.bystander(2)
        self.assertLess(self.cache.rss_bytes() - self.memory, GROWTH_BYTES)
        engine.close()
        self.unharmed()

    def test_a_flood_of_forgets_does_not_grow_the_daemon(self):
        """They are answered one by one, each after a sync; what waits has to be bounded."""
        engine = self.engine(attach=False)
        engine.control.socket.settimeout(0)
        sent = 0
        for number in range(node.scaled(FLOOD_FRAMES * 5)):
            try:
                engine.control.send(frames.FORGET, frames.forget_body(engine.space))
                sent += 1
            except BlockingIOError:
                pass
            except frames.Closed:
                break
            try:
                while True:
                    engine.control.receive()
            except (BlockingIOError, frames.Closed):
                pass
        self.assertGreater(sent, 0)
        self.assertLess(self.cache.rss_bytes() - self.memory, GROWTH_BYTES)
        engine.close()
        self.unharmed()


class Memory(Case):
    def test_holes_in_the_window_read_as_wrong_bytes(self):
        engine = self.engine()
        hashes, payloads = chain('holes')
        batch, said = engine.admissions(hashes)
        self.assertEqual(set(said), {frames.ADMITTED})
        for index, payload in enumerate(payloads):
            engine.window[index * 4096:(index + 1) * 4096] = payload
        punch(engine.window_fd, 0, 8 * 4096)
        engine.data.send(frames.COMMIT, frames.commit_body(
            batch, [(i, i * 4096, engine.crcs(payloads[i])) for i in range(len(hashes))]))
        results = engine.committed(batch, len(hashes))
        self.assertEqual([results[i] == 0 for i in range(16)], [False] * 8 + [True] * 8)
        self.assertEqual(engine.load(hashes), [None] * 8 + payloads[8:])
        engine.close()
        self.unharmed()

    def test_the_window_cannot_be_resized(self):
        engine = self.engine()
        for size in (0, 4096, engine.window_bytes * 2):
            with self.assertRaises(PermissionError):
                os.ftruncate(engine.window_fd, size)

    def test_stored_blocks_cannot_be_written_by_a_client(self):
        engine = self.engine()
        hashes, payloads = chain('mine')
        engine.store(hashes, payloads)
        arena = engine.data.fds[0]
        with self.assertRaises(PermissionError):
            mmap.mmap(arena, 1 << 20, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE).close()
        for harm in (lambda: os.write(arena, b'x'), lambda: os.ftruncate(arena, 0), lambda: punch(arena, 0, 1 << 22)):
            with self.assertRaises(OSError):
                harm()
        again = os.open(f'/proc/self/fd/{arena}', os.O_RDWR)   # as root: the seals have to hold
        self.addCleanup(os.close, again)
        with self.assertRaises(PermissionError):
            mmap.mmap(again, 1 << 20, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE).close()
        for harm in (lambda: os.write(again, b'x'), lambda: os.ftruncate(again, 0), lambda: punch(again, 0, 1 << 22)):
            with self.assertRaises(OSError):
                harm()
        self.assertEqual(engine.load(hashes), payloads)
        engine.close()
        self.unharmed()

    def test_a_window_that_changes_during_commit_stores_the_stated_bytes_or_nothing(self):
        engine = self.engine()
        scribbler = subprocess.Popen([sys.executable, '-c', SCRIBBLER, str(engine.window_fd), str(64 * 4096)],
                                     pass_fds=[engine.window_fd], stdout=subprocess.PIPE)
        node.running.add(scribbler)
        scribbler.stdout.readline()
        outcomes = {True: 0, False: 0}
        for number in range(node.scaled(60, least=10)):
            hashes, payloads = chain(f'scribbled {number}')
            results = engine.store(hashes, payloads)
            self.assertEqual(set(results) - {0, -errno.EBADMSG}, set())
            for payload, expected, result in zip(engine.load(hashes), payloads, results):
                outcomes[result == 0] += 1
                self.assertEqual(payload, expected if result == 0 else None)
        scribbler.kill()
        scribbler.communicate()
        node.running.discard(scribbler)
        self.assertGreater(outcomes[False], 0, 'the scribbler changed nothing in time')
        engine.close()
        self.unharmed()

    def test_a_client_stopped_past_its_lease_and_resumed_never_believes_other_bytes(self):
        """The client is stopped and resumed by turns, with deadlines far shorter than its stops, while another one
        overwrites the arena again and again."""
        hashes, payloads = test_stopped.chain('known')
        with self.cache.engine('known', payload_bytes=test_stopped.PAYLOAD_BYTES) as engine:
            engine.store(hashes, payloads)
        case = test_stopped.Stopped('client_start')
        case.cache = self.cache
        process = case.client_start('client-stopped')
        duty = test_stopped.Duty(process.pid, stopped=0.12, running=0.02)
        duty.start()
        try:
            with self.cache.engine('churn', model='churn', payload_bytes=16384) as churn:
                number = 0
                while process.poll() is None and number < 2000:
                    churn.store(*chain(f'churn {number}', 64, 16384))
                    number += 1
        finally:
            duty.stop()
        out, err = process.communicate(timeout=120)
        node.running.discard(process)
        self.assertEqual(process.returncode, 0, err[-2000:])
        said = eval(out)   # of our own process
        self.assertEqual(said['wrong'], 0)
        self.unharmed()

    def test_a_slot_read_after_its_deadline_is_another_block_or_fails_its_checksum(self):
        engine = self.engine()
        hashes, payloads = chain('late', 8)
        engine.store(hashes, payloads)
        engine.data.send(frames.LOAD, frames.load_body(engine.space, 900, hashes, deadline_us=50000))
        items = engine.loaded(900, len(hashes))
        with self.cache.engine('churn', model='churn') as churn:
            def overwritten():
                churn.store(*chain(f'late churn {churn.batches}', 256))
                return any(engine.payload(offset) != payloads[i] for i, (_, offset, _, _) in items.items())
            node.until(overwritten, 20, 'the slots hold other blocks')
        for index, (_, offset, _, _) in items.items():
            payload = engine.payload(offset)
            self.assertEqual(frames.crc32c(payload) == frames.crc32c(payloads[index]), payload == payloads[index])
        engine.data.send(frames.RELEASE, frames.release_body(900, [(i, 1) for i in items]))
        engine.close()
        self.unharmed()


if __name__ == '__main__':
    unittest.main()
