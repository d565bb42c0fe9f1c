"""``X.run.json``: a run's settings, and the proof of which files belong to it."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from .failure import Refused
from .files import check_distinct, digest_of, put, read_lines, size_of

CLIENT = "sglang-speechlm"
_ELSEWHERE = "choose another --output, or move the file away"


class Ledger:
    """The ledger of one run, including its resumptions.

    A file of records belongs to the run if every record begins with the run's id. Any other file belongs to the run if
    its bytes are what the run last wrote: their SHA-256 is recorded here before they take their place.

    Attributes:
        path: the ledger's file.
        run: id of the run.
        settings: what its answers depend on; None if it never began.
        starts: when it was started and resumed, in seconds since the epoch.
    """

    def __init__(self, path: Path) -> None:
        """Read it, if it exists.

        Raises:
            Refused: if the file is not a ledger.
        """
        self.path = path
        self.run = secrets.token_hex(6)
        self.settings: dict[str, Any] | None = None
        self.starts: list[float] = []
        self._files: dict[str, list[str]] = {}
        self._lock = threading.Lock()
        if size_of(path):
            self._read()

    def save(self) -> None:
        """Write it.

        Raises:
            Refused: if it cannot be written, or something else has taken its place.
        """
        fields = {"client": CLIENT, "run": self.run, "settings": self.settings, "starts": self.starts}
        data = orjson.dumps({**fields, "files": self._files}, option=orjson.OPT_INDENT_2)
        put(self.path, [data], self._check_itself)

    def owns(self, path: Path) -> bool:
        """Whether a file has what the run last wrote to it, or is empty."""
        return not size_of(path) or digest_of(path) in self._digests()

    def prefix(self) -> bytes:
        """Return the beginning of every record."""
        return b'{"run":"%s",' % self.run.encode()

    def record(self, fields: dict[str, Any]) -> bytes:
        """Return a record as bytes for appending."""
        return orjson.dumps({"run": self.run, **fields}) + b"\n"

    def records(self, path: Path, lines: Iterable[bytes]) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
        """Yield the lines of a file of records, with their contents; None for an incomplete last one.

        Raises:
            Refused: at the first line that is not a record of this run.
        """
        prefix = self.prefix()
        for number, raw in enumerate(lines, 1):
            fields = _object(raw) if raw.startswith(prefix) else None
            torn = not raw.endswith(b"\n") and raw[: len(prefix)] == prefix[: len(raw)]
            if fields is None and not (torn and self.settings):
                raise Refused(f"{path}, line {number}: not a record of this run; {_ELSEWHERE}")
            yield raw, fields

    def _digests(self) -> set[str]:
        return {digest for digests in self._files.values() for digest in digests}

    def _read(self) -> None:
        fields = _object(b"".join(read_lines(self.path)))
        try:
            if fields is None or fields["client"] != CLIENT:
                raise ValueError
            self.run, self.settings = str(fields["run"]), dict(fields["settings"])
            self.starts = [float(start) for start in fields["starts"]]
            self._files = {str(name): list(map(str, digests)) for name, digests in fields["files"].items()}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise Refused(f"{self.path}: not written by this client; {_ELSEWHERE}") from error

    def _check_itself(self, _digest: str) -> None:
        if size_of(self.path) and (_object(b"".join(read_lines(self.path))) or {}).get("run") != self.run:
            raise Refused(f"{self.path}: belongs to another run; {_ELSEWHERE}")

    def expect(self, path: Path, digest: str) -> None:
        """Record what a file is going to contain; its current content belongs to the run, too."""
        with self._lock:
            name = os.path.relpath(path, self.path.parent)
            earlier = [digest_of(path)] if size_of(path) else []
            self._files[name] = [*earlier, digest]
            self.save()


def check(path: Path, ledgers: Sequence[Ledger], inputs: Iterable[Path] = ()) -> None:
    """Check that a file may be written, before anything is.

    Args:
        path: the file.
        ledgers: of the runs that write it.
        inputs: files that are read, and therefore must not be written.

    Raises:
        Refused: if the existing file does not belong to a run; the message names it.
    """
    check_distinct(path, inputs)
    if not any(ledger.owns(path) for ledger in ledgers):
        raise Refused(f"{path}: not written by this run, or changed since; {_ELSEWHERE}")


def write(path: Path, chunks: Iterable[bytes], ledgers: Sequence[Ledger]) -> None:
    """Write a complete file of one run, or of several.

    Raises:
        Refused: if the existing file does not belong to a run, or if it cannot be written.
    """

    def before(digest: str) -> None:
        check(path, ledgers)
        for ledger in ledgers:
            ledger.expect(path, digest)

    put(path, chunks, before)


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return fields if isinstance(fields, dict) else None
