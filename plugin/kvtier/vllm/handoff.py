"""Prefill on one node, decode on another: what requests say of it, and what is done about it.

The dictionary kv_transfer_params goes through proxies as vLLM's NIXL connector has it: who prefills
is asked with do_remote_decode, answers with do_remote_prefill and how to get the blocks, and who
decodes is sent that answer. Where the blocks are is in a key of our own, which proxies pass on
unread. A proxy that sends both requests at once names the prefilling node's daemon instead.
"""
from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

from vllm.logger import init_logger

from kvtier import library
from kvtier.settings import Settings
from kvtier.vllm.requests import Handed, Tracked

logger = init_logger('vllm.kvtier')

LOAD_US_MIN = 250_000
ANSWER_SECONDS_MAX = 2.0    # a node is connected to, asked, and answers
TICKET, PEER, STREAM, SECOND = 'kvtier_ticket', 'kvtier_peer', 'kvtier_stream', 'kvtier_second_peer'
Sections = Sequence[tuple[int, int, bytes]]
# What a fetch or a ticket was refused for, and what would be right.
REASONS = {
    -errno.ENOTSUP: ('this node\'s kvtierd has no peers', 'set its peer_listen and peer_secret_file'),
    -errno.EADDRNOTAVAIL: ('this node\'s kvtierd does not know how others reach it',
                           'set its peer_address'),
    -errno.ENOENT: ('this node\'s kvtierd knows no such peer', 'add that node to its peers'),
    -errno.EBADMSG: ('the ticket is not of this cluster',
                     'give all nodes the same peer_secret_file'),
    -errno.EPROTONOSUPPORT: ('the ticket is of another version', 'run one version of kvtierd'),
    -errno.EPERM: ('the ticket is for another tenant, model, layout or vLLM version',
                   'run the same on both nodes'),
    -errno.EHOSTUNREACH: ('the ticket\'s node cannot be connected to', 'look at `kvtier peers`'),
    -errno.EBUSY: ('kvtierd has too many fetches or tickets under way', 'hand over fewer at once'),
    -errno.ENOTCONN: ('kvtierd is away', 'start it'),
}


def wants_ticket(request: Any) -> bool:
    """Whether another node is to go on with this request's blocks."""
    params = getattr(request, 'kv_transfer_params', None)
    return isinstance(params, dict) and params.get('do_remote_decode') is True


def source_of(request: Any) -> tuple[library.Source | None, str]:
    """(where its blocks are, ''), (None, ''), or (None, what is wrong with what it says)."""
    params = getattr(request, 'kv_transfer_params', None)
    if not isinstance(params, dict):
        return None, ''
    ticket, peer, stream = params.get(TICKET), params.get(PEER), params.get(STREAM, False)
    second = params.get(SECOND)
    if ticket is None and peer is None:
        return _offloading_source(params)
    for name, value in ((TICKET, ticket), (PEER, peer), (SECOND, second)):
        if value is not None and (not isinstance(value, str) or not value or not value.isascii()
                                  or '\0' in value):
            return None, f'kv_transfer_params: {name} is {value!r}; right is a text'
    if not isinstance(stream, bool):
        return None, f'kv_transfer_params: {STREAM} is {stream!r}; right is a bool'
    if ticket is not None:
        # Who prefilled has asked for these to be stored, so they are there, or will be at once.
        return library.Source(ticket=ticket, is_stream=True, second=second or ''), ''
    assert peer is not None
    return library.Source(peer=peer, is_stream=stream, second=second or ''), ''


def _offloading_source(params: dict[str, Any]) -> tuple[library.Source | None, str]:
    """As vLLM's offloading connector names another engine; here host and port are its daemon's."""
    for name, is_stream in (('remote_prefiller', True), ('remote_kv_source', False)):
        given = params.get(name)
        if not isinstance(given, dict):
            continue
        host, port = given.get('remote_host'), given.get('remote_port')
        if not isinstance(host, str) or not host.isascii() or '\0' in host \
                or not str(port).isdecimal():
            return None, (f'kv_transfer_params: {name} is {given!r}; right are remote_host and '
                          'remote_port of the other node\'s kvtierd')
        return library.Source(peer=f'[{host}]:{port}' if ':' in host else f'{host}:{port}',
                              is_stream=is_stream), ''
    return None, ''


