"""The example proxies between two engines that the test plays: what each is sent, what the client gets, who is left when."""
from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
import unittest
from typing import Any

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SECONDS_MAX = 20.0
HANDED = {'do_remote_prefill': True, 'do_remote_decode': False, 'kvtier_ticket': 'AAbb-_', 'remote_block_ids': [[1, 2]]}
BODY = {'model': 'm', 'prompt': [1, 2, 3], 'max_tokens': 7, 'temperature': 0}


class Played(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """An engine: records requests, and answers as `play` says."""

    daemon_threads = True

    def __init__(self, answer: Any):
        super().__init__(('127.0.0.1', 0), Answers)
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.asked, self.left = threading.Event(), threading.Event()
        self.play = lambda own: own.whole(answer)
        self.address = f'127.0.0.1:{self.server_address[1]}'
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def end(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who asked has left: some tests are about that."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    server: Played

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        self.server.requests.append((self.path, dict(self.headers), body))
        self.server.asked.set()
        self.server.play(self)

    def whole(self, content: Any, status: int = 200) -> None:
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def begin(self) -> None:
        self.send_response(200)
        self.send_header('Content-Type', 'text/event-stream')
        self.send_header('Transfer-Encoding', 'chunked')
        self.end_headers()

    def part(self, text: bytes) -> None:
        self.wfile.write(b'%x\r\n%s\r\n' % (len(text), text))
        self.wfile.flush()

    def await_end(self) -> None:
        """Until nobody waits for an answer."""
        self.connection.settimeout(SECONDS_MAX)
        with contextlib.suppress(ConnectionResetError):
            if self.connection.recv(1):
                return
        self.close_connection = True
        self.server.left.set()

    def log_message(self, format: str, *arguments: Any) -> None:
        return


class Case(unittest.TestCase):
    program: str
    options: tuple[str, ...] = ()

    def setUp(self) -> None:
        self.prefill, self.decode = Played({'kv_transfer_params': HANDED}), Played({'choices': [{'text': 'x'}]})
        for engine in (self.prefill, self.decode):
            self.addCleanup(engine.end)
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(TOP, 'examples', self.program), '--listen', '127.0.0.1:0', '--prefill',
             self.prefill.address, '--decode', self.decode.address, *self.options], stdout=subprocess.PIPE, text=True)
        self.addCleanup(self.end)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().rpartition('/')[2].strip()

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(SECONDS_MAX)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def begin(self, body: Any = None, path: str = '/v1/completions', **headers: str) -> http.client.HTTPConnection:
        client = http.client.HTTPConnection(self.address, timeout=SECONDS_MAX)
        self.addCleanup(client.close)
        client.request('POST', path, json.dumps(BODY if body is None else body), headers)
        return client

    def post(self, body: Any = None, path: str = '/v1/completions', **headers: str) -> tuple[int, Any]:
        answer = self.begin(body, path, **headers).getresponse()
        return answer.status, json.loads(answer.read())

    def seen(self, engine: Played, nth: int = 0) -> Any:
        self.assertTrue(engine.asked.wait(SECONDS_MAX))
        return engine.requests[nth][2]


class Common:
    """What holds of both."""

    def test_the_answer_is_passed_on_as_it_comes(self: Any) -> None:
        go_on = threading.Event()

        def play(own: Answers) -> None:
            own.begin()
            own.part(b'data: one\n\n')
            go_on.wait(SECONDS_MAX)
            own.part(b'data: two\n\n')
            own.wfile.write(b'0\r\n\r\n')
        self.decode.play = play
        answer = self.begin({**BODY, 'stream': True}).getresponse()
        self.assertEqual(answer.getheader('Content-Type'), 'text/event-stream')
        self.assertEqual(answer.read1(), b'data: one\n\n')
        go_on.set()
        self.assertEqual(answer.read(), b'data: two\n\n')

    def test_who_leaves_in_the_middle_leaves_the_engine(self: Any) -> None:
        def play(own: Answers) -> None:
            own.begin()
            own.part(b'data: one\n\n')
            with contextlib.suppress(OSError):
                for _ in range(100000):
                    own.part(b'x' * 4096)
            own.server.left.set()
            own.close_connection = True
        self.decode.play = play
        client = self.begin({**BODY, 'stream': True})
        self.assertEqual(client.getresponse().read1(11), b'data: one\n\n')
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0')
        client.close()
        self.assertTrue(self.decode.left.wait(SECONDS_MAX))

    def test_who_leaves_while_nothing_has_come_leaves_the_engine(self: Any) -> None:
        self.decode.play = lambda own: own.await_end()
        client = self.begin()
        self.assertTrue(self.decode.asked.wait(SECONDS_MAX))
        client.close()
        self.assertTrue(self.decode.left.wait(SECONDS_MAX))

    def test_an_answer_that_breaks_off_is_not_whole_here_either(self: Any) -> None:
        def play(own: Answers) -> None:
            own.begin()
            own.part(b'data: one\n\n')
            own.close_connection = True
        self.decode.play = play
        with self.assertRaises((http.client.IncompleteRead, ConnectionError)):
            self.begin({**BODY, 'stream': True}).getresponse().read()

    def test_what_is_no_request_is_refused_in_words(self: Any) -> None:
        for body, why in ((b'{', 'not JSON'), (b'[]', 'not a JSON object'), (b'[' * 100000, 'not JSON')):
            client = http.client.HTTPConnection(self.address, timeout=SECONDS_MAX)
            self.addCleanup(client.close)
            client.request('POST', '/v1/completions', body)
            answer = client.getresponse()
            self.assertEqual(answer.status, 400)
            self.assertIn(why, json.loads(answer.read())['error']['message'])
        self.assertEqual(self.prefill.requests + self.decode.requests, [])

    def test_an_engine_that_is_not_there_is_named(self: Any) -> None:
        self.decode.end()
        status, answer = self.post()
        self.assertEqual(status, 502)
        self.assertIn(self.decode.address, answer['error']['message'])

    def test_a_prefill_that_fails_costs_a_computation(self: Any) -> None:
        self.prefill.end()
        self.assertEqual(self.post(), (200, {'choices': [{'text': 'x'}]}))
        self.assertFalse(self.seen(self.decode).get('kv_transfer_params'))

    def test_other_paths_go_to_who_decodes(self: Any) -> None:
        self.assertEqual(self.post(path='/v1/embeddings')[0], 200)
        self.assertEqual(self.decode.requests[0][0], '/v1/embeddings')
        self.assertEqual(self.prefill.requests, [])

    def test_errors_of_the_engine_are_passed_on(self: Any) -> None:
        self.decode.play = lambda own: own.whole({'error': 'no'}, 404)
        self.assertEqual(self.post(), (404, {'error': 'no'}))


