"""Nodes in network namespaces, over links that drop after so many bytes, go one way only, part, lose or crawl.

Every time: no wrong byte, each load is answered by its deadline, nothing stays held at either node, and when the network
is right again blocks are fetched again. KVTIER_TEST_SCALE multiplies at how many bytes the network drops.
"""
import ctypes
import ctypes.util
import os
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import library      # noqa: E402
import netns        # noqa: E402
import node         # noqa: E402
import test_fetch   # noqa: E402
import test_peers   # noqa: E402

BLOCK_BYTES = (2 << 20) + (64 << 10)   # a chunk, and a small one
BLOCKS = 3
DEADLINE_SECONDS = 0.6
LATE_SECONDS = 0.05
HEAL_SECONDS = 45   # silence is seen, and a back-off may have grown
POLL_US = 5000
CONTROL, DATA = 'control', 'data'
# After how many bytes of IP packets, the nodes' own heads with them: around the ends of frames, heads and chunks.
CUTS = {
    DATA: (0, 1 << 20, 2 << 20, 5 << 20, 64, 128, 1500, 4 << 10, 64 << 10, (2 << 20) - 4096, (2 << 20) + 4096,
           (2 << 20) + (64 << 10), (2 << 20) + (72 << 10), 3 << 20, 4 << 20, (4 << 20) + (128 << 10), 6 << 20,
           (6 << 20) + (128 << 10), (6 << 20) + (192 << 10), 1 << 16),
    CONTROL: (0, 600, 1200, 200, 100, 150, 250, 300, 350, 400, 450, 500, 550, 700, 800, 900, 1000, 1400, 1700, 2500),
}
CUTS_AT_SCALE_1 = 3   # of each
figures = {'cuts': 0, 'cuts_that_bit': 0, 'late_seconds_max': 0.0, 'heals': 0, 'blocks_good': 0, 'blocks_missed': 0}


def tearDownModule():
    if figures['heals'] + figures['cuts']:
        node.figures_write('peers_network.json', {**figures, 'late_seconds_max': round(figures['late_seconds_max'], 4)})



class Case(test_fetch.Case):
    def setUp(self):
        netns.skip_unless_possible()

    def cluster(self, count, **settings):
        self.network = netns.Network(count)
        self.network.__enter__()
        self.addCleanup(self.network.__exit__)
        addresses = [self.network.address(number) for number in range(1, count + 1)]
        nodes = []
        for number, address in enumerate(addresses, 1):
            nodes.append(self.node(address, [other for other in addresses if other != address],
                                   cpu_mib=test_fetch.CPU_MIB, **settings))
            nodes[-1].wrapper = self.network.wrapper(number)
            # UCX takes namespaces of one machine for one node, whose lo is everybody's.
            nodes[-1].environment['UCX_NET_DEVICES'] = netns.DEVICE
            nodes[-1].start()
        for one in nodes:
            self.wait_connected(one, count - 1)
        return nodes, addresses

    def wait_connected(self, one, count=1):
        try:
            node.until(lambda: len([peer for peer in self.peers(one)['nodes'] if peer['state'] == 'up']) == count,
                       HEAL_SECONDS, f'{count} nodes are up')
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.peers(one)['nodes']}") from None

    def wait_free(self, *nodes):
        """Nothing of another node's is held or on its way, and nobody is promised anything."""
        def left():
            for one in nodes:
                stats = one.stats()
                peers, tenant = stats['peers'], stats['tenants'][0]
                cpu = tenant['tiers']['cpu']
                found = {'fetches': peers['fetches_open'], 'grants': peers['grants_open'],
                         'transfers': peers['transfers_under_way'], 'held': cpu['held_slots'],
                         'filling': cpu['slots']['filling'], 'leases': tenant['leases']}
                if any(found.values()):
                    return found
            return None
        try:
            node.until(lambda: left() is None, 15, 'nothing is left of it')
        except AssertionError as error:
            raise AssertionError(f'{error}: {left()}') from None


