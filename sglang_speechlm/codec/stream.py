"""The HTTP process's end of one stream: codes go in, samples come out."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sglang_speechlm.codec.protocol import Close, Delivered, End, Finish, Piece, Push, Refused, Request


class CodecError(RuntimeError):
    """The audio decoder could not decode; says why."""


class Channel(Protocol):
    """What a stream needs of the worker that decodes it."""

    def send(self, message: Request) -> None:
        """Queue a message for the worker."""

    async def drain(self) -> None:
        """Wait until the worker takes messages again."""

    def forget(self, stream: int) -> None:
        """Stop passing replies on to a stream."""


class CodecStream:
    """One answer being decoded: an asynchronous iterator over pieces of float32 samples.

    Pieces, joined, equal the whole decode of all codes that were pushed. A reader that does not read has a bounded
    number of pieces waiting for it, after which nothing more is decoded for it.
    """

    def __init__(self, number: int, channel: Channel) -> None:
        self._number = number
        self._channel = channel
        self._pieces: deque[npt.NDArray[np.float32]] = deque()
        self._changed = asyncio.Event()
        self._over = False
        self._error: str | None = None

    @property
    def undelivered(self) -> int:
        """Pieces that were received and not read yet."""
        return len(self._pieces)

    async def push(self, codes: npt.NDArray[np.integer]) -> None:
        """Append ``[n, S]`` codes (delay removed); waits only for the way to the worker to be free.

        Wrong codes fail the stream: its iterator raises.

        Raises:
            CodecError: if the stream has failed.
        """
        if self._error is not None:
            raise CodecError(self._error)
        self._send(Push(self._number, codes))
        await self._channel.drain()

    def finish(self) -> None:
        """No more codes will come: the iterator ends after the samples of those that were pushed."""
        self._send(Finish(self._number))

    def close(self) -> None:
        """Give the stream up, here and in the worker, wherever it is. Idempotent."""
        self._send(Close(self._number))
        self._end()
        self._pieces.clear()

    def __aiter__(self) -> CodecStream:
        return self

    async def __anext__(self) -> npt.NDArray[np.float32]:
        """The next piece.

        Raises:
            CodecError: if the stream failed: its codes were wrong, or the worker died.
        """
        while not self._pieces:
            if self._error is not None:
                raise CodecError(self._error)
            if self._over:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        self._send(Delivered(self._number))
        return self._pieces.popleft()

    def receive(self, reply: Piece | End | Refused) -> None:
        """Take what the worker says of this stream."""
        match reply:
            case Piece(_, samples):
                self._pieces.append(samples)
                self._changed.set()
            case End():
                self._end()
            case Refused(_, reason):
                self.fail(reason)

    def fail(self, reason: str) -> None:
        """End the stream with an error, after the pieces that are there."""
        self._error = reason
        self._end()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._channel.forget(self._number)
            self._changed.set()

    def _send(self, message: Request) -> None:
        if not self._over:
            self._channel.send(message)
