"""The HTTP process's end of one stream: codes in, samples out."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sglang_speechlm.codec.protocol import Close, Delivered, End, Finish, Piece, Push, Refused, Request
from sglang_speechlm.codec.wav import Samples


class CodecError(RuntimeError):
    """The codec process could not decode; the message says why."""


class Channel(Protocol):
    """The connection to the codec process, as a stream uses it."""

    def send(self, message: Request) -> None:
        """Queue a message for the codec process."""

    async def drain(self) -> None:
        """Wait until the codec process accepts messages again."""

    def forget(self, stream: int) -> None:
        """Stop passing replies on to a stream."""


class CodecStream:
    """One answer being decoded: an asynchronous iterator over pieces of sound.

    The concatenated pieces equal a decode of all pushed codes at once, at the stream's rate. Only a bounded number of
    pieces wait for a slow reader; beyond that, nothing more is decoded for it.
    """

    def __init__(self, number: int, channel: Channel) -> None:
        self._number = number
        self._channel = channel
        self._pieces: deque[Samples] = deque()
        self._changed = asyncio.Event()
        self._over = False
        self._error: str | None = None

    @property
    def undelivered(self) -> int:
        """Number of pieces that have been received but not read."""
        return len(self._pieces)

    async def push(self, codes: npt.NDArray[np.integer]) -> None:
        """Append ``[n, S]`` codes (delay removed); wait only until the codec process accepts messages.

        Invalid codes fail the stream: its iterator raises.

        Raises:
            CodecError: if the stream has failed.
        """
        if self._error is not None:
            raise CodecError(self._error)
        self._send(Push(self._number, codes))
        await self._channel.drain()

    def finish(self) -> None:
        """Declare the end of the codes; the iterator ends after the samples of those that were pushed."""
        self._send(Finish(self._number))

    def close(self) -> None:
        """Close the stream, here and in the codec process, in any state. Idempotent."""
        self._send(Close(self._number))
        self._end()
        self._pieces.clear()

    def __aiter__(self) -> CodecStream:
        return self

    async def __anext__(self) -> Samples:
        """Return the next piece.

        Raises:
            CodecError: if the stream failed, because its codes were invalid or the process died.
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
        """Handle a reply of the codec process for this stream."""
        match reply:
            case Piece(_, samples):
                self._pieces.append(samples)
                self._changed.set()
            case End():
                self._end()
            case Refused(_, reason):
                self.fail(reason)

    def fail(self, reason: str) -> None:
        """End the stream with an error, after the pieces that have been received."""
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
