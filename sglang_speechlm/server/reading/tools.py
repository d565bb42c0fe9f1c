"""OpenAI's ``tools`` and ``tool_choice``: which functions a text may call."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from sglang_speechlm.prompt.tools import CallRules, Function
from sglang_speechlm.server.edge.errors import ApiError, bad_field, shown
from sglang_speechlm.server.edge.warnings import Warnings
from sglang_speechlm.server.reading.lenient import Lenient
from sglang_speechlm.server.reading.structure import ANY_OBJECT, Size, check_schema, narrowed

_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}

FunctionName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]*$")]


class FunctionDefinition(Lenient):
    """OpenAI's description of a function; without ``parameters`` it has none."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Lenient):
    """A tool; all are functions."""

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Lenient):
    """The name of a function."""

    name: str


class NamedTool(Lenient):
    """A tool by its name, as the choice of what to call."""

    type: Literal["function"]
    function: NamedFunction


class AllowedTools(Lenient):
    """Some of the tools, and whether one of them must be called."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=128, fail_fast=True)]


class ToolSubset(Lenient):
    """OpenAI's choice of some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


Tools = Annotated[list[Tool], Field(max_length=128, fail_fast=True)]
ToolChoice = Literal["none", "auto", "required"] | NamedTool | ToolSubset


def call_rules(
    tools: list[Tool] | None, choice: ToolChoice | None, is_parallel: bool | None, warnings: Warnings
) -> CallRules | None:
    """Return which functions a text may call; None if it may call none.

    If the schema of a function's arguments cannot be enforced, or is too large together with those before it, any
    object is allowed, with a warning, unless the function is ``strict``.

    Raises:
        ApiError: 400 for a function that is defined twice, is chosen but not defined, or is strict with a schema that
            cannot be enforced.
    """
    if choice == "none":
        return None
    if not tools:
        if choice not in (None, "auto"):
            raise bad_field("tool_choice", f"requires tools, but the request has none; got {shown(_plain(choice))}")
        return None
    names = [tool.function.name for tool in tools]
    chosen, is_required = _chosen(choice, names)
    functions, size = [], Size()
    for index, tool in enumerate(tools):
        place = f"tools[{index}].function"
        if tool.function.name in names[:index]:
            raise bad_field(f"{place}.name", f"must be unique; got {shown(tool.function.name)} twice")
        if tool.function.name in chosen:
            function, size = _function(tool.function, place, size, warnings)
            functions.append(function)
    return CallRules(tuple(functions), is_required, is_parallel is not False)


def _chosen(choice: ToolChoice | None, names: list[str]) -> tuple[list[str], bool]:
    """Return the functions that may be called, and whether one of them must be."""
    match choice:
        case NamedTool():
            chosen, is_required, place = [choice.function.name], True, "tool_choice.function.name"
        case ToolSubset(allowed_tools=allowed):
            chosen, is_required = [tool.function.name for tool in allowed.tools], allowed.mode == "required"
            place = "tool_choice.allowed_tools.tools"
        case _:
            return names, choice == "required"
    for name in chosen:
        if name not in names:
            raise bad_field(place, f"must be one of tools: {', '.join(names[:20])}; got {shown(name)}")
    return chosen, is_required


def _function(definition: FunctionDefinition, place: str, size: Size, warnings: Warnings) -> tuple[Function, Size]:
    """Return a function, and the size of its schema and those before it."""
    schema = definition.parameters or _NO_PARAMETERS
    try:
        if schema.get("type") != "object":
            raise bad_field(f"{place}.parameters.type", f"must be 'object'; got {shown(schema.get('type'))}")
        size = check_schema(schema, f"{place}.parameters", size)
        schema = narrowed(schema)
    except ApiError as error:
        if definition.strict:
            raise
        warnings.add(f"{error}: the arguments of {definition.name} can be any object")
        schema = ANY_OBJECT
    return Function(definition.name, schema, definition.model_dump(exclude_none=True, exclude={"strict"})), size


def _plain(choice: ToolChoice | None) -> Any:
    return choice.model_dump() if isinstance(choice, Lenient) else choice
