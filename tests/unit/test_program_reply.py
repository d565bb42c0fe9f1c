"""The pieces of a written reply as its ids arrive one by one."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import numpy as np
import pytest

from sglang_speechlm.codec import CodecService
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.program.engine import Engine, StageOutput
from sglang_speechlm.program.reply import AudioDelta, Call, Piece, ReasoningDelta, Reply, Responder, TextDelta
from sglang_speechlm.program.request import AudioSettings, GivenText, ReplyRequest, TextSettings
from sglang_speechlm.prompt.layout import Prompt
from sglang_speechlm.prompt.thinking import Reasoning
from sglang_speechlm.prompt.tools import CallDelta, CallRules, Function, spelled
from sglang_speechlm.tokenizer import TextTokenizer

PLAN, ANSWER = "A short plan.", "\n\nGood day."
TAGGED = f"<think>{PLAN}</think>{ANSWER}"
LONE = f"{PLAN}</think>{ANSWER}"
NO_FRAMES = np.empty((0, 8), np.int32)
JSON = '{"a": [{"b": "}"}]}'


class ScriptedEngine(Engine):
    """An engine that writes ``ids`` one at a time."""

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


class EndlessEngine(ScriptedEngine):
    """An engine whose audio stage gives one frame and then waits until it is closed."""

    is_running = False

    async def run(
        self, _id: str, _prompt: Prompt, _params: dict[str, Any], *, begun: bool = False, dp_rank: int | None = None
    ) -> AsyncGenerator[StageOutput]:
        self.is_running = True
        try:
            yield StageOutput([0], np.zeros((1, 8), np.int32), None, 0)
            await asyncio.Event().wait()
        finally:
            self.is_running = False


class SilentCodec:
    """A codec that is ready and makes no sound."""

    piece_frames = (1,)

    def check(self) -> None:
        pass


class SpeakingCodec(SilentCodec):
    """A codec that makes one piece of sound at once, and no more."""

    @asynccontextmanager
    async def open_stream(self, _rate: int | None) -> AsyncIterator[Any]:
        yield self

    async def __aiter__(self) -> AsyncIterator[Any]:
        yield np.zeros(320, np.float32)
        await asyncio.Event().wait()

    def finish(self) -> None:
        pass


def collect_reply(
    text: str,
    reasoning: Reasoning,
    config: SpeechLMConfig,
    tokenizer: TextTokenizer,
    calls: CallRules | None = None,
    audio: AudioSettings | None = None,
) -> tuple[Reply, list[Piece]]:
    """The reply of a model that writes ``text``, and its pieces."""
    engine = ScriptedEngine([*tokenizer.encode(text), config.ids.eot], "stop")
    responder = Responder(engine, config.ids, tokenizer, cast(CodecService, SilentCodec()), 24000)
    request = ReplyRequest("a", Prompt([1]), TextSettings(0.0, -1, calls=calls), audio, 1000, 0, reasoning=reasoning)
    reply = responder.reply(request)

    async def collect() -> list[Piece]:
        return [piece async for piece in reply]

    return reply, asyncio.run(collect())


def texts_of_kind(kind: type[ReasoningDelta] | type[TextDelta], pieces: list[Piece]) -> list[str]:
    return [piece.text for piece in pieces if isinstance(piece, kind)]


@pytest.mark.parametrize("reasoning", ["think", "lone"])
def test_thinking_and_then_the_text_are_streamed_as_they_are_written(
    reasoning: Reasoning, config: SpeechLMConfig, tokenizer: TextTokenizer
) -> None:
    reply, pieces = collect_reply(TAGGED, reasoning, config, tokenizer)
    thoughts, texts = texts_of_kind(ReasoningDelta, pieces), texts_of_kind(TextDelta, pieces)
    assert [type(piece) for piece in pieces] == [ReasoningDelta] * len(thoughts) + [TextDelta] * len(texts)
    assert len(thoughts) > 1
    assert len(texts) > 1
    assert ("".join(thoughts), "".join(texts)) == reply.split == (PLAN, ANSWER)
    assert reply.text == TAGGED
    assert reply.text_ids == [*tokenizer.encode(TAGGED), config.ids.eot]


def test_everything_before_a_lone_end_tag_is_thinking(config: SpeechLMConfig, tokenizer: TextTokenizer) -> None:
    reply, pieces = collect_reply(LONE, "lone", config, tokenizer)
    assert texts_of_kind(ReasoningDelta, pieces) == [PLAN]
    assert "".join(texts_of_kind(TextDelta, pieces)) == ANSWER
    assert reply.split == (PLAN, ANSWER)


def test_an_answer_that_ends_inside_thinking_has_no_text(config: SpeechLMConfig, tokenizer: TextTokenizer) -> None:
    reply, pieces = collect_reply(f"<think>{PLAN}", "lone", config, tokenizer)
    assert texts_of_kind(TextDelta, pieces) == []
    assert "".join(texts_of_kind(ReasoningDelta, pieces)) == PLAN
    assert reply.split == (PLAN, "")


@pytest.mark.parametrize("text", [TAGGED, LONE, PLAN])
def test_without_reasoning_everything_is_text(text: str, config: SpeechLMConfig, tokenizer: TextTokenizer) -> None:
    reply, pieces = collect_reply(text, "none", config, tokenizer)
    assert "".join(texts_of_kind(TextDelta, pieces)) == text
    assert reply.split == (None, text)


def test_a_text_without_any_thinking_is_the_answer(config: SpeechLMConfig, tokenizer: TextTokenizer) -> None:
    reply, pieces = collect_reply(PLAN, "lone", config, tokenizer)
    assert texts_of_kind(TextDelta, pieces) == [PLAN]
    assert reply.split == (None, PLAN)


RULES = CallRules((Function("f", {"type": "object"}, {"name": "f"}),))


@pytest.mark.parametrize("audio", [None, AudioSettings(0.0, 1, 8)])
def test_thinking_text_and_calls_are_separated_and_no_sound_follows(
    audio: AudioSettings | None, config: SpeechLMConfig, tokenizer: TextTokenizer
) -> None:
    text = f"<think>{PLAN}</think>One moment.\n{spelled('f', '{}')}\n{spelled('f', JSON)}"
    reply, pieces = collect_reply(text, "think", config, tokenizer, RULES, audio)
    assert reply.split == (PLAN, "One moment.\n")
    assert reply.calls == [Call("f", "{}"), Call("f", JSON)]
    assert reply.finish.reason == "stop"
    deltas = [piece for piece in pieces if isinstance(piece, CallDelta)]
    assert [piece.index for piece in deltas if piece.name] == [0, 1]
    assert "".join(piece.arguments for piece in deltas) == f"{{}}{JSON}"


def test_without_functions_a_call_is_text(config: SpeechLMConfig, tokenizer: TextTokenizer) -> None:
    text = spelled("f", "{}")
    reply, _ = collect_reply(text, "none", config, tokenizer)
    assert (reply.split.content, reply.calls) == (text, [])


def test_a_reply_that_is_closed_while_its_sound_is_read_ends_its_stage(
    config: SpeechLMConfig, tokenizer: TextTokenizer
) -> None:
    engine = EndlessEngine([], "stop")
    responder = Responder(engine, config.ids, tokenizer, cast(CodecService, SpeakingCodec()), 24000)
    given, audio = GivenText("On.", (5,)), AudioSettings(0.0, 1, 8)
    reply = responder.reply(ReplyRequest("a", Prompt([1]), TextSettings(0.0, -1), audio, 1000, 0, given_text=given))

    async def close_while_frames_are_awaited() -> None:
        while not isinstance(await anext(reply), AudioDelta):
            pass
        while not engine.is_running:
            await asyncio.sleep(0)
        await reply.aclose()
        assert not engine.is_running

    asyncio.run(close_while_frames_are_awaited())
