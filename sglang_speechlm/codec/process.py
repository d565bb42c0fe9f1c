"""One codec process from start to end, seen from the HTTP process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from multiprocessing.context import ForkContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Literal

from sglang_speechlm import metrics
from sglang_speechlm.codec.protocol import (
    CodecOptions,
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
    encode,
)
from sglang_speechlm.codec.stream import CodecError, CodecStream
from sglang_speechlm.codec.windows import Context
from sglang_speechlm.process.heartbeat import HUNG_SECONDS, INTERVAL_SECONDS, START_SECONDS, Heartbeat, Silence

logger = logging.getLogger(__name__)

_RECEIVE_BYTES = 1 << 18
_EXIT_SECONDS = 5.0
_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Spawned:
    """A codec process that has started its imports and waits for its options.

    Args:
        process: ends when its connection is closed.
        connection: the parent's end.
        heartbeat: of the process.
    """

    process: BaseProcess
    connection: socket.socket
    heartbeat: Heartbeat


def spawn(method: Literal["spawn", "fork"] = "spawn") -> Spawned:
    """Start a codec process ahead of time, because its imports take seconds.

    Call it in a thread that outlives the process: the process dies with that thread.

    Args:
        method: ``spawn`` for a fresh interpreter; ``fork`` for a copy of this process, which already has this process's
            imports, but must be made before CUDA is used and before threads run that do not survive a fork.
    """
    context: ForkContext | SpawnContext = ForkContext() if method == "fork" else SpawnContext()
    with contextlib.ExitStack() as undo:
        heartbeat = Heartbeat()
        undo.callback(heartbeat.close)
        parent_end, child_end = socket.socketpair()
        undo.enter_context(parent_end)
        # A fork that kept the parent's end open would never see it closed.
        inherited = (parent_end,) if method == "fork" else ()
        with child_end:
            process = context.Process(target=_run, args=(child_end, heartbeat, *inherited), daemon=True)
            process.start()
        undo.pop_all()
    return Spawned(process, parent_end, heartbeat)


def _run(connection: socket.socket, heartbeat: Heartbeat, *inherited: socket.socket) -> None:
    """Run the codec process, the only one that imports the codec."""
    for parents in inherited:
        parents.close()
    from sglang_speechlm.codec.worker.main import main

    sys.exit(main(connection, heartbeat))


class CodecProcess:
    """A codec process that is ready, and its streams. Use ``launch`` to create one.

    Attributes:
        context: of the codec's decoder.
        streams: the open streams, by their numbers.
        slots: streams in the codec process, as last reported.
        has_answered: whether it has replied to a stream.
    """

    context: Context

    def __init__(self, spawned: Spawned, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process = spawned.process
        self._heartbeat = spawned.heartbeat
        self._silence = Silence(spawned.heartbeat)
        self._reader = reader
        self._writer = writer
        self._messages = MessageReader()
        self._numbers = itertools.count()
        self.streams: dict[int, CodecStream] = {}
        self.slots = 0
        self.has_answered = False

    @classmethod
    async def launch(cls, options: CodecOptions, spawned: Spawned | None = None) -> CodecProcess:
        """Let a process load its codec: ``spawned``, or one that this thread spawns now.

        Raises:
            CodecError: if the codec can't be loaded, or the process dies first.
            OSError: if no process can be started.
        """
        spawned = spawned or spawn()
        with contextlib.ExitStack() as undo:
            undo.callback(spawned.heartbeat.close)
            undo.callback(spawned.process.kill)
            undo.callback(spawned.connection.close)
            reader, writer = await asyncio.open_unix_connection(sock=spawned.connection)
            undo.callback(writer.transport.abort)
            process = cls(spawned, reader, writer)
            process.send(options)
            async with process._watched(START_SECONDS):
                match await process._receive():
                    case [Ready(context)]:
                        process.context = context
                        undo.pop_all()
                        return process
                    case [StartFailed(reason)]:
                        raise CodecError(f"the codec process could not start: {reason}")
            raise CodecError(f"the codec process could not start: it {await process.end()}")

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process.pid is not None
        return self._process.pid

    def open(self, undelivered_limit: int, rate: int | None) -> CodecStream:
        """Open a stream, with the values of ``Open``."""
        number = next(self._numbers)
        stream = self.streams[number] = CodecStream(number, self)
        self.send(Open(number, undelivered_limit, rate))
        return stream

    def send(self, message: Request) -> None:
        """Queue a message for the process; it is lost if the process has died."""
        if not self._writer.is_closing():
            self._writer.write(encode(message))

    async def drain(self) -> None:
        """Wait until the process accepts messages again, or has died."""
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    def forget(self, stream: int) -> None:
        """Stop passing replies on to a stream."""
        self.streams.pop(stream, None)

    @property
    def silent_seconds(self) -> float:
        """Seconds since its last heartbeat."""
        return self._silence.seconds

    async def serve(self) -> None:
        """Pass replies on to their streams until the process ends; kill it if it hangs."""
        async with self._watched(HUNG_SECONDS):
            while messages := await self._receive():
                for message in messages:
                    self._dispatch(message)

    async def reap(self) -> str:
        """Close the connection, which ends the process, and release its resources. Return how it ended, in words."""
        try:
            return await self.end()
        finally:
            self._heartbeat.close()

    async def end(self) -> str:
        """Close the connection, kill the process if it continues, and return how it ended, in words."""
        self._writer.close()
        try:
            await self._exited(_EXIT_SECONDS)
        finally:
            self._process.kill()
        await self._exited(_EXIT_SECONDS)
        match self._process.exitcode:
            case None:
                return "did not exit after it was killed"
            case status if status < 0:
                return f"was killed by {signal.Signals(-status).name}"
            case status:
                return f"exited with status {status}"

    async def _exited(self, seconds: float) -> None:
        """Wait for the end of the process, for at most ``seconds``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._process.exitcode is None:
                    await asyncio.sleep(_POLL_SECONDS)

    def fail_all(self, reason: str) -> None:
        """Fail every stream that is still open in this process."""
        for stream in list(self.streams.values()):
            stream.fail(reason)
        self._holds(0)

    async def stop(self) -> None:
        """End the process at once; it has nothing to save."""
        self._process.kill()
        await self.reap()

    @contextlib.asynccontextmanager
    async def _watched(self, patience: float) -> AsyncIterator[None]:
        """Kill the process if it has no heartbeat for ``patience`` seconds while this context is open."""
        watching = asyncio.create_task(self._kill_when_silent(patience))
        try:
            yield
        finally:
            watching.cancel()

    async def _kill_when_silent(self, patience: float) -> None:
        while self._silence.look() < patience:
            await asyncio.sleep(INTERVAL_SECONDS)
        logger.error("No heartbeat from the codec process for %g s; killing it", patience)
        self._process.kill()

    async def _receive(self) -> list[Request | Reply]:
        """Return the next messages; none once the connection is closed."""
        messages: list[Request | Reply] = []
        with contextlib.suppress(ConnectionError):
            while not messages and (data := await self._reader.read(_RECEIVE_BYTES)):
                messages = self._messages.feed(data)
        return messages

    def _dispatch(self, message: Request | Reply) -> None:
        match message:
            case Piece(number) | End(number) | Refused(number):
                self.has_answered = True
                if number in self.streams:  # else it was closed while the message was in transit
                    self.streams[number].receive(message)
            case Slots(count):
                self._holds(count)

    def _holds(self, slots: int) -> None:
        self.slots = slots
        metrics.CODEC_SLOTS.set(slots)
