"""Options that a server and the front of a fleet share. The front imports no torch, so nothing here may."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sglang_speechlm import logs
from sglang_speechlm.server.edge.origins import parse_origins

Value = TypeVar("Value")

MEBIBYTE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class SharedOptions:
    """The options that a server and the front of a fleet share.

    Attributes:
        allowed_origins: web pages that may use the server, besides its own and the loopback's.
        max_body_bytes: limit on a request body, and on the total size of a request's fetched clips.
        request_seconds: timeout of a request, from its first byte to the last of its answer.
        drain_seconds: how long running answers have to finish when the server is stopped.
        log_format: format of the log.
    """

    allowed_origins: frozenset[str] = frozenset()
    max_body_bytes: int = 128 * MEBIBYTE
    request_seconds: float = 3600
    drain_seconds: float = 30
    log_format: str = logs.FORMATS[0]


def shared_values(parsed: argparse.Namespace) -> dict[str, Any]:
    """Return the attributes of ``SharedOptions`` that a parser with ``add_shared_options`` found."""
    return {
        "allowed_origins": parsed.allowed_origins,
        "max_body_bytes": round(parsed.max_body_mib * MEBIBYTE),
        "request_seconds": parsed.request_timeout_secs,
        "drain_seconds": parsed.drain_timeout,
        "log_format": parsed.log_format,
    }


def add_shared_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the options of ``SharedOptions``."""
    shared = SharedOptions()
    parser.add_argument(
        "--allowed-origins",
        type=complaining(parse_origins),
        default=shared.allowed_origins,
        help="origins of web pages that may use the server, besides its own page and pages on the loopback, such as "
        "https://example.com, or * for all (default: none); behind a proxy that changes the host name, list the "
        "server's public origin here",
        metavar="ORIGIN,...",
    )
    parser.add_argument(
        "--max-body-mib",
        type=positive,
        default=shared.max_body_bytes // MEBIBYTE,
        help="maximum size of a request body in MiB (default: %(default)s)",
        metavar="N",
    )
    parser.add_argument(
        "--request-timeout-secs",
        type=positive,
        default=shared.request_seconds,
        help="request timeout in seconds (default: %(default)s)",
        metavar="SECONDS",
    )
    parser.add_argument(
        "--drain-timeout",
        type=_zero_or_positive,
        default=shared.drain_seconds,
        help="seconds that running answers have to finish when the server is stopped (default: %(default)s)",
        metavar="SECONDS",
    )
    parser.add_argument(
        "--log-format",
        choices=logs.FORMATS,
        default=shared.log_format,
        help="log format, including one line per request (default: %(default)s)",
    )


def key_complaints(options: Any) -> list[str]:
    """Return complaints about the keys among these options, without showing the keys.

    An empty key, as from an unset variable, would leave the server open to everybody.
    """
    return [
        f"--{name.replace('_', '-')}: must be one or more printable ASCII characters, with no space at either end"
        for name in ("api_key", "admin_api_key")
        if (key := getattr(options, name)) is not None
        and not (key and key.isascii() and key.isprintable() and key == key.strip())
    ]


TLS = ("ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "ssl_keyfile_password")
"""Uvicorn's options for encryption."""


def tls_complaints(options: Any) -> list[str]:
    """Return complaints about the options for encryption.

    Empty files, as from unset variables, would mean a server without encryption.
    """
    files = [name for name in TLS if name != "ssl_keyfile_password"]
    return [f"--{name.replace('_', '-')}: must not be empty" for name in files if getattr(options, name, None) == ""]


def address_complaints(host: str, port: int) -> list[str]:
    """Return complaints about the address to listen on.

    An empty host, as from an unset variable, would mean all interfaces, and port 0 a port that clients do not know.
    """
    complaints = []
    if not host.strip():
        complaints.append("--host: must not be empty; 127.0.0.1 is this machine alone, 0.0.0.0 all interfaces")
    if not 1 <= port <= 65535:
        complaints.append(f"--port: must be from 1 to 65535; got {port}")
    return complaints


def complaining(read: Callable[[str], Value]) -> Callable[[str], Value]:
    """Make argparse show the reason of an error."""

    def reading(text: str) -> Value:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return reading


@complaining
def named(text: str) -> str:
    """Parse a name or a path; refuse an empty one, as from an unset variable: it would mean the current directory."""
    if not text.strip():
        raise ValueError(f"must not be empty; got {text!r}")
    return text


def named_path(text: str) -> Path:
    """Parse a path; refuse an empty one."""
    return Path(named(text))


@complaining
def count(text: str) -> int:
    """Parse a whole number of at least 1."""
    return _whole(text, 1)


@complaining
def count_or_zero(text: str) -> int:
    """Parse a whole number of at least 0."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise ValueError(f"must be a whole number of at least {least}; got {text}")
    return int(text)


@complaining
def positive(text: str) -> float:
    """Parse a number above 0."""
    value = float(text)
    if not 0 < value < 1e9:
        raise ValueError(f"must be above 0; got {text}")
    return value


@complaining
def _zero_or_positive(text: str) -> float:
    return 0.0 if text == "0" else positive(text)
