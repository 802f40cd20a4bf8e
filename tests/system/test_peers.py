"""Several kvtierd that see each other: who is up in the status of whom, and what is said when one is not."""
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import library        # noqa: E402
import node           # noqa: E402
import test_sandbox   # noqa: E402

UP_SECONDS = 20
SECRET, OTHER_SECRET = '11' * 32, '22' * 32


def port_find():
    """One that nobody has now."""
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return found.getsockname()[1]


def secret_write(cache, *secrets):
    path = os.path.join(cache.folder, 'secret')
    with open(path, 'w', opener=lambda name, flags: os.open(name, flags, 0o600), encoding='ascii') as file:
        file.write('# the cluster\n' + '\n'.join(secrets) + '\n')
    return path


class Case(unittest.TestCase):
    def node(self, listen, peers=(), secrets=(SECRET,), cpu_mib=96, **settings):
        cache = node.Node(cpu_mib=cpu_mib, nvme_mib=0, peer_listen=listen, **settings)
        self.addCleanup(cache.__exit__)
        cache.settings['peer_secret_file'] = secret_write(cache, *secrets)
        cache.settings['peers'] = '[' + ', '.join(f'{{address: "{peer}"}}' for peer in peers) + ']'
        cache.configure()
        return cache

    def pair(self, **settings):
        """Two that are told of each other."""
        addresses = [f'127.0.0.1:{port_find()}', f'localhost:{port_find()}']
        first = self.node(addresses[0], [addresses[1]], **settings)
        second = self.node(addresses[1].replace('localhost', '127.0.0.1'), [addresses[0]], **settings)
        first.start()
        second.start()
        return first, second

    def peers(self, cache):
        return cache.stats()['peers']

    def up(self, cache):
        """The one node that is up, once it is."""
        def found():
            nodes = [peer for peer in self.peers(cache)['nodes'] if peer['state'] == 'up']
            return len(nodes) == 1 and nodes[0]
        return node.until(found, UP_SECONDS, 'the other node is up')

    def down(self, cache, reason):
        def found():
            return [peer for peer in self.peers(cache)['nodes'] if re.search(reason, peer['reason'])]
        node.until(found, UP_SECONDS, f'a node is down: {reason}')

    def reload(self, cache, words):
        os.kill(cache.process.pid, signal.SIGHUP)
        node.until(lambda: re.search(words, cache.log()), UP_SECONDS, words)


class Status(Case):
    def test_two_nodes_show_each_other(self):
        first, second = self.pair()
        for here, there in ((first, second), (second, first)):
            node.until(lambda here=here: self.up(here)['connected_by'] == 'us', UP_SECONDS, 'it is who was asked for')
            peer = self.up(here)
            theirs = self.peers(there)
            self.assertEqual(peer['node'], theirs['node'])
            self.assertEqual(peer['name'], socket.gethostname()[:63])
            self.assertIn(peer['address'].rpartition(':')[2], theirs['listen'])
            self.assertEqual(peer['transport'], 'tcp')
            self.assertEqual(self.peers(here)['state'], 'ready')
            self.assertRegex(self.peers(here)['transport'], '^tcp ')
            node.until(lambda here=here: self.up(here)['round_trip_us'] > 0, UP_SECONDS, 'a round trip')
        self.assertEqual(len(self.peers(first)['nodes']), 1)
        self.assertEqual(len(self.peers(second)['nodes']), 1)
        first.stop()
        self.down(second, '.')
        second.stop()

    def kvtier(self, cache, *arguments):
        return subprocess.run([node.program('kvtier'), '-s', os.path.join(cache.run, 'admin.sock'), *arguments],
                              capture_output=True, text=True, check=True).stdout

    def test_the_command_shows_who_is_there_and_why_not(self):
        first, second = self.pair()
        node.until(lambda: self.up(first)['connected_by'] == 'us', UP_SECONDS, 'it is who was asked for')
        table = self.kvtier(first, 'peers')
        self.assertIn(f' listens at {first.settings["peer_listen"]}: ready', table)
        self.assertRegex(table, rf'(?m)^{re.escape(socket.gethostname()[:20])} .* up .* tcp ')
        shown = json.loads(self.kvtier(first, 'peers', '-o', 'json'))
        self.assertEqual([peer['state'] for peer in shown['nodes']], ['up'])
        second.kill()
        self.down(first, '.')
        self.assertRegex(self.kvtier(first, 'peers'), r'(?m) down .*\w$')
        self.assertIn('is not connected: ', self.kvtier(first, 'status'))
        with node.Node(cpu_mib=4, nvme_mib=0) as alone:
            alone.start()
            self.assertIn('peer_listen is not set', self.kvtier(alone, 'peers'))

    def test_a_node_keeps_its_id(self):
        cache = self.node(f'127.0.0.1:{port_find()}')
        cache.start()
        before = self.peers(cache)['node']
        cache.stop()
        cache.start()
        self.assertEqual(self.peers(cache)['node'], before)

    def test_without_peer_listen_there_is_nothing(self):
        with node.Node(cpu_mib=4, nvme_mib=0) as cache:
            cache.start()
            self.assertNotIn('peers', cache.stats())


