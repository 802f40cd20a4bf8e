"""A client of libkvtier whose blocks go through a staging area: library.Client's calls and words.

A job is cut into pieces of a buffer each. A store's piece is copied into its buffer, then stored
from there; a load's is loaded into its buffer, and what was proven is copied to the engine. Nothing
here waits but wait() and close(); the copies get on whenever the engine's thread polls.
"""
from __future__ import annotations

import errno
import itertools
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy

from kvtier import header, library
from kvtier.vllm.staging import LOAD, STORE, Area, Buffer, is_over

JOBS_MAX = 64
COPY_LOOK_US = 100       # how often a wait looks at copies, which wake nobody
WAIT_SLICE_US = 2000     # and at deadlines
CLOSE_SECONDS = 2.0


class State(Enum):
    """Of a piece. Stores go WAITING, COPYING, COPIED, MOVING; loads WAITING, MOVING, COPYING."""
    WAITING = 'for a buffer, or for a job of the library'
    COPYING = 'between the engine\'s blocks and the buffer'
    COPIED = 'in the buffer; for a job of the library'
    MOVING = 'the library has it'
    OVER = ''


_MOVES = {
    State.WAITING: (State.COPYING, State.MOVING, State.OVER),
    State.COPYING: (State.COPIED, State.OVER),
    State.COPIED: (State.MOVING, State.OVER),
    State.MOVING: (State.COPYING, State.OVER),
    State.OVER: (),
}


@dataclass(eq=False)
class Piece:
    job: _Job
    first: int
    blocks: numpy.ndarray          # rows of library.block_array()
    state: State = State.WAITING
    buffer: Buffer | None = None
    event: Any = None              # of the copy
    inner: int = 0                 # the library's job
    ended: int = header.DONE
    good_count: int = 0
    parent: bytes | None = None   # stores: the hash before it; None: the job's
    results: numpy.ndarray = field(default_factory=lambda: numpy.zeros(0, numpy.int32))

    def become(self, state: State) -> None:
        assert state in _MOVES[self.state], f'a piece that is {self.state} becomes {state}'
        self.state = state


@dataclass(eq=False)
class _Job:
    number: int
    is_store: bool
    arguments: dict[str, Any]
    end: float
    pieces: list[Piece] = field(default_factory=list)
    is_cancelled: bool = False
    is_quiet: bool = False         # and poll() has said so

    def is_over(self) -> bool:
        return all(piece.state is State.OVER for piece in self.pieces)

    def holds_blocks(self) -> bool:
        if not self.is_store:
            return not self.is_over()
        return any(piece.state in (State.WAITING, State.COPYING) for piece in self.pieces)


