"""Nodes that use each other's blocks: a trace's requests are served from whatever any node has, every byte of what is
loaded is checked, and nobody waits for a node, or for its peer process, that is not there any more."""
import ctypes.util
import os
import signal
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import library      # noqa: E402
import node         # noqa: E402
import test_peers   # noqa: E402

REQUESTS = 300
CPU_MIB = 256   # nothing has to go
REPLAY_SECONDS = 120
DEADLINE_MS = 4000
LARGE_BYTES, LARGE_BLOCKS, BLOCKS_A_STEP = 3 << 20, 31, 4
STREAM_SECONDS = 30


class Case(test_peers.Case):
    def cluster(self, count, **settings):
        """Nodes that all know each other, and are up."""
        addresses = [f'127.0.0.1:{test_peers.port_find()}' for _ in range(count)]
        nodes = [self.node(address, [other for other in addresses if other != address], cpu_mib=CPU_MIB, **settings)
                 for address in addresses]
        for one in nodes:
            one.start()
        for one in nodes:
            self.wait_up(one, count - 1)
        return nodes, addresses

    def wait_up(self, one, count):
        def is_up():
            up = [peer for peer in self.peers(one)['nodes'] if peer['state'] == 'up' and peer['connected_by'] == 'us']
            return len(up) == count
        node.until(is_up, test_peers.UP_SECONDS, f'{count} nodes are up')

    def replay(self, one, **options):
        return node.Replay(one, self.trace(one), **{'deadline-ms': DEADLINE_MS, **options})

    def trace(self, one):
        return node.trace_make(one.folder, REQUESTS, seed=11, mix='chat', users=8)

    def assert_sound(self, figures):
        for name in ('wrong_blocks', 'late_calls', 'stuck_jobs'):
            self.assertEqual(figures[name], 0, f'{name}: {figures}')

    def wait_idle(self, one):
        """Nothing of another node's is held, and nothing is on its way."""
        def is_idle():
            stats = one.stats()
            tiers = stats['tenants'][0]['tiers']
            return tiers['cpu']['held_slots'] == 0 and \
                tiers['cpu']['slots']['filling'] == 0 and stats['peers']['transfers_under_way'] == 0
        node.until(is_idle, 10, 'nothing is held or on its way')


