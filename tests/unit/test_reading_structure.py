"""Accepted schemas can be followed; others are refused by their path."""

from __future__ import annotations

import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from drawing import compiler_of, random_text

from sglang_speechlm.server.edge.errors import ApiError
from sglang_speechlm.server.reading.structure import ANY_OBJECT, check_schema, narrowed
from sglang_speechlm.sglang_hooks.grammar import compiled_schema

VOCABULARY = [bytes([byte]) if byte >= 32 else b"" for byte in range(256)] + [
    b"",
    b'{"',
    b'": ',
    b'", "',
    b"null",
    b"12",
]
COMPILER = compiler_of(VOCABULARY)


def closed(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


NODE = closed(value={"type": "integer"}, next={"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]})
ACCEPTED: dict[str, Any] = {
    "any object": ANY_OBJECT,
    "anything": {},
    "a string": {"type": "string"},
    "of lengths": {"type": "string", "minLength": 2, "maxLength": 4},
    "of two types": {"type": ["string", "null"], "title": "T"},
    "nullable, bounded": {"type": ["integer", "null"], "minimum": 3, "maximum": 9},
    "nullable, of lengths": {"type": ["string", "null"], "minLength": 2, "maxLength": 4},
    "nullable object": {**closed(a={"type": "boolean"}), "type": ["object", "null"]},
    "nullable array": {"type": ["array", "null"], "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2},
    "values": {"enum": ["a", 'quoted "x"', "line\nend", 1, 2.5, None, True, {"x": [1]}, "日本"]},
    "one value": {"type": "object", "const": {"a": [1.5, "é"]}},
    "all types": closed(
        a={"type": "string"}, b={"type": "integer"}, c={"type": "number"}, d={"type": "boolean"}, e={"type": "null"}
    ),
    "optional properties": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "null"}, "é f[0]{'": {"type": "boolean"}},
        "required": ["b"],
        "additionalProperties": False,
    },
    "more properties": {
        "type": "object",
        "properties": {"a": {"type": "null"}},
        "additionalProperties": {"type": "null"},
    },
    "unnamed properties": {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]},
    "items": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    "a tuple": {"type": "array", "prefixItems": [{"type": "null"}, {"type": "boolean"}], "minItems": 2, "maxItems": 2},
    "from": {"type": "integer", "minimum": 95},
    "within": {"type": "integer", "minimum": -1234, "maximum": 98765},
    "between": {"type": "integer", "exclusiveMinimum": -3, "exclusiveMaximum": 105},
    "up to": {"type": "integer", "maximum": 10},
    "below": {"type": ["integer", "null"], "exclusiveMaximum": -7},
    "above": {"type": "integer", "minimum": -5},
    "zod's integer": {"type": "integer", "minimum": -(2**53) + 1, "maximum": 2**53 - 1},
    "zod's positive integer": closed(a={"type": "integer", "exclusiveMinimum": 0, "maximum": 2**53 - 1}),
    "bounds beyond 64 bits": {"type": "integer", "minimum": -(2.0**70), "maximum": 2.0**70},
    "whole numbers as floats": {"type": "array", "items": {"type": "integer", "maximum": 3.0}, "minItems": 1.0},
    "annotations that xgrammar cannot read": {"type": "null", "title": "\0", "default": None, "examples": ["a\0b"]},
    "one of": {"anyOf": [{"type": "integer", "minimum": 10, "maximum": 20}, closed(a={"type": "boolean"})]},
    "a list of nodes": {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
    "a tree": {
        "type": "object",
        "properties": {"children": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}},
        "required": ["children"],
        "additionalProperties": False,
    },
    **{
        name: {"type": "string", "format": name}
        for name in ("date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
    },
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_schemas_are_followed(name: str) -> None:
    check_schema(ACCEPTED[name], "schema")
    narrow = json.dumps(narrowed(ACCEPTED[name]))
    assert r"\u0000" not in narrow, "SGLang's grammar backend refuses it"
    compiled = compiled_schema(COMPILER, narrow)
    texts = [text for number in range(12) if (text := random_text(compiled, VOCABULARY, number)) is not None]
    assert texts
    for text in texts:
        jsonschema.validate(json.loads(text), ACCEPTED[name])


DEEP: dict[str, Any] = {"type": "string"}
for _ in range(10):
    DEEP = closed(a=DEEP)

REFUSED: list[tuple[str, Any]] = [
    ("schema.pattern", {"type": "string", "pattern": "a"}),
    ("schema.uniqueItems", {"type": "array", "uniqueItems": True}),
    ("schema.multipleOf", {"type": "integer", "multipleOf": 5}),
    ("schema.not", {"not": {"type": "null"}}),
    ("schema.oneOf", {"oneOf": [{"type": "null"}]}),
    ("schema.allOf", {"allOf": [{"type": "null"}]}),
    ("schema.if", {"if": {}}),
    ("schema.type", {"type": "text"}),
    ("schema.type", {"type": []}),
    ("schema.type", {"type": [["string"]]}),
    ("schema.format", {"type": "string", "format": {"a": []}}),
    ("schema.required", {"type": "object", "properties": {}, "required": [[]]}),
    ("schema.minimum", {"type": "number", "minimum": 1}),
    ("schema.minimum", {"type": "integer", "minimum": 0.5}),
    ("schema.minimum", {"type": "integer", "minimum": 3, "maximum": 2}),
    ("schema.minimum", {"type": "integer", "minimum": 3, "exclusiveMaximum": 3}),
    ("schema.exclusiveMinimum", {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 4}),
    ("schema.minimum", {"type": ["integer", "string"], "minimum": 3}),
    ("schema.maximum", {"type": "integer", "maximum": -(10**15)}),
    ("schema.exclusiveMinimum", {"type": "integer", "exclusiveMinimum": 10**15}),
    ("schema.maxLength", {"type": "string", "maxLength": 101}),
    ("schema.maxLength", {"maxLength": 3}),
    ("schema.maxItems", {"type": "array", "prefixItems": [{}, {}], "maxItems": 1}),
    ("schema.minItems", {"type": "array", "prefixItems": [{}], "items": False, "minItems": 2}),
    ("schema", {"type": "array", "prefixItems": [{}] * 101}),
    ("schema.properties.é", {"type": "object", "properties": {"é": {}}, "additionalProperties": {"type": "integer"}}),
    ("schema.properties.😀", {"type": "object", "properties": {"😀": {}}, "additionalProperties": True}),
    ("schema.format", {"type": "string", "format": "regex"}),
    ("schema.format", {"type": "string", "format": "date", "maxLength": 3}),
    ("schema.enum", {"enum": []}),
    ("schema.enum", {"type": "string", "enum": ["a", 5]}),
    ("schema.const", {"type": "integer", "const": True}),
    ("schema.const", {"const": [{"a": "b\0"}]}),
    ("schema.enum", {"enum": ["a", {"\0": 1}]}),
    ("schema.anyOf", {"anyOf": []}),
    ("schema.anyOf", {"type": "object", "anyOf": [{"type": "null"}]}),
    ("schema.anyOf[0]", {"anyOf": [True]}),
    ("schema.properties", {"type": "object", "properties": []}),
    ("schema.properties", {"type": "object", "properties": {'a"b': {}}}),
    ("schema.properties.a", {"type": "object", "properties": {"a": False}}),
    ("schema.properties.a.items.kind", closed(a={"type": "array", "items": {"kind": 1}})),
    ("schema.required", {"type": "object", "properties": {"a": {}}, "required": ["b"]}),
    ("schema.$ref", {"$ref": "#/$defs/a"}),
    ("schema.$ref", {"$ref": "https://x.example/a"}),
    ("schema.$ref", {"$ref": "#"}),
    ("schema.$ref", {"$defs": {"a": {"type": "integer"}}, "$ref": "#/$defs/a", "minimum": 5}),
    ("schema.$defs.a.$ref", {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
    ("schema.$defs.a.anyOf[0].$ref", {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "type": "null"}),
    ("schema", closed(**{f"a{i}": {"type": "null"} for i in range(101)})),
    ("schema", closed(**{f"a{i}": {"type": "string", "maxLength": 100} for i in range(4)})),
    ("schema", {"enum": list(range(501))}),
    ("schema", {"const": "x" * 20_001}),
    (f"schema{'.properties.a' * 10}", DEEP),
]


@pytest.mark.parametrize(("field", "schema"), REFUSED, ids=[f"{i}-{field}" for i, (field, _) in enumerate(REFUSED)])
def test_unsupported_schemas_are_refused_by_path(field: str, schema: Any) -> None:
    with pytest.raises(ApiError) as refusal:
        check_schema(schema, "schema")
    assert (refusal.value.status, refusal.value.field) == (400, field)
