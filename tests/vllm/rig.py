"""What the tests with a real engine share: model, daemon, engine, and what each answer must be."""
from __future__ import annotations

import os
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
PROBE_SEED = 5000
NOT_LOADED = {'max_load_tokens': 0}
NEITHER = {'max_load_tokens': 0, 'store': False}


class EngineTest(unittest.TestCase):
    """Makes the environment (or skips, with the reason), a model, and a daemon that runs."""

    version = environment.DEFAULT
    cpu_mib, nvme_mib = 256, 512
    probes = 0
    python: str
    folder: str
    model: str
    node: node.Node

    @classmethod
    def setUpClass(cls) -> None:
        cls.python = environment.python(cls.version)   # or Unavailable, a SkipTest
        cls.folder = tempfile.mkdtemp(prefix='kvtier-vllm-')
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.model = engine.make_model(cls.python, os.path.join(cls.folder, 'model'))
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
            self.assertEqual(run.cached(), hits)
        return run

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
