"""POST /v1/audio/transcriptions and /v1/audio/translations: transcribe a recording."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from sglang_speechlm.audio import AudioError, Recording
from sglang_speechlm.audio.windows import Window
from sglang_speechlm.program.bounds import transcription_bound
from sglang_speechlm.program.dictation import Dictation, HeardWindow
from sglang_speechlm.program.reply import TextDelta
from sglang_speechlm.program.request import following_seed
from sglang_speechlm.prompt.layout import lay_out
from sglang_speechlm.prompt.templates import ListeningTemplate
from sglang_speechlm.server.edge.connection import unless_gone
from sglang_speechlm.server.edge.errors import bad_field
from sglang_speechlm.server.edge.sse import MEDIA_TYPE
from sglang_speechlm.server.edge.warnings import Warnings
from sglang_speechlm.server.reading.forms import read_upload
from sglang_speechlm.server.reading.resolve import setting, unused, wants_audio
from sglang_speechlm.server.reading.schema import ListeningRequest, TranscriptionRequest, TranslationRequest
from sglang_speechlm.server.routes.route import route
from sglang_speechlm.server.routes.streams import ClosingStream, begin, in_threads, merged
from sglang_speechlm.server.routes.transcript import Heading, answer, events
from sglang_speechlm.server.service import Service

_STREAMED = ("json", "text")
"""Formats that can be streamed."""


@route
async def transcriptions(http: Request, service: Service, deadline: float) -> Response:
    """Transcribe a recording in its own language."""
    return await _listen(http, service, deadline, TranscriptionRequest)


@route
async def translations(http: Request, service: Service, deadline: float) -> Response:
    """Transcribe a recording in English."""
    return await _listen(http, service, deadline, TranslationRequest)


async def _listen(http: Request, service: Service, deadline: float, kind: type[ListeningRequest]) -> Response:
    body, upload = await read_upload(http, kind)
    service.check_model(body.model)
    if body.stream and body.response_format not in _STREAMED:
        raise bad_field("response_format", f"a stream needs 'json' or 'text'; got {body.response_format!r}")
    template = _template(service, body)
    warnings = Warnings.of(http)
    warnings.add(*body.unread(), *unused(body, is_spoken=False, is_given=False))
    for name in template.unused(body.template_values):
        warnings.add(f"{name}: not used, because this model was not trained to follow it")
    recording = Recording(upload.data, upload.format)
    windows = _windows(service, body, template, recording, warnings)
    dictation = Dictation(service.responder, windows, _budget(body))
    pieces = _text(dictation, deadline)

    def ended() -> Warnings:
        _warn(dictation, warnings)
        return warnings

    if body.stream:
        begun = await begin(http, pieces)
        chunks = events(begun, dictation, ended, has_segments=bool(body.timestamp_granularities))
        return ClosingStream(chunks, begun, MEDIA_TYPE)
    text = await unless_gone(http, _joined(pieces))
    return answer(body.response_format, text, dictation, recording.seconds, _heading(service, body), ended())


def _template(service: Service, body: ListeningRequest) -> ListeningTemplate:
    """Return the template for the prompt.

    Raises:
        ApiError: 400 if the model was not trained for the task, or if the request wants audio or ids.
    """
    if wants_audio(body):
        raise bad_field("speechlm.mode", "does not apply to transcriptions: they have no audio")
    if body.speechlm is not None and body.speechlm.return_ids:
        raise bad_field("speechlm.return_ids", "does not apply to transcriptions")
    preset = service.options.preset
    if not isinstance(body, TranslationRequest):
        return preset.transcription
    if preset.translation is None:
        raise bad_field(
            "model",
            f"{service.model_name!r} was not trained to translate (its preset has no 'translation'); "
            "/v1/audio/transcriptions transcribes speech in its own language",
        )
    return preset.translation


def _heading(service: Service, body: ListeningRequest) -> Heading:
    match body:
        case TranscriptionRequest():
            return Heading("transcribe", body.language or "", service.encode)
        case _:
            return Heading("translate", "english", service.encode)


def _budget(body: ListeningRequest) -> int | None:
    """Return the request's limit for the whole text, if it has one."""
    named = (body.max_completion_tokens or body.max_tokens, setting(body, "text_max_tokens"))
    return min((limit for limit in named if limit is not None), default=None)


