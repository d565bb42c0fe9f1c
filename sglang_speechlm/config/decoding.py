"""Default decoding values that the authors of the checkpoints published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

TABLE_10: dict[str, Any] = {
    "text_temperature": 0.6,
    "text_topk": 20,
    "text_max_tokens": 2048,
    "audio_temperature": 0.8,
    "audio_topk": 20,
    "audio_cfg": 3.0,
    "audio_min_frames": 50,
    "audio_max_frames": 2048,
}
"""From the Bagpiper paper, named as the fields of ``SpeechLMConfig``, for releases without values of their own."""

TABLE_10_NAME = "Table 10 of the Bagpiper paper"

_LARGEST = 1e9


@dataclass(frozen=True)
class Rule:
    """The allowed values of a decoding field.

    Attributes:
        allowed: their description, for messages.
        holds: whether a number is allowed.
        kind: the type to which a value is converted.
    """

    allowed: str
    holds: Callable[[Any], bool]
    kind: type[int] | type[float]

    def admits(self, value: Any) -> bool:
        """Whether a value is an allowed number."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST
        return is_number and self.holds(value)


def _whole(least: int) -> Rule:
    allowed = f"a whole number from {least} to 1000000"
    return Rule(allowed, lambda value: value == int(value) and least <= value <= 1_000_000, int)


_TEMPERATURE = Rule("a number from 0 to 2", lambda value: 0 <= value <= 2, float)
_TOP_K = Rule(
    "a whole number of at least 1, or -1", lambda value: value == int(value) and (value >= 1 or value == -1), int
)

RULES: dict[str, Rule] = {
    "text_temperature": _TEMPERATURE,
    "text_topk": _TOP_K,
    "text_max_tokens": _whole(1),
    "audio_temperature": _TEMPERATURE,
    "audio_topk": _TOP_K,
    "audio_cfg": Rule("a number from 1 to 20", lambda value: 1 <= value <= 20, float),
    "audio_min_frames": _whole(0),
    "audio_max_frames": _whole(1),
}
"""The rules by field of ``SpeechLMConfig``."""

_UNBOUNDED = ("text_max_tokens", "audio_min_frames", "audio_max_frames")
"""Fields that may be None."""


def check_decoding(fields: Mapping[str, Any]) -> None:
    """Check a config's decoding fields.

    Raises:
        ValueError: naming the field, its value and what is allowed, if one is out of range.
    """
    for name, rule in RULES.items():
        value = fields[name]
        if not rule.admits(value) and not (value is None and name in _UNBOUNDED):
            raise ValueError(f"{name} is {str(value)[:40]}; allowed: {rule.allowed}")
