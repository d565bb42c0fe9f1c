"""Default limits for requests that set none, derived from their content.

A model that fails to stop continues until the context is full. These limits stop it much earlier, and no human speech
reaches them.
"""

from __future__ import annotations

from dataclasses import dataclass

_IDS_PER_SECOND = 48
"""Fast speech has 9 syllables a second. In ids of Qwen3's tokenizer, that is 6 to 8 in English, Spanish, Japanese,
Chinese and Korean, 21 in Hindi and Tamil, and 44 in Burmese, the highest of the counted languages."""
_IDS_ANYWAY = 64
_IDS_OF_A_CAPTION = 1024
"""The captions of Bagpiper's training have 200 to 350 words."""
_FRAMES_PER_ID = 75
"""1.5 s, five times the usual duration of one of Qwen3's ids, be it a word, a digit or a Chinese character."""
_FRAMES_ANYWAY = 500
_FRAMES_OF_A_SCENE = 1500
"""30 s, the maximum length of an input clip: a text of the model may describe a sound without spelling it out."""


@dataclass(frozen=True)
class Bound:
    """A default limit derived from the request's content.

    Attributes:
        tokens: maximum ids or frames.
        warning: the warning of an answer that it ended.
    """

    tokens: int
    warning: str


def transcription_bound(seconds: float, thinking: int = 0) -> Bound:
    """Return the limit for the transcript of a clip: 48 ids per second plus 64, after ``thinking`` ids."""
    tokens = int(_IDS_PER_SECOND * seconds) + _IDS_ANYWAY + thinking
    return Bound(
        tokens,
        f"the text was cut at {tokens} tokens, more than {seconds:.1f} s of speech can need; "
        "max_tokens overrides this limit",
    )


def scene_bound(ids: int, thinking: int) -> Bound:
    """Return the limit for a caption that quotes a text of ``ids`` ids, after ``thinking``."""
    tokens = thinking + _IDS_OF_A_CAPTION + 2 * ids
    return Bound(
        tokens, f"the text was cut at {tokens} tokens, more than a caption needs; max_tokens overrides this limit"
    )


def speech_bound(ids: int, min_frames: int) -> Bound:
    """Return the limit for speaking a text of ``ids`` ids: 75 frames per id plus 500, beyond ``min_frames``."""
    return _sound_bound(min_frames + _FRAMES_PER_ID * ids + _FRAMES_ANYWAY)


def written_bound(ids: int, min_frames: int) -> Bound:
    """Return the limit for speaking a text of ``ids`` ids that the model wrote: 75 frames per id plus 1,500."""
    return _sound_bound(min_frames + _FRAMES_PER_ID * ids + _FRAMES_OF_A_SCENE)


def _sound_bound(frames: int) -> Bound:
    return Bound(
        frames, f"the sound was cut at {frames} frames, more than its text needs; max_tokens overrides this limit"
    )
