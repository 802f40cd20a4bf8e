"""At each step of a fetch a daemon or its peer process dies, fails or stops, at the giving or the taking node.

Every time: no wrong byte, the load is answered in time, nothing stays held at either node, and after what died has
started again the next fetch brings its blocks.
"""
import contextlib
import ctypes
import os
import signal
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import failpoints            # noqa: E402
import library               # noqa: E402
import node                  # noqa: E402
import test_fetch            # noqa: E402
import test_peers            # noqa: E402

BLOCK_BYTES, BLOCKS = 256 << 10, 4
DEADLINE_SECONDS = 1.5
LATE_SECONDS = 0.05
POLL_US = 5000
HEAL_SECONDS = 30
covered = {action: failpoints.Covered(action, failpoints.PEERS) for action in ('kill', 'error', 'stop')}


def tearDownModule():
    for one in covered.values():
        one.report()


def is_of_giver(point):
    return point.startswith('grant_') or point in ('peer_sending', 'peer_sent')


class Case(test_fetch.Case):
    def begin(self, point, action):
        """Two nodes, one of which is armed, and blocks at the giver."""
        addresses = [f'127.0.0.1:{test_peers.port_find()}' for _ in range(2)]
        # Without a sandbox, in which a peer process can create no file that says it was at the point.
        self.giver, self.taker = [self.node(address, [other for other in addresses if other != address], cpu_mib=64,
                                            sandbox='off') for address in addresses]
        self.address = addresses[0]
        self.armed = self.giver if is_of_giver(point) else self.taker
        self.once = os.path.join(self.armed.folder, 'failpoint')
        self.armed.environment['KVTIER_FAILPOINT_ONCE'] = self.once
        for one in (self.giver, self.taker):
            one.start(f'{point}={action}' if one is self.armed else None)
        self.names = [node.hash_of(point, self.giver.folder, number) for number in range(BLOCKS)]

    def is_reached(self):
        return os.path.exists(self.once)

    def engine(self, one):
        client = library.Client(one.socket(), payload_bytes=BLOCK_BYTES, blocks=BLOCKS)
        self.addCleanup(client.close)
        client.connect()
        return client

    def store(self):
        giver = self.engine(self.giver)
        for number, name in enumerate(self.names):
            giver.put(number, node.payload_of(name, BLOCK_BYTES))
        self.assertEqual(giver.run('store', self.names).good, BLOCKS)

    def fetch(self, client):
        """How many came; each that did is right, and the answers were in time."""
        keys = library.Keys(count=BLOCKS, hashes=b''.join(self.names))
        lookup = library.Lookup(sections_count=1, sections=ctypes.pointer(keys))
        source, fetch = library.Source(peer=self.address.encode()), library.Fetch()
        micros = int(DEADLINE_SECONDS * 1e6)
        began = time.monotonic()
        result = client.library.kvtier_fetch(client.client, ctypes.byref(lookup), ctypes.byref(source), micros, micros,
                                             ctypes.byref(fetch))
        self.assertLess(time.monotonic() - began, DEADLINE_SECONDS + LATE_SECONDS, 'the fetch was answered late')
        if result < 0:
            return 0
        began = time.monotonic()
        result, number = client.begin('load', self.names, micros)
        good = self.loaded(client, number, began) if result == 0 else 0
        client.library.kvtier_fetch_end(client.client, ctypes.byref(fetch))
        return good

    def loaded(self, client, number, began):
        completions = (library.Completion * 8)()
        results = None
        while results is None:
            client.library.kvtier_wait(client.client, POLL_US)
            for i in range(client.library.kvtier_poll(client.client, completions, 8)):
                if completions[i].job == number and results is None:
                    results = completions[i].results[:completions[i].count]
            self.assertLess(time.monotonic() - began, DEADLINE_SECONDS + LATE_SECONDS, 'the load was answered late')
        return sum(node.assert_block(self, client.get(place), node.payload_of(name, BLOCK_BYTES))
                   for place, name in enumerate(self.names) if results[place] == 0)

    def wait_up_both(self):
        for one in (self.giver, self.taker):
            node.until(lambda one=one: [peer for peer in self.peers(one)['nodes'] if peer['state'] == 'up'], HEAL_SECONDS,
                       'the other node is up')

    def wait_free(self):
        def left():
            for one in (self.giver, self.taker):
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
            raise AssertionError(f'{self.point}: {error}: {left()}') from None

    def check(self, point):
        self.point = point
        self.begin(point, self.action)
        try:
            self.store()
            taker = self.engine(self.taker)
            if point != 'peer_connected':   # passed before anything is asked for
                self.wait_up_both()
            self.fetch_until_reached(taker)
            self.ends()
            self.proves_itself()
        except AssertionError as error:
            raise AssertionError(f'{point}: {error}\n{self.armed.log()}') from error
        covered[self.action].reached.add(point)

    def fetch_until_reached(self, taker):
        """The first may meet the connection that gives way when both nodes made one."""
        end = time.monotonic() + failpoints.DEATH_SECONDS
        self.fetch(taker)
        while not self.is_reached():
            self.assertLess(time.monotonic(), end, 'it is not reached')
            try:
                self.wait_up_both()
            except TimeoutError:   # stopped since: it does not answer
                continue
            self.fetch(taker)

    def proves_itself(self):
        """The armed node is there again, knows nothing of these blocks or all of them, and gets them."""
        if self.armed.process is None:
            self.armed.start()
            if self.armed is self.giver:
                self.store()
        end = time.monotonic() + HEAL_SECONDS
        self.wait_up_both()
        taker = self.engine(self.taker)
        while self.fetch(taker) < BLOCKS:
            self.assertLess(time.monotonic(), end, f'blocks come again: {self.peers(self.taker)}')
            self.wait_up_both()
        self.wait_free()
        for one in (self.giver, self.taker):
            one.stop()


class Kills(Case):
    action = 'kill'

    def ends(self):
        if self.point.startswith('peer_'):
            node.until(lambda: self.peers(self.armed)['restarts'] > 0, failpoints.DEATH_SECONDS, 'it has a process again')
        else:
            self.assertTrue(self.armed.wait_death(failpoints.DEATH_SECONDS))


class Failures(Case):
    action = 'error'

    def ends(self):
        self.assertTrue(self.armed.is_alive())
        self.assertEqual(self.peers(self.armed)['restarts'], 0)


class Stops(Case):
    action = 'stop'

    def ends(self):
        if self.point.startswith('peer_'):
            node.until(lambda: self.peers(self.armed)['restarts'] > 0, failpoints.DEATH_SECONDS, 'it has a process again')
        else:
            pid = node.until(lambda: failpoints.stopped(self.armed), failpoints.DEATH_SECONDS, 'the daemon stops')
            self.assertEqual(pid, self.armed.process.pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def test_of(point):
    return lambda self: self.check(point)


for name in failpoints.points(failpoints.PEERS):
    setattr(Kills, f'test_killed_at_{name}_both_nodes_go_on_and_nothing_is_wrong', test_of(name))
    setattr(Failures, f'test_where_{name}_fails_nothing_is_wrong', test_of(name))
    setattr(Stops, f'test_stopped_at_{name}_it_is_not_waited_for_and_nothing_is_wrong', test_of(name))


if __name__ == '__main__':
    unittest.main()
