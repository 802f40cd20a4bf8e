"""What a router knows of a node: all blocks of its index within two seconds of quiet, whatever died, hung or was said to it."""
import os
import random
import select
import signal
import socket
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import follower   # noqa: E402
import library    # noqa: E402
import node       # noqa: E402

from follower import CPU, NVME   # noqa: E402

BLOCKS = 40
REQUESTS = 150
CONVERGED_SECONDS = 2      # the promise, of quiet
SLOW_SECONDS = 8           # for a machine that does other things, and where somebody has to be found out first
REPLAY_SECONDS = 120
GARBAGE_CONNECTIONS = 60


class Case(unittest.TestCase):
    def start(self, **options):
        one = self.enterContext(node.Node(**{'inventory_listen': '127.0.0.1:0', **options}))
        one.start()
        return one

    def enterContext(self, context):   # Python 3.11 has it
        self.addCleanup(context.__exit__, None, None, None)
        return context.__enter__()

    def follow(self, one):
        return self.enterContext(follower.Follower(*follower.ports(one)))

    def assert_whole(self, one, reader, seconds=SLOW_SECONDS, **wanted):
        """Its view is that of the index, by number and by the daemon's own sums."""
        one.wait_quiet()

        def is_whole(seen):
            blocks = one.metric('kvtier_index_blocks')
            return seen['whole'] and seen['following'] and seen['entries'] == blocks
        seen = reader.wait(is_whole, seconds, 'the view is that of the index')
        for name, value in wanted.items():
            self.assertEqual(seen[name], value, f'{name}: {seen}')
        return seen

    def line_heard(self, reader):
        """Sums and figures have come since."""
        before = reader.look()['messages']
        return reader.wait(lambda seen: seen['messages'] >= before + 2, SLOW_SECONDS, 'two more lines')


class Told(Case):
    def names(self, word):
        return [node.hash_of(word, i) for i in range(BLOCKS)]

    def store(self, client, names):
        for first in range(0, len(names), 20):
            part = names[first:first + 20]
            for i, name in enumerate(part):
                client.put(i, node.payload_of(name, client.payload_bytes))
            job = client.run('store', part)
            self.assertEqual(job.good, len(part))

    def test_what_an_engine_stores_is_known_by_its_route_keys(self):
        one = self.start()
        reader = self.follow(one)
        with library.Client(one.socket(), name='vllm-0') as client:
            client.connect()
            names = self.names('a')
            keys = [library.route_key(name) for name in names]
            self.store(client, names)
            seen = self.assert_whole(one, reader, entries=BLOCKS, differences=0, garbled=0)
            node.until(lambda: reader.tiers('vllm-0', keys), SLOW_SECONDS, 'the engine is spoken of')
            self.assertEqual([tiers & CPU for tiers in reader.tiers('vllm-0', keys)], [CPU] * BLOCKS)
            self.assertEqual(reader.tiers('vllm-0', [1, 2]), [0, 0])
            self.assertIsNone(reader.tiers('vllm-1', keys))
            self.assertIsNone(reader.tiers('vllm-0', keys, tenant='other'))
            self.assertEqual(reader.look()['engines'], 1)
            # Written down meanwhile; then forgotten.
            node.until(lambda: [tiers & NVME for tiers in reader.tiers('vllm-0', keys)] == [NVME] * BLOCKS,
                       SLOW_SECONDS, 'all are on nvme')
            self.assertEqual(client.forget(5000000), 0)
            reader.wait(lambda seen: seen['entries'] == 0, SLOW_SECONDS, 'nothing is left')
            self.assertEqual(reader.tiers('vllm-0', keys), [0] * BLOCKS)
        # The engine has gone; the daemon's word on it goes with it.
        node.until(lambda: reader.tiers('vllm-0', keys) is None, SLOW_SECONDS, 'nobody is attached')
        self.assertEqual(self.line_heard(reader)['differences'], seen['differences'])

    def test_the_settings_say_where(self):
        one = self.start()
        status = one.stats()['inventory']
        self.assertEqual(status['listen'], '127.0.0.1:0')
        said, asked = follower.ports(one)
        self.assertNotEqual(said, asked)
        self.assertIn('event=inventory_open', one.log())
        self.assertEqual(one.metric('kvtier_worker_up{worker="inventory"}'), 1)
        self.assertEqual(one.metric('kvtier_inventory_epochs_total'), 1)

    def test_without_the_setting_there_is_none(self):
        one = self.start(inventory_listen='""')
        self.assertNotIn('inventory', one.stats())


