"""Encryption at rest from outside: what is on the device, what a restart finds with which key, and what is said of it."""
import json
import os
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import encrypted   # noqa: E402
import node        # noqa: E402
from encrypted import BLOCKS, MARKER, ONES, PAYLOAD_BYTES, THREES, TWOS, chain   # noqa: E402

KILLS = 6


class Encryption(encrypted.Case):
    # ---- what is on the device ----

    def test_a_marker_in_the_payloads_is_on_the_device_only_without_encryption(self):
        for encryption, keys in (('off', None), ('ephemeral', None), ('key_file', f'a:{ONES}\n')):
            with self.subTest(encryption):
                cache = self.cache_of(encryption, keys)
                cache.start()
                self.store(cache)
                self.assertEqual(self.seen(cache), BLOCKS if encryption == 'off' else 0)
                self.assertEqual(self.hits(cache), BLOCKS)
                cache.stop()
                self.assertEqual(self.seen(cache), BLOCKS if encryption == 'off' else 0)

    def test_nothing_of_the_keys_is_in_status_metrics_log_or_state(self):
        cache = self.cache_of('key_file', f'first-key:{ONES}\n', tenants=('default', 'other'))
        cache.start()
        self.store(cache)
        self.store(cache, tenant='other')
        stats = cache.stats()
        for tenant in stats['tenants']:
            self.assertEqual((tenant['encryption'], tenant['newest_key']), ('key_file', 'first-key'))
        self.assertEqual(cache.metric('kvtier_encryption{tenant="other",mode="key_file",key="first-key"}'), 1)
        said = json.dumps(stats) + cache.http('/metrics')[1]
        cache.stop()
        said += cache.log()
        self.assertIn('event=encryption tenant=default keys=1 newest=first-key', said)
        self.assertNotIn('1' * 16, said)
        for folder, _, names in os.walk(cache.state):
            for name in names:
                with open(os.path.join(folder, name), 'rb') as file:
                    content = file.read()
                self.assertNotIn(b'\x11' * 16, content)
                self.assertNotIn(b'1' * 32, content)

    # ---- restarts ----

    def test_a_restart_with_the_same_key_finds_all_of_it(self):
        cache = self.cache_of('key_file', f'a:{ONES}\n')
        cache.start()
        self.store(cache)
        self.restart(cache)
        self.assertEqual(self.hits(cache), BLOCKS)
        self.assertEqual(cache.counters()['hit_blocks_nvme'], BLOCKS)
        cache.stop()
        cache.catalogue_delete()
        cache.start()
        cache.wait_restored()
        self.assertEqual(self.hits(cache), BLOCKS)
        self.assertEqual(cache.counters()['cipher_failures'], 0)

    def test_a_restart_with_another_key_misses_and_says_why(self):
        for keys in (f'b:{TWOS}\n', f'a:{THREES}\n'):   # another name, and another key under the same name
            cache = self.cache_of('key_file', f'a:{ONES}\n')
            cache.start()
            self.store(cache)
            cache.stop()
            self.keys(cache, keys)
            cache.start()
            cache.wait_restored()
            self.assert_all_missing(cache, 'key_missing')
            self.assertIn(f'event=blocks_unreadable tenant=default key_missing={BLOCKS} in_clear=0', cache.log())
            cache.stop()

    def test_a_restart_with_an_ephemeral_key_misses_and_says_so_once(self):
        cache = self.cache_of('ephemeral')
        cache.start()
        self.store(cache)
        self.restart(cache)
        self.assert_all_missing(cache, 'key_missing')
        self.assertEqual(cache.log().count('event=blocks_unreadable'), 1)

    def test_turned_on_it_refuses_what_is_in_the_clear(self):
        cache = self.cache_of('off')
        cache.start()
        self.store(cache)
        cache.stop()
        cache.settings['encryption'] = 'ephemeral'
        cache.configure()
        cache.start()
        cache.wait_restored()
        self.assert_all_missing(cache, 'in_clear')

    def assert_all_missing(self, cache, reason):
        """No slot is quarantined, and its place is used again."""
        self.assertEqual(self.hits(cache), 0)
        self.assertEqual(self.reasons(cache), {reason})
        tenant = cache.stats()['tenants'][0]
        self.assertEqual(tenant[f'{reason}_blocks'], BLOCKS)
        self.assertEqual(cache.metric(f'kvtier_blocks_unreadable_total{{tenant="default",reason="{reason}"}}'), BLOCKS)
        self.assertEqual(tenant['tiers']['nvme']['slots']['bad'], 0)
        self.store(cache)
        self.assertEqual(self.hits(cache), BLOCKS)

    def test_keys_rotate(self):
        cache = self.cache_of('key_file', f'old:{ONES}\n')
        cache.start()
        self.store(cache)
        cache.stop()
        self.keys(cache, f'new:{TWOS}\nold:{ONES}\n')
        cache.start()
        cache.wait_restored()
        self.assertEqual(self.hits(cache), BLOCKS)
        self.store_more(cache)
        cache.stop()
        self.keys(cache, f'new:{TWOS}\n')
        cache.start()
        cache.wait_restored()
        self.assertEqual(self.hits(cache, 'more'), BLOCKS)
        self.assertEqual(self.hits(cache), 0)
        self.assertEqual(self.reasons(cache), {'key_missing'})

    def test_what_was_forgotten_stays_forgotten(self):
        cache = self.cache_of('key_file', f'a:{ONES}\n')
        cache.start()
        self.store(cache)
        with cache.engine(payload_bytes=PAYLOAD_BYTES) as engine:
            self.assertEqual(engine.forget(), 0)
        self.assertEqual(self.hits(cache), 0)
        self.restart(cache)
        self.assertEqual(self.hits(cache), 0)
        cache.stop()
        cache.catalogue_delete()
        cache.start()
        cache.wait_restored()
        self.assertEqual(self.hits(cache), 0)

    def test_killed_in_the_middle_of_stores_every_block_loads_right_or_misses(self):
        cache = self.cache_of('key_file', f'a:{ONES}\n')
        found = 0
        for kill in range(node.scaled(KILLS, least=2)):
            cache.start()
            cache.wait_restored()
            found += self.hits(cache)
            hashes, payloads = chain('block')
            with cache.engine(payload_bytes=PAYLOAD_BYTES) as engine:
                engine.store(hashes, payloads)
                self.assertGreater(cache.counters()['stored_blocks'] + found, 0)
                cache.kill()
        self.assertGreater(found, 0)

    def test_verify_counts_enciphered_slots_as_sealed(self):
        cache = self.cache_of('key_file', f'a:{ONES}\n')
        cache.start()
        self.store(cache)
        cache.stop()
        output = subprocess.run([node.program('kvtierd'), '--verify', '--json', '--tier', 'nvme', '--config',
                                 cache.config], capture_output=True, text=True, check=True).stdout
        summary = json.loads(output.splitlines()[-1])
        self.assertEqual((summary['sealed'], summary['good'], summary['damaged']), (BLOCKS, 0, 0))

    def test_settings_can_be_read_again_with_a_key_file(self):
        """Which the sandbox must let it read, too."""
        cache = self.cache_of('key_file', f'a:{ONES}\n')
        cache.start()
        cache.settings['log_level'] = 'debug'
        cache.configure()
        os.kill(cache.process.pid, signal.SIGHUP)
        node.until(lambda: 'log_level' in cache.log().partition('event=ready')[2], 10, 'settings read again')
        self.assertNotIn('level=error', cache.log())

    # ---- what is wrong with a key file ----

    def refusal(self, cache):
        """(exit status of --check-config, what it said)."""
        done = subprocess.run([node.program('kvtierd'), '--config', cache.config, '--check-config'],
                              capture_output=True, text=True, check=False)
        self.assertNotIn('1' * 16, done.stderr)
        return done.returncode, done.stderr

    def test_a_wrong_key_file_is_refused_with_the_remedy(self):
        cache = self.cache_of('key_file')
        status, words = self.refusal(cache)
        self.assertEqual(status, 78)
        self.assertIn('tenants.0.key_file: is required', words)
        path = self.keys(cache, f'a:{ONES}\n', mode=0o644)
        status, words = self.refusal(cache)
        self.assertEqual(status, 78)
        self.assertIn('chmod 600', words)
        self.assertIn(path, words)
        self.keys(cache, f'# comment\na:{ONES}\nb:12\n')
        status, words = self.refusal(cache)
        self.assertEqual(status, 78)
        self.assertIn(f'{path}:3: behind ID: a key is 64 hexadecimal digits', words)
        self.keys(cache, f'a:{ONES}\n')
        self.assertEqual(self.refusal(cache), (0, ''))


if __name__ == '__main__':
    unittest.main()
