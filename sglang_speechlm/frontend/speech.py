"""The ``speak`` expression and its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from sglang.lang.ir import SglGen


@dataclass(frozen=True)
class Speaking:
    """One ``speak`` of a script, passed through the parameter of ``sgl.gen`` for the type of the result.

    Attributes:
        name: the variable that gets the speech.
        text: the text to speak; None means the turn's own text.
        settings: fields of the request's ``speechlm`` object.
    """

    name: str
    text: str | None
    settings: Mapping[str, Any]


def speak(
    name: str,
    *,
    text: str | None = None,
    cfg: float | None = None,
    audio_temperature: float | None = None,
    audio_topk: int | None = None,
    audio_min_frames: int | None = None,
    audio_max_frames: int | None = None,
    seed: int | None = None,
) -> SglGen:
    """Speak, as an expression like ``sgl.gen``: afterwards ``s[name]`` is a :class:`Speech`.

    Inside ``sgl.assistant(...)`` it speaks the turn's text so far, and after a turn of the assistant that turn's text
    (without leading white space, as the language keeps it). In an empty turn, the model first writes its reply, with
    the sampling parameters of the language, and then speaks it.

    Args:
        name: the variable that gets the speech.
        text: speak this instead. An empty turn gets it as its text.
        cfg: guidance scale, 1 to 20; 1 is none. The checkpoint's own if None.
        audio_temperature, audio_topk: sampling of frames; the checkpoint's own if None.
        audio_min_frames, audio_max_frames: limits on the number of frames, of 20 ms each.
        seed: seed of all draws.
    """
    settings = {
        "cfg": cfg,
        "audio_temperature": audio_temperature,
        "audio_topk": audio_topk,
        "audio_min_frames": audio_min_frames,
        "audio_max_frames": audio_max_frames,
        "seed": seed,
    }
    given = {field: value for field, value in settings.items() if value is not None}
    return SglGen(name, dtype=Speaking(name, text, given))


class Speech(str):
    """A spoken reply. As a str, which the language requires of a variable, it is the text that the turn gained.

    Attributes:
        wav: a mono 16-bit WAV file.
        sample_rate: in Hz.
        codes: [T][num_stream] code indices with the delay removed.
        text: the spoken text.
        cached_tokens: by stage and branch, prompt positions that the server's radix cache held.
        finish_reason: "stop" or "length".
    """

    wav: bytes
    sample_rate: int
    codes: list[list[int]]
    text: str
    cached_tokens: dict[str, int]
    finish_reason: str

    def __new__(
        cls,
        gained: str,
        *,
        wav: bytes,
        sample_rate: int,
        codes: list[list[int]],
        text: str,
        cached_tokens: dict[str, int],
        finish_reason: str,
    ) -> Speech:
        """Create a speech; ``gained`` is the text that the turn gains, the others are attributes."""
        speech = super().__new__(cls, gained)
        speech.wav = wav
        speech.sample_rate = sample_rate
        speech.codes = codes
        speech.text = text
        speech.cached_tokens = cached_tokens
        speech.finish_reason = finish_reason
        return speech

    def __repr__(self) -> str:
        return f"Speech({self.text!r}, {len(self.codes)} frames, {len(self.wav)} bytes)"

    def save(self, path: str | PathLike[str]) -> None:
        """Write the WAV file.

        Raises:
            OSError: if it cannot be written.
        """
        Path(path).write_bytes(self.wav)
