"""The one check of API keys: which key opens which route, and the errors for other keys."""

from collections.abc import Iterator

import httpx
import pytest
from server import raw_status
from server.edge import served_edge

from sglang_speechlm.server.edge.errors import ApiError
from sglang_speechlm.server.edge.keys import Keys

DATA, ADMIN = "/v1/models", "/flush_cache"
NEITHER, USER, ROOT, BOTH = Keys(), Keys("user"), Keys(admin="root"), Keys("user", "root")


def status(keys: Keys, path: str, *authorization: str) -> int:
    refusal = keys.refusal(path, authorization)
    return refusal.status if refusal else 200


@pytest.mark.parametrize(
    ("keys", "path", "without", "user", "root"),
    [
        (NEITHER, DATA, 200, 200, 200), (NEITHER, ADMIN, 200, 200, 200),
        (USER, DATA, 401, 200, 401), (USER, ADMIN, 401, 200, 401),
        (ROOT, DATA, 200, 200, 200), (ROOT, ADMIN, 401, 401, 200),
        (BOTH, DATA, 401, 200, 200), (BOTH, ADMIN, 401, 403, 200), (BOTH, "/abort_request", 401, 403, 200),
        (BOTH, "/workers", 401, 403, 200), (BOTH, "/workers/1", 401, 403, 200), (BOTH, "/workersX", 401, 200, 200),
        (BOTH, "/health", 200, 200, 200), (BOTH, "/health_generate", 401, 200, 200),
    ],
)  # fmt: skip
def test_each_key_opens_its_routes(keys: Keys, path: str, without: int, user: int, root: int) -> None:
    statuses = [status(keys, path), status(keys, path, "Bearer user"), status(keys, path, "Bearer root")]
    assert statuses == [without, user, root]
    assert status(keys, path, "Bearer wrong") in (200, 401)


@pytest.mark.parametrize("header", ["bearer user", "BEARER  user", " Bearer\tuser ", "Bearer user  "])
def test_the_scheme_may_have_any_case_and_spacing(header: str) -> None:
    assert status(USER, DATA, header) == 200


@pytest.mark.parametrize(
    "header", ["", "user", "Basic user", "Bearer", "Beareruser", "Bearer user user", "Bearer \xfcser"]
)
def test_anything_else_is_refused(header: str) -> None:
    assert status(USER, DATA, header) == 401


def test_two_keys_are_refused() -> None:
    assert status(USER, DATA, "Bearer user", "Bearer user") == 401


def test_a_refusal_names_the_required_key_and_not_the_one_sent() -> None:
    def error(path: str, *authorization: str) -> str:
        refusal = BOTH.refusal(path, authorization)
        assert isinstance(refusal, ApiError)
        return str(refusal)

    assert error(DATA).startswith("the API key is missing: send the header Authorization: Bearer KEY")
    assert error(ADMIN).startswith("the admin key (--admin-api-key) is missing")
    assert error(ADMIN, "Bearer user") == f"{ADMIN}: requires the admin key (--admin-api-key), not the API key"
    assert error(DATA, "Bearer wrong") == "the API key is wrong"
    assert "secret" not in error(DATA, "secret") + error(DATA, "Bearer secret")


@pytest.fixture(scope="module")
def server_with_keys() -> Iterator[str]:
    with served_edge(BOTH) as url:
        yield url


PREFLIGHT = ("Access-Control-Request-Method: GET",)
PAGE = ("Origin: http://localhost:3000",)


@pytest.mark.parametrize("path", ["/metrics", "/v1/models", "/workers", "/flush_cache", "/nothing"])
def test_a_preflight_reaches_no_route(path: str, server_with_keys: str) -> None:
    for headers in ((), PREFLIGHT, PAGE):
        assert raw_status(server_with_keys, "OPTIONS", path, *headers) == 401
    response = httpx.options(
        f"{server_with_keys}{path}", headers={"origin": "http://localhost:3000", "access-control-request-method": "GET"}
    )
    assert (response.status_code, response.text) == (200, "OK")
    assert raw_status(server_with_keys, "OPTIONS", path, "Origin: http://elsewhere.example", *PREFLIGHT) == 403


def test_a_response_without_a_key_says_how_to_authenticate(server_with_keys: str) -> None:
    response = httpx.get(f"{server_with_keys}/v1/models")
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert response.json()["error"]["code"] == "invalid_api_key"
