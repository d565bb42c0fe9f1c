"""Responses that are sent while they are generated."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Generator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Generic, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from sglang_speechlm import logs
from sglang_speechlm.server.decoding import decoding
from sglang_speechlm.server.edge.connection import unless_gone
from sglang_speechlm.server.edge.limits import timeout_error
from sglang_speechlm.server.routes.route import REFUSALS

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)


class Items(Protocol[Item_co]):
    """An iterator that can be closed, such as an asynchronous generator or a reply."""

    def __aiter__(self) -> AsyncIterator[Item_co]: ...

    def __anext__(self) -> Awaitable[Item_co]: ...

    async def aclose(self) -> None: ...


class ClosingStream(StreamingResponse):
    """A streaming response that always closes its source, however it ends."""

    def __init__(
        self,
        chunks: Items[bytes],
        source: Items[Any],
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Take the iterator of chunks, and the source that it reads."""
        super().__init__(chunks, media_type=media_type, headers=headers)
        self._chunks = chunks
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Close the source, too: chunks that were never iterated would not close it.
        async with aclosing(self._source), aclosing(self._chunks):
            try:
                await super().__call__(scope, receive, send)
            except REFUSALS as error:
                # Without its last chunk, the connection is closed, so clients notice that the answer is incomplete.
                logger.warning("The stream of request %s was cut off: %s", logs.current_id(), error)


async def merged(sources: Sequence[Items[Item]], deadline: float) -> AsyncGenerator[tuple[int, Item | None]]:
    """Merge several iterators: yield their items as they arrive, with the iterator's index, and None at its end.

    Each iterator waits until its last item has been taken. Closing this iterator closes all of them.

    Raises:
        ApiError: 504 at the deadline.
        Exception: whatever one of them raises.
    """
    if len(sources) == 1:  # needs no tasks, each of which costs a long stream as much as its pieces' encoding
        async with aclosing(sources[0]) as source:
            while True:
                item = await _in_time(anext(source, None), deadline)
                yield 0, item
                if item is None:
                    return
    arrivals: asyncio.Queue[tuple[int, Item | None] | Exception] = asyncio.Queue()
    # Room for one item per source; a shared queue of size one would let a fast source overtake the others.
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
            arrival = await _in_time(arrivals.get(), deadline)
            if isinstance(arrival, Exception):
                raise arrival
            places[arrival[0]].release()
            running -= arrival[1] is None
            yield arrival
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _in_time(item: Awaitable[Item], deadline: float) -> Item:
    """Wait for an item.

    Raises:
        ApiError: 504 at the deadline.
    """
    try:
        async with asyncio.timeout_at(deadline) as timeout:
            return await item
    except TimeoutError:
        if not timeout.expired():
            raise
        raise timeout_error() from None


class Begun(Generic[Item]):
    """An iterator whose first item has been read already; None if it has no items."""

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
        """Close the iterator."""
        await self._rest.aclose()


async def begin(http: Request, items: Items[Item]) -> Begun[Item]:
    """Wait for the first of ``items``, so that a refusal before it gets its own HTTP status.

    Raises:
        ClientGone: if the client disconnects meanwhile.
        Exception: whatever ``items`` raises; it is then closed.
    """
    try:
        return Begun(await unless_gone(http, anext(items, None)), items)
    except BaseException:
        await items.aclose()
        raise


async def in_threads(items: Generator[Item | None]) -> AsyncGenerator[Item]:
    """Yield items that are made in the threads for decoding. Closing this closes their iterator, after the step in
    progress.

    There are few of these threads. An item that takes long should therefore be made in steps, after each of which
    ``items`` yields None, so that others have their turn.

    Raises:
        Exception: from ``items``.
    """
    making = threading.Lock()

    def make() -> tuple[Item | None] | None:
        with making:
            for item in items:
                return (item,)
            return None

    def close() -> None:
        with making:
            items.close()

    try:
        while (made := await decoding(make)) is not None:
            if made[0] is not None:
                yield made[0]
    finally:
        # Not awaited, so that a cancelled request does not wait for the step in progress.
        decoding(close)
