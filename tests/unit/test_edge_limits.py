"""Limits on the size and the duration of a request, tested on small applications."""

import asyncio
import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sglang_speechlm.server.edge import limits
from sglang_speechlm.server.edge.body import read_form, read_json
from sglang_speechlm.server.edge.errors import ApiError
from sglang_speechlm.server.edge.limits import BodyLimit, Deadline
from sglang_speechlm.server.reading.schema import ChatRequest

CHAT = "/v1/chat/completions"
JSON = [(b"content-type", b"application/json")]
MAX = 1 << 20
ROOM = 256 << 20


@dataclass
class Answer:
    """The ASGI messages that a client receives."""

    messages: list[Message] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.messages).decode()


def ask(
    app: ASGIApp, pieces: Sequence[bytes] = (), headers: Sequence[tuple[bytes, bytes]] = JSON, path: str = CHAT
) -> Answer:
    """Send a body in pieces; without an empty last piece it stays open."""
    answer = Answer()
    scope: Scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
    remaining = iter(pieces)

    async def receive() -> Message:
        piece = next(remaining, None)
        if piece is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": piece, "more_body": piece != b""}

    async def send(message: Message) -> None:
        answer.messages.append(message)

    async def work() -> None:
        await app(scope, receive, send)

    asyncio.run(asyncio.wait_for(work(), 100))
    return answer


