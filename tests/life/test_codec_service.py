"""The codec service with a real codec process."""

import asyncio
import contextlib
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import soxr
from codec_tiny import HOP, random_codes, tiny_codec, tiny_config, whole_decode, write_checkpoint

from sglang_speechlm.codec import CodecError, CodecService, CodecStats, CodecStream, PiecePolicy, spawn

LARGEST_PIECE = 32
UNDELIVERED = 3
SECONDS = 300
"""Maximum time that a test waits for something that normally takes a moment."""
TOLERANCE = 1e-5

Run = Callable[[Awaitable[Any]], Any]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with asyncio.Runner() as runner:
        yield lambda awaitable: runner.run(asyncio.wait_for(awaitable, SECONDS))


@pytest.fixture(scope="module", autouse=True)
def forking() -> Iterator[ForkServerContext]:
    """Fork codec processes from one that has already imported their modules, which takes seconds."""
    context = ForkServerContext()
    context.set_forkserver_preload(["sglang_speechlm.codec.worker.main", "transformers.models.xcodec.modeling_xcodec"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sglang_speechlm.codec.process.SpawnContext", lambda: context)
        yield context


@pytest.fixture(scope="module")
def service(checkpoint: Path, run: Run) -> Iterator[CodecService]:
    service = CodecService(
        checkpoint,
        tiny_config(),
        undelivered_pieces=UNDELIVERED,
        policy=PiecePolicy(largest=LARGEST_PIECE),
        restart_seconds=SECONDS,
    )
    run(service.start())
    yield service
    run(service.stop())


@pytest.fixture(scope="module")
def codec() -> Any:
    return tiny_codec()


async def read(stream: CodecStream) -> np.ndarray:
    return np.concatenate([piece async for piece in stream])


async def decode(service: CodecService, codes: np.ndarray) -> np.ndarray:
    """Decode ``[T, S]`` codes to ``[T * hop]`` samples."""
    async with service.open_stream() as stream:
        await stream.push(codes)
        stream.finish()
        return np.concatenate([np.empty(0, np.float32), *[piece async for piece in stream]])


async def assert_idle(service: CodecService) -> None:
    """Fail unless the service becomes idle."""
    async with asyncio.timeout(SECONDS):
        while (stats := await service.stats()).slots:
            await asyncio.sleep(0.01)
    assert (stats.streams, stats.undelivered) == (0, 0)


async def settled_stats(service: CodecService) -> CodecStats:
    """Return the stats after a stream without a reader has filled its undelivered pieces, and some decodes later."""
    while (await service.stats()).undelivered < UNDELIVERED:
        await asyncio.sleep(0)
    for _ in range(3):
        await decode(service, random_codes(20))
    return await service.stats()


def test_the_first_codec_process_may_be_started_ahead_of_time(checkpoint: Path, run: Run) -> None:
    async def scenario() -> None:
        spawned = spawn()
        service = CodecService(checkpoint, tiny_config(), spawned=spawned)
        await service.start()
        assert (await service.stats()).pid == spawned.process.pid
        await service.stop()

    run(scenario())


def test_files_of_all_lengths_equal_the_codecs_own_decode(service: CodecService, run: Run, codec: Any) -> None:
    lengths = [*range(1, 80), 99, 100, 128, 199, 200]

    async def all_at_once() -> list[np.ndarray]:
        return await asyncio.gather(*(decode(service, random_codes(length, seed=length)) for length in lengths))

    for length, samples in zip(lengths, run(all_at_once()), strict=True):
        expected = whole_decode(codec, random_codes(length, seed=length))
        assert samples.dtype == np.float32
        assert samples.shape == (length * HOP,)
        assert np.abs(samples - expected).max() < TOLERANCE
        assert np.abs(expected).max() > 0.1
    run(assert_idle(service))


def test_decoding_no_codes_returns_no_samples(service: CodecService, run: Run) -> None:
    assert run(decode(service, random_codes(0))).shape == (0,)
    run(assert_idle(service))


@pytest.mark.parametrize("step", [1, 7, 50])
def test_the_pieces_of_a_stream_equal_the_whole_decode(service: CodecService, run: Run, codec: Any, step: int) -> None:
    async def stream_codes(length: int) -> None:
        codes = random_codes(length, seed=length)
        async with service.open_stream() as stream:

            async def feed() -> None:
                for first in range(0, length, step):
                    await stream.push(codes[first : first + step])
                stream.finish()

            samples, _ = await asyncio.gather(read(stream), feed())
        assert np.abs(samples - whole_decode(codec, codes)).max() < TOLERANCE

    async def all_at_once() -> None:
        await asyncio.gather(*(stream_codes(length) for length in (1, 8, 33, 100, 151)))
        await assert_idle(service)

    run(all_at_once())


@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_a_stream_with_a_sample_rate_equals_the_whole_decode_in_16_bits(
    service: CodecService, run: Run, codec: Any, rate: int
) -> None:
    codes = random_codes(151)

    async def scenario() -> np.ndarray:
        async with service.open_stream(rate) as stream:
            await stream.push(codes)
            stream.finish()
            return await read(stream)

    samples = run(scenario())
    expected = soxr.resample(whole_decode(codec, codes), 16_000, rate) if rate != 16_000 else whole_decode(codec, codes)
    assert samples.dtype == np.int16
    assert samples.shape == expected.shape
    assert np.abs(samples - np.clip(expected * 32768, -32768, 32767)).max() <= 1
    run(assert_idle(service))


def test_the_first_piece_arrives_before_the_last_code(service: CodecService, run: Run) -> None:
    async def scenario() -> None:
        async with service.open_stream() as stream:
            await stream.push(random_codes(30))
            assert (await anext(stream)).size > 0

    run(scenario())


def test_a_slow_reader_has_a_bounded_number_of_waiting_pieces_and_loses_none(
    service: CodecService, run: Run, codec: Any
) -> None:
    codes = random_codes(1000)

    async def scenario() -> np.ndarray:
        async with service.open_stream() as stream:
            await stream.push(codes)
            stream.finish()
            assert (await settled_stats(service)).undelivered == UNDELIVERED
            first = await anext(stream)
            assert (await settled_stats(service)).undelivered == UNDELIVERED
            return np.concatenate([first, await read(stream)])

    samples = run(scenario())
    assert np.abs(samples - whole_decode(codec, codes)).max() < TOLERANCE
    run(assert_idle(service))


def test_a_slow_reader_does_not_delay_other_requests(service: CodecService, run: Run) -> None:
    async def scenario() -> None:
        async with service.open_stream() as stream:
            await stream.push(random_codes(1000))
            await settled_stats(service)
            assert (await decode(service, random_codes(100))).shape == (100 * HOP,)

    run(scenario())


def test_a_code_outside_the_codebook_fails_only_its_own_request(service: CodecService, run: Run, codec: Any) -> None:
    good, bad = random_codes(60), random_codes(60)
    bad[40, 1] = 16

    async def scenario() -> list[Any]:
        pid = (await service.stats()).pid
        results = await asyncio.gather(decode(service, good), decode(service, bad), return_exceptions=True)
        assert (await service.stats()).pid == pid
        return [*results]

    samples, error = run(scenario())
    assert np.abs(samples - whole_decode(codec, good)).max() < TOLERANCE
    assert isinstance(error, CodecError)
    assert str(error) == "code 16 of stream 1 is outside 0..15"
    run(assert_idle(service))


@pytest.mark.parametrize("steps", range(6))
def test_a_request_cancelled_at_any_point_leaves_nothing_behind(service: CodecService, run: Run, steps: int) -> None:
    async def scenario() -> None:
        task = asyncio.create_task(decode(service, random_codes(2000)))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        await assert_idle(service)

    run(scenario())


def test_a_stream_closed_with_unread_pieces_leaves_nothing_behind(service: CodecService, run: Run) -> None:
    async def scenario() -> None:
        async with service.open_stream() as stream:
            await stream.push(random_codes(1000))
            await settled_stats(service)
        await assert_idle(service)
        assert [piece async for piece in stream] == []

    run(scenario())


def test_a_killed_codec_process_fails_only_its_own_requests(service: CodecService, run: Run, codec: Any) -> None:
    async def scenario() -> None:
        before = await service.stats()
        os.kill(before.pid, signal.SIGSTOP)  # so that it holds both requests when it dies
        requests = [asyncio.create_task(decode(service, random_codes(50))) for _ in range(2)]
        async with service.open_stream() as stream:
            await stream.push(random_codes(50))
            os.kill(before.pid, signal.SIGKILL)
            for result in (*await asyncio.gather(*requests, return_exceptions=True), await failure(stream)):
                assert isinstance(result, CodecError)
                assert "the codec process was restarted before this audio was complete" in str(result)
                assert "SIGKILL" in str(result)
            with pytest.raises(CodecError, match="SIGKILL"):
                await stream.push(random_codes(1))
        codes = random_codes(70)
        # While the codec process is away, requests wait for the next one.
        for samples in await asyncio.gather(decode(service, codes), decode(service, codes)):
            assert np.abs(samples - whole_decode(codec, codes)).max() < TOLERANCE
        after = await service.stats()
        assert after.pid != before.pid
        assert after.restarts == before.restarts + 1
        await assert_idle(service)

    run(scenario())


async def failure(stream: CodecStream) -> Exception | None:
    try:
        await read(stream)
    except CodecError as error:
        return error
    return None


def test_a_hanging_codec_process_is_replaced_and_its_requests_fail(
    service: CodecService, run: Run, codec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sglang_speechlm.codec.process.HUNG_SECONDS", 2.0)

    async def scenario() -> None:
        before = await service.stats()
        os.kill(before.pid, signal.SIGKILL)  # the next one is watched with the timeout of this test
        while (hanging := (await service.stats()).pid) == before.pid:
            await asyncio.sleep(0)
        os.kill(hanging, signal.SIGSTOP)
        with pytest.raises(CodecError, match="was killed by SIGKILL"):
            await decode(service, random_codes(50))
        codes = random_codes(70)
        samples = await decode(service, codes)
        assert np.abs(samples - whole_decode(codec, codes)).max() < TOLERANCE
        await assert_idle(service)

    run(scenario())


def test_a_codec_process_that_cannot_start_is_retried_while_requests_fail_at_once(
    service: CodecService, run: Run
) -> None:
    """For a while no file can be opened, so no process can be started."""

    async def scenario() -> None:
        pid = (await service.stats()).pid
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            os.kill(pid, signal.SIGKILL)
            while (reason := service.trouble()) is None:
                await asyncio.sleep(0.01)
            assert reason == "the codec process is being restarted"
            with pytest.raises(CodecError, match="Too many open files"):
                await decode(service, random_codes(1))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        while service.trouble() is not None:
            await asyncio.sleep(0.01)
        assert (await decode(service, random_codes(10))).shape == (10 * HOP,)

    run(scenario())


def test_an_interrupt_from_the_terminal_does_not_end_the_codec_process(service: CodecService, run: Run) -> None:
    async def scenario() -> None:
        pid = (await service.stats()).pid
        os.kill(pid, signal.SIGINT)
        assert (await decode(service, random_codes(10))).shape == (10 * HOP,)
        assert (await service.stats()).pid == pid

    run(scenario())


def test_requests_fail_after_a_bounded_time_if_the_codec_process_does_not_return(checkpoint: Path, run: Run) -> None:
    async def scenario() -> None:
        service = CodecService(checkpoint, tiny_config(), nice=0, restart_seconds=0.01)
        await service.start()
        requests = asyncio.create_task(decode(service, random_codes(10**6)))
        os.kill((await service.stats()).pid, signal.SIGKILL)
        with pytest.raises(CodecError, match="was restarted"):
            await requests
        with pytest.raises(CodecError, match=r"was not restarted within 0\.01 s"):
            await decode(service, random_codes(1))
        await service.stop()

    run(scenario())


def test_a_codec_that_does_not_match_the_config_is_reported_at_start(checkpoint: Path, run: Run) -> None:
    service = CodecService(checkpoint, tiny_config(num_stream=8), nice=0)
    with pytest.raises(CodecError, match="could not start: ValueError: num_stream is 8"):
        run(service.start())


async def run_codec_process(checkpoint: Path, method: Literal["spawn", "fork"], pids: Connection) -> None:
    service = CodecService(checkpoint, tiny_config(), nice=0, spawned=spawn(method))
    await service.start()
    pids.send((await service.stats()).pid)
    await asyncio.sleep(3600)


def run_parent(*arguments: Any) -> None:
    asyncio.run(run_codec_process(*arguments))


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_codec_process_ends_when_its_parent_is_killed(
    method: str, checkpoint: Path, run: Run, forking: ForkServerContext
) -> None:
    receiver, sender = Pipe(duplex=False)
    parent = forking.Process(target=run_parent, args=(checkpoint, method, sender))
    parent.start()
    assert receiver.poll(SECONDS)
    pid = receiver.recv()
    os.kill(pid, signal.SIGSTOP)  # so that it cannot notice the closed connection
    parent.kill()

    async def wait_for_end() -> None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            while "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
                await asyncio.sleep(0.01)

    run(wait_for_end())


def close_connection_of_fork() -> None:
    worker = spawn("fork")
    worker.connection.close()
    worker.process.join()
    sys.exit(worker.process.exitcode)


def test_a_forked_codec_process_ends_when_its_connection_is_closed(forking: ForkServerContext) -> None:
    process = forking.Process(target=close_connection_of_fork)
    process.start()
    process.join(SECONDS)
    assert process.exitcode == 0


async def decode_in_fork(checkpoint: Path) -> np.ndarray:
    service = CodecService(checkpoint, tiny_config(), nice=0, spawned=spawn("fork"))
    await service.start()
    samples = await decode(service, random_codes(90))
    await service.stop()
    return samples


def send_samples_of_fork(checkpoint: Path, samples: Connection) -> None:
    samples.send(asyncio.run(decode_in_fork(checkpoint)))


def test_a_forked_codec_process_decodes_like_a_new_one(
    checkpoint: Path, codec: Any, forking: ForkServerContext
) -> None:
    receiver, sender = Pipe(duplex=False)
    forking.Process(target=send_samples_of_fork, args=(checkpoint, sender)).start()
    assert receiver.poll(SECONDS)
    assert np.abs(receiver.recv() - whole_decode(codec, random_codes(90))).max() < TOLERANCE


def test_stopping_fails_open_requests_and_ends_the_codec_process(checkpoint: Path, run: Run) -> None:
    async def scenario() -> None:
        service = CodecService(checkpoint, tiny_config())
        await service.start()
        pid = (await service.stats()).pid
        async with service.open_stream() as stream:
            await service.stop()
            with pytest.raises(CodecError, match="the codec process was stopped"):
                await anext(stream)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert service.trouble() == "the codec process is not supervised"
        with pytest.raises(CodecError, match="not running"):
            await decode(service, random_codes(1))

    run(scenario())
