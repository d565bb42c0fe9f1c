"""Reading files that somebody else wrote: whatever is wrong with one becomes a sentence that names it.

Bounds come first, so that no small file can take minutes or the machine's memory: the size of a text, how deeply it is
nested, and for YAML, whose aliases multiply, how much it stands for.
"""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
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
"""What the parsers raise on a file that is broken or of another kind."""


class CheckpointError(ValueError):
    """A file of a checkpoint that cannot be used: the message names the file, and what is wrong with it."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while ``path`` is read into a sentence that begins with it.

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
    """A value of a file for a message, cut to a line's length."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        CheckpointError: if the file cannot be read, is larger than 64 MiB, or holds anything else.
    """
    with naming(path):
        try:
            content = json.loads(_text(path, _JSON_BYTES))
        except json.JSONDecodeError as error:
            raise CheckpointError(f"{path}: not JSON: {error}") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{path}: holds {shown(content)}; expected a JSON object")
        return content


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        CheckpointError: if the file cannot be read, is larger than 4 MiB, holds anything else, or stands for more than
            200,000 nodes once its aliases are written out.
    """
    with naming(path):
        text = _text(path, _YAML_BYTES)
        try:
            _bound_yaml(text)
            content = yaml.load(text, Loader=_LOADER)
        except yaml.YAMLError as error:
            raise CheckpointError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{path}: holds {shown(content)}; expected a YAML mapping")
        return content


def safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor of a safetensors file, from its header, whose offsets must fit the file.

    Raises:
        CheckpointError: if the file is no safetensors file, or is cut short.
    """
    with naming(path), safe_open(path, framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)


def _text(path: Path, limit: int) -> str:
    # Read and not asked for its size: a link to a device has none, and no end.
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise CheckpointError(f"{path}: larger than {limit // _MEBIBYTE} MiB, which no such file is")
    return content.decode("utf-8-sig")


def _bound_yaml(text: str) -> None:
    """Refuse a text that stands for too much, by its events alone: nothing is built.

    Raises:
        ValueError: saying what is too much.
    """
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []  # anchor, and the count of nodes where it began
    total = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.AliasEvent):
            # An alias inside of what it names has no size yet: it would stand for itself, without end.
            if event.anchor not in sizes:
                raise ValueError(f"the alias *{event.anchor} names nothing that ends before it")
            total += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            if len(event.value) > _YAML_SCALAR:
                raise ValueError(f"holds a scalar of {len(event.value)} characters; at most {_YAML_SCALAR}")
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
            raise ValueError(f"stands for more than {_YAML_NODES} values once its aliases are written out")
