"""One vLLM engine in a process of its own, told what to do by lines of JSON; see engine.py.

Runs with an environment's Python. The first line says how to make the engine, each further one is
a command; every answer is one line. What vLLM prints goes to standard error.
"""
from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

STEPS_MAX = 200_000
ABORT_SECONDS_MAX = 30.0


class EngineProcess:
    """The engine, and what is counted while it runs."""

    def __init__(self, options: dict[str, Any], answers: Any):
        from vllm import LLM
        self._answers = answers
        self._engine = LLM(**options).llm_engine
        self._core = self._engine.engine_core.engine_core
        self._scheduler = self._core.scheduler
        self._totals: dict[str, float] = {}
        self._number = 0
        self._connector: tuple[Any, Any] | None = None
        self._watch_stats()

    def _watch_stats(self) -> None:
        """Sums what the connector reports in each step: vLLM shows it to its loggers only."""
        original = self._scheduler.make_stats

        def make_stats(speculation: Any = None, connector: Any = None, *more: Any,
                       **others: Any) -> Any:
            for name, value in (connector.data if connector is not None else {}).items():
                is_sum = name.endswith('_total')
                self._totals[name] = value + (self._totals.get(name, 0) if is_sum else 0)
            return original(speculation, connector, *more, **others)

        self._scheduler.make_stats = make_stats

    def answer(self, value: dict[str, Any]) -> None:
        self._answers.write(json.dumps(value) + '\n')
        self._answers.flush()

    # ---- commands ----

    def generate(self, requests: list[dict[str, Any]], together: bool, fresh: bool,
                 steps_max: int, tell: bool) -> dict[str, Any]:
        """together: all at once, else one after the other; fresh: the engine's own cache is emptied
        before each (before all). tell: a line for each request that ends."""
        results: list[dict[str, Any] | None] = [None] * len(requests)
        steps = 0
        groups = [range(len(requests))] if together else [[i] for i in range(len(requests))]
        for group in groups:
            if fresh:
                self.reset()
            steps += self._run(requests, group, results, steps_max, tell)
        return {'results': results, 'steps': steps}

    def _run(self, requests: list[dict[str, Any]], group: Any, results: list[Any], steps_max: int,
             tell: bool) -> int:
        began = {self._add(requests[i]): (i, time.monotonic()) for i in group}
        steps = 0
        while self._engine.has_unfinished_requests():
            if steps == steps_max:
                self._abort(began)
                raise RuntimeError(f'not done after {steps_max} steps')
            steps += 1
            for output in self._engine.step():
                if not output.finished:
                    continue
                index, since = began[output.request_id.split(':')[0]]
                own = output.outputs[0]
                results[index] = {
                    'tokens': list(own.token_ids), 'cached': output.num_cached_tokens,
                    'reason': own.finish_reason, 'seconds': time.monotonic() - since,
                    'transfer': getattr(output, 'kv_transfer_params', None)}
                if tell:
                    self.answer({'ended': index})
        return steps

    def _abort(self, began: dict[str, Any]) -> None:
        self._engine.abort_request(list(began))

    def _add(self, request: dict[str, Any]) -> str:
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest
        self._number += 1
        name = f'r{self._number}'
        prompt = {'prompt_token_ids': request['tokens']}
        if request.get('salt'):
            prompt['cache_salt'] = request['salt']
        transfer = dict(request.get('transfer') or {})
        if request.get('controls'):
            transfer['kvtier'] = request['controls']
        params = SamplingParams(
            temperature=0, max_tokens=request['max_tokens'], ignore_eos=True, detokenize=False,
            extra_args={'kv_transfer_params': transfer} if transfer else None)
        lora = request.get('lora')
        self._engine.add_request(name, prompt, params,
                                 lora_request=LoRARequest(*lora) if lora else None)
        return name

    def abort(self, requests: list[dict[str, Any]], steps: int) -> dict[str, Any]:
        """Begins requests, and ends those that are not over after some steps."""
        self.reset()
        pool = self._scheduler.kv_cache_manager.block_pool
        free_blocks = pool.get_num_free_blocks()
        names = [self._add(request) for request in requests]
        for _ in range(steps):
            if self._engine.has_unfinished_requests():
                self._engine.step()
        began = time.monotonic()
        self._engine.abort_request(names)
        # Blocks that are being loaded into come back when that has ended; an engine goes on by itself.
        while pool.get_num_free_blocks() < free_blocks and time.monotonic() - began < ABORT_SECONDS_MAX:
            self._core.step_fn()
        return {'seconds': time.monotonic() - began,
                'blocks_missing': free_blocks - pool.get_num_free_blocks()}

    def reset(self) -> dict[str, Any]:
        """Empties the engine's own prefix cache, so that what is warm comes from kvtier."""
        if not self._engine.reset_prefix_cache():
            raise RuntimeError('the prefix cache could not be reset: blocks are in use')
        return {}

    def reset_all(self) -> dict[str, Any]:
        """The connector's too: as if the weights had been changed in place."""
        return {'done': bool(self._engine.reset_prefix_cache(False, True))}

    def connector(self, is_on: bool) -> dict[str, Any]:
        """Takes the connector out of a running engine, or puts it back: with and without it in one
        process, as two processes differ by more than what a connector costs."""
        from vllm.distributed.kv_transfer import kv_transfer_state
        if self._connector is None:
            self._connector = (self._scheduler.connector, kv_transfer_state._KV_CONNECTOR_AGENT)
        own = self._connector if is_on else (None, None)
        self._scheduler.connector, kv_transfer_state._KV_CONNECTOR_AGENT = own
        return {}

    def load_mode(self, mode: str) -> dict[str, Any]:
        """The setting, which only the scheduler's side reads: a start takes half a minute."""
        self._scheduler.connector._scheduler._settings.load_mode = mode
        return {}

    def stats(self) -> dict[str, Any]:
        pool = self._scheduler.kv_cache_manager.block_pool
        return {'connector': dict(self._totals), 'free_blocks': pool.get_num_free_blocks(),
                'metrics': self._metrics()}

    def _metrics(self) -> dict[str, float]:
        """What stands on /metrics and is ours or about us."""
        from prometheus_client import REGISTRY
        wanted = ('kvtier_', 'vllm:num_preemptions', 'vllm:external_prefix_cache')
        return {sample.name: sample.value for family in REGISTRY.collect()
                for sample in family.samples if sample.name.startswith(wanted)}

    def about(self) -> dict[str, Any]:
        groups = self._scheduler.kv_cache_config.kv_cache_groups
        return {'block_sizes': [group.kv_cache_spec.block_size for group in groups],
                'blocks': self._scheduler.kv_cache_config.num_blocks}

    def close(self) -> None:
        self._engine.engine_core.shutdown()


COMMANDS = ('generate', 'abort', 'reset', 'reset_all', 'connector', 'load_mode', 'stats', 'about')


def main() -> int:
    answers = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    os.dup2(2, 1)   # vLLM prints too
    engine = EngineProcess(json.loads(sys.stdin.readline()), answers)
    engine.answer(engine.about())
    for line in sys.stdin:
        command = json.loads(line)
        name = command.pop('command')
        if name == 'quit':
            break
        try:
            if name not in COMMANDS:
                raise ValueError(f'{name}: known are {", ".join(COMMANDS)}')
            answer = getattr(engine, name)(**command)
        except Exception as error:   # the test says what it means
            import traceback
            traceback.print_exc()
            answer = {'error': f'{type(error).__name__}: {error}'}
        engine.answer(answer)
    engine.close()
    engine.answer({})
    return 0


if __name__ == '__main__':
    sys.exit(main())
