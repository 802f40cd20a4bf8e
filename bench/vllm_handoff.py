"""What it costs to prefill on one node and decode on another, part of bench/vllm.py: two real engines, a kvtierd each.

Each round has a prompt of its own. Alone: one engine's first token. Sequential: the same, then the other engine's first token with
the first one's ticket. Streaming: both asked at once, until the other engine's first token. What streaming hides of the hand-over is the overlap.
"""
from __future__ import annotations

import os
import socket
import threading
import time
from typing import Any

import node
from engine import Engine, Request

ASK = {'do_remote_decode': True, 'do_remote_prefill': False}
# In chunks: what a step has computed can go. In float32: bfloat16 rounds a token's logits by what it is computed together with.
HANDOFF_OPTIONS = {'max_num_batched_tokens': 512, 'dtype': 'float32'}


def port_find() -> int:
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return found.getsockname()[1]


class Handoff:
    def __init__(self, python: str, model: str, folder: str, cpu_mib: int, options: dict[str, Any]):
        secret = os.path.join(folder, 'secret')
        with open(secret, 'w', opener=lambda name, flags: os.open(name, flags, 0o600), encoding='ascii') as file:
            file.write('77' * 32 + '\n')
        self.address = f'127.0.0.1:{port_find()}'
        listens = (self.address, f'127.0.0.1:{port_find()}')
        peers = ('[]', f'[{{address: "{self.address}"}}]')
        self.nodes = [node.Node(cpu_mib, 0, peer_listen=listen, peer_secret_file=secret, peers=peer, extent_bytes='16MiB',
                                window_bytes='64MiB') for listen, peer in zip(listens, peers)]
        self.engines: list[Engine] = []
        for own in self.nodes:
            own.start()
            self.engines.append(Engine(python, model, own.socket(), **{**options, **HANDOFF_OPTIONS}))

    def close(self) -> None:
        for engine in self.engines:
            engine.kill()
        for own in self.nodes:
            own.__exit__()

    def first(self, tokens: list[int]) -> Any:
        return self.engines[0].generate([Request(tokens, 1, transfer=ASK)]).results[0]

    def second(self, tokens: list[int], transfer: Any) -> Any:
        run = self.engines[1].generate([Request(tokens, 1, transfer=transfer)])
        return run.results[0], run.counted('peer_tokens_total')

    def round(self, sequential: list[int], streaming: list[int], whole: int) -> dict[str, float]:
        first = self.first(sequential)
        second, came = self.second(sequential, first.transfer)
        if came != whole or second.tokens != first.tokens:
            raise SystemExit(f'sequential: {came} of {whole} tokens came, {second.tokens} instead of {first.tokens}')
        leg: list[Any] = []
        thread = threading.Thread(target=lambda: leg.append(self.first(streaming)))
        began = time.perf_counter()
        thread.start()
        other, came = self.second(streaming, {'kvtier_peer': self.address, 'kvtier_stream': True})
        seconds = time.perf_counter() - began
        thread.join()
        if came != whole or other.tokens != leg[0].tokens:
            raise SystemExit(f'streaming: {came} of {whole} tokens came, {other.tokens} instead of {leg[0].tokens}')
        return {'alone': first.seconds, 'sequential': first.seconds + second.seconds, 'handed_over': second.seconds,
                'alone_beside': leg[0].seconds, 'streaming': min(seconds, other.seconds)}
