"""The service manager's watchdog is fed by a daemon that works, and not by one whose loop alone is left."""
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import manager   # noqa: E402
import node      # noqa: E402

WATCHDOG_US = 400000     # fed twice as often
FEEDS = 20
SILENT_SECONDS = 2 * WATCHDOG_US / 1e6


class Watchdog(unittest.TestCase):
    def setUp(self):
        self.cache = node.Node(cpu_mib=4, nvme_mib=8, mills=1, stall_max='100ms')
        self.addCleanup(self.cache.__exit__)
        self.manager = manager.Manager(self.cache.folder, WATCHDOG_US)
        self.addCleanup(self.manager.close)

    def test_a_daemon_that_works_feeds_it_in_time(self):
        self.cache.start()
        self.manager.wait('READY=1')
        for _ in range(FEEDS):
            self.assertEqual(self.manager.next(), 'WATCHDOG=1')

    def withheld(self, failpoint, part):
        self.cache.start(failpoint)
        self.manager.wait('READY=1')
        node.until(lambda: b'event=watchdog_withheld' in self.cache.log_bytes(), manager.WAIT_SECONDS,
                   'it is withheld')
        self.assertIn(f'reason="{part}', self.cache.log())
        while not self.manager.is_silent(0):
            self.manager.next()   # of before
        self.assertTrue(self.manager.is_silent(SILENT_SECONDS))
        self.assertTrue(self.cache.is_alive())   # its loop is well, and still it is not fed

    def test_a_mill_that_hangs_is_not_covered_up(self):
        self.withheld('mill_took:1=hang', 'mill 0')

    def test_a_thread_of_a_device_that_hangs_is_not_covered_up(self):
        self.withheld('device_took:1=hang', 'nvme ')


if __name__ == '__main__':
    unittest.main()
