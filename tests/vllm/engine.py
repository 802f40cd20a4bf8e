"""A real vLLM engine on the CPU for tests, in a process of its own, with kvtier's connector in it.

Every wait has a bound; a process that does not answer is killed and its log is shown. Greedy,
float32, eager: the same tokens must come out whatever was loaded.
"""
from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), 'system')]
import environment   # noqa: E402
import node          # noqa: E402

START_SECONDS_MAX = 300.0
ANSWER_SECONDS_MAX = 300.0
QUIT_SECONDS_MAX = 30.0
STEPS_MAX = 60_000
LOG_SHOWN = 6000
BLOCK_TOKENS = 32
MODEL_TOKENS = 1536
ADAPTER_RANK = 8
# Quiet, offline, and the whole engine in one process, which starts ten times as fast.
VARIABLES = {
    'HF_HUB_OFFLINE': '1', 'VLLM_NO_USAGE_STATS': '1', 'VLLM_CPU_KVCACHE_SPACE': '1',
    'VLLM_ENABLE_V1_MULTIPROCESSING': '0', 'TOKENIZERS_PARALLELISM': 'false',
    'PYTHONHASHSEED': '0', 'OMP_NUM_THREADS': '1', 'VLLM_CPU_OMP_THREADS_BIND': 'nobind',
    'VLLM_LOGGING_LEVEL': os.environ.get('KVTIER_TEST_LOG', 'INFO'),
}
OPTIONS = {
    'dtype': 'float32', 'enforce_eager': True, 'skip_tokenizer_init': True, 'max_num_seqs': 8,
    'max_model_len': MODEL_TOKENS, 'max_num_batched_tokens': 512, 'block_size': BLOCK_TOKENS,
    'num_gpu_blocks_override': 1024, 'disable_log_stats': False, 'seed': 0,
}
# What is there is loaded, so that hits can be told to the block.
SETTINGS = {'load_or_recompute': 'always', 'lookup_ms': 1000.0, 'sync_load_ms': 5000.0,
            'on_refusal': 'fail'}


class EngineError(AssertionError):
    """The engine's process failed, died or did not answer; the text has the end of its log."""


@dataclass
class Request:
    """One prompt as token ids."""
    tokens: Sequence[int]
    max_tokens: int = 16
    salt: str | None = None
    lora: tuple[str, int, str] | None = None     # name, number, folder
    controls: dict[str, Any] | None = None       # kv_transfer_params['kvtier']
    transfer: dict[str, Any] | None = None       # the rest of kv_transfer_params


@dataclass
class Result:
    tokens: list[int]
    cached: int          # prompt tokens that were not computed
    reason: str
    seconds: float
    transfer: dict[str, Any] | None = None       # the kv_transfer_params of its answer


@dataclass
class Run:
    """What a generate() gave."""
    results: list[Result]
    steps: int
    stats: dict[str, float] = field(default_factory=dict)   # the connector's, of this run alone

    def tokens(self) -> list[list[int]]:
        return [result.tokens for result in self.results]

    def cached(self) -> list[int]:
        return [result.cached for result in self.results]

    def counted(self, name: str) -> float:
        return self.stats.get(name, 0)


def model_script(python: str, *arguments: str) -> None:
    command = [python, os.path.join(HERE, 'model.py'), *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=ANSWER_SECONDS_MAX)


def make_model(python: str, folder: str, kind: str = 'small') -> str:
    model_script(python, folder, '--kind', kind)
    return folder


def make_adapter(python: str, folder: str, model: str, seed: int) -> str:
    model_script(python, folder, '--adapter', model, '--seed', str(seed))
    return folder


