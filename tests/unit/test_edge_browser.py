"""What a web page may do and see, for every status and from every layer."""

from collections.abc import Iterator

import httpx
import pytest
from server import raw_status
from server.edge import served_edge
from starlette.datastructures import Headers

from sglang_speechlm.codec.files import RATE_HEADER
from sglang_speechlm.logs import REQUEST_ID_HEADER
from sglang_speechlm.server.edge.browser import EXPOSED_HEADERS, SECURITY_HEADERS
from sglang_speechlm.server.edge.keys import Keys
from sglang_speechlm.server.edge.origins import Origins, is_loopback_host, parse_origins
from sglang_speechlm.server.edge.warnings import WARNINGS_HEADER

OPEN, LISTED, ANY = (
    Origins(),
    Origins(parse_origins("https://app.example.com,http://10.1.2.3:80")),
    Origins(frozenset("*")),
)
LOCAL = Origins(is_local=True)


def answered(origins: Origins, **headers: str) -> bool:
    return origins.refusal(Headers(headers)) is None


@pytest.mark.parametrize(
    "origin",
    ["http://localhost", "http://localhost:3000", "https://127.0.0.1:8080", "http://[::1]:1", "http://a.localhost:1"],
)
def test_loopback_pages_are_answered(origin: str) -> None:
    assert answered(OPEN, host="gpu.example.com:9000", origin=origin)


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example", "null", "", "file://", "http://localhost.evil.example", "http://127.0.0.1.evil.example",
        "http://evil.example@localhost", "http://localhost@evil.example", "https://app.example.com.evil.example",
        "chrome-extension://abc", "http://gpu:9001", "localhost", "http://[::1", "http://[zz]", "http://a]b", "http://[",
    ],
)  # fmt: skip
def test_other_pages_are_not_answered(origin: str) -> None:
    for origins in (OPEN, LISTED, LOCAL):
        assert not answered(origins, host="gpu:9000", origin=origin)
    assert answered(ANY, host="gpu:9000", origin=origin)


@pytest.mark.parametrize("host", ["gpu:9000", "10.0.0.5:9000", "[fe80::1]:9000", "speech.default.svc.cluster.local"])
def test_the_servers_own_page_is_answered(host: str) -> None:
    assert answered(OPEN, host=host, origin=f"http://{host}")
    assert answered(OPEN, host=host, origin=f"https://{host}")


def test_dns_rebinding_does_not_make_a_page_the_servers_own() -> None:
    rebound = {"host": "evil.example:9000", "origin": "http://evil.example:9000"}
    assert not answered(OPEN, **rebound)
    assert answered(Origins(parse_origins("http://evil.example:9000")), **rebound)


@pytest.mark.parametrize(
    ("host", "is_answered"),
    [
        ("127.0.0.1:9000", True), ("localhost:9000", True), ("[::1]:9000", True), ("gpu", True), ("", True),
        ("evil.example:9000", False), ("127.0.0.1.evil.example", False), ("evil.example.:9000", False),
        ("a.localhost", True),
    ],
)  # fmt: skip
def test_without_a_key_a_loopback_server_answers_only_to_its_own_names(host: str, is_answered: bool) -> None:
    assert answered(LOCAL, host=host) == is_answered
    assert answered(OPEN, host=host)


def test_listed_origins_are_answered_as_browsers_write_them() -> None:
    assert answered(LISTED, host="gpu", origin="https://app.example.com")
    assert answered(LISTED, host="gpu", origin="http://10.1.2.3")
    assert answered(Origins(LISTED.allowed, is_local=True), host="app.example.com")


@pytest.mark.parametrize("text", ["example.com", "https://", "https://a/b", "https://a?b", "http://u@a", "a b://c"])
def test_an_invalid_origin_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an origin"):
        parse_origins(text)


@pytest.mark.parametrize(
    ("host", "is_loopback"), [("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("gpu", False)]
)
def test_loopback_hosts_are_recognised(host: str, is_loopback: bool) -> None:
    assert is_loopback_host(host) == is_loopback


@pytest.fixture(scope="module")
def server_with_key() -> Iterator[str]:
    with served_edge(Keys("user")) as url:
        yield url


KEY = {"authorization": "Bearer user"}
CASES = {
    "read": ("GET", "/v1/models", KEY, 200),
    "unknown": ("GET", "/nothing", KEY, 404),
    "no path": ("GET", "/%00", KEY, 400),
    "no key": ("GET", "/v1/models", {}, 401),
    "method": ("PUT", "/v1/models", KEY, 405),
    "too large": ("POST", "/v1/chat/completions", {**KEY, "content-length": "2000"}, 413),
    "health": ("HEAD", "/health", {}, 200),
}


@pytest.mark.parametrize("name", CASES)
def test_a_page_sees_every_header_of_every_response(name: str, server_with_key: str) -> None:
    method, path, headers, status = CASES[name]
    page_headers = {"origin": "http://localhost:3000", **headers}
    response = httpx.request(
        method, f"{server_with_key}{path}", headers=page_headers, content=b"x" * 2000 if status == 413 else None
    )
    assert response.status_code == status
    assert response.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert response.headers["access-control-expose-headers"] == ", ".join(EXPOSED_HEADERS)
    assert "access-control-allow-credentials" not in response.headers
    assert response.headers.items() >= {name.lower(): value for name, value in SECURITY_HEADERS.items()}.items()
    assert "x-request-id" in response.headers


@pytest.mark.parametrize("method", ["POST", "DELETE", "PATCH", "OPTIONS"])
def test_any_preflight_of_an_allowed_page_passes(method: str, server_with_key: str) -> None:
    preflight = {
        "origin": "http://localhost:3000",
        "access-control-request-method": method,
        "access-control-request-headers": "authorization, x-stainless-os",
        "access-control-request-private-network": "true",
    }
    response = httpx.options(f"{server_with_key}/v1/models", headers=preflight)
    assert response.status_code == 200
    assert response.headers["access-control-allow-private-network"] == "true"


def test_other_pages_are_refused_and_see_nothing(server_with_key: str) -> None:
    response = httpx.post(
        f"{server_with_key}/v1/chat/completions", headers={"origin": "http://evil.example", **KEY}, content=b"x"
    )
    assert response.status_code == 403
    assert "--allowed-origins" in response.json()["error"]["message"]
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert response.headers["x-frame-options"] == "DENY"


def test_a_client_that_is_not_a_browser_needs_no_origin(server_with_key: str) -> None:
    assert raw_status(server_with_key, "GET", "/v1/models", "Authorization: Bearer user") == 200


def test_a_page_sees_the_products_own_headers() -> None:
    assert {RATE_HEADER, REQUEST_ID_HEADER, WARNINGS_HEADER, "retry-after"} <= {
        *EXPOSED_HEADERS,
        *(name.lower() for name in EXPOSED_HEADERS),
    }
