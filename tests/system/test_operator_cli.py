"""What an operator asks of a real daemon: OPERATE by hand, and each command of kvtier with its JSON."""
import errno
import json
import os
import struct
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import frames   # noqa: E402
import node     # noqa: E402

FEATURE_OPERATE = 1


class Frames(unittest.TestCase):
    """Who may ask what, below the command."""

    @classmethod
    def setUpClass(cls):
        cls.cache = node.Node(cpu_mib=4, nvme_mib=16, tenants=('a', 'b'))
        cls.addClassCleanup(cls.cache.__exit__)
        cls.cache.start()

    def connection(self, tenant=None):
        path = self.cache.socket(tenant) if tenant else os.path.join(self.cache.run, 'admin.sock')
        connection = frames.Connection(path)
        self.addCleanup(connection.close)
        return connection

    def refusal(self, connection, *arguments, **fields):
        with self.assertRaises(frames.Refused) as caught:
            connection.ask(frames.OPERATE, frames.operate_body(*arguments, **fields))
        return caught.exception

    def test_the_daemon_says_that_it_can_be_operated(self):
        self.assertTrue(self.connection('a').features & FEATURE_OPERATE)

    def test_the_admin_socket_is_told_every_setting_with_its_origin(self):
        answer = json.loads(self.connection().ask(frames.OPERATE, frames.operate_body('CONFIG')).body)
        rows = {row['key']: row for row in answer['settings']}
        self.assertEqual(rows['mills']['value'], '2')
        self.assertIn('kvtierd.yaml:', rows['mills']['origin'])
        self.assertEqual(rows['leases_max'], {'key': 'leases_max', 'value': '4096', 'origin': 'default'})
        self.assertEqual(rows['tenants.1.name']['value'], 'b')

    def test_a_tenants_socket_is_refused_what_concerns_the_node_and_stays_open(self):
        connection = self.connection('a')
        for verb in ('CONFIG', 'DRAIN', 'RELOAD'):
            refused = self.refusal(connection, verb)
            self.assertEqual(refused.result, -errno.EPERM)
            self.assertIn('admin.sock', str(refused))
        self.assertIn('version', connection.stats())

    def test_a_tenants_socket_sees_no_other_tenant(self):
        connection = self.connection('a')
        for verb in ('LIST', 'PIN', 'PURGE', 'REQUESTS'):
            self.assertEqual(self.refusal(connection, verb, tenant='b').result, -errno.EPERM)
        self.assertEqual(self.refusal(self.connection(), 'LIST', tenant='nobody').result, -errno.ENOENT)

    def test_a_field_that_the_verb_does_not_take_ends_the_connection(self):
        connection = self.connection()
        self.assertIn('CONFIG takes no cursor', str(self.refusal(connection, 'CONFIG', cursor=1)))
        with self.assertRaises((frames.Closed, ConnectionError, struct.error)):
            connection.stats()


if __name__ == '__main__':
    unittest.main()
