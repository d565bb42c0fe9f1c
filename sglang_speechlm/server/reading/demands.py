"""Fields that the schema does not read: hints are ignored, unknown fields get a warning, demands are refused."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sglang_speechlm.server.edge.errors import bad_field, shown

_OFF: tuple[Any, ...] = (None, False, 0, "", [], {}, "none", "auto", "false")
"""Values that switch a feature off; the last one occurs in forms."""

_NO_TOOLS = "only chat requests can call functions"
_NEWER_TOOLS = "use tools and tool_choice instead"
_STRUCTURE = "use response_format with the type json_object or json_schema"
_NO_GRAMMAR = "an answer is plain text, or JSON with response_format"
_NO_PROBABILITIES = "the model returns no probabilities"
_NO_CHOICE = "the answer's token ids cannot be restricted"
_DEMANDS = {
    "tools": _NO_TOOLS,
    "tool_choice": _NO_TOOLS,
    "functions": _NEWER_TOOLS,
    "function_call": _NEWER_TOOLS,
    "logprobs": _NO_PROBABILITIES,
    "top_logprobs": _NO_PROBABILITIES,
    "prompt_logprobs": _NO_PROBABILITIES,
    "return_tokens_as_token_ids": _NO_PROBABILITIES,
    "return_token_ids": "use speechlm.return_ids for the answer's token ids",
    "return_hidden_states": "hidden states are not returned",
    "best_of": "answers are not ranked; use n for several answers",
    "use_beam_search": "beam search is not supported",
    "echo": "the answer does not repeat the prompt",
    "suffix": "text cannot be appended to the answer",
    "continue_final_message": "the answer is always a new turn",
    "include_stop_str_in_output": "the answer always ends before the stop string",
    "guided_json": _STRUCTURE,
    "guided_regex": _NO_GRAMMAR,
    "guided_choice": _NO_GRAMMAR,
    "guided_grammar": _NO_GRAMMAR,
    "structured_outputs": _STRUCTURE,
    "json_schema": _STRUCTURE,
    "regex": _NO_GRAMMAR,
    "ebnf": _NO_GRAMMAR,
    "stop_regex": "stop accepts strings only",
    "bad_words": _NO_CHOICE,
    "allowed_token_ids": _NO_CHOICE,
    "extra_body": "its fields belong at the top level, where the openai client puts them",
}
"""Fields that would require another kind of answer, with the reason for refusing them."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {"best_of": (1,)}

_HINTS = frozenset(
    (
        "user", "metadata", "store", "service_tier", "parallel_tool_calls", "verbosity", "reasoning_effort",
        "prediction", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    )
)  # fmt: skip
"""OpenAI's fields that may be ignored."""

_OBJECTS = ("vllm_xargs", "speechlm")
_EXAMINED = 100
_ALIKE = 0.85


def check_demands(fields: Mapping[str, Any], known: Collection[str], own: Collection[str]) -> None:
    """Check the unknown top-level fields of a body.

    Args:
        fields: the body's fields.
        known: names that the route reads.
        own: names of fields that belong in ``speechlm``.

    Raises:
        ApiError: 400 for the first field that demands what this server cannot do, or that is misspelt or misplaced.
    """
    for name, value in _unknown(fields, known):
        if name in _DEMANDS and value not in (*_OFF, *_NEUTRAL.get(name, ())):
            raise bad_field(name, f"must be left out: {_DEMANDS[name]}; got {shown(value)}")
        if name in own and (name != "mode" or value == "text_audio"):
            raise bad_field(name, f"belongs in the object speechlm: speechlm.{name}")
        if alike := difflib.get_close_matches(name.lower()[:20], _OBJECTS, 1, _ALIKE):
            raise bad_field(name, f"is unknown; did you mean {alike[0]!r}?")


def ignored(fields: Mapping[str, Any], known: Collection[str]) -> tuple[str, ...]:
    """Return warnings about fields that are neither known nor hints."""
    names = [name for name, value in _unknown(fields, known) if name not in _HINTS and name not in _DEMANDS]
    return (f"ignored: {', '.join(shown(name) for name in names[:10])}",) if names else ()


def _unknown(fields: Mapping[str, Any], known: Collection[str]) -> Iterable[tuple[str, Any]]:
    unknown = [(name, value) for name, value in fields.items() if name not in known and value is not None]
    # Demands are refused wherever they are; of the others, only a realistic number is examined.
    return [pair for number, pair in enumerate(unknown) if number < _EXAMINED or pair[0] in _DEMANDS]
