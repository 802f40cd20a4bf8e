#!/usr/bin/env python3
"""Prefill on one engine, then decode on another, as vLLM's NIXL flow has it: nothing here knows kvtier.

    examples/proxy_sequential.py --prefill 10.0.0.1:8000 --decode 10.0.0.2:8000

The prefilling engine answers with kv_transfer_params, which the decoding one is sent. Where the first fails, the
second computes all of it.
"""
from __future__ import annotations

import json
from typing import Any

from proxy_parts import EngineGone, Proxy, one_token, serve


class Sequential(Proxy):
    def generate(self, body: dict[str, Any], headers: dict[str, str]) -> None:
        body = {name: value for name, value in body.items() if name != 'kv_transfer_params'}
        handed = self._prefill(body, headers)
        if handed is not None:
            body['kv_transfer_params'] = handed
        self.pass_on(self.decode, body, headers)

    def _prefill(self, body: dict[str, Any], headers: dict[str, str]) -> Any:
        """What the prefilling engine says about its blocks; None: nothing."""
        engine = None
        try:
            engine = self.ask(self.prefill, one_token(body), headers)
            answer = engine.answer(self.connection)
            content = json.loads(answer.read())
            return content.get('kv_transfer_params') if answer.status == 200 else None
        except (EngineGone, OSError, ValueError, AttributeError) as error:
            print(f'prefill failed, the other engine computes: {error}', flush=True)
            return None
        finally:
            if engine is not None:
                engine.close()


if __name__ == '__main__':
    serve(Sequential, 'Prefill on one engine, then decode on another.', needs_peer=False)
