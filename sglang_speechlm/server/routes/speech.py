"""POST /v1/audio/speech: a text, spoken."""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from sglang_speechlm.codec import Samples
from sglang_speechlm.codec.encoder import ENCODED_IN_PIECES, Encoder
from sglang_speechlm.codec.files import (
    RATE_HEADER,
    SoundFormat,
    encode,
    endless_wav_header,
    pcm16_bytes,
)
from sglang_speechlm.program.bounds import scene_bound
from sglang_speechlm.program.recital import Recital
from sglang_speechlm.program.reply import AudioDelta, Piece
from sglang_speechlm.program.request import ReplyRequest, following_seed
from sglang_speechlm.prompt.layout import lay_out
from sglang_speechlm.prompt.passages import passages
from sglang_speechlm.prompt.presets import DEFAULT_VOICE
from sglang_speechlm.prompt.words import is_blank, is_speakable
from sglang_speechlm.server.edge.body import read_json
from sglang_speechlm.server.edge.errors import ApiError, bad_field, shown
from sglang_speechlm.server.edge.sse import MEDIA_TYPE, event
from sglang_speechlm.server.edge.warnings import Warnings
from sglang_speechlm.server.reading.resolve import setting, unused
from sglang_speechlm.server.reading.schema import SpeechLM, SpeechRequest
from sglang_speechlm.server.routes.route import REFUSALS, refusal, route
from sglang_speechlm.server.routes.sound import at_rate, at_speed
from sglang_speechlm.server.routes.streams import ClosingStream, Items, begin, merged
from sglang_speechlm.server.service import Service, longest

_SILENCE_SECONDS = 0.25
_MOST_PASSAGES = 512
_OPENAI_VOICES = (
    "alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse",
    DEFAULT_VOICE,
)  # fmt: skip
"""OpenAI's clients must name one of these, so a model with a single voice ignores them."""


@route
async def speech(http: Request, service: Service, deadline: float) -> Response:
    """Speak a text: as a complete file, as raw audio while it is generated, or as server-sent events."""
    body = await read_json(http, SpeechRequest)
    service.check_model(body.model)
    output = service.output(body.response_format or "mp3", body.sample_rate)
    warnings = Warnings.of(http)
    warnings.add(*body.unread())
    requests = await asyncio.to_thread(_prepare, service, body, warnings)
    recital, pieces = _recite(service, body, output, requests)
    sound = _sound(pieces, deadline) if requests else _silence(output.rate)
    content = _in_pieces(sound, output) if _is_streamed(body, output, requests) else _whole(sound, output)
    begun = await begin(http, content)
    if recital.has_ended:
        _warn(recital, warnings)
    headers = {RATE_HEADER: str(output.rate)}
    if body.stream_format == "sse":
        return ClosingStream(_events(begun, recital, warnings), begun, MEDIA_TYPE, headers)
    return ClosingStream(begun, begun, output.media_type, headers)


def _recite(
    service: Service, body: SpeechRequest, output: SoundFormat, requests: list[ReplyRequest]
) -> tuple[Recital, Items[Piece]]:
    """Return the recital of the passages, and its pieces with their sound as ``output`` needs it."""
    budgets = body.max_completion_tokens or body.max_tokens, _max_frames(body)
    speed = 1.0 if body.speed is None else body.speed
    if len(requests) == 1 and speed == 1:
        recital = Recital(service.responder, requests, *budgets, output.rate)
        return recital, recital
    recital = Recital(service.responder, requests, *budgets)
    pieces = at_speed(recital, service.sample_rate, speed)
    return recital, at_rate(pieces, service.sample_rate, output.rate)


def _is_streamed(body: SpeechRequest, output: SoundFormat, requests: list[ReplyRequest]) -> bool:
    """Whether the file is sent while it is generated.

    A client that did not ask for a stream gets the warnings about a short sound with its header; during a long one,
    it might run into its timeout. A WAV file begins with its length, which is only left open in a stream; a FLAC file
    is always sent as a whole.
    """
    if output.name in ENCODED_IN_PIECES:
        return body.stream_format is not None or len(requests) > 1
    return output.name == "pcm" or (output.name == "wav" and body.stream_format is not None)


def _max_frames(body: SpeechRequest) -> int | None:
    return None if body.speechlm is None else body.speechlm.audio_max_frames


def _prepare(service: Service, body: SpeechRequest, warnings: Warnings) -> list[ReplyRequest]:
    """Return the requests of the passages; none if the input consists of punctuation or emoji only.

    The answer is then silence: clients that split a text into sentences send such pieces, and OpenAI returns a sound
    for them. An error would end their playback.
    """
    preset = service.options.preset
    # A passage has at most twice its usual size, so a text that is far too long is refused without splitting it.
    if len(body.input) > 2 * _MOST_PASSAGES * preset.passage_characters:
        allowed = f"{_MOST_PASSAGES} passages of about {preset.passage_characters} characters"
        raise bad_field("input", f"must have at most {allowed}; got {len(body.input)} characters")
    if is_blank(body.input):
        raise bad_field("input", f"must not be blank; got {shown(body.input)}")
    own = body.speechlm or SpeechLM()
    if own.text is not None:
        raise bad_field("speechlm.text", "does not apply to speech: the input is what is spoken")
    if own.return_ids:
        raise bad_field("speechlm.return_ids", "does not apply to speech: a sound file contains no token ids")
    is_given = preset.speech_text == "given"
    warnings.add(*unused(body, is_spoken=True, is_given=is_given))
    if body.stream:
        warnings.add("stream: not used; stream_format decides how the sound is sent")
    if body.modalities and "audio" not in body.modalities:
        warnings.add("modalities: not used; speech is always spoken")
    if not is_speakable(body.input):
        warnings.add("input: has no letter, digit or symbol to speak; the answer is a short silence")
        return []
    values = {"input": body.input, "instructions": body.instructions, "voice": preset.voice(body.voice_name)}
    for name in preset.speech.unused(values):
        if name != "voice" or body.voice_name not in _OPENAI_VOICES:
            warnings.add(f"{name}: not used, because this model was not trained to follow it")
    spoken = passages(body.input, preset.passage_characters)
    if len(spoken) > _MOST_PASSAGES:
        raise bad_field("input", f"must have at most {_MOST_PASSAGES} passages; got {len(spoken)}")
    seed = setting(body, "seed", "seed", default=secrets.randbits(63))
    # The seeds are derived from the first one, so that a seed determines the whole sound.
    return [
        _passage(service, body, {**values, "input": text}, text, following_seed(seed, i))
        for i, text in enumerate(spoken)
    ]


