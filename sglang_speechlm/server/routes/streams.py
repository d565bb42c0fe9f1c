"""Answers that are sent while they are made."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Generic, Protocol, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from sglang_speechlm import logs
from sglang_speechlm.server.edge.connection import unless_gone
from sglang_speechlm.server.edge.limits import too_late
from sglang_speechlm.server.routes.route import REFUSALS

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)


class Items(Protocol[Item_co]):
    """An iterator that can be closed, as an asynchronous generator or a reply is."""

    def __aiter__(self) -> AsyncIterator[Item_co]: ...

    def __anext__(self) -> Awaitable[Item_co]: ...

    async def aclose(self) -> None: ...


def event(data: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


class ClosingStream(StreamingResponse):
    """Chunks as they come. However it ends, what makes them is closed."""

    def __init__(
        self,
        chunks: Items[bytes],
        source: Items[Any],
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Take what makes the chunks, and what it makes them from."""
        super().__init__(chunks, media_type=media_type, headers=headers)
        self._chunks = chunks
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The source as well: chunks that nobody has begun to take would not close it.
        async with aclosing(self._source), aclosing(self._chunks):
            try:
                await super().__call__(scope, receive, send)
            except REFUSALS as error:
                # Left without its last chunk, the connection is closed: clients see that something is missing.
                logger.warning("The stream of request %s was cut off: %s", logs.current_id(), error)


async def merged(sources: Sequence[Items[Item]], deadline: float) -> AsyncGenerator[tuple[int, Item | None]]:
    """Items of several iterators in the order in which they come, each with its iterator's index, and None at its end.

    Each of them waits while an item of its own has not been taken. Closing this one closes all of them.

    Raises:
        ApiError: 504 at the deadline.
        Exception: whatever one of them raises.
    """
    arrivals: asyncio.Queue[tuple[int, Item | None] | Exception] = asyncio.Queue()
    # A place for one item of each source; one queue with a single place would let a quick source pass the others.
    places = [asyncio.Semaphore(1) for _ in sources]

    async def pump(index: int, source: Items[Item]) -> None:
        try:
            async with aclosing(source):
                async for item in source:
                    await places[index].acquire()
                    arrivals.put_nowait((index, item))
            arrivals.put_nowait((index, None))
        except Exception as error:
            arrivals.put_nowait(error)

    pumps = [asyncio.create_task(pump(i, source)) for i, source in enumerate(sources)]
    running = len(pumps)
    try:
        while running:
            try:
                async with asyncio.timeout_at(deadline):
                    arrival = await arrivals.get()
            except TimeoutError:
                raise too_late() from None
            if isinstance(arrival, Exception):
                raise arrival
            places[arrival[0]].release()
            running -= arrival[1] is None
            yield arrival
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


class Begun(Generic[Item]):
    """An iterator whose first item is there already, or None where it has no items."""

    def __init__(self, first: Item | None, rest: Items[Item]) -> None:
        self._first = first
        self._rest = rest

    def __aiter__(self) -> Begun[Item]:
        return self

    async def __anext__(self) -> Item:
        if (first := self._first) is not None:
            self._first = None
            return first
        return await anext(self._rest)

    async def aclose(self) -> None:
        """Close what makes the items."""
        await self._rest.aclose()


async def begin(http: Request, items: Items[Item]) -> Begun[Item]:
    """Wait for the first of ``items``, so that whatever is refused before it has a status of its own.

    Raises:
        ClientGone: if the client disconnects meanwhile.
        Exception: whatever ``items`` raises; it is closed then.
    """
    try:
        return Begun(await unless_gone(http, anext(items, None)), items)
    except BaseException:
        await items.aclose()
        raise
