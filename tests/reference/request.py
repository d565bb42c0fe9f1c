"""Requests to the reference, its answers, and its judgement of another decoder's answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

Part = tuple[Literal["text"], str] | tuple[Literal["audio", "frames"], np.ndarray]
"""("text", str) | ("audio", float32 [n] at 16 kHz) | ("frames", int [T, num_stream] code indices without delay)."""

Message = tuple[str, Sequence[Part]]
"""(role, parts); each part is its own segment."""


@dataclass(frozen=True)
class Request:
    """One greedy request.

    ``max_tokens`` is one budget for both phases. It counts every generated text id, including the one that ended the
    text, and every generated frame, including the frame of the final eos. The forced ``<text>``, ``<assistant>`` and
    ``<audio>`` are not counted, nor is a given ``text``. ``text_max_tokens`` and ``audio_max_frames`` count in the same
    way within their phase.

    Attributes:
        messages: the conversation so far.
        speak: whether audio follows the text (mode text_audio).
        cfg: guidance scale; there is an unconditional branch only above 1.
        audio_min_frames: no eos before this many frames; None means num_stream.
        stop_token_ids: further ids that end the text. They may be its first id, which eot and eos may not.
        text: the reply's text, if it is given instead of generated: a finished segment, closed by eot.
    """

    messages: Sequence[Message]
    speak: bool = False
    max_tokens: int = 64
    text_max_tokens: int | None = None
    audio_max_frames: int | None = None
    audio_min_frames: int | None = None
    cfg: float = 1.0
    stop_token_ids: tuple[int, ...] = ()
    text: str | None = None


@dataclass(frozen=True)
class Answer:
    """A greedy answer.

    Attributes:
        text_ids: the text's ids, including the one that ended it.
        text_end: that last id (eot, eos or a stop id), or None if a limit cut the text.
        end: "stop" if the last phase ended by itself, "length" if a limit ended it or left no room for audio.
        frames: [F, num_stream] ids as generated, without the frame of the final eos; None if there was no audio phase.
        codes: [max(F - num_stream + 1, 0), num_stream] code indices, delay removed; None if there was no audio phase.
        margin: smallest gap between the best and the second best masked logit, over all steps and all streams that
            count. Comparing ids is meaningful only if this is well above the rounding noise.
    """

    text_ids: list[int]
    text_end: int | None
    end: Literal["stop", "length"]
    frames: np.ndarray | None
    codes: np.ndarray | None
    margin: float

    @property
    def content_ids(self) -> list[int]:
        """The text's ids without the one that ended it."""
        return self.text_ids if self.text_end is None else self.text_ids[:-1]


@dataclass(frozen=True)
class TeacherForced:
    """Masked logits at every step of a given answer, and the ranks of that answer's ids in them.

    Masked candidates are -inf. Row ``F`` of the audio logits follows the last frame: it predicts the eos of an
    answer that ended by itself. Ranks count the candidates with a strictly larger logit (0 is the best); regrets are
    the best logit minus the chosen one (0 is the best); both are [n] for text, [F, num_stream] for audio.

    Attributes:
        text_candidates: [C] ids that text may contain.
        text_logits: [n, C], one row for each generated text id; no rows if the text was given.
        audio_candidates: [num_stream, codec_layer_size + 1] ids: eos, then the stream's own range.
        audio_logits: [F + 1, num_stream, codec_layer_size + 1], or None without frames.
        eos_rank, eos_regret: rank and regret of eos in stream 0 of row ``F``.
    """

    text_candidates: Tensor
    text_logits: Tensor
    text_ranks: Tensor
    text_regrets: Tensor
    audio_candidates: Tensor
    audio_logits: Tensor | None
    audio_ranks: Tensor | None
    audio_regrets: Tensor | None
    eos_rank: int | None
    eos_regret: float | None
