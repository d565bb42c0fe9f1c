"""Guided answers on servers with two rows and with one: pairs are never split and always run at last."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from server import BY_NAME, CASES, Case, Client, Judge, Server, message_of, serving

POOL = ("--max-total-tokens", "8192")
RECOMPUTED = 4
"""Positions of the prompt that an audio stage may recompute in each branch."""


@pytest.fixture(scope="module")
def server(served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a server with two rows and a log line for every step."""
    log = tmp_path_factory.mktemp("two-rows") / "log"
    with serving(served_checkpoint, log, *POOL, "--max-running-requests", "2", "--decode-log-interval", "1") as started:
        yield started


def guided(name: str, cfg: float) -> Case:
    case = BY_NAME[name]
    return Case(f"{name}, cfg {cfg}", replace(case.request, cfg=cfg))


def frames_of(judge: Judge, case: Case) -> int:
    """Return the number of frames of the reference's answer."""
    frames = judge.answer(case).frames
    assert frames is not None
    return len(frames)


def rows_of_steps(log: str) -> list[int]:
    """Return the number of rows of each decoding step, in order."""
    return [int(rows) for rows in re.findall(r"Decode batch, #running-req: (\d+)", log)]


@pytest.mark.parametrize("cfg", [1.5, 3.0, 7.0])
def test_a_guided_answer_equals_the_reference(cfg: float, client: Client, judge: Judge) -> None:
    case = guided("spoken", cfg)
    judge.compare([case], [client.chat(case.body())])


def test_concurrent_requests_of_all_kinds_share_two_rows(client: Client, judge: Judge) -> None:
    cases = [*CASES, *(guided("spoken", cfg) for cfg in (1.5, 3.0, 7.0))][:24]
    judge.compare(cases, client.chat_at_once([case.body() for case in cases]))


def test_the_text_of_a_guided_answer_takes_one_row(server: Server, client: Client) -> None:
    client.clear_cache()
    begin = len(server.output())
    extension = message_of(client.chat(guided("spoken", 3.0).body()))["speechlm"]
    client.clear_cache()  # waits until the last log line is written
    rows = rows_of_steps(server.output()[begin:])
    first = rows.index(2)
    # The prefill generates a stage's first id; with overlap, one step may run past the end.
    assert len(extension["text_ids"]) - 1 <= first <= len(extension["text_ids"]) + 1
    assert set(rows[:first]) == {1}
    assert set(rows[first:]) == {2}


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_the_audio_may_end_at_the_minimum_of_frames(cfg: float, client: Client, judge: Judge) -> None:
    """The minimum is set to the number of frames at which the answer ends by itself, and to one more."""
    unlimited = guided("spoken", cfg)
    case = Case(f"{unlimited}, to its end", replace(unlimited.request, audio_min_frames=0))
    assert judge.answer(case).end == "stop"
    frames = frames_of(judge, case)
    for least in (frames, frames + 1):
        case = Case(f"{unlimited}, {least} frames", replace(unlimited.request, audio_min_frames=least))
        judge.compare([case], [client.chat(case.body())])
        assert (frames_of(judge, case) == frames) == (least == frames)


def test_both_branches_find_their_prefix_in_the_cache(client: Client) -> None:
    client.chat(guided("spoken", 3.0).body())  # the pads are cached, even if the cache was cleared before
    response = client.chat(guided("spoken", 2.0).body())
    extension = message_of(response)["speechlm"]
    prompt = response["usage"]["prompt_tokens"] + len(extension["text_ids"]) + 2  # <assistant> <audio>
    assert prompt - extension["cached_tokens"]["audio"] <= RECOMPUTED
    assert prompt - extension["cached_tokens"]["audio_unconditional"] <= RECOMPUTED


def test_a_long_guided_prompt_leaves_later_answers_unchanged(client: Client, judge: Judge) -> None:
    long = BY_NAME["spoken"].request
    text = ("Tell me of the sea, the sky and the long way home. " * 52)[:2600]
    plain = replace(long, messages=[("user", [("text", text)])], audio_max_frames=40, text_max_tokens=20)
    cases = [
        Case("2,600 bytes, guided", replace(plain, cfg=3.0)),
        Case("2,600 bytes, spoken", plain),
        Case("2,600 bytes, written", replace(plain, speak=False, audio_max_frames=None, text_max_tokens=None)),
    ]
    for case in cases:
        judge.compare([case], [client.chat(case.body())])


def test_guidance_is_refused_at_once_on_a_server_with_one_row(
    served_checkpoint: Path, tmp_path: Path, judge: Judge
) -> None:
    with (
        serving(served_checkpoint, tmp_path / "log", *POOL, "--max-running-requests", "1") as single,
        Client(single.url) as client,
    ):
        refused = client.http.post("/v1/chat/completions", json=guided("spoken", 3.0).body())
        assert refused.status_code == 400
        assert "--max-running-requests" in refused.json()["error"]["message"]
        cases = [BY_NAME["spoken"], BY_NAME["audio question"]]
        judge.compare(cases, client.chat_at_once([case.body() for case in cases]))
