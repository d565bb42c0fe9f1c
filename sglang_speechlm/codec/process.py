"""One life of the codec worker, seen from the HTTP process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass

from sglang_speechlm import metrics
from sglang_speechlm.codec.protocol import (
    End,
    MessageReader,
    Open,
    Piece,
    Ready,
    Refused,
    Reply,
    Request,
    Slots,
    StartFailed,
    WorkerOptions,
    encode,
)
from sglang_speechlm.codec.stream import CodecError, CodecStream

_RECEIVE_BYTES = 1 << 18
_EXIT_SECONDS = 5.0


@dataclass(frozen=True)
class Spawned:
    """A worker that imports what it needs, and then waits to be told what to load.

    Args:
        process: it; ends when its connection is closed.
        connection: our end.
    """

    process: subprocess.Popen[bytes]
    connection: socket.socket


def spawn() -> Spawned:
    """Start a worker ahead of time: its imports take seconds.

    Must be called in a thread that lives as long as the worker shall: the worker dies with it.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", "sglang_speechlm.codec.worker.main", str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    return Spawned(process, ours)


class WorkerProcess:
    """A worker that is ready, and the streams that are in it. Made by ``launch``."""

    def __init__(
        self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._messages = MessageReader()
        self._numbers = itertools.count()
        self.streams: dict[int, CodecStream] = {}
        self.slots = 0
        self.has_answered = False

    @classmethod
    async def launch(cls, options: WorkerOptions, spawned: Spawned | None = None) -> WorkerProcess:
        """Have a worker load its codec: the one that is spawned already, or one that is spawned now, by this thread.

        Raises:
            CodecError: if the codec can't be loaded or the worker dies before it is.
        """
        spawned = spawned or spawn()
        reader, writer = await asyncio.open_unix_connection(sock=spawned.connection)
        worker = cls(spawned.process, reader, writer)
        try:
            worker.send(options)
            match await worker._receive():
                case [Ready()]:
                    return worker
                case [StartFailed(reason)]:
                    raise CodecError(f"the audio decoder could not start: {reason}")
                case _:
                    raise CodecError(f"the audio decoder could not start: it {await worker.reap()}")
        except BaseException:
            writer.close()
            spawned.process.kill()
            spawned.process.wait()
            raise

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def open(self, undelivered_limit: int | None) -> CodecStream:
        """A new stream, of which at most ``undelivered_limit`` pieces (None: any number) wait for their reader."""
        number = next(self._numbers)
        stream = self.streams[number] = CodecStream(number, self)
        self.send(Open(number, undelivered_limit))
        return stream

    def send(self, message: Request) -> None:
        """Queue a message for the worker; lost if it has died."""
        if not self._writer.is_closing():
            self._writer.write(encode(message))

    async def drain(self) -> None:
        """Wait until the worker takes messages again, or has died."""
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    def forget(self, stream: int) -> None:
        """Stop passing replies on to a stream."""
        self.streams.pop(stream, None)

    async def serve(self) -> None:
        """Pass replies on to their streams until the worker closes the connection."""
        while messages := await self._receive():
            for message in messages:
                self._dispatch(message)

    async def reap(self) -> str:
        """Close the connection, wait for the end of the process, and say in words how it ended."""
        self._writer.close()
        try:
            status = await asyncio.to_thread(self._process.wait, _EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = await asyncio.to_thread(self._process.wait)
        return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"

    def fail_all(self, reason: str) -> None:
        """Fail every stream that is still in this worker, which holds none any more."""
        for stream in list(self.streams.values()):
            stream.fail(reason)
        self._holds(0)

    async def stop(self) -> None:
        """End the process at once: it has nothing to save."""
        self._process.kill()
        await self.reap()

    async def _receive(self) -> list[Request | Reply]:
        """The next messages; none once the connection is closed."""
        messages: list[Request | Reply] = []
        with contextlib.suppress(ConnectionError):
            while not messages and (data := await self._reader.read(_RECEIVE_BYTES)):
                messages = self._messages.feed(data)
        return messages

    def _dispatch(self, message: Request | Reply) -> None:
        match message:
            case Piece(number) | End(number) | Refused(number):
                self.has_answered = True
                if number in self.streams:  # else it was closed while this was on its way
                    self.streams[number].receive(message)
            case Slots(count):
                self._holds(count)

    def _holds(self, slots: int) -> None:
        self.slots = slots
        metrics.CODEC_SLOTS.set(slots)