class Ends(Case):
    def test_a_killed_daemon_is_seen_and_comes_back(self):
        first, second = self.pair()
        self.up(first)
        second.kill()
        self.down(first, '.')
        second.start()
        self.up(first)
        self.up(second)

    def test_a_killed_process_is_seen_and_comes_back(self):
        first, second = self.pair()
        for cache in (first, second):
            self.up(cache)
            before = self.peers(cache)
            os.kill(before['pid'], signal.SIGKILL)
            node.until(lambda cache=cache, before=before: self.peers(cache)['restarts'] > before['restarts'],
                       UP_SECONDS, 'another process')
            self.up(first)
            self.up(second)
        self.assertIn('event=peers_failed', first.log())


class Blocks(Case):
    BYTES = 3 << 19
    COUNT = 24

    def client(self, cache):
        client = library.Client(cache.socket(), payload_bytes=self.BYTES, blocks=self.COUNT)
        self.addCleanup(client.close)
        client.connect()
        return client

    def fetch(self, client, peer, hashes):
        keys = library.Keys(count=len(hashes), hashes=b''.join(hashes))
        lookup = library.Lookup(sections_count=1, sections=ctypes.pointer(keys))
        source, fetch = library.Source(peer=peer.encode()), library.Fetch()
        result = client.library.kvtier_fetch(client.client, ctypes.byref(lookup), ctypes.byref(source),
                                             ctypes.c_uint64(20000000), ctypes.c_uint64(5000000), ctypes.byref(fetch))
        self.assertEqual(result, 0)

    def one_way(self, here, there):
        """Blocks that one has come to an engine of the other, as they were stored."""
        names = [node.hash_of('peers', here.folder, number) for number in range(self.COUNT)]
        giver, taker = self.client(there), self.client(here)
        for number, name in enumerate(names):
            giver.put(number, node.payload_of(name, self.BYTES))
        self.assertEqual(giver.run('store', names).good, self.COUNT)
        peer = node.until(lambda: self.up(here)['connected_by'] == 'us' and self.up(here), UP_SECONDS, 'who was asked')
        self.fetch(taker, peer['address'], names)
        job = taker.run('load', names, deadline_us=20000000)
        self.assertEqual(job.good, self.COUNT, job.results)
        for number, name in enumerate(names):
            node.assert_block(self, taker.get(number), node.payload_of(name, self.BYTES))
        peer = self.up(here)
        self.assertEqual(peer['fetched_blocks'], self.COUNT)
        self.assertGreaterEqual(node.until(lambda: self.up(here)['received_bytes'], UP_SECONDS, 'bytes are counted'),
                                self.BYTES)

    def test_blocks_of_another_node_are_fetched(self):
        first, second = self.pair(window_bytes='16MiB', extent_bytes='4MiB')
        self.one_way(first, second)
        self.one_way(second, first)
        for own in (first, second):
            metrics = {name: own.metric(name) for name in (
                'kvtier_peers{state="up"}', 'kvtier_peers{state="down"}', 'kvtier_peer_fetches_total{result="given"}',
                'kvtier_peer_blocks_total{direction="in"}', 'kvtier_peer_blocks_total{direction="out"}',
                'kvtier_peer_bytes_total{direction="in"}', 'kvtier_peer_bytes_total{direction="out"}',
                'kvtier_peer_blocks_lost_total{reason="wrong"}')}
            total = self.COUNT * self.BYTES
            self.assertEqual(list(metrics.values()), [1, 0, 1, self.COUNT, self.COUNT, total, total, 0], metrics)
            self.assertGreaterEqual(own.metric('kvtier_peer_sessions_total'), 1)

    def test_so_they_are_by_ucx(self):
        first, second = self.pair(window_bytes='16MiB', extent_bytes='4MiB', peer_transport='ucx')
        node.until(lambda: self.peers(first)['state'] == 'ready' or self.peers(first)['reason'], UP_SECONDS, 'UCX')
        if re.search('UCX is not here|not there when this was built|too old', self.peers(first)['reason']):
            self.skipTest(self.peers(first)['reason'])
        self.assertRegex(self.peers(first)['transport'], '^ucx ')
        self.one_way(first, second)
        self.one_way(second, first)

    def test_so_they_are_under_a_seal(self):
        first, second = self.pair(window_bytes='16MiB', extent_bytes='4MiB', peer_encryption='on')
        self.one_way(first, second)


