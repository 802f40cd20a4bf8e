"""Blocks of another process, over TCP on loopback: two kvtierd, NIXL's UCX back end, and a plain pair of sockets."""
import ctypes
import errno
import json
import mmap
import os
import socket
import subprocess
import sys
import time

import kvtier_client
import peer
import peer_kvtier

SECRET = 'a5' * 32
SOURCE_SECONDS_MAX = 60
ANSWER_US_MAX = 10_000_000
STOPPED_FETCH_US_MAX = 1_000_000
GET = b'G'


class KvtierFar(peer_kvtier.Kvtier):
    """Stored at one node, fetched and loaded at the other."""
    transport = 'tcp'

    def open(self, tier, block_bytes, count, sets):
        addresses = [f'127.0.0.1:{peer.free_port()}' for _ in range(2)]
        secret = os.path.join(self.folder, 'secret')
        with open(secret, 'w', opener=lambda name, flags: os.open(name, flags, 0o600), encoding='ascii') as file:
            file.write(SECRET + '\n')
        common = f'peer_secret_file: {secret}\npeer_transport: {self.transport}\n'
        self.far = peer_kvtier.Kvtier(os.path.join(self.folder, 'far'), self.build)
        os.mkdir(self.far.folder)
        self.far.more_settings = common + f'peer_listen: {addresses[0]}\n'
        self.far.open(tier, block_bytes, count, sets)
        self.more_settings = common + f'peer_listen: {addresses[1]}\npeers:\n  - address: {addresses[0]}\n'
        super().open(tier, block_bytes, count, sets)
        self.blocks, self.address = self.far.blocks, addresses[0]
        self.client.close()
        self.client = kvtier_client.Client(os.path.join(self.build, 'libkvtier.so'), self.socket, self.blocks.address,
                                           block_bytes, 2 * count)
        if peer.until(SOURCE_SECONDS_MAX, lambda: self.is_serving() and self.is_connected()) is None:
            raise RuntimeError('the two kvtierd do not reach each other; see kvtierd.log')

    def is_connected(self):
        said = subprocess.run([os.path.join(self.build, 'kvtier'), 'peers', '--socket', self.socket, '--output', 'json'],
                              capture_output=True, text=True, timeout=30, check=False)
        return said.returncode == 0 and [one for one in json.loads(said.stdout)['nodes'] if one['state'] == 'up']

    def store_run(self, identity):
        return self.far.store_run(identity)

    def load_run(self, identity, count=None, deadline_us=peer_kvtier.MOVE_US_MAX):
        count = count or self.blocks.count
        job = self.job(identity, False, count, deadline_us)
        keys = kvtier_client.keys_of(peer_kvtier.hashes_of(identity, count))
        began = time.monotonic()
        fetch = self.client.fetch(keys, self.address, min(deadline_us, ANSWER_US_MAX))
        results = self.client.move(job, False, deadline_us) if fetch is not None else [-errno.EHOSTUNREACH] * count
        seconds = time.monotonic() - began
        if fetch is not None:
            self.client.fetch_end(fetch)
        return seconds, [result == 0 for result in results] + [False] * (self.blocks.count - count)

    def server(self):
        return self.far.process

    def stopped_run(self, identity):
        _, goods = self.load_run(identity, deadline_us=STOPPED_FETCH_US_MAX)
        return {'good': sum(goods), 'asked_seconds': 2 * STOPPED_FETCH_US_MAX / 1e6}

    def close(self):
        super().close()
        self.far.close()


class KvtierFarUcx(KvtierFar):
    transport = 'ucx'


class Source:
    """This file as a process that has the blocks; it is told what to do in JSON lines, and dies with us."""

    def __init__(self, kind, bytes_all, memory, log, environment=None):
        with open(log, 'ab') as output:
            self.process = subprocess.Popen(
                [sys.executable, os.path.abspath(__file__), kind, str(memory), str(bytes_all)], pass_fds=(memory,),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, env={**os.environ, **(environment or {})},
                preexec_fn=peer.die_with_parent)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f'the {kind} source did not start; see {os.path.basename(log)}')
        self.said = json.loads(line)

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.process.kill()
        self.process.wait()


