"""The fleet's processes: started, started again when they end, and stopped."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import torch

from sglang_speechlm.fleet.router import Router
from sglang_speechlm.options.fleet import FleetOptions
from sglang_speechlm.process import ExitStatus, Worker, WorkerFailed

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_FIRST_DELAY_SECONDS = 1.0
_LONGEST_DELAY_SECONDS = 60.0
_LASTING_SECONDS = 60.0
"""A process that has served for so long is started again at once if it ends."""
_STOP_SECONDS = 30.0
"""A worker without requests bounds its own stop to 20 s; what is left after this is killed."""


class FleetFailed(Exception):
    """A process that did not come up when the fleet was started.

    Attributes:
        status: the exit status of the fleet.
    """

    def __init__(self, message: str, status: int) -> None:
        """Take what happened."""
        super().__init__(message)
        self.status = status


class Supervisor:
    """Keeps the router and the workers of one fleet running. Made and used in the main thread's event loop."""

    def __init__(self, options: FleetOptions, router: Router) -> None:
        """Take what to run, and the router to tell about it."""
        self._options = options
        self._router = router
        self._on_gpu = torch.cuda.is_available()
        self._has_started = False
        self._workers: dict[int, Worker] = {}
        self._router_process: subprocess.Popen[bytes] | None = None

    async def run(self, when_ready: Callable[[], None]) -> None:
        """Start everything and keep it running, for ever.

        Raises:
            FleetFailed: if something does not come up at first; later it is started again.
        """
        for url in self._options.urls:
            self._router.want(url)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._router.follow())
            group.create_task(self._keep("the router", self._run_router))
            for index in range(self._options.workers):
                self._router.awaited += 1
                group.create_task(self._keep(f"worker {index}", partial(self._run_worker, index)))
            group.create_task(self._announce(when_ready))

    async def stop(self, hurry: asyncio.Event) -> None:
        """End all processes; the workers clear away after themselves, at once if there is ``hurry``."""
        if self._router_process is not None:
            self._router_process.kill()
            self._router_process.wait()
        stopping = [asyncio.create_task(asyncio.to_thread(w.stop, _STOP_SECONDS)) for w in self._workers.values()]
        hurrying = asyncio.create_task(self._hurry(hurry))
        if stopping:
            await asyncio.wait(stopping)
        hurrying.cancel()

    async def _hurry(self, hurry: asyncio.Event) -> None:
        await hurry.wait()
        for worker in self._workers.values():
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGINT)  # a second signal, and not the same, which might be merged

    async def _announce(self, when_ready: Callable[[], None]) -> None:
        """Say when all workers here, and at least one in all, get requests."""
        while self._router.awaited or len(self._router.healthy()) < max(1, self._options.workers):
            await asyncio.sleep(_POLL_SECONDS)
        self._has_started = True
        when_ready()

    async def _keep(self, name: str, run: Callable[[], Awaitable[tuple[int, float]]]) -> None:
        """Run a process again and again, later and later while it does not last."""
        delay = _FIRST_DELAY_SECONDS
        while True:
            status, seconds = await run()
            if not self._has_started:
                known = {each.value for each in ExitStatus} - {ExitStatus.STOPPED, ExitStatus.CUT_OFF}
                raise FleetFailed(
                    f"{name} ended with {_said(status)} before the fleet was ready",
                    status if status in known else ExitStatus.NOT_STARTED,
                )
            if seconds >= _LASTING_SECONDS:
                delay = _FIRST_DELAY_SECONDS
            logger.error("%s ended with %s; starting it again in %g s", name.capitalize(), _said(status), delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY_SECONDS)

    async def _run_router(self) -> tuple[int, float]:
        """One life of the router: its exit status and how long it served."""
        options = self._options
        process = self._router.start(options.request_seconds, options.log_format)
        self._router_process = process
        began = asyncio.get_running_loop().time()
        return await _ended(process), asyncio.get_running_loop().time() - began

    async def _run_worker(self, index: int) -> tuple[int, float]:
        """One life of a worker: its exit status and how long it served."""
        options = self._options
        own = ["--host", "127.0.0.1"]
        if self._on_gpu:
            own += ["--base-gpu-id", f"{options.first_gpu + index * options.gpus_each}"]
        assert options.model_path is not None
        worker = self._workers[index] = Worker(Path(options.model_path), None, [*options.worker_arguments, *own])
        logger.info("Worker %d: process %d at %s", index, worker.process.pid, worker.url)
        served = 0.0
        try:
            while not await asyncio.to_thread(worker.is_ready):
                await asyncio.sleep(_POLL_SECONDS)
        except WorkerFailed:
            pass
        else:
            logger.info("Worker %d is ready", index)
            self._router.want(worker.url)
            self._router.awaited -= 1
            began = asyncio.get_running_loop().time()
            await _ended(worker.process)
            served = asyncio.get_running_loop().time() - began
            self._router.drop(worker.url)
            self._router.awaited += 1
        return worker.process.returncode, served


async def _ended(process: subprocess.Popen[bytes]) -> int:
    """The exit status of a process once it has ended."""
    while (status := process.poll()) is None:
        await asyncio.sleep(_POLL_SECONDS)
    return status


def _said(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"status {status}"
