"""The life of the serving process: start, serving, stop, and its exit status."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from enum import Enum, auto
from typing import Any, NoReturn

from fastapi import FastAPI

from sglang_speechlm.process.exit_status import ExitStatus
from sglang_speechlm.process.heartbeat import Heartbeat
from sglang_speechlm.process.keeper import remove_at_end
from sglang_speechlm.process.port import ReservedPort
from sglang_speechlm.server.edge.errors import ApiError
from sglang_speechlm.sglang_hooks import http
from sglang_speechlm.sglang_hooks.launch import left_behind, make_tokenizer_manager

logger = logging.getLogger(__name__)

STOP_SECONDS = 10.0
"""Maximum time from the last answer to the end of the process."""

_CUT_OFF_SECONDS = 3.0
"""Time for answers that are cut off to send their errors."""
_RETRY_SECONDS = 5


class _State(Enum):
    STARTING = auto()
    SERVING = auto()
    STOPPING = auto()


class Life:
    """Decides whether requests are served, and ends the process.

    Attributes:
        status: the exit status.
        has_served: whether the server has been ready.
    """

    def __init__(self, drain_seconds: float, heartbeat: Heartbeat, port: ReservedPort) -> None:
        """Take the time that running answers have when the server is stopped, the event loop's heartbeat, and the port.

        The reservation of the port is released when the server serves.
        """
        self.status = ExitStatus.STOPPED
        self.has_served = False
        self._drain_seconds = drain_seconds
        self._heartbeat = heartbeat
        self._port = port
        self._state = _State.STARTING
        self._running: set[asyncio.Task[None]] = set()
        self._cut_off: str | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._announcement = _Announcement()

    # For requests

    def refusal(self) -> ApiError | None:
        """Return why requests are refused at present, a 503; None if they are served."""
        if self._state is _State.STARTING:
            return ApiError(503, "the server is warming up", code="starting", retry_after=_RETRY_SECONDS)
        if self._state is _State.STOPPING:
            return ApiError(503, "the server is stopping", code="stopping", retry_after=_RETRY_SECONDS)
        return None

    async def run(self, answering: Awaitable[None]) -> None:
        """Await an answer that must be finished before the process ends.

        Raises:
            ApiError: 503 if it was cut off.
        """
        work = asyncio.ensure_future(answering)
        self._running.add(work)
        try:
            await work
        except asyncio.CancelledError:
            if self._cut_off is None:
                raise
            raise ApiError(503, self._cut_off, code="stopping") from None
        finally:
            self._running.discard(work)

    # For the process

    def install(self, app: FastAPI) -> None:
        """Handle signals from the start of the application on."""
        lifespan = app.router.lifespan_context

        @asynccontextmanager
        async def with_signals(app: FastAPI) -> AsyncIterator[Any]:
            self._loop = asyncio.get_running_loop()
            self._heartbeat.beat_by_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self.stop)
            self._loop.add_signal_handler(signal.SIGQUIT, self.part_died)
            original: AbstractAsyncContextManager[Any] = lifespan(app)
            async with original as state:
                yield state

        app.router.lifespan_context = with_signals

    def make_tokenizer_manager(self, server_args: Any, port_args: Any) -> Any:
        """Create SGLang's TokenizerManager, whose signals end this server in order."""
        signal.signal(signal.SIGQUIT, _could_not_start)
        remove_at_end(left_behind(port_args))
        return make_tokenizer_manager(server_args, port_args, on_sigterm=self.stop, on_sigquit=self.part_died)

    def up(self) -> None:
        """Start to serve; called in another thread."""
        self._loop.call_soon_threadsafe(self._up)

    def warm_up_failed(self) -> None:
        """End the process, unless it is stopping already, which fails the warm-up, too; called in another thread."""
        self._loop.call_soon_threadsafe(self._warm_up_failed)

    def stop(self) -> None:
        """Finish the running answers, and end."""
        was_serving = self._state is _State.SERVING
        if self._state is not _State.STOPPING:
            self._state = _State.STOPPING
            left = f"{len(self._running)} running, {self._drain_seconds:g} s to finish" if was_serving else "at once"
            logger.warning("SIGTERM received, stopping: %s", left)
            self._stopping = self._loop.create_task(self._drain(self._drain_seconds if was_serving else 0.0))

    def part_died(self) -> None:
        """End the process, because SGLang's watchdog reports that a scheduler or the detokenizer is gone."""
        self._end(ExitStatus.PART_DIED, "a process of this server died")

    def part_hangs(self, name: str) -> None:
        """End the process, because another process of the server has no heartbeat; called in another thread."""
        logger.error("The %s hangs", name)
        if self.has_served:
            self._loop.call_soon_threadsafe(self._end, ExitStatus.PART_DIED, "a process of this server hung")
        else:
            _could_not_start()

    def _up(self) -> None:
        if self._state is _State.STARTING:
            self._heartbeat.up()
            self._port.close()
            self.has_served = True
            self._state = _State.SERVING
            self._announcement.release()

    def _warm_up_failed(self) -> None:
        if self._state is _State.STARTING:
            self._end(ExitStatus.WARM_UP_FAILED, "a warm-up answer failed")

    def _end(self, status: ExitStatus, reason: str) -> None:
        """End the process without waiting for answers."""
        if self.status is ExitStatus.STOPPED:
            self.status = status
            logger.error("Stopping: %s", reason)
            if self._stopping is not None:
                self._stopping.cancel()
            self._state = _State.STOPPING
            self._stopping = self._loop.create_task(self._finish(reason))

    async def _drain(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._running:
                    await asyncio.wait(self._running)
        if self._running and self.has_served:
            self.status = ExitStatus.CUT_OFF
            logger.error("Cutting off %d answers: not finished within %g s", len(self._running), seconds)
        await self._finish("the server has stopped before this answer was complete")

    async def _finish(self, reason: str) -> None:
        self._cut_off = reason
        running = list(self._running)
        for work in running:
            work.cancel()
        if running:
            await asyncio.wait(running, timeout=_CUT_OFF_SECONDS)
        if not self.has_served:  # no requests are running, and a half-started server cannot be shut down in order
            os._exit(self.status)
        last_resort = threading.Timer(STOP_SECONDS - _CUT_OFF_SECONDS, os._exit, (self.status,))
        last_resort.daemon = True
        last_resort.start()
        http.stop_listening()


class _Announcement(logging.Filter):
    """Holds back the line that announces the server, which uvicorn prints as soon as it listens."""

    _LOGGER = logging.getLogger("uvicorn.error")

    def __init__(self) -> None:
        super().__init__()
        self._held: logging.LogRecord | None = None
        self._LOGGER.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        if not str(record.msg).startswith("Uvicorn running on"):
            return True
        self._held = record
        return False

    def release(self) -> None:
        self._LOGGER.removeFilter(self)
        if self._held is not None:
            self._LOGGER.info(self._held.msg, *(self._held.args or ()))


def _could_not_start(*_: Any) -> NoReturn:
    logger.error("Stopping: a process of this server died or hung while the model was loaded")
    os._exit(ExitStatus.NOT_STARTED)
