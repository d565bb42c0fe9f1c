"""The source of lines: a JSONL file, or an ESPnet manifest and the dialogues that it names."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from .failure import Refused
from .files import refusing
from .lines import id_of, is_blank

_SHOWN = 3


@dataclass(frozen=True)
class Survey:
    """The result of reading a source once.

    Attributes:
        sha256: of all its bytes.
        lines: number of lines to send, up to the requested count.
        last: number of the last of these; all lines are numbered from 1, including those that are not sent.
    """

    sha256: str
    lines: int
    last: int


@dataclass(frozen=True)
class Source:
    """Lines that are read one at a time, as often as necessary.

    Attributes:
        path: the JSONL file.
        manifest: the manifest that selects lines; None if all are sent.
        samples: ids of the lines that the manifest selects.
    """

    path: Path
    manifest: Path | None = None
    samples: frozenset[str] = frozenset()

    @property
    def files(self) -> tuple[Path, ...]:
        """Return all files that are read."""
        return (self.path,) if self.manifest is None else (self.manifest, self.path)

    def lines(self, count: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield the first ``count`` lines to send, with their numbers; each is read when it is needed.

        Raises:
            Refused: if the file cannot be read.
        """
        with refusing(self.path, "--input"), self.path.open("rb") as file:
            numbered = ((number, raw) for number, raw in enumerate(file, 1) if self._asks(number, raw))
            yield from islice(numbered, count)

    def survey(self, count: int | None = None) -> Survey:
        """Count the lines, in constant memory.

        Raises:
            Refused: if a file cannot be read.
        """
        digest, lines, last = hashlib.sha256(), 0, 0
        if self.manifest is not None:
            with refusing(self.manifest, "--input"):
                digest.update(self.manifest.read_bytes())
        with refusing(self.path, "--input"), self.path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                digest.update(raw)
                if (count is None or lines < count) and self._asks(number, raw):
                    lines, last = lines + 1, number
        return Survey(digest.hexdigest(), lines, last)

    def _asks(self, number: int, raw: bytes) -> bool:
        return not is_blank(raw) and (self.manifest is None or id_of(raw, number) in self.samples)


def open_source(path: Path) -> Source:
    """Open an input; a ``.json`` file with ``data_entry`` and ``samples`` is a manifest.

    Raises:
        Refused: if it cannot be read more than once, or names missing dialogues.
    """
    with refusing(path, "--input"):
        if not stat.S_ISREG(path.stat().st_mode):
            raise Refused(f"--input {path}: must be a file: it is read more than once")
    if path.suffix != ".json":
        return Source(path)
    with refusing(path, "--input"):
        raw = path.read_bytes()
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return Source(path)
    if not isinstance(fields, dict) or not {"data_entry", "samples"} <= fields.keys():
        return Source(path)
    samples = fields["samples"]
    if not isinstance(samples, list):
        raise Refused(f"--input {path}: samples: must be a list of ids; got {samples!r}"[:200])
    source = Source(_dialogues(path, fields["data_entry"]), path, frozenset(map(_id, samples)))
    missing = set(source.samples).difference(id_of(raw, number) for number, raw in source.lines())
    if missing:
        shown = ", ".join(sorted(missing)[:_SHOWN])
        raise Refused(f"--input {path}: samples: {len(missing)} are not in {source.path}: {shown}")
    return source


def _id(sample: Any) -> str:
    return sample if isinstance(sample, str) else orjson.dumps(sample).decode()


def _dialogues(manifest: Path, entries: Any) -> Path:
    """Return a manifest's dialogues: at their path, or else next to it, since the path may be another machine's."""
    try:
        (entry,) = entries
        if entry["reader"] != "dialogue":
            raise ValueError
        named = Path(entry["path"])
    except (ValueError, LookupError, TypeError) as error:
        allowed = 'one entry whose reader is "dialogue"'
        raise Refused(f"--input {manifest}: data_entry: must be {allowed}; got {entries!r}"[:300]) from error
    for path in (manifest.parent / named, manifest.parent / named.name):
        if path.is_file():
            return path
    raise Refused(f"--input {manifest}: data_entry: neither {named} nor {named.name} beside the manifest exists")
