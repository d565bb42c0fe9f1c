"""The windows of a recording are transcribed one after the other into one text."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

import numpy as np
import pytest

from sglang_speechlm.codec import CodecService
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.program import queueing
from sglang_speechlm.program.dictation import Dictation, HeardWindow, separator
from sglang_speechlm.program.engine import Engine, StageOutput, StageRefused
from sglang_speechlm.program.recital import Recital
from sglang_speechlm.program.reply import Responder, TextDelta
from sglang_speechlm.program.request import ReplyRequest, TextSettings
from sglang_speechlm.prompt.layout import Prompt
from sglang_speechlm.prompt.thinking import Reasoning
from sglang_speechlm.tokenizer import TextTokenizer

NO_FRAMES = np.empty((0, 8), np.int32)


class ScriptedEngine(Engine):
    """An engine that writes the text whose number is the prompt's only id."""

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        self.texts = texts
        self.running: list[int] = []
        self.refusals: dict[int, list[StageRefused]] = {}
        self.tries: list[int] = []
        self.is_aborted_at_a_refusal = False

    def capacity(self, *, guided: bool = False) -> int:
        return 1000

    async def run(
        self, _id: str, prompt: Prompt, params: dict[str, Any], *, begun: bool = False, dp_rank: int | None = None
    ) -> AsyncGenerator[StageOutput]:
        number = prompt.ids[0]
        self.tries.append(number)
        if refusals := self.refusals.get(number):
            self.aborts += self.is_aborted_at_a_refusal
            raise refusals.pop()
        self.running.append(number)
        try:
            ids = list(self.texts[number][: params["max_new_tokens"]])
            for index in ids[:-1]:
                await asyncio.sleep(0)
                yield StageOutput([index], NO_FRAMES, None, 0)
            yield StageOutput(
                ids[-1:], NO_FRAMES, {"type": "stop" if len(ids) == len(self.texts[number]) else "length"}, 0
            )
        finally:
            self.running.remove(number)


class Windows:
    """Windows of two seconds each, created when they are requested."""

    def __init__(self, count: int, reasoning: Reasoning = "none") -> None:
        self.count = count
        self.created = 0
        self.is_closed = False
        self._reasoning = reasoning

    async def items(self) -> AsyncGenerator[HeardWindow]:
        try:
            for i in range(self.count):
                self.created += 1
                settings = TextSettings(0.0, -1)
                request = ReplyRequest(f"{i}", Prompt([i]), settings, None, 1000, 0, reasoning=self._reasoning)
                yield HeardWindow(2.0 * i, 2.0 * i + 2, request)
        finally:
            self.is_closed = True


def dictate(
    texts: Sequence[str],
    config: SpeechLMConfig,
    tokenizer: TextTokenizer,
    reasoning: Reasoning = "none",
    max_tokens: int | None = None,
) -> tuple[Dictation, str]:
    engine = ScriptedEngine([[*tokenizer.encode(text), config.ids.eot] for text in texts])
    responder = Responder(engine, config.ids, tokenizer, cast(CodecService, None), 24000)
    dictation = Dictation(responder, Windows(len(texts), reasoning).items(), max_tokens)

    async def collect() -> str:
        return "".join([piece.text async for piece in dictation if isinstance(piece, TextDelta)])

    return dictation, asyncio.run(collect())


def test_texts_are_joined_in_order_by_spaces(config: SpeechLMConfig, tokenizer: TextTokenizer) -> None:
    dictation, text = dictate(["One.", " Two.", "", "Three.\n", "Four."], config, tokenizer)
    assert text == "One. Two. Three.\nFour."
    assert [(segment.start, segment.end, segment.text) for segment in dictation.segments] == [
        (0, 2, "One."), (2, 4, "Two."), (4, 6, ""), (6, 8, "Three."), (8, 10, "Four."),
    ]  # fmt: skip


def test_the_text_of_a_single_window_is_unchanged(config: SpeechLMConfig, tokenizer: TextTokenizer) -> None:
    assert dictate([" One. \n"], config, tokenizer)[1] == " One. \n"


def test_the_thinking_of_each_window_is_left_out(config: SpeechLMConfig, tokenizer: TextTokenizer) -> None:
    texts = ["<think>First.</think>\n\nOne.", "<think>Second.</think>\n\nTwo."]
    assert dictate(texts, config, tokenizer, "think")[1] == "One. Two."


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "a", ""), ("a", "", ""), ("a.", "B", " "), ("a ", "b", ""), ("a", "\nb", ""), ("好。", "你", ""),
        ("です。", "a", " "), ("안녕", "네", " "),
    ],
)  # fmt: skip
def test_texts_are_separated_as_is_usual_in_their_scripts(before: str, after: str, expected: str) -> None:
    assert separator(before, after) == expected


def test_all_windows_share_a_budget(config: SpeechLMConfig, tokenizer: TextTokenizer) -> None:
    texts = ["One two three.", "Four five six.", "Seven."]
    needed = [len(tokenizer.encode(text)) + 1 for text in texts]
    for budget in range(1, sum(needed) + 2):
        dictation, text = dictate(texts, config, tokenizer, max_tokens=budget)
        assert dictation.tokens == min(budget, sum(needed))
        assert dictation.is_cut == (budget < sum(needed))
        assert " ".join(texts).startswith(text)


