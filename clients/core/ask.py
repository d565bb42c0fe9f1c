"""Send a request to the server, and retry it only if nothing was generated."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import SimpleNamespace

import aiohttp
import orjson

from .failure import Failure, Kind, Refused

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
_CONNECT_SECONDS = 30
_NOT_REACHED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


@dataclass(frozen=True)
class Server:
    """The server.

    Attributes:
        session: an HTTP session; each of its connections serves one request, so that none is closed by the server.
        url: without a path.
        patience: time limit of a line in seconds, including the wait for the server.
    """

    session: aiohttp.ClientSession
    url: str
    patience: float

    async def check(self) -> None:
        """Check that the server answers.

        Raises:
            Refused: if it does not answer, or is not such a server.
        """
        url = f"{self.url}/v1/models"
        try:
            async with asyncio.timeout(_CONNECT_SECONDS), self.session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    raise Refused(
                        f"{self.url}: /v1/models returned {response.status}: {_message(await response.read())}"
                    )
        except (aiohttp.ClientError, TimeoutError) as error:
            why = str(error) or "no answer"
            message = f"{self.url}: cannot reach the server ({why}); start it, or choose another --host or --port"
            raise Refused(message) from error

    async def ask(self, body: bytes, waits: Callable[[Kind | None], None]) -> tuple[bytes, float]:
        """Return the body of the answer, and the seconds that it took, without the wait for the server.

        The request is retried if there was no connection, or if the server had no capacity: 429, or 503 with
        Retry-After. Any other failure may have happened during generation.

        Args:
            body: JSON.
            waits: called with what the request waits for, and with None when it no longer waits.

        Raises:
            Failure: if there was no answer.
        """
        state, attempt = Kind.TIMEOUT, 0

        def connected() -> None:
            nonlocal state
            state = Kind.TIMEOUT
            waits(None)

        try:
            async with asyncio.timeout(self.patience):
                while True:
                    begin = time.monotonic()
                    post = self.session.post(
                        f"{self.url}/v1/chat/completions",
                        data=body,
                        trace_request_ctx=connected,
                        allow_redirects=False,
                    )
                    try:
                        async with post as response:
                            answer = await response.read()
                    except _NOT_REACHED:
                        state, pause = Kind.NO_SERVER, _pause(attempt)
                    else:
                        if response.status == 200:
                            return answer, time.monotonic() - begin
                        when = response.headers.get("Retry-After")
                        if response.status != 429 and (response.status != 503 or when is None):
                            raise Failure(f"http_{response.status}", _message(answer))
                        state = Kind.OVERLOADED
                        pause = _pause(attempt) if when is None else _seconds(when) + random.uniform(0, 0.5)
                    waits(state)
                    attempt += 1
                    await asyncio.sleep(min(pause, self.patience))
        except aiohttp.ClientError as error:
            raise Failure(Kind.DISCONNECTED, f"the connection was lost: {error or type(error).__name__}") from error
        except TimeoutError as error:
            raise Failure(state, f"no answer within {self.patience:g} s") from error
        finally:
            waits(None)


def open_session(key: str | None) -> aiohttp.ClientSession:
    """Return a session for any number of concurrent requests, whose timeouts the caller sets.

    It connects to the server directly and ignores proxies in the environment.
    """
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(_tell_connected)
    return aiohttp.ClientSession(
        trace_configs=[trace],
        trust_env=False,
        connector=aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=_lasting_socket),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
        headers=headers,
    )


def _lasting_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Return a socket that notices within two minutes if the other machine is gone; answers may take an hour."""
    family, kind, protocol, _, _ = address
    lasting = socket.socket(family, kind, protocol)
    lasting.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4)):
        lasting.setsockopt(socket.IPPROTO_TCP, option, value)
    return lasting


async def _tell_connected(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
    if context.trace_request_ctx is not None:
        context.trace_request_ctx()


def _pause(attempt: int) -> float:
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(attempt, 10)) * random.uniform(0.5, 1)


def _seconds(retry_after: str) -> float:
    """Return the seconds of a Retry-After header, which has seconds or a date (RFC 9110, 10.2.3)."""
    try:
        if retry_after.strip().isdecimal():
            return float(retry_after)
        until = parsedate_to_datetime(retry_after)
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
        return max(0.0, (until - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return _LONGEST_PAUSE


def _message(body: bytes) -> str:
    """Return the message of OpenAI's error object, or else the beginning of the body."""
    try:
        return str(orjson.loads(body)["error"]["message"])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return body[:200].decode(errors="replace") or "no reason given"
