"""A server with a certificate, behind a proxy that strips a path prefix."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from server import launching, wait_for

KEY = {"Authorization": "Bearer user"}


@pytest.fixture(scope="module")
def secure(served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Yield a client of a ready server with a self-signed certificate for another host name."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=speech.test"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    options = ["--ssl-keyfile", f"{key}", "--ssl-certfile", f"{certificate}", "--ssl-ca-certs", f"{certificate}"]
    options += ["--fastapi-root-path", "/speech", "--api-key", "user", "--max-total-tokens", "8192"]
    with launching(served_checkpoint, folder / "log", *options) as server:
        url = server.url.replace("http:", "https:")
        with httpx.Client(base_url=url, verify=False, timeout=300, trust_env=False) as client:

            def is_ready() -> bool:
                assert server.process.poll() is None, server.output()
                with contextlib.suppress(httpx.TransportError):
                    return client.get("/health").status_code == 200
                return False

            assert wait_for(is_ready)
            yield client


def test_routes_and_keys_work_without_the_prefix(secure: httpx.Client) -> None:
    assert secure.get("/v1/models").status_code == 401
    assert secure.get("/v1/models", headers=KEY).json()["data"]
    assert secure.get("/speech/v1/models", headers=KEY).status_code == 404


def test_a_large_body_is_accepted_on_a_route_for_large_bodies(secure: httpx.Client) -> None:
    content = [{"type": "text", "text": "Hello."}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 1, "padding": "x" * (1 << 17)}
    assert secure.post("/v1/chat/completions", json=body, headers=KEY).status_code == 200


def test_the_page_and_its_scripts_are_served(secure: httpx.Client) -> None:
    assert secure.get("/", headers=KEY).status_code == 200
    assert secure.get("/page.js", headers=KEY).status_code == 200


@pytest.mark.parametrize(("origin", "status"), [(None, 200), ("https://elsewhere.example", 403)])
def test_only_pages_of_the_server_itself_are_answered(origin: str | None, status: int, secure: httpx.Client) -> None:
    own = f"https://{secure.base_url.netloc.decode()}"
    answer = secure.get("/v1/models", headers={**KEY, "Origin": origin or own})
    assert answer.status_code == status
