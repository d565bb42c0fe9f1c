"""Clips by URL: where they may come from, which is checked before anything is opened."""

import asyncio
import os
import socket
from pathlib import Path

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given
from hypothesis import strategies as st

from sglang_speechlm.audio import AudioError
from sglang_speechlm.audio.fetch import AllowedMedia, PublicResolver, is_public, parse_hosts

LIMIT = 1000
DATA = b"some bytes"


def read(allowed: AllowedMedia, url: str, limit: int = LIMIT) -> bytes:
    return asyncio.run(allowed.read(url, limit))[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "a b.wav").write_bytes(DATA)
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "inside").symlink_to(folder / "a b.wav")
    (folder / "outside").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to(tmp_path)
    (folder / "deeper").mkdir()
    os.mkfifo(folder / "pipe")
    return folder.resolve()


@pytest.mark.parametrize("name", ["a%20b.wav", "inside", "deeper/../a%20b.wav"])
def test_files_under_the_directory_are_read(name: str, folder: Path) -> None:
    for host in ("", "localhost"):
        assert read(AllowedMedia(directory=folder), f"file://{host}{folder}/{name}") == DATA


@pytest.mark.parametrize(
    "name",
    ["../secret", "%2e%2e/secret", "..%2fsecret", "outside", "up/secret", "none", "deeper", "pipe", "a%00b", "", "."],
)
def test_other_paths_under_the_directory_are_not_read(name: str, folder: Path) -> None:
    with pytest.raises(AudioError, match="does not read that file"):
        read(AllowedMedia(directory=folder), f"file://{folder}/{name}")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "file:/etc/passwd", "FILE:///etc/passwd", "file://other/x"])
def test_other_files_are_not_read(url: str, folder: Path) -> None:
    for allowed in (AllowedMedia(), AllowedMedia(directory=folder)):
        with pytest.raises(AudioError, match="does not read that file"):
            read(allowed, url)


def test_a_file_on_another_host_is_not_read(folder: Path) -> None:
    with pytest.raises(AudioError):
        read(AllowedMedia(directory=folder), f"file://host{folder}/inside")


def test_a_file_that_is_too_large_is_refused(folder: Path) -> None:
    allowed = AllowedMedia(directory=folder)
    assert read(allowed, f"file://{folder}/inside", len(DATA)) == DATA
    with pytest.raises(AudioError, match="must not exceed 9 bytes"):
        read(allowed, f"file://{folder}/inside", len(DATA) - 1)


@pytest.mark.parametrize(
    "url",
    [
        "", "clip.wav", "/etc/passwd", "//127.0.0.1/x", "ftp://example.com/x", "gopher://example.com/x",
        "javascript:alert(1)", "http:", "http://", "https:///x", "http://example.com:99999/x", "http://[::1/x",
        "http://example.org/x", "http://example.com:8080/x", "https://example.com:80/x", "http://example.com./x",
        "http://example.com@127.0.0.1/x", "http://127.0.0.1/x", "http://127.1/x", "http://2130706433/x",
        "http://0x7f000001/x", "http://[::ffff:127.0.0.1]/x", "http://169.254.169.254/latest", "http://localhost/x",
        "http://sub.example.com/x", "http://user:password@example.com/x",
    ],
)  # fmt: skip
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(AudioError):
        read(AllowedMedia(parse_hosts("example.com")), url)


@given(st.text(max_size=60))
def test_any_text_is_refused_cleanly(url: str) -> None:
    with pytest.raises(AudioError):
        read(AllowedMedia(), url)


def test_no_connection_is_made_to_a_name_with_a_private_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(AudioError, match="not public"):
            read(AllowedMedia(parse_hosts(f"localhost:{port}")), f"http://localhost:{port}/clip.wav")
        listener.settimeout(0.1)
        with pytest.raises(TimeoutError):
            listener.accept()


class FixedResolver(AbstractResolver):
    """A resolver that gives the same addresses for every name."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self._addresses
        ]

    async def close(self) -> None:
        pass


def test_connections_use_the_addresses_that_were_checked() -> None:
    results = asyncio.run(PublicResolver(FixedResolver("93.184.216.34", "2606:4700::1111")).resolve("example.com", 80))
    assert [result["host"] for result in results] == ["93.184.216.34", "2606:4700::1111"]


def test_a_name_with_one_private_address_is_refused() -> None:
    with pytest.raises(OSError, match="not public"):
        asyncio.run(PublicResolver(FixedResolver("93.184.216.34", "10.0.0.1")).resolve("example.com", 80))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "192.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "198.18.0.1", "::", "::1", "fe80::1", "fe80::1%eth0",
        "fc00::1", "fd12::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
        "2001:0:7f00:1::", "2001:db8::1",
    ],
)  # fmt: skip
def test_non_public_addresses_are_recognised(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are_recognised(address: str) -> None:
    assert is_public(address)


def test_hosts_are_normalised() -> None:
    hosts = parse_hosts("Example.COM, example.com:8443,10.0.0.5,[::1]:8000,")
    assert hosts == {"example.com", "example.com:8443", "10.0.0.5", "[::1]:8000"}


@pytest.mark.parametrize("text", ["http://example.com", "example.com/x", "a b", "me@example.com", "host:port", "*"])
def test_an_invalid_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a host"):
        parse_hosts(text)


def test_a_refusal_does_not_reveal_what_is_allowed() -> None:
    allowed = AllowedMedia(frozenset({"10.0.0.5:8000", "media.example"}), Path("/srv/clips"))
    for url in ("http://elsewhere.example/a.wav", "http://10.0.0.6/a.wav", "file:///etc/passwd"):
        with pytest.raises(AudioError) as error:
            read(allowed, url)
        assert not [word for word in ("10.0.0.5", "media.example", "/srv") if word in str(error.value)]


def test_a_failed_connection_does_not_reveal_addresses() -> None:
    with socket.socket() as bound:  # but not listening
        bound.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(AudioError, match="Connection refused") as error:
            read(AllowedMedia(frozenset({host})), f"http://{host}/a.wav")
    assert str(error.value) == "the clip could not be fetched from 127.0.0.1: Connection refused"
    with pytest.raises(AudioError, match="unknown host"):
        read(AllowedMedia(frozenset({"nowhere.invalid"})), "http://nowhere.invalid/a.wav")