class Engine:
    """One engine; started by the constructor, which returns when it can be asked. A context."""

    def __init__(self, python: str, model: str, socket: str | None, *,
                 settings: dict[str, Any] | None = None,
                 variables: dict[str, str] | None = None, **options: Any):
        """socket: kvtierd's; None: no connector. settings: kv_connector_extra_config. options:
        vLLM's, None takes one of OPTIONS away."""
        self.folder = tempfile.mkdtemp(prefix='kvtier-engine-')
        self.log_path = os.path.join(self.folder, 'log')
        self._input = b''
        own = dict(OPTIONS, model=model, **options)
        if socket is not None:
            own['kv_transfer_config'] = {
                'kv_connector': 'KvtierConnector', 'kv_role': 'kv_both',
                'kv_connector_module_path': 'kvtier.vllm.connector',
                'kv_load_failure_policy': 'recompute',
                'kv_connector_extra_config': dict(SETTINGS, socket=socket, **(settings or {}))}
        own = {name: value for name, value in own.items() if value is not None}
        with open(self.log_path, 'wb') as log:
            self.process: subprocess.Popen | None = subprocess.Popen(
                [python, os.path.join(HERE, 'engine_process.py')], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=log, cwd=self.folder, start_new_session=True,
                env=self._environment(variables or {}))
        node.running.add(self.process)
        self._send(own)
        self.about = self._receive(START_SECONDS_MAX)
        self.block_tokens = self.about['block_sizes'][0]

    def _environment(self, variables: dict[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items()
                if not name.startswith(('KVTIER_', 'VLLM_'))}
        path = [os.path.join(node.TOP, 'plugin'), kept.get('PYTHONPATH', '')]
        return {**kept, **VARIABLES, 'HOME': self.folder,
                'PYTHONPATH': os.pathsep.join(part for part in path if part),
                'KVTIER_LIBRARY': os.path.join(node.BUILD, 'libkvtier.so'), **variables}

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: Any, *unused: Any) -> None:
        if kind is None and self.process is not None:
            self.quit()
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- commands ----

    def generate(self, requests: Sequence[Request], *, together: bool = False, fresh: bool = True,
                 steps_max: int = STEPS_MAX,
                 on_end: Callable[[int], None] | None = None) -> Run:
        """fresh: with nothing in the engine's own prefix cache. on_end: called while the engine
        runs on, with the number of requests that have ended."""
        before = self.stats()['connector']
        self._send({'command': 'generate', 'requests': [vars(one) for one in requests],
                    'together': together, 'fresh': fresh, 'steps_max': steps_max,
                    'tell': on_end is not None})
        ended = 0
        answer = self._receive()
        while 'ended' in answer:
            ended += 1
            assert on_end is not None
            on_end(ended)
            answer = self._receive()
        after = self.stats()['connector']
        counted = {name: value - before.get(name, 0) if name.endswith('_total') else value
                   for name, value in after.items()}
        return Run([Result(**one) for one in answer['results']], answer['steps'], counted)

    def abort(self, requests: Sequence[Request], steps: int) -> tuple[float, int]:
        """Begins them all, goes on for some steps, and ends those that have not ended. (seconds until
        the engine had all its blocks back, how many it did not get back)"""
        answer = self.ask('abort', requests=[vars(one) for one in requests], steps=steps)
        return answer['seconds'], answer['blocks_missing']

    def begin(self, requests: Sequence[Request], **options: Any) -> None:
        """Starts a generate() whose answer nobody waits for: for an engine to be killed."""
        self._send({'command': 'generate', 'requests': [vars(one) for one in requests],
                    'together': True, 'fresh': True, 'steps_max': STEPS_MAX, 'tell': True})

    def wait_ended(self) -> int:
        """Until the next request has ended; its index."""
        return self._receive()['ended']

    def reset(self) -> None:
        self.ask('reset')

    def reset_all(self) -> bool:
        return self.ask('reset_all')['done']

    def connector(self, is_on: bool) -> None:
        """With or without the connector from now on; nothing may be running."""
        self.ask('connector', is_on=is_on)

    def load_mode(self, mode: str) -> None:
        """From now on: auto, sync or async."""
        self.ask('load_mode', mode=mode)

    def stats(self) -> dict[str, Any]:
        return self.ask('stats')

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        self._send({'command': command, **arguments})
        return self._receive()

    # ---- life ----

    def quit(self) -> None:
        """As an operator ends it: it must end by itself, without a complaint."""
        self.ask('quit')
        assert self.process is not None
        try:
            status = self.process.wait(QUIT_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise self._failure(f'not gone {QUIT_SECONDS_MAX} s after it was told') from None
        self._gone()
        if status != 0:
            raise EngineError(f'the engine ended with {status}\n{self.log()}')

    def kill(self) -> None:
        """kill -9, and seen dead."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._gone()

    def _gone(self) -> None:
        assert self.process is not None
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        node.running.discard(self.process)
        self.process = None

    def log(self) -> str:
        with open(self.log_path, encoding='utf-8', errors='replace') as file:
            return file.read()

    # ---- lines ----

    def _send(self, value: dict[str, Any]) -> None:
        if self.process is None:
            raise EngineError('engine: it has failed before')
        try:
            self.process.stdin.write(json.dumps(value).encode() + b'\n')
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._failure('it is gone') from None

    def _receive(self, seconds: float = ANSWER_SECONDS_MAX) -> dict[str, Any]:
        assert self.process is not None
        end = time.monotonic() + seconds
        pipe = self.process.stdout.fileno()
        while b'\n' not in self._input:
            left = end - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                raise self._failure(f'no answer within {seconds} s')
            part = os.read(pipe, 1 << 16)
            if not part:
                raise self._failure('it ended by itself')
            self._input += part
        line, _, self._input = self._input.partition(b'\n')
        answer = json.loads(line)
        if 'error' in answer:
            raise self._failure(answer['error'])
        return answer

    def _failure(self, why: str) -> EngineError:
        """Kills it too: what it would say later belongs to nothing."""
        self.kill()
        return EngineError(f'engine: {why}\n{self.log()[-LOG_SHOWN:]}')
