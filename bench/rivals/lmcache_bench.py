"""LMCache's server, measured by its own bench over shared memory: after ours, not in turn."""
import os
import re
import shutil
import socket
import subprocess
import tempfile

import peer

TOKENS = 8192
TOKEN_BYTES = 4096           # of the shape below: key and value, 8 heads of 128, float16
SHAPE = '(2,1024,16,8,128):float16:1'
START_SECONDS_MAX = 60
BENCH_SECONDS_MAX = 120
LINES = {'store': r'/cold\] STORE: stored \(\d+ tokens, ([0-9.]+) ms',
         'load': r'/warm\] RETRIEVE: retrieved \(\d+ tokens, ([0-9.]+) ms',
         'lookup': r'/warm\] LOOKUP: (?:(\d+)/\1) chunks hit \(([0-9.]+) ms\)'}


def is_listening(port):
    try:
        socket.create_connection(('127.0.0.1', port), timeout=1).close()
        return True
    except OSError:
        return False


def measure(program, block_bytes, samples, build):
    """Seconds of each store, load and lookup of TOKENS, the first left out; {} with a reason."""
    folder = tempfile.mkdtemp(prefix='lmcache-', dir=build)
    rpc, http = peer.free_port(), peer.free_port()
    pool = f'kvtier-rivals-{os.getpid()}'
    server = peer.Server(
        [program, 'server', '--host', '127.0.0.1', '--port', str(rpc), '--http-port', str(http),
         '--chunk-size', str(block_bytes // TOKEN_BYTES), '--l1-size-gb', '2',
         '--l1-init-size-gb', '1', '--eviction-policy', 'LRU', '--supported-transfer-mode', 'auto',
         '--shm-name', pool], os.path.join(folder, 'server.log'))
    try:
        url = f'http://127.0.0.1:{http}'
        if peer.until(START_SECONDS_MAX, lambda: is_listening(rpc)
                      and is_listening(http)) is None:
            return {}, f'its server did not listen within {START_SECONDS_MAX} s'
        answer = subprocess.run(
            [program, 'bench', 'server', '--mode', 'cpu', '--transfer-mode', 'engine_driven',
             '--rpc-url', f'tcp://127.0.0.1:{rpc}', '--url', url, '--num-tokens', str(TOKENS),
             '--kvcache-shape-spec', SHAPE, '--start', '0', '--end', str(samples + 1),
             '--interval', '0'], capture_output=True, text=True, timeout=BENCH_SECONDS_MAX,
            check=False, preexec_fn=peer.die_with_parent)
        found = {name: [float(match.group(match.lastindex)) / 1e3
                        for match in re.finditer(pattern, answer.stdout)][1:]
                 for name, pattern in LINES.items()}
        if not all(found.values()):
            return {}, f'its bench said nothing of use, status {answer.returncode}'
        return found, ''
    except subprocess.TimeoutExpired:
        return {}, f'its bench took longer than {BENCH_SECONDS_MAX} s'
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)
        path = f'/dev/shm/lmcache_l1_pool_{pool}'
        if os.path.exists(path):
            os.unlink(path)
