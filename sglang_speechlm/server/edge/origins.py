"""The web pages that may use a server."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from sglang_speechlm.server.edge.errors import ApiError, shown

ANY = "*"
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#@\s]+)")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_RESERVED = (".localhost", ".local", ".internal")
"""Name suffixes that nobody can register."""


@dataclass(frozen=True)
class Origins:
    """Allows pages of the server itself, of this machine's loopback, and of listed origins.

    Attributes:
        allowed: origins, as returned by ``parse_origins``.
        is_local: whether the server listens on the loopback only and has no key. Then it only answers to the machine's
            own names, so that no page can reach it through a name that points at the loopback.
    """

    allowed: frozenset[str] = frozenset()
    is_local: bool = False

    def refusal(self, headers: Headers) -> ApiError | None:
        """Return why a request is refused: a 403 that names the option; None if it is allowed or not from a page."""
        host = headers.get("host", "").lower()
        is_named = self._is_own_name(host)
        if self.is_local and not is_named:
            return ApiError(
                403,
                f"Host: {shown(host)} is not a name of this server, which has no key and listens on the loopback; "
                "allow it with --allowed-origins http://HOST:PORT, or start the server with --api-key",
            )
        origin = headers.get("origin")
        if origin is None or not {ANY, origin.lower()}.isdisjoint(self.allowed):
            return None
        found = _ORIGIN.fullmatch(origin.lower())
        if found is not None and (_is_loopback(_hostname(found[2]) or "") or (is_named and found[2] == host)):
            return None
        return ApiError(403, f"Origin: {shown(origin)} is not allowed; allow it with --allowed-origins")

    def _is_own_name(self, host: str) -> bool:
        """Whether a Host header is an address, or a name that no stranger can point at this machine."""
        name = (_hostname(host) or "").rstrip(".")
        return (
            "." not in name
            or name.endswith(_RESERVED)
            or _is_address(name)
            or name == socket.gethostname().lower()
            or any(urlsplit(origin).netloc == host for origin in self.allowed)
        )


def parse_origins(text: str) -> frozenset[str]:
    """Parse origins from ``ORIGIN,...`` into their normal form; ``*`` means any.

    Raises:
        ValueError: if an entry is not an origin; the message names it.
    """
    return frozenset(_parse_origin(entry.strip().lower()) for entry in text.split(",") if entry.strip())


def is_loopback_host(host: str) -> bool:
    """Whether an address or a name to listen on is on the loopback."""
    return _is_loopback(host.lower().strip("[]"))


def _parse_origin(entry: str) -> str:
    if entry == ANY:
        return entry
    found = _ORIGIN.fullmatch(entry.removesuffix("/"))
    if found is None:
        raise ValueError(f"{entry!r} is not an origin; write it as https://example.com, http://10.0.0.5:3000 or *")
    return f"{found[1]}://{found[2].removesuffix(_DEFAULT_PORTS.get(found[1], '/'))}"


def _hostname(host: str) -> str | None:
    """Return the host without its port; an invalid host (``[::1``, ``[x]``) is returned unchanged."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return host


def _is_loopback(name: str) -> bool:
    return name == "localhost" or name.endswith(".localhost") or (_is_address(name) and ip_address(name).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
