"""One check of keys: which key opens which route, and what those are told whose key does not."""

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
    found = [status(keys, path), status(keys, path, "Bearer user"), status(keys, path, "Bearer root")]
    assert found == [without, user, root]
    assert status(keys, path, "Bearer wrong") in (200, 401)


@pytest.mark.parametrize("sent", ["bearer user", "BEARER  user", " Bearer\tuser ", "Bearer user  "])
def test_a_scheme_is_read_in_any_case_and_with_any_space(sent: str) -> None:
    assert status(USER, DATA, sent) == 200


@pytest.mark.parametrize(
    "sent", ["", "user", "Basic user", "Bearer", "Beareruser", "Bearer user user", "Bearer \xfcser"]
)
def test_anything_else_is_no_key(sent: str) -> None:
    assert status(USER, DATA, sent) == 401


def test_two_keys_are_none() -> None:
    assert status(USER, DATA, "Bearer user", "Bearer user") == 401


def test_a_refusal_says_which_key_is_wanted_and_not_what_was_sent() -> None:
    def told(path: str, *sent: str) -> str:
        refusal = BOTH.refusal(path, sent)
        assert isinstance(refusal, ApiError)
        return str(refusal)

    assert told(DATA).startswith("the API key is missing: send the header Authorization: Bearer KEY")
    assert told(ADMIN).startswith("the admin key (--admin-api-key) is missing")
    assert told(ADMIN, "Bearer user") == f"{ADMIN}: requires the admin key (--admin-api-key), not the API key"
    assert told(DATA, "Bearer wrong") == "the API key is wrong"
    assert "secret" not in told(DATA, "secret") + told(DATA, "Bearer secret")


@pytest.fixture(scope="module")
def locked() -> Iterator[str]:
    with served_edge(BOTH) as url:
        yield url


PREFLIGHT = ("Access-Control-Request-Method: GET",)
PAGE = ("Origin: http://localhost:3000",)


@pytest.mark.parametrize("path", ["/metrics", "/v1/models", "/workers", "/flush_cache", "/nothing"])
def test_a_preflight_reaches_no_route(path: str, locked: str) -> None:
    for headers in ((), PREFLIGHT, PAGE):
        assert raw_status(locked, "OPTIONS", path, *headers) == 401
    answer = httpx.options(
        f"{locked}{path}", headers={"origin": "http://localhost:3000", "access-control-request-method": "GET"}
    )
    assert (answer.status_code, answer.text) == (200, "OK")
    assert raw_status(locked, "OPTIONS", path, "Origin: http://elsewhere.example", *PREFLIGHT) == 403


def test_an_unknown_key_is_told_how_to_authenticate(locked: str) -> None:
    answer = httpx.get(f"{locked}/v1/models")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["error"]["code"] == "invalid_api_key"
