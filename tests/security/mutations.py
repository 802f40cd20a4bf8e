#!/usr/bin/env python3
"""Does a test miss each line of defence when it is taken out?

Works in a copy of the tracked files and of build/test/unit: one line is changed, what it needs is built, and the test that
docs/SECURITY.md names for it must fail. A mutation that no test notices, or that fits no line any more, is a failure.
Takes some seconds each, and root for those of the sandbox.
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = 'build/test/unit'
BUILD_SECONDS_MAX, TEST_SECONDS_MAX = 900, 300

# name: (attack, file:function, what is taken out, what takes its place, the test that has to fail)
MUTATIONS = {
    'full-key': ('a chosen key that collides in the table (B4.1)', 'index/table.c:entry_is',
                 '''\treturn entry->space == space && entry->group == group &&
\t       memcmp(entry->hash, hash, BLOCK_HASH_BYTES) == 0;''',
                 '\treturn (void)hash, entry->space == space && entry->group == group;',
                 'index/test_collision'),
    'key-space': ('the same key in another model or tenant (B4.1)', 'index/table.c:entry_is',
                  'return entry->space == space && entry->group', 'return (void)space, entry->group',
                  'index/test_collision'),
    'tenant-in-space': ('the same model of another tenant (B4.1)', 'daemon/fingerprint.c:fingerprint_space',
                        'put(digest, TAG_TENANT, tenant, (uint32_t)strlen(tenant));', '(void)tenant;',
                        'system/test_neighbours.py Tenants.test_a_tenant_never_sees_anothers_blocks'),
    'held-space': ("a space's number that was guessed (B4.9)", 'daemon/session.c:session_may_use_space',
                   '\tif (engine == NULL)\n\t\treturn false;\n\tif (space == engine->space)',
                   '\tif (engine == NULL)\n\t\treturn false;\n\tif (space != UINT32_MAX)',
                   'system/test_neighbours.py Tenants.test_a_tenant_cannot_use_anothers_space_or_token'),
    'own-token': ("another tenant's token (B4.2)", 'daemon/engine.c:session_by_token',
                  'session->tenant == tenant &&', '(void *)session->tenant != (void *)&tenant &&',
                  'system/test_neighbours.py Tenants.test_a_tenant_cannot_use_anothers_space_or_token'),
    'own-status': ("reading others' names and figures (B4.9)", 'daemon/admin.c:stats_frame',
                   'session->is_admin ? NULL : session->tenant', 'NULL',
                   'system/test_isolation.py Matrix.test_the_status_that_a_tenant_gets_names_nobody_else'),
    'window-seals': ('a window that shrinks under the daemon (B4.3)', 'daemon/engine.c:window_open',
                     'F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL', 'F_SEAL_SEAL',
                     'system/test_hostile.py Memory.test_the_window_cannot_be_resized'),
    'arena-seals': ('writing into stored blocks (B4.3)', 'tiers/cpu/arena.c:memfd_seal',
                    'seals | F_SEAL_FUTURE_WRITE', 'seals',
                    'system/test_hostile.py Memory.test_stored_blocks_cannot_be_written_by_a_client'),
    'connections-part': ('one tenant takes all connections (B4.4)', 'daemon/server.c:session_is_left',
                         'return open < (part == 0 ? 1 : part);', 'return open < all || part == 0;',
                         'system/test_neighbours.py Tenants.test_a_tenant_with_all_connections_leaves_another_some'),
    'identity-space': ("a unit that was another's (B4.8)", 'transfer/slot_header.c:identity_is_expected',
                       'memcmp(identity->space, expected->space, SPACE_ID_BYTES) != 0', 'false',
                       'transfer/test_slot_header'),
    'identity-epoch': ('a stale handle, or what was forgotten (B2)', 'transfer/slot_header.c:identity_is_expected',
                       'if (identity->epoch < expected->epoch_min)', 'if (false)',
                       'transfer/test_slot_header'),
    'arena-dump': ('KV bytes in a core (B4.8)', 'tiers/cpu/arena.c:arena_touch',
                   'madvise(arena->start, arena_mapping_bytes(arena), MADV_DONTDUMP);', '',
                   'system/test_sandbox.py Cores'),
    'window-dump': ('KV bytes in a core (B4.8)', 'daemon/engine.c:window_open',
                    '(void)madvise(memory, bytes, MADV_DONTDUMP);', '',
                    'system/test_sandbox.py Cores'),
    'no-core': ('a core of the daemon or its worker (B4.8)', 'daemon/sandbox.c:core_policy_set',
                'setrlimit(RLIMIT_CORE, &limit);', '(void)limit;', 'system/test_sandbox.py Cores'),
    'no-new-privileges': ('a taken-over daemon gains rights (P1)', 'daemon/sandbox.c:privileges_drop',
                          'prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)', '0',
                          'system/test_sandbox.py Confined.test_daemon_and_worker_have_no_privileges_and_a_filter'),
    'capabilities': ('a taken-over daemon is root (P1)', 'base/privilege.c:privilege_keep',
                     'syscall(SYS_capset, &head, data) < 0', 'head.version == 0',
                     'system/test_sandbox.py Confined.test_daemon_and_worker_have_no_privileges_and_a_filter'),
    'files': ("a taken-over daemon reads the node's files (P1)", 'daemon/sandbox_landlock.c:landlock_enforce',
              'syscall(SYS_landlock_restrict_self, landlock->fd, 0) < 0', 'landlock->fd < 0',
              'system/test_sandbox.py Forbidden.test_the_loop_thread_can_do_none_of_it'),
    'calls': ('a taken-over daemon speaks to the network (P1)', 'daemon/sandbox_seccomp.c:seccomp_enforce',
              'result = seccomp_load(filter);', 'result = 0;',
              'system/test_sandbox.py Forbidden.test_the_loop_thread_can_do_none_of_it'),
    'all-threads': ('a taken-over thread that was there before the filter (P1)',
                    'daemon/sandbox_seccomp.c:seccomp_enforce',
                    'SCMP_FLTATR_CTL_TSYNC, 1', 'SCMP_FLTATR_CTL_TSYNC, 0',
                    'system/test_sandbox.py Confined.test_the_helpers_that_were_there_before_are_confined'),
    'worker': ('a taken-over RocksDB reads the journal (P1)', 'daemon/catalog_worker.c:catalog_worker_main',
               '\t\tresult = sandbox_worker(path, &error);', '\t\tresult = path == NULL;',
               'system/test_sandbox.py Forbidden.test_the_worker_can_do_none_of_it_nor_harm_the_daemon'),
    'gpu-worker': ('a taken-over GPU driver reads the journal (P1)', 'daemon/gpu_worker.c:open_device',
                   'result = sandbox_gpu_worker(config.library, folder, error);', 'result = 0;',
                   'system/test_gpus.py Confined.test_the_process_can_do_none_of_this_nor_harm_the_daemon'),
    'folder-owner': ("somebody else's folder as ours (row 29)", 'base/trusted_path.c:folder_check',
                     '\tif (!is_trusted(status.st_uid))\n\t\treturn refuse_owner(path, &status, error);\n'
                     '\tif (status.st_mode & S_IWOTH)\n\t\treturn error_set(error, -EPERM, "everybody may write in',
                     '\tif (status.st_mode & S_IWOTH)\n\t\treturn error_set(error, -EPERM, "everybody may write in',
                     'system/test_paths.py Folders.test_a_state_directory_of_another_owner_is_refused'),
    'parent-owner': ('a folder that its owner can swap (row 29)', 'base/trusted_path.c:component_check',
                     '\tif (!is_trusted(status->st_uid))\n\t\treturn refuse_owner(path, status, error);\n\t/* In a sticky',
                     '\t/* In a sticky', 'system/test_paths.py Folders'),
    'key-others': ('a key file that others may read (B2)', 'base/trusted_path.c:trusted_secret',
                   '(S_IRWXO | S_IWGRP | S_IXGRP)', '(S_IWGRP | S_IXGRP)', 'system/test_key_files.py Secret'),
    'key-group': ('a key folder that a group may write to (B2)', 'base/trusted_path.c:trusted_secret',
                  'status.st_mode & S_IRGRP ? S_IWOTH | S_IWGRP : S_IWOTH', 'S_IWOTH', 'system/test_key_files.py Secret'),
    'key-context': ('a key that was taken out, in a cipher (B2)', 'transfer/slot_cipher.c:slot_cipher_forget',
                    'cipher_set_key(life->cipher, zeros);', '(void)zeros;', 'system/test_key_files.py Reread'),
    'key-wipe': ('a key that was taken out, in the keyring (B2)', 'daemon/encryption_keys.c:turn_ended',
                 '\tencryption_discard(daemon);', '', 'daemon/test_daemon_keys'),
    'disk-link': ('a link in the place of a disk file (row 29)', 'tiers/nvme/block_disk.c:disk_open_fd',
                  'open_flags |= O_NOFOLLOW;', 'open_flags |= 0;', 'system/test_paths.py Planted'),
    'hard-link': ('another name of a file of ours (row 29)', 'base/trusted_path.c:trusted_file',
                  'status.st_nlink > 1', 'false', 'system/test_paths.py Planted'),
    'journal-new': ('a file that waits for us to write into (row 29)', 'daemon/journal.c:rewrite',
                    '\t(void)unlinkat(journal->folder_fd, fresh, 0);\n\tint fd = openat(journal->folder_fd, fresh,\n'
                    '\t\t\tO_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);',
                    '\tint fd = openat(journal->folder_fd, fresh, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);',
                    'system/test_paths.py Planted'),
    'socket-mode': ("another user on a tenant's socket (B4.2)", 'daemon/server.c:listener_add',
                    'tenant != NULL ? 0660 : 0600', '0666', 'system/test_paths.py Modes'),
    'peer-secret': ("a node without the cluster's secret (B4.6)", 'transfer/peer/channel_handshake.c:channel_proof_take',
                    'if (!crypto_equal(mac, proof->mac, sizeof(mac)))', 'if (proof == NULL)',
                    'transfer/test_channel'),
    'peer-part': ('a proof that is sent back to who made it (B4.6)', 'transfer/peer/channel_handshake.c:channel_derive',
                  '.is_of_connecting = is_of_connecting }', '.is_of_connecting = false & is_of_connecting }',
                  'transfer/test_channel'),
    'peer-greeting': ('a greeting that is changed on its way (B4.6)', 'transfer/peer/channel_handshake.c:transcript',
                      'digest_put(digest, is_ours ? &channel->ours : &channel->theirs, sizeof(channel->ours));', '',
                      'transfer/test_channel'),
    'peer-certificate': ("a node with somebody else's certificate (B4.5)", 'transfer/peer/channel_tls.c:channel_tls_create',
                         'SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT', 'SSL_VERIFY_NONE',
                         'transfer/test_channel_tls'),
    'peer-token': ("a data connection of somebody else (B4.6)", 'transfer/peer/transport_tcp.c:stranger_named',
                   '!crypto_equal(link->preface.token, stranger->preface.token,\n\t\t\t\t  TRANSPORT_TOKEN_BYTES)',
                   'false', 'transfer/test_transport'),
    'peer-key': ('another block than was asked for, from a peer (B4.6)', 'daemon/fetch_arrivals.c:identity_fault',
                 'memcmp(theirs->hash, key->hash, BLOCK_HASH_BYTES) != 0 ||', '', 'daemon/test_fetch'),
    'peer-bytes': ("a peer that lies about a block's bytes (B4.6)", 'daemon/fetch_arrivals.c:check_work',
                   '\t\top->result = -EBADMSG;\n\t\treturn;', '\t\top->result = 0;', 'daemon/test_fetch'),
    'peer-unasked': ('blocks that were not granted (B4.6)', 'daemon/grant_send.c:send_raise',
                     'if (grant->keys[send->item].state == GRANT_KEY_HELD &&', 'if (grant != NULL &&', 'daemon/test_fetch_hostile'),
    'ticket-mac': ('a forged ticket (B4.6)', 'proto/ticket.c:ticket_read',
                   'is_ours = crypto_equal(mac, wire.mac, sizeof(mac)) || is_ours;', 'is_ours = true;', 'proto/test_ticket'),
    'ticket-redeemer': ("another node with somebody's ticket (B4.6)", 'daemon/tickets.c:redeem',
                        'if (promise->is_bound &&', 'if (promise->number == 0 &&', 'daemon/test_tickets'),
    'ticket-time': ('a ticket after its time (B4.6)', 'daemon/tickets.c:redeem',
                    'promise == NULL || promise->expires_us <= peers->daemon->now_us', 'promise == NULL', 'daemon/test_tickets'),
    'ticket-twice': ('a ticket that is used twice (B4.6)', 'daemon/tickets.c:ticket_match',
                     '&& !places[place].is_spent', '', 'daemon/test_tickets'),
    'ticket-keys': ('other blocks than the ticket names (B4.6)', 'daemon/grant.c:ticket_take',
                    'grant->keys[i].state = GRANT_KEY_REFUSED;', '', 'daemon/test_tickets'),
    'ticket-life': ('a ticket of a life before (B4.6)', 'daemon/tickets.c:redeem',
                    'ticket.boot_id == peers->daemon->boot_id', 'ticket.boot_id != 0', 'daemon/test_tickets'),
    'ticket-space': ('a ticket of another tenant or model (B4.6)', 'daemon/fetch_client.c:fetch_check',
                     'if (fetch->ticket_bytes > 0 &&', 'if (fetch->ticket_bytes > 5000 &&', 'daemon/test_tickets'),
    'floor': ('a block that was forgotten (B2)', 'index/cache_parts.h:entry_is_forgotten',
              'return entry->epoch < cache_floor(cache, entry->space);',
              'return entry->epoch == 0 && cache_floor(cache, entry->space) == 1;',
              'system/test_forget.py Forget'),
}


def execute(words, folder, seconds_max, **variables):
    try:
        run = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=seconds_max, check=False,
                             errors='replace', env={**os.environ, **variables})
        return run.returncode, run.stdout + run.stderr
    except subprocess.TimeoutExpired:
        return 124, f'not within {seconds_max} s'


def copy_make(folder):
    names = subprocess.run(['git', '-C', TOP, 'ls-files', '-z'], capture_output=True, check=True).stdout.decode()
    for name in filter(None, names.split('\0')):
        target = os.path.join(folder, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy2(os.path.join(TOP, name), target)
    if os.path.isdir(os.path.join(TOP, BUILD)):
        shutil.copytree(os.path.join(TOP, BUILD), os.path.join(folder, BUILD), symlinks=True)


def build(folder, test):
    target = 'all' if test.startswith('system/') else f'{BUILD}/tests/{test}'
    return execute(['make', '-s', f'-j{os.cpu_count()}', f'BUILD={BUILD}', 'WERROR=1', 'FAILPOINTS=1', target], folder,
                   BUILD_SECONDS_MAX)


def test_run(folder, test):
    words = test.split()
    if words[0].startswith('system/'):
        words = [sys.executable, os.path.join('tests', words[0]), *words[1:]]
    else:
        words = [os.path.join(folder, BUILD, 'tests', words[0])]
    return execute(words, folder, TEST_SECONDS_MAX, KVTIER_TEST_SCALE='0.1', KVTIER_BUILD=os.path.join(folder, BUILD))


def write(path, text):
    with open(path, 'w', encoding='utf-8') as file:
        file.write(text)
    # Later than whatever was built of it, also on a clock of whole seconds.
    later = time.time() + 2
    os.utime(path, (later, later))


def mutate(folder, name):
    """Why it is a failure, or None."""
    _, place, old, new, test = MUTATIONS[name]
    path = os.path.join(folder, place.split(':')[0])
    with open(path, encoding='utf-8') as file:
        text = file.read()
    if text.count(old) != 1:
        return f'fits {text.count(old)} places of {place}'
    write(path, text.replace(old, new))
    try:
        status, output = build(folder, test)
        if status != 0:
            return f'does not build: {output[-500:]}'
        status, output = test_run(folder, test)
        if 'skipped=' in output and status == 0:
            return f'{test} was skipped: {output[-200:]}'
        return f'{test} does not notice' if status == 0 else None
    finally:
        write(path, text)


def test_shown(test):
    path, *case = test.split()
    return ' '.join([f'`tests/{path}`' if path.endswith('.py') else f'`tests/{path}.c`'] + [one.split('.')[0] for one in case])


def table():
    return [f'| {attack} | `{place}` | {test_shown(test)} | {name} |'
            for name, (attack, place, _, _, test) in MUTATIONS.items()]


def missing_rows():
    with open(os.path.join(TOP, 'docs/SECURITY.md'), encoding='utf-8') as file:
        text = file.read()
    return [f'not in docs/SECURITY.md: {row}' for row in table() if row not in text]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', metavar='NAME', help='only these; --list names them')
    parser.add_argument('--list', action='store_true', help='print the table of docs/SECURITY.md')
    found = parser.parse_args()
    unknown = [name for name in found.names if name not in MUTATIONS]
    if unknown:
        parser.error(f'no mutation {unknown[0]}; there are: {", ".join(MUTATIONS)}')
    return found


def main():
    asked = arguments()
    if asked.list:
        print('\n'.join(table()))
        return 0
    names = asked.names or list(MUTATIONS)
    failures = missing_rows()
    with tempfile.TemporaryDirectory(prefix='kvtier-mutations-') as folder:
        os.chmod(folder, 0o755)   # daemons of other users are started from it
        copy_make(folder)
        for test in sorted({MUTATIONS[name][4] for name in names}):
            status, output = build(folder, test)
            if status == 0:
                status, output = test_run(folder, test)
            if status != 0:
                failures.append(f'{test} fails as it is: {output[-800:]}')
        for name in names if not failures else []:
            start = time.monotonic()
            reason = mutate(folder, name)
            print(f'{"FAILED " if reason else "noticed"} {name:<20} {time.monotonic() - start:5.1f} s  {reason or ""}',
                  flush=True)
            failures += [f'{name}: {reason}'] if reason else []
    print('\n'.join(failures))
    print(f'{len(names) - len(failures)} of {len(names)} noticed')
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
