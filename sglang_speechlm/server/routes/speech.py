"""POST /v1/audio/speech: a text, spoken."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing

import numpy as np
import numpy.typing as npt
from starlette.requests import Request
from starlette.responses import Response

from sglang_speechlm.codec.files import MEDIA_TYPES, RATE_HEADER, SoundFormat, endless_wav_header, pcm16_bytes
from sglang_speechlm.program.bounds import scene_bound
from sglang_speechlm.program.reply import AudioDelta, Piece, Reply
from sglang_speechlm.program.request import ReplyRequest
from sglang_speechlm.prompt.layout import lay_out
from sglang_speechlm.prompt.words import can_be_said, is_blank
from sglang_speechlm.server.edge.body import read_json
from sglang_speechlm.server.edge.errors import ApiError, bad_field, shown
from sglang_speechlm.server.edge.warnings import Warnings
from sglang_speechlm.server.reading.resolve import TEXT_ONLY
from sglang_speechlm.server.reading.schema import SpeechLM, SpeechRequest
from sglang_speechlm.server.routes.route import REFUSALS, refusal, route
from sglang_speechlm.server.routes.sound import at_rate
from sglang_speechlm.server.routes.streams import ClosingStream, Items, begin, event, merged
from sglang_speechlm.server.service import Service

_SILENCE_SECONDS = 0.25
_OPENAI_VOICES = (
    "alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse",
    "default",
)  # fmt: skip
"""OpenAI's clients must name one: a model that has one voice of its own takes them as no demand."""


@route
async def speech(http: Request, service: Service, deadline: float) -> Response:
    """Speak a text: a whole file, raw audio in chunks while it is made, or server-sent events."""
    body = await read_json(http, SpeechRequest)
    service.check_model(body.model)
    output = service.output(body.response_format or "mp3", body.sample_rate)
    service.sound_files.check("response_format", output)
    warnings = Warnings.of(http)
    warnings.add(*body.unread())
    request = await asyncio.to_thread(_prepare, service, body, warnings)
    if request is None:
        reply, sound = None, _silence(output.rate)
    else:
        reply = service.responder.reply(request)
        sound = _sound(at_rate(reply, service.sample_rate, output.rate), deadline)
    # A WAV file begins with its length: only where it was asked for as it comes is that left open.
    if output.name == "pcm" or (output.name == "wav" and body.stream_format is not None):
        pieces = _sliced(sound, endless_wav_header(output.rate) if output.name == "wav" else b"")
    else:
        pieces = _whole(sound, service, output)
    begun = await begin(http, pieces)
    if reply is not None and reply.has_ended:
        _warn(reply, warnings)
    headers = {RATE_HEADER: str(output.rate)}
    if body.stream_format == "sse":
        return ClosingStream(_events(begun, reply, warnings), begun, "text/event-stream", headers)
    return ClosingStream(begun, begun, MEDIA_TYPES[output.name], headers)


def _prepare(service: Service, body: SpeechRequest, warnings: Warnings) -> ReplyRequest | None:
    """The program's request; None where the input is nothing but punctuation or emoji, which silence is given for.

    Clients that cut a text into sentences send such pieces, and OpenAI answers them with a sound. An error would end
    their playback.
    """
    if is_blank(body.input):
        raise bad_field("input", f"must not be blank; got {shown(body.input)}")
    ours = body.speechlm or SpeechLM()
    if ours.text is not None:
        raise bad_field("speechlm.text", "does not go with speech: the input is what is spoken")
    if ours.return_ids:
        raise bad_field("speechlm.return_ids", "does not go with speech: a sound file holds no ids")
    preset = service.options.preset
    is_given = preset.speech_text == "given"
    if is_given:
        for field in TEXT_ONLY:
            if getattr(body, field) is not None:
                warnings.add(f"{field}: not used; it shapes a text that the model writes, and the input is given")
    if not can_be_said(body.input):
        warnings.add("input: has no letter, digit or sign to be said; the answer is a short silence")
        return None
    values = {"input": body.input, "instructions": body.instructions, "voice": preset.voice(body.voice_name)}
    for name in preset.speech.unused(values):
        if name != "voice" or body.voice_name not in _OPENAI_VOICES:
            warnings.add(f"{name}: not used, because this model was not taught to follow it")
    messages = preset.speech.fill(values, service.encode)
    prompt = lay_out(preset.with_system(messages, service.encode, speaks=True), service.config)
    asking = body.model_copy(
        update={
            "stream": True,
            "modalities": ["text", "audio"],
            "speechlm": ours.model_copy(update={"text": body.input if is_given else None}),
        }
    )
    bound, spoken_ids = None, None
    if not is_given:
        spoken_ids = len(service.encode(body.input))
        bound = scene_bound(spoken_ids, preset.thinking_tokens)
    request = service.resolve(
        asking, "speech", prompt, text_bound=bound, spoken_ids=spoken_ids, cfg=service.config.audio_cfg
    )
    capacity = service.responder.engine.capacity(guided=request.is_guided)
    # <text>, the input, <assistant> <audio>, and the frames that a first sound takes.
    needed = _input_tokens(request) + 2 + service.config.num_stream
    if needed > capacity:
        raise bad_field("input", f"takes {needed} positions with its first sound; a request may take {capacity} in all")
    return request


