"""docs/OPERATING.md: every command in it is run, as it stands there, against a daemon."""
import os
import re
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import frames   # noqa: E402
import node     # noqa: E402

PAGE = os.path.join(node.TOP, 'docs/OPERATING.md')


def commands():
    with open(PAGE, encoding='utf-8') as file:
        text = file.read()
    for block in re.findall(r'^```sh\n(.*?)^```', text, re.M | re.S):
        yield from (line.split('#')[0].split() for line in block.splitlines() if line.strip())
    yield from (found.split() for found in re.findall(r'`(kvtier (?:un)?pin [^`]*)`', text))


class Operating(unittest.TestCase):
    def test_every_command_of_the_page_does_what_it_says(self):
        with node.Node(cpu_mib=4, nvme_mib=16) as cache:
            cache.start()
            names = [node.hash_of('operating', i) for i in range(4)]
            with cache.engine('engine') as engine:
                engine.tag = bytes.fromhex('4bf92f3577b34da6a3ce929d0e0e4736')
                stored = list(commands())
                self.assertGreater(len(stored), 15)
                for words in stored:
                    engine.store(names, [node.payload_of(name, 4096) for name in names])
                    engine.lookup(names)
                    self.run_one(cache, words, TAG=engine.tag.hex()[:6], SPACE=engine.fingerprint.hex()[:8],
                                 HASH=names[0].hex())

    def run_one(self, cache, words, **values):
        self.assertEqual(words[0], 'kvtier')
        places = {**values, '/etc/kvtier/kvtier.yaml': cache.config, '/run/kvtier/admin.sock': f'{cache.run}/admin.sock'}
        done = subprocess.run([node.program('kvtier'), *(places.get(word, word) for word in words[1:])],
                              env={**os.environ, 'KVTIER_SOCKET': cache.socket()}, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ''), f'{words}: {done.stdout}')


if __name__ == '__main__':
    unittest.main()