class Refused(Case):
    def test_who_has_another_secret_is_told(self):
        address = f'127.0.0.1:{port_find()}'
        first = self.node(address, secrets=[OTHER_SECRET])
        second = self.node(f'127.0.0.1:{port_find()}', [address])
        first.start()
        second.start()
        self.down(second, 'secret')

    def test_a_secret_is_changed_node_by_node(self):
        address = f'127.0.0.1:{port_find()}'
        first = self.node(address, secrets=[SECRET, OTHER_SECRET])
        second = self.node(f'127.0.0.1:{port_find()}', [address], secrets=[OTHER_SECRET, SECRET])
        first.start()
        second.start()
        self.up(first)
        self.up(second)

    def test_a_reload_puts_another_secret_in_force(self):
        address = f'127.0.0.1:{port_find()}'
        first = self.node(address)
        second = self.node(f'127.0.0.1:{port_find()}', [address], secrets=[OTHER_SECRET])
        first.start()
        second.start()
        self.down(second, 'secret')
        secret_write(first, 'not a secret')
        self.reload(first, 'event=reload_refused reason="peer_secret_file: .*:2: is not 64 hex')
        secret_write(first, OTHER_SECRET, SECRET)   # the first proves
        self.reload(first, 'event=setting_changed key=peer_secrets from="1" to="2 others"')
        self.up(second)

    def test_both_encrypt_or_none(self):
        address = f'127.0.0.1:{port_find()}'
        first = self.node(address, peer_encryption='on')
        second = self.node(f'127.0.0.1:{port_find()}', [address])
        first.start()
        second.start()
        self.down(second, 'encr')

    def test_a_port_in_use_is_said(self):
        with socket.socket() as taken:
            taken.bind(('127.0.0.1', 0))
            taken.listen()
            cache = self.node(f'127.0.0.1:{taken.getsockname()[1]}')
            cache.start()
            node.until(lambda: 'cannot listen on' in self.peers(cache)['reason'], UP_SECONDS, 'the reason')
        node.until(lambda: self.peers(cache)['state'] == 'ready', UP_SECONDS, 'it goes on trying')


