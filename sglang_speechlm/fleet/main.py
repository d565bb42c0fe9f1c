"""Run a fleet from the launcher's arguments until it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from sglang_speechlm import logs
from sglang_speechlm.fleet.control import Control
from sglang_speechlm.fleet.forward import new_session
from sglang_speechlm.fleet.front import Front
from sglang_speechlm.fleet.router import Router
from sglang_speechlm.fleet.supervisor import FleetFailed, Supervisor
from sglang_speechlm.options.fleet import FleetOptions, read
from sglang_speechlm.process import ExitStatus
from sglang_speechlm.process.heartbeat import Heartbeat
from sglang_speechlm.process.keeper import keep
from sglang_speechlm.server.edge.protocol import PROTOCOL
from sglang_speechlm.server.edge.stack import behind_the_edge

logger = logging.getLogger(__name__)

_CUT_OFF_SECONDS = 2.0
"""Time for answers that are cut off to send their errors."""
_STOP_SECONDS = 40.0
"""Maximum time from the end of draining to the end of the process; the workers' stop is bounded, too."""
_SPARE_SECONDS = 10.0
"""Time that the front allows a request beyond the worker's limit, so that the worker reports the timeout."""
_KEEP_ALIVE_SECONDS = 75
"""Keep-alive timeout; longer than most proxies', so that the proxies close the connections."""


def main(arguments: Sequence[str]) -> int:
    """Serve until stopped; return the exit status, one of ``ExitStatus``."""
    try:
        options = read(arguments)
    except ValueError as error:
        return _refused(error)
    return keep(partial(_run, options), options.drain_seconds + _STOP_SECONDS, stop_at_once=signal.SIGINT)


def _run(options: FleetOptions, heartbeat: Heartbeat) -> int:
    """Serve in the process that the keeper watches."""
    try:
        listener = _listen(options.host, options.port)
    except ValueError as error:
        return _refused(error)
    _configure_logs(options)
    _allow_open_files()
    with contextlib.closing(listener):
        return asyncio.run(_serve(options, listener, heartbeat))


def _refused(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return ExitStatus.BAD_OPTIONS


def _listen(host: str, port: int) -> socket.socket:
    """Open the front's listening socket.

    Raises:
        ValueError: if the address cannot be bound.
    """
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except OSError as error:
        raise ValueError(f"--host {host} --port {port}: {error.strerror or error}") from error


def _allow_open_files() -> None:
    """Allow as many as the system does: each request takes two connections here and two in the router."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _configure_logs(options: FleetOptions) -> None:
    logging.basicConfig(
        level=options.log_level.upper(),
        format="[%(asctime)s] %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        force=True,  # SGLang has configured it where it was imported before
    )
    before = set(os.environ)
    logs.configure(options.log_format, options.log_level)
    for name in set(os.environ) - before:  # variables for SGLang's processes, which workers set themselves
        del os.environ[name]


async def _serve(options: FleetOptions, listener: socket.socket, heartbeat: Heartbeat) -> int:
    async with new_session() as session:
        router = Router(session, options.routing, options.keys.user)
        front = Front(router, session, Control(router, bool(options.keys)))
        supervisor = Supervisor(options, router)
        config = uvicorn.Config(
            _guarded(front, options),
            http=PROTOCOL,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=1,
            **options.tls,
        )
        try:
            config.load()
        except OSError as error:
            logger.error("%s%s", "--ssl-certfile, --ssl-keyfile: " if options.tls else "", error)
            return ExitStatus.BAD_OPTIONS
        server = _Server(config)

        def when_ready() -> None:
            front.open()
            heartbeat.up()
            scheme = "https" if options.tls else "http"
            logger.info("Uvicorn running on %s://%s:%d: %d workers", scheme, options.host, options.port, router.total)

        heartbeat.beat_by_loop()
        with _stop_signals() as (stop, force):
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            running = asyncio.create_task(supervisor.run(when_ready))
            stopping = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait((serving, running, stopping), return_when=asyncio.FIRST_COMPLETED)
                was_cut = await _drain(front, options.drain_seconds, force) if stop.is_set() else False
                failed = None if stop.is_set() else _failure(running if running.done() else serving)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                await supervisor.stop(force)
                server.should_exit = True
                await asyncio.gather(serving, return_exceptions=True)
                stopping.cancel()
    if failed is not None:
        return failed
    return ExitStatus.CUT_OFF if was_cut else ExitStatus.STOPPED


def _guarded(front: ASGIApp, options: FleetOptions) -> ASGIApp:
    """Put the front behind the same edge as a server."""
    return behind_the_edge(
        front,
        keys=options.keys,
        allowed_origins=options.allowed_origins,
        host=options.host,
        max_body_bytes=options.max_body_bytes,
        request_seconds=options.request_seconds + _SPARE_SECONDS,
    )


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to the fleet."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def _stop_signals() -> Iterator[tuple[asyncio.Event, asyncio.Event]]:
    """Yield the events that the keeper's SIGTERM and the SIGINT after it set."""
    stop, force = asyncio.Event(), asyncio.Event()

    def stop_or_force(number: signal.Signals) -> None:
        logger.info("%s: %s", number.name, "stopping at once" if stop.is_set() else "stopping")
        (force if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop_or_force, number)
    yield stop, force


async def _drain(front: Front, seconds: float, force: asyncio.Event) -> bool:
    """Let running answers finish; return whether some had to be cut off."""
    front.drain()
    waiting = [asyncio.create_task(front.idle()), asyncio.create_task(force.wait())]
    await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    if not front.running:
        return False
    logger.warning("Cutting off %d answers", front.running)
    front.cut()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_CUT_OFF_SECONDS):
            await front.idle()
    return True


def _failure(ended: asyncio.Task[None]) -> int:
    """Return the exit status for a task that ended unexpectedly."""
    error = ended.exception()
    causes = error.exceptions if isinstance(error, BaseExceptionGroup) else (error,)
    for cause in causes:
        if isinstance(cause, FleetFailed):
            logger.error("%s", cause)
            return cause.status
    logger.error("The fleet failed", exc_info=error)
    return ExitStatus.FAILED
