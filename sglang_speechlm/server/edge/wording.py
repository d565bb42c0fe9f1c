"""This server's wording of pydantic's errors: the rules for a field."""

from __future__ import annotations

from typing import Any

from pydantic_core import ErrorDetails

_KINDS = {
    "string_type": "a string",
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "none_required": "null",
}

_RULES = {
    "missing": "is required",
    "extra_forbidden": "is unknown",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "finite_number": "must be a finite number",
    "int_from_float": "must be an integer",
    "int_parsing": "must be an integer",
    "int_parsing_size": "must be an integer of fewer digits",
    "float_parsing": "must be a number",
    "bool_parsing": "must be true or false",
    "too_long": "must have at most {max_length} items",
    "too_short": "must have at least {min_length} items",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must not be empty",
    "string_pattern_mismatch": "must match {pattern}",
    "string_unicode": "must be valid Unicode text",
}


def kind_of(error: ErrorDetails) -> str | None:
    """Return the required type, such as "a string"; None if the value has it."""
    return _KINDS.get(error["type"])


def rule_of(error: ErrorDetails) -> str:
    """Return the broken rule, such as "must be at most 2"."""
    if kind := kind_of(error):
        return f"must be {kind}"
    rule = _RULES.get(error["type"])
    if rule is None:
        return error["msg"].removeprefix("Value error, ")
    return rule.format(**{name: _plain(value) for name, value in error.get("ctx", {}).items()})


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
