"""Heartbeats reach the watcher however a process was started; watching tasks survive any error."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from typing import Any

import psutil
import pytest

from sglang_speechlm.process import heartbeat
from sglang_speechlm.process.heartbeat import Heartbeat, Silence
from sglang_speechlm.process.supervision import Backoff, repeat

CHILD = """
import sys, time
from sglang_speechlm.process import heartbeat
heartbeat.INTERVAL_SECONDS = 0.05
heartbeat.Heartbeat(int(sys.argv[1])).beat_by_thread()
time.sleep(3600)
"""


def live(heart: Heartbeat) -> None:
    heartbeat.INTERVAL_SECONDS = 0.05
    heart.beat_by_thread()
    time.sleep(3600)


def is_beating(heart: Heartbeat) -> bool:
    """Whether there is a beat within a time that is long on any machine."""
    before, deadline = heart.count, time.monotonic() + 300
    while heart.count == before and time.monotonic() < deadline:
        time.sleep(0.01)
    return heart.count > before


@pytest.mark.process
@pytest.mark.parametrize("context", [multiprocessing.get_context("fork"), multiprocessing.get_context("spawn")])
def test_a_multiprocessing_process_is_seen_to_be_alive_and_to_hang(context: Any) -> None:
    heart = Heartbeat()
    process = context.Process(target=live, args=(heart,), daemon=True)
    process.start()
    try:
        assert is_beating(heart)
        assert is_beating(heart)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        silence = Silence(heart)
        time.sleep(0.2)
        assert silence.look() > 0
    finally:
        process.kill()
        process.join()


def test_other_child_processes_get_their_heartbeat_as_a_descriptor() -> None:
    heart = Heartbeat()
    with subprocess.Popen([sys.executable, "-c", CHILD, f"{heart.descriptor}"], pass_fds=[heart.descriptor]) as child:
        try:
            assert is_beating(heart)
            assert is_beating(heart)
        finally:
            child.kill()


def test_an_event_loop_beats_instead_of_the_thread_unless_it_is_blocked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heartbeat, "INTERVAL_SECONDS", 0.01)

    async def scenario() -> None:
        heart = Heartbeat()
        heart.beat_by_thread()
        heart.beat_by_loop()
        time.sleep(0.1)  # the thread has ended
        before = heart.count
        time.sleep(0.1)
        assert heart.count == before
        while heart.count < before + 3:
            await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_silence_accumulates_until_the_next_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    heart = Heartbeat()
    silence = Silence(heart)
    for expected in (1.0, 2.0, 3.0):
        now[0] += 1
        assert silence.look() == expected
    heart.beat()
    now[0] += 1
    assert silence.look() == 0
    now[0] += 1
    assert silence.look() == 1


def test_a_watcher_that_was_suspended_declares_nothing_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    silence = Silence(Heartbeat())
    now[0] += 3600
    assert silence.look() == 2 * heartbeat.INTERVAL_SECONDS < heartbeat.LATE_SECONDS


def test_a_step_that_fails_is_repeated_with_growing_pauses() -> None:
    pauses = Backoff(0.001, 0.003)
    attempts = 0

    async def step() -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 5:
            raise KeyError("over")
        raise [OSError(), ValueError(), RuntimeError(), MemoryError()][attempts - 1]

    with pytest.raises(KeyError):
        asyncio.run(repeat(step, pauses, fatal=KeyError))
    assert attempts == 5
    assert pauses.next() == 0.003
    pauses.reset()
    assert [pauses.next() for _ in range(3)] == [0.001, 0.002, 0.003]
