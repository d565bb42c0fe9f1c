"""Routes with every method and key, request targets, and framing."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from .ledger import Ledger
from .target import ADMIN_KEY, CHAT, KEY, Canary, Target

_ROUTES = (
    "/", "/health", "/health_generate", "/readiness", "/metrics", "/metrics/", "/v1/models", "/v1/models/",
    "/v1/models/x", CHAT, "/v1/completions", "/v1/audio/speech", "/v1/audio/transcriptions", "/v1/audio/translations",
    "/v1/embeddings", "/generate", "/encode", "/classify", "/v1/rerank", "/v1/score", "/v1/responses", "/tokenize",
    "/detokenize", "/flush_cache", "/abort_request", "/server_info", "/get_server_info", "/model_info",
    "/get_model_info", "/get_load", "/v1/loads", "/workers", "/workers/x", "/worker_id", "/openapi.json", "/docs",
    "/redoc", "/start_profile", "/stop_profile", "/freeze_gc", "/configure_logging", "/set_internal_state",
    "/get_internal_state", "/update_weights_from_disk", "/update_weights_from_tensor", "/init_weights_update_group",
    "/get_weights_by_name", "/release_memory_occupation", "/resume_memory_occupation", "/slow_down",
    "/load_lora_adapter", "/open_session", "/close_session", "/pause_generation", "/continue_generation",
    "/separate_reasoning", "/parse_function_call", "/api/generate", "/ping", "/invocations", "/vertex_generate",
    "//health", "/health//", "/./health", "/health/..", "/%2e%2e/metrics", "/health%2f..%2fmetrics", "/HEALTH",
    "/health;x", "/health?x=/metrics", "/health/metrics", "//metrics", "/metrics//", "/.%2fmetrics", "/%6detrics",
    "/app.js", "/index.html", "/static/../metrics",
)  # fmt: skip
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
_PREFLIGHT = {"Access-Control-Request-Method": "GET"}
_ORIGIN = {"Origin": "https://elsewhere.example"}
_ADMIN_ONLY = ("/workers",)
_AT_ONCE = 8


def doors(target: Target, ledger: Ledger) -> None:
    """Try every route with every method and kind of key: nothing opens without a key, and nothing returns a 5xx."""
    area = f"{target.name}: routes x methods x keys"
    bearers = {"no key": {}, "wrong key": _bearer("wrong"), "half a key": _bearer(KEY[:5]), "key": _bearer(KEY),
               "key in the query": {}, "admin key": _bearer(ADMIN_KEY)}  # fmt: skip
    extras = {"": {}, "preflight": _PREFLIGHT, "preflight of a page": {**_PREFLIGHT, **_ORIGIN}}
    cases = [
        (route, method, bearer, extra)
        for route in _ROUTES
        for method in _METHODS
        for bearer in (bearers if target.has_keys else ("no key",))
        for extra in (extras if method == "OPTIONS" else ("",))
    ]

    def attempt(case: tuple[str, str, str, str]) -> None:
        route, method, bearer, extra = case
        url = f"{target.server.url}{route}"
        if bearer == "key in the query":
            url += f"?api_key={KEY}"
        what = f"{method} {route} with {bearer} {extra}"
        try:
            response = http.request(method, url, headers={**bearers[bearer], **extras[extra]})
        except httpx.HTTPError as error:
            ledger.check(area, False, f"{what}: {type(error).__name__}: {error}")
            return
        status = response.status_code
        is_open = not target.has_keys or bearer in ("key", "admin key")
        passed = status < 500
        if not is_open and 200 <= status < 300:
            passed = _is_public(method, route) or (method == "OPTIONS" and not response.content)
        if target.has_keys and bearer == "key" and route in _ADMIN_ONLY and method == "GET":
            passed = status in (401, 403, 404)
        ledger.check(area, passed, f"{what}: {status} {response.text[:80]!r}")

    limits = httpx.Limits(max_connections=_AT_ONCE)
    with (
        httpx.Client(timeout=60, trust_env=False, verify=False, limits=limits) as http,
        ThreadPoolExecutor(_AT_ONCE) as threads,
    ):
        list(threads.map(attempt, cases))
    ledger.check(area, target.answers(), "no answer afterwards")


def _is_public(method: str, route: str) -> bool:
    """Return whether a route needs no key: health and the files of the page."""
    path = route.partition("?")[0].replace("/./", "/").replace("//", "/").rstrip("/")  # clients resolve dots themselves
    return method in ("GET", "HEAD") and path in ("", "/health", "/app.js", "/index.html")


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def request_targets(target: Target, ledger: Ledger) -> None:
    """Send request targets that name another host: the server never connects to it."""
    area = f"{target.name}: request targets"
    canary = Canary()
    other_host = f"127.0.0.1:{canary.port}"
    targets = (
        f"*@{other_host}/x", f"@{other_host}/x", f"x@{other_host}/x", f"http://{other_host}/x", f"https://{other_host}/x",
        f"//{other_host}/x", f"///{other_host}/x", f"/\\{other_host}/x", f"\\\\{other_host}/x", f"/@{other_host}/x",
        f"/%40{other_host}/x", f":80@{other_host}/x", f".{other_host}/x", other_host, "*", "", "x", "?x", "#x",
        f"?@{other_host}",
        f"#@{other_host}/", f"/..//{other_host}/", f"http:{other_host}", f"http:/{other_host}", f"/;@{other_host}/",
        f"/\t@{other_host}/", f"/x\x7f@{other_host}", f"/http://{other_host}/", "/%00", "/%0d%0aHost:%20x", "/\xff\xfe",
        f"*@[::ffff:127.0.0.1]:{canary.port}/x", f"@localhost:{canary.port}/x", f"*@0:{canary.port}/",
    )  # fmt: skip
    key = f"Authorization: Bearer {KEY}\r\n" if target.has_keys else ""
    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT"):
        for text in targets:
            body = "{}" if method in ("POST", "PUT") else ""
            length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
            head = f"{method} {text} HTTP/1.1\r\nHost: {other_host}\r\n{key}{length}Connection: close\r\n\r\n"
            before = canary.visits
            answer = target.send((head + body).encode("latin-1"))
            status = answer[9:12].decode("latin-1")
            passed = canary.visits == before and not status.startswith("5")
            ledger.check(
                area, passed, f"{method} {text!r}: {status}, {canary.visits - before} connections to another host"
            )
    headers = (
        "Connection: authorization", "Connection: x-request-id, content-length", "Connection: host",
        "Origin: http://[::1", "Origin: http://[x]", "Origin: http://a]b",
        f"X-Forwarded-Host: {other_host}", f"x-smg-target-worker: http://{other_host}", f"X-Original-URL: http://{other_host}",
    )  # fmt: skip
    for header in headers:
        head = f"GET /v1/models HTTP/1.1\r\nHost: {other_host}\r\n{key}{header}\r\nConnection: close\r\n\r\n"
        status = target.send(head.encode())[9:12].decode()
        ledger.check(area, canary.visits == 0 and not status.startswith("5"), f"{header}: {status}")
    time.sleep(0.5)
    ledger.check(area, canary.visits == 0, f"{canary.visits} connections to a host that a client named")
    ledger.check(area, target.answers(), "no answer afterwards")
    canary.close()


def framing(target: Target, ledger: Ledger) -> None:
    """Send requests with ambiguous ends: each gets at most one answer, never one to a request hidden in the body."""
    area = f"{target.name}: framing"
    key = f"Authorization: Bearer {KEY}\r\n" if target.has_keys else ""
    start = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{key}"
    hidden = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    tricks = {
        "length and chunks": f"{start}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}",
        "chunks and length": f"{start}Transfer-Encoding: chunked\r\nContent-Length: 400\r\n\r\n0\r\n\r\n{hidden}",
        "two lengths": f"{start}Content-Length: 2\r\nContent-Length: {2 + len(hidden)}\r\n\r\n{{}}{hidden}",
        "a list of lengths": f"{start}Content-Length: 2, 40\r\n\r\n{{}}{hidden}",
        "negative length": f"{start}Content-Length: -1\r\n\r\n{{}}{hidden}",
        "signed length": f"{start}Content-Length: +2\r\n\r\n{{}}",
        "hexadecimal length": f"{start}Content-Length: 0x2\r\n\r\n{{}}{hidden}",
        "huge length": f"{start}Content-Length: {10**30}\r\n\r\n{{}}",
        "unknown coding": f"{start}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{hidden}",
        "coding twice": f"{start}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{hidden}",
        "space before colon": f"{start}Content-Length : 2\r\n\r\n{{}}{hidden}",
        "folded header": f"{start}X-A: b\r\n Content-Length: 2\r\n\r\n{{}}",
        "no colon": f"{start}nonsense\r\n\r\n",
        "NUL in a header": f"{start}X-A: a\0b\r\nContent-Length: 2\r\n\r\n{{}}",
        "bare LF": start.replace("\r\n", "\n") + "Content-Length: 2\n\n{}",
        "bad chunk size": f"{start}Transfer-Encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n",
        "huge chunk size": f"{start}Transfer-Encoding: chunked\r\n\r\n{'f' * 40}\r\n{{}}\r\n0\r\n\r\n",
        "long chunk extension": f"{start}Transfer-Encoding: chunked\r\n\r\n2;{'x' * 100_000}\r\n{{}}\r\n0\r\n\r\n",
        "one long header": f"{start}X-A: {'a' * 1_000_000}\r\n\r\n",
        "ten thousand headers": f"{start}{''.join(f'X-{i}: a' + chr(13) + chr(10) for i in range(10_000))}\r\n",
        "a long target": f"GET /{'a' * 1_000_000} HTTP/1.1\r\nHost: x\r\n{key}\r\n",
        "HTTP/0.9": "GET /metrics\r\n",
        "HTTP/3.7": f"GET /metrics HTTP/3.7\r\nHost: x\r\n{key}\r\n",
        "HTTP/2 preface": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "TLS hello": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "\0" * 200,
        "an upgrade": f"GET /v1/models HTTP/1.1\r\nHost: x\r\n{key}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "expectation": f"{start}Expect: 200-maybe\r\nContent-Length: 2\r\n\r\n{{}}",
        "odd method": f"GE\x01T / HTTP/1.1\r\nHost: x\r\n{key}\r\n",
    }  # fmt: skip

    def attempt(name: str) -> None:
        answer = target.send(tricks[name].encode("latin-1"), seconds=2)
        statuses = [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]
        passed = len(statuses) <= 1 and not any(status.startswith(b"5") for status in statuses)
        ledger.check(area, passed, f"{name}: {statuses} {answer[:100]!r}")

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        list(threads.map(attempt, tricks))
    ledger.check(area, target.answers(), "no answer afterwards")
