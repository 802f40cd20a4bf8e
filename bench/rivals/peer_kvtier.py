"""kvtier: one daemon, spoken to by libkvtier."""
import hashlib
import os
import time

import kvtier_client
import peer

EXTENT_BYTES = 16 << 20
MOVE_US_MAX = 60_000_000
START_SECONDS_MAX = 60
CONNECT_US_MAX = 100_000
SETTLE_SECONDS_MAX = 60
LOOKUP_US_MAX = 1_000_000
LEASE_US = 10_000_000       # as Mooncake's lookups grant by default
# What an engine would ask for when the daemon hangs: a lookup and a load that end by themselves.
STOPPED_LOOKUP_US_MAX = 100_000
STOPPED_LOAD_US_MAX = 1_000_000
HEADER_BYTES = 4096


def hashes_of(identity, count):
    return [hashlib.sha256(b'%d/%d' % (identity, i)).digest() for i in range(count)]


class Kvtier(peer.Peer):
    name = 'kvtier'
    more_settings = ''

    def open(self, tier, block_bytes, count, sets):
        self.tier, self.sets = tier, sets
        slots_bytes = (block_bytes + HEADER_BYTES) * count
        # Memory for two sets; on the disk room for all and the spare that eviction works in.
        cpu_bytes = 2 * slots_bytes if tier != 'disk' else slots_bytes
        cpu_bytes = max(8, cpu_bytes // EXTENT_BYTES + 4) * EXTENT_BYTES
        nvme_bytes = (sets * slots_bytes // EXTENT_BYTES + 8) * 2 * EXTENT_BYTES
        self.config = os.path.join(self.folder, 'kvtierd.yaml')
        self.device = os.path.join(self.folder, 'nvme0')
        self.socket = os.path.join(self.folder, 'run/t/default/kv.sock')
        with open(self.config, 'w', encoding='utf-8') as file:
            file.write(f'run_directory: {self.folder}/run\nstate_directory: {self.folder}/state\n'
                       f'http_listen: ""\nextent_bytes: {EXTENT_BYTES}\n'
                       f'block_bytes_min: {min(block_bytes, 65536)}\n'
                       f'{self.more_settings}'
                       f'tenants:\n  - name: default\n    cpu_bytes: {cpu_bytes}\n')
            if tier == 'disk':
                file.write(f'    nvme_bytes: {nvme_bytes}\nnvme:\n  - path: {self.device}\n'
                           f'    bytes: {nvme_bytes}\n')
        self.blocks = peer.blocks_map(block_bytes, count)
        self.server_start()
        self.client = kvtier_client.Client(
            os.path.join(self.build, 'libkvtier.so'), self.socket, self.blocks.address,
            block_bytes, 2 * count)
        if peer.until(START_SECONDS_MAX, self.is_serving) is None:
            raise RuntimeError('kvtierd does not serve; see kvtierd.log')

    def is_serving(self):
        return self.client.connect(CONNECT_US_MAX) and '"state":"serving"' in self.client.stats()

    def server_start(self):
        self.process = peer.Server(
            [os.path.join(self.build, 'kvtierd'), '--config', self.config, '--set',
             'log_level=warning'], os.path.join(self.folder, 'kvtierd.log'))

    def server_kill(self):
        self.process.kill()

    def server(self):
        return self.process

    def files(self):
        return [self.device]

    def job(self, identity, is_store, count=None, deadline_us=MOVE_US_MAX):
        count = count or self.blocks.count
        first = 0 if is_store else self.blocks.count
        return kvtier_client.Job(hashes_of(identity, count), range(first, first + count),
                                 deadline_us)

    def store_run(self, identity):
        job = self.job(identity, True)
        began = time.monotonic()
        results = self.client.move(job, True, MOVE_US_MAX)
        if self.tier == 'disk':
            self.settle()
        return time.monotonic() - began, sum(result >= 0 for result in results)

    def settle(self):
        def is_settled():
            text = self.client.stats()
            return '"pending_down":0,' in text and '"moves":0,' in text
        if peer.until(SETTLE_SECONDS_MAX, is_settled) is None:
            raise RuntimeError('blocks are still being written down')

    def load_run(self, identity, count=None):
        count = count or self.blocks.count
        job = self.job(identity, False, count)
        began = time.monotonic()
        results = self.client.move(job, False, MOVE_US_MAX)
        seconds = time.monotonic() - began
        return seconds, [result == 0 for result in results] + [False] * (self.blocks.count - count)

    def one_is_right(self, identity):
        """An engine's client connects again by itself; this one does not wait for its turn."""
        return self.client.connect(CONNECT_US_MAX) and super().one_is_right(identity)

    def make_cold(self, identity):
        """Loads other sets, as many as it takes to push this one out of memory."""
        keys = kvtier_client.keys_of(hashes_of(identity, self.blocks.count))
        for other in range(1, self.sets + 1):
            result, found = self.client.lookup(keys, LOOKUP_US_MAX)
            if result == 0 and found.tier_tokens[0] == 0:
                return found.tier_tokens[1] > 0
            if other != identity:
                self.load_run(other)
        result, found = self.client.lookup(keys, LOOKUP_US_MAX)
        return result == 0 and found.tier_tokens[0] == 0

    def lookup_open(self, identity, count):
        self.keys = {}
        self.names = hashes_of(identity, count)

    def lookup(self, count):
        keys = self.keys.setdefault(count, kvtier_client.keys_of(self.names[:count]))
        began = time.monotonic()
        result, found = self.client.lookup(keys, LOOKUP_US_MAX, LEASE_US)
        seconds = time.monotonic() - began
        self.client.lease_release(found.lease)
        return {'seconds': seconds, 'hits': found.present_count if result == 0 else 0}

    def stopped_run(self, identity):
        keys = kvtier_client.keys_of(hashes_of(identity, self.blocks.count))
        job = self.job(identity, False, deadline_us=STOPPED_LOAD_US_MAX)
        began = time.monotonic()
        result, _ = self.client.lookup(keys, STOPPED_LOOKUP_US_MAX)
        looked = time.monotonic() - began
        results = self.client.move(job, False, 10 * STOPPED_LOAD_US_MAX)
        return {'good': sum(value == 0 for value in results), 'lookup_seconds': looked,
                'lookup_result': result,
                'asked_seconds': (STOPPED_LOOKUP_US_MAX + STOPPED_LOAD_US_MAX) / 1e6}

    def close(self):
        self.client.close()
        self.process.kill()
