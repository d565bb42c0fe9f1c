"""The program of an answer: a text stage, then an audio stage that finds its prefix in the radix cache."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sglang_speechlm import metrics
from sglang_speechlm.config import Ids
from sglang_speechlm.program.bounds import Bound, written_bound
from sglang_speechlm.program.engine import Engine, StageOutput, StageRefused
from sglang_speechlm.program.loops import LoopWatch
from sglang_speechlm.program.request import ReplyRequest
from sglang_speechlm.prompt.layout import Prompt
from sglang_speechlm.prompt.tools import call_grammar
from sglang_speechlm.stage import Stage

FinishReason = Literal["stop", "length"]

LOOPED = "the text began to repeat itself and was cut at the first repetition"
CUT_WITHIN_JSON = "the text was cut at a stop string, so its JSON may be incomplete"


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
class AudioPiece:
    """New frames, int32 [n, num_stream] ids, without the eos frame."""

    frames: npt.NDArray[np.int32]


@dataclass(frozen=True)
class AudioEnd:
    """The audio is complete; cached prompt positions of each branch, as for the text."""

    cached_tokens: int
    unconditional_cached_tokens: int | None


@dataclass(frozen=True)
class Finish:
    """The end of the answer.

    Attributes:
        reason: "length" if a budget cut the answer or a loop ended it.
        tokens: generated ids and frames, including control ids and the eos frame.
        audio_tokens: how many of them were frames.
        warnings: what the caller should know, such as why there is no audio.
    """

    reason: FinishReason
    tokens: int
    audio_tokens: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class TextEnd:
    """The text is complete.

    Attributes:
        cached_tokens: positions of the prompt that the radix cache held.
        finish: the end of the answer, if no sound follows.
    """

    cached_tokens: int
    finish: Finish


Event = TextPiece | TextEnd | AudioPiece | AudioEnd | Finish


async def answer(engine: Engine, ids: Ids, request: ReplyRequest, pieces: Sequence[int] = ()) -> AsyncGenerator[Event]:
    """Yield the events of one answer, in order: the last is the end of its text, or ``Finish`` if it is spoken.

    ``pieces`` are those of ``Stage``: frames arrive when they complete a piece of sound. Closing the iterator aborts
    the running stage.

    Raises:
        StageRefused: if the prompt leaves no room for an answer, or SGLang refuses or aborts a stage.
    """
    prompt = request.prompt.followed_by([ids.text])
    guided = request.is_guided
    if guided and not engine.can_guide:
        metrics.PAIRS_REJECTED.add()
        raise StageRefused(400, "cfg: guidance needs two rows of a batch; this server has --max-running-requests 1")
    capacity = engine.capacity(guided=guided)
    budget = min(request.max_tokens, capacity - len(prompt.ids))
    if budget < 1:
        if guided:
            metrics.PAIRS_REJECTED.add()
        raise StageRefused(
            400,
            f"messages: the prompt is too long: {len(prompt.ids)} tokens, limit {capacity} with the answer",
        )
    written = _Written()
    if request.given_text is None:
        async with aclosing(_write(engine, ids, request, prompt, budget, written)) as events:
            async for event in events:
                yield event
    else:
        written.ids.extend(request.given_text.ids)
        yield TextPiece(written.ids)
        yield TextEnd(0, Finish("stop", 0, 0))
    text_ids, spent = written.ids, written.spent
    if request.audio is None:
        return
    prompt = prompt.followed_by([*text_ids, ids.assistant, ids.audio])
    room = min(request.max_tokens - spent, capacity - len(prompt.ids))
    if room < 1:
        limit_name = "max_tokens" if spent >= request.max_tokens else "the context length"
        yield Finish("length", spent, 0, (f"no audio: the text reached {limit_name} ({spent} tokens)",))
        return
    bound = request.audio.bound
    if request.audio.is_bounded_by_text:
        bound = bound or written_bound(len(text_ids), request.audio.min_frames)
    limit = _least(room, request.audio.max_frames, bound)
    frames = 0
    params = _audio_params(request, limit, pieces)
    # On the rank that wrote the text, the cache holds it.
    stage = engine.run(f"{request.id}-audio", prompt, params, begun=spent > 0, dp_rank=written.dp_rank)
    async with aclosing(stage) as outputs:
        async for output in outputs:
            frames += len(output.ids)
            ended = output.finish_reason is not None and _reason(output, ends=(ids.eos,)) == "stop"
            spoken = output.frames[:-1] if ended else output.frames
            if len(spoken):
                yield AudioPiece(spoken)
            if output.finish_reason is not None:
                yield AudioEnd(output.cached_tokens, output.unconditional_cached_tokens)
                reason: FinishReason = "stop" if ended else "length"
                warnings = (*written.warnings, *_reached(bound, reason, frames))
                yield Finish(reason, spent + frames, frames, warnings)


@dataclass
class _Written:
    """The result of the text stage.

    Attributes:
        ids: of the text; if it looped, up to the first round.
        spent: number of generated ids.
        dp_rank: the rank that generated them, with SGLang's own data parallelism.
    """

    ids: list[int] = field(default_factory=list)
    spent: int = 0
    reason: FinishReason = "stop"
    warnings: tuple[str, ...] = ()
    dp_rank: int | None = None


async def _write(
    engine: Engine, ids: Ids, request: ReplyRequest, prompt: Prompt, budget: int, written: _Written
) -> AsyncGenerator[TextPiece | TextEnd]:
    """Run the text stage. Hold back ids that may turn out to be later rounds of a loop until that is decided."""
    loops = LoopWatch() if request.text.ends_loops else None
    limit = _least(budget, request.text.max_tokens, request.text.bound)
    shown = 0
    async with aclosing(engine.run(f"{request.id}-text", prompt, _text_params(request, ids, limit))) as outputs:
        async for output in outputs:
            written.ids.extend(output.ids)
            written.spent += len(output.ids)
            written.dp_rank = output.dp_rank
            is_loop = loops is not None and any(loops.push(index) for index in output.ids)
            is_end = is_loop or output.finish_reason is not None
            if is_loop:
                written.reason, written.warnings = "length", (LOOPED,)
            elif output.finish_reason is not None:
                ends = () if request.text.others.get("ignore_eos") else (ids.eot, ids.eos, *request.text.stop_token_ids)
                written.reason = _reason(output, ends)
                written.warnings = _reached(request.text.bound, written.reason, written.spent)
                if request.text.is_structured and _stop_string(output) is not None:
                    written.warnings = (CUT_WITHIN_JSON,)
            settled = loops.settled if loops is not None and (is_loop or not is_end) else len(written.ids)
            if is_loop:
                del written.ids[settled:]
            if settled > shown:
                yield TextPiece(written.ids[shown:settled], _stop_string(output))
                shown = settled
            if is_end:
                yield TextEnd(output.cached_tokens, Finish(written.reason, written.spent, 0, written.warnings))
                return


def _least(room: int, named: int | None, bound: Bound | None) -> int:
    return min(room, named or room, bound.tokens if bound is not None else room)


def _reached(bound: Bound | None, reason: FinishReason, count: int) -> tuple[str, ...]:
    """Return the bound's warning if the bound ended a stage of ``count`` ids or frames."""
    return (bound.warning,) if bound is not None and reason == "length" and count == bound.tokens else ()


