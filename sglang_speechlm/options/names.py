"""The names of all options, SGLang's included: a misspelt one is found before anything is imported or converted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("names.txt")
"""One name per line, sorted; "=" after it means a value. ``python tests/support/option_names.py`` writes the file."""

_NUMBER = re.compile(r"-\d+|-\d*\.\d+")


def refuse_unknown_options(arguments: Sequence[str]) -> None:
    """Refuse a command line with an option that neither this package nor SGLang has.

    A word is an option or a value by argparse's rules; values are not checked here.

    Raises:
        ValueError: naming each unknown option, without its value, and similar ones.
    """
    if unknown := list(dict.fromkeys(name for word in arguments if (name := _unknown_name(word)))):
        raise ValueError(f"{'; '.join(map(_complaint, unknown))}; --help and --help-sglang list all options")


def _unknown_name(word: str) -> str | None:
    name = word.partition("=")[0]
    is_option = word.startswith("-") and word not in ("-", "--") and not _NUMBER.fullmatch(word)
    return name if is_option and name not in names() and " " not in name else None


def _complaint(name: str) -> str:
    similar = get_close_matches(name, names(), n=3)
    return f"{name}: unknown option" + (f"; similar: {', '.join(similar)}" if similar else "")


@cache
def names() -> frozenset[str]:
    """Return the names of all options."""
    return frozenset(name.removesuffix("=") for name in _lines())


def switches() -> frozenset[str]:
    """Return the names of the options that take no value."""
    return frozenset(name for name in _lines() if not name.endswith("="))


@cache
def _lines() -> frozenset[str]:
    return frozenset(FILE.read_text(encoding="utf-8").split())