def _passage(
    service: Service, body: SpeechRequest, values: dict[str, str | None], text: str, seed: int
) -> ReplyRequest:
    """Return the request of one passage.

    Raises:
        ApiError: 400 if it does not fit.
    """
    preset = service.options.preset
    is_given = preset.speech_text == "given"
    messages = service.fill(preset.speech, values)
    prompt = lay_out(preset.with_system(messages, service.encode, speaks=True), service.config)
    own = body.speechlm or SpeechLM()
    asking = body.model_copy(
        update={
            "stream": True,
            "modalities": ["text", "audio"],
            "speechlm": own.model_copy(update={"text": text if is_given else None, "seed": seed}),
        }
    )
    bound, spoken_ids = None, None
    if not is_given:
        spoken_ids = len(service.encode(text))
        bound = scene_bound(spoken_ids, preset.thinking_tokens)
    request = service.resolve(
        asking, "speech", prompt, text_bound=bound, spoken_ids=spoken_ids, cfg=service.config.audio_cfg
    )
    capacity = service.responder.engine.capacity(guided=request.is_guided)
    # <text>, the input, <assistant> <audio>, and the frames that the first sound needs.
    needed = _input_tokens(request) + 2 + service.config.num_stream
    if needed > capacity:
        what = f"is too long: {needed} tokens including the first audio frames, limit {capacity}"
        raise bad_field(longest(values), what)
    return request


def _input_tokens(request: ReplyRequest) -> int:
    """Return the positions of the prompt, and of the text if it is given."""
    return len(request.prompt.ids) + 1 + (0 if request.given_text is None else len(request.given_text.ids))


async def _silence(sample_rate: int) -> AsyncGenerator[Samples]:
    yield np.zeros(round(_SILENCE_SECONDS * sample_rate), np.float32)


async def _sound(speech: Items[Piece], deadline: float) -> AsyncGenerator[Samples]:
    """Yield the samples as they arrive, in at least one piece.

    Raises:
        ApiError: 400 if there is no sound, 504 at the deadline.
        StageRefused, CodecError: from the reply.
    """
    has_sounded = False
    async with aclosing(merged([speech], deadline)) as arrivals:
        async for _, piece in arrivals:
            if isinstance(piece, AudioDelta):
                has_sounded = True
                yield piece.samples
    if not has_sounded:
        raise ApiError(400, "no audio: too few frames (max_tokens, speechlm.audio_max_frames) to make a sound")


async def _in_pieces(sound: AsyncGenerator[Samples], output: SoundFormat) -> AsyncGenerator[bytes]:
    """Yield a file in pieces, as they are generated."""
    async with aclosing(sound):
        if output.name not in ENCODED_IN_PIECES:
            head = endless_wav_header(output.rate) if output.name == "wav" else b""
            async for samples in sound:
                yield head + pcm16_bytes(samples)
                head = b""
            return
        encoder = await asyncio.to_thread(Encoder, output.name, output.rate)
        async for samples in sound:
            if piece := await asyncio.to_thread(encoder.push, samples):
                yield piece
        yield await asyncio.to_thread(encoder.flush)


async def _whole(sound: AsyncGenerator[Samples], output: SoundFormat) -> AsyncGenerator[bytes]:
    """Yield a complete file in one piece."""
    async with aclosing(sound):
        samples = np.concatenate([samples async for samples in sound])
    yield await asyncio.to_thread(encode, samples, output)


async def _events(pieces: Items[bytes], recital: Recital, warnings: Warnings) -> AsyncGenerator[bytes]:
    """Yield OpenAI's events, whose concatenated audio is the file; or an error midway."""
    try:
        async for piece in pieces:
            yield event({"type": "speech.audio.delta", "audio": base64.b64encode(piece).decode()})
    except REFUSALS as error:
        yield event(refusal(error).body())
        return
    _warn(recital, warnings)
    read = sum(_input_tokens(reply.request) for reply in recital.replies)
    made = recital.tokens
    usage = {"input_tokens": read, "output_tokens": made, "total_tokens": read + made}
    yield event({"type": "speech.audio.done", "usage": usage} | warnings.member())


def _warn(recital: Recital, warnings: Warnings) -> None:
    """Add a warning if something cut the sound; call it at the end."""
    if not recital.replies:
        return
    bounds = [warning for reply in recital.replies for warning in reply.finish.warnings]
    warnings.add(*bounds)
    if recital.is_cut and not recital.replies[-1].finish.warnings:
        if recital.frames == recital.max_frames:
            used = "audio_max_frames"
        else:
            used = "max_tokens" if recital.max_tokens == recital.tokens else "the context length"
        warnings.add(f"the sound was cut: it reached {used} ({recital.frames} frames)")
