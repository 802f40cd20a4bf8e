"""kvtier-bench micro: parts that need no quiet machine end by themselves and write all their figures."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import node   # noqa: E402

SECONDS_MAX = 120
MEASURES = {
    'cipher': {'encipher_1m', 'decipher_1m', 'encipher_64k', 'decipher_64k'},
    'host': {'host_load_1m', 'host_store_1m', 'host_load_64k', 'host_store_64k'},
    'call': {'call_1key', 'call_1key_one_cpu'},
    'lookup': {'index_bytes_block', 'lookup_ns_key', 'lookup_lease_ns_key'},
    'restart': {'restart_1m_seconds'},
}


class Micro(unittest.TestCase):
    def test_parts_end_with_their_figures(self):
        for part, names in MEASURES.items():
            with self.subTest(part=part), tempfile.TemporaryDirectory(prefix='kvtier-micro-') as folder:
                written = os.path.join(folder, 'micro.json')
                done = subprocess.run([os.path.join(node.BUILD, 'kvtier-bench'), 'micro',
                                       '--kvtierd', os.path.join(node.BUILD, 'kvtierd'), '--directory', folder,
                                       '--json', written, '--only', part, '--index-blocks', '1000000',
                                       '--restart-blocks', '2000'],
                                      capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
                self.assertEqual(done.returncode, 0, done.stderr)
                with open(written, encoding='utf-8') as file:
                    measures = {row['name']: row for row in json.load(file)['measures']}
                self.assertEqual(set(measures), names)
                for row in measures.values():
                    self.assertGreater(row['value'], 0, row)


if __name__ == '__main__':
    unittest.main()
