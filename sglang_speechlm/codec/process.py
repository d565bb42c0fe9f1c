"""One life of the codec worker, seen from the HTTP process."""

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
from sglang_speechlm.process.heartbeat import HUNG_SECONDS, INTERVAL_SECONDS, START_SECONDS, Heartbeat, Silence

logger = logging.getLogger(__name__)

_RECEIVE_BYTES = 1 << 18
_EXIT_SECONDS = 5.0
_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Spawned:
    """A worker that imports what it needs, and then waits to be told what to load.

    Args:
        process: it; ends when its connection is closed.
        connection: our end.
        heartbeat: its own.
    """

    process: BaseProcess
    connection: socket.socket
    heartbeat: Heartbeat


def spawn(method: Literal["spawn", "fork"] = "spawn") -> Spawned:
    """Start a worker ahead of time: its imports take seconds.

    Must be called in a thread that lives as long as the worker shall: the worker dies with it.

    Args:
        method: ``spawn`` for a fresh interpreter; ``fork`` for a copy of this process, which need not import again what
            is imported here, but must be made before threads run here that a fork would hurt, and without CUDA.
    """
    context: ForkContext | SpawnContext = ForkContext() if method == "fork" else SpawnContext()
    with contextlib.ExitStack() as undo:
        heartbeat = Heartbeat()
        undo.callback(heartbeat.close)
        ours, theirs = socket.socketpair()
        undo.enter_context(ours)
        # A copy that kept our end open would never see it closed.
        inherited = (ours,) if method == "fork" else ()
        with theirs:
            process = context.Process(target=_work, args=(theirs, heartbeat, *inherited), daemon=True)
            process.start()
        undo.pop_all()
    return Spawned(process, ours, heartbeat)


def _work(connection: socket.socket, heartbeat: Heartbeat, *inherited: socket.socket) -> None:
    """Be the worker, which alone imports the codec."""
    for parents in inherited:
        parents.close()
    from sglang_speechlm.codec.worker.main import main

    sys.exit(main(connection, heartbeat))


class WorkerProcess:
    """A worker that is ready, and the streams that are in it. Made by ``launch``."""

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
    async def launch(cls, options: WorkerOptions, spawned: Spawned | None = None) -> WorkerProcess:
        """Have a worker load its codec: the one that is spawned already, or one that is spawned now, by this thread.

        Raises:
            CodecError: if the codec can't be loaded or the worker dies before it is.
            OSError: if no process can be started.
        """
        spawned = spawned or spawn()
        with contextlib.ExitStack() as undo:
            undo.callback(spawned.heartbeat.close)
            undo.callback(spawned.process.kill)
            undo.callback(spawned.connection.close)
            reader, writer = await asyncio.open_unix_connection(sock=spawned.connection)
            undo.callback(writer.transport.abort)
            worker = cls(spawned, reader, writer)
            worker.send(options)
            async with worker._watched(START_SECONDS):
                match await worker._receive():
                    case [Ready()]:
                        undo.pop_all()
                        return worker
                    case [StartFailed(reason)]:
                        raise CodecError(f"the audio decoder could not start: {reason}")
            raise CodecError(f"the audio decoder could not start: it {await worker.end()}")

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process.pid is not None
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

    @property
    def silent_seconds(self) -> float:
        """Since it gave a sign of life."""
        return self._silence.seconds

    async def serve(self) -> None:
        """Pass replies on to their streams until the worker ends; one that hangs is killed."""
        async with self._watched(HUNG_SECONDS):
            while messages := await self._receive():
                for message in messages:
                    self._dispatch(message)

    async def reap(self) -> str:
        """Close the connection, which ends the process, and give up what belongs to it. Says in words how it ended."""
        try:
            return await self.end()
        finally:
            self._heartbeat.close()

    async def end(self) -> str:
        """Close the connection, and say in words how the process ended, which is killed if it goes on."""
        self._writer.close()
        try:
            await self._exited(_EXIT_SECONDS)
        finally:
            self._process.kill()
        await self._exited(_EXIT_SECONDS)
        match self._process.exitcode:
            case None:
                return "does not end, although it was killed"
            case status if status < 0:
                return f"was killed by {signal.Signals(-status).name}"
            case status:
                return f"exited with status {status}"

    async def _exited(self, seconds: float) -> None:
        """Wait for the end of the process, so long at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._process.exitcode is None:
                    await asyncio.sleep(_POLL_SECONDS)

    def fail_all(self, reason: str) -> None:
        """Fail every stream that is still in this worker, which holds none any more."""
        for stream in list(self.streams.values()):
            stream.fail(reason)
        self._holds(0)

    async def stop(self) -> None:
        """End the process at once: it has nothing to save."""
        self._process.kill()
        await self.reap()

    @contextlib.asynccontextmanager
    async def _watched(self, patience: float) -> AsyncIterator[None]:
        """Kill the process if it gives no sign of life for ``patience`` seconds while this context is open."""
        watching = asyncio.create_task(self._kill_when_silent(patience))
        try:
            yield
        finally:
            watching.cancel()

    async def _kill_when_silent(self, patience: float) -> None:
        while self._silence.look() < patience:
            await asyncio.sleep(INTERVAL_SECONDS)
        logger.error("The audio decoder has given no sign of life for %g s; killing it", patience)
        self._process.kill()

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
