"""Row 29: another user of the node puts something of his in the place of ours: folders, sockets, lock, journal, catalogue,
memory and disk files. The daemon refuses with one sentence that names it, or goes on untouched; it never follows a link
out, writes to what it did not make, or changes the mode of it. All of it without the sandbox, which would hide what is
missing. How many cases of which end is in build/tests/paths.json.
"""
import collections
import contextlib
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import node   # noqa: E402

HOSTILE = 65534
SECRET = b'the secret of the operator ' * 400
# Where: relative to the folder in which everybody may make files, and whether he can make it there himself.
TARGETS = ('run', 'state', 'memory', 'disk', 'disk/nvme', 'disk/nvme.new', 'run/t', 'run/t/default', 'run/t/default/kv.sock',
           'run/admin.sock', 'run/http.sock', 'run/sockets.lock', 'state/lock', 'state/journal', 'state/journal.new',
           'state/catalog')
KINDS = ('link', 'dangling link', 'link to a folder', 'hard link', 'folder', 'file', 'fifo', 'socket', 'device')


def plant(kind, path, place):
    """As the hostile user left it. Root makes what the kernel would not let him make here."""
    if kind == 'link':
        os.symlink(place.victim, path)
    elif kind == 'dangling link':
        os.symlink(place.victim + '.made', path)
    elif kind == 'link to a folder':
        os.symlink(place.vault, path)
    elif kind == 'hard link':
        os.link(place.victim, path)
        return                                  # one file: its owner is the victim's
    elif kind == 'folder':
        os.mkdir(path)
        os.chmod(path, 0o777)
    elif kind == 'file':
        with open(path, 'wb') as file:
            file.write(b'his' * 4096)
        os.chmod(path, 0o666)
    elif kind == 'fifo':
        os.mkfifo(path)
    elif kind == 'socket':
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
    elif kind == 'device':
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chown(path, HOSTILE, HOSTILE, follow_symlinks=False)


