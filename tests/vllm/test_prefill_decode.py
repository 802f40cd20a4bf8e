"""One engine prefills, another decodes, each with a kvtierd of its own: the same answers as of one engine.

What is handed over comes by a ticket that went through JSON, as a proxy passes it on, or while the prefill still runs.
Whatever ends in between, nothing is held two seconds later, and the answer is the same.
"""
from __future__ import annotations

import http.client
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import unittest
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), 'system')]
import engine    # noqa: E402
import node      # noqa: E402
import prompts   # noqa: E402
import rig       # noqa: E402

TOKENS = 1300
HANDOFF_MS = 4000.0
GONE_SECONDS = 2.0
PROXY_SECONDS_MAX = 60.0
UP_SECONDS = 20.0
ASK = {'do_remote_decode': True, 'do_remote_prefill': False, 'remote_engine_id': None, 'remote_block_ids': None,
       'remote_host': None, 'remote_port': None}


def port_find() -> int:
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return found.getsockname()[1]


class Served(http.server.ThreadingHTTPServer):
    """An engine behind as much of the OpenAI API as a proxy asks for; prompts and answers are token ids."""

    def __init__(self, own: engine.Engine):
        super().__init__(('127.0.0.1', 0), Answers)
        self.own, self.runs = own, []
        self.address = f'127.0.0.1:{self.server_address[1]}'
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        assert isinstance(self.server, Served)
        run = self.server.own.generate([engine.Request(body['prompt'], body['max_tokens'],
                                                       transfer=body.get('kv_transfer_params'))])
        self.server.runs.append(run)
        text = json.dumps({'choices': [{'token_ids': run.results[0].tokens}],
                           'kv_transfer_params': run.results[0].transfer}).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *unused: Any) -> None:
        return


