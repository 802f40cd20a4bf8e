"""What an operator asks of a real daemon: OPERATE by hand, and each command of kvtier with its JSON."""
import contextlib
import errno
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import frames   # noqa: E402
import node     # noqa: E402

FEATURE_OPERATE = 1


class Frames(unittest.TestCase):
    """Who may ask what, below the command."""

    @classmethod
    def setUpClass(cls):
        cls.cache = node.Node(cpu_mib=4, nvme_mib=16, tenants=('a', 'b'))
        cls.addClassCleanup(cls.cache.__exit__)
        cls.cache.start()

    def connection(self, tenant=None):
        path = self.cache.socket(tenant) if tenant else os.path.join(self.cache.run, 'admin.sock')
        connection = frames.Connection(path)
        self.addCleanup(connection.close)
        return connection

    def refusal(self, connection, *arguments, **fields):
        with self.assertRaises(frames.Refused) as caught:
            connection.ask(frames.OPERATE, frames.operate_body(*arguments, **fields))
        return caught.exception

    def test_the_daemon_says_that_it_can_be_operated(self):
        self.assertTrue(self.connection('a').features & FEATURE_OPERATE)

    def test_the_admin_socket_is_told_every_setting_with_its_origin(self):
        answer = json.loads(self.connection().ask(frames.OPERATE, frames.operate_body('CONFIG')).body)
        rows = {row['key']: row for row in answer['settings']}
        self.assertEqual(rows['mills']['value'], '2')
        self.assertIn('kvtierd.yaml:', rows['mills']['origin'])
        self.assertEqual(rows['leases_max'], {'key': 'leases_max', 'value': '4096', 'origin': 'default'})
        self.assertEqual(rows['tenants.1.name']['value'], 'b')

    def test_a_tenants_socket_is_refused_what_concerns_the_node_and_stays_open(self):
        connection = self.connection('a')
        for verb in ('CONFIG', 'DRAIN', 'RELOAD'):
            refused = self.refusal(connection, verb)
            self.assertEqual(refused.result, -errno.EPERM)
            self.assertIn('admin.sock', str(refused))
        self.assertIn('version', connection.stats())

    def test_a_tenants_socket_sees_no_other_tenant(self):
        connection = self.connection('a')
        for verb in ('LIST', 'PIN', 'PURGE', 'REQUESTS'):
            self.assertEqual(self.refusal(connection, verb, tenant='b').result, -errno.EPERM)
        self.assertEqual(self.refusal(self.connection(), 'LIST', tenant='nobody').result, -errno.ENOENT)

    def test_a_field_that_the_verb_does_not_take_ends_the_connection(self):
        connection = self.connection()
        self.assertIn('CONFIG takes no cursor', str(self.refusal(connection, 'CONFIG', cursor=1)))
        with self.assertRaises((frames.Closed, ConnectionError, struct.error)):
            connection.stats()


