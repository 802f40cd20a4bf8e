"""Row 33: probes do not lie. Each thread of the data path is stopped in its tracks, and /readyz names it within stall_max.

How long that took is in build/tests/probes.json.
"""
import os
import select
import socket
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import frames   # noqa: E402
import node     # noqa: E402

STALL_SECONDS = 1.0
CANARY_SECONDS = 1.0       # one is sent so often
LATE_SECONDS = 1.0         # of a loaded machine
BETWEEN_SECONDS = 0.02
figures = {}


class Probes(unittest.TestCase):
    def setUp(self):
        self.daemon = node.Node(stall_max='1s')
        self.addCleanup(self.daemon.__exit__)

    def detect(self, seconds, is_seen):
        """Asks until `is_seen(status, body)`; after how many seconds, and the body."""
        begun = time.monotonic()
        while True:
            status, body = self.daemon.http('/readyz?verbose')
            took = time.monotonic() - begun
            if is_seen(status, body):
                return took, body
            self.assertLess(took, seconds, f'not seen:\n{body}')
            select.select([], [], [], BETWEEN_SECONDS)

    def wedge(self, failpoint, words):
        self.daemon.start(f'{failpoint}=hang')
        took, body = self.detect(STALL_SECONDS + CANARY_SECONDS + LATE_SECONDS, lambda status, _: status == 503)
        self.assertIn(words, body.splitlines()[-1])
        self.assertEqual(self.daemon.http('/livez'), (200, 'ok\n'))
        figures[failpoint] = took

    def test_all_parts_answer_and_say_how_fast(self):
        self.daemon.start()
        _, body = self.detect(10, lambda _, body: body.count('last round trip') == 4)
        self.assertEqual(body.splitlines()[-1], 'ok')
        for name in ('mill 0', 'mill 1', f'nvme {self.daemon.nvme}', 'catalogue'):
            self.assertIn(f'[+] {name} ok, last round trip ', body)
        self.assertEqual(self.daemon.http('/startupz'), (200, 'ok\n'))
        self.assertGreater(self.daemon.metric('kvtier_probe_seconds{part="mill 1"}'), 0)
        self.assertEqual(self.daemon.metric('kvtier_probe_late{part="mill 1"}'), 0)

    def test_a_mill_that_hangs_is_named(self):
        self.wedge('mill_took', 'mill ')
        self.assertIn('event=probe_late', self.daemon.log())

    def test_a_devices_thread_that_hangs_is_named(self):
        self.wedge('device_took', f'nvme {self.daemon.nvme} does not answer')
        self.assertEqual(self.daemon.metric('kvtier_ready'), 0)

    def test_a_node_serves_without_its_catalogue_and_says_so(self):
        self.daemon.start('catalog_batch_written=hang')
        took, body = self.detect(STALL_SECONDS + CANARY_SECONDS + LATE_SECONDS,
                                 lambda _, body: '[-] catalogue late' in body)
        self.assertEqual(body.splitlines()[-1], 'ok')
        figures['catalog_batch_written'] = took
        self.assertEqual(self.daemon.http('/readyz'), (200, 'ok\n'))

    def test_a_loop_that_hangs_answers_no_probe(self):
        self.daemon.start('lease_granted=hang')
        engine = self.daemon.engine()
        self.addCleanup(engine.close)
        names = [node.hash_of('probe', i) for i in range(2)]
        engine.store(names, [node.payload_of(name, 4096) for name in names])
        self.daemon.wait_quiet()
        engine.control.send(frames.LOOKUP, frames.lookup_body(engine.space, names, lease_us=1000000), frames.LAST)
        with socket.socket(socket.AF_UNIX) as client, self.assertRaises(TimeoutError):
            client.settimeout(STALL_SECONDS)
            client.connect(os.path.join(self.daemon.run, 'http.sock'))
            client.sendall(b'GET /livez HTTP/1.1\r\nHost: node\r\n\r\n')
            client.recv(1)

    @classmethod
    def tearDownClass(cls):
        node.figures_write('probes.json', figures)
        print(figures, file=sys.stderr)


if __name__ == '__main__':
    unittest.main()
