"""SIGHUP: the real daemon reads its settings again, tells the service manager, and serves on."""
import os
import re
import signal
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import manager   # noqa: E402
import node      # noqa: E402

WAIT_SECONDS = 10


class Reload(unittest.TestCase):
    def setUp(self):
        self.cache = node.Node(cpu_mib=4, nvme_mib=0)
        self.addCleanup(self.cache.__exit__)
        self.manager = manager.Manager(self.cache.folder)
        self.addCleanup(self.manager.close)
        self.cache.start()
        self.manager.wait('READY=1')

    def reload(self, **settings):
        self.cache.settings.update(settings)
        self.cache.configure()
        os.kill(self.cache.process.pid, signal.SIGHUP)
        reloading = self.manager.next()
        self.assertRegex(reloading, r'^RELOADING=1\nMONOTONIC_USEC=\d+$')
        self.assertEqual(self.manager.next(), 'READY=1\nSTATUS=serving')
        return self.cache.stats()['reload']

    def test_sighup_takes_what_may_change_and_names_what_waits_for_a_restart(self):
        report = self.reload(lease_max='5s', mills=1)
        self.assertEqual(report['result'], 'taken')
        self.assertEqual(report['changed'], [{'key': 'lease_max', 'from': '1m', 'to': '5s'}])
        self.assertEqual(report['needs_restart'], [{'key': 'mills', 'from': '2', 'to': '1'}])
        node.until(lambda: 'event=reloaded' in self.cache.log(), WAIT_SECONDS, 'the log says so')
        self.assertRegex(self.cache.log(), r'event=setting_changed key=lease_max from="1m" to="5s"')
        self.assertRegex(self.cache.log(), r'event=setting_needs_restart key=mills from="2" to="1"')
        with self.cache.engine() as engine:
            self.assertTrue(engine.lookup([node.hash_of('any')]))

    def test_a_wrong_file_changes_nothing_and_the_daemon_serves_on(self):
        with self.cache.engine() as engine:
            report = self.reload(lease_max='5s', queue_dept=3)
            self.assertEqual(report['result'], 'refused')
            self.assertRegex(report['reason'], r"unknown key 'queue_dept'; the nearest is 'queue_depth'")
            self.assertEqual((report['changed'], report['needs_restart']), ([], []))
            engine.lookup([node.hash_of('any')])
        node.until(lambda: 'event=reload_refused' in self.cache.log(), WAIT_SECONDS, 'the log says why')
        del self.cache.settings['queue_dept']
        self.assertEqual(self.reload()['result'], 'taken')

    def test_a_level_of_the_log_changes_at_once(self):
        self.reload(log_level='error')
        before = len(self.cache.log_bytes())
        with self.cache.engine():
            pass
        self.reload(log_level='info')
        with self.cache.engine('loud'):
            node.until(lambda: b'engine=loud' in self.cache.log_bytes(), WAIT_SECONDS, 'it is logged again')
        self.assertIsNone(re.search(rb'event=engine_registered engine=engine', self.cache.log_bytes()[before:]))

    def test_many_signals_at_once_are_one_or_two_readings(self):
        for _ in range(200):
            os.kill(self.cache.process.pid, signal.SIGHUP)
        with self.cache.engine() as engine:
            self.assertTrue(engine.lookup([node.hash_of('any')]))
        self.cache.stop()
        self.assertIn('event=stopped', self.cache.log())


if __name__ == '__main__':
    unittest.main()