class Client:
    """library.Client's calls that a worker uses."""

    def __init__(self, options: library.Options, area: Area):
        self._inner = library.Client(area.options(options))
        self._area = area
        self._numbers = itertools.count(1)
        self._jobs: dict[int, _Job] = {}
        self._moving: dict[int, Piece] = {}
        self._said: list[library.Completion] = []

    # ---- as the library's ----

    @property
    def seconds(self) -> float:
        return self._inner.seconds

    @seconds.setter
    def seconds(self, value: float) -> None:
        self._inner.seconds = value

    def is_connected(self) -> bool:
        return self._inner.is_connected()

    def connect(self, wait_us_max: int) -> tuple[int, str]:
        return self._inner.connect(wait_us_max)

    def space_open(self, adapter_digest: bytes, wait_us_max: int) -> tuple[int, int]:
        return self._inner.space_open(adapter_digest, wait_us_max)

    # ---- jobs ----

    def store(self, blocks: numpy.ndarray, *, deadline_us: int,
              **arguments: Any) -> tuple[int, int]:
        return self._begin(True, blocks, deadline_us, arguments)

    def load(self, blocks: numpy.ndarray, *, deadline_us: int,
             **arguments: Any) -> tuple[int, int]:
        return self._begin(False, blocks, deadline_us, arguments)

    def _begin(self, is_store: bool, blocks: numpy.ndarray, deadline_us: int,
               arguments: dict[str, Any]) -> tuple[int, int]:
        if len(self._jobs) >= JOBS_MAX:
            return -errno.EAGAIN, 0
        job = _Job(next(self._numbers), is_store, arguments,
                   time.monotonic() + deadline_us * 1e-6)
        each = self._area.blocks_per_piece[arguments['group']]
        for first in range(0, len(blocks), each):
            own = blocks[first:first + each]
            job.pieces.append(Piece(job, first, own, results=numpy.zeros(len(own), numpy.int32)))
        if is_store:
            for before, piece in zip(job.pieces, job.pieces[1:]):
                piece.parent = before.blocks['hash'][-1].tobytes()
        self._jobs[job.number] = job
        self._get_on(job)
        return 0, job.number

    def cancel(self, number: int) -> None:
        """Copies under way end, the library's jobs are cancelled, the rest never begins."""
        job = self._jobs.get(number)
        if job is None:
            return
        job.is_cancelled = True
        for piece in job.pieces:
            if piece.state is State.MOVING:
                self._inner.cancel(piece.inner)
        self._get_on(job)

    # ---- a piece ----

    def _get_on(self, job: _Job) -> None:
        for piece in job.pieces:
            if piece.state is State.COPYING and is_over(piece.event):
                self._copied(piece)
            if piece.state in (State.WAITING, State.COPIED) and \
                    (job.is_cancelled or time.monotonic() >= job.end):
                self._fail(piece, -errno.ECANCELED if job.is_cancelled else -errno.ETIME)
            if piece.state is State.WAITING:
                self._take_up(piece)
            if piece.state is State.COPIED:
                self._move(piece)

    def _take_up(self, piece: Piece) -> None:
        job = piece.job
        if piece.buffer is None:
            piece.buffer = self._area.take(job.arguments['group'], STORE if job.is_store else LOAD)
        if piece.buffer is None:
            return
        if not job.is_store:
            self._move(piece)
            return
        piece.become(State.COPYING)
        piece.event = self._area.copy_in(piece.buffer, piece.blocks['engine_block'])
        if is_over(piece.event):
            self._copied(piece)

    def _move(self, piece: Piece) -> None:
        """The buffer's rows are given to the library, as if they were the engine's blocks."""
        job, buffer = piece.job, piece.buffer
        assert buffer is not None
        blocks = piece.blocks.copy()
        blocks['engine_block'] = numpy.arange(buffer.first_row, buffer.first_row + len(blocks))
        arguments = dict(job.arguments,
                         first_position=job.arguments['first_position'] + piece.first,
                         deadline_us=max(1, int((job.end - time.monotonic()) * 1e6)))
        if piece.parent is not None:
            arguments['parent'] = piece.parent
        begin = self._inner.store if job.is_store else self._inner.load
        result, inner = begin(blocks, **arguments)
        if result == 0:
            piece.inner = inner
            self._moving[inner] = piece
            piece.become(State.MOVING)
        elif result != -errno.EAGAIN:
            self._fail(piece, result)

    def _copied(self, piece: Piece) -> None:
        if piece.job.is_store:
            piece.become(State.COPIED)
        else:
            self._end(piece)

    def _moved(self, completion: library.Completion) -> None:
        """The library has ended a piece, or let go of its buffer, or both."""
        piece = self._moving.get(completion.job)
        if piece is None:
            return
        if piece.inner and completion.state:
            piece.inner = 0
            piece.ended, piece.good_count = completion.state, completion.good_count
            if completion.results:
                piece.results[:] = completion.results
            elif completion.good_count < completion.count:
                piece.results[:] = -errno.EIO
        if not completion.quiesced:
            return
        del self._moving[completion.job]
        if piece.job.is_store or piece.good_count == 0:
            self._end(piece)
            return
        good = numpy.flatnonzero(piece.results == 0)
        assert piece.buffer is not None
        piece.become(State.COPYING)
        piece.event = self._area.copy_out(piece.buffer, good, piece.blocks['engine_block'][good])
        if is_over(piece.event):
            self._end(piece)

    def _fail(self, piece: Piece, result: int) -> None:
        piece.ended = {-errno.ECANCELED: header.CANCELLED,
                       -errno.ETIME: header.EXPIRED}.get(result, header.FAILED)
        piece.good_count = 0
        piece.results[:] = result
        self._end(piece)

    def _end(self, piece: Piece) -> None:
        piece.become(State.OVER)
        piece.event = None
        if piece.buffer is not None:
            self._area.give(piece.buffer)
            piece.buffer = None

    # ---- completions ----

    def _turn(self) -> bool:
        """Gets on with everything; whether poll() has something."""
        while True:
            completions = self._inner.poll()
            for completion in completions:
                self._moved(completion)
            if not completions:
                break
        for job in list(self._jobs.values()):
            self._get_on(job)
            if job.is_over():
                del self._jobs[job.number]
                self._said.append(_completion(job))
            elif not job.is_quiet and not job.holds_blocks():
                job.is_quiet = True
                self._said.append(library.Completion(job.number, True, library.UNDECIDED, True,
                                                     0, 0))
        return bool(self._said)

    def poll(self) -> list[library.Completion]:
        self._turn()
        said, self._said = self._said, []
        return said

    def wait(self, wait_us_max: int) -> bool:
        end = time.monotonic() + wait_us_max * 1e-6
        while not self._turn():
            left_us = int((end - time.monotonic()) * 1e6)
            if left_us <= 0:
                return False
            are_copies = any(piece.state is State.COPYING for job in self._jobs.values()
                             for piece in job.pieces)
            self._inner.wait(min(left_us, COPY_LOOK_US if are_copies else WAIT_SLICE_US))
        return True

    def close(self) -> None:
        """Ends everything without a word. Copies that the device has been given end first; should
        they not within CLOSE_SECONDS, their buffers are never used again."""
        self._inner.close()
        pieces = [piece for job in self._jobs.values() for piece in job.pieces]
        end = time.monotonic() + CLOSE_SECONDS
        while any(not is_over(piece.event) for piece in pieces) and time.monotonic() < end:
            time.sleep(COPY_LOOK_US * 1e-6)
        for piece in pieces:
            if piece.buffer is not None and is_over(piece.event):
                self._area.give(piece.buffer)
            piece.buffer = None
        self._jobs, self._moving, self._said = {}, {}, []

    # ---- the proof at start ----

    def block_read(self, group: int, engine_block: int, payload_bytes: int) -> bytes:
        buffer = self._taken(group, STORE)
        self._finish(self._area.copy_in(buffer, numpy.array([engine_block])))
        payload = self._inner.block_read(group, buffer.first_row, payload_bytes)
        self._area.give(buffer)
        return payload

    def block_write(self, group: int, engine_block: int, payload: bytes) -> None:
        buffer = self._taken(group, LOAD)
        self._inner.block_write(group, buffer.first_row, payload)
        self._finish(self._area.copy_out(buffer, numpy.array([0]), numpy.array([engine_block])))
        self._area.give(buffer)

    def _taken(self, group: int, direction: int) -> Buffer:
        buffer = self._area.take(group, direction)
        assert buffer is not None, 'all buffers are free at start'
        return buffer

    @staticmethod
    def _finish(event: Any) -> None:
        if event is not None:
            event.synchronize()


def _completion(job: _Job) -> library.Completion:
    count = sum(len(piece.blocks) for piece in job.pieces)
    good = sum(piece.good_count for piece in job.pieces)
    ended = next((piece.ended for piece in job.pieces if piece.ended != header.DONE), header.DONE)
    results = [] if good == count else numpy.concatenate(
        [piece.results for piece in job.pieces]).tolist()
    return library.Completion(job.number, job.is_store, ended, True, count, good, results)
