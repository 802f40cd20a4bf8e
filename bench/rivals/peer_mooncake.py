"""
Mooncake's store as engines run it on one node: a master, and a store process that owns the memory
and the SSD tier.
"""
import glob
import os
import time
import urllib.request

import peer

START_SECONDS_MAX = 30
OFFLOAD_SECONDS_MAX = 60
LEASE_MS = 2000              # of its lookups and gets; a batch has to be through within it
BATCH_KEYS_MAX = 1024        # its TCP transport queues 4,096 pieces to a peer, then refuses
HEARTBEAT_SECONDS = 1        # the shortest there is: how soon blocks go down
BUCKET_BYTES = 16 << 20
LOCAL_BUFFER_BYTES = 64 << 20
SPARE_BYTES = 256 << 20
OK = 0


class Mooncake(peer.Peer):
    """
    `client`: 'shared' memory to the store process, 'tcp' to it, or 'own': no store process, the
    memory is the engine's own.
    """
    name = 'mooncake'
    client = 'shared'
    master_dies = True           # a restart is one of all its processes
    starts = 0
    extra = {}
    master = None
    store_process = None

    def open(self, tier, block_bytes, count, sets):
        self.tier, self.sets = tier, sets
        self.cold = set()
        self.segment_bytes = max(sets, 2) * block_bytes * count + SPARE_BYTES
        self.ssd = os.path.join(self.folder, 'ssd')
        os.makedirs(self.ssd)
        import mooncake
        self.mooncake = os.path.dirname(mooncake.__file__)
        self.environment = {
            **self.extra, 'MC_TCP_BIND_ADDRESS': '127.0.0.1', 'MC_YLT_LOG_LEVEL': 'error',
            'GLOG_minloglevel': '2', 'GLOG_logtostderr': '1',
            'MOONCAKE_OFFLOAD_FILE_STORAGE_PATH': self.ssd, 'MOONCAKE_OFFLOAD_USE_URING': '1',
            'MOONCAKE_OFFLOAD_HEARTBEAT_INTERVAL_SECONDS': str(HEARTBEAT_SECONDS),
            'MOONCAKE_OFFLOAD_BUCKET_SIZE_LIMIT_BYTES': str(BUCKET_BYTES),
        }
        os.environ.update(self.environment)
        self.ports = [peer.free_port() for _ in range(3)]
        self.block_bytes, self.count = block_bytes, count
        self.server_start()
        self.client_open()

    def master_start(self):
        self.master = peer.Server(
            [os.path.join(self.mooncake, 'mooncake_master'), '--rpc_address=127.0.0.1',
             f'--rpc_port={self.ports[0]}', '--enable_http_metadata_server=false',
             '--metrics_host=127.0.0.1', f'--metrics_port={self.ports[1]}',
             f'--default_kv_lease_ttl={LEASE_MS}',
             f'--enable_offload={str(self.tier == "disk").lower()}'],
            os.path.join(self.folder, 'master.log'), self.environment)

    def server_start(self):
        if self.master is None:
            self.master_start()
        if self.client == 'own':
            return
        self.store_process = peer.Server(
            [os.path.join(self.mooncake, 'mooncake_client'), '--host=127.0.0.1',
             f'--port={self.ports[2]}', '--metadata_server=P2PHANDSHAKE',
             f'--master_server_address=127.0.0.1:{self.ports[0]}',
             f'--global_segment_size={self.segment_bytes >> 20}MB',
             f'--local_buffer_size={LOCAL_BUFFER_BYTES >> 20}MB', '--protocol=tcp',
             f'--enable_offload={str(self.tier == "disk").lower()}', '--mmap_arena_pool_size=0'],
            os.path.join(self.folder, 'store.log'), {**self.environment, 'GLOG_minloglevel': '0'})
        # What is stored before its disk is mounted never goes down.
        self.starts += 1
        if self.tier == 'disk':
            peer.until(START_SECONDS_MAX, self.is_disk_mounted)

    def is_disk_mounted(self):
        with open(os.path.join(self.folder, 'store.log'), errors='replace') as log:
            return log.read().count('Starting periodic task') >= self.starts

    def client_open(self):
        """A client, and memory that it can move from and to."""
        if self.client_try() is None:
            raise RuntimeError('no client could be set up; see master.log and store.log')

    def client_try(self):
        took = peer.until(START_SECONDS_MAX, self.is_set_up)
        if took is None:
            return None
        bytes_all = 2 * self.block_bytes * self.count
        if self.client == 'shared':
            address = self.store_client.alloc_from_mem_pool(bytes_all)
            self.blocks = peer.blocks_at(address, self.block_bytes, self.count)
        elif self.blocks is None:
            self.blocks = peer.blocks_map(self.block_bytes, self.count)
        if self.store_client.register_buffer(self.blocks.address, bytes_all) != OK:
            raise RuntimeError('the memory could not be registered')
        return took

    def is_set_up(self):
        from mooncake.store import MooncakeDistributedStore
        if self.client != 'shared':
            self.store_client = self.client_tcp(self.segment_bytes if self.client == 'own' else 0)
            return self.store_client is not None
        self.store_client = MooncakeDistributedStore()
        return self.store_client.setup_dummy(
            2 * self.block_bytes * self.count + SPARE_BYTES, LOCAL_BUFFER_BYTES,
            f'127.0.0.1:{self.ports[2]}') == OK

    def client_tcp(self, segment_bytes):
        from mooncake.store import MooncakeDistributedStore
        client = MooncakeDistributedStore()
        result = client.setup('127.0.0.1', 'P2PHANDSHAKE', segment_bytes, LOCAL_BUFFER_BYTES,
                              'tcp', '', f'127.0.0.1:{self.ports[0]}')
        return client if result == OK else None

    def in_batches(self, call, keys, places):
        """Its results; at most BATCH_KEYS_MAX keys at a time."""
        results = []
        for first in range(0, len(keys), BATCH_KEYS_MAX):
            part = keys[first:first + BATCH_KEYS_MAX]
            results += call(part, places[first:first + BATCH_KEYS_MAX],
                            [self.blocks.block_bytes] * len(part))
        return results

    def keys(self, identity, count=None):
        return ['%d/%d' % (identity, i) for i in range(count or self.blocks.count)]

    def store_run(self, identity):
        keys = self.keys(identity)
        places = [self.blocks.source(i) for i in range(self.blocks.count)]
        began = time.monotonic()
        results = self.in_batches(self.store_client.batch_put_from, keys, places)
        if self.tier == 'disk':
            peer.until(OFFLOAD_SECONDS_MAX, lambda: self.are_on_disk(keys))
        seconds = time.monotonic() - began
        if self.tier == 'memory':
            # It does not evict while leases run; kvtier evicts by itself.
            self.store_client.batch_remove(self.keys(identity - 2), True)
        return seconds, sum(result == OK for result in results)

    def are_on_disk(self, keys, alone=False):
        """`alone`: and nowhere else."""
        replicas = self.store_client.batch_get_replica_desc(keys)
        quantity = all if alone else any
        return all(replicas.get(key) and
                   quantity(replica.is_local_disk_replica() for replica in replicas[key])
                   for key in keys)

    def load_run(self, identity, count=None):
        count = count or self.blocks.count
        keys = self.keys(identity, count)
        places = [self.blocks.target(i) for i in range(count)]
        began = time.monotonic()
        results = self.in_batches(self.store_client.batch_get_into, keys, places)
        seconds = time.monotonic() - began
        return seconds, [result == self.blocks.block_bytes for result in results] + \
            [False] * (self.blocks.count - count)

    def files(self):
        return glob.glob(os.path.join(self.ssd, '**', '*.bucket'), recursive=True)

    def make_cold(self, identity):
        """Once leases are over the copies in memory can be dropped; then the page cache goes."""
        keys = self.keys(identity)
        if not self.are_on_disk(keys):
            return False
        if identity not in self.cold:
            time.sleep(LEASE_MS / 1000 + 0.1)
            for segment in self.segments():
                self.store_client.batch_replica_clear(keys, segment)
            if not self.are_on_disk(keys, alone=True):
                return False
            self.cold.add(identity)
        for path in self.files():
            with open(path, 'rb') as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return True

    def segments(self):
        url = f'http://127.0.0.1:{self.ports[1]}/get_all_segments'
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode().split()

    def server(self):
        return self.store_process

    def server_kill(self):
        if self.store_process is not None:
            self.store_process.kill()
        if self.master_dies and self.master is not None:
            self.master.kill()
            self.master = None

    def lookup_open(self, identity, count):
        self.names = self.keys(identity, count)

    def lookup(self, count):
        names = self.names[:count]
        began = time.monotonic()
        answers = self.store_client.batch_is_exist(names)
        seconds = time.monotonic() - began
        return {'seconds': seconds, 'hits': sum(answer == 1 for answer in answers)}

    def close(self):
        for server in (self.store_process, self.master):
            if server is not None:
                server.kill()


class MooncakeTcp(Mooncake):
    name = 'mooncake_tcp'
    client = 'tcp'


class MooncakeOwn(Mooncake):
    name = 'mooncake_own'
    client = 'own'


class MooncakePart(MooncakeTcp):
    """Only its store process dies; the master goes on."""
    name = 'mooncake_part'
    master_dies = False


class MooncakeChecked(MooncakeTcp):
    """With its own checksums, which are off by default."""
    name = 'mooncake_checked'
    extra = {'MOONCAKE_STORE_CHECKSUM': '1'}


class MooncakeOwnChecked(MooncakeOwn):
    name = 'mooncake_own_checked'
    extra = {'MOONCAKE_STORE_CHECKSUM': '1'}
