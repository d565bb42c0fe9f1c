"""The words of a command line, in a form that every parser reads alike."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from sglang_speechlm.options.names import names, refuse_unknown_options, switches
from sglang_speechlm.options.vllm_names import OVERRIDDEN_BY

_FILE = "--config"


def words_of(arguments: Sequence[str]) -> list[str]:
    """Return a command line without ``--config FILE``, whose options come first, and without ``--name=two words``.

    Several parsers read the command line, and each knows some of the options: argparse takes ``--name=two words`` for a
    value of the option before, unless it knows the name.

    Raises:
        ValueError: for an unknown option, and for a file that cannot be read.
    """
    refuse_unknown_options(arguments)
    words = [part for word in arguments for part in _parts(word)]
    at = [i for i, word in enumerate(words) if word.partition("=")[0] == _FILE]
    if not at:
        return words
    if len(at) > 1:
        raise ValueError(f"{_FILE}: must be given only once")
    start, end = at[0], at[0] + 1
    _, is_one_word, file = words[start].partition("=")
    if not is_one_word:
        file, end = "".join(words[end : end + 1]), end + 1
    of_script = words[: words.index(OVERRIDDEN_BY) + 1] if OVERRIDDEN_BY in words[:start] else []
    return [*of_script, *_of_file(file), *words[len(of_script) : start], *words[end:]]


def _parts(word: str) -> list[str]:
    name, is_one_word, value = word.partition("=")
    return [name, value] if is_one_word and " " in value and name in names() else [word]


def _of_file(file: str) -> list[str]:
    import yaml  # takes a moment to import, and most command lines name no file

    if not file.strip():  # as from an unset variable
        raise ValueError(f"{_FILE}: must not be empty")
    try:
        with open(file, "rb") as stream:
            options = yaml.safe_load(stream) or {}
    except OSError as error:
        raise ValueError(f"{_FILE} {file}: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{_FILE} {file}: {' '.join(str(error).split())}") from error
    if not isinstance(options, dict):
        raise ValueError(f"{_FILE} {file}: must contain a mapping of options to values")
    try:
        words = [word for key, value in options.items() for word in _of_option(str(key), value)]
        refuse_unknown_options(words)
    except ValueError as error:
        raise ValueError(f"{_FILE} {file}: {error}") from error
    return words


def _of_option(key: str, value: Any) -> Iterator[str]:
    name = f"--{key.replace('_', '-')}"
    if name == _FILE:
        raise ValueError(f"{key}: must not name another file")
    if value is None:
        raise ValueError(f"{key}: must have a value")
    if name in switches():
        if not isinstance(value, bool):
            raise ValueError(f"{key}: must be true or false")
        opposite = name.replace("--", "--no-", 1)
        yield from [name] if value else [opposite] if opposite in switches() else []
    elif isinstance(value, list):
        yield from [name, *map(_text, value)] if value else []
    else:
        yield from _parts(f"{name}={_text(value)}")


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | dict) else str(value)
