"""What a new operator does wrong: each gives one sentence that names what is wrong and what would put it right, the
right exit status, and an end; what was stored before is still there afterwards.

Where the daemon can serve without what is missing (locked memory, io_uring, room for the catalogue, a dead disk), it
does, and says so once.
"""
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import faulty   # noqa: E402
import node     # noqa: E402

FAILED, WRONG_SETTINGS = 1, 78
REFUSED_SECONDS = 20
WAIT_MS = 300
BLOCKS = 64
SENTENCE_BYTES_MAX = 330
NOBODY = 65534


def chain(name, count=BLOCKS):
    hashes = [node.hash_of(name, i) for i in range(count)]
    return hashes, [node.payload_of(h, 4096) for h in hashes]


class Operator(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix='o')
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def node(self, **options):
        options = {'cpu_mib': 2, 'nvme_mib': 8, 'restart_wait': f'{WAIT_MS}ms', 'mills': 1, **options}
        cache = node.Node(**options)
        self.addCleanup(cache.__exit__)
        return cache

    def edit(self, cache, before, after):
        with open(cache.config, encoding='utf-8') as file:
            text = file.read()
        self.assertIn(before, text)
        with open(cache.config, 'w', encoding='utf-8') as file:
            file.write(text.replace(before, after))

    def ends(self, cache):
        """The exit status of a start that is refused."""
        cache.spawn()
        try:
            status = cache.process.wait(REFUSED_SECONDS)
        except subprocess.TimeoutExpired:
            self.fail(f'it neither started nor ended:\n{cache.log()}')
        node.running.discard(cache.process)
        cache.process = None
        return status

    def sentence(self, cache):
        """The one line that is no information: what it says to a person."""
        lines = [line for line in cache.log().splitlines() if 'level=info' not in line]
        self.assertEqual(len(lines), 1, lines)
        line = lines[0]
        said = re.search(r'event=start_failed reason="(.*)"$', line)
        text = said.group(1) if said else line.removeprefix('kvtierd: ')
        self.assertLess(len(text), SENTENCE_BYTES_MAX)
        self.assertNotIn('\\', text)
        print(f'\n    {text}', flush=True)
        return text

    def refuses(self, cache, status, *words):
        """The start ends with `status` and one sentence with all of `words`, again and again the same."""
        self.assertEqual(self.ends(cache), status, cache.log())
        text = self.sentence(cache)
        for word in words:
            self.assertIn(word, text)
        return text

    def serves(self, cache):
        """Starts, stores and finds."""
        cache.start()
        hashes, payloads = chain(cache.folder)
        with cache.engine() as engine:
            self.assertEqual(set(engine.store(hashes, payloads)) - {0, 1}, set())
            self.assertEqual(engine.load(hashes), payloads)

    def warnings(self, cache, event):
        return [line for line in cache.log_bytes().decode().splitlines() if f'event={event} ' in line]

    # ---- settings ----

    def test_a_wrong_key_is_named_with_its_line_and_the_nearest(self):
        cache = self.node()
        self.edit(cache, 'mills: 1', 'milsl: 1')
        self.refuses(cache, WRONG_SETTINGS, 'kvtierd.yaml:', "'milsl'", "'mills'")

    def test_a_wrong_value_is_named_with_a_right_one(self):
        cache = self.node()
        self.edit(cache, 'cpu_bytes: 2MiB', 'cpu_bytes: 2 apples')
        self.refuses(cache, WRONG_SETTINGS, 'cpu_bytes', "'2 apples'", 'such as 64MiB')

    def test_a_missing_file_of_settings_is_named(self):
        cache = self.node()
        os.unlink(cache.config)
        self.refuses(cache, WRONG_SETTINGS, cache.config, 'No such file')

    def test_a_path_too_long_for_a_socket_is_said_before_anything_is_opened(self):
        cache = self.node()
        self.edit(cache, cache.run, cache.run + '/' + 'd' * 100)
        self.refuses(cache, WRONG_SETTINGS, 'run_directory', '107', 'shorter')
        self.assertFalse(os.path.exists(cache.nvme))

    # ---- two daemons ----

    def second(self, key, **options):
        first = self.node(**({'nvme_mib': 8} | options.get('first', {})))
        self.serves(first)
        second = self.node(**options.get('second', {}))
        self.edit(second, getattr(second, key), getattr(first, key))
        return first, second

    def still_serves(self, cache):
        hashes, payloads = chain(cache.folder)
        with cache.engine() as engine:
            self.assertEqual(engine.load(hashes), payloads)

    def test_a_second_daemon_on_one_state_directory_is_refused(self):
        first, second = self.second('state')
        self.refuses(second, FAILED, 'another kvtierd', first.state, 'state_directory')
        self.still_serves(first)

    def test_a_second_daemon_on_one_run_directory_is_refused_and_takes_no_socket(self):
        first, second = self.second('run')
        self.refuses(second, FAILED, 'another kvtierd', first.run, 'run_directory')
        self.still_serves(first)

    def test_a_second_daemon_on_one_device_is_refused(self):
        first, second = self.second('nvme')
        self.refuses(second, FAILED, first.nvme, 'in use', 'another path')
        self.still_serves(first)

    def test_a_port_that_is_taken_is_named(self):
        with socket.socket() as taken:
            taken.bind(('127.0.0.1', 0))
            taken.listen()
            at = f'127.0.0.1:{taken.getsockname()[1]}'
            self.refuses(self.node(http_listen=at), FAILED, 'http_listen', at, 'in use', 'another')

    # ---- rights and folders ----

    def test_a_folder_without_rights_is_named(self):
        cache = self.node()
        faulty.need_reach(node.program('kvtierd'), cache.folder)
        for path in (cache.folder, cache.run, cache.shm):
            os.chmod(path, 0o755)
        cache.wrapper = [faulty.need('setpriv'), f'--reuid={NOBODY}', f'--regid={NOBODY}', '--clear-groups']
        self.refuses(cache, FAILED, 'state_directory', cache.state, 'Permission denied', 'the right to it')

    def test_a_folder_that_is_not_there_is_named(self):
        for key in ('state', 'run', 'nvme'):
            cache = self.node()
            missing = os.path.join(cache.folder, 'not', 'there')
            self.edit(cache, getattr(cache, key), missing + '/x')
            self.refuses(cache, FAILED, missing, 'No such file', 'make its folder first')

    def test_a_disk_mounted_read_only_is_named(self):
        disk = self.enterContext(faulty.LoopDisk(self.folder, 32))
        os.mkdir(disk.path('state'))
        disk.remount('ro')
        self.refuses(self.node(nvme=disk.path('nvme')), FAILED, 'nvme', 'Read-only', 'mount it writable')
        self.refuses(self.node(state=disk.path('state')), FAILED, 'state_directory', 'Read-only',
                     'mount it writable')

    # ---- room ----

    def test_an_nvme_file_larger_than_its_disk_leaves_nothing_behind(self):
        disk = self.enterContext(faulty.LoopDisk(self.folder, 32))
        self.refuses(self.node(nvme=disk.path('nvme'), nvme_mib=64), FAILED, disk.path('nvme'), '64 MiB',
                     'No space left', 'make room')
        self.assertEqual(os.listdir(disk.mount_point), ['lost+found'])

    def test_a_file_that_finds_no_room_to_grow_keeps_its_blocks(self):
        disk = self.enterContext(faulty.LoopDisk(self.folder, 48))
        cache = self.node(nvme=disk.path('nvme'), nvme_mib=8)
        self.serves(cache)
        cache.wait_quiet()
        cache.stop()
        disk.fill()
        self.edit(cache, 'bytes: 8MiB', 'bytes: 16MiB')
        self.refuses(cache, FAILED, '16 MiB', 'make room')
        self.edit(cache, 'bytes: 16MiB', 'bytes: 8MiB')
        cache.start()
        cache.wait_restored()
        self.still_serves(cache)

    def test_a_cpu_file_on_a_tmpfs_too_small_is_named(self):
        small = self.enterContext(faulty.tmpfs(self.folder, 4))
        cache = self.node(warm=('default',), cpu_mib=8)
        self.edit(cache, cache.arena_file(), small + '/arena')
        self.refuses(cache, FAILED, 'cpu_file', small, 'No space left', 'make room')

    def test_a_cpu_file_on_a_disk_is_refused(self):
        disk = self.enterContext(faulty.LoopDisk(self.folder, 32))
        cache = self.node(warm=('default',), cpu_mib=8)
        self.edit(cache, cache.arena_file(), disk.path('arena'))
        self.refuses(cache, FAILED, 'cpu_file', 'on a disk', 'tmpfs')

    def test_huge_pages_that_are_not_there_are_counted_out(self):
        with open('/proc/sys/vm/nr_hugepages', encoding='ascii') as file:
            if int(file.read()) > 0:
                self.skipTest('this machine has reserved huge pages')
        cache = self.node(huge_pages='always')
        cache.wrapper = faulty.without('huge_pages')
        self.refuses(cache, FAILED, 'huge_pages: always', 'vm.nr_hugepages')

    def test_too_few_descriptors_threads_or_memory_end_the_start_with_the_limit_to_raise(self):
        cache = self.node()
        cache.wrapper = faulty.limited(nofile=20)
        self.refuses(cache, FAILED, 'LimitNOFILE')
        cache.wrapper = faulty.limited(**{'as': 80 << 20})
        self.refuses(cache, FAILED, 'memory limit')

    def test_a_full_disk_under_the_state_directory_costs_the_catalogue_alone(self):
        disk = self.enterContext(faulty.LoopDisk(self.folder, 24))
        cache = self.node(state=disk.path('state'))
        self.serves(cache)
        cache.wait_quiet()
        cache.stop()
        disk.fill()
        cache.spawn()
        node.until(lambda: self.warnings(cache, 'worker_ended'), node.READY_SECONDS, 'it says so')
        for word in ('worker=catalog', 'No space left'):
            self.assertIn(word, self.warnings(cache, 'worker_ended')[0])
        self.assertIn('make room', cache.log())
        with cache.engine() as engine:   # in the cache, or a miss: served in any case
            engine.load(chain(cache.folder)[0])

    # ---- what it can do without ----

    def test_missing_locked_memory_costs_speed_and_is_said(self):
        cache = self.node()
        faulty.need_reach(node.program('kvtierd'), cache.folder)
        for path in (cache.folder, cache.run, cache.shm, cache.state):
            os.chown(path, NOBODY, NOBODY)
        cache.wrapper = faulty.limited(memlock=65536) + [
            faulty.need('setpriv'), f'--reuid={NOBODY}', f'--regid={NOBODY}', '--clear-groups']
        self.serves(cache)
        if 'io="psync' in cache.log():
            self.skipTest('io_uring is refused here')
        lines = self.warnings(cache, 'nvme_slower')
        self.assertEqual(len(lines), 1, cache.log())
        self.assertIn('LimitMEMLOCK', lines[0])

    def test_io_uring_that_is_refused_is_replaced_and_said(self):
        cache = self.node()
        cache.wrapper = faulty.without('io_uring_setup')
        self.serves(cache)
        self.assertIn('psync', cache.stats()['nvme'][0]['io'])
        lines = self.warnings(cache, 'nvme_slower')
        self.assertEqual(len(lines), 1, cache.log())
        for word in ('io_uring', 'seccomp', 'io: psync'):
            self.assertIn(word, lines[0])

    def test_io_uring_that_is_refused_and_asked_for_ends_the_start(self):
        cache = self.node(io='io_uring')
        cache.wrapper = faulty.without('io_uring_setup')
        self.refuses(cache, FAILED, 'io:', 'refuses io_uring', 'seccomp', 'io: psync')

    def dead(self, cache, path, *words):
        """The daemon serves from memory and names the disk, in the log and in the status."""
        cache.start()
        lines = self.warnings(cache, 'nvme_absent')
        self.assertEqual(len(lines), 1, cache.log())
        for word in (path, 'fix=', *words):
            self.assertIn(word, lines[0])
        device, = cache.stats()['nvme']
        self.assertEqual(device['path'], path)
        self.assertNotEqual(device['fenced'], '')
        self.assertEqual(cache.metric(f'kvtier_nvme_fenced{{device="{path}"}}'), 1)
        hashes, payloads = chain('in memory')
        with cache.engine() as engine:
            engine.store(hashes, payloads)
            self.assertEqual(engine.load(hashes), payloads)
        cache.stop()

    def test_a_dead_disk_costs_its_tier_and_its_blocks_are_there_when_it_is_back(self):
        disk = self.enterContext(faulty.LoopDisk(self.folder, 32, kind=''))
        cache = self.node(nvme=disk.device)
        self.edit(cache, f'path: {disk.device}', f'path: {disk.device}\n    raw_initialise: true')
        self.serves(cache)
        cache.wait_quiet()
        cache.stop()
        disk.cut_away()
        self.dead(cache, disk.device, 'Input/output error')
        disk.give_back()
        cache.start()
        cache.wait_restored()
        self.still_serves(cache)
        cache.stop()

    def test_a_disk_that_is_gone_costs_its_tier_and_leaves_no_file_in_dev(self):
        for is_given in (True, False):   # how many bytes it has
            cache = self.node(nvme='/dev/kvtier-no-such-disk')
            if not is_given:
                self.edit(cache, f'    bytes: {cache.nvme_mib}MiB\n', '')
            self.dead(cache, cache.nvme, 'is not there')
            self.assertFalse([name for name in os.listdir('/dev') if 'kvtier-no-such' in name])

    def test_a_dead_disk_whose_size_nobody_can_tell_costs_its_tier(self):
        disk = self.enterContext(faulty.LoopDisk(self.folder, 32, kind=''))
        cache = self.node(nvme=disk.device)
        self.edit(cache, f'    bytes: {cache.nvme_mib}MiB\n', '    raw_initialise: true\n')
        self.edit(cache, '    cpu_bytes:', '    nvme_bytes: 16MiB\n    cpu_bytes:')
        self.serves(cache)
        cache.wait_quiet()
        cache.stop()
        disk.cut_away()
        faulty.command('losetup', '--set-capacity', disk.device)   # 0, as of a disk that has gone mad
        self.dead(cache, disk.device, 'has no size')
        disk.give_back()
        faulty.command('losetup', '--set-capacity', disk.device)
        cache.start()
        cache.wait_restored()
        self.still_serves(cache)
        cache.stop()


if __name__ == '__main__':
    with contextlib.suppress(KeyboardInterrupt):
        unittest.main()
