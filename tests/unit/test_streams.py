"""Streams: several sources at once, deadlines, and closing everything when one source ends."""

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncGenerator, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

import pytest
from starlette.types import Message

from sglang_speechlm.server import decoding
from sglang_speechlm.server.edge import limits
from sglang_speechlm.server.edge.errors import ApiError
from sglang_speechlm.server.edge.limits import Deadline
from sglang_speechlm.server.routes.streams import ClosingStream, in_threads, merged

FOREVER = 1e9
SCOPE: dict[str, Any] = {"type": "http", "method": "POST", "path": "/x", "asgi": {"spec_version": "2.3"}}


class Source:
    """Counts up to ``count``, and then fails or waits forever if it is told to."""

    def __init__(self, count: int, stuck: bool = False, error: Exception | None = None) -> None:
        self._count = count
        self._stuck = stuck
        self._error = error
        self.produced = 0
        self.closed = False

    async def items(self) -> AsyncGenerator[int]:
        try:
            while self.produced < self._count:
                self.produced += 1
                yield self.produced
                await asyncio.sleep(0)
            if self._error is not None:
                raise self._error
            if self._stuck:
                await asyncio.Event().wait()
        finally:
            self.closed = True


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await work

    asyncio.run(bounded())


@pytest.mark.parametrize("count", [0, 4])
def test_items_of_a_single_source_arrive_in_order_and_then_its_end(count: int) -> None:
    async def work() -> None:
        source = Source(count)
        arrivals = [arrival async for arrival in merged([source.items()], FOREVER)]
        assert arrivals == [*((0, item) for item in range(1, count + 1)), (0, None)]
        assert source.closed

    run(work())


def test_items_of_all_sources_arrive_in_order_and_then_their_ends() -> None:
    async def work() -> None:
        sources = [Source(3), Source(0), Source(5)]
        arrivals = [arrival async for arrival in merged([source.items() for source in sources], FOREVER)]
        for index, source in enumerate(sources):
            assert [item for i, item in arrivals if i == index] == [*range(1, source.produced + 1), None]
        assert arrivals.index((2, 1)) < arrivals.index((0, None))
        assert [source.produced for source in sources] == [3, 0, 5]

    run(work())


@pytest.mark.parametrize("count", [1, 2])
def test_a_source_waits_for_its_reader(count: int) -> None:
    async def work() -> None:
        sources = [Source(1000) for _ in range(count)]
        async with aclosing(merged([source.items() for source in sources], FOREVER)) as arrivals:
            await anext(arrivals)
            await asyncio.sleep(0.05)
            assert all(source.produced <= 4 for source in sources)
        assert all(source.closed for source in sources)

    run(work())


@pytest.mark.parametrize("others", [0, 1])
def test_an_error_of_one_source_closes_all(others: int) -> None:
    async def work() -> None:
        sources = [Source(2, stuck=True) for _ in range(others)] + [Source(1, error=ApiError(503, "no more"))]
        with pytest.raises(ApiError, match="no more"):
            async for _ in merged([source.items() for source in sources], FOREVER):
                pass
        assert all(source.closed for source in sources)

    run(work())


def test_a_refusal_leaves_neither_a_timer_nor_its_source() -> None:
    """Otherwise both would stay until the request's deadline, up to an hour later."""

    async def work() -> None:
        source = Source(0, error=ApiError(503, "full"))
        reference = weakref.ref(source)
        loop = asyncio.get_running_loop()
        timers = _timers(loop)
        items = merged([source.items()], loop.time() + 3600)
        with pytest.raises(ApiError, match="full"):
            await anext(items)
        del source, items
        gc.collect()
        assert _timers(loop) == timers
        assert reference() is None

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:  # other loops do not expose their timers
        runner.run(work())


def _timers(loop: Any) -> int:
    return sum(not timer.cancelled() for timer in loop._scheduled)


@pytest.mark.parametrize("count", [1, 2])
def test_at_the_deadline_stuck_sources_are_closed_and_the_status_is_504(count: int) -> None:
    async def work() -> None:
        sources = [Source(1, stuck=True) for _ in range(count)]
        with pytest.raises(ApiError) as error:
            async for _ in merged([source.items() for source in sources], asyncio.get_running_loop().time() + 0.05):
                pass
        assert error.value.status == 504
        assert all(source.closed for source in sources)

    run(work())


def test_a_timeout_of_a_source_is_not_taken_for_the_deadline() -> None:
    async def work() -> None:
        with pytest.raises(TimeoutError, match="its own"):
            async for _ in merged([Source(1, error=TimeoutError("its own")).items()], FOREVER):
                pass

    run(work())


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


def chunks_of(source: AsyncGenerator[int]) -> AsyncGenerator[bytes]:
    async def chunks() -> AsyncGenerator[bytes]:
        async for item in source:
            yield b"%d" % item

    return chunks()


def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_GRACE_SECONDS", 0.1)

    async def work() -> None:
        source = Source(1000)
        items = source.items()
        sent: list[Message] = []

        async def stuck(message: Message) -> None:
            sent.append(message)
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()

        stream = ClosingStream(chunks_of(items), items, "text/plain")
        await Deadline(stream, 0.1)(dict(SCOPE), never, stuck)
        assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
        assert source.closed

    run(work())


def test_a_client_that_disconnects_closes_its_source() -> None:
    async def work() -> None:
        source = Source(2, stuck=True)
        items = source.items()

        async def take(_message: Message) -> None:
            await asyncio.sleep(0)

        async def disconnect() -> Message:
            await asyncio.sleep(0.05)
            return {"type": "http.disconnect"}

        await ClosingStream(chunks_of(items), items, "text/plain")(SCOPE, disconnect, take)
        assert source.closed

    run(work())


def test_raw_audio_that_fails_midway_is_not_ended_regularly() -> None:
    async def work() -> None:
        source = Source(2, error=ApiError(503, "the decoder ended"))
        items = source.items()
        sent: list[Message] = []

        async def take(message: Message) -> None:
            sent.append(message)

        await ClosingStream(chunks_of(items), items, "audio/pcm")(SCOPE, never, take)
        assert [message.get("body") for message in sent[1:]] == [b"1", b"2"]
        assert all(message.get("more_body", True) for message in sent)

    run(work())


def test_requests_take_turns_at_the_threads_between_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a single thread, an item of many steps lets another one come first."""

    def items(name: str, steps: int) -> Generator[str | None]:
        yield from [None] * steps
        yield name

    monkeypatch.setattr(decoding, "_THREADS", ThreadPoolExecutor(1))

    async def main() -> list[str]:
        order: list[str] = []

        async def take(name: str, steps: int) -> None:
            order.extend([item async for item in in_threads(items(name, steps))])

        await asyncio.gather(take("long", 20), take("short", 1))
        return order

    assert asyncio.run(main()) == ["short", "long"]


def test_decoding_a_recording_does_not_occupy_threads_of_other_requests() -> None:
    is_read = threading.Event()

    def items() -> Generator[bool]:
        yield is_read.wait(10)

    async def main() -> bool:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        recording = in_threads(items())
        decoded = asyncio.ensure_future(anext(recording))
        await asyncio.sleep(0)  # it has begun
        await asyncio.to_thread(is_read.set)
        async with aclosing(recording):
            return await decoded

    assert asyncio.run(main())
