"""What both example proxies share: OpenAI requests in, requests to two engines out, answers passed on as they come.

Python's standard library alone, a thread a client. They show the flow; kvtier's router is for production.
"""
from __future__ import annotations

import argparse
import http.client
import http.server
import json
import select
import socket
import socketserver
import uuid
from typing import Any

BODY_BYTES_MAX = 64 << 20
ENGINE_SECONDS_MAX = 600.0
PART_BYTES = 64 << 10
GENERATES = ('/v1/completions', '/v1/chat/completions')
PASSED_HEADERS = ('Authorization', 'traceparent', 'tracestate')


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class EngineGone(Exception):
    """An engine could not be asked, or broke off; the text names it."""


def _has_left(client: socket.socket) -> bool:
    """It is readable: by its end, or because it has sent its next request early."""
    try:
        return not client.recv(1, socket.MSG_PEEK)
    except OSError:
        return True


class Engine:
    """One request to an engine, which ends with close(): vLLM aborts what nobody reads."""

    def __init__(self, address: str):
        self._address = address
        self._connection = http.client.HTTPConnection(address, timeout=ENGINE_SECONDS_MAX)

    def ask(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> None:
        try:
            self._connection.request('POST', path, json.dumps(body).encode(),
                                     {'Content-Type': 'application/json', **headers})
        except OSError as error:
            raise EngineGone(f'{self._address}: {error}') from None

    def answer(self, client: socket.socket) -> http.client.HTTPResponse:
        """Its head, unless the client leaves before."""
        own = self._connection.sock
        ready = select.select([own, client], [], [], ENGINE_SECONDS_MAX)[0]
        if own not in ready and client in ready and _has_left(client):
            raise ClientGone
        try:
            return self._connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise EngineGone(f'{self._address}: {error or type(error).__name__}') from None

    def close(self) -> None:
        # A thread may be reading: it is told, too.
        if self._connection.sock is not None:
            try:
                self._connection.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._connection.close()


class Proxy(http.server.BaseHTTPRequestHandler):
    """Subclasses say how a request is generated."""

    protocol_version = 'HTTP/1.1'
    prefill = decode = ''           # host:port of the engines
    peer = ''                       # host:port of the prefilling engine's kvtierd

    def generate(self, body: dict[str, Any], headers: dict[str, str]) -> None:
        raise NotImplementedError

    def do_POST(self) -> None:
        try:
            body = self._body()
        except ValueError as error:
            self._refuse(400, str(error))
            return
        headers = {name: self.headers[name] for name in PASSED_HEADERS if name in self.headers}
        headers['X-Request-Id'] = self.headers.get('X-Request-Id') or uuid.uuid4().hex
        try:
            if self.path in GENERATES:
                self.generate(body, headers)
            else:
                self.pass_on(self.decode, body, headers)
        except ClientGone:
            self.close_connection = True
        except EngineGone as error:
            self._refuse(502, f'the engine cannot be asked: {error}')

    def _body(self) -> dict[str, Any]:
        length = self.headers.get('Content-Length', '')
        if not length.isascii() or not length.isdecimal() or int(length) > BODY_BYTES_MAX:
            self.close_connection = True
            raise ValueError(f'Content-Length is {length!r}; right is a number up to {BODY_BYTES_MAX}')
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise ValueError(f'the body is not JSON: {error}') from None
        if not isinstance(body, dict):
            raise ValueError('the body is not a JSON object')
        return body

    def _refuse(self, status: int, why: str) -> None:
        text = json.dumps({'error': {'message': why, 'type': 'proxy_error', 'code': status}}).encode()
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def ask(self, address: str, body: dict[str, Any], headers: dict[str, str]) -> Engine:
        engine = Engine(address)
        engine.ask(self.path, body, headers)
        return engine

    def pass_on(self, address: str, body: dict[str, Any], headers: dict[str, str]) -> None:
        """Asks, and passes the answer on part by part as it comes."""
        engine = self.ask(address, body, headers)
        try:
            self.pass_answer(engine)
        finally:
            engine.close()

    def pass_answer(self, engine: Engine) -> None:
        answer = engine.answer(self.connection)
        self.send_response(answer.status)
        self.send_header('Content-Type', answer.getheader('Content-Type', 'application/json'))
        self.send_header('Transfer-Encoding', 'chunked')
        self.end_headers()
        try:
            while part := answer.read1(PART_BYTES):
                self.wfile.write(b'%x\r\n%s\r\n' % (len(part), part))
                self.wfile.flush()
            if answer.length:
                raise ConnectionError('the answer is not whole')
            self.wfile.write(b'0\r\n\r\n')
        except (OSError, http.client.HTTPException):
            # The client has left, or it sees that the answer is not whole: the last part is missing.
            raise ClientGone from None

    def log_message(self, format: str, *arguments: Any) -> None:
        return


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


def one_token(body: dict[str, Any]) -> dict[str, Any]:
    """The request for the engine that prefills: everything but the generation."""
    short = {**body, 'max_tokens': 1, 'stream': False,
             'kv_transfer_params': {'do_remote_decode': True, 'do_remote_prefill': False, 'remote_engine_id': None,
                                    'remote_block_ids': None, 'remote_host': None, 'remote_port': None}}
    for name in ('stream_options', 'min_tokens'):
        short.pop(name, None)
    if 'max_completion_tokens' in short:
        short['max_completion_tokens'] = 1
    return short


def serve(handler: type[Proxy], about: str, needs_peer: bool) -> None:
    """The command line; serves until it is ended."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument('--listen', default='127.0.0.1:8192', metavar='HOST:PORT', help='default: %(default)s')
    parser.add_argument('--prefill', required=True, metavar='HOST:PORT', help='the engine that prefills')
    parser.add_argument('--decode', required=True, metavar='HOST:PORT', help='the engine that decodes')
    if needs_peer:
        parser.add_argument('--peer', required=True, metavar='HOST:PORT',
                            help='peer_listen of the kvtierd on the prefilling engine\'s node')
    given = parser.parse_args()
    host, colon, port = given.listen.rpartition(':')
    if not colon or not port.isdecimal():
        parser.error(f'--listen is {given.listen!r}; right is HOST:PORT, such as 127.0.0.1:8192')
    handler.prefill, handler.decode = given.prefill, given.decode
    handler.peer = given.peer if needs_peer else ''
    with Server((host, int(port)), handler) as server:
        print(f'listening on http://{host}:{server.server_address[1]}', flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
