"""Engines of one node share what is the same, and nothing else.

Two engines live at once; what one has computed the other loads. Another cache salt, another
adapter and another dtype get nothing; the same salt and the same adapter do.
"""
from __future__ import annotations

import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import engine    # noqa: E402
import prompts   # noqa: E402
import rig       # noqa: E402

TOKENS = 300
LORA = {'enable_lora': True, 'max_lora_rank': engine.ADAPTER_RANK, 'max_loras': 1}


class Sharing(rig.EngineTest):
    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.adapters = [engine.make_adapter(cls.python, os.path.join(cls.folder, f'adapter{i}'),
                                            cls.model, seed=i) for i in (1, 2)]
        cls.node.start()
        cls.one = cls.start_engine(**LORA)
        cls.other = cls.start_engine(**LORA)

    def setUp(self) -> None:
        seed = sum(self.id().encode())
        self.prompts = [prompts.fresh_tokens(TOKENS + i, seed=seed * 10 + i) for i in range(3)]
        size = engine.BLOCK_TOKENS
        self.whole = [(len(prompt) - 1) // size * size for prompt in self.prompts]
        self.none = [0] * len(self.prompts)

    def shared(self, first: dict, second: dict) -> tuple[engine.Run, engine.Run]:
        """One engine computes its requests, then the other its own."""
        computed = self.one.generate(self.requests(self.prompts, **first))
        self.assertEqual(computed.cached(), self.none)
        self.node.wait_quiet()
        return computed, self.other.generate(self.requests(self.prompts, **second))

    def test_what_one_computed_the_other_loads_and_the_other_way_round(self) -> None:
        computed, loaded = self.shared({}, {})
        self.assertEqual(loaded.tokens(), computed.tokens())
        self.assertEqual(loaded.cached(), self.whole)
        longer = [[*prompt, *prompts.fresh_tokens(100, seed=9)] for prompt in self.prompts]
        ahead = self.other.generate(self.requests(longer))
        self.node.wait_quiet()
        size = engine.BLOCK_TOKENS
        back = self.one.generate(self.requests(longer))
        self.assertEqual(back.tokens(), ahead.tokens())
        self.assertEqual(back.cached(), [(len(one) - 1) // size * size for one in longer])

    def test_the_same_salt_gets_hits(self) -> None:
        computed, loaded = self.shared({'salt': 'ours'}, {'salt': 'ours'})
        self.assertEqual(loaded.tokens(), computed.tokens())
        self.assertEqual(loaded.cached(), self.whole)

    def test_another_salt_or_none_gets_nothing(self) -> None:
        computed, loaded = self.shared({'salt': 'ours'}, {'salt': 'theirs'})
        self.assertEqual(loaded.tokens(), computed.tokens())
        self.assertEqual(loaded.cached(), self.none)
        without = self.other.generate(self.requests(self.prompts))
        self.assertEqual(without.cached(), self.none)

    def test_the_same_adapter_gets_hits_by_its_content(self) -> None:
        lora = ('adapter', 1, self.adapters[0])
        computed, loaded = self.shared({'lora': lora}, {'lora': lora})
        self.assertEqual(loaded.tokens(), computed.tokens())
        self.assertEqual(loaded.cached(), self.whole)

    def test_another_adapter_or_none_gets_nothing(self) -> None:
        computed, loaded = self.shared({'lora': ('adapter', 1, self.adapters[0])},
                                       {'lora': ('other', 2, self.adapters[1])})
        self.assertNotEqual(loaded.tokens(), computed.tokens())
        self.assertEqual(loaded.cached(), self.none)
        without = self.other.generate(self.requests(self.prompts))
        self.assertEqual(without.cached(), self.none)

    def test_another_dtype_gets_nothing(self) -> None:
        computed, loaded = self.shared({}, {})
        self.assertEqual(loaded.cached(), self.whole)
        with engine.Engine(self.python, self.model, self.node.socket(), dtype='bfloat16') as half:
            self.assertEqual(half.generate(self.requests(self.prompts)).cached(), self.none)
            self.node.wait_quiet()
            self.assertEqual(half.generate(self.requests(self.prompts)).cached(), self.whole)
        again = self.one.generate(self.requests(self.prompts))
        self.assertEqual(again.tokens(), computed.tokens())


if __name__ == '__main__':
    unittest.main()