class PrefillDecode(rig.EngineTest):
    prefill: engine.Engine
    decode: engine.Engine

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        ports = [port_find(), port_find()]
        cls.addresses = [f'127.0.0.1:{port}' for port in ports]
        secret = os.path.join(cls.folder, 'secret')
        with open(secret, 'w', opener=lambda name, flags: os.open(name, flags, 0o600), encoding='ascii') as file:
            file.write('5a' * 32 + '\n')
        cls.nodes = []
        for i, address in enumerate(cls.addresses):
            # The second knows the first; the first learns of nobody but by tickets.
            peers = f'[{{address: "{cls.addresses[0]}"}}]' if i == 1 else '[]'
            made = node.Node(cls.cpu_mib, 0, peer_listen=address, peer_secret_file=secret, peers=peers,
                             extent_bytes='4MiB')
            cls.addClassCleanup(made.__exit__)
            made.start()
            cls.nodes.append(made)
        settings = {'handoff_ms': HANDOFF_MS}
        cls.prefill, cls.decode = [cls.engine_of(one, settings) for one in cls.nodes]

    @classmethod
    def engine_of(cls, own: node.Node, settings: dict[str, Any]) -> engine.Engine:
        made = engine.Engine(cls.python, cls.model, own.socket(), settings=settings)
        cls.addClassCleanup(made.__exit__, None)
        return made

    def setUp(self) -> None:
        seed = sum(self.id().encode())
        self.prompts = [prompts.fresh_tokens(TOKENS + 11 * i, seed=seed * 10 + i) for i in range(2)]
        size = self.decode.block_tokens
        self.whole = [(len(prompt) - 1) // size * size for prompt in self.prompts]
        self.none = [0] * len(self.prompts)

    def right(self, given: list[list[int]] | None = None) -> list[list[int]]:
        """What one engine answers that computes all of it."""
        alone = self.decode.generate(self.requests(given or self.prompts, controls=rig.NEITHER))
        self.assertEqual(alone.cached(), [0] * len(alone.results))
        return alone.tokens()

    def hand_over(self, prompt: list[int], **options: Any) -> dict[str, Any]:
        """What the prefilling engine answers, as a proxy gets and passes it."""
        run = self.prefill.generate([engine.Request(prompt, 1, transfer=ASK, **options)])
        return json.loads(json.dumps(run.results[0].transfer))

    def go_on(self, prompt: list[int], transfer: Any, **options: Any) -> engine.Run:
        return self.decode.generate([engine.Request(prompt, rig.MAX_TOKENS, transfer=transfer, **options)])

    def said(self) -> str:
        """What both daemons, and who decodes, have said last."""
        return '\n'.join([own.log()[-2000:] for own in self.nodes] + [str(self.nodes[0].stats()['peers']),
                                                                      self.decode.log()[-2000:]])

    def wait_idle(self) -> None:
        """Within two seconds nothing is held or on its way on either side."""
        def is_idle() -> bool:
            for own in self.nodes:
                stats = own.stats()
                cpu = stats['tenants'][0]['tiers']['cpu']
                peers = stats['peers']
                if cpu['held_slots'] or cpu['slots']['filling'] or stats['tenants'][0]['leases'] or \
                        peers['transfers_under_way'] or peers['fetches_open'] or peers['grants_open']:
                    return False
            return True
        node.until(is_idle, GONE_SECONDS, 'nothing is held or on its way')
        for own in (self.prefill, self.decode):
            own.reset()     # which fails while a block of the engine is in use

    def test_the_answer_is_that_of_one_engine(self) -> None:
        right = self.right()
        for prompt, whole, wanted in zip(self.prompts, self.whole, right):
            transfer = self.hand_over(prompt)
            self.assertIs(transfer['do_remote_prefill'], True)
            self.assertIs(transfer['do_remote_decode'], False)
            run = self.go_on(prompt, transfer)
            self.assertEqual(run.tokens(), [wanted])
            # vLLM shows who prefilled's own hits as this one's.
            self.assertEqual(run.counted('peer_tokens_total'), whole, self.said())
            self.assertEqual(run.counted('load_failed_blocks_total'), 0)
        self.wait_idle()

    def test_a_ticket_is_good_once(self) -> None:
        transfer = self.hand_over(self.prompts[0])
        self.assertEqual(self.go_on(self.prompts[0], transfer).counted('peer_tokens_total'), self.whole[0])
        self.addCleanup(self.restart_decode)         # both sides are of one version for the tests that follow
        self.assertTrue(self.decode.reset_all())     # other weights: nothing of before is known here
        again = self.go_on(self.prompts[0], transfer)
        self.assertEqual(again.counted('hit_tokens_total'), 0)
        self.assertEqual(again.tokens(), self.right(self.prompts[:1]))
        self.wait_idle()

    @classmethod
    def restart_decode(cls) -> None:
        cls.decode.quit()
        cls.decode = cls.engine_of(cls.nodes[1], {'handoff_ms': HANDOFF_MS})

    def test_what_others_say_is_computed(self) -> None:
        right = self.right(self.prompts[:1])
        size = self.decode.block_tokens
        nixl = {'do_remote_prefill': True, 'do_remote_decode': False, 'remote_block_ids': [[1, 2]],
                'remote_engine_id': 'somebody', 'remote_request_id': 'r', 'remote_host': '127.0.0.1',
                'remote_port': 5600, 'tp_size': 1}
        forged = dict(self.hand_over(self.prompts[0]))
        letters = forged['kvtier_ticket']
        forged['kvtier_ticket'] = letters[:100] + ('A' if letters[100] != 'A' else 'B') + letters[101:]
        for transfer in (nixl, forged, {'kvtier_ticket': 5}, {'kvtier_ticket': ''}, {'kvtier_peer': 'nobody:1'},
                         {'kvtier_peer': self.addresses[0], 'kvtier_stream': 'yes'},
                         {'remote_prefiller': {'remote_host': 'x\0', 'remote_port': 1}}):
            with self.subTest(transfer=transfer):
                run = self.go_on(self.prompts[0], transfer, controls={'store': False})
                self.assertEqual(run.tokens(), right)
                self.assertLess(run.cached()[0], size)
        self.wait_idle()

    def test_blocks_come_while_they_are_computed(self) -> None:
        right = self.right()
        for prompt, whole, wanted in zip(self.prompts, self.whole, right):
            first: list[engine.Run] = []
            leg = threading.Thread(target=lambda given=prompt: first.append(self.prefill.generate(
                [engine.Request(given, 1, transfer=ASK)])))
            leg.start()
            run = self.go_on(prompt, {'kvtier_peer': self.addresses[0], 'kvtier_stream': True})
            leg.join()
            self.assertEqual(run.tokens(), [wanted])
            self.assertEqual(run.cached(), [whole])
            self.assertEqual(run.counted('peer_tokens_total'), whole)
        self.wait_idle()

    def through(self, program: str, *options: str) -> engine.Run:
        """Our first prompt through an example proxy; what the decoding engine did."""
        servers = [Served(own) for own in (self.prefill, self.decode)]
        for server in servers:
            self.addCleanup(server.server_close)
            self.addCleanup(server.shutdown)
        with subprocess.Popen([sys.executable, os.path.join(node.TOP, 'examples', program), '--listen', '127.0.0.1:0',
                               '--prefill', servers[0].address, '--decode', servers[1].address, *options],
                              stdout=subprocess.PIPE, text=True) as proxy:
            try:
                client = http.client.HTTPConnection(proxy.stdout.readline().rpartition('/')[2].strip(),
                                                    timeout=PROXY_SECONDS_MAX)
                client.request('POST', '/v1/completions',
                               json.dumps({'prompt': self.prompts[0], 'max_tokens': rig.MAX_TOKENS}))
                answer = json.loads(client.getresponse().read())
                client.close()
            finally:
                proxy.terminate()
        run = servers[1].runs[0]
        self.assertEqual(answer['choices'][0]['token_ids'], run.tokens()[0])
        return run

    def test_through_a_proxy_that_knows_only_the_nixl_flow(self) -> None:
        right = self.right(self.prompts[:1])
        run = self.through('proxy_sequential.py')
        self.assertEqual(run.tokens(), right)
        self.assertEqual(run.counted('peer_tokens_total'), self.whole[0])
        self.wait_idle()

    def test_through_a_proxy_that_asks_both_at_once(self) -> None:
        right = self.right(self.prompts[:1])
        run = self.through('proxy_streaming.py', '--peer', self.addresses[0])
        self.assertEqual(run.tokens(), right)
        self.assertEqual(run.counted('peer_tokens_total'), self.whole[0])
        self.wait_idle()

    def test_who_decodes_is_aborted_at_any_step(self) -> None:
        for steps in (0, 1, 2, 3, 5, 20):
            with self.subTest(steps=steps):
                prompt = prompts.fresh_tokens(TOKENS, seed=77000 + steps)
                transfer = self.hand_over(prompt)
                seconds, missing = self.decode.abort(
                    [engine.Request(prompt, rig.MAX_TOKENS, transfer=transfer)], steps)
                self.assertEqual(missing, 0)
                self.assertLess(seconds, GONE_SECONDS)
                self.wait_idle()

    def test_who_prefills_is_aborted_at_any_step(self) -> None:
        for steps in (0, 1, 2):
            with self.subTest(steps=steps):
                prompt = prompts.fresh_tokens(TOKENS, seed=78000 + steps)
                _, missing = self.prefill.abort([engine.Request(prompt, 1, transfer=ASK)], steps)
                self.assertEqual(missing, 0)
                # What was promised by nobody is waited for, to a bound, and computed.
                run = self.go_on(prompt, {'kvtier_peer': self.addresses[0], 'kvtier_stream': True})
                self.assertLess(run.results[0].seconds, HANDOFF_MS / 1e3 + 20)
                self.assertEqual(run.tokens(), self.right([prompt]))
                self.wait_idle()

    def test_a_node_that_dies_costs_a_computation(self) -> None:
        right = self.right()
        transfers = [self.hand_over(prompt) for prompt in self.prompts]
        self.nodes[0].kill()
        try:
            for prompt, transfer, wanted in zip(self.prompts, transfers, right):
                run = self.go_on(prompt, transfer)
                self.assertEqual(run.tokens(), [wanted])
                self.assertEqual(run.counted('hit_tokens_total'), 0)
        finally:
            self.nodes[0].start()
        # A ticket of the life before is of no use; a new one is, once both have found each other.
        self.wait_attached(self.prefill)

        def is_handed_over() -> bool:
            prompt = prompts.fresh_tokens(TOKENS, seed=type(self).probes * 31 + 79000)
            type(self).probes += 1
            transfer = self.hand_over(prompt)
            return transfer is not None and self.go_on(prompt, transfer).counted('peer_tokens_total') > 0
        node.until(is_handed_over, rig.RESUME_SECONDS, 'blocks are handed over again')
        self.wait_idle()


if __name__ == '__main__':
    unittest.main(verbosity=2)
