#!/usr/bin/env python3
"""Prefill and decode at once: blocks go to the decoding engine while they are computed.

    examples/proxy_streaming.py --prefill 10.0.0.1:8000 --decode 10.0.0.2:8000 --peer 10.0.0.1:9470

Both engines are sent the request with the same X-Request-Id; the decoding one is told at which kvtierd the blocks
will be. What does not come in time it computes.
"""
from __future__ import annotations

import threading
from typing import Any

from proxy_parts import Engine, EngineGone, Proxy, one_token, serve


class Streaming(Proxy):
    def generate(self, body: dict[str, Any], headers: dict[str, str]) -> None:
        transfer = {'kvtier_peer': self.peer, 'kvtier_stream': True}
        first: Engine | None = None
        try:
            first = self.ask(self.prefill, one_token(body), headers)
        except EngineGone as error:
            print(f'prefill failed, the other engine computes: {error}', flush=True)
            transfer = {}
        try:
            second = self.ask(self.decode, {**body, 'kv_transfer_params': transfer}, headers)
            try:
                if first is not None:
                    threading.Thread(target=self._read, args=(first,), daemon=True).start()
                self.pass_answer(second)
            finally:
                second.close()
        finally:
            # With the client both engines are left.
            if first is not None:
                first.close()

    def _read(self, engine: Engine) -> None:
        """The prefilling engine's one token is of no use; that it answers is waited for by nobody."""
        try:
            engine.answer(self.connection).read()
        except Exception:
            return


if __name__ == '__main__':
    serve(Streaming, 'Prefill on one engine and decode on another at the same time.', needs_peer=True)
