"""What became of a request: by its trace id, from lookup to load, for its own tenant only, and in the log when it went
wrong.
"""
import json
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import frames   # noqa: E402
import node     # noqa: E402

RING = 4096
TRACE = bytes.fromhex('4bf92f3577b34da6a3ce929d0e0e4736')


class Requests(unittest.TestCase):
    def setUp(self):
        self.daemon = node.Node(tenants=('a', 'b'))
        self.addCleanup(self.daemon.__exit__)
        self.daemon.start()
        self.engine = self.daemon.engine('engine-a', 'a')
        self.addCleanup(self.engine.close)
        self.names = [node.hash_of('request', i) for i in range(20)]
        self.engine.store(self.names[:8], [node.payload_of(name, 4096) for name in self.names[:8]])
        self.engine.tag = TRACE

    def ask(self, path='admin.sock', **what):
        """A page of answers and the next cursor."""
        with frames.Connection(os.path.join(self.daemon.run, path)) as connection:
            answer = json.loads(connection.ask(frames.OPERATE, frames.operate_body('REQUESTS', **what)).body)
        return answer['requests'], answer['next']

    def one(self, **what):
        found, _ = self.ask(tag=TRACE, **what)
        self.assertEqual(len(found), 1)
        return found[0]

    def test_a_request_is_followed_from_its_lookup_to_its_blocks(self):
        found = self.engine.lookup(self.names, lease_us=1000000)
        self.engine.load(self.names[:9], lease=found.lease)
        self.engine.store(self.names[8:12], [node.payload_of(name, 4096) for name in self.names[8:12]],
                          parent=self.names[7])
        seen = node.until(lambda: self.one() if self.one()['stores']['stored'] == 4 else None, 10, 'all is over')
        self.assertEqual((seen['trace'], seen['tenant'], seen['engine']), (TRACE.hex(), 'a', 'engine-a'))
        self.assertEqual(seen['space'], self.engine.fingerprint.hex())
        look = seen['lookup']
        self.assertEqual((look['times'], look['keys'], look['cpu'] + look['nvme']), (1, 20, 8))
        self.assertEqual((look['asked_tokens'], look['usable_tokens'], look['lease']), (320, 128, 'granted'))
        self.assertEqual(look['first_missing'], self.names[8].hex())
        self.assertEqual(look['first_missing_now'], 'hit-cpu')
        self.assertEqual((seen['loads']['blocks'], seen['loads']['delivered'], seen['loads']['missed']), (9, 8, 1))
        self.assertEqual(seen['store_answers']['wanted'], 4)
        self.assertGreaterEqual(seen['lasted_us'], seen['loads']['longest_us'])

    def test_a_tenant_sees_its_own_requests_alone(self):
        self.engine.lookup(self.names)
        self.assertEqual(len(self.ask(path='t/a/kv.sock', tag=TRACE)[0]), 1)
        self.assertEqual(self.ask(path='t/b/kv.sock', tag=TRACE)[0], [])
        with self.assertRaises(frames.Refused):
            self.ask(path='t/b/kv.sock', tag=TRACE, tenant='a')
        with self.daemon.engine('engine-b', 'b') as other:   # the same trace goes through both
            other.tag = TRACE
            other.lookup(self.names[:3])
        self.assertEqual({one['tenant'] for one in self.ask(tag=TRACE)[0]}, {'a', 'b'})
        self.assertEqual([one['lookup']['keys'] for one in self.ask(tag=TRACE, tenant='b')[0]], [3])

    def test_the_last_requests_are_listed_newest_first_and_the_oldest_go(self):
        for i in range(RING + 10):
            self.engine.tag = (i + 1).to_bytes(16, 'big')
            self.engine.lookup(self.names[:1])
        traces, cursor = [], 0
        while True:
            page, cursor = self.ask(cursor=cursor)
            traces += [int(one['trace'], 16) for one in page]
            if cursor == 0:
                break
        self.assertEqual(traces, list(range(RING + 10, 10, -1)))
        self.assertEqual(self.ask(tag=(5).to_bytes(16, 'big'))[0], [])

    def test_what_has_no_tag_is_not_noted(self):
        self.engine.tag = bytes(16)
        self.engine.lookup(self.names)
        self.assertEqual(self.ask()[0], [])

    def test_a_load_that_delivers_wrong_bytes_is_logged_with_its_trace(self):
        self.engine.load(self.names[:8], check=lambda index, payload: index != 3)
        line = node.until(lambda: next((line for line in self.daemon.log().splitlines()
                                        if 'event=load_incomplete' in line), None), 10, 'the log says so')
        self.assertIn(f'trace={TRACE.hex()}', line)
        self.assertIn('done=7 ', line)
        self.assertIn('damaged=1 ', line)
        self.assertEqual(self.one()['loads']['damaged'], 1)

    def test_blocks_that_their_deadline_ended_are_logged_with_their_trace(self):
        names = [node.hash_of('late', i) for i in range(4)]
        batch, said = self.engine.admissions(names, deadline_us=1000)   # and never committed
        self.assertEqual(set(said), {frames.ADMITTED})
        self.engine.committed(batch, 4)
        line = node.until(lambda: next((line for line in self.daemon.log().splitlines()
                                        if 'event=store_incomplete' in line), None), 10, 'the log says so')
        self.assertIn(f'trace={TRACE.hex()} blocks=4 done=0 missed=0 expired=4 ', line)
        self.assertEqual(self.one()['stores']['expired'], 4)


if __name__ == '__main__':
    unittest.main()
