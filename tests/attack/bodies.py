"""Thousands of unusual bodies, and a few that are heavy or slow."""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from .ledger import Ledger
from .target import CHAT, Target, resident_bytes

_ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 2**70, 0.5, 1e-300, 1e308, 30.0, "", "x", "text_audio",
    "text", "3", "\0", "\ud800", "💥", [], [1], [[]], {}, {"a": 1}, "HEALTH_CHECK_x", "a::u", float("nan"),
    float("inf"),
]  # fmt: skip
_FIELDS = (
    "messages", "model", "max_tokens", "max_completion_tokens", "temperature", "top_k", "top_p", "min_p", "n",
    "stream", "stream_options", "stop", "stop_token_ids", "seed", "logit_bias", "modalities", "audio", "tools",
    "tool_choice", "functions", "response_format", "logprobs", "top_logprobs", "vllm_xargs", "speechlm", "extra_body",
    "user", "rid", "priority", "ignore_eos", "min_tokens", "input", "voice", "instructions", "response_format",
    "speed", "stream_format", "text", "input_ids", "sampling_params", "return_logprob",
)  # fmt: skip
_INNER = (
    "mode", "phase", "cfg", "seed", "text", "return_ids", "audio_min_frames", "audio_max_frames", "text_max_tokens",
    "audio_topk", "text_temperature", "audio_temperature", "text_top_k", "unknown", "max_new_tokens", "custom_params",
    "n", "stop",
)  # fmt: skip
_PATHS = (CHAT, CHAT, "/v1/audio/speech", "/generate")
_AT_ONCE = 8
_GROWTH = 4


def odd_bodies(target: Target, ledger: Ledger, count: int, seed: int) -> None:
    """Send almost valid bodies: each gets an answer or a 4xx with OpenAI's error object."""
    area = f"{target.name}: odd bodies"
    generator = random.Random(seed)
    cases = [(generator.choice(_PATHS), _odd_body(generator)) for _ in range(count)]

    def attempt(case: tuple[str, Any]) -> None:
        path, body = case
        raw = json.dumps(body).encode()
        try:
            response = client.post(path, content=raw, headers={"Content-Type": "application/json"})
        except httpx.HTTPError as error:
            ledger.check(area, False, f"{path} {raw[:150]!r}: {type(error).__name__}: {error}")
            return
        passed = response.status_code == 200 or (
            response.status_code in (400, 404, 413) and '"message"' in response.text
        )
        ledger.check(area, passed, f"{path} {raw[:150]!r}: {response.status_code} {response.text[:80]}")

    with target.client() as client, ThreadPoolExecutor(_AT_ONCE) as threads:
        list(threads.map(attempt, cases))
    ledger.check(area, target.answers(), "no answer afterwards")


def _odd_body(generator: random.Random) -> Any:
    if generator.random() < 0.02:
        return generator.choice(_ODD)
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Hello."}],
        "input": "Hello.",
        "input_ids": [1, 5, 7, 300],
    }
    if generator.random() < 0.5:
        body["speechlm"] = {"mode": "text_audio", "text": "Hello."}
    for _ in range(generator.randrange(1, 4)):
        value = generator.choice(_ODD)
        if generator.random() < 0.3:
            value = {generator.choice(_INNER): generator.choice(_ODD)}
        if generator.random() < 0.2:
            value = [value] * generator.randrange(1, 4)
        body[generator.choice(_FIELDS)] = value
    body["max_tokens"] = generator.choice((1, 2, 3, None, 0)) or 1
    return body


def heavy_bodies(target: Target, ledger: Ledger, megabytes: int, health_seconds: float) -> None:
    """Send heavy bodies while ``/health`` is polled and the target's memory is watched."""
    area = f"{target.name}: heavy bodies"
    for name, path, make in _heavy(megabytes):
        raw = make()
        before = target.memory()
        with _watched(target) as watch:
            status: int | str
            try:
                with target.client(seconds=120) as client:
                    status = client.post(path, content=raw, headers={"Content-Type": "application/json"}).status_code
            except httpx.HTTPError as error:
                status = type(error).__name__
        size = len(raw) / 1e6
        growth = (watch.memory - before) / 1e6
        what = f"{name} ({size:.0f} MB): {status}, /health waited {watch.longest:.2f} s, memory grew by {growth:.0f} MB"
        passed = status in (200, 400, 413) and watch.longest <= health_seconds and growth <= _GROWTH * size + 64
        ledger.check(area, passed, what)
    ledger.check(area, target.answers(), "no answer afterwards")


