"""Fetch clips by URL: only from allowed hosts and folders, and never from private addresses behind public names."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import stat
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address
from pathlib import Path

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from sglang_speechlm.audio import AudioError, decode_data_url

FETCH_SECONDS = 30
"""Timeout for one clip, from the resolution of its host's name to its last byte."""

_MAX_URL = 8192

_HOST = re.compile(r"[\w.:-]+")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_TRANSLATED = IPv6Network("64:ff9b::/96")
"""NAT64 (RFC 6052): an IPv4 address, possibly a private one, through a gateway."""


@dataclass(frozen=True)
class AllowedMedia:
    """The sources of clips that the operator allowed; none by default.

    Attributes:
        hosts: hosts of http and https URLs, as ``host`` (on the scheme's default port) or ``host:port``, as returned
            by ``parse_hosts``. A private address must itself be listed: a name that resolves to one is refused.
        directory: the directory of file: URLs, resolved.
    """

    hosts: frozenset[str] = frozenset()
    directory: Path | None = None

    async def read(self, url: str, max_bytes: int) -> tuple[bytes, str | None]:
        """Return a clip's bytes, and the format according to its URL.

        Raises:
            AudioError: if the URL is not allowed, or if fetching it fails, times out or exceeds the limit.
        """
        if url[:5].lower() == "data:":
            return await asyncio.to_thread(decode_data_url, url)
        if len(url) > _MAX_URL:
            raise AudioError(f"audio URL must not have more than {_MAX_URL} characters; got {len(url)}")
        try:
            parsed = URL(url)
        except ValueError as error:
            raise AudioError(f"invalid audio URL: {error}") from None
        if parsed.scheme in _DEFAULT_PORTS:
            return await self._download(parsed, max_bytes), _suffix(parsed)
        if parsed.scheme == "file":
            return await asyncio.to_thread(self._open, parsed, max_bytes), _suffix(parsed)
        raise AudioError(f"audio URL must begin with data:, https:, http: or file:; got {url[:32]!r}")

    async def _download(self, url: URL, max_bytes: int) -> bytes:
        host = _bracketed(url.raw_host or "")
        names = {f"{host}:{url.port}"} | ({host} if url.port == _DEFAULT_PORTS[url.scheme] else set())
        if not names & self.hosts:
            raise AudioError(f"this server does not fetch from {host[:100]}, port {url.port}; {self._allowed()}")
        if url.user is not None or url.password is not None:
            raise AudioError("audio URL must not contain a user or a password")
        connector = aiohttp.TCPConnector(resolver=PublicResolver(aiohttp.ThreadedResolver()))
        data = bytearray()
        try:
            async with (
                aiohttp.ClientSession(
                    connector=connector,
                    timeout=aiohttp.ClientTimeout(total=FETCH_SECONDS),
                    headers={"Accept-Encoding": "identity"},
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,
                ) as session,
                session.get(url, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    note = " (redirects are not followed)" if response.status in range(300, 400) else ""
                    raise AudioError(f"{host} answered with {response.status}{note}")
                async for piece in response.content.iter_any():
                    data += piece
                    if len(data) > max_bytes:
                        raise _too_large(max_bytes)
        except TimeoutError:
            raise AudioError(f"{host} did not deliver the clip within {FETCH_SECONDS} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise AudioError(f"the clip could not be fetched from {host}: {_reason(error)}") from None
        return bytes(data)

    def _open(self, url: URL, max_bytes: int) -> bytes:
        refusal = AudioError(f"this server does not read that file; {self._allowed()}")
        if self.directory is None or url.host not in (None, "", "localhost"):
            raise refusal
        try:
            path = Path(url.path).resolve(strict=True)
            if not path.is_relative_to(self.directory):
                raise refusal
            with open(path, "rb", opener=_open_no_link) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise refusal
                data = file.read(max_bytes + 1)
        except (OSError, ValueError):
            raise refusal from None
        if len(data) > max_bytes:
            raise _too_large(max_bytes)
        return data

    def _allowed(self) -> str:
        """Describe what is allowed, without revealing the operator's hosts and folders."""
        places = ["data: URLs"]
        if self.hosts:
            places.append("hosts that the operator listed")
        if self.directory is not None:
            places.append("file: URLs under the operator's directory")
        return f"allowed: {' and '.join(places)}"


class NotPublic(OSError):
    """A name that resolves to an address that is not public."""


class PublicResolver(AbstractResolver):
    """Resolves a name once, and refuses it if any of its addresses is not public.

    Connections use exactly these addresses, so that the name cannot be pointed elsewhere between check and connection.
    """

    def __init__(self, inner: AbstractResolver) -> None:
        """Wrap the resolver that does the work."""
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of ``host``.

        Raises:
            OSError: if it has none, or one that is not public.
        """
        found = await self._inner.resolve(host, port, family)
        for result in found:
            if not is_public(result["host"]):
                raise NotPublic(f"{host} resolves to an address that is not public")
        return found

    async def close(self) -> None:
        """Close the wrapped resolver."""
        await self._inner.close()


def is_public(address: str) -> bool:
    """Whether an IP address is public and unicast."""
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        elif parsed.sixtofour is not None or parsed.teredo is not None or parsed in _TRANSLATED:
            return False
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


def parse_hosts(text: str) -> frozenset[str]:
    """Parse hosts from ``HOST[:PORT],...`` into their normal form.

    Raises:
        ValueError: if an entry is not a host; the message names it.
    """
    return frozenset(_parse_host(entry.strip()) for entry in text.split(",") if entry.strip())


def _parse_host(entry: str) -> str:
    refusal = ValueError(f"{entry!r} is not a host; write it as example.com, example.com:8443, 10.0.0.5 or [::1]:8000")
    try:
        url = URL(f"//{entry}")
    except ValueError:
        raise refusal from None
    host = url.raw_host or ""
    if not _HOST.fullmatch(host) or url.raw_path not in ("", "/") or url.raw_query_string or url.user is not None:
        raise refusal
    return _bracketed(host) if url.explicit_port is None else f"{_bracketed(host)}:{url.explicit_port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _open_no_link(path: str, flags: int) -> int:
    """Open a resolved path; refuse a link that has replaced it since, and do not block on a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _reason(error: Exception) -> str:
    """Return why a connection failed, without revealing the host's addresses."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, NotPublic):
        return str(cause)
    if isinstance(cause, socket.gaierror):
        return "unknown host"
    number = cause.errno if isinstance(cause, OSError) else None
    return os.strerror(number) if number else "the response was incomplete"


def _suffix(url: URL) -> str | None:
    return url.suffix.removeprefix(".").lower() or None


def _too_large(max_bytes: int) -> AudioError:
    return AudioError(f"the clips of a request must not exceed {max_bytes} bytes")
