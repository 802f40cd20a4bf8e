"""What the tests with a real engine share: model, daemon, engine, and what each answer must be."""
from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import unittest
from collections.abc import Sequence
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), 'system')]
import engine        # noqa: E402
import environment   # noqa: E402
import node          # noqa: E402
import prompts       # noqa: E402

MAX_TOKENS = 6
RESUME_SECONDS = 60.0
STORED_SECONDS = 60.0
HEALED_SECONDS = 90.0   # a failed load is remembered for 60
PROBE_SEED = 5000
MAGIC, HEADER_BYTES = b'KVTSLOT1', 4096
NOT_LOADED = {'max_load_tokens': 0}
NEITHER = {'max_load_tokens': 0, 'store': False}


def slots_of(path: str) -> list[int]:
    """Offsets of what looks like a slot's header."""
    found = []
    with open(path, 'rb') as file:
        content = file.read()
    at = content.find(MAGIC)
    while at >= 0:
        if at % HEADER_BYTES == 0:
            found.append(at)
        at = content.find(MAGIC, at + 1)
    return found


def flip_payloads(path: str, seed: int, each: int = 1) -> int:
    """A bit of the payload of each `each`th slot; how many were flipped."""
    chance = random.Random(seed)
    places = slots_of(path)[::each]
    with open(path, 'r+b') as file:
        for place in places:
            at = place + HEADER_BYTES + chance.randrange(4096)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << chance.randrange(8)]))
    return len(places)


class EngineTest(unittest.TestCase):
    """Makes the environment (or skips, with the reason), a model, and a daemon that runs."""

    version = environment.DEFAULT
    cpu_mib, nvme_mib = 256, 512
    probes = 0
    kind = 'small'
    python: str
    folder: str
    model: str
    node: node.Node

    @classmethod
    def setUpClass(cls) -> None:
        cls.python = environment.python(cls.version)   # or Unavailable, a SkipTest
        cls.folder = tempfile.mkdtemp(prefix='kvtier-vllm-')
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.model = engine.make_model(cls.python, os.path.join(cls.folder, 'model'), cls.kind)
        cls.node = node.Node(cls.cpu_mib, cls.nvme_mib)
        cls.addClassCleanup(cls.node.__exit__)

    @classmethod
    def start_engine(cls, **options: Any) -> engine.Engine:
        """Killed at the end of the class, if it runs then."""
        made = engine.Engine(cls.python, cls.model, cls.node.socket(), **options)
        cls.addClassCleanup(made.__exit__, None)
        return made

    @classmethod
    def record(cls, own: engine.Engine, count: int = prompts.COUNT, *,
               together: bool = False) -> prompts.Transcript:
        """The right answers of the first `count` prompts: computed with no block loaded."""
        transcript = prompts.Transcript(own.block_tokens, MAX_TOKENS)
        plans = prompts.plans(own.block_tokens, engine.MODEL_TOKENS, MAX_TOKENS)[:count]
        if together:
            plans = [plan for plan in plans if plan.parent is None or plan.taken is not None]
        made: list[list[int]] = []
        for plan in plans:
            prompt = prompts.prompt_of(plan, made if together else transcript.prompts,
                                       transcript.answers)
            made.append(prompt)
            if not together:
                run = own.generate(cls.requests([prompt], controls=NOT_LOADED))
                transcript.add(prompt, run.results[0].tokens)
        if together:
            run = own.generate(cls.requests(made, controls=NOT_LOADED), together=True)
            for prompt, answer in zip(made, run.tokens()):
                transcript.add(prompt, answer)
        return transcript

    @staticmethod
    def requests(given: Sequence[Sequence[int]], max_tokens: int = MAX_TOKENS,
                 **options: Any) -> list[engine.Request]:
        return [engine.Request(tokens, max_tokens, **options) for tokens in given]

    @classmethod
    def wait_stored(cls, transcript: prompts.Transcript) -> None:
        """Until all its blocks are in the cache, on nvme too."""
        def stored() -> bool:
            stats = cls.node.stats()
            tiers = stats['tenants'][0]['tiers']
            return stats['moves'] == 0 and stats['pending_down'] == 0 and \
                tiers['nvme']['blocks'] >= len(transcript.known)
        node.until(stored, STORED_SECONDS, f'{len(transcript.known)} blocks are on nvme')

    def replay(self, own: engine.Engine, transcript: prompts.Transcript,
               hits: list[int] | None = None, **options: Any) -> engine.Run:
        """The transcript again: the same answers, and exactly these hits (None: any)."""
        run = own.generate(self.requests(transcript.prompts), **options)
        self.assert_answers(run, transcript)
        if hits is not None:
            self.assertEqual(run.cached(), hits, self.state(own))
        return run

    def replay_healed(self, own: engine.Engine, transcript: prompts.Transcript) -> None:
        """After blocks were damaged: exactly the transcript's hits, within the time for which a
        block whose load failed is not promised. A run that has fewer says why."""
        def is_healed() -> bool:
            run = self.replay(own, transcript)
            self.assertEqual(run.counted('load_failed_blocks_total'), 0)
            if run.cached() == transcript.hits():
                return True
            print(f'not healed yet: {run.cached()} instead of {transcript.hits()}; '
                  f'{self.state(own)}', file=sys.stderr)
            return False
        node.until(is_healed, HEALED_SECONDS, 'every block that was damaged is a hit again')

    def state(self, own: engine.Engine) -> str:
        """What connector and daemon have counted, and the end of the daemon's log."""
        counted = {name: count for name, count in own.stats()['connector'].items() if count}
        return f'\n{counted}\n{self.node.stats()}\n{self.node.log()[-4000:]}'

    def assert_answers(self, run: engine.Run, transcript: prompts.Transcript) -> None:
        for i, (got, right) in enumerate(zip(run.tokens(), transcript.answers, strict=True)):
            self.assertEqual(got, right, f'prompt {i}, {len(transcript.prompts[i])} tokens, '
                                         f'{run.results[i].cached} of them from a cache')
        self.assertEqual({result.reason for result in run.results}, {'length'})

    def wait_attached(self, own: engine.Engine) -> None:
        """Until blocks are stored and loaded: the engine finds the daemon by itself."""
        type(self).probes += 1
        probe = prompts.fresh_tokens(2 * own.block_tokens, seed=PROBE_SEED + self.probes)
        node.until(lambda: own.generate(self.requests([probe])).cached()[0] > 0, RESUME_SECONDS,
                   'the engine has attached')

    def damage(self, own: engine.Engine, transcript: prompts.Transcript, seed: int,
               each: int = 1) -> None:
        """Each `each`th block on nvme, while the daemon is down; then the engine finds it again."""
        self.node.wait_quiet()
        self.node.stop()
        self.assertGreaterEqual(flip_payloads(self.node.nvme, seed, each),
                                len(transcript.known) // each)
        self.node.start()
        self.node.wait_restored()
        self.wait_attached(own)