def _heavy(megabytes: int) -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    size = megabytes * 1_000_000

    def filled(head: bytes, element: bytes, tail: bytes) -> Callable[[], bytes]:
        return lambda: head + (element + b",") * (size // (len(element) + 1)) + element + tail

    message = b'{"role":"user","content":"a"}'
    part = b'{"type":"text","text":"a"}'
    good = b'"messages":[{"role":"user","content":"a"}],"max_tokens":1'
    yield "messages", CHAT, filled(b'{"max_tokens":1,"messages":[', message, b"]}")
    yield "parts", CHAT, filled(b'{"max_tokens":1,"messages":[{"role":"user","content":[', part, b"]}]}")
    yield "empty parts", CHAT, filled(b'{"messages":[{"role":"user","content":[', b"{}", b"]}]}")
    yield "stop ids", CHAT, filled(b"{" + good + b',"stop_token_ids":[', b"3", b"]}")
    yield "empty objects in an unknown field", CHAT, filled(b"{" + good + b',"x":[', b"{}", b"]}")
    yield "keys", CHAT, lambda: b"{" + good + b"".join(b',"k%d":0' % number for number in range(size // 12)) + b"}"
    yield "logit bias", CHAT, lambda: b"{" + good + b',"logit_bias":{"1":0' + b"".join(
        b',"%d":0' % number for number in range(size // 11)
    ) + b"}}"  # fmt: skip
    yield (
        "one long text",
        CHAT,
        lambda: b'{"messages":[{"role":"user","content":"' + b"a" * size + b'"}],"max_tokens":1}',
    )
    yield (
        "one long text of commas",
        CHAT,
        lambda: b'{"messages":[{"role":"user","content":"' + b"[," * (size // 2) + b'"}]}',
    )
    yield "escapes", CHAT, lambda: b'{"messages":[{"role":"user","content":"' + b"\\u0041" * (size // 6) + b'"}]}'
    yield "depth", CHAT, lambda: b'{"x":' + b"[" * (size // 2) + b"]" * (size // 2) + b"}"
    yield "a long number", CHAT, lambda: b'{"max_tokens":' + b"9" * size + b"}"
    yield "white space", CHAT, lambda: b"{" + good + b" " * size + b"}"
    yield "prompts", "/generate", filled(b'{"sampling_params":{"max_new_tokens":1},"text":[', b'"a"', b"]}")
    yield "prompts of ids", "/generate", filled(b'{"sampling_params":{"max_new_tokens":1},"input_ids":[', b"[1]", b"]}")
    yield "ids", "/generate", filled(b'{"sampling_params":{"max_new_tokens":1},"input_ids":[', b"300", b"]}")
    yield (
        "a long input",
        "/v1/audio/speech",
        lambda: b'{"model":"speechlm","voice":"a","input":"' + b"a " * (size // 2) + b'"}',
    )
    for unit in (b"%", b"%41", b"; ", b"A\\n", b"////"):
        yield f"a data URL of {unit.decode()!r}", CHAT, _data_url(unit * (size // len(unit)))
    yield "stops", CHAT, filled(b"{" + good + b',"stop":[', b'"b"', b"]}")


def slow_bodies(target: Target, ledger: Ledger, health_seconds: float) -> None:
    """Send small bodies that could take long to parse, while ``/health`` is polled."""
    area = f"{target.name}: slow bodies"
    json_type, boundary = "application/json", "multipart/form-data; boundary=b"
    field = b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n' + b"a" * 1_000_000 + b"\r\n--b--\r\n"
    speech = b'{"model":"speechlm","voice":"a","max_tokens":1,"input":"One.' + b" " * 400_000 + b'two"}'
    cases: list[tuple[str, str, str, bytes | Iterator[bytes]]] = [
        ("chunks of one byte", CHAT, json_type, iter([b" "] * 200_000)),
        ("a form in punycode", "/v1/audio/transcriptions", f"{boundary}; charset=punycode", field),
        ("a text of digits", CHAT, json_type, b'{"messages":[{"role":"user","content":"' + b"7" * 300_000 + b'"}]}'),
        ("a prompt of digits", "/generate", json_type, b'{"text":"' + b"7" * 300_000 + b'"}'),
        ("a speech of spaces", "/v1/audio/speech", json_type, speech),
    ]
    for name, path, kind, body in cases:
        with _watched(target) as watch:
            status: int | str
            try:
                with target.client(seconds=120) as client:
                    status = client.post(path, content=body, headers={"Content-Type": kind}).status_code
            except httpx.HTTPError as error:
                status = type(error).__name__
        what = f"{name}: {status}, /health waited {watch.longest:.2f} s"
        ledger.check(area, watch.longest <= health_seconds and str(status)[0] not in "5", what)
    ledger.check(area, target.answers(), "no answer afterwards")


def _data_url(content: bytes) -> Callable[[], bytes]:
    head = b'{"messages":[{"role":"user","content":[{"type":"audio_url","audio_url":{"url":"data:audio/wav;base64,'
    return lambda: head + content + b'"}}]}],"max_tokens":1}'


class _Watch:
    """The longest response time of ``/health``, in seconds, and the peak memory of the target, in bytes."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.memory = 0


@contextlib.contextmanager
def _watched(target: Target) -> Iterator[_Watch]:
    watch, over = _Watch(), threading.Event()

    def poll_health() -> None:
        with httpx.Client(base_url=target.server.url, timeout=60, trust_env=False, verify=False) as client:
            while not over.is_set():
                started = time.monotonic()
                with contextlib.suppress(httpx.HTTPError):
                    client.get("/health")
                watch.longest = max(watch.longest, time.monotonic() - started)
                over.wait(0.02)

    def watch_memory() -> None:
        processes = target.processes()  # a body starts none, and finding them takes longer than most bodies
        while not over.is_set():
            watch.memory = max(watch.memory, resident_bytes(processes))
            over.wait(0.05)

    threads = [threading.Thread(target=poll_health), threading.Thread(target=watch_memory)]
    for thread in threads:
        thread.start()
    try:
        yield watch
    finally:
        over.set()
        for thread in threads:
            thread.join()