class Tls(Case):
    def pem(self, folder, name, *arguments):
        subprocess.run(['openssl', *arguments], cwd=folder, check=True, capture_output=True)
        return os.path.join(folder, name)

    def files_make(self, folder):
        """One certificate for all nodes, of a CA of its own."""
        key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
        ca = self.pem(folder, 'ca.pem', 'req', '-x509', *key, '-keyout', 'ca.key', '-out', 'ca.pem', '-subj', '/CN=ca',
                      '-days', '2')
        self.pem(folder, 'node.csr', 'req', *key, '-keyout', 'node.key', '-out', 'node.csr', '-subj', '/CN=node')
        certificate = self.pem(folder, 'node.pem', 'x509', '-req', '-in', 'node.csr', '-CA', 'ca.pem', '-CAkey', 'ca.key',
                               '-CAcreateserial', '-out', 'node.pem', '-days', '2')
        os.chmod(os.path.join(folder, 'node.key'), 0o600)
        return {'peer_tls_ca': ca, 'peer_tls_certificate': certificate,
                'peer_tls_key': os.path.join(folder, 'node.key')}

    def test_with_tls_and_encryption_they_see_each_other(self):
        address = f'127.0.0.1:{port_find()}'
        first = self.node(address, peer_encryption='on')
        files = self.files_make(first.folder)
        first.settings.update(files)
        first.configure()
        second = self.node(f'127.0.0.1:{port_find()}', [address], peer_encryption='on', **files)
        plain = self.node(f'127.0.0.1:{port_find()}', [address], peer_encryption='on')
        for cache in (first, second, plain):
            cache.start()
        self.up(second)
        self.assertTrue(self.peers(second)['tls'])
        self.assertTrue(self.peers(second)['encryption'])
        self.down(plain, '.')
        self.assertEqual(len([peer for peer in self.peers(first)['nodes'] if peer['state'] == 'up']), 1)

    def tls_pair(self, **settings):
        """The second has the files of another CA, and connects to the first."""
        address = f'127.0.0.1:{port_find()}'
        first, second = self.node(address), self.node(f'127.0.0.1:{port_find()}', [address], **settings)
        for own in (first, second):
            own.settings.update(self.files_make(own.folder))
            own.configure()
        return first, second

    def files_copy(self, first, second):
        for name in ('ca.pem', 'node.pem', 'node.key'):
            shutil.copy2(os.path.join(first.folder, name), os.path.join(second.folder, name))

    def test_a_reload_reads_certificates_again(self):
        first, second = self.tls_pair()
        first.start()
        second.start()
        self.down(second, 'TLS')
        with open(os.path.join(second.folder, 'node.key'), 'r+', encoding='ascii') as file:
            file.write('-----BEGIN NOTHING')
        self.reload(second, 'event=reload_refused reason="peer_tls_key')
        self.files_copy(first, second)
        self.reload(second, 'event=setting_changed key=peer_tls_files')
        self.up(second)
        # The same again is no change.
        changes = second.log().count('key=peer_tls_files')
        self.reload(second, 'event=reloaded changed=0')
        self.assertEqual(second.log().count('key=peer_tls_files'), changes)

    def test_a_name_that_the_other_does_not_have(self):
        first, second = self.tls_pair(peer_tls_name='kv-1.kvtier')
        self.files_copy(first, second)
        first.start()
        second.start()
        self.down(second, 'TLS')
        second.settings['peer_tls_name'] = 'node'
        second.configure()
        second.stop()
        second.start()
        self.up(second)


class Confined(Case):
    def setUp(self):
        test_sandbox.skip_unless_whole()

    def test_the_process_has_no_privileges_and_none_of_our_files(self):
        first, second = self.pair(sandbox='enforce')
        for cache in (first, second):
            self.up(cache)
            pid = self.peers(cache)['pid']
            status = test_sandbox.status_of(pid)
            self.assertEqual(status['NoNewPrivs'], '1')
            self.assertEqual(status['Seccomp'], '2')
            self.assertEqual(int(status['CapEff'], 16), 0)
            files = [os.readlink(f'/proc/{pid}/fd/{number}') for number in os.listdir(f'/proc/{pid}/fd')]
            # The lock proves that it is gone; it is open for that alone.
            ours = [path for path in files if path.startswith((cache.state, cache.folder))]
            self.assertEqual([path for path in ours if not path.endswith(('/lock', '/log'))], [])


if __name__ == '__main__':
    unittest.main()
