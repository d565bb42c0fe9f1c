"""What the server answered."""

from __future__ import annotations

import base64
import binascii
import io
import wave
from dataclasses import dataclass

import orjson

from .failure import Failure, Kind


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        text: as it was written.
        finish_reason: stop or length.
        wav: a whole file; None where there is no sound.
        audio_seconds: of the sound.
        prompt_tokens, completion_tokens, audio_tokens: of the answer's usage.
        warnings: the server's, such as that a clip was cut.
    """

    text: str
    finish_reason: str
    wav: bytes | None
    audio_seconds: float
    prompt_tokens: int
    completion_tokens: int
    audio_tokens: int
    warnings: tuple[str, ...]


def read_answer(body: bytes) -> Answer:
    """Read the body of an answer.

    Raises:
        Failure: BAD_ANSWER, if it is not what the server's interface says.
    """
    try:
        fields = orjson.loads(body)
        (choice,) = fields["choices"]
        message, usage = choice["message"], fields["usage"]
        wav, seconds = None, 0.0
        if (audio := message.get("audio")) is not None:
            wav = base64.b64decode(audio["data"], validate=True)
            with wave.open(io.BytesIO(wav)) as sound:
                seconds = sound.getnframes() / sound.getframerate()
        return Answer(
            text=str(message["content"] or ""),
            finish_reason=str(choice["finish_reason"]),
            wav=wav,
            audio_seconds=seconds,
            prompt_tokens=int(usage["prompt_tokens"]),
            completion_tokens=int(usage["completion_tokens"]),
            audio_tokens=int((usage.get("completion_tokens_details") or {}).get("audio_tokens") or 0),
            warnings=tuple(map(str, (message.get("speechlm") or {}).get("warnings") or ())),
        )
    except (ValueError, LookupError, TypeError, AttributeError, EOFError, binascii.Error, wave.Error) as error:
        raise Failure(Kind.BAD_ANSWER, f"the answer is not understood: {error!r}") from error