class Command(unittest.TestCase):
    """kvtier against a daemon with two tenants, one of which has stored and loaded."""

    BLOCKS = 40
    PAYLOAD = 20000

    @classmethod
    def setUpClass(cls):
        cls.cache = node.Node(cpu_mib=4, nvme_mib=16, tenants=('default', 'other'))
        cls.addClassCleanup(cls.cache.__exit__)
        cls.cache.start()

    def setUp(self):
        self.engine = frames.Engine(self.cache.socket(), f'engine-{self.id()[-20:]}', model=self.id(),
                                    payload_bytes=self.PAYLOAD)
        self.addCleanup(self.engine.close)
        self.hashes = [node.hash_of(self.id(), i) for i in range(self.BLOCKS)]
        self.payloads = [node.payload_of(one, self.PAYLOAD) for one in self.hashes]
        self.assertEqual(self.engine.store(self.hashes, self.payloads), [0] * self.BLOCKS)
        self.cache.wait_quiet()
        self.space = self.engine.fingerprint.hex()

    def kvtier(self, *words, status=0, columns=80, **variables):
        """What the command printed; its exit status is `status`."""
        environment = {**os.environ, 'KVTIER_SOCKET': self.cache.socket(), 'COLUMNS': str(columns), **variables}
        done = subprocess.run([node.program('kvtier'), *words], env=environment, capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=60, check=False)
        self.assertEqual(done.returncode, status, f'kvtier {words}: {done.stdout}{done.stderr}')
        if status == 0:
            self.assertEqual(done.stderr, '')
        return done.stdout + done.stderr

    def answer(self, *words, status=0):
        """The same as JSON, of several lines the last; the YAML is made from the same value."""
        return json.loads(self.kvtier(*words, '-o', 'json', status=status).splitlines()[-1])

    def assert_keys(self, value, *keys):
        self.assertEqual([key for key in keys if key not in value], [], f'missing in {value}')

    def on_disk(self):
        with open(self.cache.nvme, 'rb') as file:
            return file.read()

    # ---- looking ----

    def test_status_has_its_keys_and_says_that_nothing_is_wrong(self):
        status = self.answer('status')
        self.assert_keys(status, 'version', 'state', 'uptime_seconds', 'bypass', 'drain', 'tenants', 'nvme', 'counters',
                         'calls', 'engines', 'spaces', 'pins', 'health')
        self.assert_keys(status['tenants'][0], 'name', 'bypass', 'leases', 'tiers', 'counters')
        self.assert_keys(status['calls']['STORE'], 'count', 'p50_us', 'p99_us', 'max_us')
        self.assertEqual(status['health'], [])
        self.assertEqual([tenant['name'] for tenant in status['tenants']], ['default', 'other'])
        self.assertIn('Nothing is wrong.', self.kvtier('status'))
        self.assertIn('state: "serving"\n', self.kvtier('status', '-o', 'yaml'))

    def test_status_puts_what_is_wrong_first_and_says_what_to_do(self):
        self.kvtier('bypass', 'observe')
        self.addCleanup(self.kvtier, 'bypass', 'off')
        lines = self.kvtier('status').splitlines()
        self.assertTrue(lines[1].startswith('WARN For tenant default the bypass is observing'), lines)
        self.assertEqual(lines[2].strip(), 'To end it: kvtier bypass off --tenant default')

    def test_top_once_fits_the_screen(self):
        for columns in (80, 120):
            screen = self.kvtier('top', '--once', columns=columns)
            self.assertEqual([line for line in screen.splitlines() if len(line) > columns], [])
            self.assertEqual(screen.count('\033'), 0)
            for word in ('TIER', 'TENANT', 'CALL', 'DEVICE', 'cpu', 'nvme', 'default', 'other', 'STORE'):
                self.assertIn(word, screen)
        rates = self.answer('top', '--once')
        self.assert_keys(rates, 'seconds', 'tenants', 'health', 'status')
        self.assert_keys(rates['tenants'][0], 'name', 'lookups_per_second', 'loaded_bytes_per_second')
        self.assertGreater(rates['seconds'], 0.9)

    def test_a_bypass_of_the_whole_node_says_how_to_end_it(self):
        admin = os.path.join(self.cache.run, 'admin.sock')
        self.kvtier('bypass', 'on', '-s', admin)
        self.addCleanup(self.kvtier, 'bypass', 'off', '-s', admin)
        self.assertIn('but not for the whole node', self.kvtier('bypass', 'off'))
        finding, = [one for one in self.answer('status')['health'] if 'bypass' in one['what']]
        self.assertEqual(finding['fix'], f'To end it: kvtier bypass off --socket {admin}')
        self.assertIn('the cache serves', self.kvtier('bypass', 'off', '-s', admin))
        self.assertNotIn('bypass', json.dumps(self.answer('status')['health']))

    def on_terminal(self, *words, **variables):
        """The command in a terminal of its own: (process id, the terminal's other end)."""
        child, terminal = pty.fork()
        if child == 0:
            os.environ.update({'KVTIER_SOCKET': self.cache.socket(), 'COLUMNS': '', 'TERM': 'xterm', **variables})
            os.execv(node.program('kvtier'), ['kvtier', *words])
        self.addCleanup(os.close, terminal)
        return child, terminal

    def on_screen(self, columns, *words):
        """What a person sees on a terminal so wide."""
        child, terminal = self.on_terminal(*words, COLUMNS=str(columns), NO_COLOR='1')
        shown = b''
        with contextlib.suppress(OSError):
            while part := os.read(terminal, 65536):
                shown += part
        os.waitpid(child, 0)
        return shown.decode().replace('\r', '')

    def test_tables_fit_a_screen_and_their_short_names_are_taken(self):
        self.engine.tag = node.hash_of(self.id())[:16]
        self.engine.lookup(self.hashes)
        for words in (('status',), ('spaces',), ('requests',), ('ls', '--space', self.space), ('doctor',),
                      ('explain', '--request', self.engine.tag.hex())):
            for columns in (80, 100):
                long = [line for line in self.on_screen(columns, *words).splitlines() if len(line) > columns]
                self.assertEqual(long, [], f'{words} in {columns} columns')
        shown = self.on_screen(80, 'spaces')
        self.assertNotIn(self.space, shown)
        short = next(word for word in shown.split() if len(word) > 5 and self.space.startswith(word))
        self.assertEqual(len(self.answer('ls', '--space', short)['blocks']), self.BLOCKS)

    def test_colours_are_for_terminals_that_want_them(self):
        for variables, wanted in (({}, True), ({'NO_COLOR': '1'}, False), ({'TERM': 'dumb'}, False)):
            child, terminal = self.on_terminal('status', **variables)
            shown = b''
            with contextlib.suppress(OSError):
                while part := os.read(terminal, 65536):
                    shown += part
            os.waitpid(child, 0)
            self.assertIn(b'Nothing is wrong.', shown)
            self.assertEqual(b'\033[' in shown, wanted, variables)

    def test_purge_asks_on_a_terminal_first(self):
        child, terminal = self.on_terminal('purge', '--space', self.space)
        shown = b''
        while b'[y/N]' not in shown:
            shown += os.read(terminal, 65536)
        os.write(terminal, b'n\n')
        with contextlib.suppress(OSError):
            while part := os.read(terminal, 65536):
                shown += part
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 1)
        self.assertIn(b'nothing was purged', shown)
        self.assertEqual(self.engine.load(self.hashes), self.payloads)

    def test_top_is_a_screen_of_its_own_until_q(self):
        child, terminal = self.on_terminal('top')
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', 20, 70, 0, 0))
        shown = b''
        while shown.count(b'q ends it') < 2:
            shown += os.read(terminal, 65536)
        os.write(terminal, b'q')
        with contextlib.suppress(OSError):   # EIO: the terminal has gone
            while part := os.read(terminal, 65536):
                shown += part
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
        self.assertTrue(shown.endswith(b'\033[?25h\033[?1049l'), shown[-80:])
        self.assertIn(b'\033[1m', shown)
        last = shown.split(b'\033[H')[-1].split(b'\033[J')[0]
        lines = re.sub(rb'\033\[[0-9;?]*[a-zA-Z]', b'', last).splitlines()
        self.assertLessEqual(max(map(len, lines)), 70)
        self.assertLess(len(lines), 20)

    def test_spaces_tell_bytes_tenant_and_who_was_there_last(self):
        space = next(one for one in self.answer('spaces')['spaces'] if one['space'] == self.space)
        self.assertEqual(space['blocks'], {'cpu': self.BLOCKS, 'nvme': self.BLOCKS})
        self.assertEqual(space['bytes']['cpu'], self.BLOCKS * 24576)
        self.assertEqual((space['tenant'], space['engines_now']), ('default', 1))
        self.assertTrue(space['last_engine'].startswith('engine-'))
        self.assertLess(space['last_used_us'], 60e6)
        self.assertEqual(self.answer('spaces', '--tenant', 'other')['spaces'], [])
        self.assertIn(self.space, self.kvtier('spaces'))

    def test_ls_lists_every_block_page_by_page(self):
        listed = self.answer('ls', '--space', self.space, '--limit', '1000')
        self.assertTrue(listed['is_all'])
        self.assertEqual({block['hash'] for block in listed['blocks']}, {one.hex() for one in self.hashes})
        by_hash = {block['hash']: block for block in listed['blocks']}
        for position, one in enumerate(self.hashes):
            block = by_hash[one.hex()]
            self.assertEqual((block['position'], block['tokens'], block['holds']), (position, 16, 0))
            self.assertEqual(block['tiers'], ['cpu', 'nvme'])
            self.assertLess(block['age_us'], 60e6)
        few = self.answer('ls', '--space', self.space, '--limit', '3')
        self.assertEqual((len(few['blocks']), few['is_all']), (3, False))
        self.assertIn('there are more', self.kvtier('ls', '--space', self.space, '-n', '3'))
        self.assertIn('no such space', self.kvtier('ls', '--space', '0' * 31 + '1', status=1))

    def test_stat_tells_all_of_a_block_and_why_one_is_not_there(self):
        block, = self.answer('stat', self.hashes[3].hex())['blocks']
        self.assertEqual((block['reason'], block['parent'], block['payload_bytes'], block['position']),
                         ('hit-cpu', self.hashes[2].hex(), self.PAYLOAD, 3))
        self.assertEqual([slot['tier'] for slot in block['slots']], ['cpu', 'nvme'])
        self.assert_keys(block['slots'][1], 'shard', 'state', 'slot', 'slot_generation', 'extent_generation', 'device',
                         'offset', 'holds')
        self.assertEqual(self.answer('stat', '00' * 32)['reason'], 'never-stored')
        self.engine.forget()
        self.assertIn(self.answer('stat', '--space', self.space, self.hashes[3].hex())['reason'],
                      ('forgotten', 'no-such-space'))

    def test_explain_is_by_hash_or_by_request(self):
        rows = self.answer('explain', '--space', self.space, self.hashes[0].hex(), '11' * 32)
        self.assertEqual([row['reason'] for row in rows], ['hit-cpu', 'never-stored'])
        self.assertIn('a lookup finds it, in memory', self.kvtier('explain', '--space', self.space, self.hashes[0].hex()))

    def test_explain_of_a_request_says_what_it_got_and_what_that_means(self):
        tag = node.hash_of(self.id())[:16]
        self.engine.tag = tag
        self.engine.lookup([*self.hashes, node.hash_of(self.id(), 'new')])
        self.engine.load(self.hashes[:2] + [node.hash_of(self.id(), 'gone')])
        shown = ' '.join(self.kvtier('explain', '--request', tag.hex()).split())
        for words in (f'request {tag.hex()}', f'space {self.space}', '41 blocks: 40 in memory, 0 on nvme, 1 not there',
                      '656 asked for, 640 usable', 'loads 3 blocks in 1 batch: 2 delivered, 1 no longer there',
                      'stores none', 'Of 656 tokens the first 640 were there; the rest had to be computed.',
                      'Blocks to load were no longer there'):
            self.assertIn(words, shown)
        one, = self.answer('explain', '--request', tag.hex()[:10])['requests']
        self.assertEqual((one['trace'], one['loads']['delivered'], one['lookup']['usable_tokens']), (tag.hex(), 2, 640))
        self.assertIn('no request with this tag', self.kvtier('explain', '--request', '99' * 16, status=1))

    def test_requests_lists_the_last_ones_page_by_page(self):
        tags = [node.hash_of(self.id(), i)[:16] for i in range(130)]   # of more than one page
        for tag in tags:
            self.engine.tag = tag
            self.engine.lookup(self.hashes[:1])
        listed = self.answer('requests', '--limit', '130')['requests']
        self.assertEqual([one['trace'] for one in listed], [tag.hex() for tag in reversed(tags)])
        few = self.answer('requests', '-n', '3')
        self.assertEqual((len(few['requests']), few['is_all']), (3, False))
        shown = self.kvtier('requests')
        self.assertEqual(sum(tag.hex() in shown for tag in tags), 20)
        self.assertEqual(self.answer('requests', '--tenant', 'other'), {'requests': [], 'is_all': True})

    def test_the_first_digits_of_a_space_are_enough(self):
        self.assertEqual(len(self.answer('ls', '--space', self.space[:6])['blocks']), self.BLOCKS)
        pinned = self.answer('pin', '--space', self.space[:9].upper())
        self.assertGreater(pinned['pinned_blocks'], 0)
        self.kvtier('unpin', '--space', self.space[:9])
        self.assertIn('the first 6 or more', self.kvtier('ls', '--space', self.space[:5], status=2))
        self.assertIn('begins so', self.kvtier('purge', '--space', self.other_than(self.space), status=1))
        self.assertEqual(self.engine.load(self.hashes), self.payloads)

    def test_the_first_digits_of_a_block_are_enough(self):
        whole = self.hashes[3].hex()
        for words in (('stat', whole[:8]), ('stat', whole[:63]), ('ls', '--space', self.space[:6], whole[:13].upper())):
            self.assertEqual([one['hash'] for one in self.answer(*words)['blocks']], [whole])
        self.assertEqual(self.answer('explain', '--space', self.space, whole[:8])[0]['reason'], 'hit-cpu')
        self.assertIn('8 or more', self.kvtier('stat', whole[:7], status=2))
        for words in (('stat', self.other_than(whole[:8])), ('stat', '--tenant', 'other', whole[:9])):
            self.assertIn('no block that is here begins so', self.kvtier(*words, status=1))
        self.engine.store([bytes.fromhex(f'{whole[:8]}{0:056x}')], [self.payloads[0]])
        self.assertIn('2 blocks begin so; give more digits', self.kvtier('stat', whole[:8], status=1))

    @staticmethod
    def other_than(space):
        return space[:7] + ('0' if space[7] != '0' else '1')

    # ---- keeping ----

    def test_a_pin_outlives_its_connection_and_ends_by_unpin(self):
        pinned = self.answer('pin', '--space', self.space, '--for', '8h')
        self.assertGreater(pinned['pinned_blocks'], 0)
        kept, = [pin for pin in self.answer('status')['pins'] if pin['space'] == self.space]
        self.assertEqual(kept['blocks'], pinned['pinned_blocks'])
        self.assertGreater(kept['for_us'], 7.9 * 3600e6)
        self.assertIn('pinned: ', self.kvtier('status'))
        listed = self.answer('ls', '--space', self.space)['blocks']
        self.assertEqual(sum(block['holds'] for block in listed), pinned['pinned_blocks'])
        self.assertEqual(self.answer('unpin', '--space', self.space)['unpinned_blocks'], pinned['pinned_blocks'])
        self.assertEqual(self.answer('status')['pins'], [])

    def test_blocks_are_pinned_and_unpinned_one_by_one(self):
        names = [one.hex() for one in self.hashes[:3]]
        self.assertEqual(self.answer('pin', '--space', self.space, *names)['pinned_blocks'], 3)
        self.assertEqual(self.answer('unpin', '--space', self.space, names[1])['unpinned_blocks'], 1)
        held = {block['hash'] for block in self.answer('ls', '--space', self.space)['blocks'] if block['holds']}
        self.assertEqual(held, {names[0], names[2]})
        self.assertEqual(self.answer('unpin', '--space', self.space)['unpinned_blocks'], 2)

    def test_a_pin_has_a_longest_time(self):
        self.assertIn('7 days', self.kvtier('pin', '--space', self.space, '--for', '8d', status=1))

    def test_drain_refuses_new_blocks_and_ends_when_all_is_written(self):
        drained = self.answer('drain')
        self.addCleanup(self.kvtier, 'drain', '--off')
        self.assertEqual((drained['done'], drained['pending_blocks'], drained['memory_only_blocks']), (True, 0, 0))
        new = [node.hash_of('while drained', i) for i in range(4)]
        self.assertNotIn(frames.ADMITTED, self.engine.admissions(new)[1])
        self.assertIn('It is drained', self.kvtier('status'))
        self.kvtier('drain', '--off')
        self.assertEqual(self.engine.store(new, self.payloads[:4]), [0] * 4)

    # ---- forgetting ----

    def test_purge_overwrites_the_bytes_in_memory_and_on_the_disk(self):
        marks = [payload[:64] for payload in self.payloads]
        arena = self.engine.arena
        self.assertTrue(all(mark in self.on_disk() and arena.find(mark) >= 0 for mark in marks))
        purged = self.answer('purge', '--space', self.space, '--yes')
        self.assertEqual((purged['blocks'], purged['left_blocks'], purged['failed_bytes']), (self.BLOCKS, 0, 0))
        self.assertEqual(purged['overwritten_bytes'], 2 * self.BLOCKS * 24576)
        disk = self.on_disk()
        self.assertEqual([mark for mark in marks if mark in disk or arena.find(mark) >= 0], [])
        self.assertEqual(self.engine.load(self.hashes), [None] * self.BLOCKS)

    def test_purge_of_one_space_leaves_the_others(self):
        second = frames.Engine(self.cache.socket(), 'second', model='second', payload_bytes=self.PAYLOAD)
        self.addCleanup(second.close)
        second.store(self.hashes, self.payloads)
        self.cache.wait_quiet()
        self.kvtier('purge', '--space', self.space)
        self.assertEqual(second.load(self.hashes), self.payloads)

    def test_purge_waits_for_what_an_engine_still_reads(self):
        self.engine.data.send(frames.LOAD, frames.load_body(self.engine.space, 1000, self.hashes[:1],
                                                            deadline_us=60000000))
        _, offset, _, _ = self.engine.loaded(1000, 1)[0]
        with subprocess.Popen([node.program('kvtier'), '-s', self.cache.socket(), 'purge', '--space', self.space, '-o', 'json'],
                              stdout=subprocess.PIPE, text=True) as purge:
            node.until(lambda: self.answer_of_purge()['held_slots'] == 1, 10, 'all but the block that is read is gone')
            self.assertEqual(self.engine.payload(offset), self.payloads[0])
            self.assertIsNone(purge.poll())
            self.engine.data.send(frames.RELEASE, frames.release_body(1000, [(0, 0)]))
            looks = [json.loads(line) for line in purge.communicate(timeout=30)[0].splitlines()]
            self.assertEqual([look['done'] for look in looks], [False] * (len(looks) - 1) + [True])
            self.assertEqual((looks[-1]['left_blocks'], 'left_blocks' in looks[0]), (0, False))
        self.assertNotEqual(self.engine.payload(offset), self.payloads[0])

    def answer_of_purge(self):
        with frames.Connection(self.cache.socket()) as connection:
            return json.loads(connection.ask(frames.OPERATE, frames.operate_body('PURGE', value=1)).body)

    def test_purge_of_all_that_a_tenant_has_survives_a_restart(self):
        self.answer('purge', '--all')
        self.cache.stop()
        self.cache.start()
        self.cache.wait_restored()
        self.assertEqual(sum(tier['blocks'] for tier in self.cache.stats()['tenants'][0]['tiers'].values()), 0)

    def test_forget_is_durable_and_leaves_nothing_to_find(self):
        self.assertEqual(self.answer('forget', '--space', self.space), {'done': 'forgotten, durably'})
        self.assertEqual(self.engine.load(self.hashes), [None] * self.BLOCKS)

    # ---- settings and machine ----

    def test_config_print_is_the_same_of_the_daemon_and_of_its_file(self):
        running = {row['key']: row for row in self.answer('config', 'print')['settings']}
        of_file = {row['key']: row for row in self.answer('config', 'print', self.cache.config)['settings']}
        self.assertEqual(running['mills']['value'], '2')
        self.assertEqual([key for key, row in of_file.items() if row != running.get(key)], [])

    def test_config_check_says_what_is_wrong(self):
        self.assertTrue(self.answer('config', 'check', self.cache.config)['ok'])
        wrong = os.path.join(self.cache.folder, 'wrong.yaml')
        with open(wrong, 'w', encoding='utf-8') as file:
            file.write('milsl: 3\n')
        said = self.answer('config', 'check', wrong, status=1)
        self.assertFalse(said['ok'])
        self.assertIn('mills', ' '.join(said['says']))

    def test_reload_says_what_changed_and_what_needs_a_restart(self):
        before = dict(self.cache.settings)
        self.addCleanup(self.kvtier, 'reload')
        self.addCleanup(self.cache.configure)
        self.addCleanup(self.cache.settings.update, before)
        self.cache.settings.update(log_level='debug', mills=3)
        self.cache.configure()
        changes = {change['key']: change for change in self.answer('reload')['changes']}
        self.assertEqual(changes['log_level']['after'], 'debug')
        self.assertEqual({key: change['needs_restart'] for key, change in changes.items()},
                         {'log_level': False, 'mills': True})
        with open(self.cache.config, 'a', encoding='utf-8') as file:
            file.write('nonsense: 1\n')
        self.assertIn('stay as they were', self.kvtier('reload', status=1))

    def test_doctor_looks_at_everything(self):
        findings = self.answer('doctor')
        names = {finding['check'] for finding in findings}
        self.assertLessEqual({'socket', 'part', 'encryption', 'sandbox', 'versions', 'kernel', 'io_uring', 'memlock', 'nofile', 'nproc', 'as', 'memory',
                              'huge-pages', 'disk', 'seccomp', 'numa', 'clock', 'checksum', 'shared-memory'}, names)
        for finding in findings:
            self.assertEqual(finding['advice'] is None, finding['level'] == 'ok')

    def test_version_and_completions_need_no_daemon(self):
        self.assert_keys(self.answer('version'), 'version', 'protocol_min', 'protocol_max', 'slot_format')
        for shell in ('bash', 'zsh', 'fish'):
            self.assertIn('purge', self.kvtier('completion', shell))
        done = subprocess.run(['bash', '-c', 'eval "$(%s completion bash)"; COMP_WORDS=(kvtier bypass o); COMP_CWORD=2; '
                               '_kvtier; echo "${COMPREPLY[@]}"' % node.program('kvtier')],
                              capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout.split(), ['on', 'off', 'observe'])


