"""Rows 23 and 25 of the fault table: attacks on the server of pages cost those who attack.

At the same time: clients that send a byte now and then, a flood of connections, and heads without an end, each from an
address of its own. Beside them a well-behaved client of a fourth address, one on the Unix socket, and an engine that
looks up. build/tests/http_attack.json says how long their calls took before and during the attack.
"""
import os
import re
import socket
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import frames   # noqa: E402
import node     # noqa: E402

CALLS = node.scaled(3000)
SLOW_SECONDS = 1.0        # what fails the test; a loaded machine schedules late
MADE_MIN = 20             # connections of each attack; a full backlog makes it wait a second for one
LORIS, FLOOD, GIANT = '127.0.0.2', '127.0.0.3', '127.0.0.4'
# Says how many connections it made when its input ends. Linux has all of 127.0.0.0/8 for itself.
ATTACK = r'''
import select, socket, sys
port, address, kind = int(sys.argv[1]), sys.argv[2], sys.argv[3]
made, kept = 0, []
print('begun', flush=True)
while not select.select([sys.stdin], [], [], 0.002 if kind == 'loris' else 0)[0]:
    client = socket.socket()
    client.settimeout(1)
    client.bind((address, 0))
    try:
        client.connect(('127.0.0.1', port))
        made += 1
        if kind == 'giant':
            client.sendall(b'GET / HTTP/1.1\r\nHost: localhost\r\n' + b'X: ' + b'y' * 200000)
        elif kind == 'loris':
            client.sendall(b'GET / HT')
    except OSError:
        continue
    kept.append(client)
    if len(kept) > 100:
        kept.pop(0).close()
    for other in kept if kind == 'loris' and made % 10 == 0 else ():
        try:
            other.send(b'T')
        except OSError:
            pass
print(made)
'''


class Attack:
    def __init__(self, port, address, kind):
        self.process = subprocess.Popen([sys.executable, '-c', ATTACK, str(port), address, kind],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        node.running.add(self.process)
        self.process.stdout.readline()

    def end(self):
        """How many connections it made."""
        made = int(self.process.communicate('', timeout=10)[0])
        node.running.discard(self.process)
        return made


def get_tcp(port):
    with socket.create_connection(('127.0.0.1', port), 10) as client:
        client.sendall(b'GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n')
        answer = b''
        while part := client.recv(65536):
            answer += part
    assert answer.startswith(b'HTTP/1.1 200 '), answer[:100]


def took(call, *arguments):
    start = time.monotonic()
    call(*arguments)
    return time.monotonic() - start


class HttpAttack(unittest.TestCase):
    def measure(self, daemon, port, engine, hashes):
        times = {'tcp': [], 'unix': [], 'lookup': []}
        for _ in range(CALLS):
            times['tcp'].append(took(get_tcp, port))
            times['unix'].append(took(daemon.http, '/livez'))
            times['lookup'].append(took(engine.lookup, hashes))
        return {name: node.quantiles(values) for name, values in times.items()}

    def test_others_are_served_while_slow_many_and_giant_clients_attack(self):
        with node.Node(http_listen='127.0.0.1:0') as daemon:
            daemon.start()
            port = int(re.search(r'event=http_listen .*port=(\d+)', daemon.log()).group(1))
            hashes = [node.hash_of('attack', i) for i in range(64)]
            with daemon.engine() as engine:
                engine.store(hashes, [node.payload_of(name, 4096) for name in hashes])
                figures = {'before': self.measure(daemon, port, engine, hashes)}
                attacks = {kind: Attack(port, address, kind)
                           for kind, address in (('loris', LORIS), ('flood', FLOOD), ('giant', GIANT))}
                figures['during'] = self.measure(daemon, port, engine, hashes)
                figures['connections'] = {kind: attack.end() for kind, attack in attacks.items()}
            figures['counted'] = {result: daemon.metric(f'kvtier_http_requests_total{{result="{result}"}}')
                                  for result in ('answered', 'refused', 'late', 'crowded')}
            node.figures_write('http_attack.json', figures)
            print(figures, file=sys.stderr)
            for kind, made in figures['connections'].items():
                self.assertGreater(made, MADE_MIN, kind)
            self.assertGreater(figures['counted']['crowded'], 0)
            self.assertGreater(figures['counted']['refused'], 50)
            for name, times in figures['during'].items():
                self.assertLess(times['p99'], SLOW_SECONDS, name)
            self.assertLess(daemon.rss_bytes(), 1 << 30)
            frames.Connection(daemon.socket()).close()


if __name__ == '__main__':
    unittest.main()
