"""Encryption at rest from outside: what is on the device, what a restart finds with which key, and what is said of it."""
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import faulty   # noqa: E402
import node     # noqa: E402

BLOCKS = 100
PAYLOAD_BYTES = 8192
MARKER = b'the quick brown fox jumps over the lazy dog'
ONES, TWOS, THREES = (digit * 64 for digit in '123')
KILLS = 6
NOBODY, GROUP = 65534, 4321


def chain(name='block'):
    """Payloads that hold a marker which nothing else holds."""
    hashes = [node.hash_of(name, i) for i in range(BLOCKS)]
    return hashes, [MARKER + node.payload_of(h, PAYLOAD_BYTES - len(MARKER)) for h in hashes]


class Case(unittest.TestCase):
    def cache_of(self, encryption, keys=None, tenants=('default',)):
        cache = node.Node(cpu_mib=4, nvme_mib=16, tenants=tenants, encryption=encryption)
        self.addCleanup(cache.__exit__)
        if keys:
            self.keys(cache, keys, tenants)
        return cache

    def keys(self, cache, text, tenants=('default',), mode=0o600):
        path = os.path.join(cache.shm, 'keys')
        with open(path, 'w', encoding='ascii', opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(text)
        os.chmod(path, mode)
        cache.key_files = {tenant: path for tenant in tenants}
        cache.configure()
        return path

    def store(self, cache, name='block', tenant='default'):
        hashes, payloads = chain(name)
        with cache.engine(tenant=tenant, payload_bytes=PAYLOAD_BYTES) as engine:
            self.assertEqual(set(engine.store(hashes, payloads)), {0})
        stats = cache.wait_quiet()
        blocks = {item['name']: item['tiers']['nvme']['blocks'] for item in stats['tenants']}
        self.assertEqual(blocks[tenant], BLOCKS)

    def hits(self, cache, name='block', tenant='default'):
        """How many blocks are served; wrong bytes fail."""
        hashes, payloads = chain(name)
        with cache.engine(tenant=tenant, payload_bytes=PAYLOAD_BYTES) as engine:
            loaded = engine.load(hashes)
        for payload, expected in zip(loaded, payloads):
            self.assertIn(payload, (None, expected))
        return sum(payload is not None for payload in loaded)

    def restart(self, cache):
        cache.stop()
        cache.start()
        cache.wait_restored()

    def seen(self, cache):
        with open(cache.nvme, 'rb') as file:
            return file.read().count(MARKER)

    def reasons(self, cache, name='block'):
        with cache.engine(payload_bytes=PAYLOAD_BYTES) as engine:
            return set(engine.explain(chain(name)[0]))


class Encryption(Case):
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

    def store_more(self, cache):
        hashes, payloads = chain('more')
        with cache.engine(payload_bytes=PAYLOAD_BYTES) as engine:
            self.assertEqual(set(engine.store(hashes, payloads)), {0})
        cache.wait_quiet()

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


class Volume:
    """A Secret with fsGroup, as the kubelet lays it out: a tmpfs of mode 03777 (its root folder has 01777, and fsGroup
    adds setgid), in it a folder a version, 02755, and links of root's that lead there through ..data."""

    def __init__(self, folder, group=GROUP):
        self.folder, self.group = folder, group
        self.versions = itertools.count()
        os.mkdir(folder)
        os.chown(folder, 0, group)
        os.chmod(folder, 0o3777)

    def write(self, name, text, mode=0o440):
        """As AtomicWriter does: all of the new version, then one rename, then the old one goes."""
        data, old = os.path.join(self.folder, '..data'), None
        version = os.path.join(self.folder, f'..2026_01_01.{next(self.versions)}')
        path = os.path.join(version, name)
        os.makedirs(os.path.dirname(path))
        with open(path, 'w', encoding='ascii') as file:
            file.write(text)
        os.chmod(path, mode)
        for place, folders, files in os.walk(version):
            for one in [place] + [os.path.join(place, each) for each in files]:
                os.chown(one, 0, self.group)
            os.chmod(place, 0o2755)
        if os.path.islink(data):
            old = os.path.join(self.folder, os.readlink(data))
        os.symlink(os.path.basename(version), data + '_tmp')
        os.rename(data + '_tmp', data)
        first = name.split('/')[0]
        if not os.path.islink(os.path.join(self.folder, first)):
            os.symlink(os.path.join('..data', first), os.path.join(self.folder, first))
        if old:
            shutil.rmtree(old)
        return os.path.join(self.folder, name)


@unittest.skipUnless(os.geteuid() == 0, 'only root can be another user')
class Secret(Case):
    """The daemon is another user than the one who owns the key file, and has its group."""

    def secret(self, name='keys', groups=(GROUP,), **how):
        cache = self.cache_of('key_file')
        faulty.need_reach(node.program('kvtierd'), cache.folder)
        for path in (cache.folder, cache.run, cache.state):
            os.chown(path, NOBODY, NOBODY)
        os.chmod(cache.shm, 0o755)
        cache.wrapper = [faulty.need('setpriv'), f'--reuid={NOBODY}', f'--regid={NOBODY}',
                         '--groups=' + ','.join(map(str, groups)) if groups else '--clear-groups']
        volume = Volume(os.path.join(cache.shm, 'volume'))
        cache.key_files = {'default': volume.write(name, f'a:{ONES}\n', **how)}
        cache.configure()
        return cache, volume

    def refused(self, cache):
        done = subprocess.run([*cache.wrapper, node.program('kvtierd'), '--config', cache.config, '--check-config'],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 78, done.stderr)
        return done.stderr

    def test_a_secret_with_a_group_of_ours_is_read(self):
        for name in ('keys', 'tenants/default/keys'):
            cache, _ = self.secret(name)
            cache.start()
            self.store(cache)
            self.restart(cache)
            self.assertEqual(self.hits(cache), BLOCKS)

    def test_a_secret_of_another_group_or_that_everybody_may_read_is_refused(self):
        cache, _ = self.secret(groups=())
        self.assertIn('Permission denied', self.refused(cache))
        cache, _ = self.secret(mode=0o644)
        self.assertIn('chmod 600, or 440 with a group of ours', self.refused(cache))
        cache, volume = self.secret()
        os.chmod(os.path.realpath(os.path.join(volume.folder, '..data')), 0o2775)
        self.assertIn('its group may write in', self.refused(cache))

    def test_a_link_that_somebody_else_put_into_the_volume_is_refused(self):
        cache, volume = self.secret()
        link = os.path.join(volume.folder, 'mine')
        os.symlink('..data/keys', link)
        cache.key_files = {'default': link}
        cache.configure()
        cache.start()   # root's
        cache.stop()
        os.chown(link, 12345, GROUP, follow_symlinks=False)
        self.assertIn('belongs to user 12345', self.refused(cache))


if __name__ == '__main__':
    unittest.main()
