"""Network namespaces on a bridge of their own, for daemons that see each other over links that a test breaks.

Needs root, `ip` and `nft`. Names have this process's number in them, so several runs do not meet; a run that was killed
leaves names behind that the next one removes.
"""
import contextlib
import json
import os
import re
import subprocess
import unittest

PREFIX = 'kvtier-'
FOLDER = '/run/netns'
PORT = 7700         # where a node's peer process listens for control; data goes by any other
DEVICE = 'veth0'
created = 0


def call(*words):
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(words)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def is_alive(pid):
    return os.path.exists(f'/proc/{pid}')


def stale_remove():
    """What a process left that was killed."""
    for name in os.listdir(FOLDER) if os.path.isdir(FOLDER) else ():
        found = re.fullmatch(rf'{PREFIX}(\d+)-\d+-\w+', name)
        if found and not is_alive(found.group(1)):
            with contextlib.suppress(OSError):
                call('ip', 'netns', 'del', name)


def skip_unless_possible():
    """SkipTest with the reason where no namespace, link or rule can be made."""
    if os.geteuid() != 0:
        raise unittest.SkipTest('network namespaces need root')
    name = f'{PREFIX}{os.getpid()}-0-try'
    try:
        stale_remove()
        call('ip', 'netns', 'add', name)
        try:
            call('ip', '-n', name, 'link', 'add', 'bridge0', 'type', 'bridge')
            call('ip', '-n', name, 'link', 'add', 'try0', 'type', 'veth', 'peer', 'name', 'try1')
            call('ip', 'netns', 'exec', name, 'nft', 'add', 'table', 'inet', 'faults')
        finally:
            call('ip', 'netns', 'del', name)
    except OSError as error:
        raise unittest.SkipTest(f'no network of namespaces here (needs iproute2, nftables): {error}') from None


class Network:
    """Nodes 1.. at 10.77.0.N, each in a namespace with one veth to a bridge. Use as a context."""

    def __init__(self, count):
        global created   # pylint: disable=global-statement
        created += 1
        self.stem = f'{PREFIX}{os.getpid()}-{created}-'
        self.count = count
        self.names = []

    def __enter__(self):
        try:
            self.make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *unused):
        for name in reversed(self.names):
            with contextlib.suppress(OSError):
                call('ip', 'netns', 'del', name)

    def add(self, word):
        name = self.stem + word
        call('ip', 'netns', 'add', name)
        self.names.append(name)
        call('ip', '-n', name, 'link', 'set', 'lo', 'up')
        return name

    def make(self):
        hub = self.add('hub')
        call('ip', '-n', hub, 'link', 'add', 'bridge0', 'type', 'bridge')
        call('ip', '-n', hub, 'link', 'set', 'bridge0', 'up')
        for number in range(1, self.count + 1):
            name = self.add(str(number))
            call('ip', '-n', hub, 'link', 'add', f'to{number}', 'type', 'veth', 'peer', 'name', DEVICE, 'netns', name)
            call('ip', '-n', hub, 'link', 'set', f'to{number}', 'master', 'bridge0', 'up')
            call('ip', '-n', name, 'address', 'add', f'10.77.0.{number}/24', 'dev', DEVICE)
            call('ip', '-n', name, 'link', 'set', DEVICE, 'up')

    def address(self, number):
        return f'10.77.0.{number}:{PORT}'

    def space(self, number):
        return self.stem + str(number)

    def wrapper(self, number):
        """What starts a program in a node's namespace, with its own /sys, and takes its place."""
        return ['ip', 'netns', 'exec', self.space(number)]

    # ---- faults ----

    def rule(self, number, hook, words):
        """A rule on what node `number` sends (output) or gets (input), before those that are there."""
        text = (f'table inet faults {{\nchain {hook} {{\ntype filter hook {hook} priority 0; policy accept;\n}}\n}}\n'
                f'insert rule inet faults {hook} {words}\n')
        done = subprocess.run(['ip', 'netns', 'exec', self.space(number), 'nft', '-f', '-'], input=text, text=True,
                              capture_output=True, check=False)
        if done.returncode != 0:
            raise OSError(f'nft: {words}: {done.stderr.strip()}')

    def dropped(self, number):
        """Packets that rules with a counter have met."""
        listed = json.loads(call('ip', 'netns', 'exec', self.space(number), 'nft', '-j', 'list', 'table', 'inet', 'faults'))
        return sum(word['counter']['packets'] for part in listed['nftables'] if 'rule' in part
                   for word in part['rule']['expr'] if 'counter' in word)

    def heal(self, number):
        with contextlib.suppress(OSError):
            call('ip', 'netns', 'exec', self.space(number), 'nft', 'delete', 'table', 'inet', 'faults')

    def traffic(self, number, *words):
        """A queueing discipline of what a node sends; SkipTest where the kernel has none of that kind."""
        try:
            call('ip', 'netns', 'exec', self.space(number), 'tc', 'qdisc', 'replace', 'dev', DEVICE, 'root', *words)
        except OSError as error:
            raise unittest.SkipTest(f'this kernel has no {words[0]}: {error}') from None
