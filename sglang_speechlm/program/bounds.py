"""How long an answer can be by what is asked: limits for requests that name none.

A model that has lost its way goes on until the context is full. These limits end it much earlier, and no speech of
people reaches them.
"""

from __future__ import annotations

from dataclasses import dataclass

_IDS_PER_SECOND = 48
"""Quick speech has 9 syllables a second. In ids of Qwen3's tokenizer, that is 6 to 8 in English, Spanish, Japanese,
Chinese and Korean, 21 in Hindi and Tamil, and 44 in Burmese, the most of the languages that were counted."""
_IDS_ANYWAY = 64
_IDS_OF_A_CAPTION = 1024
"""The captions of Bagpiper's training have 200 to 350 words."""
_FRAMES_PER_ID = 75
"""1.5 s, five times as long as an id of Qwen3's takes at a usual pace, be it a word, a digit or a Chinese character."""
_FRAMES_ANYWAY = 500
_FRAMES_OF_A_SCENE = 1500
"""30 s, as long as a clip that is heard: a text that the model writes may describe a sound and not spell it out."""


@dataclass(frozen=True)
class Bound:
    """A limit that follows from what is asked.

    Attributes:
        tokens: ids or frames at most.
        warning: what is said where it ended an answer.
    """

    tokens: int
    warning: str


def transcription_bound(seconds: float, thinking: int = 0) -> Bound:
    """Ids that write down a clip of ``seconds``: 48 a second, and 64, after ``thinking``."""
    tokens = int(_IDS_PER_SECOND * seconds) + _IDS_ANYWAY + thinking
    return Bound(
        tokens, f"the text was cut at {tokens} tokens, more than {seconds:.1f} s can say; max_tokens sets another limit"
    )


def scene_bound(ids: int, thinking: int) -> Bound:
    """Ids of a caption that quotes a text of ``ids`` ids, after ``thinking``."""
    tokens = thinking + _IDS_OF_A_CAPTION + 2 * ids
    return Bound(
        tokens, f"the text was cut at {tokens} tokens, more than a caption takes; max_tokens sets another limit"
    )


def speech_bound(ids: int, min_frames: int) -> Bound:
    """Frames that speak a text of ``ids`` ids: 75 for each, and 500; all after those before which it may not end."""
    return _sound_bound(min_frames + _FRAMES_PER_ID * ids + _FRAMES_ANYWAY)


def written_bound(ids: int, min_frames: int) -> Bound:
    """Frames that go with a text of ``ids`` ids that the model wrote: as to speak it, and 1,500 in place of 500."""
    return _sound_bound(min_frames + _FRAMES_PER_ID * ids + _FRAMES_OF_A_SCENE)


def _sound_bound(frames: int) -> Bound:
    return Bound(
        frames, f"the sound was cut at {frames} frames, more than its text can take; max_tokens sets another limit"
    )
