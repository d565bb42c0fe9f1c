"""A recording's windows written down one after the other, as one text."""

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


class Scripted(Engine):
    """Writes the text that the prompt's only id stands for."""

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
    """Windows of two seconds each, made as they are taken."""

    def __init__(self, count: int, reasoning: Reasoning = "none") -> None:
        self.count = count
        self.made = 0
        self.is_closed = False
        self._reasoning = reasoning

    async def items(self) -> AsyncGenerator[HeardWindow]:
        try:
            for i in range(self.count):
                self.made += 1
                settings = TextSettings(0.0, -1)
                request = ReplyRequest(f"{i}", Prompt([i]), settings, None, 1000, 0, reasoning=self._reasoning)
                yield HeardWindow(2.0 * i, 2.0 * i + 2, request)
        finally:
            self.is_closed = True


def dictated(
    texts: Sequence[str],
    config: SpeechLMConfig,
    tokenizer: TextTokenizer,
    reasoning: Reasoning = "none",
    max_tokens: int | None = None,
) -> tuple[Dictation, str]:
    engine = Scripted([[*tokenizer.encode(text), config.ids.eot] for text in texts])
    responder = Responder(engine, config.ids, tokenizer, cast(CodecService, None), 24000)
    dictation = Dictation(responder, Windows(len(texts), reasoning).items(), max_tokens)

    async def collect() -> str:
        return "".join([piece.text async for piece in dictation if isinstance(piece, TextDelta)])

    return dictation, asyncio.run(collect())


def test_texts_are_joined_in_order_by_spaces(config: SpeechLMConfig, tokenizer: TextTokenizer) -> None:
    dictation, text = dictated(["One.", " Two.", "", "Three.\n", "Four."], config, tokenizer)
    assert text == "One. Two. Three.\nFour."
    assert [(segment.start, segment.end, segment.text) for segment in dictation.segments] == [
        (0, 2, "One."), (2, 4, "Two."), (4, 6, ""), (6, 8, "Three."), (8, 10, "Four."),
    ]  # fmt: skip


def test_the_text_of_one_window_is_as_it_was_written(config: SpeechLMConfig, tokenizer: TextTokenizer) -> None:
    assert dictated([" One. \n"], config, tokenizer)[1] == " One. \n"


def test_each_windows_thinking_is_left_out(config: SpeechLMConfig, tokenizer: TextTokenizer) -> None:
    texts = ["<think>First.</think>\n\nOne.", "<think>Second.</think>\n\nTwo."]
    assert dictated(texts, config, tokenizer, "think")[1] == "One. Two."


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "a", ""), ("a", "", ""), ("a.", "B", " "), ("a ", "b", ""), ("a", "\nb", ""), ("好。", "你", ""),
        ("です。", "a", " "), ("안녕", "네", " "),
    ],
)  # fmt: skip
def test_texts_are_parted_as_their_scripts_have_it(before: str, after: str, expected: str) -> None:
    assert separator(before, after) == expected


def test_a_budget_holds_for_all_windows_together(config: SpeechLMConfig, tokenizer: TextTokenizer) -> None:
    texts = ["One two three.", "Four five six.", "Seven."]
    needed = [len(tokenizer.encode(text)) + 1 for text in texts]
    for budget in range(1, sum(needed) + 2):
        dictation, text = dictated(texts, config, tokenizer, max_tokens=budget)
        assert dictation.tokens == min(budget, sum(needed))
        assert dictation.is_cut == (budget < sum(needed))
        assert " ".join(texts).startswith(text)


def refused(
    refusals: dict[int, list[StageRefused]], config: SpeechLMConfig, tokenizer: TextTokenizer
) -> tuple[Dictation, str]:
    """Two windows of which some are refused before they are transcribed."""
    engine = Scripted([[*tokenizer.encode(text), config.ids.eot] for text in ("One.", "Two.")])
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
    dictation, text = refused({1: [StageRefused(503, "The request queue is full.")] * 3}, config, tokenizer)
    assert text == "One. Two."
    assert [segment.text for segment in dictation.segments] == ["One.", "Two."]


def test_a_full_queue_refuses_the_first_window(config: SpeechLMConfig, tokenizer: TextTokenizer) -> None:
    with pytest.raises(StageRefused, match="full") as raised:
        refused({0: [StageRefused(503, "The request queue is full.")]}, config, tokenizer)
    assert not raised.value.begun


@pytest.mark.parametrize("kind", ["window", "passage"])
@pytest.mark.parametrize("when", ["while it is in the queue", "while it waits for a place"])
def test_a_later_part_that_is_aborted_is_not_queued_again(
    kind: str, when: str, config: SpeechLMConfig, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queueing, "_WAIT_SECONDS", 0)
    engine = Scripted([[*tokenizer.encode(text), config.ids.eot] for text in ("One.", "Two.")])
    is_queued = when == "while it is in the queue"
    engine.refusals = {1: [StageRefused(503, "aborted" if is_queued else "full", aborted=is_queued)]}
    engine.is_aborted_at_a_refusal = not is_queued
    responder = Responder(engine, config.ids, tokenizer, cast(CodecService, None), 24000)
    passages = [ReplyRequest(f"{i}", Prompt([i]), TextSettings(0.0, -1), None, 1000, 0) for i in range(2)]
    pieces = Dictation(responder, Windows(2).items()) if kind == "window" else Recital(responder, passages, None, None)

    async def collect() -> None:
        async for _ in pieces:
            pass

    with pytest.raises(StageRefused, match="aborted") as raised:
        asyncio.run(collect())
    assert engine.tries == [0, 1]
    assert not raised.value.is_temporary


def test_a_window_that_fails_later_on_gives_no_advice_to_retry(
    config: SpeechLMConfig, tokenizer: TextTokenizer
) -> None:
    with pytest.raises(StageRefused, match="wrong") as raised:
        refused({1: [StageRefused(400, "wrong")]}, config, tokenizer)
    assert raised.value.begun


def recited(
    refusals: dict[int, list[StageRefused]], config: SpeechLMConfig, tokenizer: TextTokenizer
) -> tuple[Recital, str]:
    """Two passages of which some are refused before they are begun."""
    engine = Scripted([[*tokenizer.encode(text), config.ids.eot] for text in ("One.", "Two.")])
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
    recital, text = recited({1: [StageRefused(503, "The request queue is full.")] * 3}, config, tokenizer)
    assert text == "One.Two."
    assert recital.has_ended
    assert len(recital.replies) == 2


def test_a_full_queue_refuses_the_first_passage_alone(config: SpeechLMConfig, tokenizer: TextTokenizer) -> None:
    for passage, status in ((0, 503), (1, 400)):
        with pytest.raises(StageRefused) as raised:
            recited({passage: [StageRefused(status, "full or wrong")]}, config, tokenizer)
        assert raised.value.begun == (passage > 0)  # whether another try would generate anything twice


def test_closing_ends_the_running_window_and_takes_no_further_one(
    config: SpeechLMConfig, tokenizer: TextTokenizer
) -> None:
    engine = Scripted([[*tokenizer.encode("One, two, three."), config.ids.eot]] * 3)
    responder = Responder(engine, config.ids, tokenizer, cast(CodecService, None), 24000)
    windows = Windows(3)

    async def leave() -> None:
        dictation = Dictation(responder, windows.items())
        await anext(dictation)
        assert engine.running == [0]
        await dictation.aclose()

    asyncio.run(leave())
    assert (engine.running, windows.made, windows.is_closed) == ([], 1, True)
