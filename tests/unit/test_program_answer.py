"""Answers that do not end by themselves are ended by limits that follow from the request."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
import pytest

from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.program.answer import AudioPiece, Finish, TextPiece, answer
from sglang_speechlm.program.bounds import Bound, speech_bound, transcription_bound
from sglang_speechlm.program.engine import Engine, StageOutput
from sglang_speechlm.program.request import AudioSettings, GivenText, ReplyRequest, TextSettings
from sglang_speechlm.prompt.layout import Prompt

IDS = SpeechLMConfig().ids
CONTEXT = 100_000


class EndlessEngine(Engine):
    """An engine whose stages end only at their budget: they repeat ``text``, with frames in an audio stage."""

    dp_ranks: tuple[int | None, ...] = ()

    def __init__(self, text: list[int], ids_per_output: int) -> None:
        self.text, self.ids_per_output = text, ids_per_output

    def capacity(self, *, guided: bool = False) -> int:
        return CONTEXT

    async def run(
        self,
        stage_id: str,
        _prompt: Prompt,
        sampling_params: dict[str, Any],
        *,
        begun: bool = False,
        dp_rank: int | None = None,
    ) -> AsyncGenerator[StageOutput]:
        self.dp_ranks = (*self.dp_ranks, dp_rank)
        remaining, at = sampling_params["max_new_tokens"], 0
        while remaining:
            count = min(remaining, self.ids_per_output)
            remaining -= count
            ids = [self.text[(at + i) % len(self.text)] for i in range(count)]
            at += count
            frames = np.ones((count if stage_id.endswith("audio") else 0, 8), np.int32)
            yield StageOutput(ids, frames, None if remaining else {"type": "length"}, 0, dp_rank=3)


def collected(request: ReplyRequest, text: list[int], ids_per_output: int = 1) -> tuple[list[Any], Finish]:
    async def collect() -> list[Any]:
        return [event async for event in answer(EndlessEngine(text, ids_per_output), IDS, request)]

    *events, last = asyncio.run(collect())
    return events, last if isinstance(last, Finish) else last.finish


def request_for(text: TextSettings, audio: AudioSettings | None = None, given: GivenText | None = None) -> ReplyRequest:
    return ReplyRequest("a", Prompt([1]), text, audio, CONTEXT, 0, given)


def text_ids(events: list[Any]) -> list[int]:
    return [index for event in events if isinstance(event, TextPiece) for index in event.ids]


@pytest.mark.parametrize("ids_per_output", [1, 32])
def test_a_looping_text_is_cut_after_its_first_round(ids_per_output: int) -> None:
    request = request_for(TextSettings(0, 1, ends_loops=True))
    events, finish = collected(request, [500, 501, 502], ids_per_output)
    assert text_ids(events) == [500, 501, 502]
    assert finish.reason == "length"
    assert finish.tokens < 200
    assert "repeat" in finish.warnings[0]


def test_a_loop_is_kept_unless_the_request_ends_loops() -> None:
    request = request_for(TextSettings(0, 1, max_tokens=400))
    events, finish = collected(request, [500])
    assert text_ids(events) == [500] * 400
    assert finish.warnings == ()


def test_repetition_too_short_for_a_loop_is_kept() -> None:
    request = request_for(TextSettings(0, 1, max_tokens=90, ends_loops=True))
    events, _ = collected(request, [500])
    assert text_ids(events) == [500] * 90


@pytest.mark.parametrize("ids_per_output", [1, 32])
def test_a_text_is_bounded_by_its_clip(ids_per_output: int) -> None:
    request = request_for(TextSettings(0, 1, bound=transcription_bound(2.0), ends_loops=True))
    events, finish = collected(request, list(range(500, 5000)), ids_per_output)
    assert len(text_ids(events)) == finish.tokens == 160
    assert "2.0 s" in finish.warnings[0]


def test_a_sound_is_bounded_by_its_text() -> None:
    bound = speech_bound(3, 8)
    given = GivenText("Yes.", (300, 301, IDS.eot))
    events, finish = collected(request_for(TextSettings(0, 1), AudioSettings(0, 1, 8, bound=bound), given), [1], 8)
    assert sum(len(event.frames) for event in events if isinstance(event, AudioPiece)) == 8 + 500 + 3 * 75
    assert finish.reason == "length"
    assert "sound was cut" in finish.warnings[0]


@pytest.mark.parametrize("length", [1, 40])
def test_a_sound_is_bounded_by_the_generated_text(length: int) -> None:
    audio = AudioSettings(0, 1, 8, is_bounded_by_text=True)
    events, finish = collected(request_for(TextSettings(0, 1, max_tokens=length), audio), [500], 8)
    assert sum(len(event.frames) for event in events if isinstance(event, AudioPiece)) == 8 + 1500 + length * 75
    assert finish.reason == "length"
    assert "sound was cut" in finish.warnings[0]


def test_an_explicit_limit_of_a_sound_overrides_the_bound_by_its_text() -> None:
    events, finish = collected(
        request_for(TextSettings(0, 1, max_tokens=1), AudioSettings(0, 1, 8, max_frames=4000)), [500]
    )
    assert sum(len(event.frames) for event in events if isinstance(event, AudioPiece)) == 4000
    assert finish.warnings == ()


def test_an_answer_that_ends_at_a_smaller_limit_has_no_warning() -> None:
    request = request_for(TextSettings(0, 1, max_tokens=5, bound=Bound(10, "bound")))
    _, finish = collected(request, list(range(500, 600)))
    assert finish.tokens == 5
    assert finish.warnings == ()


def test_the_audio_stage_runs_on_the_rank_that_has_the_text_cached() -> None:
    engine = EndlessEngine([500], ids_per_output=1)

    request = request_for(TextSettings(0, 1, max_tokens=1), AudioSettings(0, 1, 8, max_frames=1))

    async def collect() -> list[Any]:
        return [event async for event in answer(engine, IDS, request)]

    asyncio.run(collect())
    assert engine.dp_ranks == (None, 3)
