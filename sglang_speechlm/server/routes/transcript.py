"""The formats of a transcript: JSON, text, subtitles, and server-sent events."""

from __future__ import annotations

import math
import zlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import orjson
from starlette.responses import PlainTextResponse, Response

from sglang_speechlm.program.dictation import Dictation, Segment
from sglang_speechlm.server.edge.sse import event
from sglang_speechlm.server.edge.warnings import Warnings
from sglang_speechlm.server.reading.schema import TranscriptFormat
from sglang_speechlm.server.routes.route import REFUSALS, refusal
from sglang_speechlm.server.routes.streams import Items


@dataclass(frozen=True)
class Heading:
    """The general fields of a verbose answer.

    Attributes:
        task: OpenAI's name of the task.
        language: of the text, if it is known.
        encode: text to ids.
    """

    task: str
    language: str
    encode: Callable[[str], list[int]]


def answer(
    format: TranscriptFormat, text: str, dictation: Dictation, seconds: float, heading: Heading, warnings: Warnings
) -> Response:
    """Return the complete answer in a ``response_format``; ``seconds`` is the length of the recording."""
    match format:
        case "text":
            return PlainTextResponse(text)
        case "srt":
            return PlainTextResponse(srt(dictation.segments), media_type="application/x-subrip")
        case "vtt":
            return PlainTextResponse(vtt(dictation.segments), media_type="text/vtt")
        case "verbose_json":
            members = {
                "task": heading.task,
                "language": heading.language,
                "duration": seconds,
                "segments": [_segment(i, segment, heading) for i, segment in enumerate(dictation.segments)],
                "usage": {"type": "duration", "seconds": math.ceil(seconds)},  # OpenAI's are whole; clients rely on it
            }
        case "json":
            members = {"usage": _usage(dictation)}
        case _:
            assert_never(format)
    return Response(orjson.dumps({"text": text} | members | warnings.member()), media_type="application/json")


async def events(
    pieces: Items[str], dictation: Dictation, warn: Callable[[], Warnings], *, has_segments: bool
) -> AsyncGenerator[bytes]:
    """Yield OpenAI's events, or an error midway.

    Args:
        warn: returns the warnings at the end of the text.
        has_segments: whether each segment has an event with its times, after its last delta.
    """
    text, sent = "", 0
    try:
        async for piece in pieces:
            while has_segments and sent < len(dictation.segments) and dictation.segments[sent].reply.has_ended:
                yield _segment_event(sent, dictation.segments[sent])
                sent += 1
            text += piece
            yield event({"type": "transcript.text.delta", "delta": piece})
    except REFUSALS as error:
        yield event(refusal(error).body())
        return
    for number, segment in enumerate(dictation.segments[sent:] if has_segments else (), sent):
        yield _segment_event(number, segment)
    last_event = {"type": "transcript.text.done", "text": text, "usage": _usage(dictation)}
    yield event(last_event | warn().member())


def _segment_event(number: int, segment: Segment) -> bytes:
    """Return OpenAI's event; the model does not distinguish speakers."""
    times = {"start": round(segment.start, 3), "end": round(segment.end, 3)}
    return event(
        {"type": "transcript.text.segment", "id": f"seg_{number}", **times, "text": segment.text, "speaker": ""}
    )


def srt(segments: Sequence[Segment]) -> str:
    """Return SubRip subtitles; segments without text are left out."""
    cues = [segment for segment in segments if segment.text]
    return "\n".join(
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{_lines(cue.text)}\n"
        for number, cue in enumerate(cues, 1)
    )


def vtt(segments: Sequence[Segment]) -> str:
    """Return WebVTT subtitles; segments without text are left out."""
    cues = [segment for segment in segments if segment.text]
    return "WEBVTT\n\n" + "\n".join(
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{_escaped(_lines(cue.text))}\n" for cue in cues
    )


def _lines(text: str) -> str:
    """Return a text without empty lines, which would end a cue."""
    return "\n".join(line for line in text.splitlines() if line.strip())


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, point: str) -> str:
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


def _segment(number: int, segment: Segment, heading: Heading) -> dict[str, Any]:
    """Return OpenAI's object. The model returns no probabilities: the two fields for them are 0."""
    data = segment.text.encode()
    return {
        "id": number,
        "seek": round(100 * segment.start),
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "tokens": heading.encode(segment.text),
        "temperature": segment.reply.request.text.temperature,
        "avg_logprob": 0.0,
        "compression_ratio": round(len(data) / len(zlib.compress(data)), 3),
        "no_speech_prob": 0.0,
    }


def _usage(dictation: Dictation) -> dict[str, Any]:
    prompts = [segment.reply.request.prompt for segment in dictation.segments]
    read = sum(len(prompt.ids) + 1 for prompt in prompts)
    heard = sum(prompt.audio_positions for prompt in prompts)
    made = dictation.tokens
    return {
        "type": "tokens",
        "input_tokens": read,
        "output_tokens": made,
        "total_tokens": read + made,
        "input_token_details": {"audio_tokens": heard, "text_tokens": read - heard},
    }
