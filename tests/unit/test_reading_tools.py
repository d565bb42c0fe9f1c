"""The functions that a text may call, according to OpenAI's fields."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from sglang_speechlm.prompt.tools import CallRules
from sglang_speechlm.server.edge.errors import ApiError
from sglang_speechlm.server.edge.warnings import Warnings
from sglang_speechlm.server.reading.structure import ANY_OBJECT
from sglang_speechlm.server.reading.tools import Tool, ToolChoice, call_rules

CHOICE: TypeAdapter[Any] = TypeAdapter(ToolChoice | None)


def tool(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **fields}}


def rules(tools: list[Any], choice: Any = None, *, parallel: bool | None = None) -> tuple[CallRules | None, list[str]]:
    warnings = Warnings()
    found = call_rules(
        [Tool.model_validate(tool) for tool in tools], CHOICE.validate_python(choice), parallel, warnings
    )
    return found, list(warnings)


def names(found: CallRules | None) -> list[str]:
    assert found is not None
    return [function.name for function in found.functions]


def named_tools(*functions: str) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": name}} for name in functions]


@pytest.mark.parametrize(
    ("choice", "called", "is_required"),
    [
        (None, ["f", "g"], False),
        ("auto", ["f", "g"], False),
        ("required", ["f", "g"], True),
        (named_tools("g")[0], ["g"], True),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": named_tools("g")}}, ["g"], False),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": named_tools("g", "f")}},
            ["f", "g"],
            True,
        ),
    ],
)
def test_the_choice_determines_which_functions_may_or_must_be_called(
    choice: Any, called: list[str], is_required: bool
) -> None:
    found, warnings = rules([tool("f"), tool("g")], choice)
    assert names(found) == called
    assert found is not None
    assert found.is_required is is_required
    assert found.is_parallel
    assert warnings == []


def test_calls_may_be_forbidden_or_limited_to_one_at_a_time() -> None:
    assert rules([tool("f")], "none")[0] is None
    assert rules([], "auto")[0] is None
    found, _ = rules([tool("f")], parallel=False)
    assert found is not None
    assert not found.is_parallel


@pytest.mark.parametrize(
    ("field", "tools", "choice"),
    [
        ("tool_choice", [], "required"),
        ("tool_choice", [], named_tools("f")[0]),
        ("tool_choice.function.name", [tool("f")], named_tools("g")[0]),
        (
            "tool_choice.allowed_tools.tools",
            [tool("f")],
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": named_tools("f", "g")}},
        ),
        ("tools[1].function.name", [tool("f"), tool("f")], None),
        (
            "tools[0].function.parameters.properties.a.pattern",
            [
                tool(
                    "f",
                    strict=True,
                    parameters={"type": "object", "properties": {"a": {"type": "string", "pattern": "x"}}},
                )
            ],
            None,
        ),
        ("tools[0].function.parameters.type", [tool("f", strict=True, parameters={"type": "string"})], None),
    ],
)
def test_contradictory_fields_are_refused_by_path(field: str, tools: list[Any], choice: Any) -> None:
    with pytest.raises(ApiError) as refusal:
        rules(tools, choice)
    assert (refusal.value.status, refusal.value.field) == (400, field)


def test_an_unsupported_schema_allows_any_object_unless_it_is_strict() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "x"}}}
    found, warnings = rules([tool("f", parameters=schema, description="Do it.")])
    assert found is not None
    (function,) = found.functions
    assert function.parameters == ANY_OBJECT
    assert function.described == {"name": "f", "description": "Do it.", "parameters": schema}
    assert "tools[0].function.parameters.properties.a.pattern" in warnings[0]


def test_all_schemas_together_are_limited() -> None:
    """Each schema alone would be accepted; the grammar of both together would take too long."""
    text = {"type": "string", "maxLength": 100}
    schema = {"type": "object", "properties": {"a": text, "b": text}}
    found, warnings = rules([tool("f", parameters=schema), tool("g", parameters=schema)])
    assert found is not None
    assert [function.parameters for function in found.functions] == [schema, ANY_OBJECT]
    assert "tools[1].function.parameters: must have at most 300" in warnings[0]