async def _windows(
    service: Service, body: ListeningRequest, template: ListeningTemplate, recording: Recording, warnings: Warnings
) -> AsyncGenerator[HeardWindow]:
    """Yield the windows of a recording, each with the request to transcribe it; decode only as far as needed.

    Raises:
        ApiError: 400 if the file cannot be decoded, or a prompt is too long.
    """
    try:
        async with aclosing(in_threads(_heard_windows(service, body, template, recording))) as windows:
            async for window in windows:
                warnings.add(*(f"file: {warning}" for warning in recording.warnings))
                yield window
    except AudioError as error:
        raise bad_field("file", str(error)) from error
    warnings.add(*(f"file: {warning}" for warning in recording.warnings))


def _heard_windows(
    service: Service, body: ListeningRequest, template: ListeningTemplate, recording: Recording
) -> Generator[HeardWindow | None]:
    """Yield the audible windows, and None after each piece of the recording."""
    preset = service.options.preset
    seed = setting(body, "seed", "seed", default=secrets.randbits(63))
    number = 0
    with closing(recording.steps(preset.window_seconds, preset.window_pause_seconds)) as steps:
        for window in steps:
            if window is None:
                yield None
                continue
            # The seeds follow from the first one, so that one seed determines the whole text.
            yield _heard(service, body, template, window, following_seed(seed, number))
            number += 1


def _heard(
    service: Service, body: ListeningRequest, template: ListeningTemplate, window: Window, seed: int
) -> HeardWindow:
    """Return a window with the request to transcribe it.

    Raises:
        ApiError: 400 if the prompt is too long.
    """
    preset = service.options.preset
    heard = service.messages.hear_samples(window.samples, "file")
    messages = service.fill(template, body.template_values, heard)
    prompt = lay_out(preset.with_system(messages, service.encode, speaks=False), service.config)
    capacity = service.responder.engine.capacity()
    if len(prompt.ids) + 1 >= capacity:
        raise bad_field("prompt", f"is too long: {len(prompt.ids)} tokens, limit {capacity} with the transcription")
    bound = transcription_bound(window.end - window.start, preset.thinking_tokens)
    request = service.resolve(body, "transcription", prompt, text_bound=bound)
    return HeardWindow(window.start, window.end, replace(request, seed=seed, reasoning=preset.reasoning))


async def _text(dictation: Dictation, deadline: float) -> AsyncGenerator[str]:
    """Yield the text as it arrives.

    Raises:
        ApiError: 504 at the deadline.
        StageRefused: from the reply.
    """
    async with aclosing(merged([dictation], deadline)) as arrivals:
        async for _, piece in arrivals:
            if isinstance(piece, TextDelta):
                yield piece.text


async def _joined(pieces: AsyncGenerator[str]) -> str:
    async with aclosing(pieces):
        return "".join([piece async for piece in pieces])


def _warn(dictation: Dictation, warnings: Warnings) -> None:
    """Add a warning for each limit that cut the text; call it at the end."""
    for segment in dictation.segments:
        place = f"at {segment.start:.1f} s: " if len(dictation.segments) > 1 else ""
        finish = segment.reply.finish
        warnings.add(*(f"{place}{warning}" for warning in finish.warnings))
        if finish.reason == "length" and not finish.warnings and finish.tokens < segment.reply.request.max_tokens:
            warnings.add(f"{place}the text was cut: it reached the context length ({finish.tokens} tokens)")
    if not dictation.segments:
        warnings.add("file: it has no sound above -66 dB, so nothing was transcribed")
    if dictation.is_cut:
        warnings.add(f"the text was cut: it reached max_tokens ({dictation.tokens} tokens)")
