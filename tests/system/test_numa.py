"""Where the cpu tier's memory lies: asked for, seen, refused; and never a reason not to serve."""
import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import node   # noqa: E402

LAUNCH = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'launch.py')
NODE_NOBODY_HAS = 63


def skip_unless_built_in():
    said = subprocess.run([node.program('kvtierd'), '--version'], capture_output=True, text=True, check=True).stdout
    if 'numa: libnuma' not in said:
        raise unittest.SkipTest('kvtierd was built without libnuma')
    if not os.path.exists('/sys/devices/system/node/has_memory'):
        raise unittest.SkipTest('this kernel has no NUMA')


class Numa(unittest.TestCase):
    def setUp(self):
        skip_unless_built_in()

    def said(self, cache, verb):
        done = subprocess.run([node.program('kvtier'), '--socket', os.path.join(cache.run, 'admin.sock'), verb],
                              capture_output=True, text=True, timeout=60, check=False)
        return done.stdout

    def status_of(self, *without, **settings):
        """The tenant's memory in the status, what `kvtier status` and `doctor` print, and the log, of a daemon that serves."""
        with node.Node(**settings) as cache:
            if without:
                cache.wrapper = [sys.executable, LAUNCH, *without, '--']
            cache.start()
            with cache.engine() as engine:
                hashes = [node.hash_of('numa', i) for i in range(4)]
                engine.store(hashes, [node.payload_of(one, engine.payload_bytes) for one in hashes])
                self.assertEqual(engine.lookup(hashes).present, [True] * 4)
            return cache.stats()['tenants'][0]['cpu_numa'], self.said(cache, 'status'), self.said(cache, 'doctor'), cache.log()

    def test_memory_lies_on_the_node_that_is_asked_for(self):
        for warm in ((), ('default',)):
            numa, status, doctor, log = self.status_of(numa='0', warm=warm)
            if 'CAP_SYS_NICE' in numa['reason']:
                self.skipTest(f'this container refuses it: {numa["reason"]}')
            self.assertEqual((numa['asked'], numa['found'], numa['reason']), ('0', '0', ''))
            self.assertGreater(numa['looked_pages'], 0)
            self.assertEqual(numa['near_pages'], numa['looked_pages'])
            self.assertIn('memory of default: 100 % on NUMA node 0', status)
            self.assertIn('event=arena_nodes', log)
            self.assertNotIn('not placed', doctor)

    def test_nothing_is_asked_for_without_gpus_or_when_it_is_off(self):
        for setting in ('auto', 'off'):
            numa, status, _, log = self.status_of(numa=setting)
            self.assertEqual((numa['asked'], numa['looked_pages'], numa['reason']), ('', 0, ''))
            self.assertNotIn('NUMA', status)
            self.assertNotIn('arena_nodes', log)

    def test_what_cannot_be_done_is_said_and_blocks_are_served(self):
        for without, wanted in (((), 'no memory on such a node'), (('enosys:mbind',), 'no NUMA'),
                                (('enosys:move_pages',), 'no NUMA')):
            numa, status, doctor, log = self.status_of(*without, numa='0' if without else NODE_NOBODY_HAS)
            self.assertIn(wanted, numa['reason'], without)
            self.assertIn('is not placed on NUMA node', status)
            self.assertIn('is not placed on NUMA node', doctor)
            self.assertIn('level=warning event=arena_nodes', log)

    def test_a_wrong_list_is_refused_with_what_would_be_right(self):
        for wrong in ('near', '"0,"', '64', '3-2'):
            with node.Node(numa=wrong) as cache:
                said = subprocess.run([node.program('kvtierd'), '--config', cache.config], capture_output=True, text=True,
                                      timeout=60, check=False)
                self.assertNotEqual(said.returncode, 0)
                self.assertRegex(said.stderr + said.stdout, r'numa: .*neither auto nor off nor NUMA nodes')


if __name__ == '__main__':
    unittest.main()