def dictate_with_refusals(
    refusals: dict[int, list[StageRefused]], config: SpeechLMConfig, tokenizer: TextTokenizer
) -> tuple[Dictation, str]:
    """Transcribe two windows, some of which are refused at first."""
    engine = ScriptedEngine([[*tokenizer.encode(text), config.ids.eot] for text in ("One.", "Two.")])
    engine.refusals = refusals
    responder = Responder(engine, config.ids, tokenizer, cast(CodecService, None), 24000)
    dictation = Dictation(responder, Windows(2).items())

    async def collect() -> str:
        return "".join([piece.text async for piece in dictation if isinstance(piece, TextDelta)])

    return dictation, asyncio.run(collect())


def test_later_windows_wait_for_a_place_in_a_full_queue(
    config: SpeechLMConfig, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queueing, "_WAIT_SECONDS", 0)
    dictation, text = dictate_with_refusals(
        {1: [StageRefused(503, "The request queue is full.")] * 3}, config, tokenizer
    )
    assert text == "One. Two."
    assert [segment.text for segment in dictation.segments] == ["One.", "Two."]


def test_a_full_queue_refuses_the_first_window(config: SpeechLMConfig, tokenizer: TextTokenizer) -> None:
    with pytest.raises(StageRefused, match="full") as error:
        dictate_with_refusals({0: [StageRefused(503, "The request queue is full.")]}, config, tokenizer)
    assert not error.value.begun


@pytest.mark.parametrize("kind", ["window", "passage"])
@pytest.mark.parametrize("when", ["while it is in the queue", "while it waits for a place"])
def test_a_later_part_that_is_aborted_is_not_queued_again(
    kind: str, when: str, config: SpeechLMConfig, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queueing, "_WAIT_SECONDS", 0)
    engine = ScriptedEngine([[*tokenizer.encode(text), config.ids.eot] for text in ("One.", "Two.")])
    is_queued = when == "while it is in the queue"
    engine.refusals = {1: [StageRefused(503, "aborted" if is_queued else "full", aborted=is_queued)]}
    engine.is_aborted_at_a_refusal = not is_queued
    responder = Responder(engine, config.ids, tokenizer, cast(CodecService, None), 24000)
    passages = [ReplyRequest(f"{i}", Prompt([i]), TextSettings(0.0, -1), None, 1000, 0) for i in range(2)]
    pieces = Dictation(responder, Windows(2).items()) if kind == "window" else Recital(responder, passages, None, None)

    async def collect() -> None:
        async for _ in pieces:
            pass

    with pytest.raises(StageRefused, match="aborted") as error:
        asyncio.run(collect())
    assert engine.tries == [0, 1]
    assert not error.value.is_temporary


def test_a_later_window_that_fails_gives_no_advice_to_retry(config: SpeechLMConfig, tokenizer: TextTokenizer) -> None:
    with pytest.raises(StageRefused, match="wrong") as error:
        dictate_with_refusals({1: [StageRefused(400, "wrong")]}, config, tokenizer)
    assert error.value.begun


def recite_with_refusals(
    refusals: dict[int, list[StageRefused]], config: SpeechLMConfig, tokenizer: TextTokenizer
) -> tuple[Recital, str]:
    """Speak two passages, some of which are refused at first."""
    engine = ScriptedEngine([[*tokenizer.encode(text), config.ids.eot] for text in ("One.", "Two.")])
    engine.refusals = refusals
    responder = Responder(engine, config.ids, tokenizer, cast(CodecService, None), 24000)
    passages = [ReplyRequest(f"{i}", Prompt([i]), TextSettings(0.0, -1), None, 1000, 0) for i in range(2)]
    recital = Recital(responder, passages, None, None)

    async def collect() -> str:
        return "".join([piece.text async for piece in recital if isinstance(piece, TextDelta)])

    return recital, asyncio.run(collect())


def test_later_passages_wait_for_a_place_in_a_full_queue(
    config: SpeechLMConfig, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queueing, "_WAIT_SECONDS", 0)
    recital, text = recite_with_refusals({1: [StageRefused(503, "The request queue is full.")] * 3}, config, tokenizer)
    assert text == "One.Two."
    assert recital.has_ended
    assert len(recital.replies) == 2


def test_a_full_queue_refuses_only_the_first_passage(config: SpeechLMConfig, tokenizer: TextTokenizer) -> None:
    for passage, status in ((0, 503), (1, 400)):
        with pytest.raises(StageRefused) as error:
            recite_with_refusals({passage: [StageRefused(status, "full or wrong")]}, config, tokenizer)
        assert error.value.begun == (passage > 0)  # whether a retry would generate anything twice


def test_closing_ends_the_running_window_and_starts_no_other(config: SpeechLMConfig, tokenizer: TextTokenizer) -> None:
    engine = ScriptedEngine([[*tokenizer.encode("One, two, three."), config.ids.eot]] * 3)
    responder = Responder(engine, config.ids, tokenizer, cast(CodecService, None), 24000)
    windows = Windows(3)

    async def close_early() -> None:
        dictation = Dictation(responder, windows.items())
        await anext(dictation)
        assert engine.running == [0]
        await dictation.aclose()

    asyncio.run(close_early())
    assert (engine.running, windows.created, windows.is_closed) == ([], 1, True)