class Place:
    """A folder like /tmp, beside it a file and a folder that are nobody's business."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix='p', dir='/dev/shm')   # an arena's file needs tmpfs
        os.chmod(self.folder, 0o755)
        self.open = os.path.join(self.folder, 'open')
        self.victim = os.path.join(self.folder, 'victim')
        self.vault = os.path.join(self.folder, 'vault')
        os.mkdir(self.open)
        os.chmod(self.open, 0o1777)
        os.mkdir(self.vault, 0o755)
        with open(self.victim, 'wb') as file:
            file.write(SECRET)
        os.chmod(self.victim, 0o644)

    def path(self, name):
        return os.path.join(self.open, name)

    def prepare(self, target):
        """The folders above it are ours."""
        above = ''
        for part in target.split('/')[:-1]:
            above = os.path.join(above, part)
            os.mkdir(self.path(above), 0o700 if above == 'state' else 0o755)
        # Not made by the daemon; what lies in it is not under the kernel's protection of sticky folders.
        if not target.startswith('disk'):
            os.mkdir(self.path('disk'), 0o755)

    def run(self, run='run', state='state'):
        """(status or None, what it logged): status None is a daemon that was ready, and was stopped."""
        config = os.path.join(self.folder, 'kvtierd.yaml')
        with open(config, 'w', encoding='utf-8') as file:
            file.write(f'run_directory: {self.path(run)}\nstate_directory: {self.path(state)}\nextent_bytes: 1MiB\n'
                       f'http_listen: ""\nsandbox: off\nmills: 1\nblock_bytes_min: 4KiB\nrestart_wait: 50ms\ntenants:\n'
                       f'  - name: default\n    cpu_bytes: 2MiB\n    cpu_file: {self.path("memory")}\n'
                       f'nvme:\n  - path: {self.path("disk/nvme")}\n    bytes: 8MiB\n')
        process = subprocess.Popen([node.program('kvtierd'), '--config', config], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)
        node.running.add(process)
        lines = []
        for line in process.stderr:
            lines.append(line)
            if 'event=ready' in line:
                process.terminate()
        process.stderr.close()
        status = process.wait(node.STOP_SECONDS)
        node.running.discard(process)
        return status, ''.join(lines)

    def is_untouched(self):
        """What differs from how it was, or None."""
        with open(self.victim, 'rb') as file:
            if file.read() != SECRET:
                return 'the file was written to'
        status = os.stat(self.victim)
        if (stat.S_IMODE(status.st_mode), status.st_uid) != (0o644, os.getuid()):
            return f'the file has mode {status.st_mode:o} and owner {status.st_uid}'
        if os.listdir(self.vault) or stat.S_IMODE(os.stat(self.vault).st_mode) != 0o755:
            return f'the folder was changed: {os.listdir(self.vault)}'
        extra = set(os.listdir(self.folder)) - {'open', 'victim', 'vault', 'kvtierd.yaml'}
        return f'made through a link: {extra}' if extra else None

    def close(self):
        shutil.rmtree(self.folder, ignore_errors=True)


@unittest.skipUnless(os.geteuid() == 0, 'another user\'s files can be made by root only')
@unittest.skipUnless(os.access('/dev/shm', os.W_OK), 'no tmpfs at /dev/shm')
class Case(unittest.TestCase):
    def place(self):
        place = Place()
        self.addCleanup(place.close)
        return place

    def refused(self, place, words, **paths):
        place.prepare('')
        status, log = place.run(**paths)
        self.assertEqual(status, 1, log)
        reasons = [line for line in log.splitlines() if 'event=start_failed' in line]
        self.assertEqual(len(reasons), 1, log)
        for word in words:
            self.assertIn(word, reasons[0])
        self.assertIsNone(place.is_untouched())
        return reasons[0]


class Planted(Case):
    def check(self, target, kind):
        place = self.place()
        place.prepare(target)
        plant(kind, place.path(target), place)
        status, log = place.run()
        self.assertIn(status, (0, 1), log)
        self.assertIsNone(place.is_untouched(), log)
        if status == 0:
            return 'went on untouched'
        reasons = [line for line in log.splitlines() if 'event=start_failed' in line]
        self.assertEqual(len(reasons), 1, log)
        self.assertIn(place.path(target.replace('.new', '')), reasons[0])
        return 'refused'

    def test_what_another_user_planted_is_refused_or_does_no_harm(self):
        ends = collections.Counter()
        went_on = []
        for target in TARGETS:
            for kind in KINDS:
                with self.subTest(target=target, kind=kind):
                    end = self.check(target, kind)
                    ends[end] += 1
                    if end != 'refused':
                        went_on.append(f'{target}: {kind}')
        node.figures_write('paths.json', {'cases': sum(ends.values()), 'ends': ends, 'went_on': went_on})
        self.assertEqual(sum(ends.values()), len(TARGETS) * len(KINDS))


class Folders(Case):
    def test_a_state_directory_of_another_owner_is_refused(self):
        place = self.place()
        os.mkdir(place.path('state'), 0o700)
        os.chown(place.path('state'), HOSTILE, HOSTILE)
        self.refused(place, ('state_directory', place.path('state'), f'belongs to user {HOSTILE}', 'chown'))

    def test_a_folder_that_everybody_may_write_in_is_refused(self):
        for name, key in (('state', 'state_directory'), ('run', 'run_directory')):
            place = self.place()
            os.mkdir(place.path(name))
            os.chmod(place.path(name), 0o777)
            self.refused(place, (key, place.path(name), 'chmod o-w'))

    def test_a_parent_of_another_user_is_refused(self):
        for key in ('run', 'state'):
            place = self.place()
            os.mkdir(place.path('his'), 0o755)
            os.chown(place.path('his'), HOSTILE, HOSTILE)
            self.refused(place, (place.path('his'), f'belongs to user {HOSTILE}'), **{key: f'his/{key}'})

    def test_a_link_of_another_user_on_the_way_is_refused(self):
        place = self.place()
        os.symlink(place.vault, place.path('his'))
        os.chown(place.path('his'), HOSTILE, HOSTILE, follow_symlinks=False)
        self.refused(place, (place.path('his'), f'belongs to user {HOSTILE}'), state='his/state')

    def test_a_link_of_the_operator_on_the_way_is_followed(self):
        place = self.place()
        os.mkdir(place.path('mnt'), 0o755)
        os.symlink('mnt', place.path('var'))
        place.prepare('')
        status, log = place.run(run='var/run', state='var/state')
        self.assertEqual(status, 0, log)
        self.assertTrue(os.path.exists(place.path('mnt/state/journal')))


class Modes(unittest.TestCase):
    def mode(self, path):
        return stat.S_IMODE(os.lstat(path).st_mode)

    def test_folders_and_sockets_have_their_modes_whatever_the_umask_is(self):
        for umask in (0o077, 0o022, 0):
            before = os.umask(0o022)
            try:
                with node.Node(cpu_mib=4, nvme_mib=16, tenants=('default', 'warm'), warm=('warm',)) as cache:
                    for folder in (cache.run, cache.state):
                        os.rmdir(folder)
                    os.umask(umask)
                    cache.start()
                    os.umask(0o022)
                    for path, mode in ((cache.run, 0o755), (os.path.join(cache.run, 't'), 0o755),
                                       (os.path.dirname(cache.socket()), 0o750), (cache.socket(), 0o660),
                                       (os.path.join(cache.run, 'admin.sock'), 0o600), (cache.state, 0o700),
                                       (os.path.join(cache.state, 'journal'), 0o600), (cache.nvme, 0o600),
                                       (os.path.join(cache.state, 'catalog'), 0o700),
                                       (cache.arena_file('warm'), 0o600)):
                        self.assertEqual(f'{self.mode(path):o}', f'{mode:o}', f'{path} with umask {umask:o}')
            finally:
                os.umask(before)

    def test_what_others_may_read_of_an_old_file_is_taken_from_them(self):
        with node.Node(cpu_mib=4, nvme_mib=16) as cache:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(cache.nvme)
            cache.start()
            cache.stop()
            os.chmod(cache.nvme, 0o644)
            cache.start()
            self.assertEqual(self.mode(cache.nvme), 0o640)


if __name__ == '__main__':
    unittest.main()
