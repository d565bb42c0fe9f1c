"""Options that a server and the front of a fleet share. The front imports no torch, so nothing here may."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, TypeVar

from sglang_speechlm.server.edge.origins import parse_origins

Value = TypeVar("Value")


def add_allowed_origins(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the option that a server and the front of a fleet share."""
    parser.add_argument(
        "--allowed-origins",
        type=complaining(parse_origins),
        default=frozenset(),
        help="origins of web pages that may use the server, besides its own page and pages on the loopback, such as "
        "https://example.com, or * for all (default: none); behind a proxy that changes the host name, list the "
        "server's public origin here",
        metavar="ORIGIN,...",
    )


def key_complaints(options: Any) -> list[str]:
    """Return what is wrong with the keys among these options, without showing the keys.

    An empty key, as from an unset variable, would leave the server open to everybody.
    """
    return [
        f"--{name.replace('_', '-')}: must be one or more printable ASCII characters, with no space at either end"
        for name in ("api_key", "admin_api_key")
        if (key := getattr(options, name)) is not None
        and not (key and key.isascii() and key.isprintable() and key == key.strip())
    ]


def complaining(read: Callable[[str], Value]) -> Callable[[str], Value]:
    """Make argparse show the reason of an error."""

    def reading(text: str) -> Value:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return reading