class Shared(Case):
    def dump(self, one, **options):
        path = os.path.join(one.folder, 'dump.csv')
        figures = self.replay(one, dump=path, **options).finish(REPLAY_SECONDS)
        self.assert_sound(figures)
        with open(path, encoding='ascii') as file:
            return file.read(), figures

    def assert_as_one(self, **settings):
        """What the second node hits is what one cache would hit that had served both."""
        (first, second), addresses = self.cluster(2, **settings)
        alone = self.node(f'127.0.0.1:{test_peers.port_find()}', cpu_mib=CPU_MIB, **settings)
        alone.start()
        for one in (first, alone):
            self.dump(one, limit=REQUESTS // 2)
        wanted, _ = self.dump(alone)
        hits, figures = self.dump(second, **{'from': addresses[0]})
        self.assertEqual(hits, wanted)
        self.assertGreater(figures['hit_tokens_peer'], 0)
        self.assertEqual(figures['failed_fetches'], 0)
        for one in (first, second):
            self.wait_idle(one)
        # What came is here, and needs nobody any more.
        first.stop()
        hits, figures = self.dump(second)
        self.assertEqual(figures['hit_tokens_peer'], 0)
        self.assertEqual(figures['hit_tokens'], figures['hit_tokens_cpu'])

    def test_two_nodes_hit_what_one_would(self):
        self.assert_as_one()

    def test_the_same_with_encryption_on_the_way(self):
        self.assert_as_one(peer_encryption='on')

    @unittest.skipUnless(ctypes.util.find_library('ucp'), 'libucx0 is not installed')
    def test_the_same_by_ucx(self):
        self.assert_as_one(peer_transport='ucx')

    def assert_found_in_turn(self, limits, **settings):
        """The last node hits what one would that had served them all; each other one has the trace's first requests."""
        nodes, addresses = self.cluster(len(limits) + 1, **settings)
        for one, limit in zip(nodes, limits):
            self.dump(one, limit=limit)
        alone = self.node(f'127.0.0.1:{test_peers.port_find()}', cpu_mib=CPU_MIB, **settings)
        alone.start()
        for limit in limits:
            self.dump(alone, limit=limit)
        wanted, _ = self.dump(alone)
        hits, _ = self.dump(nodes[-1], **{'from': ','.join(addresses[:-1])})
        self.assertEqual(hits, wanted)

    def test_what_several_nodes_have_is_found_in_turn(self):
        self.assert_found_in_turn((100, 200))


class Streams(Case):
    """Asked for while the other node's engine stores them, a step's blocks at a time."""

    def test_large_blocks_come_whatever_order_they_are_ready_in(self):
        nodes, addresses = self.cluster(2, extent_bytes='16MiB', window_bytes='128MiB')
        engines = []
        for one in nodes:
            client = library.Client(one.socket(), payload_bytes=LARGE_BYTES, blocks=LARGE_BLOCKS)
            self.addCleanup(client.close)
            client.connect()
            engines.append(client)
        names = [node.hash_of('stream', number) for number in range(LARGE_BLOCKS)]
        for number, name in enumerate(names):
            engines[0].put(number, node.payload_of(name, LARGE_BYTES))
        keys = library.Keys(count=LARGE_BLOCKS, hashes=b''.join(names))
        lookup = library.Lookup(sections_count=1, sections=ctypes.pointer(keys))
        source, fetch = library.Source(peer=addresses[0].encode(), mode=library.STREAM), library.Fetch()
        micros = STREAM_SECONDS * 1000000
        self.assertEqual(engines[1].library.kvtier_fetch(engines[1].client, ctypes.byref(lookup), ctypes.byref(source),
                                                         micros, micros, ctypes.byref(fetch)), 0)
        result, load = engines[1].begin('load', names, micros)
        self.assertEqual(result, 0)
        for first in range(0, LARGE_BLOCKS, BLOCKS_A_STEP):
            step = list(range(first, min(first + BLOCKS_A_STEP, LARGE_BLOCKS)))
            job = engines[0].run('store', [names[number] for number in step], blocks=step,
                                 parent=names[first - 1] if first > 0 else None)
            self.assertEqual(job.good, len(step))
        job = engines[1].wait(load, STREAM_SECONDS)
        self.assertEqual(job.results, [0] * LARGE_BLOCKS)
        for number, name in enumerate(names):
            node.assert_block(self, engines[1].get(number), node.payload_of(name, LARGE_BYTES))
        engines[1].library.kvtier_fetch_end(engines[1].client, ctypes.byref(fetch))
        for one in nodes:
            self.wait_idle(one)


class Killed(Case):
    """Something ends while blocks are on their way."""

    def run_through(self, harm):
        (first, second), addresses = self.cluster(2)
        self.assert_sound(self.replay(first).finish(REPLAY_SECONDS))
        replay = self.replay(second, **{'from': addresses[0], 'block-bytes': '16KiB'})
        node.until(lambda: not replay.is_running() or self.fetched(second) > 50, REPLAY_SECONDS, 'blocks come')
        harm(first, second)
        figures = replay.finish(REPLAY_SECONDS)
        self.assert_sound(figures)
        # And it goes on: both are up again, by themselves, and blocks come.
        if first.process is None:
            first.start()
            self.assert_sound(self.replay(first).finish(REPLAY_SECONDS))
        if second.process is None:
            second.start()
        self.wait_up(second, 1)
        second.stop()
        second.start()
        self.wait_up(second, 1)
        figures = self.replay(second, **{'from': addresses[0]}).finish(REPLAY_SECONDS)
        self.assert_sound(figures)
        self.assertGreater(figures['hit_tokens_peer'], 0)
        for one in (first, second):
            self.wait_idle(one)

    def fetched(self, one):
        return sum(peer['fetched_blocks'] for peer in self.peers(one)['nodes'])

    def test_the_giving_daemon(self):
        self.run_through(lambda first, second: first.kill())

    def test_the_giving_peer_process(self):
        self.run_through(lambda first, second: os.kill(self.peers(first)['pid'], signal.SIGKILL))

    def test_the_taking_daemon(self):
        self.run_through(lambda first, second: second.kill())

    def test_the_taking_peer_process(self):
        self.run_through(lambda first, second: os.kill(self.peers(second)['pid'], signal.SIGKILL))

    def test_a_giving_peer_process_that_stands_still(self):
        self.run_through(lambda first, second: os.kill(self.peers(first)['pid'], signal.SIGSTOP))


if __name__ == '__main__':
    unittest.main()
