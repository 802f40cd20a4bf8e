"""The trace id of a request's headers: what W3C Trace Context calls valid, and nothing else.

    python3 tests/plugin/test_trace.py
"""
import os
import sys
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, 'plugin'))

from kvtier.trace import trace_id   # noqa: E402

TRACE = '4bf92f3577b34da6a3ce929d0e0e4736'
SPAN = '00f067aa0ba902b7'


class TraceId(unittest.TestCase):
    def test_a_valid_traceparent_gives_its_trace_id(self):
        for value in (f'00-{TRACE}-{SPAN}-01', f'00-{TRACE}-{SPAN}-00', f' 00-{TRACE}-{SPAN}-01 ',
                      f'cc-{TRACE}-{SPAN}-01-what-comes-later'):
            self.assertEqual(trace_id({'traceparent': value}), bytes.fromhex(TRACE), value)

    def test_names_of_headers_have_no_letter_case(self):
        self.assertEqual(trace_id({'tracestate': 'a=b', 'TraceParent': f'00-{TRACE}-{SPAN}-01'}), bytes.fromhex(TRACE))

    def test_what_is_not_valid_gives_none(self):
        zeros = '0' * 32
        for value in ('', '00', f'ff-{TRACE}-{SPAN}-01', f'00-{zeros}-{SPAN}-01', f'00-{TRACE}-{zeros[:16]}-01',
                      f'00-{TRACE.upper()}-{SPAN}-01', f'00-{TRACE[1:]}-{SPAN}-01', f'00-{TRACE}-{SPAN}',
                      f'00-{TRACE}-{SPAN}-01-more', f'0-{TRACE}-{SPAN}-01', f'00_{TRACE}_{SPAN}_01', 7):
            self.assertIsNone(trace_id({'traceparent': value}), value)

    def test_without_headers_there_is_none(self):
        for headers in (None, {}, {'tracestate': 'a=b'}):
            self.assertIsNone(trace_id(headers))


if __name__ == '__main__':
    unittest.main()