class Sequential(Common, Case):
    program = 'proxy_sequential.py'

    def test_the_first_is_asked_for_one_token_and_the_second_is_told_what_it_said(self) -> None:
        body = {**BODY, 'stream': True, 'stream_options': {'include_usage': True}, 'max_completion_tokens': 7}
        self.assertEqual(self.post(body, Authorization='Bearer x')[0], 200)
        short = self.seen(self.prefill)
        self.assertEqual((short['max_tokens'], short['max_completion_tokens'], short['stream']), (1, 1, False))
        self.assertNotIn('stream_options', short)
        self.assertIs(short['kv_transfer_params']['do_remote_decode'], True)
        self.assertEqual(self.seen(self.decode), {**body, 'kv_transfer_params': HANDED})
        first, second = self.prefill.requests[0][1], self.decode.requests[0][1]
        self.assertEqual(first['X-Request-Id'], second['X-Request-Id'])
        self.assertEqual((first['Authorization'], second['Authorization']), ('Bearer x', 'Bearer x'))

    def test_what_is_no_answer_costs_a_computation(self) -> None:
        for content, status in ((b'{', 200), (b'[]', 200), ({'kv_transfer_params': HANDED}, 500), ({}, 200)):
            self.prefill.play = lambda own, content=content, status=status: own.whole(content, status)
            self.assertEqual(self.post()[0], 200)
            self.assertNotIn('kv_transfer_params', self.decode.requests[-1][2])

    def test_who_leaves_during_prefill_leaves_it(self) -> None:
        self.prefill.play = lambda own: own.await_end()
        client = self.begin()
        self.assertTrue(self.prefill.asked.wait(SECONDS_MAX))
        client.close()
        self.assertTrue(self.prefill.left.wait(SECONDS_MAX))
        self.assertEqual(self.decode.requests, [])


class Streaming(Common, Case):
    program = 'proxy_streaming.py'
    options = ('--peer', '10.0.0.1:9470')

    def test_both_are_asked_at_once(self) -> None:
        both = threading.Barrier(2, timeout=SECONDS_MAX)
        for engine in (self.prefill, self.decode):
            def play(own: Answers) -> None:
                both.wait()
                own.whole({'choices': []})
            engine.play = play
        self.assertEqual(self.post(), (200, {'choices': []}))
        self.assertEqual(self.seen(self.decode)['kv_transfer_params'],
                         {'kvtier_peer': '10.0.0.1:9470', 'kvtier_stream': True})
        self.assertEqual(self.seen(self.prefill)['max_tokens'], 1)
        self.assertEqual(self.prefill.requests[0][1]['X-Request-Id'], self.decode.requests[0][1]['X-Request-Id'])

    def test_who_leaves_leaves_both(self) -> None:
        for engine in (self.prefill, self.decode):
            engine.play = lambda own: own.await_end()
        client = self.begin()
        for engine in (self.prefill, self.decode):
            self.assertTrue(engine.asked.wait(SECONDS_MAX))
        client.close()
        for engine in (self.prefill, self.decode):
            self.assertTrue(engine.left.wait(SECONDS_MAX))


class CommandLine(unittest.TestCase):
    def test_help_and_wrong_options(self) -> None:
        for program in ('proxy_sequential.py', 'proxy_streaming.py'):
            path = os.path.join(TOP, 'examples', program)
            run = subprocess.run([sys.executable, path, '--help'], capture_output=True, text=True, check=True)
            self.assertIn('--prefill HOST:PORT', run.stdout)
            run = subprocess.run([sys.executable, path, '--prefill', 'a:1', '--decode', 'b:1', '--peer', 'c:1', '--listen',
                                  'nothing'], capture_output=True, text=True, check=False)
            self.assertEqual(run.returncode, 2)
        self.assertIn('right is HOST:PORT', run.stderr)


if __name__ == '__main__':
    unittest.main()