async def count_bytes(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body and respond with its number of bytes."""
    size = len(await Request(scope, receive).body())
    await Response(str(size))(scope, receive, send)


async def parse(scope: Scope, receive: Receive, send: Send) -> None:
    try:
        await read_json(Request(scope, receive), ChatRequest)
        response = Response()
    except ApiError as error:
        response = error.response()
    await response(scope, receive, send)


# Bodies


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"zstd, gzip", b"x"])
@pytest.mark.parametrize("path", [CHAT, "/abort_request"])
def test_an_encoded_body_is_refused_with_its_encoding(encoding: bytes, path: str) -> None:
    answer = ask(BodyLimit(count_bytes, MAX), [b"{}", b""], [*JSON, (b"content-encoding", encoding)], path)
    assert answer.status == 415
    assert encoding.decode() in answer.text
    assert "identity" in answer.text


@pytest.mark.parametrize("encoding", [b"identity", b" Identity ", b""])
def test_a_body_without_an_encoding_is_accepted(encoding: bytes) -> None:
    answer = ask(BodyLimit(count_bytes, MAX), [b"{}", b""], [*JSON, (b"content-encoding", encoding)])
    assert answer.text == "2"


@pytest.mark.parametrize(("path", "limit"), [(CHAT, MAX), ("/abort_request", 64 << 10)])
def test_each_route_has_its_limit_on_the_size_of_a_body(path: str, limit: int) -> None:
    app = BodyLimit(count_bytes, MAX)
    assert ask(app, [b"x" * limit, b""], path=path).text == str(limit)
    assert ask(app, [b"x" * limit, b"x", b""], path=path).status == 413
    declared = [*JSON, (b"content-length", str(limit + 1).encode())]
    assert ask(app, [], declared, path).status == 413


def test_a_response_that_has_begun_is_not_interrupted_by_a_faulty_body() -> None:
    """A response may wait for its client to disconnect while it is sent."""

    async def page(_scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        assert (await receive())["type"] == "http.request"
        await send({"type": "http.response.body", "body": b"page"})

    answer = ask(BodyLimit(page, MAX), [b"x" * 2 * MAX, b""], [*JSON, (b"content-encoding", b"br")])
    assert (answer.status, answer.text) == (200, "page")


def test_a_body_that_does_not_arrive_in_time_gives_a_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_FIRST_SECONDS", 0.05)
    answer = ask(BodyLimit(count_bytes, MAX), [b"half"])
    assert answer.status == 408
    assert "4 bytes" in answer.text


def test_an_answer_may_take_longer_than_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_FIRST_SECONDS", 0.05)

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        await request.body()
        disconnection = asyncio.ensure_future(receive())
        await asyncio.sleep(0.2)
        assert not disconnection.done()
        disconnection.cancel()
        await Response("whole")(scope, receive, send)

    assert ask(BodyLimit(slow, MAX), [b"all", b""]).text == "whole"


def test_all_bodies_together_are_limited_and_their_memory_is_released() -> None:
    app = BodyLimit(count_bytes, MAX)
    app._held = limits._BODIES_AT_ONCE * MAX - 10
    full = ask(app, [b"x" * 11, b""])
    assert full.status == 503
    assert dict(full.messages[0]["headers"])[b"retry-after"] == b"1"
    assert ask(app, [b"x" * 10, b""]).text == "10"
    assert ask(app, [b"x" * 10, b""]).text == "10"


def test_the_memory_of_parsed_bodies_is_limited_too() -> None:
    holding = BodyLimit(parse, MAX)
    body = orjson.dumps({"messages": [{"role": "user", "content": "Hi."}] * 3000})
    assert ask(holding, [body, b""]).status == 200
    holding._held = limits._BODIES_AT_ONCE * MAX - (4 << 20)
    assert ask(holding, [body, b""]).status == 503
    assert holding._held == limits._BODIES_AT_ONCE * MAX - (4 << 20)


# Time


async def wait_forever(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


async def begin_and_wait(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await asyncio.Event().wait()


@pytest.mark.parametrize("app", [count_bytes, wait_forever])
def test_a_request_ends_with_a_504_at_its_deadline(app: ASGIApp) -> None:
    assert ask(Deadline(app, 0.05), [b"half"]).status == 504


def test_a_response_that_has_begun_is_cut_off_after_a_grace_period(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_GRACE_SECONDS", 0.05)
    answer = ask(Deadline(begin_and_wait, 0.05))
    assert [message["type"] for message in answer.messages] == ["http.response.start"]


def test_a_timeout_of_the_application_is_not_taken_for_the_deadline() -> None:
    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        ask(Deadline(fail, 100))


# JSON


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hello."}], **fields}


def many(item: str, before: str = "[", after: str = "]") -> bytes:
    """A chat request whose field ``x`` holds an item a million times."""
    return orjson.dumps(chat())[:-1] + f',"x":{before}{",".join([item] * 10**6)}{after}}}'.encode()


@pytest.mark.parametrize(
    "body",
    [
        many("{}"), many("[]"), many("1"), many('""'), many('"":0', "{", "}"), many("[[[[[[]]]]]]"),
        orjson.dumps(chat(stop_token_ids=[1] * 10**6)), orjson.dumps(chat(messages=chat()["messages"] * 10**5)),
    ],
    ids=["objects", "arrays", "numbers", "texts", "keys", "nested", "stop ids", "messages"],
)  # fmt: skip
def test_a_body_with_too_many_values_is_not_parsed(body: bytes) -> None:
    answer = ask(BodyLimit(parse, ROOM), [body, b""])
    assert answer.status == 413
    assert "the body must not contain more than " in answer.text


@pytest.mark.parametrize("depth", [2000, 90_000])
def test_a_body_that_is_nested_too_deeply_is_refused(depth: int) -> None:
    body = orjson.dumps(chat())[:-1] + b',"x":' + b"[" * depth + b"]" * depth + b"}"
    assert ask(BodyLimit(parse, ROOM), [body, b""]).status == 400


def test_a_large_clip_counts_as_one_value() -> None:
    part = {"type": "input_audio", "input_audio": {"data": "A" * (100 << 20), "format": "wav"}}
    body = orjson.dumps(chat(messages=[{"role": "user", "content": [part]}]))
    assert ask(BodyLimit(parse, ROOM), [body, b""]).status == 200


def test_the_number_of_biased_ids_is_limited() -> None:
    body = orjson.dumps(chat(logit_bias={str(i): 1 for i in range(5000)}))
    answer = ask(BodyLimit(parse, ROOM), [body, b""])
    assert answer.status == 400
    assert "logit_bias" in answer.text


# Forms


async def upload(scope: Scope, receive: Receive, send: Send) -> None:
    try:
        file = (await read_form(Request(scope, receive)))["file"]
        assert isinstance(file, UploadFile)
        assert isinstance(getattr(file.file, "_file", None), io.BytesIO)
        response = Response(str(len(await file.read())))
    except ApiError as error:
        response = error.response()
    await response(scope, receive, send)


FORM = [(b"content-type", b"multipart/form-data; boundary=x")]
HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
FIELD = b'--x\r\nContent-Disposition: form-data; name="%d"\r\n\r\na\r\n'


@pytest.mark.parametrize(("charset", "status"), [("punycode", 415), ("utf-16", 415), ("UTF-8", 200), ("us-ascii", 200)])
def test_the_texts_of_a_form_are_in_utf8(charset: str, status: int) -> None:
    headers = [(b"content-type", f'multipart/form-data; boundary=x; charset="{charset}"'.encode())]
    assert ask(BodyLimit(upload, ROOM), [FIELD % 1, HEAD, b"a\r\n--x--\r\n", b""], headers).status == status


@pytest.mark.parametrize(
    "end", [b"", b"\r\n", b"\r\n--", b"\r\n--x", b"\r\n--x\r\nContent-Disposition: form-data; name="]
)
def test_a_truncated_form_is_refused(end: bytes) -> None:
    answer = ask(BodyLimit(upload, ROOM), [HEAD, b"a\r\n", FIELD % 1, b"--x\r\n", (FIELD % 2)[5:-2], end, b""], FORM)
    assert answer.status == 400
    assert "end is missing" in answer.text


@pytest.mark.parametrize("end", [b"--x--", b"--x--\r\n", b"--x--\r\nmore"])
def test_bytes_after_a_complete_form_are_ignored(end: bytes) -> None:
    assert ask(BodyLimit(upload, ROOM), [FIELD % 1, HEAD, b"a\r\n", end, b""], FORM).status == 200


@pytest.mark.parametrize(
    ("header", "text", "reason"),
    [
        (b"Content-Transfer-Encoding: base64", b"YQ==", "Content-Transfer-Encoding must be left out; got 'base64'"),
        (b"Content-Transfer-Encoding: quoted-printable", b"=61", "got 'quoted-printable'"),
        (b"Content-Encoding: gzip", b"a", "got 'gzip'"),
        (b"Content-Type: text/plain; charset=utf-16", b"a\0", "charset must be utf-8; got 'utf-16'"),
        (b"Content-Type: text/plain", b"caf\xe9", "its byte 3 is not"),
    ],
)
def test_a_part_that_would_be_misread_is_refused_by_name(header: bytes, text: bytes, reason: str) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n' + header + b"\r\n\r\n" + text + b"\r\n"
    answer = ask(BodyLimit(upload, ROOM), [part, HEAD, b"a\r\n--x--\r\n", b""], FORM)
    assert answer.status == 400
    assert "'prompt'" in answer.text
    assert reason in answer.text


@pytest.mark.parametrize(
    "header",
    [b"Content-Transfer-Encoding: 8bit", b"Content-Type: text/plain; charset=UTF-8", b"Content-Type: text/plain"],
)
def test_a_part_may_be_declared_as_plain_text(header: bytes) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n' + header + b"\r\n\r\ncaf\xc3\xa9\r\n"
    assert ask(BodyLimit(upload, ROOM), [part, HEAD, b"a\r\n--x--\r\n", b""], FORM).status == 200


@pytest.mark.parametrize(("text", "status"), [(b"whisper-1", 200), (b"caf\xe9", 400)])
def test_only_ascii_may_have_the_charset_of_older_clients(text: bytes, status: int) -> None:
    headers = b"Content-Type: text/plain; charset=ISO-8859-1\r\nContent-Transfer-Encoding: 8bit"
    part = b'--x\r\nContent-Disposition: form-data; name="model"\r\n' + headers + b"\r\n\r\n" + text + b"\r\n"
    assert ask(BodyLimit(upload, ROOM), [part, HEAD, b"a\r\n--x--\r\n", b""], FORM).status == status


def test_an_upload_stays_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    pieces = [HEAD, *[b"\0" * (1 << 20)] * 5, b"\r\n--x--\r\n", b""]
    assert ask(BodyLimit(upload, ROOM), pieces, FORM).text == str(5 << 20)


@pytest.mark.parametrize(
    "pieces",
    [
        [FIELD % i for i in range(200)],
        [HEAD, b"a\r\n", HEAD, b"a\r\n"],
        [b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n', b"a" * (2 << 20)],
        [b"--x\r\nContent-Disposition: " + b"a" * (1 << 20)],
    ],
    ids=["fields", "files", "a long field", "a long header"],
)
def test_a_form_with_too_many_or_too_long_parts_is_refused(pieces: list[bytes]) -> None:
    assert ask(BodyLimit(upload, ROOM), [*pieces, b""], FORM).status == 400
