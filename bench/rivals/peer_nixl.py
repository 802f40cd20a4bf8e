"""NIXL's POSIX back end over io_uring: it moves blocks to and from a file. No server, no keys."""
import os
import time

import peer

QUERY_FOLDER = 'names'
PARAMETERS = {'use_uring': 'true', 'use_aio': 'false', 'use_posix_aio': 'false'}


class Nixl(peer.Peer):
    name = 'nixl'

    def open(self, tier, block_bytes, count, sets):
        os.environ.setdefault('NIXL_LOG_LEVEL', 'ERROR')
        from nixl_cu13._api import nixl_agent, nixl_agent_config
        self.blocks = peer.blocks_map(block_bytes, count)
        self.agent = nixl_agent('rivals', nixl_agent_config(backends=[]))
        self.agent.create_backend('POSIX', PARAMETERS)
        if tier != 'disk':
            return
        bytes_all = sets * self.blocks.bytes
        self.path = os.path.join(self.folder, 'blocks')
        self.file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
        self.fill(bytes_all)
        self.agent.register_memory([(self.blocks.address, 2 * self.blocks.bytes, 0, '')], 'DRAM',
                                   backends=['POSIX'])
        self.agent.register_memory([(0, bytes_all, self.file, 'blocks')], 'FILE',
                                   backends=['POSIX'])

    def fill(self, bytes_all):
        """Written once, as kvtier writes its device: nothing is allocated while time counts."""
        os.posix_fallocate(self.file, 0, bytes_all)
        for offset in range(0, bytes_all, self.blocks.bytes):
            os.pwritev(self.file, [memoryview(self.blocks.memory)[:self.blocks.bytes]], offset)
        os.fsync(self.file)

    def move(self, verb, identity, first, count):
        """(seconds, whether all of it was done): a transfer has one result, not one a block."""
        size = self.blocks.block_bytes
        offset = (identity - 1) * self.blocks.bytes
        memory = self.agent.get_xfer_descs([(first + i * size, size, 0) for i in range(count)],
                                           'DRAM')
        file = self.agent.get_xfer_descs([(offset + i * size, size, self.file)
                                          for i in range(count)], 'FILE')
        began = time.monotonic()
        handle = self.agent.initialize_xfer(verb, memory, file, 'rivals', backends=['POSIX'])
        state = self.agent.transfer(handle)
        while state == 'PROC':
            state = self.agent.check_xfer_state(handle)
        seconds = time.monotonic() - began
        self.agent.release_xfer_handle(handle)
        return seconds, state == 'DONE'

    def store_run(self, identity):
        seconds, done = self.move('WRITE', identity, self.blocks.source(0), self.blocks.count)
        return seconds, self.blocks.count if done else 0

    def load_run(self, identity, count=None):
        count = count or self.blocks.count
        seconds, done = self.move('READ', identity, self.blocks.target(0), count)
        return seconds, [done] * count + [False] * (self.blocks.count - count)

    def files(self):
        return [self.path]

    def lookup_open(self, identity, count):
        """Its nearest thing to a lookup asks whether files are there, one a block."""
        folder = os.path.join(self.folder, QUERY_FOLDER)
        os.mkdir(folder)
        self.names = []
        for i in range(count):
            path = os.path.join(folder, '%08d' % i)
            with open(path, 'wb'):
                pass
            self.names.append((0, 0, 0, path))

    def lookup(self, count):
        names = self.names[:count]
        began = time.monotonic()
        answers = self.agent.query_memory(names, 'POSIX', 'FILE')
        seconds = time.monotonic() - began
        return {'seconds': seconds, 'hits': sum(answer is not None for answer in answers)}

    def close(self):
        pass