class Shared(Case):
    """The trace of test_fetch.py, split over two to four nodes with a network between them."""
    dump = test_fetch.Shared.dump
    assert_as_one = test_fetch.Shared.assert_as_one
    assert_found_in_turn = test_fetch.Shared.assert_found_in_turn
    test_what_several_nodes_have_is_found_over_a_network = test_fetch.Shared.test_what_several_nodes_have_is_found_in_turn

    def test_two_nodes_hit_what_one_would_over_a_network(self):
        self.assert_as_one()

    @unittest.skipUnless(ctypes.util.find_library('ucp'), 'libucx0 is not installed')
    def test_the_same_over_a_network_by_ucx(self):
        self.assert_as_one(peer_transport='ucx')

    @unittest.skipUnless(ctypes.util.find_library('ucp'), 'libucx0 is not installed')
    def test_what_four_nodes_have_is_found_over_a_network_by_ucx(self):
        self.assert_found_in_turn((60, 120, 180), peer_transport='ucx')


class Faulty(Case):
    """A giver, a taker and an engine of each; what is asked for is new every time."""

    def begin(self, **settings):
        (self.giver, self.taker), self.addresses = self.cluster(2, window_bytes='16MiB', extent_bytes='4MiB', **settings)
        self.engines = []
        for one in (self.giver, self.taker):
            client = library.Client(one.socket(), payload_bytes=BLOCK_BYTES, blocks=BLOCKS)
            self.addCleanup(client.close)
            client.connect()
            self.engines.append(client)
        self.rounds = 0

    def stored(self):
        """Names of blocks that the giver has."""
        self.rounds += 1
        names = [node.hash_of('network', self.giver.folder, self.rounds, number) for number in range(BLOCKS)]
        for number, name in enumerate(names):
            self.engines[0].put(number, node.payload_of(name, BLOCK_BYTES))
        self.assertEqual(self.engines[0].run('store', names).good, BLOCKS)
        return names

    def fetched(self, names, seconds=DEADLINE_SECONDS):
        """How many came; each that did is right, and the answer was in time."""
        client = self.engines[1]
        keys = library.Keys(count=len(names), hashes=b''.join(names))
        lookup = library.Lookup(sections_count=1, sections=ctypes.pointer(keys))
        source, fetch = library.Source(peer=self.addresses[0].encode()), library.Fetch()
        micros = int(seconds * 1e6)
        began = time.monotonic()
        result = client.library.kvtier_fetch(client.client, ctypes.byref(lookup), ctypes.byref(source), micros, micros,
                                             ctypes.byref(fetch))
        self.in_time(began, seconds, 'the fetch')
        if result < 0:
            return 0
        good = self.loaded(names, seconds)
        client.library.kvtier_fetch_end(client.client, ctypes.byref(fetch))
        return good

    def in_time(self, began, seconds, what):
        late = time.monotonic() - began - seconds
        figures['late_seconds_max'] = max(figures['late_seconds_max'], late)
        self.assertLess(late, LATE_SECONDS, f'{what} was answered late')

    def loaded(self, names, seconds):
        client = self.engines[1]
        began = time.monotonic()
        result, number = client.begin('load', names, int(seconds * 1e6))
        self.assertEqual(result, 0)
        completions = (library.Completion * 8)()
        results, is_quiet = None, False
        while results is None or not is_quiet:
            client.library.kvtier_wait(client.client, POLL_US)
            for i in range(client.library.kvtier_poll(client.client, completions, 8)):
                if completions[i].job != number:
                    continue
                if results is None:
                    results = completions[i].results[:completions[i].count]
                    self.in_time(began, seconds, 'the load')
                is_quiet = is_quiet or bool(completions[i].quiesced)
            self.assertLess(time.monotonic() - began, seconds + 10, 'the load is not answered')
        good = 0
        for place, name in enumerate(names):
            if results[place] == 0:
                good += node.assert_block(self, client.get(place), node.payload_of(name, BLOCK_BYTES))
        figures['blocks_good'] += good
        figures['blocks_missed'] += len(names) - good
        return good

    def healed(self, names=None):
        """All rules are gone: blocks come again, and nothing is left of what did not."""
        for number in (1, 2):
            self.network.heal(number)
        end = time.monotonic() + HEAL_SECONDS
        names = names or self.stored()
        while self.fetched(names, 4.0) < BLOCKS:
            self.assertLess(time.monotonic(), end, f'blocks come again: {self.peers(self.taker)}')
            self.wait_connected(self.taker)
        self.wait_free(self.giver, self.taker)
        figures['heals'] += 1

    # ---- after byte K ----

    def cut(self, way, number, count):
        """Node `number` sends so many bytes more on its control or data connections, and then nothing."""
        self.wait_connected(self.giver)
        self.wait_connected(self.taker)
        names = self.stored()
        over = f'quota over {count} bytes' if count > 0 else ''
        for match in ((f'tcp dport {netns.PORT}', f'tcp sport {netns.PORT}') if way == CONTROL else
                      (f'tcp dport != {netns.PORT} tcp sport != {netns.PORT}',)):
            self.network.rule(number, 'output', f'{match} {over} counter drop')
        self.fetched(names)
        figures['cuts'] += 1
        figures['cuts_that_bit'] += self.network.dropped(number) > 0
        self.healed(names)

    def sweep(self, way, number, **settings):
        self.begin(**settings)
        self.healed()
        for count in CUTS[way][:node.scaled(CUTS_AT_SCALE_1)]:
            with self.subTest(way=way, sender=number, count=count):
                self.cut(way, number, count)

    def test_data_that_ends_after_any_byte_is_a_miss(self):
        self.sweep(DATA, 1)

    def test_control_of_the_giver_that_ends_after_any_byte_is_a_miss(self):
        self.sweep(CONTROL, 1)

    def test_control_of_the_taker_that_ends_after_any_byte_is_a_miss(self):
        self.sweep(CONTROL, 2)

    @unittest.skipUnless(ctypes.util.find_library('ucp'), 'libucx0 is not installed')
    def test_data_by_ucx_that_ends_after_any_byte_is_a_miss(self):
        self.sweep(DATA, 1, peer_transport='ucx')

    # ---- other faults ----

    def down(self, *nodes):
        for one in nodes:
            node.until(lambda one=one: not [peer for peer in self.peers(one)['nodes'] if peer['state'] == 'up'],
                       HEAL_SECONDS, 'silence is seen')

    def test_a_connection_that_goes_one_way_only_is_ended_and_made_again(self):
        self.begin()
        names = self.stored()
        self.network.rule(1, 'output', 'meta l4proto tcp counter drop')   # the giver hears, and is not heard
        self.assertEqual(self.fetched(names), 0)
        self.down(self.taker, self.giver)
        self.wait_free(self.giver, self.taker)
        self.healed(names)

    def test_a_network_that_parts_in_a_fetch_and_heals_is_used_again(self):
        self.begin()
        names = self.stored()
        for number in (1, 2):
            self.network.rule(number, 'output', 'quota over 1 mbytes counter drop')
        self.assertLess(self.fetched(names), BLOCKS)
        self.down(self.taker, self.giver)
        self.wait_free(self.giver, self.taker)
        self.healed(names)

    def rounds_under(self, count):
        """Fetches on a bad line; some may be misses."""
        for _ in range(node.scaled(count)):
            self.fetched(self.stored())
        self.wait_free(self.giver, self.taker)

    def test_a_line_that_loses_three_packets_in_ten(self):
        self.begin()
        for number in (1, 2):
            self.network.rule(number, 'input', 'numgen random mod 100 < 30 counter drop')
        self.rounds_under(4)
        self.assertGreater(self.network.dropped(2), 0)
        self.healed()

    def test_a_line_that_loses_three_packets_in_ten_by_netem(self):
        self.begin()
        for number in (1, 2):
            self.network.traffic(number, 'netem', 'loss', '30%')
        self.rounds_under(4)
        for number in (1, 2):
            netns.call('ip', 'netns', 'exec', self.network.space(number), 'tc', 'qdisc', 'del', 'dev', netns.DEVICE, 'root')
        self.healed()

    def test_a_line_of_a_megabit_a_second(self):
        self.begin()
        for number in (1, 2):
            self.network.traffic(number, 'tbf', 'rate', '1mbit', 'burst', '32kb', 'latency', '400ms')
        self.rounds_under(2)
        for number in (1, 2):
            netns.call('ip', 'netns', 'exec', self.network.space(number), 'tc', 'qdisc', 'del', 'dev', netns.DEVICE, 'root')
        self.healed()


if __name__ == '__main__':
    unittest.main()
