"""The settings of a reply's two stages, validated and complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sglang_speechlm.program.bounds import Bound
from sglang_speechlm.prompt.layout import Prompt
from sglang_speechlm.prompt.thinking import Reasoning
from sglang_speechlm.prompt.tools import CallRules


@dataclass(frozen=True)
class TextSettings:
    """How the text is sampled.

    Attributes:
        temperature: 0 is greedy.
        top_k: -1 is all.
        max_tokens: maximum text ids, within the request's own budget; None means no further limit.
        stop_token_ids: ids that end the text, in addition to eot and eos.
        others: SGLang sampling parameters that pass through unchanged (top_p, stop, penalties ...).
        bound: default limit on the ids, if the request sets none.
        ends_loops: whether the text is stopped if it repeats itself endlessly.
        json_schema: the JSON Schema that the text must match; None allows any text.
        calls: the functions that the text may call; None for none.
    """

    temperature: float
    top_k: int
    max_tokens: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    others: Mapping[str, Any] = field(default_factory=dict)
    bound: Bound | None = None
    ends_loops: bool = False
    json_schema: str | None = None
    calls: CallRules | None = None

    @property
    def is_structured(self) -> bool:
        """Whether the whole text is JSON or calls."""
        return self.json_schema is not None or (self.calls is not None and self.calls.is_required)


@dataclass(frozen=True)
class AudioSettings:
    """How the frames are sampled.

    Attributes:
        temperature: 0 is greedy, on every stream.
        top_k: per stream; -1 is all.
        min_frames: minimum number of frames.
        max_frames: maximum frames, within the request's own budget; None means no further limit.
        cfg: guidance scale; 1 is none.
        bound: default limit on the frames, if the request sets none.
        is_bounded_by_text: whether, without ``bound``, the text that the model has written sets the default limit.
    """

    temperature: float
    top_k: int
    min_frames: int
    max_frames: int | None = None
    cfg: float = 1.0
    bound: Bound | None = None
    is_bounded_by_text: bool = False


@dataclass(frozen=True)
class GivenText:
    """A reply's text, given by the caller.

    Attributes:
        text: as the caller wrote it.
        ids: the text's ids, closed by eot.
    """

    text: str
    ids: tuple[int, ...]


def following_seed(seed: int, number: int) -> int:
    """Return the seed of request ``number`` of several, a signed 64-bit integer that follows from the first seed."""
    return (seed + number + 2**63) % 2**64 - 2**63


@dataclass(frozen=True)
class ReplyRequest:
    """One reply to generate.

    Attributes:
        id: names the request in logs and stages.
        prompt: up to the <assistant> that opens the reply.
        text: how the text is sampled.
        audio: how the audio is sampled; None for a text answer.
        given_text: the reply's text, if the caller gives it; the text stage is then skipped.
        max_tokens: one budget for text ids and frames.
        seed: of every draw.
        reasoning: how thinking is marked in the text, to be returned separately.
    """

    id: str
    prompt: Prompt
    text: TextSettings
    audio: AudioSettings | None
    max_tokens: int
    seed: int
    given_text: GivenText | None = None
    reasoning: Reasoning = "none"

    @property
    def is_guided(self) -> bool:
        """Whether its audio has an unconditional branch."""
        return self.audio is not None and self.audio.cfg != 1.0
