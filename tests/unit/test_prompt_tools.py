"""Calls in a text, however it is cut into pieces, and the grammar of a text with functions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import xgrammar
from drawing import END, compiler_of, random_text
from hypothesis import given
from hypothesis import strategies as st

from sglang_speechlm.prompt.tools import (
    CallDelta,
    CallRules,
    CallSplitter,
    Function,
    call_grammar,
    instructions,
    spelled,
)
from sglang_speechlm.sglang_hooks.grammar import compiled_calls

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 9}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city"],
    "additionalProperties": False,
}
NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
FUNCTIONS = (
    Function(
        "get_weather", WEATHER, {"name": "get_weather", "description": "Tell the weather.", "parameters": WEATHER}
    ),
    Function("hang-up", NO_PARAMETERS, {"name": "hang-up"}),
)
ROME = '{"city": "Rome}", "days": 2}'
TWO_CALLS = f"{spelled('get_weather', ROME)}\n{spelled('hang-up', '{}')}"

Call = tuple[str, str]


def streamed(pieces: Iterable[str]) -> tuple[str, list[Call]]:
    """The content and the calls of a text."""
    splitter = CallSplitter()
    parts = [part for piece in pieces for part in splitter.push(piece)]
    parts += splitter.flush()
    content = "".join(part for part in parts if isinstance(part, str))
    calls: list[Call] = []
    for part in parts:
        if isinstance(part, CallDelta):
            if part.name is not None:
                calls.append((part.name, ""))
            name, arguments = calls[part.index]
            calls[part.index] = name, arguments + part.arguments
    return content, calls


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("Good day.", "Good day.", []),
        ("a <tool_ca b", "a <tool_ca b", []),
        (TWO_CALLS, "", [("get_weather", ROME), ("hang-up", "{}")]),
        (f"One moment.\n{TWO_CALLS}\n", "One moment.\n", [("get_weather", ROME), ("hang-up", "{}")]),
        (spelled("hang-up", "{}")[:-10], "", [("hang-up", "{}")]),
        (spelled("get_weather", ROME)[:60], "", [("get_weather", ROME[:11])]),
        ("Hm.<tool_call>\n", "Hm.", []),
        ("Hm.<tool_call", "Hm.<tool_call", []),
        (spelled("get_weather", '{"city": "a\tb"}'), "", [("get_weather", '{"city": "a\\u0009b"}')]),
    ],
)
def test_calls_are_separated_from_the_rest_of_the_text(text: str, content: str, calls: list[Call]) -> None:
    assert streamed([text]) == streamed(text) == (content, calls)


@given(st.lists(st.integers(0, len(TWO_CALLS) + 3), max_size=8))
def test_pieces_give_the_same_result_as_the_whole(cuts: list[int]) -> None:
    text = f"Hm.{TWO_CALLS}"
    places = [0, *sorted(cuts), len(text)]
    pieces = [text[begin:end] for begin, end in pairwise(places)]
    assert streamed(pieces) == streamed([text])


def test_the_instructions_have_a_line_for_each_function_and_the_form_of_a_call() -> None:
    text = instructions(FUNCTIONS)
    listed = text.split("<tools>\n")[1].split("\n</tools>")[0].splitlines()
    assert [json.loads(line)["function"] for line in listed] == [function.described for function in FUNCTIONS]
    assert text.endswith('<tool_call>\n{"name": <name of the function>, "arguments": {...}}\n</tool_call>')


VOCABULARY = [bytes([byte]) for byte in range(256)] + [b"", b"<tool_call>", b'{"', b'": ', b"}\n", b".\n\n"]
COMPILER = compiler_of(VOCABULARY)


def compiled(**rules: bool) -> xgrammar.CompiledGrammar:
    return compiled_calls(COMPILER, call_grammar(CallRules(FUNCTIONS, **rules)))


def accepted(grammar: xgrammar.CompiledGrammar, text: str) -> bool:
    """Whether the grammar accepts the complete text."""
    matcher = xgrammar.GrammarMatcher(grammar)
    return bool(matcher.accept_string(text) and matcher.accept_token(END))


@pytest.mark.parametrize("is_parallel", [True, False])
def test_a_text_that_must_call_consists_of_calls_that_follow_their_schemas(is_parallel: bool) -> None:
    grammar = compiled(is_required=True, is_parallel=is_parallel)
    texts = [text for number in range(20) if (text := random_text(grammar, VOCABULARY, number)) is not None]
    names = set()
    for text in texts:
        content, calls = streamed([text])
        assert content == ""
        assert len(calls) >= 1 if is_parallel else len(calls) == 1
        for name, arguments in calls:
            schema = next(function.parameters for function in FUNCTIONS if function.name == name)
            jsonschema.validate(json.loads(arguments), schema)
            names.add(name)
    assert names == {"get_weather", "hang-up"}


@pytest.mark.parametrize(
    "text", ["Good day.\n\n\tHow are <tools> you?", "", "日本 <tool_ call>", f"Hm.\n{TWO_CALLS}", TWO_CALLS]
)
def test_a_text_that_may_call_is_any_text_with_optional_calls_at_its_end(text: str) -> None:
    assert accepted(compiled(), text)


@pytest.mark.parametrize(
    "text",
    [spelled("reboot", "{}"), spelled("hang-up", '{"now": true}'), f"{TWO_CALLS} Well.", "<tool_call>", "<tool_call>5"],
)
def test_unknown_calls_and_text_after_calls_are_refused(text: str) -> None:
    assert not accepted(compiled(), text)


def test_without_parallel_calls_there_is_at_most_one() -> None:
    assert not accepted(compiled(is_parallel=False), TWO_CALLS)
    assert accepted(compiled(is_parallel=False), f"Hm. {spelled('hang-up', '{}')}")
    assert not accepted(compiled(is_required=True), "Good day.")
