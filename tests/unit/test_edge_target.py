"""A request target must be a path and has one canonical spelling."""

from urllib.parse import quote, urlsplit

import pytest
from server import Server, raw_status

from sglang_speechlm.fleet.forward import address
from sglang_speechlm.server.edge.errors import ApiError
from sglang_speechlm.server.edge.target import canonical_path

ELSEWHERE = "127.0.0.2:9"
NOT_PATHS = [
    f"http://{ELSEWHERE}/health", f"https://{ELSEWHERE}/health", f"*@{ELSEWHERE}/health", f"@{ELSEWHERE}/health",
    f":@{ELSEWHERE}/health", f".{ELSEWHERE}/health", ELSEWHERE, "*", "health", "?x", f"%40{ELSEWHERE}/health",
    f"\\\\{ELSEWHERE}\\health", f"/\\{ELSEWHERE}/health", f"/%5c{ELSEWHERE}/health", "/%00", "/health%0d%0aX:%20y",
    "/health%7f", "/%c2%85", "/%ff", "/../health", "/v1/../health", "/v1/%2e%2e/health", "/v1/.%2E/health", "/./health",
]  # fmt: skip


@pytest.mark.parametrize("target", NOT_PATHS)
def test_a_target_that_is_not_a_path_is_refused(target: str) -> None:
    with pytest.raises(ApiError) as error:
        canonical_path("GET", target.partition("?")[0].encode())
    assert error.value.status == 400


def test_a_tunnel_to_any_target_is_refused() -> None:
    with pytest.raises(ApiError):
        canonical_path("CONNECT", b"/health")


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/", "/"), ("//", "/"), ("/health", "/health"), ("//health", "/health"), ("/health//", "/health"),
        ("/v1//models/", "/v1/models"), ("/%68ealth", "/health"), ("/v1%2Fmodels", "/v1/models"),
        (f"//{ELSEWHERE}/health", f"/{ELSEWHERE}/health"), ("/%2568ealth", "/%68ealth"), ("/a%3Fb", "/a?b"),
        ("/workers/%C3%A9", "/workers/\N{LATIN SMALL LETTER E WITH ACUTE}"), ("/...", "/..."), ("/%zz", "/%zz"),
    ],
)  # fmt: skip
def test_a_path_has_one_canonical_spelling(target: str, path: str) -> None:
    assert canonical_path("GET", target.encode()) == path
    assert canonical_path("GET", quote(path).encode()) == path


@pytest.mark.parametrize("base", ["http://10.0.0.1:9000", "https://[::1]:9000", "http://worker"])
@pytest.mark.parametrize("path", ["/v1/models", "/", f"/@{ELSEWHERE}", f"/{ELSEWHERE}", f"//{ELSEWHERE}/"])
def test_an_address_always_has_the_servers_host(base: str, path: str) -> None:
    url = address(base, {"raw_path": path.encode(), "query_string": b"a=%41&b=http://x@y/"})
    assert url.raw_authority == urlsplit(base).netloc
    assert url.raw_path_qs == f"{path}?a=%41&b=http://x@y/"


@pytest.mark.parametrize(
    "path", [f"@{ELSEWHERE}/", f"*@{ELSEWHERE}/", f".{ELSEWHERE}/", ":1/", "", f"http://{ELSEWHERE}/"]
)
def test_an_address_is_made_only_from_a_path(path: str) -> None:
    with pytest.raises((ApiError, ValueError)):
        address("http://10.0.0.1:9000", {"raw_path": path.encode(), "query_string": b""})


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD", "DELETE"])
def test_a_server_refuses_targets_that_are_not_paths(method: str, server: Server) -> None:
    for target in NOT_PATHS:
        assert raw_status(server.url, method, target) == 400, target


@pytest.mark.parametrize("code", [1, 8, 11, 31, 127])
def test_a_control_character_in_a_header_is_refused(code: int, server: Server) -> None:
    assert raw_status(server.url, "GET", "/v1/models", f"User-Agent: a{chr(code)}b") == 400


def test_other_characters_in_a_header_are_accepted(server: Server) -> None:
    assert raw_status(server.url, "GET", "/v1/models", "User-Agent: a\t\N{LATIN SMALL LETTER E WITH ACUTE}b") == 200
