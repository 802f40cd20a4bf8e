"""Nodes that are found by a file or by a name: who joins is connected, who leaves is let go of, and what is wrong is said."""
import os
import shutil
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import node         # noqa: E402
import test_peers   # noqa: E402

SECONDS = 15


def write_whole(path, text):
    """As an editor or the kubelet does: another file takes the name."""
    with open(path + '.new', 'w', encoding='utf-8') as file:
        file.write(text)
    os.replace(path + '.new', path)


class Case(test_peers.Case):
    def known(self, own):
        """{address: state} of those that it connects to itself."""
        return {peer['address']: peer['state'] for peer in self.peers(own)['nodes']
                if peer['connected_by'] == 'us'}

    def wait_known(self, own, wanted):
        node.until(lambda: self.known(own) == wanted, SECONDS, f'{own.settings["peer_listen"]} knows {wanted}')

    def addresses(self, count):
        return [f'127.0.0.1:{test_peers.port_find()}' for _ in range(count)]


class File(Case):
    def setUp(self):
        self.own_address, self.first, self.second = self.addresses(3)
        for address in (self.first, self.second):
            self.node(address).start()
        self.own = self.node(self.own_address)
        self.path = os.path.join(self.own.folder, 'peers')
        self.own.settings['peers_file'] = self.path
        self.own.configure()

    def test_who_is_named_is_connected_and_who_is_not_any_more_is_let_go_of(self):
        write_whole(self.path, f'# two nodes\n{self.first}\n\n')
        self.own.start()
        self.wait_known(self.own, {self.first: 'up'})
        write_whole(self.path, f'  {self.first}\t# the first\r\n{self.second}')
        self.wait_known(self.own, {self.first: 'up', self.second: 'up'})
        write_whole(self.path, self.second)
        self.wait_known(self.own, {self.second: 'up'})
        write_whole(self.path, '')
        self.wait_known(self.own, {})
        self.assertEqual(self.peers(self.own)['by_file']['reason'], '')

    def test_a_wrong_line_changes_nothing_and_is_said_with_its_number(self):
        write_whole(self.path, self.first)
        self.own.start()
        self.wait_known(self.own, {self.first: 'up'})
        for text, why in ((f'{self.second}\n# so\nkv-2\n', f'{self.path}:3: '), ('x' * 70000, 'has more than'),
                          (f'{"a" * 200}:1\n', f'{self.path}:1: '), ('kv:1\0', 'is not text')):
            with self.subTest(why=why):
                write_whole(self.path, text)
                node.until(lambda why=why: why in self.peers(self.own)['by_file']['reason'], SECONDS, why)
                self.assertEqual(self.known(self.own), {self.first: 'up'})
        os.unlink(self.path)
        node.until(lambda: 'cannot open' in self.peers(self.own)['by_file']['reason'], SECONDS, 'it is gone')
        write_whole(self.path, self.second)
        self.wait_known(self.own, {self.second: 'up'})

    def test_a_node_does_not_connect_to_itself(self):
        port = self.own_address.rpartition(':')[2]
        write_whole(self.path, f'{self.own_address}\nlocalhost:{port}\n{self.first}\n')
        self.own.start()
        self.wait_known(self.own, {self.first: 'up'})
        looks = self.peers(self.own)['by_file']['looks']
        node.until(lambda: self.peers(self.own)['by_file']['looks'] > looks + 2, SECONDS, 'three more looks')
        self.assertEqual(self.known(self.own), {self.first: 'up'})

    def test_a_volume_of_kubernetes_that_changes(self):
        folder = os.path.join(self.own.folder, 'volume')
        for name, text in (('..1', self.first), ('..2', self.second)):
            os.makedirs(os.path.join(folder, name))
            write_whole(os.path.join(folder, name, 'peers'), text)
        os.symlink('..1', os.path.join(folder, '..data'))
        os.symlink('..data/peers', os.path.join(folder, 'peers'))
        self.own.settings['peers_file'] = os.path.join(folder, 'peers')
        self.own.configure()
        self.own.start()
        self.wait_known(self.own, {self.first: 'up'})
        os.symlink('..2', os.path.join(folder, '..new'))
        os.replace(os.path.join(folder, '..new'), os.path.join(folder, '..data'))
        self.wait_known(self.own, {self.second: 'up'})


def may_have_mounts_of_its_own():
    return os.geteuid() == 0 and shutil.which('unshare') is not None and \
        subprocess.run(['unshare', '-m', 'true'], capture_output=True, check=False).returncode == 0


@unittest.skipUnless(may_have_mounts_of_its_own(), 'no mount namespace can be made, so /etc/hosts cannot be another')
class Name(Case):
    """A name of /etc/hosts that has several addresses, as that of a headless Service has."""

    def setUp(self):
        self.port = test_peers.port_find()
        self.nodes = [self.made(f'127.0.77.{n}') for n in (1, 2, 3)]

    def made(self, host):
        own = self.node(f'{host}:{self.port}', peers_dns=f'kv-peers:{self.port}', peers_dns_interval='200ms')
        hosts = os.path.join(own.folder, 'hosts')
        with open(hosts, 'w', encoding='ascii') as file:
            file.write('127.0.0.1 localhost\n')
        own.wrapper = ['unshare', '-m', 'sh', '-c', 'mount --bind "$0" /etc/hosts && exec "$@"', hosts]
        return own

    def write_hosts(self, own, count):
        """In place: the daemon has this file, whatever has its name."""
        with open(os.path.join(own.folder, 'hosts'), 'w', encoding='ascii') as file:
            file.write('127.0.0.1 localhost\n' + ''.join(f'127.0.77.{n + 1} kv-peers\n' for n in range(count)))

    def others(self, number, count):
        return {f'127.0.77.{n + 1}:{self.port}': 'up' for n in range(count) if n != number}

    def test_every_address_but_our_own_is_a_node(self):
        for own in self.nodes:
            own.start()
        node.until(lambda: 'has no address' in self.peers(self.nodes[0])['by_dns']['reason'], SECONDS, 'the name is not known')
        for count in (3, 2, 3):
            for own in self.nodes:
                self.write_hosts(own, count)
            for number, own in enumerate(self.nodes[:2]):
                self.wait_known(own, self.others(number, count))
        self.assertEqual(self.peers(self.nodes[0])['by_dns']['found'], 2)

    def test_a_name_that_is_lost_changes_nothing(self):
        first, second, _ = self.nodes
        for own in (first, second):
            own.start()
            self.write_hosts(own, 2)
        self.wait_known(first, self.others(0, 2))
        self.write_hosts(first, 0)
        node.until(lambda: self.peers(first)['by_dns']['failures'] > 3, SECONDS, 'the name is not known any more')
        self.assertEqual(self.known(first), self.others(0, 2))


if __name__ == '__main__':
    unittest.main(verbosity=2)
