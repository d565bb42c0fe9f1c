"""What a script says when it speaks, and what it gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from sglang.lang.ir import SglGen


@dataclass(frozen=True)
class Speaking:
    """One ``speak`` of a script; it stands where ``sgl.gen`` takes the type of what is generated.

    Attributes:
        name: the variable that gets the speech.
        text: what to say; None is the turn's own text.
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

    Inside ``sgl.assistant(...)`` it voices what the turn says so far, and after a turn of the assistant what that
    turn said (without leading white space, as the language keeps it). In a turn that says nothing yet the model
    writes its reply first, with the sampling parameters of the language, and then speaks it.

    Args:
        name: the variable that gets the speech.
        text: say this instead. A turn that says nothing yet gets it as its text.
        cfg: guidance scale, 1 to 20; 1 is none. The checkpoint's own if None.
        audio_temperature, audio_topk: how frames are drawn; the checkpoint's own if None.
        audio_min_frames, audio_max_frames: frames, of 20 ms each.
        seed: of every draw.
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
    """A spoken reply. As a str, which the language wants of a variable, it is what the turn's text gained by it.

    Attributes:
        wav: a mono 16-bit WAV file.
        sample_rate: of the sound, in Hz.
        codes: [T][num_stream] code indices with the delay removed.
        text: what is said.
        cached_tokens: by stage and branch, positions that the server's radix cache held.
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
        """``gained`` is what the turn's text gains; the others are attributes."""
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
