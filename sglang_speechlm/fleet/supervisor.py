"""Start, restart and stop the fleet's processes."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from sglang_speechlm.fleet.router import Router
from sglang_speechlm.options.fleet import FleetOptions
from sglang_speechlm.process import ExitStatus, ServerProcess
from sglang_speechlm.process.supervision import Backoff, repeat

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_FIRST_DELAY_SECONDS = 1.0
_LONGEST_DELAY_SECONDS = 60.0
_LASTING_SECONDS = 60.0
"""A process that has served this long is restarted at once if it ends."""
_MISSES_BEFORE_KILL = 5
"""Consecutive requests, a second apart, that the router does not answer within 3 s."""
_ROUTER_START_SECONDS = 120.0
_MISSES_BEFORE_KILL_OF_WORKER = 10
"""A worker ends by itself earlier if one of its processes hangs."""
_STOP_SECONDS = 30.0
"""A worker without requests takes at most 20 s to stop; what is left after this is killed."""


class FleetFailed(Exception):
    """A process failed while the fleet was starting.

    Attributes:
        status: the exit status of the fleet.
    """

    def __init__(self, message: str, status: int) -> None:
        """Take what happened."""
        super().__init__(message)
        self.status = status


class Supervisor:
    """Keeps the router and the workers of one fleet running. Use it in the main thread's event loop only."""

    def __init__(self, options: FleetOptions, router: Router) -> None:
        """Take the fleet's options, and the router to inform."""
        self._options = options
        self._router = router
        self._on_gpu = options.workers > 0 and _has_gpu()
        self._has_started = False
        self._workers: dict[int, ServerProcess] = {}
        self._router_process: subprocess.Popen[bytes] | None = None

    async def run(self, when_ready: Callable[[], None]) -> None:
        """Start everything and keep it running, forever.

        Raises:
            FleetFailed: if something fails on its first start; later it is restarted.
        """
        for url in self._options.urls:
            self._router.add(url)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._router.follow())
            group.create_task(self._keep("the router", self._run_router))
            for index in range(self._options.workers):
                self._router.awaited += 1
                group.create_task(self._keep(f"worker {index}", partial(self._run_worker, index)))
            group.create_task(self._announce(when_ready))

    async def stop(self, force: asyncio.Event) -> None:
        """End all processes; workers clean up after themselves, at once if ``force`` is set."""
        if self._router_process is not None:
            self._router_process.kill()
            self._router_process.wait()
        stopping = [asyncio.create_task(asyncio.to_thread(w.stop, _STOP_SECONDS)) for w in self._workers.values()]
        forcing = asyncio.create_task(self._force(force))
        if stopping:
            await asyncio.wait(stopping)
        forcing.cancel()

    async def _force(self, force: asyncio.Event) -> None:
        await force.wait()
        for worker in self._workers.values():
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGINT)  # a second, different signal; two equal ones might be merged

    async def _announce(self, when_ready: Callable[[], None]) -> None:
        """Announce when the router answers and all local workers, or at least one remote worker, get requests."""
        while (
            not self._router.responds
            or self._router.awaited
            or len(self._router.healthy()) < max(1, self._options.workers)
        ):
            await asyncio.sleep(_POLL_SECONDS)
        self._has_started = True
        when_ready()

    async def _keep(self, name: str, run: Callable[[], Awaitable[tuple[int, float]]]) -> None:
        """Restart a process whenever it ends, with growing delays while it does not last.

        Raises:
            FleetFailed: if it ends before the fleet is ready.
        """
        backoff = Backoff(_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS)

        async def run_once() -> None:
            try:
                status, seconds = await run()
            except Exception as error:
                if not self._has_started:
                    raise FleetFailed(f"{name} could not be run: {error}", ExitStatus.NOT_STARTED) from error
                raise
            if not self._has_started:
                known = {exit_status.value for exit_status in ExitStatus} - {ExitStatus.STOPPED, ExitStatus.CUT_OFF}
                raise FleetFailed(
                    f"{name} ended with {_in_words(status)} before the fleet was ready",
                    status if status in known else ExitStatus.NOT_STARTED,
                )
            if seconds >= _LASTING_SECONDS:
                backoff.reset()
            raise _Ended(f"{name.capitalize()} ended with {_in_words(status)}")

        await repeat(run_once, backoff, expected=_Ended, fatal=FleetFailed)

    async def _run_router(self) -> tuple[int, float]:
        """Run the router once; return its exit status and how long it served. Kill it if it hangs."""
        options, router = self._options, self._router
        process = self._router_process = router.start(options.request_seconds, options.log_format)
        clock = asyncio.get_running_loop().time
        began = clock()
        has_answered = False
        try:
            while process.poll() is None and router.misses < _MISSES_BEFORE_KILL:
                has_answered = has_answered or router.responds
                if not has_answered and clock() - began > _ROUTER_START_SECONDS:
                    break
                await asyncio.sleep(_POLL_SECONDS)
            if process.poll() is None:
                logger.error("The router does not answer; killing it")
        finally:
            process.kill()
        router.responds = False
        return process.wait(), clock() - began

    async def _run_worker(self, index: int) -> tuple[int, float]:
        """Run a worker once; return its exit status and how long it served. Kill it if it hangs."""
        options, router = self._options, self._router
        own = ["--host", "127.0.0.1"]
        if self._on_gpu:
            own += ["--base-gpu-id", f"{options.first_gpu + index * options.gpus_per_worker}"]
        assert options.model_path is not None
        worker = self._workers[index] = ServerProcess(Path(options.model_path), None, [*options.worker_arguments, *own])
        logger.info("Worker %d: process %d at %s", index, worker.process.pid, worker.url)
        try:
            while worker.process.poll() is None and not await router.probe(worker.url):
                await asyncio.sleep(_POLL_SECONDS)
            served = await self._while_serving(index, worker) if worker.process.poll() is None else 0.0
        except Exception:
            worker.kill()
            raise
        return worker.kill(), served

    async def _while_serving(self, index: int, worker: ServerProcess) -> float:
        """Let a worker get requests until it ends or hangs; return how many seconds that lasted.

        Its own keeper notices earlier if one of its processes hangs. This check is for a hanging keeper.
        """
        router = self._router
        logger.info("Worker %d is ready", index)
        router.add(worker.url)
        router.awaited -= 1
        began = asyncio.get_running_loop().time()
        try:
            while worker.process.poll() is None and router.misses_of(worker.url) < _MISSES_BEFORE_KILL_OF_WORKER:
                await asyncio.sleep(_POLL_SECONDS)
            if worker.process.poll() is None:
                logger.error("Worker %d does not answer; killing it", index)
        finally:
            router.remove(worker.url)
            router.awaited += 1
        return asyncio.get_running_loop().time() - began


def _has_gpu() -> bool:
    import torch  # takes seconds, and a front without workers here needs none of it

    return torch.cuda.is_available()


class _Ended(Exception):
    """A process ended and must be restarted."""


def _in_words(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"status {status}"
