"""The server's answer."""

from __future__ import annotations

import base64
import io
import wave
from dataclasses import dataclass

import orjson

from .failure import Failure, Kind

THOUGHT_END = "</think>"
_NOT_UNDERSTOOD = (ValueError, LookupError, TypeError, AttributeError, EOFError, ArithmeticError, wave.Error)


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        text: as generated, including thinking.
        finish_reason: stop or length.
        wav: a complete file; None without sound.
        audio_seconds: length of the sound.
        prompt_tokens, completion_tokens, audio_tokens: the answer's usage.
        warnings: the server's warnings.
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
        Failure: BAD_ANSWER, if it does not match the server's API.
    """
    try:
        fields = orjson.loads(body)
        (choice,) = fields["choices"]
        message, usage = choice["message"], fields.get("usage") or {}
        wav, seconds = None, 0.0
        if (audio := message.get("audio")) is not None:
            wav = base64.b64decode(audio["data"], validate=True)
            with wave.open(io.BytesIO(wav)) as sound:
                seconds = sound.getnframes() / sound.getframerate()
        return Answer(
            text=_thoughts(message.get("reasoning_content")) + str(message["content"] or ""),
            finish_reason=str(choice.get("finish_reason") or "unknown"),
            wav=wav,
            audio_seconds=seconds,
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
            audio_tokens=int((usage.get("completion_tokens_details") or {}).get("audio_tokens") or 0),
            warnings=tuple(map(str, (message.get("speechlm") or {}).get("warnings") or ())),
        )
    except _NOT_UNDERSTOOD as error:
        raise Failure(Kind.BAD_ANSWER, f"cannot parse the answer: {error!r}") from error


def after_thinking(text: str) -> str | None:
    """Return the text after the last ``</think>``; None without one."""
    _, mark, after = text.rpartition(THOUGHT_END)
    return after.strip() if mark else None


def _thoughts(reasoning: object) -> str:
    """Return separately returned thinking in the form in which the model writes it."""
    return f"<think>{reasoning}{THOUGHT_END}" if reasoning else ""