class Far(peer.Peer):
    """One set of blocks, which the other process sees where we wrote them: to store costs nothing."""
    kind = ''
    environment = {}

    def open(self, tier, block_bytes, count, sets):
        size = 2 * block_bytes * count
        self.shared = os.memfd_create('rivals')
        os.ftruncate(self.shared, size)
        memory = mmap.mmap(self.shared, size)
        self.blocks = peer.Blocks(ctypes.addressof(ctypes.c_char.from_buffer(memory)), memory, block_bytes, count)
        self.source = Source(self.kind, size, self.shared, os.path.join(self.folder, 'source.log'), self.environment)
        self.connect()

    def connect(self):
        raise NotImplementedError

    def store_run(self, identity):
        return 1e-9, self.blocks.count

    def server(self):
        return self.source

    def close(self):
        self.source.kill()


class Plain(Far):
    """What sockets alone do: all blocks behind each other, nothing asked or checked."""
    kind = 'plain'

    def connect(self):
        self.socket = socket.create_connection(('127.0.0.1', self.source.said['port']))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def load_run(self, identity, count=None):
        count = count or self.blocks.count
        target = memoryview(self.blocks.memory)[self.blocks.bytes:self.blocks.bytes + count * self.blocks.block_bytes]
        began = time.monotonic()
        self.socket.sendall(GET + len(target).to_bytes(8, 'little'))
        while target:
            target = target[self.socket.recv_into(target):]
        return time.monotonic() - began, [True] * count + [False] * (self.blocks.count - count)


class NixlFar(Far):
    """A READ of each block, all in one transfer; UCX, kept to TCP as between machines without RDMA."""
    kind = 'nixl'
    environment = {'UCX_TLS': 'tcp', 'UCX_NET_DEVICES': 'lo', 'NIXL_LOG_LEVEL': 'ERROR'}

    def connect(self):
        os.environ.update(self.environment)
        self.agent = nixl_agent_of('near', self.blocks.address, 2 * self.blocks.bytes)
        self.other = self.agent.add_remote_agent(bytes.fromhex(self.source.said['metadata']))
        if isinstance(self.other, bytes):
            self.other = self.other.decode()

    def load_run(self, identity, count=None):
        count = count or self.blocks.count
        size, far = self.blocks.block_bytes, self.source.said['address']
        near = self.agent.get_xfer_descs([(self.blocks.target(i), size, 0) for i in range(count)], 'DRAM')
        away = self.agent.get_xfer_descs([(far + i * size, size, 0) for i in range(count)], 'DRAM')
        began = time.monotonic()
        handle = self.agent.initialize_xfer('READ', near, away, self.other, backends=['UCX'])
        state = self.agent.transfer(handle)
        while state == 'PROC':
            state = self.agent.check_xfer_state(handle)
        seconds = time.monotonic() - began
        self.agent.release_xfer_handle(handle)
        return seconds, [state == 'DONE'] * count + [False] * (self.blocks.count - count)


# ---- the other process ----

def nixl_agent_of(name, address, size):
    from nixl_cu13._api import nixl_agent, nixl_agent_config
    agent = nixl_agent(name, nixl_agent_config(backends=['UCX']))
    agent.register_memory([(address, size, 0, '')], 'DRAM', backends=['UCX'])
    return agent


def say(answer):
    print(json.dumps(answer), flush=True)


def plain_serve(memory):
    with socket.create_server(('127.0.0.1', 0)) as listener:
        say({'port': listener.getsockname()[1]})
        connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while len(ask := connection.recv(9, socket.MSG_WAITALL)) == 9:
        connection.sendall(memory[:int.from_bytes(ask[1:], 'little')])


def nixl_serve(memory, size):
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    agent = nixl_agent_of('far', address, size)
    say({'address': address, 'metadata': agent.get_agent_metadata().hex()})
    sys.stdin.read()


def main(kind, memory, size):
    mapped = mmap.mmap(int(memory), int(size))
    if kind == 'plain':
        plain_serve(memoryview(mapped))
    else:
        nixl_serve(mapped, int(size))
    os._exit(0)   # as worker.py: destructors may wait


if __name__ == '__main__':
    main(*sys.argv[1:4])
