"""An engine that lends a GPU's memory, in a process of its own, so that a test can kill it.

    pull_engine.py socket folder name

In rounds, until one of them brings every block there and back: what is left of earlier ones is loaded, blocks are
stored, and loaded elsewhere; every byte that came is held against what it must be. It prints a line for each answer, at
last its figures in JSON, and ends with its input.
"""
import collections
import json
import os
import random
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import library     # noqa: E402
import node        # noqa: E402
import test_pull   # noqa: E402

COUNT = 12
ROUNDS_SECONDS = 90
CONNECT_SECONDS = 8   # longer than the library waits for an answer to LEND
DEADLINE_SECONDS = 2
LATE_SECONDS = 1      # of a machine that is busy
QUIET_SECONDS = 30
JUNK = bytes([0xee]) * test_pull.PAYLOAD


def say(what):
    print(what, flush=True)


class Stuck(Exception):
    """Blocks of a job were never left alone."""


class Engine:
    def __init__(self, socket, folder, name):
        self.figures = collections.Counter(dict.fromkeys(('rounds', 'good', 'wrong', 'late', 'stuck', 'missed'), 0))
        self.hashes = [node.hash_of('pull engine', i) for i in range(COUNT)]
        self.random = random.Random(name)
        self.driver = test_pull.Driver(folder)
        self.client = test_pull.Lender(socket, self.driver)

    def connect(self):
        try:
            self.client.connect(CONNECT_SECONDS)
        except OSError as error:
            say(f'not connected: {error}')
            return False
        return True

    def transfer(self, verb, blocks):
        """A result for each block."""
        result, number = self.client.begin(verb, self.hashes, DEADLINE_SECONDS * 1000000, blocks=blocks)
        if result < 0:
            say(f'{verb}: {result}')
            return [result] * COUNT
        job = self.client.wait(number, DEADLINE_SECONDS + QUIET_SECONDS)
        if not job.quiesced:
            raise Stuck
        say(f'{verb}: {job.state} {job.results} in {job.done_seconds:.3f} s, quiet in {job.quiesced_seconds:.3f} s')
        self.figures['late'] += job.done_seconds > DEADLINE_SECONDS + LATE_SECONDS
        return job.results if job.state == library.DONE else [-1] * COUNT

    def is_wrong(self, block, wanted):
        if self.driver.get(block) == wanted:
            return 0
        say(f'block {block} is wrong')
        return 1

    def load(self, blocks):
        """How many came; those that did are right."""
        for block in blocks:
            self.driver.put(block, JUNK)
        results = self.transfer('load', blocks)
        for one, block, result in zip(self.hashes, blocks, results):
            if result == 0:
                self.figures['wrong'] += self.is_wrong(block, node.payload_of(one, test_pull.PAYLOAD))
        self.figures['missed'] += COUNT - results.count(0)
        return results.count(0)

    def round(self):
        """Whether every block went and came."""
        blocks = self.random.sample(range(test_pull.BLOCKS), 2 * COUNT)
        sources, targets = blocks[:COUNT], blocks[COUNT:]
        self.figures['rounds'] += 1
        self.load(targets)
        for one, block in zip(self.hashes, sources):
            self.driver.put(block, node.payload_of(one, test_pull.PAYLOAD))
        results = self.transfer('store', sources)
        stored = sum(result >= 0 for result in results)   # or was there already: 1
        loaded = self.load(targets)
        for one, block in zip(self.hashes, sources):   # nobody wrote into them
            self.figures['wrong'] += self.is_wrong(block, node.payload_of(one, test_pull.PAYLOAD))
        return stored == loaded == COUNT

    def run(self):
        end = time.monotonic() + ROUNDS_SECONDS
        try:
            while self.figures['good'] == 0 and time.monotonic() < end:
                if self.connect() and self.round():
                    self.figures['good'] += 1
        except Stuck:
            self.figures['stuck'] += 1
            return
        self.client.close()


def main():
    engine = Engine(*sys.argv[1:])
    engine.run()
    say(json.dumps(engine.figures))
    sys.stdin.read()


if __name__ == '__main__':
    main()