class Converges(Case):
    def replay(self, one, seed=3, **options):
        return node.Replay(one, node.trace_make(one.folder, REQUESTS, seed=seed), **options)

    def finish(self, replay):
        figures = replay.finish(REPLAY_SECONDS)
        self.assertEqual(figures['wrong_blocks'], 0)
        return figures

    def test_after_blocks_that_came_went_and_moved(self):
        one = self.start()
        reader = self.follow(one)
        self.finish(self.replay(one))
        one.wait_quiet()
        self.assert_whole(one, reader, CONVERGED_SECONDS, snapshots=1, differences=0, gaps=0, garbled=0)
        # Who comes later has the same by a snapshot, while more comes.
        more = self.replay(one, seed=4)
        late = self.follow(one)
        self.finish(more)
        for each in (reader, late):
            self.assert_whole(one, each, snapshots=1, differences=0)
            self.line_heard(each)
            self.assertEqual(each.look()['differences'], 0)

    def test_after_the_process_that_tells_was_killed(self):
        one = self.start(nvme_mib=0)
        reader = self.follow(one)
        replay = self.replay(one)
        for n in range(3):
            reader.wait(lambda seen: seen['whole'], SLOW_SECONDS, 'it follows')
            pid = node.until(lambda: one.stats()['inventory']['pid'], SLOW_SECONDS, 'the process runs')
            os.kill(pid, signal.SIGKILL)
            node.until(lambda n=n: one.stats()['inventory']['restarts'] > n, SLOW_SECONDS, 'its death is known')
        self.finish(replay)
        # Any free port was asked for, so it is another one now.
        again = self.follow(one)
        self.assert_whole(one, again, differences=0)
        self.assertIn('event=inventory_failed', one.log_bytes().decode())

    def test_after_the_process_that_tells_hung(self):
        one = self.start(nvme_mib=0)
        follower.ports(one)
        pid = one.stats()['inventory']['pid']
        os.kill(pid, signal.SIGSTOP)
        self.finish(self.replay(one))   # who stores is not held up
        node.until(lambda: one.stats()['inventory']['pid'] not in (0, pid), SLOW_SECONDS, 'there is another one')
        self.assert_whole(one, self.follow(one), differences=0)

    def test_after_the_daemon_was_killed(self):
        said, asked = free_ports()
        one = self.start(inventory_listen=f'127.0.0.1:{said}', inventory_ask_listen=f'127.0.0.1:{asked}')
        reader = self.enterContext(follower.Follower(said, asked))
        self.finish(self.replay(one))
        before = self.assert_whole(one, reader)
        one.kill()
        one.start()
        one.wait_restored()
        after = self.assert_whole(one, reader, differences=0)
        self.assertNotEqual(before['boot'], after['boot'])
        self.assertGreater(after['entries'], 0)

    def test_after_a_reader_that_did_not_read(self):
        one = self.start()
        reader = self.follow(one)
        reader.wait(lambda seen: seen['whole'], SLOW_SECONDS, 'it follows')
        os.kill(reader.process.pid, signal.SIGSTOP)
        self.finish(self.replay(one))
        os.kill(reader.process.pid, signal.SIGCONT)
        self.assert_whole(one, reader, differences=0)


class Strangers(Case):
    def test_what_is_no_zeromq_does_no_harm(self):
        one = self.start(nvme_mib=0)
        reader = self.follow(one)
        draw = random.Random(5)
        for n in range(GARBAGE_CONNECTIONS):
            with socket.create_connection(('127.0.0.1', follower.ports(one)[n % 2])) as stranger:
                stranger.settimeout(5)
                try:
                    stranger.sendall(garbage(draw, n))
                    stranger.shutdown(socket.SHUT_WR)
                    select.select([stranger], [], [], 0)
                except OSError:
                    pass   # it was thrown out
        self.assert_whole(one, reader, entries=0, differences=0)
        self.assertEqual(one.stats()['inventory']['restarts'], 0)


def free_ports():
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(('127.0.0.1', 0))
        return first.getsockname()[1], second.getsockname()[1]


def garbage(draw, number):
    """Bytes, some of which begin as ZMTP 3.0 does, with its NULL mechanism, and go on as questions that are none."""
    greeting = b'\xff' + bytes(8) + b'\x7f\x03\x00' + b'NULL'.ljust(20, b'\0') + bytes(32)
    ready = b'\x04\x26\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00'
    noise = draw.randbytes(draw.randrange(1, 3000))
    if number % 3 == 0:
        return noise
    ready = ready[:1] + bytes([len(ready) - 2]) + ready[2:]
    question = draw.randbytes(draw.choice((0, 1, 8, 8, 20)))
    frames = b'\x01\x00\x00' + bytes([len(question)]) + question
    return greeting + ready + (frames if number % 3 == 1 else frames * 300 + noise)


if __name__ == '__main__':
    unittest.main()
