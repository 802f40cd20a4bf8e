#!/usr/bin/env python3
"""demo_vllm.py: a real vLLM engine is asked the same thing twice, with a restart in between.

Makes a tiny model with random weights, starts kvtierd, asks an engine three questions that begin
with one long text, ends that engine, and asks another one the same. What is printed is what each
engine computed and what came from kvtier; the answers must be the same. Needs what make vllm-env
makes and $KVTIER_BUILD with the programs; leaves nothing behind.
"""
from __future__ import annotations

import os
import random
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(TOP, 'tests', 'vllm'), os.path.join(TOP, 'tests', 'system')]
os.environ.setdefault('KVTIER_BUILD', os.path.join(TOP, 'build'))

import environment                               # noqa: E402
import node                                      # noqa: E402
from engine import Engine, Request, Run, make_model   # noqa: E402

TEXT_TOKENS, QUESTION_TOKENS, ANSWER_TOKENS, QUESTIONS = 1024, 48, 24, 3


def questions() -> list[Request]:
    """One long text, and a question of its own behind it in each."""
    source = random.Random('kvtier demo')
    text = [source.randrange(10, 4000) for _ in range(TEXT_TOKENS)]
    return [Request(text + [source.randrange(10, 4000) for _ in range(QUESTION_TOKENS)],
                    max_tokens=ANSWER_TOKENS) for _ in range(QUESTIONS)]


def ask(python: str, model: str, daemon: node.Node) -> Run:
    with Engine(python, model, daemon.socket()) as engine:
        return engine.generate(questions(), fresh=False)


def show(title: str, run: Run) -> None:
    print(f'\n{title}')
    prompt = TEXT_TOKENS + QUESTION_TOKENS
    for number, result in enumerate(run.results, 1):
        print(f'  question {number}: {prompt} tokens, {prompt - result.cached} computed, '
              f'{result.cached} from a cache, {result.seconds * 1e3:.0f} ms; '
              f'answer {" ".join(str(token) for token in result.tokens[:6])} ...')
    print(f'  from kvtier: {run.counted("loaded_blocks_total"):.0f} blocks, '
          f'{run.counted("loaded_bytes_total") / 1e6:.1f} MB, each proven by its checksum; '
          f'stored: {run.counted("stored_blocks_total"):.0f} blocks')


def main() -> int:
    try:
        python = environment.python()
    except environment.Unavailable as reason:
        print(f'demo-vllm: cannot be had here: {reason}', file=sys.stderr)
        return environment.CANNOT_BE_HAD
    with tempfile.TemporaryDirectory(prefix='kvtier-demo-') as folder, \
            node.Node(cpu_mib=64, nvme_mib=256) as daemon:
        print('demo: making a model with random weights (4 layers), starting kvtierd ...')
        model = make_model(python, os.path.join(folder, 'model'))
        daemon.start()
        print('demo: the first engine starts (half a minute) ...', flush=True)
        first = ask(python, model, daemon)
        show('The first engine, with an empty kvtier:', first)
        print('\ndemo: that engine is gone; another one starts ...', flush=True)
        second = ask(python, model, daemon)
        show('The second engine, which has never seen the text:', second)
        if first.tokens() != second.tokens():
            print('\ndemo: FAILED: the answers differ', file=sys.stderr)
            return 1
        if second.counted('loaded_blocks_total') == 0:
            print('\ndemo: FAILED: nothing came from kvtier', file=sys.stderr)
            return 1
    print('\ndemo: the answers are the same, token for token.')
    return 0


if __name__ == '__main__':
    sys.exit(main())
