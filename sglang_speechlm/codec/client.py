"""The codec process as the HTTP process sees it: always available, whatever happens to the process behind it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from sglang_speechlm import metrics
from sglang_speechlm.codec.process import CodecProcess, Spawned
from sglang_speechlm.codec.protocol import CodecOptions
from sglang_speechlm.codec.stream import CodecError, CodecStream
from sglang_speechlm.codec.windows import PiecePolicy
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.process.heartbeat import LATE_SECONDS
from sglang_speechlm.process.supervision import Backoff, repeat

logger = logging.getLogger(__name__)

_FIRST_DELAY_SECONDS = 0.25
_LONGEST_DELAY_SECONDS = 30.0
_STOPPED = "the codec process was stopped before this audio was complete"


@dataclass(frozen=True)
class CodecStats:
    """The state of the codec process at one moment.

    Args:
        streams: open streams.
        undelivered: pieces that wait in the HTTP process for the readers of open streams.
        slots: streams in the codec process, as last reported.
        pid: its process id.
        restarts: number of restarts.
    """

    streams: int
    undelivered: int
    slots: int
    pid: int
    restarts: int


@dataclass(frozen=True)
class Pace:
    """How a codec process shares its device.

    Attributes:
        nice: added to its niceness.
        batch_codes: maximum codes in one decode, which bounds how long others wait for it.
    """

    nice: int
    batch_codes: int


def pace(device: str) -> Pace:
    """Return the usual pace on a torch device.

    On a CPU, the codec competes with the language model, which must not wait for it. Beside a GPU, it only launches
    kernels: if it were niced, the GPU would wait for it, and small batches would leave most of the GPU idle.
    """
    return Pace(nice=10, batch_codes=320) if device.startswith("cpu") else Pace(nice=0, batch_codes=640)


class CodecService:
    """Decodes codes to samples in the codec process, which it watches and restarts.

    Args:
        checkpoint: directory of the served checkpoint.
        config: its config.
        device: torch device of the codec.
        threads: CPU threads for decoding.
        nice: added to the process's niceness; by default, as ``pace`` says.
        batch_codes: maximum codes in one decode (but at least one window); by default, as ``pace`` says.
        undelivered_pieces: maximum pieces of a stream that wait for a slow reader.
        restart_seconds: how long a request waits for a restart of the process, unless the restart fails.
        policy: the sizes of a stream's pieces.
        spawned: the first process, if it has been spawned already.
    """

    def __init__(
        self,
        checkpoint: Path,
        config: SpeechLMConfig,
        *,
        device: str = "cpu",
        threads: int = 1,
        nice: int | None = None,
        batch_codes: int | None = None,
        undelivered_pieces: int = 4,
        restart_seconds: float = 18.0,
        policy: PiecePolicy | None = None,
        spawned: Spawned | None = None,
    ) -> None:
        policy = policy or PiecePolicy()
        usual = pace(device)
        nice = usual.nice if nice is None else nice
        batch_codes = usual.batch_codes if batch_codes is None else batch_codes
        self._options = CodecOptions(checkpoint, config, device, threads, nice, batch_codes, policy)
        self._undelivered_pieces = undelivered_pieces
        self._restart_seconds = restart_seconds
        self._spawned = spawned
        self._process: CodecProcess | None = None
        self._pieces: tuple[int, ...] | None = None
        self._changed = asyncio.Condition()
        self._supervisor: asyncio.Task[None] | None = None
        self._backoff = Backoff(_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS)
        self._away_since = 0.0
        self._failure: str | None = None
        self._restarts = 0

    async def start(self) -> None:
        """Start the process and wait until its codec is loaded.

        Raises:
            CodecError: if the codec can't be loaded, with the reason.
        """
        spawned, self._spawned = self._spawned, None
        self._process = await CodecProcess.launch(self._options, spawned)
        lag = self._process.context.right + self._options.config.num_stream - 1
        self._pieces = self._options.policy.completed_by(lag)
        self._supervisor = asyncio.create_task(repeat(self._live, self._backoff, expected=CodecError))

    async def stop(self) -> None:
        """End the process; its requests fail. Idempotent; never raises."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return
        supervisor.cancel()
        await asyncio.gather(supervisor, return_exceptions=True)
        process, self._process = self._process, None
        await self._wake_waiting()
        if process is not None:
            process.fail_all(_STOPPED)  # the supervisor may never have run
            await process.stop()

    @property
    def piece_frames(self) -> tuple[int, ...]:
        """How many more frames complete each piece of a stream; the last number repeats. Only after ``start``."""
        assert self._pieces is not None, "the codec has not been started"
        return self._pieces

    def trouble(self) -> str | None:
        """Return why no sound is decoded at present; None if all is well, or was a few seconds ago."""
        if self._supervisor is None or self._supervisor.done():
            return "the codec process is not supervised"
        if self._process is not None:
            return "the codec process does not respond" if self._process.silent_seconds > LATE_SECONDS else None
        is_away = self._failure is not None or time.monotonic() - self._away_since > LATE_SECONDS
        return "the codec process is being restarted" if is_away else None

    def check(self) -> None:
        """Check that sound can be made at present, before a request is started.

        Raises:
            CodecError: if it can't, with the reason.
        """
        if reason := self.trouble():
            raise CodecError(reason)

    @contextlib.asynccontextmanager
    async def open_stream(self, rate: int | None = None) -> AsyncIterator[CodecStream]:
        """Open a stream for one answer, and free it in the end.

        Args:
            rate: in Hz; its pieces are 16-bit PCM at this rate. None for float samples at the codec's rate.

        Raises:
            CodecError: if the process is down and is not restarted in time.
        """
        process = await self._running()
        stream = process.open(self._undelivered_pieces, rate)
        metrics.CODEC_STREAMS.add(1)
        try:
            yield stream
        finally:
            stream.close()
            metrics.CODEC_STREAMS.add(-1)

    async def stats(self) -> CodecStats:
        """Return the numbers of open streams here and in the codec process.

        Raises:
            CodecError: if the process is down and is not restarted in time.
        """
        process = await self._running()
        undelivered = sum(stream.undelivered for stream in process.streams.values())
        return CodecStats(len(process.streams), undelivered, process.slots, process.pid, self._restarts)

    async def _running(self) -> CodecProcess:
        """Wait until the process runs, and return it.

        Raises:
            CodecError: if it is not restarted in time.
        """
        if self._supervisor is None:
            raise CodecError("the codec process is not running")
        try:
            async with asyncio.timeout(self._restart_seconds), self._changed:
                await self._changed.wait_for(
                    lambda: self._process is not None or self._supervisor is None or self._failure is not None
                )
        except TimeoutError:
            raise CodecError(f"the codec process was not restarted within {self._restart_seconds:g} s") from None
        if self._process is None:
            raise CodecError(self._failure or "the codec process was stopped")
        return self._process

    async def _live(self) -> None:
        """Serve the current process, or else a new one, until it ends.

        Raises:
            CodecError: always; how it ended, or why it could not be started.
        """
        process = self._process or await self._restart()
        try:
            await process.serve()
        except Exception:
            logger.exception("The codec process sent an invalid message")
        self._process, self._away_since = None, time.monotonic() - process.silent_seconds
        reason = _STOPPED
        try:
            end = await process.reap()
            reason = f"the codec process was restarted before this audio was complete: it {end}"
        finally:
            process.fail_all(reason)
        if process.has_answered:
            self._backoff.reset()
        raise CodecError(f"The codec process {end}")

    async def _restart(self) -> CodecProcess:
        try:
            process = await CodecProcess.launch(self._options)
        except Exception as error:
            self._failure = f"the codec process could not be restarted: {error}"
            await self._wake_waiting()
            raise
        self._restarts += 1
        metrics.CODEC_RESTARTS.add()
        self._process, self._failure = process, None
        await self._wake_waiting()
        return process

    async def _wake_waiting(self) -> None:
        """Wake the requests that wait for a process."""
        async with self._changed:
            self._changed.notify_all()
