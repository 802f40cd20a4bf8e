"""Key files: read again while the daemon runs, and who may read and write them beside the daemon."""
import hashlib
import hmac
import itertools
import os
import shutil
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import encrypted   # noqa: E402
import faulty      # noqa: E402
import node        # noqa: E402
from encrypted import BLOCKS, ONES, TWOS   # noqa: E402

NOBODY, GROUP = 65534, 4321


def derived(key, salt, info):
    """HKDF-SHA256 with one block of output."""
    return hmac.digest(hmac.digest(salt, key, hashlib.sha256), info + b'\1', hashlib.sha256)


def data_key(line, tenant='default'):
    name, digits = line.strip().split(':')
    info = b''.join(bytes([len(word)]) + word.encode() for word in (tenant, name))
    return derived(bytes.fromhex(digits), b'kvtier/data-key/1', info)


class Reread(encrypted.Case):
    """The key file is read again while the daemon runs."""

    def reload(self, cache):
        lines = cache.log().count('event=reload')
        os.kill(cache.process.pid, signal.SIGHUP)
        node.until(lambda: cache.log().count('event=reload') > lines, 10, 'a reload')
        node.until(lambda: cache.stats()['tenants'][0]['keys_state'] == 'in force', 10, 'the old keys left')
        return cache.stats()['reload']

    def names(self, cache):
        return [key['name'] for key in cache.stats()['tenants'][0]['keys']]

    def test_a_new_key_writes_at_once_and_an_old_one_that_is_gone_is_a_miss(self):
        cache = self.cache_of('key_file', f'old:{ONES}\n')
        cache.start()
        since = cache.stats()['tenants'][0]['keys'][0]['since_unix_seconds']
        self.store(cache)
        self.keys(cache, f'new:{TWOS}\nold:{ONES}\n')
        report = self.reload(cache)
        self.assertEqual(report['result'], 'taken')
        self.assertEqual(report['changed'], [{'key': 'tenants.0.keys', 'from': 'old', 'to': 'new old'}])
        self.assertEqual(self.names(cache), ['new', 'old'])
        self.assertEqual(cache.stats()['tenants'][0]['keys'][1]['since_unix_seconds'], since)
        self.assertEqual(cache.metric('kvtier_encryption{tenant="default",mode="key_file",key="new"}'), 1)
        self.store_more(cache)
        self.keys(cache, f'new:{TWOS}\n')
        self.reload(cache)
        tenant = cache.stats()['tenants'][0]
        self.assertEqual((tenant['key_missing_blocks'], tenant['tiers']['nvme']['blocks']), (BLOCKS, BLOCKS))
        self.assertEqual(self.hits(cache, 'more'), BLOCKS)
        node.until(lambda: f'event=keys_left dropped_blocks={BLOCKS}' in cache.log(), 10, 'the log says so')
        self.restart(cache)
        self.assertEqual(self.hits(cache, 'more'), BLOCKS)
        self.assertEqual(self.hits(cache), 0)

    def test_a_wrong_key_file_changes_nothing_and_says_so(self):
        cache = self.cache_of('key_file', f'a:{ONES}\n')
        cache.start()
        self.store(cache)
        for text, mode, words in ((f'b:{TWOS}\nb:12\n', 0o600, ':2: behind ID'), (f'b:{TWOS}\n', 0o644, 'chmod 600'),
                                  ('', 0o600, 'has no key')):
            self.keys(cache, text, mode=mode)
            report = self.reload(cache)
            self.assertEqual(report['result'], 'refused')
            self.assertIn(words, report['reason'])
            self.assertEqual(self.names(cache), ['a'])
        os.unlink(cache.key_files['default'])
        self.assertEqual(self.reload(cache)['result'], 'refused')
        self.assertEqual(self.hits(cache), BLOCKS)

    def test_config_print_names_the_keys_and_doctor_asks_for_a_reload(self):
        cache = self.cache_of('key_file', f'a:{ONES}\n')
        cache.start()
        path = self.keys(cache, f'b:{TWOS}\na:{ONES}\n')
        os.utime(path, (2e9, 2e9))
        self.assertIn('kvtier reload', self.kvtier(cache, 'doctor'))
        self.reload(cache)
        row = next(line for line in self.kvtier(cache, 'config', 'print').splitlines() if 'tenants.0.keys' in line)
        self.assertRegex(row, r'b a +key_file, the first since 20\d\d-\d\d-\d\dT')

    def kvtier(self, cache, *words):
        return subprocess.run([node.program('kvtier'), '--socket', os.path.join(cache.run, 'admin.sock'), *words],
                              capture_output=True, text=True, check=False).stdout

    # ---- memory ----

    def memory_has(self, cache, needles):
        """{name: the mapping's first address} of these byte strings, in memory that the daemon can write to, arenas and
        windows aside."""
        found = {}
        with open(f'/proc/{cache.process.pid}/maps', encoding='ascii') as maps, \
                open(f'/proc/{cache.process.pid}/mem', 'rb', buffering=0) as memory:
            for line in maps:
                span, rights, *rest = line.split()
                if 'w' not in rights or 's' in rights or rest[-1] == '[vvar]':
                    continue
                start, end = (int(word, 16) for word in span.split('-'))
                try:
                    memory.seek(start)
                    content = memory.read(end - start)
                except OSError:
                    continue
                found.update({name: span.split('-')[0] for name, needle in needles.items() if needle in content})
        return found

    def life_keys(self, cache, key):
        """The AES keys of the lives that blocks on the device name in their nonces: found by their key ids."""
        key_id = derived(key, b'kvtier/key-id/1', b'')[:4]
        with open(cache.nvme, 'rb') as file:
            content = file.read()
        places = [at for at in range(0, len(content), 4096) if key_id in content[at:at + 256]]
        self.assertGreater(len(places), 0)
        header = content[places[0]:places[0] + 256]
        # A nonce is the life and then a counter of 48 bits, of which few are in use yet.
        return {f'life at {at}': derived(key, header[at:at + 10], b'kvtier/life/1') for at in range(240)
                if not any(header[at + 12:at + 16]) and len(set(header[at:at + 10])) > 5}

    @unittest.skipUnless(os.geteuid() == 0, 'the memory of a daemon that cannot be traced is for root')
    def test_nothing_of_a_key_that_was_taken_out_is_left_in_memory(self):
        cache = self.cache_of('key_file', f'old:{ONES}\n')
        cache.start()
        self.store(cache)
        self.restart(cache)
        self.assertEqual(self.hits(cache), BLOCKS)
        old = data_key(f'old:{ONES}')
        needles = {'hexadecimal': ONES.encode()[:32], 'bytes': bytes.fromhex(ONES)[:16], 'data key': old,
                   **self.life_keys(cache, old)}
        before = self.memory_has(cache, needles)
        self.assertIn('data key', before)
        self.assertEqual(len([name for name in before if name.startswith('life')]), 1, before)
        self.assertFalse(before.keys() & {'hexadecimal', 'bytes'})
        self.assert_is_kept(cache, before['data key'])
        self.keys(cache, f'new:{TWOS}\n')
        self.reload(cache)
        self.store(cache, 'more')
        self.assertEqual(self.memory_has(cache, needles), {})
        new = data_key(f'new:{TWOS}')
        self.assert_is_kept(cache, self.memory_has(cache, {'data key': new})['data key'])

    def assert_is_kept(self, cache, start):
        """Locked, in no core, in no child."""
        with open(f'/proc/{cache.process.pid}/smaps', encoding='ascii') as smaps:
            mapping = smaps.read().partition(f'\n{start}-')[2]
        flags = mapping.partition('VmFlags:')[2].partition('\n')[0].split()
        self.assertLessEqual({'lo', 'dd', 'dc'}, set(flags))


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
class Secret(encrypted.Case):
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

    def test_a_version_that_the_kubelet_swaps_in_is_read_through_the_sandbox(self):
        for name in ('keys', 'tenants/default/keys'):
            cache, volume = self.secret(name)
            cache.start()
            self.store(cache)
            volume.write(name, f'b:{TWOS}\na:{ONES}\n')
            os.kill(cache.process.pid, signal.SIGHUP)
            node.until(lambda c=cache: 'event=reload' in c.log(), 10, 'a reload')
            self.assertEqual([key['name'] for key in cache.stats()['tenants'][0]['keys']], ['b', 'a'], cache.log())
            self.assertEqual(self.hits(cache), BLOCKS)
            cache.stop()

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
