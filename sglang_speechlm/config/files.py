"""Read untrusted files: any fault becomes an error message that names the file.

Limits are checked first, so that a small file cannot take minutes or exhaust the memory: the size of the text, its
nesting depth and, for YAML, whose aliases multiply, its expanded size.
"""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

_MEBIBYTE = 1 << 20
_JSON_BYTES = 64 * _MEBIBYTE
_YAML_BYTES = 4 * _MEBIBYTE
_YAML_NODES = 200_000
_YAML_DEPTH = 64
_YAML_SCALAR = 10_000
_SHOWN = 80

_LOADER: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

FAULTS = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, RuntimeError, MemoryError,
    EOFError, AssertionError, SafetensorError, zipfile.BadZipFile, pickle.PickleError, yaml.YAMLError, struct.error,
)  # fmt: skip
"""The exceptions of the parsers for a file that is broken or of another kind."""


class CheckpointError(ValueError):
    """A file of a checkpoint that cannot be used; the message names the file and the fault."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn any error while ``path`` is read into a message that begins with the path.

    Raises:
        CheckpointError: for any fault of the file.
    """
    try:
        yield
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{error.filename or path}: no such file") from error
    except OSError as error:
        raise CheckpointError(f"{error.filename or path}: {error.strerror or error}") from error
    except FAULTS as error:
        raise CheckpointError(f"{path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    match error:
        case RecursionError():
            return "nested too deeply"
        case KeyError():
            return f"lacks the field {error}"
        case _:
            return str(error) or type(error).__name__


def shown(value: Any) -> str:
    """Return a value of a file for a message, shortened to one line."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def read_json(path: Path, *, is_named_once: bool = False) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: the file.
        is_named_once: refuse objects that give a name twice, as a file written by hand may: the parser would keep only
            the last value.

    Raises:
        CheckpointError: if the file cannot be read, is larger than 64 MiB, or contains anything else.
    """
    with naming(path):
        try:
            content = json.loads(_text(path, _JSON_BYTES), object_pairs_hook=_named_once if is_named_once else None)
        except json.JSONDecodeError as error:
            raise CheckpointError(f"{path}: not JSON: {error}") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{path}: contains {shown(content)}; expected a JSON object")
        return content


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        CheckpointError: if the file cannot be read, is larger than 4 MiB, contains anything else, or expands to more
            than 200,000 nodes with its aliases.
    """
    with naming(path):
        text = _text(path, _YAML_BYTES)
        try:
            _bound_yaml(text)
            content = yaml.load(text, Loader=_LOADER)
        except yaml.YAMLError as error:
            raise CheckpointError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{path}: contains {shown(content)}; expected a YAML mapping")
        return content


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    named = dict(pairs)
    if len(named) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{twice!r} must be given only once in an object")
    return named


def safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a safetensors file's tensors by name, from its header, whose offsets must fit the file.

    Raises:
        CheckpointError: if the file is not a safetensors file, or is truncated.
    """
    with naming(path), safe_open(path, framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)


def _text(path: Path, limit: int) -> str:
    # Read a bounded part instead of asking for the size: a link to a device has no size and no end.
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise CheckpointError(f"{path}: larger than {limit // _MEBIBYTE} MiB, the limit for such a file")
    return content.decode("utf-8-sig")


def _bound_yaml(text: str) -> None:
    """Refuse a text that would expand too far, by its events alone, without building anything.

    Raises:
        ValueError: if a limit is exceeded; the message names it.
    """
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []  # anchor, and the number of nodes at its start
    total = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.AliasEvent):
            # An alias inside its own anchor has no size yet: it would expand endlessly.
            if event.anchor not in sizes:
                raise ValueError(f"the alias *{event.anchor} refers to an undefined or unfinished value")
            total += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            if len(event.value) > _YAML_SCALAR:
                raise ValueError(f"contains a scalar of {len(event.value)} characters; the limit is {_YAML_SCALAR}")
            total += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, total))
            total += 1
            if len(open_nodes) > _YAML_DEPTH:
                raise ValueError(f"nested more than {_YAML_DEPTH} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = total - before
        if total > _YAML_NODES:
            raise ValueError(f"expands to more than {_YAML_NODES} values with its aliases")