class NoDaemon(unittest.TestCase):
    """None, a dead one, one that hangs: one sentence, exit status 3, within --timeout."""

    def kvtier(self, *words):
        start = time.monotonic()
        done = subprocess.run([node.program('kvtier'), '--timeout', '1', *words], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=30, check=False)
        self.assertEqual((done.returncode, done.stdout), (3, ''), done.stderr)
        self.assertEqual(done.stderr.count('\n'), 1, done.stderr)
        self.assertLess(time.monotonic() - start, 3)
        return done.stderr

    COMMANDS = (('status',), ('spaces',), ('top', '--once'), ('stat', '00' * 32), ('purge', '--all'), ('bypass', 'on'),
                ('ls', '--space', '00' * 16), ('pin', '--space', '00' * 16))

    def test_no_daemon(self):
        for words in self.COMMANDS:
            self.assertIn('does kvtierd run?', self.kvtier('-s', '/nonexistent/kv.sock', *words))

    def test_a_dead_daemon(self):
        with node.Node(cpu_mib=4, nvme_mib=0) as cache:
            cache.start()
            cache.kill()
            for words in self.COMMANDS:
                self.assertIn('start it again', self.kvtier('-s', cache.socket(), *words))

    def test_a_daemon_that_hangs(self):
        with node.Node(cpu_mib=4, nvme_mib=0) as cache:
            cache.start()
            cache.pause()
            for words in self.COMMANDS:
                self.assertIn('stopped, stuck or overloaded', self.kvtier('-s', cache.socket(), *words))
            cache.resume()


if __name__ == '__main__':
    unittest.main()
