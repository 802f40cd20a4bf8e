"""tests/system/follow.c: what a router knows of a daemon that tells its inventory."""
import contextlib
import json
import select
import subprocess

import node

ANSWER_SECONDS = 20
CPU, NVME = 2, 4   # tiers, as proto/inventory.h has them


def ports(one):
    """(said, asked) of a daemon's inventory, once it listens."""
    def listening():
        status = one.stats()['inventory']
        return status if status['port'] else None
    status = node.until(listening, ANSWER_SECONDS, 'the inventory listens')
    return status['port'], status['ask_port']


class Follower:
    """Use as a context."""

    def __init__(self, said, asked, host='127.0.0.1'):
        self.process = subprocess.Popen([node.program('tests/system/follow'), f'{host}:{said}', f'{host}:{asked}'],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        node.running.add(self.process)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        node.running.discard(self.process)
        for file in (self.process.stdin, self.process.stdout):
            file.close()

    def ask(self, question):
        self.process.stdin.write(question.encode() + b'\n')
        answer = b''
        while not answer.endswith(b'\n'):
            if not select.select([self.process.stdout], [], [], ANSWER_SECONDS)[0]:
                raise AssertionError(f'{question}: no answer within {ANSWER_SECONDS} s')
            part = self.process.stdout.read(1 << 16)
            if not part:
                raise AssertionError(f'{question}: follow ended with {self.process.wait()}')
            answer += part
        return json.loads(answer)

    def look(self):
        return self.ask('look')

    def tiers(self, engine, keys, tenant='default'):
        """Of each route key, that the engine could use; None: no such engine is known."""
        answer = self.ask(' '.join(['engine', tenant, engine, *map(str, keys)]))
        return answer and answer['tiers']

    def wait(self, condition, seconds, what):
        """Until `condition(look)`; what it looked like."""
        seen = {}

        def holds():
            seen.update(self.look())
            return condition(seen)
        try:
            node.until(holds, seconds, what)
        except AssertionError as error:
            raise AssertionError(f'{error}: {seen}') from None
        return seen
