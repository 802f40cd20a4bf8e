"""P2: no engine waits without a bound, whatever the daemon does: stopped, killed, missing, slow, full.

Each call's time beyond its deadline is measured; the promise is 10 ms, and build/tests/stopped.json says p99 and max
of this machine. What fails the test is generous (a loaded machine schedules late): LATE_SECONDS. After a job has said
that it is quiescent its engine memory is made untouchable: a copy that still came would end the process by SIGSEGV.
"""
import contextlib
import errno
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import frames   # noqa: E402
import library   # noqa: E402
import node      # noqa: E402

PROMISED_SECONDS = 0.010
LATE_SECONDS = 0.250
CALLS = 400
BLOCKS = 32
PAYLOAD_BYTES = 16384
QUIESCE_SECONDS = 40
lateness = {}


def chain(name, count=BLOCKS):
    hashes = [node.hash_of(name, i) for i in range(count)]
    return hashes, [node.payload_of(h, PAYLOAD_BYTES) for h in hashes]


class Duty(threading.Thread):
    """Stops and resumes a process by turns."""

    def __init__(self, pid, stopped, running):
        super().__init__()
        self.pid, self.turns = pid, ((signal.SIGSTOP, stopped), (signal.SIGCONT, running))
        self.end_read, self.end_write = os.pipe()

    def run(self):
        while True:
            for number, seconds in self.turns:
                try:
                    os.kill(self.pid, number)
                except ProcessLookupError:
                    return
                if select.select([self.end_read], [], [], seconds)[0]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(self.pid, signal.SIGCONT)
                    return

    def stop(self):
        os.write(self.end_write, b'x')
        self.join()
        os.close(self.end_read)
        os.close(self.end_write)


def client_main(socket, situation, seed, calls):
    """A process of its own: calls by turns, each with a deadline; prints how late each was. Dies by SIGSEGV if its
    memory is touched after quiescence."""
    random_of = random.Random(f'{situation} {seed}')
    late = {}
    unquiet = checked = wrong = 0

    def timed(name, deadline_us, call):
        started = time.monotonic()
        value = call()
        late.setdefault(name, []).append(time.monotonic() - started - deadline_us / 1e6)
        return value

    with library.Client(socket, payload_bytes=PAYLOAD_BYTES, blocks=BLOCKS) as client:
        if situation != 'missing':
            client.connect()
        print('begun', flush=True)
        for call in range(calls):
            deadline_us = random_of.choice((1000, 5000, 20000, 50000))
            known, known_payloads = chain('known')
            timed('lookup', deadline_us, lambda: client.lookup(known, deadline_us))
            if call % 7 == 0:
                timed('connect', deadline_us,
                      lambda: client.library.kvtier_connect(client.client, deadline_us, None, 0))
                timed('forget', deadline_us, lambda: client.forget(deadline_us, space=7))
                timed('stats', deadline_us, lambda: client.stats(deadline_us))
            client.protect(True)
            is_store = call % 2 == 0
            hashes, payloads = chain(f'{situation} {seed} {call}', 8) if is_store else (known, known_payloads)
            if is_store:
                for i, payload in enumerate(payloads):
                    client.put(i, payload)
            result, number = client.begin('store' if is_store else 'load', hashes, deadline_us)
            if result < 0:
                continue
            job = client.wait(number, QUIESCE_SECONDS)
            if job.done_seconds is None or not job.quiesced:
                unquiet += 1
                continue
            late.setdefault('store' if is_store else 'load', []).append(job.done_seconds - deadline_us / 1e6)
            late.setdefault('quiesced', []).append(job.quiesced_seconds - deadline_us / 1e6)
            if not is_store and job.state == library.DONE:
                for i, result in enumerate(job.results):
                    checked += result == 0
                    wrong += result == 0 and client.get(i) != payloads[i]
            client.protect(False)   # until the next job: the calls before it take their time
        client.protect(True)
    print(repr({'late': late, 'unquiet': unquiet, 'checked': checked, 'wrong': wrong}))


