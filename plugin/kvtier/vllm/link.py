"""One process's client of kvtierd: opened, watched, opened anew for other weights, closed.

Never raises for what the daemon does: while it is away, or refuses us, everything is a miss, one
ERROR line says why and what to do, and it is tried again.
"""
from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from vllm.logger import init_logger

from kvtier import library
from kvtier.vllm.identity import Refused

logger = init_logger('vllm.kvtier')

OPEN_US = 1_000_000       # at start
REOPEN_US = 20_000        # in a step
RETRY_US = 2_000          # in a step, every LOOK_SECONDS while the daemon is away
LOOK_SECONDS = 0.5        # how often is_connected() is asked
RETRY_SECONDS = 30.0      # after a refused registration
SPACE_US = 20_000


class Link:
    """A client that may not be there; `client` is None then."""

    def __init__(self, who: str, options: library.Options, must: bool,
                 open_client: Callable[[library.Options], Any] = library.Client):
        """who: for the log. must: on_refusal is 'fail': Refused when it cannot attach now.
        open_client: makes library.Client, or what has its calls."""
        self.client: Any = None
        self._open_client = open_client
        self._who = who
        self._options = options
        self._spaces: dict[bytes, int] = {}
        self._connected = False
        self._told: str | None = None
        self._look_at = self._retry_at = 0.0
        self._open(OPEN_US)
        if must and not self._connected:
            reason = self._told or 'kvtierd did not answer'
            self.close()
            raise Refused(reason, 'start kvtierd, or set on_refusal to "disable"')

    def _open(self, wait_us: int) -> None:
        try:
            self.client = self._open_client(replace(self._options, connect_us_max=wait_us))
        except library.LibraryError as error:
            self._retry_at = time.monotonic() + RETRY_SECONDS
            self._tell(error.strerror or str(error))
            return
        result, text = self.client.connect(wait_us)
        # Missing ranks are not a fault: the others are on their way.
        self._connected = self.client.is_connected()
        if result < 0 and not self._connected and 'ranks of this engine' not in text:
            self._tell(text or library.error_text(result))
        elif self._connected:
            logger.info('kvtier (%s): attached', self._who)

    def _tell(self, why: str) -> None:
        if why == self._told:
            return
        self._told = why
        if self._who == 'worker':
            logger.warning('kvtier (worker): %s', why)   # the scheduler's side says what to do
            return
        socket = self._options.socket or library.SOCKET_DEFAULT
        logger.error('kvtier (%s): %s. Serving without it. Fix: check that kvtierd runs and that '
                     'this process may use %s (`kvtier doctor`); it is attached by itself then.',
                     self._who, why, socket)

    def is_connected(self) -> bool:
        """Asked of the library at most every LOOK_SECONDS; opens anew after a refusal."""
        now = time.monotonic()
        if now < self._look_at:
            return self._connected
        self._look_at = now + LOOK_SECONDS
        if self.client is None:
            if now >= self._retry_at:
                self._open(REOPEN_US)
            return self._connected
        was, self._connected = self._connected, self.client.is_connected()
        why = self._retry(now) if not self._connected and now >= self._retry_at else ''
        if self._connected and not was:
            self._told = None
            logger.info('kvtier (%s): attached', self._who)
        elif was and not self._connected:
            logger.warning('kvtier (%s): the daemon is away; misses until it is back%s', self._who,
                           f' ({why})' if why else '')
        return self._connected

    def _retry(self, now: float) -> str:
        """A scheduler's client connects only when it is asked to; a worker's by itself, but not
        after a refusal. Why it is not connected."""
        assert self.client is not None
        result, text = self.client.connect(RETRY_US)
        self._connected = self.client.is_connected()
        if result in (-errno.EPERM, -errno.EINVAL):
            self._retry_at = now + RETRY_SECONDS
            self._tell(text)
        return text

    def reopen(self, weights_version: str) -> None:
        """Another space, for other weights. Waits only for this process's own copies."""
        identity = dict(self._options.identity, weights_version=weights_version)
        self._options = replace(self._options, identity=identity)
        self.close()
        self._told = None
        self._open(REOPEN_US)

    def space_of(self, adapter: bytes | None) -> int | None:
        """The client's number of the space of an adapter (None: the base model); None: not now."""
        if adapter is None:
            return 0
        space = self._spaces.get(adapter)
        if space is None and self.client is not None:
            result, number = self.client.space_open(adapter, SPACE_US)
            if result == 0:
                space = self._spaces[adapter] = number
        return space

    def take_seconds(self) -> float:
        """Time spent in the library since the last call."""
        if self.client is None:
            return 0.0
        seconds, self.client.seconds = self.client.seconds, 0.0
        return seconds

    def close(self) -> None:
        if self.client is not None:
            self.client.close()
        self.client = None
        self._connected = False
        self._spaces = {}


def options_of(engine: str, roles: int, identity: dict[str, str],
               groups: Sequence[library.Group], socket: str, shard: int = 0,
               world: int = 1) -> library.Options:
    return library.Options(engine=engine, roles=roles, identity=identity, groups=groups,
                           socket=socket, shard=shard, world=world)

