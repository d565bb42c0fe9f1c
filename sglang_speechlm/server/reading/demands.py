"""Fields that are not read: hints are ignored, unknown ones are told, demands for another answer are refused."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sglang_speechlm.server.edge.errors import bad_field, shown

_OFF: tuple[Any, ...] = (None, False, 0, "", [], {}, "none", "auto", "false")
"""Values that ask for nothing; forms have the last one."""

_NO_TOOLS = "the model calls no tools"
_PLAIN = "the answer is plain text"
_NO_PROBABILITIES = "the model gives no probabilities"
_NO_CHOICE = "the answer's ids cannot be prescribed"
_DEMANDS = {
    "response_format": _PLAIN,
    "tools": _NO_TOOLS,
    "tool_choice": _NO_TOOLS,
    "functions": _NO_TOOLS,
    "function_call": _NO_TOOLS,
    "logprobs": _NO_PROBABILITIES,
    "top_logprobs": _NO_PROBABILITIES,
    "prompt_logprobs": _NO_PROBABILITIES,
    "best_of": "answers are not compared; n gives several",
    "use_beam_search": "answers are sampled",
    "echo": "the answer does not repeat the prompt",
    "suffix": "nothing can follow the answer",
    "continue_final_message": "the answer is a turn of its own",
    "include_stop_str_in_output": "the answer ends before its stop string",
    "guided_json": _PLAIN,
    "guided_regex": _PLAIN,
    "guided_choice": _PLAIN,
    "guided_grammar": _PLAIN,
    "structured_outputs": _PLAIN,
    "json_schema": _PLAIN,
    "regex": _PLAIN,
    "ebnf": _PLAIN,
    "stop_regex": "stop takes strings",
    "bad_words": _NO_CHOICE,
    "allowed_token_ids": _NO_CHOICE,
    "extra_body": "its fields belong to the top level, where the openai client puts them",
}
"""What would give another answer than this server gives, and why it cannot be had."""

_NEUTRAL: dict[str, Any] = {"response_format": {"type": "text"}, "best_of": 1}

_HINTS = frozenset(
    (
        "user", "metadata", "store", "service_tier", "parallel_tool_calls", "verbosity", "reasoning_effort",
        "prediction", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    )
)  # fmt: skip
"""OpenAI's fields that an answer may be given without."""

_OBJECTS = ("vllm_xargs", "speechlm")
_EXAMINED = 100
_ALIKE = 0.85


def check_demands(fields: Mapping[str, Any], known: Collection[str], own: Collection[str]) -> None:
    """Check the top-level fields of a body that are not known.

    Args:
        fields: of the body.
        known: names that the route reads.
        own: names of fields that belong into ``speechlm``.

    Raises:
        ApiError: 400 for the first field whose value asks for what cannot be given, or that is misspelt or misplaced.
    """
    for name, value in _unknown(fields, known):
        if name in _DEMANDS and value not in _OFF and value != _NEUTRAL.get(name):
            if name == "tools" and fields.get("tool_choice") == "none":
                continue
            raise bad_field(name, f"{_DEMANDS[name]}; leave it out; got {shown(value)}")
        if name in own and (name != "mode" or value == "text_audio"):
            raise bad_field(name, f"belongs into the object speechlm: speechlm.{name}")
        if alike := difflib.get_close_matches(name.lower()[:20], _OBJECTS, 1, _ALIKE):
            raise bad_field(name, f"is not known; {alike[0]!r} is")


def ignored(fields: Mapping[str, Any], known: Collection[str]) -> tuple[str, ...]:
    """Warnings of fields that are neither known nor mere hints."""
    names = [name for name, value in _unknown(fields, known) if name not in _HINTS and name not in _DEMANDS]
    return (f"ignored: {', '.join(shown(name) for name in names[:10])}",) if names else ()


def _unknown(fields: Mapping[str, Any], known: Collection[str]) -> Iterable[tuple[str, Any]]:
    unknown = [(name, value) for name, value in fields.items() if name not in known and value is not None]
    # What is refused is refused wherever it stands; the rest is looked at as far as people write.
    return [pair for number, pair in enumerate(unknown) if number < _EXAMINED or pair[0] in _DEMANDS]