class Stopped(unittest.TestCase):
    def setUp(self):
        self.cache = node.Node(cpu_mib=4, nvme_mib=16)
        self.addCleanup(self.cache.__exit__)

    @classmethod
    def tearDownClass(cls):
        figures = {}
        for situation, calls in lateness.items():
            figures[situation] = {name: node.quantiles([round(max(late, 0) * 1000, 3) for late in values])
                                  for name, values in calls.items()}
        figures['unit'] = 'milliseconds beyond the deadline'
        figures['promised'] = PROMISED_SECONDS * 1000
        node.figures_write('stopped.json', figures)
        for situation, calls in figures.items():
            print(f'{situation}: {calls}', flush=True)

    def known_stored(self):
        hashes, payloads = chain('known')
        with library.Client(self.cache.socket(), payload_bytes=PAYLOAD_BYTES, blocks=BLOCKS) as client:
            client.connect()
            for i, payload in enumerate(payloads):
                client.put(i, payload)
            self.assertEqual(client.run('store', hashes).good, BLOCKS)

    def client_start(self, situation):
        calls = node.scaled(CALLS, least=40)
        program = f'import test_stopped as t; t.client_main({self.cache.socket()!r}, {situation!r}, 1, {calls})'
        process = subprocess.Popen([sys.executable, '-c', program], cwd=os.path.dirname(os.path.abspath(__file__)),
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        node.running.add(process)
        self.assertEqual(process.stdout.readline(), 'begun\n')
        return process

    def client_ends(self, process, situation):
        out, err = process.communicate(timeout=300)
        node.running.discard(process)
        self.assertEqual(process.returncode, 0, f'{situation}: {err[-3000:]}')
        said = eval(out)   # of our own process
        self.assertEqual(said['unquiet'], 0, f'{situation}: jobs that did not become quiescent')
        self.assertEqual(said['wrong'], 0, f'{situation}: wrong bytes')
        lateness[situation] = said['late']
        for name, values in said['late'].items():
            if name != 'quiesced':
                self.assertLess(max(values), LATE_SECONDS, f'{situation}: {name} was late')
        return said

    def test_a_daemon_that_serves_is_never_late(self):
        self.cache.start()
        self.known_stored()
        said = self.client_ends(self.client_start('serving'), 'serving')
        self.assertGreater(said['checked'], 0)

    def test_a_missing_daemon_costs_no_more_than_the_deadline(self):
        self.client_ends(self.client_start('missing'), 'missing')

    def test_a_stopped_daemon_costs_no_more_than_the_deadline(self):
        self.cache.start()
        self.known_stored()
        process = self.client_start('stopped')
        self.cache.pause()
        said = self.client_ends(process, 'stopped')
        self.cache.resume()
        self.assertIn('load', said['late'])
        self.known_still_served()

    def test_a_daemon_stopped_and_resumed_by_turns_costs_no_more_than_the_deadline(self):
        self.cache.start()
        self.known_stored()
        duty = Duty(self.cache.process.pid, stopped=0.03, running=0.01)
        duty.start()
        try:
            said = self.client_ends(self.client_start('slow'), 'slow')
        finally:
            duty.stop()
        self.assertGreater(said['checked'], 0)
        self.known_still_served()

    def test_a_daemon_killed_again_and_again_costs_no_more_than_the_deadline(self):
        self.cache.start()
        self.known_stored()
        process = self.client_start('killed')
        while process.poll() is None:
            self.cache.kill()
            self.cache.start()
            if not select.select([process.stdout], [], [], 0.1)[0]:
                continue
            break
        self.client_ends(process, 'killed')

    def test_a_full_daemon_costs_no_more_than_the_deadline(self):
        """All of the arena is held by loads that are never given back; stores can go nowhere."""
        self.cache.__exit__()
        self.cache = node.Node(cpu_mib=1, nvme_mib=0, load_window_blocks=256)
        self.addCleanup(self.cache.__exit__)
        self.cache.start()
        self.known_stored()
        with self.cache.engine('hoarder', payload_bytes=PAYLOAD_BYTES) as hoarder:
            for number in range(6):
                hashes, payloads = chain(f'hoard {number}', 8)
                hoarder.store(hashes, payloads)
                hoarder.batches += 1
                hoarder.data.send(frames.LOAD, frames.load_body(hoarder.space, hoarder.batches, hashes,
                                                                deadline_us=120000000))
                hoarder.loaded(hoarder.batches, 8)
            self.client_ends(self.client_start('full'), 'full')
        self.assertTrue(self.cache.is_alive())

    def known_still_served(self):
        hashes, payloads = chain('known')
        with library.Client(self.cache.socket(), payload_bytes=PAYLOAD_BYTES, blocks=BLOCKS) as client:
            client.connect()
            job = client.run('load', hashes)
            self.assertEqual(set(job.results) - {0, -errno.ENOENT}, set())
            for i, result in enumerate(job.results):
                if result == 0:
                    self.assertEqual(client.get(i), payloads[i])


if __name__ == '__main__':
    unittest.main()
