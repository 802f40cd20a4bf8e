"""No client fills the log: an event has a burst of lines and then one a second, and what is left out is said."""
import os
import re
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import frames   # noqa: E402
import node     # noqa: E402

REFUSALS = 3000
BURST = 64      # base/log_limit.h


class Log(unittest.TestCase):
    def test_a_client_that_is_refused_thousands_of_times_leaves_few_lines_that_say_so(self):
        with node.Node(cpu_mib=4, nvme_mib=0) as cache:
            cache.start()
            began = time.monotonic()
            for _ in range(REFUSALS):
                with frames.Connection(cache.socket()) as connection:
                    with self.assertRaises((frames.Closed, frames.Refused)):
                        connection.ask(frames.HELLO, b'\xff' * 16)
            seconds = time.monotonic() - began
            cache.stop()
            log = cache.log_bytes().decode()
            lines = re.findall(r'event=client_refused\b.*', log)
            left_out = [int(count) for count in re.findall(
                r'event=client_refused\b.* suppressed=(\d+)$|event=log_suppressed of=client_refused lines=(\d+)',
                log, re.M) for count in count if count]
            self.assertLessEqual(len(lines), BURST + seconds + 2)
            self.assertEqual(len(lines) + sum(left_out), REFUSALS, 'each refusal is written or counted')


if __name__ == '__main__':
    unittest.main()
