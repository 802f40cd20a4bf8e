"""P7: what one client takes, another does not miss: leases, connections, spaces, batches, memory; and tenants stay apart.
"""
import errno
import os
import struct
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import frames   # noqa: E402
import node     # noqa: E402
from hostile import Case, chain   # noqa: E402


class Neighbours(Case):
    settings = {'lease_max': '1s'}

    def test_when_the_first_of_two_storers_dies_the_second_may_store(self):
        hashes, payloads = chain('contended', 4)
        first, second = self.engine('first'), self.engine('second')
        self.assertEqual(set(first.admissions(hashes)[1]), {frames.ADMITTED})
        batch, said = second.admissions(hashes)
        self.assertEqual(set(said), {frames.ATTACHED_TO_OTHER})
        first.close()
        results = second.committed(batch, len(hashes))
        self.assertNotIn(0, results.values())
        self.assertEqual(set(second.store(hashes, payloads)), {0})
        self.assertEqual(second.load(hashes), payloads)
        second.close()
        self.unharmed()

    def test_the_second_of_two_storers_gets_the_first_ones_result(self):
        hashes, payloads = chain('shared', 4)
        first, second = self.engine('first'), self.engine('second')
        batch, _ = first.admissions(hashes)
        other, said = second.admissions(hashes)
        self.assertEqual(set(said), {frames.ATTACHED_TO_OTHER})
        for index, payload in enumerate(payloads):
            first.commit(batch, index, payload, index * 4096)
        self.assertEqual(set(first.committed(batch, 4).values()), {0})
        self.assertEqual(set(second.committed(other, 4).values()), {0})
        self.assertEqual(second.load(hashes), payloads)

    def test_a_hoarder_of_leases_gets_at_most_half_and_others_go_on(self):
        hoarder = self.engine('hoarder')
        hashes, payloads = chain('hoard', 1000)
        for start in range(0, 1000, 250):
            hoarder.store(hashes[start:start + 250], payloads[start:start + 250],
                          parent=hashes[start - 1] if start else None)
        self.cache.wait_quiet()
        for start in range(0, 1000, 20):
            hoarder.lookup(hashes[start:start + 20], lease_us=60000000)
        stats = self.cache.stats()
        for tier, share in stats['tenants'][0]['tiers'].items():
            slots = sum(share['slots'].values())
            self.assertLessEqual(share['held_slots'], slots // 2 + 1, tier)
        self.bystander(3, lease_us=0)   # what the cap refuses are leases, not blocks
        self.bystander(4, 'other')
        hoarder.close()
        node.until(lambda: self.cache.stats()['tenants'][0]['leases'] == 0, 10, 'leases end by their deadline')
        self.unharmed()

    def test_too_many_connections_are_refused_and_the_others_served(self):
        with self.cache.engine('before') as before:
            links = []
            for _ in range(300):
                try:
                    links.append(frames.Connection(self.cache.socket()))
                except (frames.Closed, OSError):
                    break
            self.assertLess(len(links), 300)
            hashes, payloads = chain('crowd', 8)
            self.assertEqual(set(before.store(hashes, payloads)), {0})
            self.assertEqual(before.load(hashes), payloads)
            for link in links:
                link.close()
        self.unharmed()

    def test_a_forked_clients_child_misses_and_the_parent_goes_on(self):
        program = (
            'import errno, os, library, node\n'
            f'c = library.Client({self.cache.socket()!r}, "forker", blocks=8)\n'
            'c.connect()\n'
            'h = [node.hash_of("fork", i) for i in range(8)]\n'
            'for i, x in enumerate(h): c.put(i, node.payload_of(x, 4096))\n'
            'assert c.run("store", h).good == 8\n'
            'pid = os.fork()\n'
            'if pid == 0:\n'
            '    r = [c.lookup(h, 100000)[0], c.begin("load", h, 100000)[0], c.stats(100000)]\n'
            '    os._exit(0 if set(r) == {-errno.ECHILD} else 1)\n'
            'assert os.waitpid(pid, 0)[1] == 0, "the child was served"\n'
            'job = c.run("load", h)\n'
            'assert job.good == 8, job.results\n'
            'c.close()\n')
        done = subprocess.run([sys.executable, '-c', program], cwd=os.path.dirname(os.path.abspath(__file__)),
                              capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr[-2000:])
        self.unharmed()

    def test_two_processes_on_one_socket_harm_only_themselves(self):
        engine = self.engine()
        pid = os.fork()
        if pid == 0:
            try:
                for number in range(200):
                    engine.control.send(frames.STATS)
                    engine.data.send(frames.STORE, frames.store_body(engine.space, 5000 + number,
                                                                     [node.hash_of('fork', number)]))
            except (frames.Closed, OSError):
                pass
            os._exit(0)
        try:
            for number in range(200):
                engine.control.send(frames.STATS)
        except (frames.Closed, OSError):
            pass
        os.waitpid(pid, 0)
        engine.close()
        self.unharmed()


class Tenants(Case):
    """`default` is the victim, `other` the intruder."""
    settings = {'lease_max': '1m', 'leases_max': 64, 'spaces_max': 64, 'connections_max': 128}

    def victim(self):
        engine = self.engine('victim')
        hashes, payloads = chain('secret', 64)
        self.assertEqual(set(engine.store(hashes, payloads)), {0})
        self.cache.wait_quiet()
        return engine, hashes, payloads

    def test_a_tenant_never_sees_anothers_blocks(self):
        victim, hashes, _ = self.victim()
        intruder = self.engine('victim', 'other')
        self.assertNotEqual(intruder.fingerprint, victim.fingerprint)
        self.assertEqual(sum(intruder.lookup(hashes).present), 0)
        self.assertEqual(intruder.load(hashes), [None] * 64)
        self.assertEqual(set(intruder.explain(hashes)) & {'hit_cpu', 'hit_nvme'}, set())

    def test_a_tenant_cannot_use_anothers_space_or_token(self):
        victim, hashes, payloads = self.victim()
        for kind in (frames.LOAD, frames.STORE, frames.LOOKUP):
            intruder = self.cache.engine('intruder', 'other')
            link = intruder.control if kind == frames.LOOKUP else intruder.data
            body = {frames.LOAD: frames.load_body(victim.space, 1, hashes), frames.STORE:
                    frames.store_body(victim.space, 1, hashes),
                    frames.LOOKUP: frames.lookup_body(victim.space, hashes)}[kind]
            if victim.space != intruder.space:
                with self.assertRaises((frames.Refused, frames.Closed), msg=kind):
                    link.ask(kind, body, frames.LAST)
                    link.receive()
            intruder.close()
        link = frames.Connection(self.cache.socket('other'), frames.DATA)
        self.addCleanup(link.close)
        with self.assertRaises((frames.Refused, frames.Closed)):
            link.ask(frames.ATTACH, struct.pack('<Q', victim.token))
        self.assertEqual(victim.load(hashes), payloads)

    def test_a_tenant_cannot_forget_anothers_space(self):
        victim, hashes, payloads = self.victim()
        with self.cache.engine('intruder', 'other') as intruder:
            intruder.control.ask(frames.FORGET, frames.forget_body(0, victim.fingerprint))
            intruder.control.ask(frames.FORGET, frames.forget_body(victim.space))
            intruder.forget(frames.SPACE_ALL)
        self.assertEqual(victim.load(hashes), payloads)

    def test_a_tenant_cannot_bypass_another(self):
        victim, hashes, payloads = self.victim()
        with self.cache.engine('intruder', 'other') as intruder:
            for name in (b'', b'default'):
                try:
                    intruder.control.ask(frames.BYPASS, struct.pack('<64s16sII', name, bytes(16), 1, 0))
                except (frames.Refused, frames.Closed):
                    break
        self.assertEqual(victim.load(hashes), payloads)

    def test_a_tenant_never_evicts_anothers_blocks(self):
        victim, hashes, payloads = self.victim()
        intruder = self.engine('intruder', 'other')
        for number in range(12):
            intruder.store(*chain(f'intruder {number}', 250))
        self.cache.wait_quiet()
        self.assertEqual(self.cache.stats()['tenants'][0]['tiers']['cpu']['blocks'], 64 + 16)
        self.assertEqual(self.cache.stats()['tenants'][0]['tiers']['nvme']['blocks'], 64 + 16)
        self.assertEqual(victim.load(hashes), payloads)

    def test_a_tenant_cannot_release_anothers_lease(self):
        victim, hashes, payloads = self.victim()
        found = victim.lookup(hashes, lease_us=30000000)
        self.assertNotEqual(found.lease, 0)
        with self.cache.engine('intruder', 'other') as intruder:
            for guess in [found.lease] + [generation << 32 | number for generation in range(8) for number in range(64)]:
                intruder.control.send(frames.LEASE_RELEASE, struct.pack('<Q', guess))
            intruder.control.stats()
        self.assertEqual(self.cache.stats()['tenants'][0]['leases'], 1)

    def test_a_tenant_that_takes_all_leases_leaves_another_its_own(self):
        victim, hashes, payloads = self.victim()
        intruder = self.engine('intruder', 'other')
        own, own_payloads = chain('own', 100)
        intruder.store(own, own_payloads)
        for number in range(100):
            intruder.lookup(own[:1], lease_us=60000000)
        self.assertEqual(victim.lookup(hashes, lease_us=1000000).usable, 16 * 64)

    def test_a_tenant_that_leases_the_same_blocks_again_and_again_leaves_another_its_own(self):
        victim, hashes, payloads = self.victim()
        intruder = self.engine('intruder', 'other')
        own, own_payloads = chain('own', 250)
        intruder.store(own, own_payloads)
        for count in (250, 64, 16, 4, 1):
            while intruder.lookup(own[:count], lease_us=60000000).usable == 16 * count:
                pass
        self.assertEqual(victim.lookup(hashes, lease_us=1000000).usable, 16 * 64)

    def test_a_tenant_with_all_batches_leaves_another_some(self):
        victim, hashes, payloads = self.victim()
        for number in range(20):
            intruder = self.engine(f'intruder {number}', 'other')
            if number == 0:
                own, own_payloads = chain('own', 8)
                intruder.store(own, own_payloads)
            for batch in range(intruder.data.batches_max):
                intruder.data.send(frames.LOAD, frames.load_body(intruder.space, 10 + batch, own, deadline_us=1 << 40))
            intruder.control.stats()
        self.assertEqual(victim.load(hashes), payloads)
        more, more_payloads = chain('more', 8)
        self.assertEqual(set(victim.store(more, more_payloads)), {0})

    def test_a_deadline_without_end_ends_with_its_connection(self):
        intruder = self.engine('intruder')
        own, own_payloads = chain('own', 8)
        intruder.store(own, own_payloads)
        for batch, deadline_us in enumerate(((1 << 64) - 1, (1 << 63) - 1, 1 << 40, 0)):
            intruder.data.send(frames.LOAD, frames.load_body(intruder.space, 10 + batch, own, deadline_us=deadline_us))
            intruder.data.ask(frames.STORE, frames.store_body(intruder.space, 50 + batch, [node.hash_of('x', batch)],
                                                              deadline_us=deadline_us))
        intruder.close()
        self.unharmed()

    def test_a_tenant_that_makes_spaces_leaves_another_room(self):
        intruder = self.engine('intruder', 'other')
        for number in range(100):
            adapter = node.hash_of('adapter', number)
            intruder.control.ask(frames.SPACE, struct.pack('<II32s', intruder.space, 0, adapter))
            intruder.control.ask(frames.FORGET, frames.forget_body(0, adapter[:16]))
        with self.cache.engine('newcomer', model='new model') as newcomer:
            hashes, payloads = chain('new')
            newcomer.store(hashes, payloads)
            self.assertEqual(newcomer.load(hashes), payloads)

    def test_a_tenant_with_all_connections_leaves_another_some(self):
        links = []
        for _ in range(200):
            try:
                links.append(frames.Connection(self.cache.socket('other')))
            except (frames.Closed, OSError):
                break
        self.addCleanup(lambda: [link.close() for link in links])
        self.bystander(7)

    def test_a_full_node_takes_a_second_model_of_another_block_size(self):
        first = self.engine('first')
        for number in range(20):
            first.store(*chain(f'first {number}', 250))
        self.cache.wait_quiet()
        hashes, payloads = chain('second', 8, 65536)
        with self.cache.engine('second', model='second', payload_bytes=65536) as second:
            results = second.store(hashes, payloads)
            self.assertEqual(set(results), {0})
            self.assertEqual(second.lookup(hashes).usable, 16 * 8)
            self.assertEqual(second.load(hashes), payloads)


if __name__ == '__main__':
    unittest.main()
