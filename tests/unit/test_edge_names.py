"""JSON that is nested deeply is refused, and so are objects that give a name twice: no value is silently dropped."""

import orjson
import pytest

from sglang_speechlm.server.edge.errors import ApiError
from sglang_speechlm.server.edge.names import parse


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b'{"max_tokens":1,"seed":2,"max_tokens":1}', "max_tokens"),
        (b'{"messages":[{"role":"user","content":"Hi.","content":"Ho."}]}', "content"),
        (b'{"a":{"b":1},"a":[{"c":"d:e"}]}', "a"),
        (b'{"seed":1,"\\u0073eed":2}', "seed"),
        (b'{"a":1,"a":2,"x":"\\u003a"}', "a"),
        (b'{"a":1,"a":2,"x":"\\u003A"}', "a"),
        (b'\xef\xbb\xbf{"a":1,"a":2}', "a"),
        (b'{"\xc3\xa4":1,"\\u00e4":2}', "\u00e4"),
        (b'{"":1,"":2}', ""),
    ],
)
def test_a_name_that_an_object_gives_twice_is_refused(raw: bytes, name: str) -> None:
    with pytest.raises(ApiError, match="must be given only once") as error:
        parse(raw)
    assert (error.value.status, error.value.field) == (400, name)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"url":"data:audio/wav;base64,","a:b":{"c":":::"}}',
        b'[{"a":1},{"a":2,"b":{"a":3}}]',
        b'{"a":"\\u003a","b":"\\\\u003a"}',
        b'"a:b"', b"[]", b"1",
    ],
)  # fmt: skip
def test_other_json_is_read_unchanged(raw: bytes) -> None:
    assert parse(bytearray(raw)) == orjson.loads(raw)


@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("inner", ["1", '"\\u003a"'])
def test_nesting_is_limited_so_that_a_body_can_be_written_again(start: str, end: str, inner: str) -> None:
    deepest = parse((start * 199 + inner + end * 199).encode())
    assert orjson.loads(orjson.dumps(deepest)) == deepest
    for levels in (201, 300, 1000):
        with pytest.raises(ApiError, match=f"must not be nested deeper than 200 levels; it has {levels}") as error:
            parse((start * (levels - 1) + inner + end * (levels - 1)).encode())
        assert error.value.status == 400