class Handoffs:
    """What the scheduler's side does with them. Its thread only."""

    def __init__(self, engine: str, settings: Settings):
        self._engine = engine
        self._settings = settings
        self._keep_us = int(settings.handoff_ms * 1000)     # how long the other node may take
        self._wait_us = int(settings.lookup_ms * 1000)      # the bound of one call
        self._told: set[int] = set()

    def begin(self, client: library.Client, tracked: Tracked, sections: Sections, *, space: int,
              lease_us: int, cost: tuple[float, float, float], now: float) -> bool:
        """Asks the other node for what the request says that it has. False: it cannot be asked."""
        assert tracked.source is not None
        source, tracked.source = tracked.source, None
        bytes_count = sum(len(hashes) for _, _, hashes in sections)
        if bytes_count == 0 or bytes_count > library.FETCH_KEYS_MAX * library.HASH_BYTES:
            return False
        # What was computed for us is not computed again, however long it takes to be there.
        result, fetch = client.fetch(
            sections, source, self._keep_us, self._wait_us, space=space, tag=tracked.tag,
            lease_us=lease_us, cost=(0.0, 0.0, 0.0) if source.is_stream else cost)
        if result < 0:
            self._tell(result, tracked.request.request_id)
            return False
        tracked.handed = Handed(fetch, tracked.local_tokens, now + self._keep_us * 1e-6,
                                now + ANSWER_SECONDS_MAX, source.is_stream and not source.ticket)
        return True

    def found(self, client: library.Client, tracked: Tracked, local_tokens: int,
              now: float) -> tuple[bool, library.Found | None]:
        """(False, what there will be); (True, None): ask again; (False, None): nothing comes."""
        handed = tracked.handed
        if handed is None:
            return False, None
        result, found = -errno.ESTALE, None
        # Where the engine has lost what came before them, they are not its next ones any more.
        if local_tokens >= handed.local_tokens:
            result, found = client.fetch_wait(handed.fetch, 0 if handed.was_asked else self._wait_us)
        handed.was_asked = True
        if result == 0:
            return False, found
        if result == -errno.EAGAIN and now < min(handed.until, handed.answer_until):
            return True, None
        self.end(client, tracked)
        return False, None

    def load_us_max(self, tracked: Tracked, now: float) -> int:
        """Who computes at this moment is waited for; who has computed has it."""
        assert tracked.handed is not None
        bound_us = int(max(0.0, tracked.handed.until - now) * 1e6)
        if not tracked.handed.is_stream_of_peer:
            bound_us = min(bound_us, int(self._settings.load_ms * 1000))
        return max(bound_us, LOAD_US_MIN)

    @staticmethod
    def end(client: library.Client | None, tracked: Tracked) -> None:
        """Nothing more is wanted of the other node."""
        handed, tracked.handed = tracked.handed, None
        if handed is not None and client is not None:
            client.fetch_end(handed.fetch)

    def answer(self, client: library.Client, request: Any, sections: Sections, space: int,
               block_ids: Sequence[Sequence[int]], world: int) -> dict[str, Any] | None:
        """kv_transfer_params for whoever decodes; None: it has to compute."""
        if not any(hashes for _, _, hashes in sections):
            return None
        result, ticket = client.ticket(sections, self._keep_us, self._wait_us, space=space)
        if result < 0:
            self._tell(result, request.request_id)
            return None
        return {'do_remote_prefill': True, 'do_remote_decode': False,
                'remote_engine_id': self._engine, 'remote_request_id': request.request_id,
                'remote_block_ids': [list(ids) for ids in block_ids], 'remote_host': '',
                'remote_port': 0, 'tp_size': world,
                'remote_num_tokens': request.num_computed_tokens, TICKET: ticket}

    def _tell(self, result: int, request_id: str) -> None:
        """Each reason once in the log; a request more or less is no news."""
        why, fix = REASONS.get(result, (library.error_text(result), 'look at `kvtier peers`'))
        if result in self._told:
            logger.debug('kvtier: request %s is not handed over: %s', request_id, why)
            return
        self._told.add(result)
        logger.warning('kvtier: blocks of request %s are not handed over between nodes: %s. They '
                       'are computed. Fix: %s.', request_id, why, fix)