def _text_params(request: ReplyRequest, ids: Ids, limit: int) -> dict[str, Any]:
    text = request.text
    return {
        **text.others,
        "min_new_tokens": min(text.others.get("min_new_tokens", 0), limit),
        "temperature": text.temperature,
        "top_k": text.top_k,
        "max_new_tokens": limit,
        "stop_token_ids": [ids.eot, ids.eos, *text.stop_token_ids],
        "sampling_seed": request.seed,
        "json_schema": text.json_schema,
        "structural_tag": None if text.calls is None else call_grammar(text.calls),
    }


def _audio_params(request: ReplyRequest, limit: int, pieces: Sequence[int]) -> dict[str, Any]:
    audio = request.audio
    assert audio is not None
    stage = Stage(
        audio=True,
        min_frames=audio.min_frames,
        cfg=audio.cfg,
        continues=request.given_text is None,
        pieces=tuple(pieces),
    )
    return {
        "temperature": audio.temperature,
        "top_k": audio.top_k,
        "max_new_tokens": limit,
        "stream_interval": 1,
        "sampling_seed": request.seed,
        "custom_params": stage.model_dump(),
    }


def _reason(output: StageOutput, ends: tuple[int, ...]) -> FinishReason:
    """Return why a stage ended. SGLang says "length" even if the last allowed id is the one that ends it."""
    assert output.finish_reason is not None
    return "length" if output.finish_reason["type"] == "length" and output.ids[-1] not in ends else "stop"


def _stop_string(output: StageOutput) -> str | None:
    matched = (output.finish_reason or {}).get("matched")
    return matched if isinstance(matched, str) else None