def _input_tokens(request: ReplyRequest) -> int:
    """Positions of the prompt, and of the text if it is given."""
    return len(request.prompt.ids) + 1 + (0 if request.given_text is None else len(request.given_text.ids))


async def _silence(sample_rate: int) -> AsyncGenerator[npt.NDArray[np.float32]]:
    yield np.zeros(round(_SILENCE_SECONDS * sample_rate), np.float32)


async def _sound(reply: Items[Piece], deadline: float) -> AsyncGenerator[npt.NDArray[np.float32]]:
    """The samples as they come; at least one piece.

    Raises:
        ApiError: 400 if there is no sound, 504 at the deadline.
        StageRefused, CodecError: as the reply does.
    """
    has_sounded = False
    async with aclosing(merged([reply], deadline)) as arrivals:
        async for _, piece in arrivals:
            if isinstance(piece, AudioDelta):
                has_sounded = True
                yield piece.samples
    if not has_sounded:
        raise ApiError(400, "no audio: too few frames (max_tokens, speechlm.audio_max_frames) to give a sound")


async def _sliced(sound: AsyncGenerator[npt.NDArray[np.float32]], head: bytes) -> AsyncGenerator[bytes]:
    """A file in pieces, as they are made."""
    async with aclosing(sound):
        async for samples in sound:
            yield head + pcm16_bytes(samples)
            head = b""


async def _whole(
    sound: AsyncGenerator[npt.NDArray[np.float32]], service: Service, output: SoundFormat
) -> AsyncGenerator[bytes]:
    """A file in one piece, once all of it is there."""
    async with aclosing(sound):
        samples = np.concatenate([samples async for samples in sound])
    yield await asyncio.to_thread(service.sound_files.encode, samples, output)


async def _events(pieces: Items[bytes], reply: Reply | None, warnings: Warnings) -> AsyncGenerator[bytes]:
    """OpenAI's events, whose audio, put together, is the file; or an error midway."""
    try:
        async for piece in pieces:
            yield event({"type": "speech.audio.delta", "audio": base64.b64encode(piece).decode()})
    except REFUSALS as error:
        yield event(refusal(error).body())
        return
    _warn(reply, warnings)
    read, made = (0, 0) if reply is None else (_input_tokens(reply.request), reply.finish.tokens)
    usage = {"input_tokens": read, "output_tokens": made, "total_tokens": read + made}
    yield event({"type": "speech.audio.done", "usage": usage} | warnings.member())


def _warn(reply: Reply | None, warnings: Warnings) -> None:
    """Say what cut the sound, once its end is there."""
    if reply is None:
        return
    request, finish = reply.request, reply.finish
    warnings.add(*finish.warnings)
    if finish.reason == "length" and not finish.warnings:
        assert request.audio is not None
        frames = finish.audio_tokens
        if frames == request.audio.max_frames:
            used = "audio_max_frames"
        else:
            used = "max_tokens" if finish.tokens >= request.max_tokens else "the context"
        warnings.add(f"the sound was cut: it used all of {used} ({frames} frames)")
