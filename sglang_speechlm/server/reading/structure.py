"""The JSON Schemas that a text can be made to follow exactly and in bounded time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from sglang_speechlm.server.edge.errors import bad_field, shown

ANY_OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": True}
"""The schema of OpenAI's json_object."""

# Beyond these limits, xgrammar takes minutes or ends its process.
_MOST_DEPTH = 10
_MOST_SCHEMAS = 100
_MOST_SCHEMAS_TOGETHER = 1000
_MOST_VALUES = 500
"""Maximum for all ``enum`` lists together."""
_MOST_CHARACTERS = 20_000
"""Maximum for all names and values together."""
_MOST_COUNT = 100
"""Maximum length, or number of items."""
_MOST_COUNTS = 300
"""Maximum sum of all lengths and numbers of items."""
_MOST_INTEGER = 10**15
"""The largest bound of an integer, and the one of an integer that needs a bound and has none."""

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "object": (dict,),
    "array": (list,),
}
_FORMATS = ("date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
_OF_TYPES = {
    "properties": "object",
    "required": "object",
    "additionalProperties": "object",
    "items": "array",
    "prefixItems": "array",
    "minItems": "array",
    "maxItems": "array",
    "minLength": "string",
    "maxLength": "string",
    "format": "string",
    "minimum": "integer",
    "maximum": "integer",
    "exclusiveMinimum": "integer",
    "exclusiveMaximum": "integer",
}
"""The type that each keyword requires. xgrammar does not enforce bounds of numbers with a fraction."""
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems")
_LOWER, _UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
_BOUNDS = (*_LOWER, *_UPPER)
_DEFINITIONS = ("$defs", "definitions")
_ANNOTATIONS = (
    "$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly",
)  # fmt: skip
"""Keywords that no text can contradict."""
_ALONE = {
    "$ref": (),
    "anyOf": (),
    "enum": ("type",),
    "const": ("type",),
    "format": ("type",),
}
"""Keywords that exclude all others except these."""
_KNOWN = tuple(dict.fromkeys(("type", *_ALONE, *_OF_TYPES)))

_NO_NUL = "must not contain the character NUL"

Schema = dict[str, Any]


class Size(NamedTuple):
    """The size of the schemas of one text: subschemas, enum values, lengths and numbers of items, and characters."""

    schemas: int = 0
    values: int = 0
    counts: int = 0
    characters: int = 0


_NONE = Size()


def check_schema(schema: Schema, field: str, others: Size = _NONE) -> Size:
    """Refuse a JSON Schema with a keyword that is unknown, is wrong, or cannot be enforced.

    Args:
        schema: as it was parsed from the request.
        field: its path in the body.
        others: the size of other schemas of the same text.

    Returns:
        The size of all of them.

    Raises:
        ApiError: 400 that names the path of the keyword.
    """
    schemas = {field: schema}
    waiting = [(field, schema, 1)]
    _, values, counts, characters = others
    while waiting:
        path, part, depth = waiting.pop()
        if depth > _MOST_DEPTH:
            raise bad_field(path, f"must not be nested deeper than {_MOST_DEPTH} schemas")
        _check_keywords(part, path)
        for name, child in _children(part, path):
            if isinstance(child, bool) and name.endswith(("additionalProperties", "items")):
                continue
            if not isinstance(child, dict):
                raise bad_field(name, f"must be a schema, an object; got {shown(child)}")
            schemas[name] = child
            waiting.append((name, child, depth + 1))
        values += len(part.get("enum", ()))
        counts += sum(part.get(keyword, 0) for keyword in _COUNTS)
        characters += len(repr(part.get("enum"))) + len(repr(part.get("const")))
        characters += sum(map(len, part.get("properties", ())))
        for count, most, what in (
            (len(schemas), _MOST_SCHEMAS, "schemas"),
            (others.schemas + len(schemas), _MOST_SCHEMAS_TOGETHER, "schemas together with those before it"),
            (values, _MOST_VALUES, "values in enum lists"),
            (counts, _MOST_COUNTS, "as the sum of all lengths and item counts"),
            (characters, _MOST_CHARACTERS, "characters of names and values"),
        ):
            if count > most:
                raise bad_field(field, f"must have at most {most} {what}")
    _check_references(schemas, field)
    return Size(others.schemas + len(schemas), values, counts, characters)


def narrowed(schema: Any) -> Any:
    """Return a checked schema whose integers have the bounds that xgrammar needs, on both sides, without annotations.

    What matches it also matches the given schema.
    """
    if not isinstance(schema, dict):
        return schema
    result = {keyword: value for keyword, value in schema.items() if keyword not in _ANNOTATIONS}
    for keyword, value in result.items():
        if keyword in ("properties", *_DEFINITIONS):
            result[keyword] = {name: narrowed(child) for name, child in value.items()}
        elif keyword in ("anyOf", "prefixItems"):
            result[keyword] = [narrowed(child) for child in value]
        elif keyword in ("items", "additionalProperties"):
            result[keyword] = narrowed(value)
        elif keyword in _BOUNDS:
            result[keyword] = int(max(-_MOST_INTEGER, min(value, _MOST_INTEGER)))
        elif keyword in _COUNTS:
            result[keyword] = int(value)
    lowest, highest = _range(schema)
    if lowest is None and highest is not None:
        result["minimum"] = -_MOST_INTEGER
    elif lowest is not None and highest is None and lowest < 0:
        result["maximum"] = _MOST_INTEGER
    return result


def _children(schema: Schema, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the schemas in a schema, each with its path."""
    for keyword in ("properties", *_DEFINITIONS):
        for name, child in schema.get(keyword, {}).items():
            yield f"{path}.{keyword}.{name}", child
    for keyword in ("anyOf", "prefixItems"):
        for index, child in enumerate(schema.get(keyword, ())):
            yield f"{path}.{keyword}[{index}]", child
    for keyword in ("items", "additionalProperties"):
        if keyword in schema:
            yield f"{path}.{keyword}", schema[keyword]


def _check_keywords(schema: Schema, path: str) -> None:
    for keyword, value in schema.items():
        if keyword in _ANNOTATIONS:
            continue
        place = f"{path}.{keyword}"
        if keyword not in (*_KNOWN, *_DEFINITIONS):
            raise bad_field(place, f"is not supported; allowed: {', '.join(_KNOWN)}, $defs and annotations")
        if (problem := _problem(keyword, value)) is not None:
            raise bad_field(place, f"{problem}; got {shown(value)}")
    constraints = [keyword for keyword in schema if keyword in _KNOWN]
    for keyword, allowed in _ALONE.items():
        if keyword in schema:
            for other in constraints:
                if other != keyword and other not in allowed:
                    raise bad_field(f"{path}.{keyword}", f"must not be combined with {other}")
    types = [schema["type"]] if isinstance(schema.get("type"), str) else schema.get("type", _TYPES)
    for keyword in ("enum", "const"):
        for value in schema.get("enum", ()) if keyword == "enum" else [schema[keyword]] if keyword in schema else ():
            if not any(_is_of(value, name) for name in types):
                raise bad_field(f"{path}.{keyword}", f"must be of the type {' or '.join(types)}; got {shown(value)}")
    for keyword, kind in _OF_TYPES.items():
        if keyword in schema and set(types) - {"null"} != {kind}:
            raise bad_field(f"{path}.{keyword}", f"requires the type {kind!r}, with no other type except 'null'")
    lowest, highest = _range(schema)
    if lowest is not None and highest is not None and lowest > highest:
        bound = next(name for name in _BOUNDS if name in schema)
        raise bad_field(f"{path}.{bound}", f"must allow at least one integer; got the range from {lowest} to {highest}")
    for least, most in (("minLength", "maxLength"), ("minItems", "maxItems")):
        if least in schema and most in schema and schema[least] > schema[most]:
            raise bad_field(f"{path}.{least}", f"must not exceed {most}; got {schema[least]} and {schema[most]}")
    first = len(schema.get("prefixItems", ()))
    if "maxItems" in schema and schema["maxItems"] < first:
        raise bad_field(f"{path}.maxItems", f"must not be less than the {first} items of prefixItems")
    if schema.get("items") is False and schema.get("minItems", 0) > first:
        raise bad_field(f"{path}.minItems", f"must not exceed the {first} items of prefixItems if items is false")
    if schema.get("additionalProperties", False) is not False:
        for name in schema.get("properties", ()):
            if not name.isascii():  # xgrammar cannot tell such a name from additional ones
                raise bad_field(f"{path}.properties.{name}", "must be ASCII if additionalProperties is not false")
    for name in schema.get("required", ()):
        if name not in schema.get("properties", {}):
            raise bad_field(f"{path}.required", f"must name properties of this schema; got {shown(name)}")


def _range(schema: Schema) -> tuple[int | None, int | None]:
    """Return the smallest and the largest integer within the bounds; None where there is no bound."""
    lowest = [int(schema[name]) + name.startswith("exclusive") for name in _LOWER if name in schema]
    highest = [int(schema[name]) - name.startswith("exclusive") for name in _UPPER if name in schema]
    return max(lowest, default=None), min(highest, default=None)


def _problem(keyword: str, value: Any) -> str | None:
    """Return the rule that a keyword's value breaks; None if it breaks none."""
    match keyword:
        case "type":
            names = [value] if isinstance(value, str) else value
            if (
                not isinstance(names, list)
                or not names
                or not all(isinstance(name, str) and name in _TYPES for name in names)
            ):
                return f"must be one of {', '.join(_TYPES)}, or a list of them"
        case "enum" | "anyOf" | "prefixItems":
            if not isinstance(value, list) or not value:
                return "must be a list that is not empty"
            if keyword == "enum" and _has_nul(value):
                return _NO_NUL
        case "const":
            if _has_nul(value):
                return _NO_NUL
        case "properties" | "$defs" | "definitions":
            if not isinstance(value, dict):
                return "must be an object"
            if not all(name.isprintable() and not set(name) & set('"\\') for name in value):
                return "must have names of printable characters without quotation marks and backslashes"
        case "required":
            if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
                return "must be a list of names"
        case "format":
            if value not in _FORMATS:
                return f"must be one of {', '.join(_FORMATS)}"
        case "$ref":
            if not isinstance(value, str) or not (value == "#" or value.startswith(("#/$defs/", "#/definitions/"))):
                return "must be '#', '#/$defs/NAME' or '#/definitions/NAME'"
        case _ if keyword in _COUNTS:
            if not _is_whole(value) or not 0 <= value <= _MOST_COUNT:
                return f"must be a whole number from 0 to {_MOST_COUNT}"
        case _ if keyword in _BOUNDS:
            if not _is_whole(value):
                return "must be a whole number"
            if keyword in _LOWER and value >= _MOST_INTEGER:
                return f"must be less than {_MOST_INTEGER}"
            if keyword in _UPPER and value <= -_MOST_INTEGER:
                return f"must be more than {-_MOST_INTEGER}"
    return None


def _has_nul(value: Any) -> bool:
    """Whether a string in a value has the character NUL, which xgrammar does not read."""
    match value:
        case str():
            return "\0" in value
        case list():
            return any(map(_has_nul, value))
        case dict():
            return any(map(_has_nul, [*value, *value.values()]))
    return False


def _is_whole(value: Any) -> bool:
    """Whether a value is a number without a fraction; integers of more than 64 bits are parsed as floats."""
    return _is_of(value, "integer") or (isinstance(value, float) and value.is_integer())


def _is_of(value: Any, name: str) -> bool:
    """Whether a value has one of JSON's types; a number with a decimal point is not an integer, whatever its value."""
    return isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def _check_references(schemas: dict[str, Schema], root: str) -> None:
    """Refuse references to missing schemas, and cycles that are closed before any text is written."""

    def reached(path: str) -> Iterator[str]:
        """Yield the paths of the schemas that may replace this one."""
        part = schemas[path]
        if "$ref" in part:
            target = root + part["$ref"].removeprefix("#").replace("/", ".")
            if target not in schemas:
                raise bad_field(f"{path}.$ref", f"must refer to an existing schema; got {shown(part['$ref'])}")
            yield target
        yield from (f"{path}.anyOf[{index}]" for index in range(len(part.get("anyOf", ()))))

    settled: set[str] = set()
    for start in schemas:
        trail: list[tuple[str, Iterator[str]]] = [(start, reached(start))]
        while trail:
            path, targets = trail[-1]
            target = next((reference for reference in targets if reference not in settled), None)
            if target is None:
                settled.add(path)
                trail.pop()
            elif any(target == before for before, _ in trail):
                raise bad_field(f"{path}.$ref", "refers to itself")
            else:
                trail.append((target, reached(target)))
