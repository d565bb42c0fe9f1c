"""The pieces of a written reply, as its ids come one by one."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

import numpy as np
import pytest

from sglang_speechlm.codec import CodecService
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.program.engine import Engine, StageOutput
from sglang_speechlm.program.reply import Call, Piece, ReasoningDelta, Reply, Responder, TextDelta
from sglang_speechlm.program.request import AudioSettings, ReplyRequest, TextSettings
from sglang_speechlm.prompt.layout import Prompt
from sglang_speechlm.prompt.thinking import Reasoning
from sglang_speechlm.prompt.tools import CallDelta, CallRules, Function, spelled
from sglang_speechlm.tokenizer import TextTokenizer

PLAN, ANSWER = "A short plan.", "\n\nGood day."
TAGGED = f"<think>{PLAN}</think>{ANSWER}"
LONE = f"{PLAN}</think>{ANSWER}"
NO_FRAMES = np.empty((0, 8), np.int32)
JSON = '{"a": [{"b": "}"}]}'


class Scripted(Engine):
    """A stage that writes ``ids``, one at a time."""

    def __init__(self, ids: Sequence[int], end: str) -> None:
        self._ids, self._end = ids, end

    def capacity(self, *, guided: bool = False) -> int:
        return 1000

    async def run(
        self, _id: str, _prompt: Prompt, _params: dict[str, Any], *, begun: bool = False, dp_rank: int | None = None
    ) -> AsyncGenerator[StageOutput]:
        for index in self._ids:
            yield StageOutput([index], NO_FRAMES, None, 0)
        yield StageOutput([], NO_FRAMES, {"type": self._end}, 0)


class Silent:
    """A codec that is ready and makes no sound."""

    piece_frames = (1,)

    def check(self) -> None:
        pass


def replied(
    text: str,
    reasoning: Reasoning,
    config: SpeechLMConfig,
    tokenizer: TextTokenizer,
    calls: CallRules | None = None,
    audio: AudioSettings | None = None,
) -> tuple[Reply, list[Piece]]:
    """The reply of a model that writes ``text``, and the pieces in which it came."""
    engine = Scripted([*tokenizer.encode(text), config.ids.eot], "stop")
    responder = Responder(engine, config.ids, tokenizer, cast(CodecService, Silent()), 24000)
    request = ReplyRequest("a", Prompt([1]), TextSettings(0.0, -1, calls=calls), audio, 1000, 0, reasoning=reasoning)
    reply = responder.reply(request)

    async def collect() -> list[Piece]:
        return [piece async for piece in reply]

    return reply, asyncio.run(collect())


def of_kind(kind: type[ReasoningDelta] | type[TextDelta], pieces: list[Piece]) -> list[str]:
    return [piece.text for piece in pieces if isinstance(piece, kind)]


@pytest.mark.parametrize("reasoning", ["think", "lone"])
def test_thinking_comes_before_the_text_and_both_as_they_are_written(
    reasoning: Reasoning, config: SpeechLMConfig, tokenizer: TextTokenizer
) -> None:
    reply, pieces = replied(TAGGED, reasoning, config, tokenizer)
    thoughts, texts = of_kind(ReasoningDelta, pieces), of_kind(TextDelta, pieces)
    assert [type(piece) for piece in pieces] == [ReasoningDelta] * len(thoughts) + [TextDelta] * len(texts)
    assert len(thoughts) > 1
    assert len(texts) > 1
    assert ("".join(thoughts), "".join(texts)) == reply.split == (PLAN, ANSWER)
    assert reply.text == TAGGED
    assert reply.text_ids == [*tokenizer.encode(TAGGED), config.ids.eot]


def test_a_lone_end_makes_thinking_of_what_came_before_it(config: SpeechLMConfig, tokenizer: TextTokenizer) -> None:
    reply, pieces = replied(LONE, "lone", config, tokenizer)
    assert of_kind(ReasoningDelta, pieces) == [PLAN]
    assert "".join(of_kind(TextDelta, pieces)) == ANSWER
    assert reply.split == (PLAN, ANSWER)


def test_an_answer_that_ends_inside_thinking_has_no_text(config: SpeechLMConfig, tokenizer: TextTokenizer) -> None:
    reply, pieces = replied(f"<think>{PLAN}", "lone", config, tokenizer)
    assert of_kind(TextDelta, pieces) == []
    assert "".join(of_kind(ReasoningDelta, pieces)) == PLAN
    assert reply.split == (PLAN, "")


@pytest.mark.parametrize("text", [TAGGED, LONE, PLAN])
def test_without_reasoning_all_is_text(text: str, config: SpeechLMConfig, tokenizer: TextTokenizer) -> None:
    reply, pieces = replied(text, "none", config, tokenizer)
    assert "".join(of_kind(TextDelta, pieces)) == text
    assert reply.split == (None, text)


def test_a_text_without_any_thinking_is_the_answer(config: SpeechLMConfig, tokenizer: TextTokenizer) -> None:
    reply, pieces = replied(PLAN, "lone", config, tokenizer)
    assert of_kind(TextDelta, pieces) == [PLAN]
    assert reply.split == (None, PLAN)


RULES = CallRules((Function("f", {"type": "object"}, {"name": "f"}),))


@pytest.mark.parametrize("audio", [None, AudioSettings(0.0, 1, 8)])
def test_thinking_text_and_calls_are_told_apart_and_no_sound_follows(
    audio: AudioSettings | None, config: SpeechLMConfig, tokenizer: TextTokenizer
) -> None:
    text = f"<think>{PLAN}</think>One moment.\n{spelled('f', '{}')}\n{spelled('f', JSON)}"
    reply, pieces = replied(text, "think", config, tokenizer, RULES, audio)
    assert reply.split == (PLAN, "One moment.\n")
    assert reply.calls == [Call("f", "{}"), Call("f", JSON)]
    assert reply.finish.reason == "stop"
    deltas = [piece for piece in pieces if isinstance(piece, CallDelta)]
    assert [piece.index for piece in deltas if piece.name] == [0, 1]
    assert "".join(piece.arguments for piece in deltas) == f"{{}}{JSON}"


def test_without_functions_a_call_is_text(config: SpeechLMConfig, tokenizer: TextTokenizer) -> None:
    text = spelled("f", "{}")
    reply, _ = replied(text, "none", config, tokenizer)
    assert (reply.split.content, reply.calls) == (text, [])
