"""Fifty prompts as token ids, and which tokens of each a cache of whole blocks must have.

Shared beginnings, branches inside a block, conversations of several turns, the same prompt again,
and every length that a boundary makes special, from less than a block to the model's limit.
"""
from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

TOKEN_FIRST, TOKEN_END = 8, 4000     # no special ones
COUNT = 50
CONVERSATIONS, TURNS = 4, 4


@dataclass
class Plan:
    """A prompt: the beginning of an earlier sequence (or none), and fresh tokens behind it."""
    extra: int
    parent: int | None = None
    taken: int | None = None       # of the parent's prompt; None: all of it, and its answer
    seed: int = 0


class Known:
    """The whole blocks of sequences, as a prefix cache knows them."""

    def __init__(self, block_tokens: int):
        self.block_tokens = block_tokens
        self._names: set[int] = set()

    def _chain(self, tokens: Sequence[int]) -> list[int]:
        names, parent = [], 0
        for at in range(0, len(tokens) - self.block_tokens + 1, self.block_tokens):
            parent = hash((parent, tuple(tokens[at:at + self.block_tokens])))
            names.append(parent)
        return names

    def add(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """The last token of an answer is never computed on, so it is in no block."""
        self._names.update(self._chain([*prompt, *answer[:-1]]))

    def hit(self, prompt: Sequence[int]) -> int:
        """Tokens that need not be computed: whole blocks, but at least one token is."""
        blocks = 0
        for name in self._chain(prompt[:-1]):
            if name not in self._names:
                break
            blocks += 1
        return blocks * self.block_tokens

    def __len__(self) -> int:
        return len(self._names)


def fresh_tokens(count: int, seed: int) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(TOKEN_FIRST, TOKEN_END) for _ in range(count)]


def plans(block_tokens: int, model_tokens: int, max_tokens: int) -> list[Plan]:
    """COUNT of them; a parent comes before its children."""
    size, longest = block_tokens, model_tokens - max_tokens
    lengths = (size - 1, size, size + 1, 2 * size - 1, 2 * size, 2 * size + 1, 5 * size,
               longest // 2 - longest // 2 % size, longest - 1, longest)
    made = [Plan(length) for length in lengths]
    system = len(made)
    made.append(Plan(6 * size + size // 2))
    made += [Plan(extra, system, 6 * size) for extra in (1, size // 2, size, 3 * size + 5, 7)]
    made += [Plan(2 * size, system, 3 * size + size // 2), Plan(size, system, size - 1),
             Plan(0, system, 6 * size + size // 2), Plan(0, system, 6 * size)]
    for _ in range(CONVERSATIONS):
        made.append(Plan(3 * size + 3, system, 2 * size))
        for _ in range(TURNS - 1):
            made.append(Plan(size + 11, len(made) - 1))
    made += [Plan(0, 9, longest), Plan(size, 7, 4 * size)]
    chance = random.Random(5)
    while len(made) < COUNT:
        made.append(Plan(chance.randrange(size, 12 * size)))
    for seed, plan in enumerate(made):
        plan.seed = seed + 1
    return made[:COUNT]


def prompt_of(plan: Plan, prompts: Sequence[Sequence[int]],
              answers: Sequence[Sequence[int]]) -> list[int]:
    """prompts, answers: of the plans before this one."""
    begin: list[int] = []
    if plan.parent is not None:
        begin = [*prompts[plan.parent], *answers[plan.parent]] if plan.taken is None \
            else list(prompts[plan.parent][:plan.taken])
    return begin + fresh_tokens(plan.extra, plan.seed)


class Transcript:
    """Prompts, their right answers, and what a cache that has seen them all knows."""

    def __init__(self, block_tokens: int, max_tokens: int):
        self.max_tokens = max_tokens
        self.prompts: list[list[int]] = []
        self.answers: list[list[int]] = []
        self.known = Known(block_tokens)

    def add(self, prompt: list[int], answer: list[int]) -> None:
        self.prompts.append(prompt)
        self.answers.append(answer)
        self.known.add(prompt, answer)

    def hits(self) -> list[int]:
        """Of each prompt, once all were seen."""
        return [self.known.hit(prompt) for prompt in self.prompts]

    def first(self, count: int) -> Transcript:
        """Its beginning, as if nothing else had been seen."""
        part = Transcript(self.known.block_tokens, self.max_tokens)
        for prompt, answer in zip(self.prompts[:count], self.answers):
            part.add(prompt, answer)
        return part
