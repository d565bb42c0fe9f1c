"""JSON bodies: what is refused, and that few bytes do not take much memory."""

import json
import tracemalloc
from typing import Any

import pytest

from sglang_speechlm.server.edge.body import _parse, weigh
from sglang_speechlm.server.edge.errors import ApiError
from sglang_speechlm.server.reading.schema import ChatRequest

USER = {"role": "user", "content": "Hi."}
MANY = 99_000
MAX_BYTES = 24 << 20
"""Maximum memory that reading a body of about a megabyte may take."""

EXPENSIVE: dict[str, dict[str, Any]] = {
    "unknown fields": {f"k{i}": 1 for i in range(MANY)},
    "fields of ours": {"speechlm": {f"k{i}": 1 for i in range(24_000)}},
    "fields of a message": {"messages": [{**USER, **{f"k{i}": 1 for i in range(24_000)}}]},
    "messages": {"messages": [{"role": "user"}] * MANY},
    "messages that are just allowed": {"messages": [{"role": "user"}] * 9_000},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 9_000}]},
    "wrong modalities": {"modalities": ["x"] * MANY},
    "wrong stops": {"stop": [1] * MANY},
    "wrong ids": {"stop_token_ids": ["x"] * MANY},
    "wrong biases": {"logit_bias": {f"{i}": "x" for i in range(24_000)}},
}


@pytest.mark.parametrize("fields", EXPENSIVE.values(), ids=EXPENSIVE.keys())
def test_many_small_things_take_little_memory(fields: dict[str, Any]) -> None:
    raw = json.dumps({"messages": [USER], **fields}, separators=(",", ":")).encode()
    tracemalloc.start()
    try:
        weigh(raw)
        _parse(raw, ChatRequest)
    except ApiError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < MAX_BYTES


@pytest.mark.parametrize(
    ("what", "fields"),
    [
        ("values", {"stop_token_ids": [1] * 100_001}),
        ("objects", {"messages": [{"role": "user"}] * 10_001}),
        ("names of fields", {"logit_bias": {f"{i}": 0 for i in range(25_001)}}),
    ],
)
def test_counts_are_limited(what: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match=rf"^the body must not contain more than \d+ {what} ") as error:
        weigh(json.dumps(fields, separators=(",", ":")).encode())
    assert error.value.status == 413


@pytest.mark.parametrize("fields", EXPENSIVE.values(), ids=EXPENSIVE.keys())
def test_a_body_takes_no_more_memory_than_is_counted_for_it(fields: dict[str, Any]) -> None:
    raw = json.dumps({"messages": [USER], **fields}, separators=(",", ":")).encode()
    try:
        counted = weigh(raw)
    except ApiError:
        return
    tracemalloc.start()
    parsed = None
    try:
        parsed = _parse(raw, ChatRequest)
    except ApiError:
        pass
    finally:
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert kept < counted + len(raw)
    del parsed


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_json_in_another_encoding_is_named(encoding: str) -> None:
    with pytest.raises(ApiError, match=r"^the body must be JSON in UTF-8; it looks like UTF-(16|32)"):
        _parse(json.dumps({"messages": [USER]}).encode(encoding), ChatRequest)


def test_a_byte_that_is_not_utf8_is_named() -> None:
    with pytest.raises(ApiError, match="its byte 6 is not"):
        _parse(b'{"a":"\xe4"}', ChatRequest)


def test_a_byte_order_mark_is_skipped() -> None:
    assert _parse(json.dumps({"messages": [USER]}).encode("utf-8-sig"), ChatRequest).messages[0].role == "user"
