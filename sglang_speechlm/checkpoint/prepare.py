"""Prepare the directory to serve: download, convert once, and reuse.

Conversions are kept in a cache, under names that depend on everything that affects their results.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sglang_speechlm.checkpoint.convert import Conversion, ConversionSettings, convert, plan_conversion
from sglang_speechlm.checkpoint.convert.plan import OtherConversion
from sglang_speechlm.checkpoint.convert.train_config import read_train_config
from sglang_speechlm.checkpoint.disk import Need, refuse_full_disk
from sglang_speechlm.checkpoint.source import Source, find_source
from sglang_speechlm.checkpoint.source.hub import choose_checkpoint, choose_tokenizer, fetch, is_tag
from sglang_speechlm.config.files import CheckpointError, naming

CONVERTER_VERSION = 1
"""Increment it when conversions of the same source change, so that cached ones are redone."""

_GIGABYTE = 1e9

Log = Callable[[str], None]
"""Logs a sentence."""


@dataclass(frozen=True)
class Wanted:
    """The user's choice of a checkpoint.

    Attributes:
        model: a path or a hub tag.
        revision: revision of the hub tag.
        tokenizer: the Qwen3 tokenizer, a directory or a hub tag; None means the training config's.
        train_config: the training YAML; None means the one near the weights.
        convert_dir: where conversions are kept; None means ``sglang-speechlm`` in the user's cache.
        settings: settings of a conversion.
    """

    model: str
    revision: str | None = None
    tokenizer: str | None = None
    train_config: Path | None = None
    convert_dir: Path | None = None
    settings: ConversionSettings = field(default_factory=ConversionSettings)

    @property
    def cache(self) -> Path:
        """The directory of conversions.

        Raises:
            CheckpointError: if the user has no home directory and named no other.
        """
        if self.convert_dir is not None:
            return self.convert_dir
        if caches := os.environ.get("XDG_CACHE_HOME"):
            return Path(caches) / "sglang-speechlm"
        try:
            return Path.home() / ".cache" / "sglang-speechlm"
        except RuntimeError as error:
            raise CheckpointError(
                "conversions need a directory: HOME is not set and this user has no home; use --convert-dir DIR"
            ) from error


def locate(wanted: Wanted, log: Log) -> Source:
    """Return the source at a path, or at a hub tag after downloading its files.

    Raises:
        CheckpointError: if there is no checkpoint.
    """
    if is_tag(wanted.model):
        folder = fetch(wanted.model, wanted.revision, choose_checkpoint, log, wanted.cache)
    else:
        folder = Path(wanted.model)
    return find_source(folder, wanted.train_config)


def served_directory(wanted: Wanted, log: Log) -> Path:
    """Return the directory to serve. Convert if necessary, or wait for another process's conversion.

    Raises:
        CheckpointError: if a file cannot be used, or the disk is too full.
        OSError: if the cache cannot be written.
    """
    source = locate(wanted, log)
    if source.kind == "served":
        return source.path
    directory = cached_at(wanted, source)
    if not _is_complete(directory):
        conversion = plan_conversion(source, tokenizer_directory(wanted, source, log), wanted.settings)
        refuse_full_disk(conversion_need(conversion, directory))
        with _locked(directory.with_name(directory.name + ".lock"), log):
            if not _is_complete(directory):
                _convert(conversion, directory, log)
                return directory
    for note in source.notes:
        log(note)
    log(f"{source.path} is served from {directory}")
    return directory


def cached_at(wanted: Wanted, source: Source) -> Path:
    """Return the directory for the conversion of a source."""
    texts = [file for file in (source.train_config, source.preset, *source.inference) if file is not None]
    with naming(source.path):
        identity = {
            "converter": CONVERTER_VERSION,
            "weights": [_identity(file) for file in source.files],
            "texts": [hashlib.sha256(file.read_bytes()).hexdigest() for file in texts],
            "tokenizer": _tokenizer_identity(tokenizer_name(wanted, source)),
            "settings": {name: str(value) for name, value in asdict(wanted.settings).items()},
        }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    name = wanted.model if is_tag(wanted.model) else str(source.path.absolute())
    return wanted.cache / f"{re.sub(r'[^A-Za-z0-9]+', '-', name)[-60:].strip('-')}-{digest}"


def tokenizer_name(wanted: Wanted, source: Source) -> str | None:
    """Return the tokenizer's name: from the user, else from the training config.

    Raises:
        CheckpointError: if the training config belongs to another kind of model.
    """
    return wanted.tokenizer or read_train_config(source.train_config).tokenizer_name


def tokenizer_directory(wanted: Wanted, source: Source, log: Log) -> Path:
    """Return the Qwen3 tokenizer's directory, after downloading it if its name is a hub tag.

    Raises:
        CheckpointError: if there is no name, or no such tokenizer.
    """
    name = tokenizer_name(wanted, source)
    if name is None:
        raise CheckpointError(
            "no tokenizer given, and no training config names one: use --tokenizer-path DIR (with Qwen3's "
            "tokenizer.json) or --tokenizer-path Qwen/Qwen3-8B-Base"
        )
    return _named_tokenizer(name, log)


def served_tokenizer_directory(wanted: Wanted, directory: Path, log: Log) -> Path:
    """Return the directory of the tokenizer to serve with a checkpoint's directory.

    It is the tokenizer that the user names, else the checkpoint's own. A conversion already has the files of a
    tokenizer that was named by a hub tag.

    Raises:
        CheckpointError: if there is no such tokenizer.
    """
    name = wanted.tokenizer
    if name is None or (is_tag(name) and directory.absolute().parent == wanted.cache.absolute()):
        return directory
    return _named_tokenizer(name, log)


def _named_tokenizer(name: str, log: Log) -> Path:
    if is_tag(name):
        return fetch(name, None, choose_tokenizer, log)
    if not (Path(name) / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{Path(name) / 'tokenizer.json'}: no such file; --tokenizer-path must name its directory"
        )
    return Path(name)


def conversion_need(conversion: Conversion, directory: Path) -> Need:
    """Return the space for the rest of a conversion to ``directory``, in bytes."""
    written = sum(file.stat().st_size for file in directory.glob("*.safetensors")) if directory.is_dir() else 0
    return Need(directory, conversion.total_bytes - written, "to convert")


def _is_complete(directory: Path) -> bool:
    return (directory / "config.json").is_file()


def _convert(conversion: Conversion, directory: Path, log: Log) -> None:
    for note in conversion.notes:
        log(note)
    log(f"converting {conversion.source.path} to {directory}, {conversion.total_bytes / _GIGABYTE:.2f} GB")
    try:
        convert(conversion, directory)
    except OtherConversion:
        # Something that it depends on has changed since. Safe to remove: the cache is this package's own.
        shutil.rmtree(directory)
        convert(conversion, directory)
    _return_memory()


def _return_memory() -> None:
    """Return freed memory to the system: this process may live on as the server's launcher."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only; other C libraries return memory on their own
    if trim is not None:
        trim(0)


@contextmanager
def _locked(path: Path, log: Log) -> Iterator[None]:
    """Hold a lock that the system releases with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log(f"another process is converting this checkpoint ({path}); waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _identity(file: Path) -> list[Any]:
    status = file.stat()
    return [str(file.resolve()), status.st_size, status.st_mtime_ns]


def _tokenizer_identity(name: str | None) -> Any:
    """Return what identifies the tokenizer in a cache name; a hub tag does, because its ids do not change."""
    if name is None or not Path(name).is_dir():
        return name
    files = [Path(name) / file for file in ("tokenizer.json", "tokenizer_config.json", "config.json")]
    return [_identity(file) for file in files if file.is_file()]
