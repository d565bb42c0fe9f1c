"""The audio decoder as the HTTP process sees it: always there, whatever happens to the worker behind it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sglang_speechlm import metrics
from sglang_speechlm.codec.process import Spawned, WorkerProcess
from sglang_speechlm.codec.protocol import WorkerOptions
from sglang_speechlm.codec.stream import CodecError, CodecStream
from sglang_speechlm.codec.windows import PiecePolicy
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.process.heartbeat import LATE_SECONDS
from sglang_speechlm.process.supervision import Backoff, repeat

logger = logging.getLogger(__name__)

_FIRST_DELAY_SECONDS = 0.25
_LONGEST_DELAY_SECONDS = 30.0
_STOPPED = "the audio decoder was stopped while this audio was in it"


@dataclass(frozen=True)
class CodecStats:
    """What the decoder holds at one moment.

    Args:
        streams: open streams, whole files being decoded included.
        undelivered: pieces that wait here for the readers of open streams.
        slots: streams in the worker, as it said last.
        worker_pid: the worker's process id.
        restarts: how often the worker has been started again.
    """

    streams: int
    undelivered: int
    slots: int
    worker_pid: int
    restarts: int


class CodecService:
    """Decodes codes to samples in a worker process, which it watches and restarts.

    Args:
        checkpoint: directory of the served checkpoint.
        config: its config.
        device: where the codec runs, as torch names it.
        threads: CPU threads of a decode.
        nice: added to the worker's niceness, so that on a CPU the language model goes first.
        batch_codes: codes in one decode, at most (or one window), which bounds how long others wait for it.
        undelivered_pieces: pieces of a stream that may wait for a slow reader.
        restart_seconds: how long a request waits for a worker that is being restarted, if nothing goes wrong with that.
        policy: the sizes of a stream's pieces.
        spawned: the first worker's process, where it is there already.
    """

    def __init__(
        self,
        checkpoint: Path,
        config: SpeechLMConfig,
        *,
        device: str = "cpu",
        threads: int = 1,
        nice: int = 10,
        batch_codes: int = 320,
        undelivered_pieces: int = 4,
        restart_seconds: float = 18.0,
        policy: PiecePolicy | None = None,
        spawned: Spawned | None = None,
    ) -> None:
        policy = policy or PiecePolicy()
        self._options = WorkerOptions(checkpoint, config, device, threads, nice, batch_codes, policy)
        self._undelivered_pieces = undelivered_pieces
        self._restart_seconds = restart_seconds
        self._spawned = spawned
        self._worker: WorkerProcess | None = None
        self._changed = asyncio.Condition()
        self._supervisor: asyncio.Task[None] | None = None
        self._backoff = Backoff(_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS)
        self._away_since = 0.0
        self._failure: str | None = None
        self._restarts = 0

    async def start(self) -> None:
        """Start the worker and wait until its codec is loaded.

        Raises:
            CodecError: if the codec can't be loaded, naming what is wrong with it.
        """
        spawned, self._spawned = self._spawned, None
        self._worker = await WorkerProcess.launch(self._options, spawned)
        self._supervisor = asyncio.create_task(repeat(self._live, self._backoff, expected=CodecError))

    async def stop(self) -> None:
        """End the worker; requests in it fail. Idempotent, and never fails."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return
        supervisor.cancel()
        await asyncio.gather(supervisor, return_exceptions=True)
        worker, self._worker = self._worker, None
        await self._tell()
        if worker is not None:
            worker.fail_all(_STOPPED)  # the supervisor may never have run
            await worker.stop()

    def trouble(self) -> str | None:
        """Why no sound is decoded at present; None if all is well, or has been a few seconds ago."""
        if self._supervisor is None or self._supervisor.done():
            return "the audio decoder is not supervised"
        if self._worker is not None:
            return "the audio decoder does not respond" if self._worker.silent_seconds > LATE_SECONDS else None
        is_away = self._failure is not None or time.monotonic() - self._away_since > LATE_SECONDS
        return "the audio decoder is being restarted" if is_away else None

    def check(self) -> None:
        """Raises:
        CodecError: if no sound can be made at present, so that a request need not be begun.
        """
        if reason := self.trouble():
            raise CodecError(reason)

    async def decode(self, codes: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """Decode ``[T, S]`` codes (delay removed) to ``[T * hop]`` samples. Cancelling drops the work.

        Raises:
            CodecError: if the codes are wrong, or the worker died while it decoded them.
        """
        async with self._open(undelivered_limit=None) as stream:
            await stream.push(codes)
            stream.finish()
            pieces = [piece async for piece in stream]
        return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.float32)

    def open_stream(self) -> contextlib.AbstractAsyncContextManager[CodecStream]:
        """A stream for one answer, to be used in ``async with``, which frees it whatever happens.

        Raises:
            CodecError: on entering, if the worker is down and does not come back in time.
        """
        return self._open(self._undelivered_pieces)

    async def stats(self) -> CodecStats:
        """What is open here and in the worker.

        Raises:
            CodecError: if the worker is down and does not come back in time.
        """
        worker = await self._running()
        undelivered = sum(stream.undelivered for stream in worker.streams.values())
        return CodecStats(len(worker.streams), undelivered, worker.slots, worker.pid, self._restarts)

    @contextlib.asynccontextmanager
    async def _open(self, undelivered_limit: int | None) -> AsyncIterator[CodecStream]:
        worker = await self._running()
        stream = worker.open(undelivered_limit)
        metrics.CODEC_STREAMS.add(1)
        try:
            yield stream
        finally:
            stream.close()
            metrics.CODEC_STREAMS.add(-1)

    async def _running(self) -> WorkerProcess:
        """The worker, once it runs.

        Raises:
            CodecError: if it does not come back in time.
        """
        if self._supervisor is None:
            raise CodecError("the audio decoder is not running")
        try:
            async with asyncio.timeout(self._restart_seconds), self._changed:
                await self._changed.wait_for(
                    lambda: self._worker is not None or self._supervisor is None or self._failure is not None
                )
        except TimeoutError:
            raise CodecError(
                f"the audio decoder is being restarted and was not back within {self._restart_seconds:g} s"
            ) from None
        if self._worker is None:
            raise CodecError(self._failure or "the audio decoder was stopped")
        return self._worker

    async def _live(self) -> None:
        """See a worker to its end: the present one, or else a new one.

        Raises:
            CodecError: how it ended, or why it could not be started.
        """
        worker = self._worker or await self._restart()
        try:
            await worker.serve()
        except Exception:
            logger.exception("The audio decoder cannot be understood")
        self._worker, self._away_since = None, time.monotonic() - worker.silent_seconds
        reason = _STOPPED
        try:
            end = await worker.reap()
            reason = f"the audio decoder was restarted while this audio was in it: it {end}"
        finally:
            worker.fail_all(reason)
        if worker.has_answered:
            self._backoff.reset()
        raise CodecError(f"The audio decoder {end}")

    async def _restart(self) -> WorkerProcess:
        try:
            worker = await WorkerProcess.launch(self._options)
        except Exception as error:
            self._failure = f"the audio decoder could not be restarted: {error}"
            await self._tell()
            raise
        self._restarts += 1
        metrics.CODEC_RESTARTS.add()
        self._worker, self._failure = worker, None
        await self._tell()
        return worker

    async def _tell(self) -> None:
        """Have requests that wait for a worker look again."""
        async with self._changed:
            self._changed.notify_all()
