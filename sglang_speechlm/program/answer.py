"""The program: text, then audio, each stage finding what is before it in the radix cache."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from sglang_speechlm import metrics
from sglang_speechlm.config import Ids
from sglang_speechlm.model.slots import AUDIO, CFG, CONTINUES, MIN_FRAMES
from sglang_speechlm.program.engine import Engine, StageOutput, StageRefused
from sglang_speechlm.program.request import Request

AUDIO_INTERVAL = 8
"""Frames between two outputs of the audio stage: 0.16 s of sound."""

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class TextPiece:
    """New ids of the text.

    Attributes:
        ids: as generated or given.
        stopped_by: the stop string that ended the text and is part of these ids, if one did.
    """

    ids: list[int]
    stopped_by: str | None = None


@dataclass(frozen=True)
class TextEnd:
    """The text is complete.

    Attributes:
        cached_tokens: positions of the prompt that the radix cache held.
    """

    cached_tokens: int


@dataclass(frozen=True)
class AudioPiece:
    """New frames, [n][num_stream] ids; the eos frame is none of them."""

    frames: list[list[int]]


@dataclass(frozen=True)
class AudioEnd:
    """The audio is complete; ``cached_tokens`` as for the text, of each branch."""

    cached_tokens: int
    unconditional_cached_tokens: int | None


@dataclass(frozen=True)
class Finish:
    """The end of the answer.

    Attributes:
        reason: "length" if a budget cut it.
        tokens: ids and frames that were generated, control ids and the eos frame included.
        audio_tokens: how many of them were frames.
        warnings: what the caller should know, such as why there is no audio.
    """

    reason: FinishReason
    tokens: int
    audio_tokens: int
    warnings: tuple[str, ...] = ()


Event = TextPiece | TextEnd | AudioPiece | AudioEnd | Finish


async def answer(engine: Engine, ids: Ids, request: Request) -> AsyncGenerator[Event]:
    """Give the events of one answer, in order. Closing the iterator aborts whatever runs.

    Raises:
        StageRefused: if the prompt leaves no room for an answer, or SGLang refuses or aborts a stage.
    """
    prompt = request.prompt.followed_by([ids.text])
    guided = request.audio is not None and request.audio.cfg != 1.0
    if guided and not engine.can_guide:
        metrics.PAIRS_REJECTED.add()
        raise StageRefused(400, "cfg: guidance takes two rows of a batch; this server has --max-running-requests 1")
    capacity = engine.capacity(guided=guided)
    budget = min(request.max_tokens, capacity - len(prompt.ids))
    if budget < 1:
        if guided:
            metrics.PAIRS_REJECTED.add()
        raise StageRefused(
            400,
            f"messages: the prompt takes {len(prompt.ids)} positions; a request may take {capacity} in all",
        )
    text_ids: list[int] = []
    reason: FinishReason = "stop"
    if request.given_text is None:
        limit = min(budget, request.text.max_tokens or budget)
        async with aclosing(engine.run(f"{request.id}-text", prompt, _text_params(request, ids, limit))) as outputs:
            async for output in outputs:
                text_ids.extend(output.ids)
                if output.ids:
                    yield TextPiece(output.ids, _stop_string(output))
                if output.finish_reason is not None:
                    reason = _reason(output, ends=(ids.eot, ids.eos, *request.text.stop_token_ids))
                    yield TextEnd(output.cached_tokens)
        spent = len(text_ids)
    else:
        text_ids.extend(request.given_text.ids)
        yield TextPiece(text_ids)
        yield TextEnd(0)
        spent = 0
    if request.audio is None:
        yield Finish(reason, spent, 0)
        return
    prompt = prompt.followed_by([*text_ids, ids.assistant, ids.audio])
    room = min(request.max_tokens - spent, capacity - len(prompt.ids))
    if room < 1:
        limit_name = "max_tokens" if spent >= request.max_tokens else "the context"
        yield Finish("length", spent, 0, (f"no audio: the text used all of {limit_name} ({spent} tokens)",))
        return
    limit = min(room, request.audio.max_frames or room)
    frames = 0
    stage = engine.run(f"{request.id}-audio", prompt, _audio_params(request, limit), begun=spent > 0)
    async with aclosing(stage) as outputs:
        async for output in outputs:
            frames += len(output.ids)
            ended = output.finish_reason is not None and _reason(output, ends=(ids.eos,)) == "stop"
            spoken = output.frames[:-1] if ended else output.frames
            if spoken:
                yield AudioPiece(spoken)
            if output.finish_reason is not None:
                yield AudioEnd(output.cached_tokens, output.unconditional_cached_tokens)
                yield Finish("stop" if ended else "length", spent + frames, frames)


def _text_params(request: Request, ids: Ids, limit: int) -> dict[str, Any]:
    text = request.text
    return {
        **text.others,
        "temperature": text.temperature,
        "top_k": text.top_k,
        "max_new_tokens": limit,
        "stop_token_ids": [ids.eot, ids.eos, *text.stop_token_ids],
        "sampling_seed": request.seed,
    }


def _audio_params(request: Request, limit: int) -> dict[str, Any]:
    audio = request.audio
    assert audio is not None
    return {
        "temperature": audio.temperature,
        "top_k": audio.top_k,
        "max_new_tokens": limit,
        "stream_interval": AUDIO_INTERVAL,
        "sampling_seed": request.seed,
        "custom_params": {
            AUDIO: True,
            MIN_FRAMES: audio.min_frames,
            CFG: audio.cfg,
            CONTINUES: request.given_text is None,
        },
    }


def _reason(output: StageOutput, ends: tuple[int, ...]) -> FinishReason:
    """Why a stage ended. SGLang says "length" even where the last id allowed is the one that ends it."""
    assert output.finish_reason is not None
    return "length" if output.finish_reason["type"] == "length" and output.ids[-1] not in ends else "stop"


def _stop_string(output: StageOutput) -> str | None:
    matched = (output.finish_reason or {}).get("matched")
    return matched if isinstance(matched, str) else None
