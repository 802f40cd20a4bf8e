#!/usr/bin/env python3
"""Includes point down (docs/DESIGN.md, folders), and each foreign library is spoken to by one file."""
import re

from sources import files, finish, read

# folder: what it may include besides itself. An entry that ends in .h is that header alone.
LAYERS = {
    'base': [],
    'proto': ['base'],
    'index': ['base', 'transfer/slot_header.h'],
    'transfer': ['base', 'proto/peer.h'],
    'tiers': ['base', 'transfer', 'proto/peer.h'],
    'daemon': ['base', 'proto', 'index', 'transfer', 'tiers'],
    'client': ['base', 'proto', 'transfer'],
    'bench': ['base', 'proto', 'index', 'transfer', 'tiers', 'client', 'daemon'],
    'cluster': ['base', 'proto', 'index'],
    'tests': ['base', 'proto', 'index', 'transfer', 'tiers', 'daemon', 'client', 'bench', 'cluster'],
}
# header: (what may include it, why more than one file where it is more)
LIBRARIES = {
    'liburing.h': ['tiers/nvme/block_io_uring.c', 'bench/peer_uring.c'],   # disks; what sockets would gain
    'rocksdb/': ['tiers/nvme/catalog_rocksdb.c'],
    'seccomp.h': ['daemon/sandbox_seccomp.c'],
    'yaml.h': ['daemon/settings_yaml.c'],
    'openssl/': ['base/crypto.c', 'transfer/peer/channel_tls.c'],  # keys and ciphers; TLS
    'jansson.h': ['client/', 'bench/'],  # answers of the daemon; traces
    'zlib.h': ['bench/'],                # packed traces
    'xxhash.h': ['client/kvtier_route.c'],
    'isa-l': ['tests/'],                 # only what our checksum is held against
    'ucp/': ['transfer/peer/ucx_parts.h'],
    'ucs/': ['transfer/peer/ucx_library.c'],   # the type of its log's hook
    'zmq.h': ['daemon/inventory_sockets.c', 'cluster/subscription.c'],   # who says, who listens
    'msgpuck.h': ['proto/msgpack.c', 'proto/inventory.c'],   # to read and to write
    'cuda.h': ['tests/'],               # what transfer/gpu_calls.h is held against
    'hip/': ['tests/'],
    'cmocka.h': ['tests/'],
}
# libkvtier links nothing but libc, so these must not get into what it is made of.
LIBRARY_FORBIDDEN = ['jansson.h', 'openssl/', 'zlib.h', 'yaml.h']
INCLUDE = re.compile(r'^\s*#\s*include\s+(?:"([^"]+)"|<([^>]+)>)', re.M)


def allowed(folder, target):
    if target.split('/')[0] == folder:
        return True
    return any(target == entry or (not entry.endswith('.h') and target.startswith(entry + '/'))
               for entry in LAYERS[folder])


def check(path):
    folder = path.split('/')[0]
    for ours, foreign in INCLUDE.findall(read(path)):
        if ours:
            if '/' not in ours:
                if folder != 'tests':   # rigs lie beside their tests
                    yield f'{path}: "{ours}": write the path from the top'
            elif folder in LAYERS and not allowed(folder, ours):
                yield f'{path}: {folder}/ must not include {ours}'
            continue
        for library, users in LIBRARIES.items():
            if not foreign.startswith(library):
                continue
            tests_are_free = folder == 'tests'
            if not tests_are_free and not any(path == user or (user.endswith('/') and path.startswith(user))
                                              for user in users):
                yield f'{path}: <{foreign}> belongs to {", ".join(users)}'
            if re.match(r'client/kvtier(_(?!main).*)?\.[ch]$', path) and library in LIBRARY_FORBIDDEN:
                yield f'{path}: libkvtier links nothing but libc, so not <{foreign}>'


def main():
    complaints = []
    for path in files('.c', '.h'):
        complaints += check(path)
        if path.split('/')[0] not in LAYERS:
            complaints.append(f'{path}: a folder that tests/tidy/check_layers.py does not know')
    finish(complaints)


main()
